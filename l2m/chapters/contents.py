"""What the book holds: its chapters, and the pages that are made from these and from other files.

Sources of chapters are in ``notebooks/``, executed ones in ``book/``. `l2m build` makes the page of
claims, from what the chapters said; the references; and the first page's picture, chapter 1's.
"""

import json
import re
from pathlib import Path

from l2m.files import ROOT, write_atomic

# Of the paper, and where it makes them.
CLAIMS = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
ARGUMENT = "th-fig-state"  # the figure of chapter 1 that is on the first page


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
    """Return the chapter called by its name, number (``2`` or ``02``) or file; or ChapterError."""
    stem = Path(text).name.removesuffix(".ipynb")
    for name in chapters():
        number = name.split("_")[0]
        if stem == name or (stem.isdecimal() and number.isdecimal() and int(stem) == int(number)):
            return name
    raise ChapterError(f"No chapter {text!r}. The chapters: {', '.join(chapters()) or 'none'}.")


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


def claims_page() -> str:
    """Return the page of claims, from all chapters' files; ChapterError if one is damaged."""
    from jinja2 import Template

    template, said = Path(__file__).with_name("claims.md.jinja").read_text(encoding="utf-8"), []
    for chapter in chapters():
        where = {"where": f"[chapter {int(chapter[:2])}]({chapter}.ipynb)"}
        if (file := claims_file(chapter)).exists():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                texts = [{k: text.replace("<", "&lt;") for k, text in c.items()} for c in found]
                said += [text | where for text in texts]  # in which nothing is markup of a page
            except (ValueError, TypeError, AttributeError):
                cure = "restore it with `git checkout -- results`, or run the chapter"
                raise ChapterError(f"{file} is damaged: {cure}.") from None
    return Template(template).render(claims=CLAIMS, all=said)


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
    write_atomic(book_dir() / "reproduction.md", claims_page())
    write_atomic(book_dir() / "references.md", references_page())
    write_atomic(book_dir() / "argument.svg", argument())
