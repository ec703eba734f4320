"""Whether an executed chapter is still what its source would give.

An executed chapter carries in its metadata, under ``l2m``, a digest of its outputs, and what they
depend on: parameters, recorded results, and code. Code is followed from the names that the cells
use to the definitions that these use in turn: a function may move, or get other comments. `check`
says what has changed.
"""

import ast
import functools
import re
import symtable
from collections import defaultdict
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from l2m import _PUBLIC, __version__
from l2m.chapters.contents import book_dir, chapters, claims_file, notebooks_dir, read_notebook
from l2m.chapters.parameters import declared_in
from l2m.chapters.publish import claims_of, expressions, outputs_digest, published
from l2m.files import ROOT, digest, sha256

SHOWN = 6  # names of what has changed, in a sentence


def stamp(chapter: str, source, given: dict) -> dict:
    """Return what the outputs of a notebook `source` depend on, `given` what is not its default.

    That is `version`, `parameters`, and the digests of `code` and `results`.
    """
    defaults = {name: known.default for name, known in declared_in(source).items()}
    cells = [cell.source for cell in source.cells if cell.cell_type == "code"]
    folder = ROOT / "results"  # l2m.results would bring pandas along
    files = {f.relative_to(folder).with_suffix("").as_posix(): f for f in folder.rglob("*.json")}
    files.pop(f"{chapter}/claims", None)  # its output
    read = [n for n in files if n.startswith(f"{chapter}/") or any(n in cell for cell in cells)]
    about = {"version": __version__, "parameters": defaults | given, "code": code_of(cells)}
    return about | {"results": {name: sha256(files[name]) for name in sorted(read)}}


def check(names: list[str] | None = None) -> list[str]:
    """Return one sentence for each executed chapter that is not what its source would give."""
    changes = {name: "; ".join(_changes(name)) for name in names or chapters()}
    problems = [f"{k}: {said}. Run it again: l2m run {k}" for k, said in changes.items() if said]
    orphans = {path.stem for path in book_dir().glob("*.ipynb")} - set(chapters())
    unsourced = [f"{name}: executed, but it has no source in notebooks/" for name in orphans]
    return problems if names else problems + unsourced


def _changes(chapter: str) -> list[str]:
    path = book_dir() / f"{chapter}.ipynb"
    if not path.exists():
        return ["it has not been executed"]
    source, executed = read_notebook(notebooks_dir() / path.name), read_notebook(path)
    now, then, changes = stamp(chapter, source, {}), executed.metadata.get("l2m", {}), []
    if not now.keys() <= then.keys():
        return ["it was not executed by this `l2m run`"]
    for i, (cell, ran) in enumerate(zip_longest(source.cells, executed.cells)):
        if not (cell and ran) or _published(cell, ran) != (ran.cell_type, ran.source, ran.metadata):
            changes.append(f"its source differs from cell {i} on")
            break
    for i, cell in enumerate(executed.cells):
        asked = expressions(cell.source) if cell.cell_type == "markdown" else []
        changes += [f"cell {i} shows {{eval}}`{name}` and not its value" for name in asked]
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            changes.append(f"cell {i} failed")
    if then.get("outputs") != outputs_digest(executed):
        changes.append("its outputs are not those of its run")
    claims = claims_file(chapter)
    if claims_of(executed) != (claims.read_text(encoding="utf-8") if claims.exists() else ""):
        changes.append("its claims are not those in results/")
    if now["version"] != then["version"]:
        changes.append(f"it ran with l2m {then['version']}, and this is {now['version']}")
    for kind, sentence in {
        "parameters": "it ran with other parameters ({})",
        "code": "the code of {} has changed since it ran",
        "results": "the recorded {} has changed since it ran",
    }.items():
        new, old = now[kind], then[kind]
        names = [f"`{k}`" for k in sorted({*new, *old}) if new.get(k) != old.get(k)]
        if names[SHOWN:]:
            names[SHOWN:] = [f"{len(names) - SHOWN} more"]
        if names:
            changes.append(sentence.format(", ".join(names)))
    return changes


def _published(cell, ran) -> tuple:
    """Return type, text and metadata of a source's cell, published with the values that ran."""
    text, metadata = cell.source, cell.metadata
    if cell.cell_type == "markdown":
        values = [value for _, value in ran.metadata.get("eval", [])]
        asked, text = expressions(text), published(text, values)
        if asked:
            pairs = [[*pair] for pair in zip(asked, values, strict=False)]
            metadata = metadata | {"eval": pairs}
    return cell.cell_type, text, metadata


def code_of(cells: list[str]) -> dict[str, str]:
    """Return the digests of l2m's code that cells use, directly or through other code, by name."""
    python, found, done = [], defaultdict(set), set()
    for cell in cells:
        with suppress(SyntaxError):  # a cell of magics, or one that will fail when it runs
            python += ast.parse(cell).body
    statements, _ = _read("", Path("cells"), ast.unparse(ast.Module(python, [])))
    todo = {use for some in statements.values() for _, _, uses in some for use in uses}
    while todo:
        done.add(dotted := todo.pop())
        for name, code, uses in _statements(dotted):
            found[name].add(code)
            todo |= uses - done
    return {name: digest(*sorted(codes))[:16] for name, codes in sorted(found.items())}


def _statements(dotted: str) -> list[tuple[str, str, set]]:
    """Return the statements of l2m that a dotted name means, and the others of that module.

    A module that is used as an object, or for a name made in some other way, counts whole.
    """
    module, rest = dotted.split("."), []
    while not (file := _file(ROOT.joinpath(*module))):
        rest.insert(0, module.pop())
    statements, elsewhere = _read(".".join(module), file, file.read_text(encoding="utf-8"))
    if module == ["l2m"]:
        elsewhere = elsewhere | {name: f"{home}.{name}" for name, home in _PUBLIC.items()}
    if rest and rest[0] in statements:
        return statements[rest[0]] + statements.get(file.name, [])
    if rest and rest[0] in elsewhere:  # in l2m, or in another package
        meant = ".".join([elsewhere[rest[0]], *rest[1:]])
        return _statements(meant) if meant.startswith("l2m.") else []
    return [statement for some in statements.values() for statement in some]


def _file(path: Path) -> Path | None:
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)


@functools.cache
def _read(module: str, file: Path, text: str) -> tuple[dict[str, list], dict[str, str]]:
    """Return a module's statements by what they define (or its file), and what it imports."""
    tree, nodes, imports = ast.parse(text), defaultdict(list), {}
    for node in ast.walk(tree):  # docstrings are no code
        if isinstance(getattr(node, "body", None), list):
            node.body = [n for n in node.body if not _is_constant(n)] or [ast.Pass()]
    for node in tree.body:
        defined = _defined(node)
        imports |= {} if defined else _imports(node)
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass):
            for name in defined or [file.name]:
                nodes[name].append(node)
    names = imports | {name: f"{module}.{name}" for name in nodes}
    read = {name: [(name, *_used(n, names, file)) for n in some] for name, some in nodes.items()}
    return read, imports


def _is_constant(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _defined(node) -> list[str]:
    """Return the names that a top-level statement defines: none if it does something instead."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name] if node.name != "_" else []  # a registration
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in ast.walk(target)]
    return [p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)]


def _imports(node) -> dict[str, str]:
    """Return what the imports in a statement mean: by name, the dotted one."""
    found = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Import | ast.ImportFrom):
            base = f"{part.module}." if isinstance(part, ast.ImportFrom) else ""
            for alias in part.names:
                name = alias.name if base or alias.asname else alias.name.split(".")[0]
                found[alias.asname or name] = base + name
    return found


def _used(node, names: dict[str, str], file: Path) -> tuple[str, set[str]]:
    """Return the digest of a statement with the JSON it names, and the names of l2m it uses."""
    code, inner = ast.unparse(node), _imports(node)
    read, names = _free(symtable.symtable(code, "", "exec")) | inner.keys(), names | inner
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
    owners = {part.value for part in parts if isinstance(part, ast.Attribute)}
    dotted = [ast.unparse(part).split(".") for part in parts if part not in owners]
    dotted = [some for some in dotted if some[0] in read and all(map(str.isidentifier, some))]
    uses = {".".join([names[first], *rest]) for first, *rest in dotted if first in names}
    ours = {use for use in uses if use.startswith("l2m.")}
    strings = [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
    data = [file.parent / text for text in strings if text.endswith(".json")]
    same = re.sub("[\"']+", "'", code)  # Python 3.12 and later quote f-strings in other ways
    found = digest(same, sorted(uses - ours), [sha256(path) for path in data if path.exists()])
    return found, ours - {"l2m.__version__"}


def _free(table) -> set[str]:
    """Return the names that code reads from its module: neither parameters nor local variables."""
    own = {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return own.union(*map(_free, table.get_children()))
