"""The book: every page is there, up to date, clean, and builds without a warning or a network."""

import re

import nbformat
import pytest
import yaml

from l2m.chapters.contents import chapters
from l2m.chapters.publish import MAX_BYTES
from l2m.chapters.staleness import check
from l2m.files import ROOT

EXECUTED = sorted((ROOT / "book").glob("*.ipynb"))
MACHINE = re.compile(r"(/(home|Users|root|tmp|work)/|\\Users\\|site-packages|\.venv/)")


def test_every_executed_chapter_is_what_its_source_gives():
    assert check() == []


def test_the_contents_list_every_chapter_in_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    listed = [page.removeprefix("book/") for page in pages]
    assert [name for name in listed if name in chapters()] == chapters()
    for page in pages:
        assert (ROOT / f"{page}.md").exists() or (ROOT / f"{page}.ipynb").exists(), page
    on_disk = {path.stem for path in (ROOT / "book").glob("*.md")} | set(chapters())
    assert on_disk == set(listed)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_an_executed_chapter_shows_no_warning_and_no_machine(path):
    assert path.stat().st_size <= MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            shown = [output.get("text", ""), *map(str, output.get("data", {}).values())]
            for text in shown:
                assert not MACHINE.search(text[:20_000]), MACHINE.search(text)


@pytest.mark.chapters
def test_it_builds_without_a_warning_or_a_network(site_folder):
    assert (site_folder / "index.html").exists()
    for name in chapters():
        html = (site_folder / "book" / f"{name}.html").read_text()
        assert 'class="caption-number"' in html or "<figure" not in html
        assert "glue:" not in html
