"""What the book holds: its chapters, and the pages that are made from these and from other files.

Sources of chapters are in ``notebooks/``, executed ones in ``book/``. `l2m build` makes the first
page and the page of claims, from what the chapters said; the status; the references; and the first
page's picture, chapter 1's.
"""

import io
import json
import re
from pathlib import Path

from l2m.files import ROOT, read_json, write_atomic

# Of the paper, and where it makes them.
CLAIMS = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
ARGUMENT = "th-fig-state"  # the figure of chapter 1 that is on the first page
RESTORE = "restore it with `git checkout -- results`"
BOX = "came-out"  # the cell of a chapter that says what came out of it


class ChapterError(ValueError):
    """A chapter that does not exist, or that cannot be run or published as it is."""


def notebooks_dir() -> Path:
    """Return the folder of the chapters' sources; ChapterError outside of a checkout."""
    folder = ROOT / "notebooks"
    if not ((ROOT / "pyproject.toml").exists() and folder.is_dir()):
        raise ChapterError(
            "the chapters are not part of the installed package: clone the book's repository and "
            "run `make book` there, or `pip install --editable '.[book]'` and then this command."
        )
    return folder


def book_dir() -> Path:
    """Return the folder of the executed chapters and the other pages."""
    return ROOT / "book"


def chapters() -> list[str]:
    """Return the names of all chapters, in order."""
    return sorted(path.stem for path in notebooks_dir().glob("*.ipynb"))


def find_chapter(text: str) -> str:
    """Return the chapter called by its name, number (``2`` or ``02``) or file; or ChapterError.

    An appendix has a letter in place of the number.
    """
    stem = Path(text).name.removesuffix(".ipynb")
    for name in chapters():
        if stem == name or stem.lstrip("0") == _number(name):
            return name
    raise ChapterError(f"No chapter {text!r}. The chapters: {', '.join(chapters()) or 'none'}.")


def called(name: str) -> str:
    """Return what the text calls a chapter: "chapter 2", or "appendix A"."""
    number = _number(name)
    return f"chapter {number}" if number.isdecimal() else f"appendix {number.upper()}"


def _number(name: str) -> str:
    return name.split("_")[0].lstrip("0")


def read_notebook(path: Path):
    """Return a notebook, as nbformat has it; ChapterError when the file is none."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, UnicodeDecodeError, nbformat.reader.NotJSONError) as error:
        raise ChapterError(f"{path.name} is not a readable notebook: {error}.") from None


def claims_file(chapter: str) -> Path:
    """Return the file of what a chapter says of the paper's claims."""
    return ROOT / "results" / chapter / "claims.json"


def came_out() -> dict[str, str]:
    """Return the points of the boxes *What came out* of executed chapters, by their bold words."""
    found = {}
    for path in sorted(book_dir().glob("*.ipynb")):
        where = f"([{called(path.stem)}]({path.name}))"
        for cell in read_notebook(path).cells:
            if cell.id == BOX:
                points = cell.source.split("\n* **")[1:]
                points = [point.split("\n\n")[0].split(".** ", 1) for point in points]
                found |= {name: f"{' '.join(text.split())} {where}" for name, text in points}
    return found


def first_page() -> str:
    """Return the first page, with points of what came out of the chapters."""
    return _render("index", out=came_out())


def _render(name: str, **values) -> str:
    from jinja2 import Template

    template = Path(__file__).with_name(f"{name}.md.jinja").read_text(encoding="utf-8")
    return Template(template).render(values).rstrip() + "\n"


def status_page() -> str:
    """Return the page of what ran, and of what is recorded and how it was made."""
    ran, recorded = {}, {}
    for path in sorted(book_dir().glob("*.ipynb")):
        ran[path.stem] = read_notebook(path).metadata.get("l2m", {})
        commands = recorded[path.stem] = {}
        for file in sorted((ROOT / "results" / path.stem).glob("*.json")):
            if file != claims_file(path.stem):
                about = read_json(file, RESTORE)
                commands.setdefault(about["command"], []).append(about)
    measured = {"promises": _benchmark("promises"), "soak": _benchmark("soak-cpu")}
    return _render("status", ran=ran, recorded=recorded, called=called, **measured)


def _benchmark(name: str) -> dict:
    """Return what results/benchmarks/ holds of a name; nothing where it is not recorded."""
    file = ROOT / "results" / "benchmarks" / f"{name}.json"
    try:
        return json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        raise ChapterError(f"{file} is damaged ({error}): {RESTORE}.") from None


def soak_curve() -> str:
    """Return a picture of the memory of mixed work by the minute, `benchmarks/soak.py`'s."""
    import matplotlib.pyplot as plt

    from l2m.chapters.figures import use_style

    use_style()
    seconds, megabytes = zip(*_benchmark("soak-cpu")["seconds_and_mb"], strict=True)
    with plt.rc_context({"svg.hashsalt": "soak"}):
        figure, ax = plt.subplots(figsize=(6.4, 2.6))
        ax.plot([s / 60 for s in seconds], megabytes)
        ax.set(xlabel="minutes", ylabel="memory held, MB", ylim=(0, None))
        text = io.StringIO()
        plain = {"Date": None, "Creator": None}
        figure.savefig(text, format="svg", bbox_inches="tight", metadata=plain)
        plt.close(figure)
    return text.getvalue()


def claims_page() -> str:
    """Return the page of claims, from all chapters' files; ChapterError if one is damaged."""
    said = []
    for chapter in chapters():
        where = {"where": f"[{called(chapter)}]({chapter}.ipynb)"}
        if (file := claims_file(chapter)).exists():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                texts = [{k: text.replace("<", "&lt;") for k, text in c.items()} for c in found]
                said += [text | where for text in texts]  # in which nothing is markup of a page
            except (ValueError, TypeError, AttributeError):
                raise ChapterError(f"{file} is damaged: {RESTORE}, or run the chapter.") from None
    return _render("claims", claims=CLAIMS, all=said)


def references_page() -> str:
    """Return the page of references, from the bibliography; each has a heading to link to."""
    from pybtex.database import parse_file
    from pybtex.plugin import find_plugin
    from pybtex.richtext import Text

    style = find_plugin("pybtex.style.formatting", "plain")()
    backend = find_plugin("pybtex.backends", "markdown")("utf-8")
    found = []
    for key, entry in parse_file(book_dir() / "references.bib").entries.items():
        people = [str(Text.from_latex(" ".join(p.last_names))) for p in entry.persons["author"]]
        many = len(people) > 2 or "others" in people
        cited = f"{people[0]} et al." if many else " and ".join(people)
        text = style.format_entry(key, entry).text.render(backend).replace("\n", " ")
        text = re.sub(r"\\([-.()!])", r"\1", text)
        found.append(f"## {cited} {entry.fields['year']}\n\n{text}\n")
    front = "---\nmyst:\n  heading_anchors: 2\n---\n\n# References\n\n"
    return front + "\n".join(sorted(found))


def argument() -> str:
    """Return the picture of the paper's argument, out of the executed chapter 1."""
    cells = read_notebook(book_dir() / f"{chapters()[0]}.ipynb").cells
    named = {c.metadata.get("mystnb", {}).get("figure", {}).get("name"): c for c in cells}
    return named[ARGUMENT].outputs[0].data["image/svg+xml"]


def write_pages() -> None:
    """Write the pages that are made from other files."""
    write_atomic(book_dir() / "index.md", first_page())
    write_atomic(book_dir() / "reproduction.md", claims_page())
    write_atomic(book_dir() / "references.md", references_page())
    write_atomic(book_dir() / "status.md", status_page())
    write_atomic(book_dir() / "argument.svg", argument())
    if _benchmark("soak-cpu"):
        write_atomic(book_dir() / "soak.svg", soak_curve())
