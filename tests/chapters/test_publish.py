"""What is published has nothing of the machine or the moment in it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import METADATA, alive, wait_until

from l2m.chapters import publish as module
from l2m.chapters.contents import ChapterError
from l2m.chapters.publish import (
    as_text,
    claim,
    claims_of,
    expressions,
    other_roles,
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
    assert made.metadata == METADATA | {"l2m": {"version": "1"}}
    _, injected, cell = made.cells
    assert injected.metadata == {"tags": ["injected-parameters", "hide-cell"]}
    assert cell.metadata == {"tags": ["hide-cell"]}
    said, html = cell.outputs
    assert said["text"] == "./l2m ~/x <object> /cell.py"
    assert html["data"]["text/html"].count(f"T_{cell.id}-1") == 2
    assert [p.name for p in path.parent.iterdir()] == ["01_a.ipynb"]


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
