"""What is published: executed chapters, without what belongs to the machine; and the pages."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from l2m.chapters.contents import ChapterError
from l2m.files import ROOT, write_atomic

MAX_BYTES = 2_000_000  # of an executed notebook
# What builds the pages where _config.yml is; jupyter_book's module does nothing when run with -m.
BUILD = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
BUILD += ["build", ".", "-n", "-W", "--keep-going"]

_WIDGET = "application/vnd.jupyter.widget-view+json"  # shows nothing without its kernel
_FOLDERS = [  # the innermost first; in a container the home may be the root, which stays
    (str(folder), name)
    for folder, name in (
        (Path(sys.prefix), "<environment>"),
        (ROOT, "."),
        (Path.home(), "~"),
        (Path(tempfile.gettempdir()), "<temporary>"),
    )
    if folder != folder.parent
]


def publish(executed, source, info: dict, path: Path) -> Path:
    """Clean an executed notebook, stamp it with `info` and write it whole or not at all.

    `executed` is what papermill made, changed in place; it gets the metadata of `source`, the
    chapter, instead of papermill's, and `info` under ``l2m``. ChapterError when it is larger than
    what a code host shows well.
    """
    import nbformat

    originals = {cell.id: cell for cell in source.cells}
    for cell in executed.cells:
        if cell.id in originals:
            cell.metadata = originals[cell.id].metadata
        else:  # papermill's injected parameters
            cell.metadata = {"tags": ["injected-parameters", "hide-cell"]}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if _WIDGET not in o.get("data", {})]
            for number, output in enumerate(cell.outputs):
                _clean(output, f"{cell.id}-{number}")
    executed.metadata = source.metadata | {"l2m": info}
    text = nbformat.writes(executed) + "\n"
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ChapterError(f"its outputs make {size:,} bytes; a chapter has {MAX_BYTES:,} at most.")
    return write_atomic(path, text)


def build_pages() -> Path:
    """Build the pages of the book; return the first. RuntimeError when there was a warning."""
    if subprocess.run(BUILD, cwd=ROOT).returncode:
        raise RuntimeError("the pages were not built; see above.")
    return ROOT / "_build" / "html" / "index.html"


def _clean(output, label: str) -> None:
    if output.output_type == "stream":
        output.text = _clean_text(output.text)
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/") and isinstance(content, str):
            content = _clean_text(content)
            if kind == "text/html":  # the random name that pandas gives to a styled table
                content = re.sub(r"\bT_[0-9a-f]{5}(?=[_\s\"])", f"T_{label}", content)
            output.data[kind] = content


def _clean_text(text: str) -> str:
    """Drop this machine's folders, and the addresses of objects."""
    for folder, name in _FOLDERS:
        text = text.replace(folder, name)
    text = re.sub(r"ipykernel_\d+/\d+\.py", "cell.py", text)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
