"""Commands and code that pages and chapters show are such as the module takes."""

import re
import shlex
import subprocess
import sys

import nbformat
import pytest
import typer

from l2m.chapters.contents import find_chapter
from l2m.cli import _paired, app
from l2m.files import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "status.md"]  # has commands of earlier versions
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = {"l2m measure", "l2m measure --what past"}  # of what a command does
SHOWN = re.compile(r"^(?:\$ )?(l2m [^#\n]*)|`(l2m [^`]+)`", re.MULTILINE)


def commands(path):
    """The commands `l2m …` in a page's code, or in a chapter's text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = SHOWN.findall(text.replace("\\\n", " "))
    whole = [re.split(r" [|>]|;|&&", one or other)[0] for one, other in found]
    return {" ".join(command.split()) for command in whole} - NAMES


ALL = sorted({command for path in [*PAGES, *NOTEBOOKS] for command in commands(path)})


def test_there_are_commands():
    assert len(ALL) > 15


@pytest.mark.parametrize("command", ALL)
def test_a_command_that_is_shown_is_one_that_is_taken(command):
    _, *words = shlex.split(command)
    group = typer.main.get_command(app)
    with group.make_context("l2m", _paired(words), resilient_parsing=True) as context:
        name, subcommand, rest = group.resolve_command(context, _paired(words))
        with subcommand.make_context(name, rest, parent=context) as parsed:
            taken = parsed.params
    for chapter in (taken.get("chapters") or []) if name in ("run", "check") else []:
        assert chapter in ("CHAPTER", "10") or find_chapter(chapter)


def python(path):
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


BLOCKS = [(path.name, block) for path in PAGES for block in python(path)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_python_that_a_page_shows_runs(block, tmp_path):
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
