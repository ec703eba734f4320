"""What makes an executed chapter stale: the code it uses, and nothing else."""

import json
import re

import nbformat
import pytest
from project import PACKAGE, Project

import l2m
from l2m.chapters import contents, staleness

MODULES = {
    "__init__.py": "",
    "room/__init__.py": "from l2m.room.inner import through\n",
    "room/outer.py": '''"""Outer."""
import json
from math import log as ln

import l2m.room.data as data
from l2m.room import helpers
from l2m.room.inner import CONSTANT, Base

RATE = 2 * CONSTANT


def f(x):
    """Doc."""
    unused = 1  # a comment
    return helpers.g(x) + ln(RATE)


def lazily():
    from l2m.room.late import late

    return late()


def read():
    return json.loads(data.PATH.read_text())


def shadowed(helper):
    return helper


def helper():
    return 1


class Derived(Base):
    def method(self):
        return passed_around(helpers)


def passed_around(module):
    return module
''',
    "room/inner.py": (
        "CONSTANT = 1\nOTHER = 2\n\n\nclass Base:\n    kind = OTHER\n\n\n"
        "def through():\n    return 0\n"
    ),
    "room/helpers.py": (
        "def g(x):\n    return h(x)\n\n\ndef h(x):\n    return x\n\n\ndef far():\n    return 9\n"
    ),
    "room/late.py": "def late():\n    return 3\n\n\nif True:\n    SWITCH = 1\n",
    "room/data.py": (
        "from pathlib import Path\n\nPATH = Path(__file__).with_name('table.json')\n"
        "TWO, THREE = 2, 3\n"
    ),
    "room/registers.py": """from functools import singledispatch


@singledispatch
def used(x):
    return x


@used.register
def _(x: int):
    return behind()


def behind():
    return 1
""",
    "room/table.json": "[1]",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one room in a checkout of its own; returns its folder."""
    monkeypatch.setattr(staleness, "ROOT", tmp_path)
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    for name, text in MODULES.items():
        path = tmp_path / "l2m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "l2m"


def names(*cells):
    return set(staleness.code_of(cells))


def changed(path, old, new, *cells):
    """The names whose code differs after the file at `path` was edited."""
    before = staleness.code_of(cells)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    after = staleness.code_of(cells)
    path.write_text(text)
    staleness._read.cache_clear()
    return {name for name in before | after if before.get(name) != after.get(name)}


USES_F = "from l2m.room.outer import f", "y = f(1)"


@pytest.mark.parametrize(
    ("cells", "reached"),
    [
        (USES_F, {"f", "RATE", "CONSTANT", "g", "h"}),
        (["from l2m.room import outer\nouter.f(1)"], {"f", "RATE", "CONSTANT", "g", "h"}),
        (["import l2m.room.helpers as hh\nhh.g(2)"], {"g", "h"}),
        (["import l2m.room.helpers\nprint(l2m.room.helpers.g(2))"], {"g", "h"}),
        (["def mine():\n    from l2m.room import helpers\n    return helpers.h(1)"], {"h"}),
        (["from l2m.room.outer import lazily\nlazily()"], {"lazily", "late", "late.py"}),
        (["from l2m.room.outer import read\nread()"], {"read", "PATH"}),
        (["from l2m.room.outer import shadowed\nshadowed(1)"], {"shadowed"}),
        (
            ["from l2m.room.outer import Derived\nDerived().method()"],
            {"Derived", "Base", "OTHER", "passed_around", "g", "h", "far"},  # helpers, whole
        ),
        (["from l2m.room import through\nthrough()"], {"through"}),
        (["from l2m.room.data import THREE\nTHREE"], {"THREE"}),
        (
            ["from l2m.room.registers import used\nused(1)"],
            {"used", "behind", "registers.py"},
        ),
        (["from l2m.room.late import SWITCH\nSWITCH"], {"late", "late.py"}),
        (["from l2m.room.outer import f"], set()),  # imported, not used
        (["%matplotlib inline", "!ls", "from numpy import log\nlog(1)"], set()),
    ],
)
def test_definitions_are_followed_across_modules(package, cells, reached):
    assert names(*cells) == reached


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("outer", "helpers.g(x) + ln", "helpers.g(x) - ln", {"f"}),
        ("outer", "RATE = 2 * CONSTANT", "RATE = 3 * CONSTANT", {"RATE"}),
        ("inner", "CONSTANT = 1", "CONSTANT = 7", {"CONSTANT"}),
        ("helpers", "    return x", "    return 2 * x", {"h"}),
        ("outer", "from math import log as ln", "from math import log2 as ln", {"f"}),
        ("outer", '"""Doc."""', '"""Other words."""', set()),
        ("outer", '    """Doc."""\n', "", set()),
        ("outer", '"""Outer."""', '"""Other words."""', set()),
        ("outer", "unused = 1  # a comment", "unused = (\n        1\n    )", set()),
        ("inner", "OTHER = 2", "OTHER = 3", set()),
        ("helpers", "return 9", "return 10", set()),
    ],
)
def test_only_a_change_of_what_is_used_counts(package, name, old, new, said):
    assert changed(package / "room" / f"{name}.py", old, new, *USES_F) == said


def test_data_beside_a_module_count(package):
    cells = ["from l2m.room.outer import read\nread()"]
    before = staleness.code_of(cells)
    (package / "room" / "table.json").write_text("[2]")
    staleness._read.cache_clear()
    assert {k for k, v in staleness.code_of(cells).items() if before[k] != v} == {"PATH"}


def test_moving_a_function_changes_nothing(package):
    before = staleness.code_of(USES_F)
    room = package / "room"
    helpers, outer = room / "helpers.py", room / "outer.py"
    moved = "def h(x):\n    return x\n"
    text = helpers.read_text().replace(moved, "")
    helpers.write_text("from l2m.other.place import h\n\n\n" + text)
    (package / "other").mkdir()
    (package / "other" / "__init__.py").touch()
    (package / "other" / "place.py").write_text('"""New."""\n\n\n' + moved)
    text = outer.read_text()
    outer.write_text(text.replace("RATE = 2 * CONSTANT", "from l2m.other.rates import RATE"))
    (package / "other" / "rates.py").write_text(
        "from l2m.room import inner\nfrom l2m.room.inner import CONSTANT\n\nRATE = 2 * CONSTANT\n"
    )
    assert staleness.code_of(USES_F) == before


def test_equal_names_combine(package):
    both = "from l2m.room.helpers import g\nfrom l2m.room import more\ng(1), more.g(1)"
    (package / "room" / "more.py").write_text("def g(x):\n    return x\n")
    one = staleness.code_of([both.replace(", more.g(1)", "")])["g"]
    assert staleness.code_of([both])["g"] != one


def test_public_names_are_found_where_they_are_defined():
    code = staleness.code_of(["from l2m import entropy\nentropy([1, 2], 'plugin')"])
    direct = "from l2m.information.entropy import entropy\nentropy([1, 2], 'plugin')"
    assert code == staleness.code_of([direct]) and "entropy" in code
    assert code == staleness.code_of(["import l2m\nl2m.entropy([1, 2], 'plugin')"])


def test_the_house_imports_in_ways_that_are_followed():
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.match(r"\s*from (\.|l2m\S* import \*)", line), f"{path}: {line}"


@pytest.mark.slow
def test_check_says_what_changed(tmp_path):
    project = Project(tmp_path)
    package = project.root / "l2m"
    inner = package / "information" / "inner.py"
    outer = package / "text" / "outer.py"
    outer.write_text("def f():\n    from l2m.information.inner import x\n\n    return x\n")
    inner.write_text('"""Doc."""\nx = 1\ny = 1\n')
    project.chapter("01_a", "from l2m.text import outer\nouter.f()")
    assert project.l2m("run").returncode == 0
    inner.write_text('"""Other words."""\n\nx = 1  # a comment changes no number\ny = 2\n')
    done = project.l2m("check")
    assert done.returncode == 0, done.stdout
    assert done.stdout == "Every executed chapter is what its source gives.\n"

    inner.write_text("x = 2\n")
    init = package / "__init__.py"
    init.write_text(init.read_text().replace(l2m.__version__, "9.9"))
    record = project.root / "results" / "01_a" / "mi.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    path = project.root / "notebooks" / "01_a.ipynb"
    path.write_text(path.read_text().replace("windows: int = 8", "windows: int = 9"))
    said = project.l2m("check").stdout
    assert said.startswith("01_a: its source differs from cell 1 on; ")
    assert "other parameters (`windows`)" in said
    assert f"ran with l2m {l2m.__version__}, and this is 9.9" in said
    assert "the code of `x` has changed" in said
    assert "the recorded `01_a/mi` has changed" in said
    assert said.endswith(". Run it again: l2m run 01_a\n") and said.count("\n") == 1


def test_an_older_stamp_is_said(tmp_path, monkeypatch):
    project = Project(tmp_path)
    project.chapter("01_a")
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    (tmp_path / "book").mkdir()
    notebook = project.executed("notebooks/01_a.ipynb")
    notebook.metadata["l2m"] = {"version": "0.1.0", "parameters": {}, "modules": {}, "results": {}}
    nbformat.write(notebook, tmp_path / "book" / "01_a.ipynb")
    [said] = staleness.check()
    assert said.startswith("01_a: it was not executed by this `l2m run`.")
    assert json.loads((tmp_path / "book" / "01_a.ipynb").read_text())["cells"]


def test_many_changes_are_counted(tmp_path, monkeypatch):
    project = Project(tmp_path)
    project.chapter("01_a", "from l2m.chapters import figures\nfigures.use_style()")
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    (tmp_path / "book").mkdir()
    notebook = project.executed("notebooks/01_a.ipynb")
    notebook.metadata["l2m"] = staleness.stamp("01_a", notebook, {})
    notebook.metadata["l2m"]["code"] = {f"f{i}": "" for i in range(9)}
    nbformat.write(notebook, tmp_path / "book" / "01_a.ipynb")
    [said] = staleness.check()
    assert re.search(r"the code of `\w+`, .*, \d+ more has changed since it ran", said)
