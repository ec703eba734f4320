"""What the pages need and no option gives: descriptions, an address, no more MathJax than is used.

The description, for search engines and previews of links, is the page's first plain sentences; the
extension that writes the previews would take formulas in as TeX source. The address of the
repository, where _config.yml has one, is said by a chapter that finds no `l2m`.
"""

import re
from html import escape
from pathlib import Path

from docutils import nodes

MOST = 200  # characters
# Not after an abbreviation: Fig., Sec., App.
_SENTENCES = re.compile(r"(?<=[.?!])(?<![A-Z][a-z][a-z]\.)\s+(?=[A-Z“])")


def describe(doctree) -> str:
    """Return the first sentences of a page that hold no formula, some `MOST` characters."""
    found = ""
    for paragraph in doctree.findall(nodes.paragraph):
        parts = [
            "\0" if isinstance(part.parent, nodes.math) else part.astext()
            for part in paragraph.findall(nodes.Text)
        ]
        for sentence in _SENTENCES.split(" ".join("".join(parts).split())):
            if "\0" in sentence or not sentence.endswith((".", "?", "!")):
                continue
            if found and len(found) + len(sentence) >= MOST:
                return found
            found = f"{found} {sentence}".strip()
        if found:
            return found
    return found


def _add(app, pagename, templatename, context, doctree) -> None:
    if doctree and (text := describe(doctree)):
        context["meta"] = (context["meta"] or {}) | {"og:description": text}
        context["metatags"] += f'<meta name="description" content="{escape(text)}" />\n'


def with_address(text: str, url: str) -> str:
    """Return a chapter's text, in which one without `l2m` is told to clone `url`, if that is known."""
    return text.replace("(on Colab upload it first)", f"(`!git clone {url}`)") if url else text


def _address(app) -> str:
    return app.config.html_theme_options.get("repository_url", "")


def _tell(app, name, source) -> None:
    source[0] = with_address(source[0], _address(app))


def _tell_downloads(app, error) -> None:
    for path in Path(app.outdir, "_sources").rglob("*.ipynb") if _address(app) else ():
        told = with_address(path.read_text(encoding="utf-8"), _address(app))
        path.write_text(told, encoding="utf-8")


def setup(app) -> dict:
    """Come after sphinx-mathjax-offline, and write before the previews (priority 500)."""
    app.config.mathjax_path = "mathjax/startup.js"  # loads what mathjax3_config names
    app.connect("html-page-context", _add, priority=400)
    app.connect("source-read", _tell)
    app.connect("build-finished", _tell_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
