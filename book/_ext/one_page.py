"""All pages of the built site as one, printed by a browser: `python book/_ext/one_page.py BROWSER`.

Writes _build/html/book/print.html and _build/l2m.pdf. Links between pages become links within it.
"""

import re
import sys
from pathlib import Path

import yaml


def one_page(folder: Path, names: list[str]) -> str:
    """Return the HTML of the pages called `names` (as book/01_theory), one after the other."""
    stems = [Path(name).name for name in names]
    head, parts = "", []
    for name, stem in zip(names, stems, strict=True):
        html = (folder / f"{name}.html").read_text(encoding="utf-8")
        article = html[html.index('<article class="bd-article"') : html.index("</article>")]
        article = re.sub(r'\bid="', f'id="{stem}--', article)
        article = re.sub(r'href="#', f'href="#{stem}--', article)
        for other in stems:
            article = article.replace(f'href="{other}.html#', f'href="#{other}--')
            article = article.replace(f'href="{other}.html"', f'href="#{other}"')
        if "window.MathJax" in html:  # pages without formulas do not load what sets them
            head = html[: html.index("</head>")]
        parts.append(f'<section id="{stem}">{article}</article></section>')
    head = re.sub(r"<title>.*?</title>", "<title>L²M, measured and computed</title>", head)
    body = '<body><main class="bd-main" style="display: block"><div class="bd-content" '
    body += 'style="display: block">' + "\n".join(parts) + "</div></main></body></html>\n"
    return head + "</head>" + body


def print_page(browser: str, page: Path, pdf: Path) -> None:
    """Let the browser with the path `browser` print the HTML `page`, its formulas set, as `pdf`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = started.new_page(color_scheme="light")
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("html[data-ready]", state="attached", timeout=300_000)
        view.pdf(path=pdf, prefer_css_page_size=True, outline=True, tagged=True)
        started.close()


if __name__ == "__main__":
    toc = yaml.safe_load(Path("_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"]] + [page["file"] for part in toc["parts"] for page in part["chapters"]]
    site = Path("_build/html")
    whole = site / "book" / "print.html"
    whole.write_text(one_page(site, pages), encoding="utf-8")
    print_page(sys.argv[1], whole, Path("_build/l2m.pdf"))
