"""What the pages need and no option gives: a description of each, and no more MathJax than is used.

The description, for search engines and previews of links, is the page's first plain sentences; the
extension that writes the previews would take formulas in as TeX source.
"""

import re
from html import escape

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


def setup(app) -> dict:
    """Come after sphinx-mathjax-offline, and write before the previews (priority 500)."""
    app.config.mathjax_path = "mathjax/startup.js"  # loads what mathjax3_config names
    app.connect("html-page-context", _add, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
