"""What is published of an executed chapter: its numbers as text, and nothing of the machine.

In a chapter's source a number in prose is an expression, MyST's role ``eval``, which JupyterLab
computes in the kernel. In the published copy its value stands in its place; expression and value
are kept in the cell's metadata. What a chapter says of the paper's claims is kept in ``results/``.
"""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

from l2m.chapters.contents import CLAIMS, ChapterError, book_dir, claims_file
from l2m.files import ROOT, cache_dir, digest, held, leash, write_atomic

MAX_BYTES = 2_000_000  # of an executed notebook
# What builds the pages where _config.yml is; jupyter_book's module does nothing when run with -m.
BUILD = [sys.executable, "-c"]
BUILD += ["import l2m.files; l2m.files.leashed(); import jupyter_book.cli.main as m; m.main()"]
BUILD += ["build", ".", "-n", "-W", "--keep-going"]

# A role, unless it stands in code: a fence, or a span between backticks.
ROLE = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,})(?s:.*?)^ *(?P=fence)"
    r"|(?<!`)\{(?P<role>[\w:-]+)\}`(?P<expression>[^`]+)`(?!`)"
    r"|(?P<span>`+)(?s:.*?)(?<!`)(?P=span)(?!`)",
    re.MULTILINE,
)
_WIDGET = "application/vnd.jupyter.widget-view+json"  # shows nothing without its kernel
# Local folders, and what stands for them; a token in the environment is nobody's business, either.
_FOLDERS = {str(ROOT): ".", str(Path.home()): "~", tempfile.gettempdir(): "<temporary>"}
_FOLDERS |= {sys.prefix: "<environment>", sysconfig.get_path("stdlib"): "<python>"}
_FOLDERS |= {os.environ.get(f"L2M_{n}", ""): f"<{n.lower()}>" for n in ("CACHE", "CORPORA")}
_FOLDERS |= {os.path.realpath(folder): name for folder, name in _FOLDERS.items() if folder}
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
# All that pandas' tables are made of; what else looks like markup is a name, and is text.
_STYLE = re.compile(r'(<div>\s*)?<style( scoped| type="text/css")>[^<]*</style>')
_NO_TABLE = re.compile(
    r"<(?!/?(?:table|thead|tbody|tr|th|td|caption|div|p)"
    r'(?:\s+(?:class|id|border|colspan|rowspan|halign|valign|style)="[^"<>()]*")*\s*>)'
)


def expressions(source: str) -> list[str]:
    """Return the expressions whose values belong into a cell's text, in order."""
    return [found["expression"] for found in ROLE.finditer(source) if found["role"] == "eval"]


def other_roles(source: str) -> list[str]:
    """Return the other roles in a cell's text: most likely misspelt, as all else is Markdown."""
    return [found[0] for found in ROLE.finditer(source) if found["role"] not in (None, "eval")]


def published(source: str, values: list[str]) -> str:
    """Return a cell's text as published: values, as far as given, and links from where book/ is."""
    rest = iter(values)

    def value(found):
        return next(rest, found[0]) if found["role"] == "eval" else found[0]

    return ROLE.sub(value, source).replace("](../book/", "](")


def as_text(shown: str) -> str:
    """Return a string or number, as a kernel shows it, as prose; ValueError for all else, or ''."""
    try:
        value = ast.literal_eval(shown)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, str | int | float):
        raise ValueError(f'its value is {shown[:100]}, and not a text such as f"{{x:.2f}}" makes')
    if not str(value).strip():
        raise ValueError("its value is empty")
    text = _minus(_clean(str(value).strip()))
    return re.sub(r"([\\`*_\[\]<>$|&])", r"\\\1", text)  # nothing is markup


def _minus(text: str) -> str:
    """Text in which a negative number has a minus sign, not a hyphen."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def claim(id: str, *, paper: str, ours: str, condition: str, verdict: str, reason: str) -> None:
    """Say in a chapter what came out of one of the paper's claims.

    The paper's number; ours with its interval, and under which condition (data, model, lengths) it
    holds; a verdict in a word or two; its reason in one sentence. A run of the published chapter
    keeps it in ``results/``. ValueError for an unknown `id`, or an empty text.
    """
    from IPython.display import display

    said = {"id": id, "paper": paper, "ours": ours, "condition": condition}
    said |= {"verdict": verdict, "reason": reason}
    said = {name: _minus(text) for name, text in said.items()}
    if id not in CLAIMS:
        raise ValueError(f"No claim {id!r}: they are {', '.join(CLAIMS)}.")
    if empty := [name for name, text in said.items() if not text.strip()]:
        raise ValueError(f"Claim {id} has no text for {', '.join(empty)}.")
    display({"text/plain": f"{id}, {verdict}: {reason}"}, metadata={"claim": said}, raw=True)


def claims_of(executed) -> str:
    """Return the claims that an executed chapter made, as the text of their file; empty if none."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    claims = [o.metadata["claim"] for o in outputs if "claim" in o.get("metadata", {})]
    return json.dumps(claims, indent=1, sort_keys=True, ensure_ascii=False) + "\n" if claims else ""


def publish(executed, source, info: dict, path: Path) -> Path:
    """Clean an executed notebook in place, stamp it with `info`, write it whole or not at all.

    It gets the metadata of `source`, the chapter, instead of papermill's. For a `path` in ``book/``
    its claims are written, too. What is there already, and differs in nothing but `info`'s `ran`,
    stays. ChapterError when it is larger than a code host shows well.
    """
    import nbformat

    originals = {cell.id: cell for cell in source.cells}
    for cell in executed.cells:
        values = cell.metadata.get("eval", [])  # of a run's engine
        if cell.id in originals:
            cell.metadata = originals[cell.id].metadata | ({"eval": values} if values else {})
        else:  # papermill's injected parameters
            cell.metadata = {"tags": ["injected-parameters", "hide-cell"]}
        if cell.cell_type == "markdown":
            cell.source = published(cell.source, [value for _, value in values])
        if cell.cell_type == "code":
            cell.outputs = _joined(o for o in cell.outputs if _WIDGET not in o.get("data", {}))
            for number, output in enumerate(cell.outputs):
                _clean_output(output, f"{cell.id}-{number}")
    read = nbformat.reads(nbformat.writes(executed), as_version=4)  # as a check will find it
    executed.metadata = source.metadata | {"l2m": info | {"outputs": outputs_digest(read)}}
    text = nbformat.writes(executed) + "\n"
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ChapterError(f"its outputs make {size:,} bytes; a chapter has {MAX_BYTES:,} at most.")
    if path.parent == book_dir() and (claims := claims_of(executed)):
        write_atomic(claims_file(path.stem), claims)
    with suppress(OSError, ValueError, KeyError):
        if _without_ran(path.read_text(encoding="utf-8")) == _without_ran(text):
            return path
    return write_atomic(path, text)


def outputs_digest(executed) -> str:
    """Return one sha256 of all that the cells of an executed notebook show."""
    return digest([cell.get("outputs", []) for cell in executed.cells])


def _without_ran(text: str) -> dict:
    notebook = json.loads(text)
    del notebook["metadata"]["l2m"]["ran"]
    return notebook


def build_pages() -> Path:
    """Build the pages of the book; return the first. RuntimeError when there was a warning."""
    with (
        held(cache_dir() / "runs" / "pages"),
        subprocess.Popen(BUILD, cwd=ROOT, start_new_session=True, **leash()) as process,
    ):
        try:
            status = process.wait()
        except BaseException:  # this one's Ctrl-C, which it does not get
            process.kill()
            raise
    if status:
        raise RuntimeError("the pages were not built; see above.")
    return ROOT / "_build" / "html" / "index.html"


def _joined(outputs) -> list:
    """Outputs of a cell, with what a stream wrote in pieces, which chance decides, in one."""
    out = []
    for output in outputs:
        if out and output.get("name") and output.get("name") == out[-1].get("name"):
            out[-1].text += output.text
        else:
            out.append(output)
    return out


def _clean_output(output, label: str) -> None:
    data = output.get("data", {})
    pictures = {k: v for k, v in data.items() if re.match(r"image/(?!svg)|application/pdf", k)}
    output.update(_clean(output))
    for kind, content in output.get("data", {}).items():
        if kind in pictures:  # letters that encode bytes
            output.data[kind] = pictures[kind]
        if kind == "text/markdown":
            output.data[kind] = content.replace("<", "&lt;")
        if kind == "text/html":
            start = found.end() if (found := _STYLE.match(content)) else 0
            content = content[:start] + _NO_TABLE.sub("&lt;", content[start:])
            # the random name that pandas gives to a styled table
            output.data[kind] = re.sub(r"\bT_[0-9a-f]{5}(?=[_\s\"])", f"T_{label}", content)


def _clean(value):
    """Drop this machine's folders and secrets, and the addresses of objects, from all text."""
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if len(secret) > 7 and _SECRET.search(name):
            value = value.replace(secret, f"<{name}>")
    for folder in sorted(_FOLDERS, key=len, reverse=True):  # the innermost first, each as a whole
        if folder != os.path.dirname(folder):  # in a container the home may be the root
            whole = rf"(^|[^\w.~-]|\x1b\[[\d;]*m){re.escape(folder)}(?![\w~-]|\.\w)"
            value = re.sub(whole, rf"\g<1>{_FOLDERS[folder]}", value)
    value = re.sub(r"<temporary>/tmp\w{8}\b", "<temporary>", value)  # a random name
    value = re.sub(r"ipykernel_\d+/\d+\.py", "cell.py", value)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", value)
