"""All pages of the built site as one, for the printer: `python book/_ext/one_page.py _build/html`.

Writes book/print.html there. Links between pages become links within it.
"""

import re
import sys
from pathlib import Path

import yaml


def one_page(folder: Path, names: list[str]) -> str:
    """Return the HTML of the pages called `names` (as book/01_theory), one after the other."""
    stems = [Path(name).name for name in names]
    parts = []
    for name, stem in zip(names, stems, strict=True):
        html = (folder / f"{name}.html").read_text(encoding="utf-8")
        article = html[html.index('<article class="bd-article"') : html.index("</article>")]
        article = re.sub(r'\bid="', f'id="{stem}--', article)
        article = re.sub(r'href="#', f'href="#{stem}--', article)
        for other in stems:
            article = article.replace(f'href="{other}.html#', f'href="#{other}--')
            article = article.replace(f'href="{other}.html"', f'href="#{other}"')
        parts.append(f'<section id="{stem}">{article}</article></section>')
    head = html[: html.index("</head>")]
    head = re.sub(r"<title>.*?</title>", "<title>L²M, measured and computed</title>", head)
    body = '<body><main class="bd-main" style="display: block"><div class="bd-content" '
    body += 'style="display: block">' + "\n".join(parts) + "</div></main></body></html>\n"
    return head + "</head>" + body


if __name__ == "__main__":
    site = Path(sys.argv[1])
    toc = yaml.safe_load(Path("_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"]] + [page["file"] for part in toc["parts"] for page in part["chapters"]]
    (site / "book" / "print.html").write_text(one_page(site, pages), encoding="utf-8")
