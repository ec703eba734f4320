"""Raw files of public archives → paragraphs separated by a blank line.

Archives wrap lines, but a line break is no token, and a window must start where a paragraph does.
"""

import re

import numpy as np

TEI = "{http://www.tei-c.org/ns/1.0}"
LONG_LINE = 110  # characters: a file with longer lines is not hard-wrapped
ENDS_PARAGRAPH = re.compile(r"""[.!?:;"')\]-]$""")


def decode(raw: bytes) -> str:
    """Text of a file that is UTF-8 or, failing that, Latin-1, as older archives are."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def plain_lines(text: str) -> str:
    """The text with its line ends as "\\n", whatever they were, and blank lines empty."""
    return re.sub(r"\n[ \t]+(?=\n)", "\n", re.sub(r"\r\n?", "\n", text))


def is_binary(text: str) -> bool:
    """Whether it has null or many control characters, as UTF-16 has that is read as UTF-8."""
    return "\0" in text or len(re.findall(r"[\x01-\x08\x0e-\x1f]", text)) > len(text) / 100


def unwrap(text: str) -> str:
    """Undo hard line wraps: the same words, one line per paragraph, blank lines between.

    `text` is hard-wrapped, or has one line per paragraph, with whatever line ends and spacing.
    Files with almost no blank lines mark a paragraph's end by a short last line only; there a line
    ends a paragraph if it is shorter than 0.7 of the usual width and closes a sentence.
    """
    text = plain_lines(text).replace("\ufeff", "").replace("\u00a0", " ")
    text = re.sub(r" *\n *", "\n", re.sub(r"[ \t]+", " ", text))
    lines = re.sub(r"\n{3,}", "\n\n", text).strip().split("\n")
    width = np.percentile([len(line) for line in lines if line] or [LONG_LINE], 90)
    if width >= LONG_LINE:
        return "\n\n".join(filter(None, lines))
    few_blanks = lines.count("") < 0.05 * len(lines)
    paragraphs, current = [], []
    for line in [*lines, ""]:
        if line:
            current.append(line)
        short_end = few_blanks and len(line) < 0.7 * width and ENDS_PARAGRAPH.search(line)
        if current and (not line or short_end):
            paragraphs.append(" ".join(current))
            current = []
    return "\n\n".join(paragraphs)


def tei_book(xml: bytes) -> tuple[str, str, int, str]:
    """Title, author, year (0 if the header has none) and paragraphs of a TEI document.

    Headings, paragraphs and lines of verse of the body count as paragraphs; notes and markup inside
    them are kept as text, front and back matter is left out.
    """
    from lxml import etree

    root = etree.fromstring(xml, parser=etree.XMLParser(recover=True, huge_tree=True))
    elements = root.find(f".//{TEI}body").iter(f"{TEI}p", f"{TEI}head", f"{TEI}l")
    paragraphs = [" ".join("".join(element.itertext()).split()) for element in elements]
    heading = root.find(f".//{TEI}titleStmt")
    names = (heading.findtext(TEI + tag, default="") for tag in ("title", "author"))
    title, author = (" ".join(name.split()) for name in names)
    title = re.sub(r"\s*:[^:]*ELTeC.*$", "", title, flags=re.IGNORECASE)
    dates = root.iterfind(f".//{TEI}sourceDesc//{TEI}date")
    year = re.search(r"\b1[5-9]\d\d\b", " ".join("".join(date.itertext()) for date in dates))
    return title, author, int(year[0]) if year else 0, "\n\n".join(filter(None, paragraphs))
