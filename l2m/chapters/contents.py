"""Where the chapters are: their sources in ``notebooks/``, the executed ones in ``book/``."""

from pathlib import Path

from l2m.files import ROOT


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
    """Return the chapter called by its name, its number (``2`` or ``02``) or its file.

    ChapterError, listing the chapters there are, for any other text.
    """
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
