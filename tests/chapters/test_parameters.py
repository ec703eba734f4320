"""Parameters: what is declared is what is taken, and every refusal names the parameter."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from l2m.chapters.parameters import ParameterError, check_parameters, declared, declared_in, find

CELL = """
profile: str = "book"  # smoke, book or paper
windows: int = 8
weight: float = 0.5
corrected: bool = True
model: str | None = None
splits: list[int] = [2, 4]
"""
TAKES = {"profile": ("smoke", "book", "paper"), "windows": (1, 100), "weight": (0, 1)}
CALL = (
    "from l2m.chapters.parameters import check_parameters\n"
    'check_parameters(globals(), profile=("smoke", "book", "paper"), '
    "windows=(1, 10**2), weight=(0, 1))"
)


def notebook(parameters=CELL, call=CALL):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(call)]
    return nbformat.from_dict(new_notebook(cells=cells))


def running(changes=None, injected=""):
    """The namespace of a kernel that ran the parameters cell, and papermill's cell after it."""
    namespace = {"In": ["", CELL]}
    exec(CELL, namespace)
    if injected:
        namespace["In"].append(f"# Parameters\n{injected}\n")
        exec(injected, namespace)
    return namespace | (changes or {})


def test_declared_in_reads_types_defaults_and_what_is_taken():
    known = declared_in(notebook())
    assert list(known) == ["profile", "windows", "weight", "corrected", "model", "splits"]
    assert known["windows"].default == 8
    assert known["windows"].takes == (1, 100)
    assert known["model"].annotation == "str | None"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("windows", "3", 3),
        ("weight", "1", 1),
        ("weight", "1e-3", 1e-3),
        ("corrected", "False", False),
        ("model", "None", None),
        ("model", "7b", "7b"),
        ("profile", "smoke", "smoke"),
        ("splits", "[2, 8]", [2, 8]),
    ],
)
def test_text_is_read_by_the_annotation(name, text, value):
    read = declared_in(notebook())[name].parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("corrected", "false", "'corrected' takes True or False, not the string 'false'"),
        ("corrected", "1", "'corrected' takes True or False, not 1"),
        ("windows", "0", "'windows' takes an integer from 1 to 100, not 0"),
        ("windows", "101", "from 1 to 100"),
        ("windows", "2.0", "takes an integer"),
        ("windows", "True", "takes an integer"),
        ("windows", "many", "not the string 'many'"),
        ("weight", "nan", "takes a number from 0 to 1"),
        ("profile", "tiny", "'profile' takes one of 'smoke', 'book', 'paper'"),
        ("windows", "nan", "not the string 'nan'"),
        ("splits", "[2, 'a']", "'splits' takes a list, each an integer, not [2, 'a']"),
        ("splits", "2", "'splits' takes a list, each an integer, not 2"),
        ("weight", "2", "'weight' takes a number from 0 to 1, not 2"),
        ("weight", "False", "'weight' takes a number from 0 to 1, not False"),
    ],
)
def test_what_is_not_taken_is_refused(name, text, says):
    with pytest.raises(ParameterError, match=says.replace("[", r"\[")):
        declared_in(notebook())[name].parse(text)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ParameterError, match="'window'. Did you mean 'windows'"):
        find(declared_in(notebook()), "window")


LINES = ["x = 1", "x: int", "x: int = y", "print(1)", "x.y: int = 1", "x: set = 1"]


@pytest.mark.parametrize("line", LINES)
def test_a_parameters_cell_holds_annotated_literals_only(line):
    with pytest.raises(ParameterError, match="A parameters cell holds only lines such as"):
        declared(line)


def test_a_notebook_without_parameters_is_refused():
    bare = new_notebook(cells=[new_code_cell("1")])
    with pytest.raises(ParameterError, match="no cell tagged 'parameters'"):
        declared_in(bare)


def test_ranges_are_literals_of_declared_names():
    with pytest.raises(ParameterError, match="names 'missing'"):
        declared_in(notebook(call="check_parameters(globals(), missing=(1, 2))"))
    with pytest.raises(ParameterError, match="literals only, not `open"):
        declared_in(notebook(call="check_parameters(globals(), windows=open('x'))"))


def test_ranges_may_be_written_as_products():
    call = "check_parameters(globals(), windows=(-1, 2**32 - 1), weight=(0, 2 * 3))"
    known = declared_in(notebook(call=call))
    assert known["windows"].takes == (-1, 2**32 - 1) and known["weight"].takes == (0, 6)


def test_not_a_number_is_in_no_range():
    with pytest.raises(ParameterError, match="'weight' takes a number from 0 to 1, not nan"):
        declared_in(notebook())["weight"].check(float("nan"))


def test_ranges_hold_for_every_item_of_a_list():
    known = declared("splits: list[int] | None = None", {"splits": (1, 9)})["splits"]
    known.check([1, 9])
    known.check(None)
    with pytest.raises(ParameterError, match="each an integer from 1 to 9 or None, not"):
        known.check([1, 10])


def test_a_running_notebook_passes():
    check_parameters(running(), **TAKES)
    check_parameters(running(injected="windows = 3\nprofile = 'smoke'"), **TAKES)


@pytest.mark.parametrize(
    ("injected", "says"),
    [
        ("window = 3", "Unknown parameter 'window'"),
        ("corrected = 'false'", "not the string 'false'"),
        ("windows = 0", "from 1 to 100"),
    ],
)
def test_what_papermill_injects_is_checked(injected, says):
    with pytest.raises(ParameterError, match=says):
        check_parameters(running(injected=injected), **TAKES)


def test_a_value_edited_in_the_notebook_is_checked():
    with pytest.raises(ParameterError, match="'weight' takes a number from 0 to 1, not 2"):
        check_parameters(running({"weight": 2}), **TAKES)


def test_outside_ipython_the_annotations_are_used():
    namespace = {"__annotations__": {"windows": int}, "windows": "3"}
    with pytest.raises(ParameterError, match="takes an integer from 1 to 9"):
        check_parameters(namespace, windows=(1, 9))
