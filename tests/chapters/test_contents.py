"""The pages that are made from other files: claims, references, the first page's picture."""

import json
import re

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import METADATA

from l2m.chapters import contents
from l2m.chapters.contents import ChapterError
from l2m.files import ROOT
from l2m.information.entropy import entropy

CLAIM = {"id": "C13", "paper": "too low", "ours": "0.5 ± 0.1", "condition": "97 novels"}
CLAIM |= {"verdict": "in part", "reason": "The curve bends."}
BOOKS = r"""
@article{b, title = {Two {M}ice}, author = {D{\k{e}}bowski, {\L}ukasz and Li, W.},
  journal = {Chaos}, year = {2011}}
@misc{a, title = {Many}, author = {Ant, A. and Bee, B. and Cat, C.}, year = {2020}}
@misc{c, title = {Some}, author = {{DeepSeek-AI}}, year = {2024}}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    for folder in ("notebooks", "book"):
        (tmp_path / folder).mkdir()
    for name in ("01_a", "02_b"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    return tmp_path


@pytest.mark.parametrize("text", ["", "[{", "<<<<<<< HEAD", "7", "[7]", '[{"id": "\udcff"}]'])
def test_damaged_claims_are_named(root, text):
    file = contents.claims_file("01_a")
    file.parent.mkdir(parents=True)
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ChapterError, match=f"{file} is damaged: restore it"):
        contents.claims_page()


def test_claims_are_those_of_the_chapters(root):
    assert "| C13 | The measured $\\beta$ is likely too low (Sec. B.III) | open |" in (
        contents.claims_page()
    )
    for chapter, verdict in (("02_b", "reproduced"), ("01_a", "in part")):
        file = contents.claims_file(chapter)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([CLAIM | {"verdict": verdict}]))
    page = contents.claims_page()
    one, two = "[chapter 1](01_a.ipynb)", "[chapter 2](02_b.ipynb)"
    assert f"(Sec. B.III) | in part, {one}; reproduced, {two} |\n" in page
    assert f"**C13**, {one}: *in part.* The curve bends.\n\n- The paper: too low\n" in page
    assert "- Here: 0.5 ± 0.1\n- Under which condition: 97 novels\n" in page


def test_the_first_page_has_what_came_out_of_chapters(root):
    text = ":::{admonition} What came out\n\n* **The law.** It\n  bends, by 0.1.\n* **Not.** No.\n"
    box = new_markdown_cell(f"{text}\nBooks.\n\n:::", id=contents.BOX)
    nbformat.write(new_notebook(cells=[box], metadata=METADATA), root / "book" / "02_b.ipynb")
    where = "([chapter 2](02_b.ipynb))"
    assert contents.came_out() == {"The law": f"It bends, by 0.1. {where}", "Not": f"No. {where}"}


def test_an_appendix_has_a_letter_in_place_of_a_number(root):
    (root / "notebooks" / "a_speed.ipynb").touch()
    assert contents.chapters() == ["01_a", "02_b", "a_speed"]
    for text in ("a", "a_speed", "book/a_speed.ipynb"):
        assert contents.find_chapter(text) == "a_speed"
    assert [contents.called(name) for name in ("10_c", "a_speed")] == ["chapter 10", "appendix A"]
    for text in ("b", "3", "0", "", "²", "01_b"):
        with pytest.raises(ChapterError, match="The chapters: 01_a, 02_b, a_speed"):
            contents.find_chapter(text)
    file = contents.claims_file("a_speed")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([CLAIM]))
    assert "| in part, [appendix A](a_speed.ipynb) |\n" in contents.claims_page()


def test_the_status_says_when_chapters_ran_and_on_what(root):
    versions = {"l2m": "0.1.0", "numpy": "2.4"}
    ran = {"date": "2026-01-02", "seconds": 34, "device": "CPU", "versions": versions}
    for name, about in {"01_a": {"version": "0.1.0"}, "a_b": {"ran": ran}}.items():
        notebook = new_notebook(cells=[], metadata=METADATA | {"l2m": about})
        nbformat.write(notebook, root / "book" / f"{name}.ipynb")
    page = contents.status_page()
    assert "| [chapter 1](01_a.ipynb) | – | – | – | 0.1.0 | – | – | – | – |\n" in page
    assert "| [appendix A](a_b.ipynb) | 2026-01-02 | 34 | CPU | 0.1.0 | – | 2.4 | – | – |\n" in page


def test_references_have_headings_to_link_to(root):
    (root / "book" / "references.bib").write_text(BOOKS, encoding="utf-8")
    page = contents.references_page()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## Ant et al. 2020", "## DeepSeek-AI 2024", "## Dębowski and Li 2011"]
    assert "Łukasz Dębowski and W. Li. Two Mice. *Chaos*, 2011." in page


def test_the_first_pages_picture_is_chapter_ones(root):
    metadata = {"mystnb": {"figure": {"name": contents.ARGUMENT}}}
    cells = [new_code_cell("1"), new_code_cell("2", metadata=metadata)]
    cells[1].outputs = [new_output("display_data", {"image/svg+xml": "<svg/>"})]
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), root / "book" / "01_a.ipynb")
    (root / "book" / "references.bib").write_text(BOOKS, encoding="utf-8")
    contents.write_pages()
    assert (root / "book" / "argument.svg").read_text() == "<svg/>"
    assert sorted(p.suffix for p in (root / "book").iterdir()) == sorted(
        [".bib", ".ipynb", *[".md"] * 4, ".svg"]
    )


def test_the_primer_says_what_the_library_computes():
    joint = np.array([[0.9, 0.1], [0.1, 0.9]]) / 2  # of X and Y
    through = np.array([[0.82, 0.18], [0.18, 0.82]]) / 2  # of X and Z, twice through the window

    def H(p):
        return entropy(1e9 * p.ravel(), "plugin")

    I = H(joint.sum(0)) + H(joint.sum(1)) - H(joint)  # noqa: E741
    computed = [H(joint.sum(0)), H(joint) - H(joint.sum(0)), I, H(joint)]
    computed.append(H(through.sum(0)) + H(through.sum(1)) - H(through))
    text = (ROOT / "book" / "primer.md").read_text(encoding="utf-8")
    assert {f"{nats:.3f}" for nats in computed} == set(re.findall(r"\d\.\d{3}", text))
