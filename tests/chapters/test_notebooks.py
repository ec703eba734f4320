"""Every chapter: its source is clean, and it runs through at its smallest."""

import ast

import nbformat
import pytest

from l2m.chapters.parameters import declared_in
from l2m.chapters.run import plan, run_all
from l2m.files import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES, MAX_HIDDEN_LINES = 20, 40  # of a cell to be read, and of one that only draws


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


def test_cells_are_short_and_begin_with_a_title(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert any(line.startswith("# ") for line in first.source.splitlines())
    for cell in code_cells(notebook):
        hidden = any(tag.startswith(("hide-", "remove-")) for tag in tags(cell))
        limit = MAX_HIDDEN_LINES if hidden else MAX_LINES
        assert len(cell.source.splitlines()) <= limit, cell.source


def test_figures_have_a_caption_and_words_for_those_who_cannot_see_them(notebook):
    for cell in code_cells(notebook):
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            assert figure["name"] and figure["caption"]
            assert cell.metadata["mystnb"]["image"]["alt"]


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


def test_there_are_chapters():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            assert "filterwarnings" not in cell.source
            if not cell.source.lstrip().startswith(("%", "!")):
                ast.parse(cell.source)
