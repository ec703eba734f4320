"""The parameters of a chapter: declared once, in its cell tagged ``parameters``, and checked.

A parameters cell holds annotated literals, ``windows: int = 8``; the next one says what they take::

    check_parameters(globals(), profile=("smoke", "book", "paper"), windows=(1, 1000))

where strings are choices and a pair of numbers an inclusive range. `l2m run` reads both cells
without running them, so a wrong value is refused before anything is computed.
"""

import ast
import functools
import operator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from l2m.files import meant

_OPERATIONS = {ast.Pow: operator.pow, ast.Sub: operator.sub, ast.Mult: operator.mul}


class ParameterError(ValueError):
    """A parameter that the chapter does not know, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: its default, its annotation, and its choices or range (or None)."""

    name: str
    default: object
    annotation: str
    takes: tuple | None = None

    def check(self, value) -> None:
        """Raise ParameterError unless `value`, as it is, has the type and is in what is taken."""
        kind, words = _kind(self.annotation, self.takes)
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError:
            given = f"the string {value!r}" if isinstance(value, str) else repr(value)
            raise ParameterError(f"Parameter {self.name!r} takes {words}, not {given}.") from None

    def parse(self, text: str):
        """Return the value of a text from a command line, read by the annotation and checked."""
        value = text
        if "str" not in self.annotation.split(" | ") or text == "None":
            with suppress(ValueError, SyntaxError):
                value = ast.literal_eval(text)
        self.check(value)
        return value


def _kind(annotation: str, takes: tuple | None):
    """Return the type that an annotation means, for pydantic, and its words; KeyError if none."""
    text, limits, span = (str, "text"), Field(), ""
    if takes and isinstance(takes[0], str):
        text = Literal[takes], "one of " + ", ".join(map(repr, takes))
    elif takes:
        limits, span = Field(ge=takes[0], le=takes[1]), f" from {takes[0]} to {takes[1]}"
    kinds = {"str": text, "bool": (bool, "True or False"), "None": (None, "None")}
    kinds["int"] = Annotated[int, limits], f"an integer{span}"
    kinds["float"] = Annotated[float, limits], f"a number{span}"
    kinds |= {f"list[{k}]": (list[kind], f"a list, each {w}") for k, (kind, w) in kinds.items()}
    types, words = zip(*(kinds[part] for part in annotation.split(" | ")), strict=True)
    return functools.reduce(operator.or_, types), " or ".join(words)


def declared(source: str, takes: dict[str, tuple] | None = None) -> dict[str, Parameter]:
    """Return by name what a parameters cell declares; ParameterError for any other line in it."""
    found, takes = {}, takes or {}
    for node in ast.parse(source).body:
        try:
            name, annotation = node.target.id, ast.unparse(node.annotation)
            _kind(annotation, takes.get(name))
            found[name] = Parameter(name, _literal(node.value), annotation, takes.get(name))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ParameterError(
                "A parameters cell holds only lines such as `windows: int = 8`, of str, int, "
                f"float, bool, None or lists of these, not `{ast.unparse(node)}`."
            ) from None
    for name in takes.keys() - found.keys():
        raise ParameterError(f"check_parameters names {name!r}, which no parameters cell declares.")
    return found


def declared_in(notebook) -> dict[str, Parameter]:
    """Return a notebook's parameters, with what its `check_parameters` says; or ParameterError."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if not tagged:
        raise ParameterError("The notebook has no cell tagged 'parameters'.")
    takes = {}
    calls = "\n".join(cell.source for cell in code if "check_parameters(" in cell.source)
    for node in ast.walk(ast.parse(calls)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("check_parameters"):
            takes |= {word.arg: _literal(word.value) for word in node.keywords}
    return declared(tagged[0], takes)


def _literal(node):
    """Return the value of an expression of constants such as ``(0, 2**32 - 1)``."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_literal(node.left), _literal(node.right))
    if isinstance(node, ast.Tuple):
        return tuple(map(_literal, node.elts))
    try:
        return ast.literal_eval(node)
    except ValueError:
        said = ast.unparse(node)
        raise ParameterError(f"check_parameters takes literals only, not `{said}`.") from None


def find(known: dict[str, Parameter], name: str) -> Parameter:
    """Return the declared parameter `name`, or raise ParameterError listing those there are."""
    if name in known:
        return known[name]
    took = f"The chapter takes: {', '.join(known)}."
    raise ParameterError(f"Unknown parameter {name!r}.{meant(name, known)} {took}")


def check_parameters(namespace: dict, **takes: tuple) -> None:
    """Check a running notebook's parameters; ParameterError, by name, for the first that is wrong.

    `namespace` is the notebook's ``globals()``, whose input history tells what was declared and
    what papermill injected, so that no misspelled name is ignored.
    """
    known, injected = {}, ""
    for cell in namespace.get("In", []):
        if cell.lstrip().startswith("# Parameters"):  # so begins the cell that papermill injects
            injected = cell
        else:
            with suppress(ParameterError, SyntaxError):  # it is not the parameters cell
                known = declared(cell, takes) or known
    if not known:  # outside IPython the annotations are all there is
        kinds = namespace.get("__annotations__", {}).items()
        lines = [f"{k}: {v.__name__ if type(v) is type else v} = None" for k, v in kinds]
        known = declared("\n".join(lines), takes)
    names = [target.id for node in ast.parse(injected).body for target in node.targets]
    for name in (*names, *(name for name in known if name in namespace)):
        find(known, name).check(namespace[name])
