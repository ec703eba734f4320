"""The runner, on a small project of its own: what it refuses, publishes, keeps, and survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import l2m

PACKAGE = Path(l2m.__file__).parent
PARAMETERS = 'profile: str = "book"  # smoke, book or paper\nwindows: int = 8'
CHECK = (
    "from l2m.chapters.parameters import check_parameters\n"
    'check_parameters(globals(), profile=("smoke", "book", "paper"), windows=(1, 100))'
)
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


class Project:
    """A folder with the package and its own chapters, in which commands run."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(PACKAGE, root / "l2m", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "pyproject.toml").touch()
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("L2M_")
        } | {"PYTHONPATH": str(root)}

    def chapter(self, name, *cells):
        sources = [
            new_markdown_cell(f"# {name}"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, (CHECK, *cells)),
        ]
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=sources, metadata=METADATA), path)

    def command(self, *arguments):
        return [sys.executable, "-m", "l2m", *map(str, arguments)]

    def l2m(self, *arguments, cwd=None):
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a shell has its background jobs ignore Ctrl-C, and all that these start
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def files(self, folder):
        found = (self.root / folder).rglob("*")
        return sorted(p.relative_to(self.root).as_posix() for p in found if p.is_file())

    def executed(self, path):
        return nbformat.read(self.root / path, as_version=4)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def outputs_of(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(o.get("text", "") for cell in cells for o in cell.outputs)


def test_a_chapter_is_published_clean_and_then_checked(project):
    project.chapter("01_a", "import os, sys\nprint(os.getcwd(), object())", "print(windows)")
    project.chapter("02_b", "from l2m import scaling")
    done = project.l2m("run", "1", cwd=project.root / "notebooks")
    assert done.returncode == 0, done.stderr
    assert re.search(r"01_a: \d+ s → .*book/01_a.ipynb", done.stdout)
    notebook = project.executed("book/01_a.ipynb")
    assert "8\n" in outputs_of(notebook)
    text = (project.root / "book/01_a.ipynb").read_text()
    assert str(project.root) not in text and "papermill" not in text and "0x7f" not in text
    assert notebook.metadata["l2m"]["parameters"] == {"profile": "book", "windows": 8}
    assert notebook.metadata["kernelspec"] == METADATA["kernelspec"]
    assert project.files(".cache") == []

    assert project.l2m("check", "1").returncode == 0
    checked = project.l2m("check")
    assert checked.returncode == 1
    assert checked.stdout == (
        "02_b: it has not been executed. Run it again: python -m l2m run 02_b\n"
    )


def test_check_names_what_changed(project):
    package = project.root / "l2m"
    inner, other = package / "inner.py", package / "other.py"
    (package / "outer.py").write_text("def f():\n    from l2m.inner import x\n    return x")
    inner.write_text('"""Doc."""\nx = 1\n')
    other.write_text("x = 1")
    project.chapter("01_a", "from l2m import outer\nouter.f()")
    assert project.l2m("run").returncode == 0
    inner.write_text('"""Other words."""\n\nx = 1  # a comment changes no number\n')
    other.write_text("x = 2")  # which the chapter does not import
    assert project.l2m("check").returncode == 0

    inner.write_text("x = 2")
    init = package / "__init__.py"
    init.write_text(init.read_text().replace(l2m.__version__, "9.9"))
    record = project.root / "results" / "01_a" / "mi.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    path = project.root / "notebooks" / "01_a.ipynb"
    path.write_text(path.read_text().replace("windows: int = 8", "windows: int = 9"))
    said = project.l2m("check").stdout
    assert "source differs from cell 1" in said
    assert "other parameters (windows)" in said
    assert f"ran with l2m {l2m.__version__}, and this is 9.9" in said
    assert "the code of inner has changed" in said
    assert "the recorded 01_a/mi has changed" in said


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
        (["1", "--profile", "big"], "'profile' takes one of 'smoke', 'book', 'paper'"),
        (["7"], "No chapter '7'. The chapters: 01_a."),
        (["1", "-p", "windows", "3", "--output-dir", "book"], "choose another --output-dir"),
        (["1", "--output-dir", "pyproject.toml"], "cannot write to pyproject.toml"),
        (["1", "--jobs", "0"], "--jobs takes an integer from 1, not 0"),
    ],
)
def test_refused_before_anything_runs(project, arguments, says):
    project.chapter("01_a", "open('ran', 'w')")
    done = project.l2m("run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert project.files("notebooks") == ["notebooks/01_a.ipynb"]


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
    assert ".cache/runs/01_a.failed.ipynb" in project.files(".cache")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_runs_leave_the_book_alone(project, sent):
    project.chapter(
        "01_slow",
        "import os, time\nfrom pathlib import Path",
        "Path('kernel').write_text(str(os.getpid()))\nos.rename('kernel', 'started')",
        "time.sleep(100)",
    )
    book = project.root / "book" / "01_slow.ipynb"
    book.parent.mkdir()
    book.write_text("as it was")
    process = project.start("run")
    started = project.root / "notebooks" / "started"
    wait_until(started.exists)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert stderr == "\nl2m: stopped; what was there before is untouched.\n"
    assert project.files("book") == ["book/01_slow.ipynb"]
    assert book.read_text() == "as it was"
    wait_until(lambda: not alive(int(started.read_text())))


def wait_until(condition, seconds=40):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and ") Z " in state.read_text())


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
    assert about["command"] == "python -m l2m run 01_a --record"
