"""The book: every page is there, up to date, clean, and builds without a warning or a network."""

import re
import shutil
import subprocess
from itertools import pairwise

import nbformat
import pytest
import yaml

from l2m.chapters import contents
from l2m.chapters.contents import chapters
from l2m.chapters.publish import BUILD, MAX_BYTES, expressions
from l2m.chapters.staleness import check
from l2m.files import ROOT

EXECUTED = sorted((ROOT / "book").glob("*.ipynb"))
CODE = re.compile(r"\b[a-z][a-z0-9]*_[a-z]")  # a name of code, unlike I_BP
COLUMNS = {"aicc", "dim", "kl", "mi", "nll", "stderr", "vclub"}  # of the module's tables
MACHINE = re.compile(r"(/(home|Users|root|tmp|work)/|\\Users\\|site-packages|\.venv/)")


@pytest.mark.chapters
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


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_tables_have_headers_in_words(path):
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
    html = "".join(o.get("data", {}).get("text/html", "") for o in outputs)
    headers = {text.strip() for text in re.findall(r"<th[^>]*>([^<]+)</th>", html)}
    assert headers and [text for text in headers if CODE.search(text) or text in COLUMNS] == []


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_what_is_shown_has_a_caption(path):
    for cell, below in pairwise(nbformat.read(path, as_version=4).cells):
        data = [item for o in cell.get("outputs", []) for item in o.get("data", {}).items()]
        if any(kind.startswith("image/") or "<table" in text for kind, text in data):
            assert re.match(r"\*(Table|Figure) (\d+|[A-Z])\.\d+: ", below.source), cell.source


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_an_executed_chapter_has_its_numbers_and_links_in_its_text(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    values = [value for cell in cells for _, value in cell.metadata.get("eval", [])]
    assert values and not re.search(r"\b(nan|None|inf)\b", " ".join(values))
    for cell in cells:
        assert expressions(cell.source) == [] and "{glue" not in cell.source
        for link in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", cell.source):
            assert link.startswith("http") or (path.parent / link).exists(), link


def test_pages_made_from_others_are_up_to_date():
    again = "run `l2m build`"
    made = {"reproduction.md": contents.claims_page(), "references.md": contents.references_page()}
    made |= {"index.md": contents.first_page(), "status.md": contents.status_page()}
    for name, text in made.items():
        assert (ROOT / "book" / name).read_text(encoding="utf-8") == text, again
    assert (ROOT / "book" / "argument.svg").read_text(encoding="utf-8") == contents.argument(), (
        again
    )
    template = (ROOT / "l2m" / "chapters" / "index.md.jinja").read_text(encoding="utf-8")
    named = {eval(name) for name in re.findall(r'out\[(".+?")\]', template)}
    assert named and named <= contents.came_out().keys()
    for id in contents.CLAIMS:
        assert f"**{id}**" in made["reproduction.md"]
    assert not re.search(r"\bnan\b", made["reproduction.md"])


@pytest.mark.chapters
def test_it_builds_without_a_warning_or_a_network(site_folder):
    assert (site_folder / "index.html").exists()
    for name in chapters():
        html = (site_folder / "book" / f"{name}.html").read_text()
        shown = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
        assert not re.search(r"\{(eval|glue|prf:ref|numref|cite)|:::", shown)
        labels = re.findall(r'<figure[^>]* id="([^"]+)"', html)
        assert html.count("<em>Figure ") + html.count("<em>Table ") == len(labels)


REPOSITORY, SITE = "https://github.com/someone/the-book", "https://someone.github.io/the-book/"
PARTS = ["_ext", "_static", "_extra", "references.bib", "argument.svg", "index.md"]


@pytest.mark.chapters
@pytest.mark.parametrize("named", [False, True], ids=["before", "after"])
def test_buttons_lead_to_the_repository_once_it_is_named(tmp_path, named):
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert config.count('url: ""') == 2, "as published: of the repository, and of the site"
    for text in (f'url: "{REPOSITORY}"', f'url: "{SITE}"') if named else ():
        config = config.replace('url: ""', text, 1)
    (tmp_path / "_config.yml").write_text(config, encoding="utf-8")
    toc = "format: jb-book\nroot: book/index\nchapters:\n  - file: book/01_theory\n"
    (tmp_path / "_toc.yml").write_text(toc)
    for name in [*PARTS, "01_theory.ipynb"]:
        (tmp_path / "book").mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / "book" / name).is_dir() else shutil.copy
        copy(ROOT / "book" / name, tmp_path / "book" / name)
    warned = [word for word in BUILD if word not in ("-n", "-W")]  # of pages that are not here
    subprocess.run(warned, cwd=tmp_path, capture_output=True, check=True)
    folder = tmp_path / "_build" / "html" / "book"
    chapter, first = (
        (folder / f"{name}.html").read_text(encoding="utf-8") for name in ("01_theory", "index")
    )
    launch = "someone/the-book", "main", "notebooks/01_theory.ipynb"
    binder = "https://mybinder.org/v2/gh/{}/{}?urlpath=lab/tree/{}".format(*launch)
    colab = "https://colab.research.google.com/github/{}/blob/{}/{}".format(*launch)
    assert (ROOT / launch[2]).exists()
    issues = f"{REPOSITORY}/issues/new"
    for link in (REPOSITORY, issues, binder, colab, f"{SITE}book/01_theory"):
        everywhere = link in (REPOSITORY, issues)
        assert (f'="{link}' in chapter) == named
        assert (f'="{link}' in first) == (named and everywhere)
    assert named or not re.search("mybinder|colab.research|launch-buttons|source-buttons", chapter)
    assert (f"git clone {REPOSITORY}" in chapter) == named
