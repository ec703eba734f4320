"""The chapters: where they are, what an executed one was made of, and whether it still is.

An executed chapter carries in its metadata, under ``l2m``, what it depended on: its parameters,
the recorded results it reads, and the code of the modules it imports, directly or through others.
`check` compares these with the checkout and says by name what has changed since.
"""

import ast
import hashlib
import io
import tokenize
from pathlib import Path

from l2m import __version__
from l2m.chapters.parameters import declared_in
from l2m.results import ROOT, results_dir, sha256

MAX_BYTES = 2_000_000  # of an executed notebook


class ChapterError(ValueError):
    """A chapter that does not exist, or that cannot be published as it is."""


def notebooks_dir() -> Path:
    """Return the folder of the chapters' sources."""
    return ROOT / "notebooks"


def book_dir() -> Path:
    """Return the folder of the executed chapters and the other pages."""
    return ROOT / "book"


def chapters() -> list[str]:
    """Return the names of all chapters, in order."""
    return sorted(path.stem for path in notebooks_dir().glob("*.ipynb"))


def find_chapter(text: str) -> str:
    """Return the chapter called by its name, its number (``2`` or ``02``) or its file.

    Raises
    ------
    ChapterError
        Listing the chapters there are.
    """
    stem = Path(text).name.removesuffix(".ipynb")
    for name in chapters():
        number = name.split("_")[0]
        if stem == name or (stem.isdigit() and number.isdigit() and int(stem) == int(number)):
            return name
    raise ChapterError(f"No chapter {text!r}. The chapters: {', '.join(chapters()) or 'none'}.")


def read_notebook(path: Path):
    """Read a notebook.

    Raises
    ------
    ChapterError
        When the file is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, UnicodeDecodeError, nbformat.reader.NotJSONError) as error:
        raise ChapterError(f"{path.name} is not a readable notebook: {error}.") from None


def stamp(chapter: str, source, given: dict) -> dict:
    """Return what the chapter's outputs depend on, for the executed notebook's metadata."""
    defaults = {name: known.default for name, known in declared_in(source).items()}
    code = [cell.source for cell in source.cells if cell.cell_type == "code"]
    return {
        "version": __version__,
        "parameters": defaults | given,
        "modules": {name: _module_hash(name) for name in sorted(_closure(code))},
        "results": _results_hashes(chapter, "\n".join(code)),
    }


def check(names: list[str] | None = None) -> list[str]:
    """Return one sentence for each executed chapter that is not what its source would give."""
    problems = []
    for chapter in names or chapters():
        changes = _changes(chapter)
        if changes:
            problems.append(
                f"{chapter}: {'; '.join(changes)}. Run it again: python -m l2m run {chapter}"
            )
    if names is None:
        orphans = {path.stem for path in book_dir().glob("*.ipynb")} - set(chapters())
        problems += [f"{name}: executed, but it has no source in notebooks/" for name in orphans]
    return problems


def _changes(chapter: str) -> list[str]:
    path = book_dir() / f"{chapter}.ipynb"
    if not path.exists():
        return ["it has not been executed"]
    source, executed = read_notebook(notebooks_dir() / f"{chapter}.ipynb"), read_notebook(path)
    if "l2m" not in executed.metadata:
        return ["it was not executed by `python -m l2m run`"]
    now, then = stamp(chapter, source, {}), executed.metadata["l2m"]
    changes = []
    if path.stat().st_size > MAX_BYTES:
        changes.append(f"it has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    changes += _cell_changes(source.cells, executed.cells)
    if now["parameters"] != then["parameters"]:
        names = _differing(now["parameters"], then["parameters"])
        changes.append(f"it ran with other parameters ({', '.join(names)})")
    if now["version"] != then["version"]:
        changes.append(f"it ran with l2m {then['version']}, and this is {now['version']}")
    for kind, verb in (("modules", "the code of"), ("results", "the recorded")):
        names = _differing(now[kind], then[kind])
        if names:
            changes.append(f"{verb} {', '.join(names)} has changed since it ran")
    return changes


def _cell_changes(source: list, executed: list) -> list[str]:
    kept = [(cell.cell_type, cell.source, cell.metadata) for cell in source]
    ran = [(cell.cell_type, cell.source, cell.metadata) for cell in executed]
    if kept != ran:
        pairs = zip(kept, ran, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(kept), len(ran)))
        return [f"its source differs from cell {first} on"]
    for index, cell in enumerate(executed):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return [f"cell {index} failed"]
    return []


def _differing(left: dict, right: dict) -> list[str]:
    return [key for key in sorted(left.keys() | right.keys()) if left.get(key) != right.get(key)]


def _results_hashes(chapter: str, code: str) -> dict[str, str]:
    """Hash the recorded results of the chapter, and those of others that its code names."""
    hashes = {}
    for path in sorted(results_dir().rglob("*.json")):
        name = path.relative_to(results_dir()).with_suffix("").as_posix()
        if name.startswith(f"{chapter}/") or name in code:
            hashes[name] = sha256(path)
    return hashes


def _closure(cells: list[str]) -> set[str]:
    """Return the l2m modules that the cells import, directly or through one another."""
    found, todo = set(), set().union(*map(_imports, cells))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo |= _imports(_module_file(name).read_text(encoding="utf-8"))
    return found


def _imports(code: str) -> set[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a cell of magics, or one that will fail when it runs
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = "l2m" if node.level else ""
            module = ".".join(filter(None, (package, node.module)))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names if name.startswith("l2m."))
    return {part[1] for part in parts if _module_file(part[1]).exists()}


def _module_file(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.py")


def _module_hash(name: str) -> str:
    """Hash a module's code, and the data files of the package that it names.

    Comments, docstrings and blank lines are left out: they change no number.
    """
    text = _module_file(name).read_text(encoding="utf-8")
    digest = hashlib.sha256(_bare_code(text).encode())
    for path in sorted(Path(__file__).parent.glob("*.json")):
        if path.name in text:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _bare_code(text: str) -> str:
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno - 1, node.end_lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
