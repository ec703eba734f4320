"""What the pages need and no option gives: descriptions, addresses, no more MathJax than is used.

The description, for search engines and previews of links, is the page's first plain sentences; the
extension that writes the previews would take formulas in as TeX source. Where _config.yml names the
repository, a chapter that finds no `l2m` says its address, and pages have buttons that lead to it;
Binder and Colab open a chapter's source, which computes the numbers of its text.
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


def _only_where_it_leads(app, config) -> None:
    """Take the buttons away that need a repository on GitHub, if there is none."""
    config.ogp_site_url = config.html_baseurl
    if "github.com/" not in _address(app):
        for name in ("use_repository_button", "use_issues_button", "launch_buttons"):
            config.html_theme_options.pop(name, None)


def _launch_sources(app, pagename, templatename, context, doctree) -> None:
    source = f"notebooks/{Path(pagename).name}.ipynb"
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []) if group["label"] == "launch-buttons" else []:
            button["url"] = button["url"].replace(f"{pagename}.ipynb", source)


def _tell(app, name, source) -> None:
    source[0] = with_address(source[0], _address(app))


def _tell_downloads(app, error) -> None:
    for path in Path(app.outdir, "_sources").rglob("*.ipynb") if _address(app) else ():
        told = with_address(path.read_text(encoding="utf-8"), _address(app))
        path.write_text(told, encoding="utf-8")


def setup(app) -> dict:
    """Come after sphinx-mathjax-offline, and write before the previews (priority 500)."""
    app.config.mathjax_path = "mathjax/startup.js"  # loads what mathjax3_config names
    app.connect("config-inited", _only_where_it_leads)
    app.connect("html-page-context", _add, priority=400)
    app.connect("html-page-context", _launch_sources, priority=502)  # the theme's are of 501
    app.connect("source-read", _tell)
    app.connect("build-finished", _tell_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
