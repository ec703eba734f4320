"""What is published has nothing of the machine or the moment in it."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import METADATA

from l2m.chapters import publish as module
from l2m.chapters.contents import ChapterError
from l2m.chapters.publish import publish
from l2m.files import ROOT

WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks(*outputs):
    """A chapter, and what papermill made of it."""
    cells = [new_markdown_cell("# A"), new_code_cell("1", metadata={"tags": ["hide-cell"]})]
    source = new_notebook(cells=cells, metadata=METADATA)
    executed = nbformat.from_dict(source)
    executed.cells[1].outputs = list(outputs)
    executed.cells[1].metadata["papermill"] = {"duration": 1}
    executed.metadata["papermill"] = {}
    executed.cells.insert(1, new_code_cell("# Parameters\nx = 1"))
    return nbformat.from_dict(executed), nbformat.from_dict(source)


def test_machine_and_moment_are_dropped(tmp_path):
    text = f"{ROOT}/l2m {Path.home()}/x <object at 0x7f01> /ipykernel_12/345.py"
    table = '<table id="T_0a1b2"><tr id="T_0a1b2_row0"></table>'
    executed, source = notebooks(
        new_output("stream", name="stdout", text=text),
        new_output("display_data", {WIDGET: {}, "text/plain": "a bar"}),
        new_output("display_data", {"text/html": table}),
    )
    path = publish(executed, source, {"version": "1"}, tmp_path / "book" / "01_a.ipynb")
    made = nbformat.read(path, as_version=4)
    assert made.metadata == METADATA | {"l2m": {"version": "1"}}
    _, injected, cell = made.cells
    assert injected.metadata == {"tags": ["injected-parameters", "hide-cell"]}
    assert cell.metadata == {"tags": ["hide-cell"]}
    said, html = cell.outputs
    assert said["text"] == "./l2m ~/x <object> /cell.py"
    assert html["data"]["text/html"].count(f"T_{cell.id}-1") == 2
    assert [p.name for p in path.parent.iterdir()] == ["01_a.ipynb"]


def test_too_large_a_chapter_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    executed, source = notebooks(new_output("stream", name="stdout", text="a" * 2000))
    with pytest.raises(ChapterError, match="bytes; a chapter has 1,000 at most"):
        publish(executed, source, {}, tmp_path / "01_a.ipynb")
    assert list(tmp_path.iterdir()) == []


def test_pages_that_do_not_build_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "BUILD", ["false"])
    with pytest.raises(RuntimeError, match="the pages were not built"):
        module.build_pages()
    monkeypatch.setattr(module, "BUILD", ["true"])
    assert module.build_pages() == ROOT / "_build" / "html" / "index.html"
