"""A small project of its own, with the package and made-up chapters, in which commands run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
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
    """A folder with the package and its own chapters."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(PACKAGE, root / "l2m", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "pyproject.toml").touch()
        (root / "notebooks").mkdir()
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("L2M_")
        } | {"PYTHONPATH": str(root)}

    def chapter(self, name, *cells, text=""):
        """Write a chapter of these code cells, and of a last one with `text`."""
        sources = [
            new_markdown_cell(f"# {name}"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, (CHECK, *cells)),
        ]
        sources += [new_markdown_cell(text)] if text else []
        notebook = new_notebook(cells=sources, metadata=METADATA)
        nbformat.write(notebook, self.root / "notebooks" / f"{name}.ipynb")

    def command(self, *arguments):
        return [sys.executable, "-m", "l2m", *map(str, arguments)]

    def l2m(self, *arguments, cwd=None):
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def start(self, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdout=stdout,
            stderr=stderr,
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


def outputs_of(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(o.get("text", "") for cell in cells for o in cell.outputs)


def wait_until(condition, seconds=60):
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
