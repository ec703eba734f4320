"""Running chapters of a small project: what is refused, published, kept, and survived."""

import json
import os
import platform
import re
import signal
import subprocess
import sys

import nbformat
import pytest
from project import METADATA, Project, alive, outputs_of, wait_until

from l2m.chapters import contents, run
from l2m.cli import main


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def here(project, monkeypatch):
    """The project as the checkout of this process, in which refusals take no time."""
    monkeypatch.chdir(project.root)
    for module in (contents, run):
        monkeypatch.setattr(module, "ROOT", project.root)
    return project


@pytest.mark.chapters
def test_a_chapter_is_published_clean_and_then_checked(project):
    project.chapter("01_a", "import os, sys\nprint(os.getcwd(), object())", "print(windows)")
    project.chapter("02_b", "print(1)")
    done = project.l2m("run", "1", cwd=project.root / "notebooks")
    assert done.returncode == 0, done.stderr
    assert re.search(r"01_a: \d+ s → .*book/01_a.ipynb", done.stdout)
    notebook = project.executed("book/01_a.ipynb")
    assert "8\n" in outputs_of(notebook)
    text = (project.root / "book/01_a.ipynb").read_text()
    assert str(project.root) not in text and "papermill" not in text and "0x7f" not in text
    assert notebook.metadata["l2m"]["parameters"] == {"profile": "book", "windows": 8}
    ran = notebook.metadata["l2m"]["ran"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", ran["date"]) and ran["seconds"] > 0
    assert ran["device"] and ran["versions"]["python"] == platform.python_version()
    assert notebook.metadata["kernelspec"] == METADATA["kernelspec"]
    assert project.files(".cache") == [f".cache/runs/01_a.{end}" for end in ("ipynb.lock", "json")]
    assert json.loads((project.root / ".cache/runs/01_a.json").read_text())["seconds"] > 0

    assert project.l2m("check", "1").returncode == 0
    (path := project.root / "book/01_a.ipynb").write_text(text.replace('"8\\n"', '"9\\n"'))
    assert "01_a: its outputs are not those of its run." in project.l2m("check", "1").stdout
    path.write_text(text)
    checked = project.l2m("check")
    assert checked.returncode == 1
    assert checked.stdout == "02_b: it has not been executed. Run it again: l2m run 02_b\n"


TEXT = 'Of {eval}`windows` windows {eval}`f"{share:.0%}"`: [claims](../book/reproduction.md).'
CLAIM = (
    "from l2m.chapters.publish import claim\n"
    "claim('C1', paper='0.7', ours=f'{share}', condition='n', verdict='open', reason='None.')"
)


@pytest.mark.chapters
@pytest.mark.slow
def test_numbers_in_text_are_computed_where_they_stand(project):
    project.chapter("01_a", "share = 0.25", CLAIM, text=TEXT)
    assert project.l2m("run").returncode == 0
    path = project.root / "book" / "01_a.ipynb"
    first = path.read_bytes()
    cell = project.executed(path).cells[-1]
    assert cell.source == "Of 8 windows 25%: [claims](reproduction.md)."
    assert cell.metadata["eval"] == [["windows", "8"], ['f"{share:.0%}"', "25%"]]
    assert project.files("results") == ["results/01_a/claims.json"]
    assert project.l2m("check").returncode == 0

    assert project.l2m("run").returncode == 0
    assert path.read_bytes() == first, "a second run leaves it as it is"
    assert project.l2m("run", "-p", "windows", "9").returncode == 0
    assert project.executed("_runs/01_a.ipynb").cells[-1].source.startswith("Of 9 windows")

    (project.root / "results" / "01_a" / "claims.json").write_text("[]\n")
    assert "01_a: its claims are not those in results/." in project.l2m("check").stdout
    notebook = project.executed(path)
    notebook.cells[-1].source = TEXT
    nbformat.write(notebook, path)
    said = project.l2m("check").stdout
    assert f"cell {len(notebook.cells) - 1} shows {{eval}}`windows` and not its value" in said


@pytest.mark.chapters
def test_numbers_above_all_code_are_those_of_its_end(project):
    project.chapter("01_a", "share = 0.25", "share = 0.5")
    path = project.root / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("In the end {eval}`share`."))
    nbformat.write(notebook, path)
    assert project.l2m("run").returncode == 0
    assert project.executed("book/01_a.ipynb").cells[0].source == "In the end 0.5."
    assert project.l2m("check").returncode == 0


@pytest.mark.chapters
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{eval}`shrae`", "{eval}`shrae` in its text: NameError: name 'shrae' is not defined"),
        ("{eval}`''`", "{eval}`''` in its text: its value is empty"),
        ("{evla}`share`", "{evla}`share` in its text has another role than `eval`"),
        ("{eval}`[share]`", "{eval}`[share]` in its text: its value is [0.25], and not a text"),
    ],
)
def test_a_number_that_did_not_compute_is_an_error_of_the_run(project, text, says):
    project.chapter("01_a", "share = 0.25", text=f"`{{eval}}` {{eval}}`share`: {text}.")
    done = project.l2m("run")
    assert done.returncode == 1 and f"01_a: cell 4 failed: {says}" in done.stderr
    assert "What ran is kept in .cache/runs/01_a.ipynb" in done.stderr
    assert "Traceback" not in done.stderr and project.files("book") == []


@pytest.mark.chapters
def test_other_parameters_go_elsewhere(project):
    project.chapter("01_a", "print(windows)")
    project.chapter("02_b", "print(windows + 1)")
    done = project.l2m("run", "--profile", "smoke", "-p", "windows", "3", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert project.files("_runs") == ["_runs/01_a.ipynb", "_runs/02_b.ipynb"]
    assert project.files("book") == []
    notebook = project.executed("_runs/02_b.ipynb")
    assert outputs_of(notebook) == "4\n"
    tags = [cell.metadata.get("tags") for cell in notebook.cells]
    assert ["injected-parameters", "hide-cell"] in tags


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["1", "-p", "window", "3"], "01_a: Unknown parameter 'window'. Did you mean 'windows'?"),
        (["1", "-p", "windows", "many"], "'windows' takes an integer from 1 to 100"),
        (["1", "-p", "windows", "0"], "'windows' takes an integer from 1 to 100, not 0"),
        (["1", "-p", "open('ran', 'w')", "3"], "Unknown parameter \"open('ran', 'w')\""),
        (["1", "-p", "x;open('ran', 'w');y", "3"], "Unknown parameter \"x;open('ran', 'w');y\""),
        (["1", "-p", "windows", "open('ran', 'w')"], "'windows' takes an integer from 1 to 100"),
        (["1", "--profile", "big"], "'profile' takes one of 'smoke', 'book', 'paper'"),
        (["7"], "No chapter '7'. The chapters: 01_a."),
        (["1", "-p", "windows", "3", "--output-dir", "book"], "choose another --output-dir"),
        (["1", "--output-dir", "pyproject.toml"], "cannot write to pyproject.toml"),
    ],
)
def test_refused_before_anything_runs(here, capsys, arguments, says):
    here.chapter("01_a", "open('ran', 'w')")
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("l2m: ") and error.count("\n") == 1
    assert here.files("notebooks") == ["notebooks/01_a.ipynb"] and here.files("book") == []


@pytest.mark.chapters
def test_folders_that_are_named_from_here_are_the_same_for_chapters(project):
    """A chapter works in its own folder; and the name of one is a word that its text may have."""
    project.environment |= {"L2M_CACHE": "kept", "L2M_CORPORA": "tables"}
    lines = (
        "import os\nprint(*(os.environ[f'L2M_{x}'] for x in ('CACHE', 'CORPORA')), 'kept tables')"
    )
    project.chapter("01_a", lines)
    assert project.l2m("run").returncode == 0
    assert outputs_of(project.executed("book/01_a.ipynb")) == "<cache> <corpora> kept tables\n"
    assert project.files("notebooks") == ["notebooks/01_a.ipynb"]
    assert (project.root / "kept/runs/01_a.json").exists()


@pytest.mark.chapters
def test_papermill_alone_works_from_anywhere(project, tmp_path_factory):
    project.chapter("01_a", "print(windows)")
    folder = tmp_path_factory.mktemp("elsewhere")
    papermill = [sys.executable, "-m", "papermill", project.root / "notebooks/01_a.ipynb"]
    options = {"cwd": folder, "env": project.environment, "capture_output": True, "text": True}
    done = subprocess.run([*papermill, "out.ipynb", "-p", "windows", "5"], **options)
    assert done.returncode == 0, done.stderr
    assert outputs_of(nbformat.read(folder / "out.ipynb", as_version=4)) == "5\n"
    done = subprocess.run([*papermill, "bad.ipynb", "-p", "window", "5"], **options)
    assert done.returncode != 0
    assert "Unknown parameter 'window'" in done.stderr


@pytest.mark.chapters
def test_failures_are_short_and_leave_the_book_alone(project):
    project.chapter("01_a", "x = 0", "def f():\n    return 1 / x\n\nf()")
    project.chapter("02_b", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    project.chapter("03_c", "print('a' * 3_000_000)")
    project.chapter("04_d", "print('fine')")
    book = project.root / "book" / "01_a.ipynb"
    book.parent.mkdir()
    book.write_text("as it was")
    done = project.l2m("run", "--jobs", "2")
    assert done.returncode == 1
    assert "01_a: cell 4 failed with ZeroDivisionError: division by zero\n  line 4: f()\n" in (
        done.stderr
    )
    assert "02_b: the kernel died" in done.stderr
    assert "03_c: its outputs make 3,0" in done.stderr
    assert "l2m: failed: " in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 8
    assert project.files("book") == ["book/01_a.ipynb", "book/04_d.ipynb"]
    assert book.read_text() == "as it was"
    assert ".cache/runs/01_a.ipynb" in project.files(".cache"), "what ran is kept"


SLOW = (
    "import os, time\nfrom pathlib import Path",
    "pids = f'{os.getpid()} {os.getppid()}'\nPath('kernel').write_text(pids)",
    "os.rename('kernel', 'started')\ntime.sleep(100)",
)


@pytest.mark.chapters
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_from_outside_leaves_the_book_alone_and_no_process(project, sent):
    project.chapter("01_slow", *SLOW)
    project.chapter("02_next", "open('ran', 'w')")
    book = project.root / "book" / "01_slow.ipynb"
    book.parent.mkdir()
    book.write_text("as it was")
    process = project.start("run")
    started = project.root / "notebooks" / "started"
    wait_until(started.exists)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # Ctrl-C in a terminal reaches all its processes
    else:
        process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    if sent != signal.SIGKILL:
        assert process.returncode == 128 + sent
        assert stderr == "\nl2m: stopped; what was there before is untouched.\n"
    kernel, worker = map(int, started.read_text().split())
    wait_until(lambda: not alive(kernel) and not alive(worker))
    assert project.files("book") == ["book/01_slow.ipynb"]
    assert book.read_text() == "as it was"
    assert not (project.root / "notebooks" / "ran").exists()


@pytest.mark.chapters
def test_recording_marks_the_run(project):
    project.chapter(
        "01_a",
        "import pandas as pd\nfrom l2m.results import recorded\n"
        "frame = recorded('01_a/x', {'windows': windows}, lambda: pd.DataFrame({'a': [1]}))",
    )
    assert project.l2m("run").returncode == 0
    assert project.files("results") == []
    done = project.l2m("run", "--record")
    assert done.returncode == 0, done.stderr
    assert project.files("results") == ["results/01_a/x.json", "results/01_a/x.parquet"]
    assert project.l2m("check").returncode == 0
    results = project.executed("book/01_a.ipynb").metadata["l2m"]["results"]
    assert list(results) == ["01_a/x"]
    about = json.loads((project.root / "results/01_a/x.json").read_text())
    assert "run 01_a --record" in about["command"]


@pytest.mark.parametrize("command", ["run", "build", "check"])
@pytest.mark.parametrize("missing", ["pyproject.toml", "notebooks"])
def test_outside_of_a_checkout_there_are_no_chapters(here, capsys, command, missing):
    (here.root / missing).rename(here.root / "elsewhere")
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert "clone the book's repository" in error and error.count("\n") == 1
