"""What is published has nothing of the machine or the moment in it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import METADATA, Project, alive, wait_until

from l2m.chapters import publish as module
from l2m.chapters.contents import ChapterError
from l2m.chapters.publish import (
    as_text,
    claim,
    claims_of,
    expressions,
    other_roles,
    outputs_digest,
    publish,
    published,
)
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
    about = {"version": "1", "outputs": outputs_digest(made)}
    assert made.metadata == METADATA | {"l2m": about}
    _, injected, cell = made.cells
    assert injected.metadata == {"tags": ["injected-parameters", "hide-cell"]}
    assert cell.metadata == {"tags": ["hide-cell"]}
    said, html = cell.outputs
    assert said["text"] == "./l2m ~/x <object> /cell.py"
    assert html["data"]["text/html"].count(f"T_{cell.id}-1") == 2
    assert [p.name for p in path.parent.iterdir()] == ["01_a.ipynb"]


def test_what_chance_decides_is_dropped(tmp_path):
    """In how many pieces a stream came, and the names of temporary folders."""
    name = tempfile.gettempdir() + "/tmp0a_b1c2d"
    pieces = [("stdout", "a "), ("stdout", f"{name}/b\n"), ("stderr", "c"), ("stdout", "d")]
    executed, source = notebooks(*(new_output("stream", name=n, text=t) for n, t in pieces))
    made = nbformat.read(publish(executed, source, {}, tmp_path / "01_a.ipynb"), as_version=4)
    seen = [(output.name, output.text) for output in made.cells[2].outputs]
    assert seen == [("stdout", "a <temporary>/b\n"), ("stderr", "c"), ("stdout", "d")]


def test_what_has_not_changed_keeps_the_time_when_it_ran(tmp_path):
    path = tmp_path / "01_a.ipynb"

    def ran(day, *outputs, **about):
        executed, source = notebooks(*outputs)
        for new, cell in zip("abc", executed.cells, strict=True):
            cell.id = new
        publish(executed, source, about | {"ran": {"date": day}}, path)
        return nbformat.read(path, as_version=4).metadata["l2m"]["ran"]["date"]

    assert ran("Monday") == ran("Tuesday") == "Monday"
    assert ran("Wednesday", version="2") == "Wednesday"
    assert ran("Thursday", new_output("stream", text="1"), version="2") == "Thursday"
    path.write_text("no notebook")
    assert ran("Friday") == "Friday"


PLACES = {
    "text": lambda text: new_output("stream", name="stderr", text=f"see {text}"),
    "coloured": lambda text: new_output("stream", name="stdout", text=f"\x1b[0;32m{text}\x1b[0m"),
    "plain": lambda text: new_output("display_data", {"text/plain": f"'{text}'"}),
    "html": lambda text: new_output("display_data", {"text/html": f'<td id="a">{text}</td>'}),
    "markdown": lambda text: new_output("display_data", {"text/markdown": f"`{text}`"}),
    "svg": lambda text: new_output("display_data", {"image/svg+xml": f"<!-- {text} -->"}),
    "json": lambda text: new_output("display_data", {"application/json": {text: [1, [text]]}}),
    "error": lambda text: new_output("error", ename="E", evalue=text, traceback=["1", f"{text}:3"]),
    "metadata": lambda text: new_output("display_data", {}, metadata={"claim": {"ours": text}}),
}


@pytest.mark.parametrize("place", PLACES)
def test_local_folders_and_secrets_are_cut_from_every_output(tmp_path, monkeypatch, place):
    monkeypatch.setattr(
        module, "_FOLDERS", {"": "", "/": "/", "/data": "~", "/data/c": "<corpora>"}
    )
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    found = []
    for text in ("/data/c/x /data/y hf_abcdefgh", "<corpora>/x ~/y <HF_TOKEN>"):
        executed, source = notebooks(PLACES[place](text))
        monkeypatch.setattr(module, "_NO_TABLE", re.compile("$^"))  # tested below
        publish(executed, source, {}, tmp_path / "01_a.ipynb")
        found.append(nbformat.read(tmp_path / "01_a.ipynb", 4).cells[-1].outputs)
    assert found[0] == found[1] and "corpora" in str(found[0])


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("/data/c", "C"),
        ("in /data/c.", "in C."),
        ("'/data/c'", "'C'"),
        ("/data/c:/data/c/x", "C:C/x"),
        ("file:///data/c", "file://C"),
        *((name, name) for name in ("/data/c-2", "/data/c2/x", "/data/c.txt", "/mnt/data/c")),
    ],
)
def test_only_whole_folders_are_cut(monkeypatch, text, cut):
    monkeypatch.setattr(module, "_FOLDERS", {"/data/c": "C"})
    assert module._clean(text) == cut


def test_letters_that_encode_a_picture_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FOLDERS", {"/tmp": "T"})
    executed, source = notebooks(new_output("display_data", {"image/png": "+/tmp/"}))
    assert '"+/tmp/"' in publish(executed, source, {}, tmp_path / "01_a.ipynb").read_text()


MARKUP = "<img src=x onerror=alert(1)>"
NAMES = f"""
import pandas as pd
from IPython.display import display
name = {MARKUP!r}
names = [name, "</td><script>alert(1)</script>", "<b onclick='x'>", "<style>*", "<td onclick=x>"]
table = pd.DataFrame({{"book": names, name: 1.5}}, index=pd.Index(names, name=name))
display(table, table.style.format(precision=2), table.T.style.set_caption(name))
display(table.style.format("{{:.2f}}", subset=[name]).hide(axis="index"))
display({{"text/markdown": name, "text/plain": name}}, raw=True)
print(name)
""".strip()
NAMED = "from l2m.chapters.publish import claim\nclaim('C1', paper='1', ours='1', condition=name"
NAMED += ", verdict='open', reason='None.')"


class Tags(HTMLParser):
    """The tags of a page, with the names of their attributes; and its text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.found |= {name for name, _ in attributes if name.startswith("on")}

    def handle_data(self, data):
        self.text += data


@pytest.mark.chapters
def test_names_that_hold_markup_are_text_on_every_page(tmp_path):
    project = Project(tmp_path)
    project.chapter("01_a", NAMES, NAMED, text="A book: {eval}`name`.")
    done = project.l2m("run")
    assert done.returncode == 0, done.stderr
    cells = project.executed("book/01_a.ipynb").cells
    assert cells[-1].source == "A book: \\<img src=x onerror=alert(1)\\>."
    data = [o.data for cell in cells for o in cell.get("outputs", []) if "data" in o]
    pages = [Tags(some["text/html"]) for some in data if "text/html" in some]
    assert len(pages) == 4
    for page in pages:
        assert page.found <= {
            "div",
            "style",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "caption",
        }
        assert page.text.count(MARKUP) >= 2
    assert "&lt;img src" in [some.get("text/markdown") for some in data][4]
    shown = "from l2m.chapters.contents import claims_page; print(claims_page())"
    page = subprocess.run(
        [sys.executable, "-c", shown], cwd=tmp_path, env=project.environment, capture_output=True
    ).stdout.decode()
    assert "condition: &lt;img src" in page and "<img" not in page


IN_CODE = """
`{eval}` is written ``{eval}`x` ``, not `{eval}`:

```
{eval}`y`
```

~~~text
{eval}`z`
~~~
"""
IN_A_DIRECTIVE = """
:::{tip}
{eval}`f"{b:.2f}"`, {eval}`c["d"]`
:::
"""


def test_a_role_in_code_is_no_role():
    assert expressions(IN_CODE) == []
    assert published(IN_CODE, []) == IN_CODE
    assert expressions(IN_A_DIRECTIVE) == ['f"{b:.2f}"', 'c["d"]']
    assert other_roles(IN_CODE + IN_A_DIRECTIVE) == []
    assert other_roles("{evla}`x`, {eval}`x`, `{cite}`") == ["{evla}`x`"]
    assert expressions(IN_CODE + IN_A_DIRECTIVE + IN_CODE) == expressions(IN_A_DIRECTIVE)


def test_values_stand_in_their_places_and_links_lead_from_the_book():
    text = "Of {eval}`n` books, {eval}`share`: [claims](../book/reproduction.md), `{eval}`."
    made = published(text, ["97", "12%"])
    assert made == "Of 97 books, 12%: [claims](reproduction.md), `{eval}`."
    assert published(text, ["97"]).startswith("Of 97 books, {eval}`share`")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("'0.53 ± 0.02'", "0.53 ± 0.02"),
        ("'-0.5 to +0.5, 3e-05, 2026-11'", "−0.5 to +0.5, 3e-05, 2026-11"),
        ("97", "97"),
        ('"a|b <c> $d_e$"', r"a\|b \<c\> \$d\_e\$"),
    ],
)
def test_a_value_is_shown_as_it_is(shown, text):
    assert as_text(shown) == text


@pytest.mark.parametrize("shown", ["''", "' '", "np.float64(0.5)", "nan", "[1]", "None", "<a b>"])
def test_what_is_no_text_and_no_number_is_refused(shown):
    with pytest.raises(ValueError, match="its value is"):
        as_text(shown)


CLAIM = {"paper": "0.76", "ours": "0.53 ± 0.02", "condition": "97 novels"}
CLAIM |= {"verdict": "in part", "reason": "The curve bends."}


def test_a_claim_is_shown_and_kept_in_the_output(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append((data, more)))
    claim("C1", **CLAIM)
    [(data, more)] = shown
    assert data == {"text/plain": "C1, in part: The curve bends."}
    monkeypatch.setattr(module, "book_dir", lambda: tmp_path / "book")
    monkeypatch.setattr(module, "claims_file", lambda name: tmp_path / f"{name}.json")
    metadata = more["metadata"]
    executed, source = notebooks(new_output("display_data", data, metadata=metadata))
    publish(executed, source, {}, tmp_path / "_runs" / "01_a.ipynb")
    assert not (tmp_path / "01_a.json").exists(), "only what is published is recorded"
    publish(executed, source, {}, tmp_path / "book" / "01_a.ipynb")
    assert (tmp_path / "01_a.json").read_text() == claims_of(executed)
    assert json.loads(claims_of(executed)) == [{"id": "C1"} | CLAIM]


def test_claims_are_the_papers_and_complete():
    with pytest.raises(ValueError, match="No claim 'C14'"):
        claim("C14", **CLAIM)
    with pytest.raises(ValueError, match="Claim C1 has no text for ours"):
        claim("C1", **CLAIM | {"ours": " "})


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


PAGES = """
import sys
from pathlib import Path
from l2m.chapters import publish
slow = "import os, time; from l2m.files import leashed; leashed(); "
slow += "open('new', 'w').write(str(os.getpid())); os.rename('new', 'pid'); time.sleep(60)"
publish.ROOT, publish.BUILD = Path.cwd(), [sys.executable, "-c", slow]
publish.build_pages()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_the_pages_are_not_built_on_by_an_orphan(tmp_path, sent):
    process = subprocess.Popen(
        [sys.executable, "-c", PAGES],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until((tmp_path / "pid").exists)
    process.send_signal(sent)
    process.wait(60)
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())), 20)
