"""The parameters of a chapter: declared once, in its cell tagged ``parameters``, and checked.

A parameters cell holds annotated literals, ``windows: int = 8``; the next one says what they take::

    check_parameters(globals(), profile=("smoke", "book", "paper"), windows=(1, 1000))

where strings are choices and a pair of numbers an inclusive range. The runner reads the same two
cells without running them, so a wrong value is refused before anything is computed.
"""

import ast
import re
from dataclasses import dataclass
from difflib import get_close_matches

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}
_WORDS = {"str": "text", "int": "an integer", "float": "a number", "bool": "True or False"}
_INJECTED = "# Parameters"  # how papermill begins the cell that it injects


class ParameterError(ValueError):
    """A parameter that the chapter does not know, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its name, annotation, default, and what it takes (or None)."""

    name: str
    annotation: str
    default: object = None
    takes: tuple | None = None

    def describe(self) -> str:
        """Say in words what the parameter takes."""
        kinds = [kind.strip() for kind in self.annotation.split("|")]
        return " or ".join(self._describe_kind(kind) for kind in kinds)

    def _describe_kind(self, kind: str) -> str:
        item = _list_item(kind)
        if item:
            return f"a list, each {self._describe_kind(item)}"
        if kind == "None" or self.takes is None:
            return _WORDS.get(kind, kind)
        if kind == "str":
            return "one of " + ", ".join(map(repr, self.takes))
        return f"{_WORDS[kind]} from {self.takes[0]} to {self.takes[1]}"

    def check(self, value) -> None:
        """Raise ParameterError unless `value` has the declared type and lies in the range."""
        if not any(self._fits(value, kind.strip()) for kind in self.annotation.split("|")):
            given = f"the string {value!r}" if isinstance(value, str) else repr(value)
            raise ParameterError(f"Parameter {self.name!r} takes {self.describe()}, not {given}.")

    def _fits(self, value, kind: str) -> bool:
        item = _list_item(kind)
        if item:
            return isinstance(value, list | tuple) and all(self._fits(v, item) for v in value)
        if kind not in _TYPES:
            raise ParameterError(f"Parameter {self.name!r} has an unknown annotation {kind!r}.")
        if isinstance(value, bool) != (kind == "bool"):  # True is an int, and never meant as one
            return False
        types = (int, float) if kind == "float" else _TYPES[kind]
        if not isinstance(value, types):
            return False
        if self.takes is None or value is None:
            return True
        if isinstance(value, str):
            return value in self.takes
        return self.takes[0] <= value <= self.takes[1]

    def parse(self, text: str):
        """Read a value given as text on a command line, by the annotation, and check it."""
        text_taken = any(kind.strip() == "str" for kind in self.annotation.split("|"))
        if text_taken and text != "None":
            value = text
        else:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text
        self.check(value)
        return value


def _list_item(kind: str) -> str | None:
    match = re.fullmatch(r"(?:list|tuple)\[(\w+)(?:, *\.\.\.)?\]", kind)
    return match and match[1]


def declared(source: str) -> dict[str, Parameter]:
    """Return the parameters that a parameters cell declares, by name.

    Raises
    ------
    ParameterError
        When a line is not an annotated literal such as ``windows: int = 8``.
    """
    found = {}
    for node in ast.parse(source).body:
        try:
            name, annotation = node.target.id, ast.unparse(node.annotation)
            found[name] = Parameter(name, annotation, ast.literal_eval(node.value))
        except (AttributeError, ValueError, TypeError):
            line = ast.unparse(node)
            raise ParameterError(
                f"A parameters cell holds only lines such as `windows: int = 8`, not `{line}`."
            ) from None
    return found


def declared_in(notebook) -> dict[str, Parameter]:
    """Return the parameters of an nbformat notebook, with what its `check_parameters` call says.

    Raises
    ------
    ParameterError
        When the notebook has no cell tagged ``parameters``.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if not tagged:
        raise ParameterError("The notebook has no cell tagged 'parameters'.")
    found = declared(tagged[0].source)
    takes = {}
    for cell in code:
        if "check_parameters(" in cell.source:
            takes.update(_takes_of_call(cell.source))
    return _with_takes(found, takes)


def _takes_of_call(source: str) -> dict[str, tuple]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("check_parameters"):
            return {word.arg: _constant(word.value) for word in node.keywords}
    return {}


def _constant(node):
    """Evaluate an expression of constants only, such as ``(0, 2**32 - 1)``."""
    fixed = (ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Load)
    if not all(isinstance(part, fixed) for part in ast.walk(node)):
        raise ParameterError(f"check_parameters takes literals only, not `{ast.unparse(node)}`.")
    return eval(compile(ast.Expression(node), "check_parameters", "eval"))


def _with_takes(found: dict[str, Parameter], takes: dict) -> dict[str, Parameter]:
    for name in takes:
        if name not in found:
            raise ParameterError(
                f"check_parameters names {name!r}, which the parameters cell does not declare."
            )
    return {
        name: Parameter(name, known.annotation, known.default, takes.get(name))
        for name, known in found.items()
    }


def find(known: dict[str, Parameter], name: str) -> Parameter:
    """Return the declared parameter `name`, or raise ParameterError listing those there are."""
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ParameterError(
            f"Unknown parameter {name!r}.{hint} The chapter takes: {', '.join(known)}."
        )
    return known[name]


def check_parameters(namespace: dict, **takes: tuple) -> None:
    """Check a running notebook's parameters: names, types, choices and ranges.

    Parameters
    ----------
    namespace : dict
        The notebook's ``globals()``. Its input history tells which names were declared and which
        ones papermill injected, so that a misspelled name is an error rather than ignored.
    **takes : tuple
        By parameter: a tuple of strings (choices) or a pair of numbers (an inclusive range).

    Raises
    ------
    ParameterError
        Naming the parameter and what it takes.
    """
    history = [cell for cell in namespace.get("In", []) if cell.strip()]
    injected = [cell for cell in history if cell.lstrip().startswith(_INJECTED)]
    known = {}
    for cell in history:
        if cell not in injected and _declares(cell, takes):
            known = declared(cell)
    if not known:  # outside IPython: the annotations are all there is
        kinds = namespace.get("__annotations__", {})
        known = {name: Parameter(name, getattr(k, "__name__", str(k))) for name, k in kinds.items()}
    known = _with_takes(known, takes)
    given = {name: namespace[name] for name in known if name in namespace}
    for cell in injected[-1:]:
        for node in ast.parse(cell).body:
            for target in getattr(node, "targets", []):
                given[target.id] = namespace[target.id]
    for name, value in given.items():
        find(known, name).check(value)


def _declares(cell: str, names) -> bool:
    """Whether `cell` is the parameters cell: annotated assignments, of these names among others."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:  # a cell of magics
        return False
    found = {node.target.id for node in body if isinstance(node, ast.AnnAssign)}
    return bool(found) and len(found) == len(body) and found >= set(names)
