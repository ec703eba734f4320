"""Books → documents, token arrays, and windows that start at a paragraph.

A corpus is a table with the columns `short_book_title, author, publication_date, language, url,
text`, one row a document, paragraphs separated by a blank line. By name:

- `kjv` is embedded: the King James Bible, 66 books, a paragraph a chapter;
- `english-novels-100`, `eltec-eng`, `eltec-deu`, `eltec-fra` are read from the folder named by the
  environment variable `L2M_CORPORA`, else rebuilt from their public archives;
- `pg19` and `wikipedia` are streamed from the Hugging Face Hub at a pinned revision;
- anything else is a `.txt` or `.parquet` file, or a folder of them.
"""

import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from l2m.archives import (
    ARCHIVES,
    HUB,
    KJV_TEXTS,
    archive_table,
    complete,
    fingerprint_texts,
    hub_table,
    king_james,
)
from l2m.results import cache_dir, sha256, write_atomic

BATCH = 8  # documents tokenised at once, on all cores


@dataclass(frozen=True)
class Windows:
    """Windows of equal length: `tokens` (n, length) int64, `groups` (n,) the index of each one's
    book (of a single document: each its own), `starts` (n,) the character of that book at which it
    starts."""

    tokens: np.ndarray
    groups: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """Documents and what identifies them: `fingerprint` is the sha256 of the texts, in order."""

    name: str
    table: pd.DataFrame
    fingerprint: str

    @property
    def texts(self) -> list[str]:
        """The documents, paragraphs separated by a blank line."""
        return self.table["text"].tolist()

    @property
    def titles(self) -> list[str]:
        """Short titles of the documents."""
        return self.table["short_book_title"].tolist()

    def tokens(self, tokenizer) -> list[np.ndarray]:
        """Token ids of every document, without special tokens.

        Parameters
        ----------
        tokenizer : a `transformers` tokenizer.

        Returns
        -------
        One read-only array a document, uint16 if the vocabulary allows, else uint32: slices of a
        memory-mapped file of the cache folder, made on the first call.
        """
        dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        key = hashlib.sha256(f"{self.fingerprint} {tokenizer_key(tokenizer)}".encode())
        stem = cache_dir() / "tokens" / f"{Path(self.name).stem}-{key.hexdigest()[:16]}"
        data, manifest = stem.with_suffix(".bin"), stem.with_suffix(".json")
        if not _intact(data, manifest):
            lengths: list[int] = []
            write_atomic(data, lambda path: self._encode(tokenizer, dtype, path, lengths))
            about = {"corpus": self.name, "texts": self.fingerprint, "dtype": dtype.name}
            about |= {"sha256": sha256(data), "lengths": lengths}
            write_atomic(manifest, json.dumps(about))
        lengths = json.loads(manifest.read_text())["lengths"]
        flat = np.memmap(data, dtype, mode="r") if sum(lengths) else np.empty(0, dtype)
        return np.split(flat, np.cumsum(lengths)[:-1])

    def _encode(self, tokenizer, dtype: np.dtype, path: Path, lengths: list[int]) -> None:
        from tqdm import tqdm

        texts = self.texts
        bar = tqdm(texts, f"tokens of {self.name}", unit="book", delay=5)
        with open(path, "wb") as file, bar:
            for first in range(0, len(texts), BATCH):
                batch = texts[first : first + BATCH]
                for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                    np.asarray(ids, dtype).tofile(file)
                    lengths.append(len(ids))
                bar.update(len(batch))

    def windows(self, tokenizer, length: int, n: int, seed: int = 0) -> Windows:
        """Windows that start at a paragraph, from as many books as possible.

        Books are visited in turn, in an order drawn anew each round; windows of one book do not
        overlap. The first windows of a larger `n` are those of a smaller one. If there is one book
        only, a warning says so, and each window counts as a book of its own.

        Parameters
        ----------
        tokenizer : a fast `transformers` tokenizer (it must tell which characters a token covers).
        length : tokens a window.
        n : number of windows.

        Raises
        ------
        ValueError
            If the corpus does not hold `n` such windows (the message says how many it does), or
            `length` or `n` is not positive.
        """
        if length < 1 or n < 1:
            raise ValueError(f"Windows need length ≥ 1 and n ≥ 1, not {length} and {n}.")
        rng = np.random.default_rng(seed)
        books = [_Paragraphs(text, rng) for text in self.texts]
        picked: list[tuple[int, int, list[int]]] = []
        alive = list(range(len(books)))
        while len(picked) < n and alive:
            order = rng.permutation(alive).tolist()
            while order and len(picked) < n:
                some, order = order[: n - len(picked)], order[n - len(picked) :]
                found = _one_each(books, some, length, tokenizer)
                picked += [(book, *found[book]) for book in some if found[book] is not None]
                alive = [book for book in alive if found.get(book, ()) is not None]
        if len(picked) < n:
            raise ValueError(
                f"{self.name} holds {len(picked)} windows of {length} tokens that start at a "
                f"paragraph and do not overlap, not {n}: ask for fewer or shorter ones."
            )
        groups, starts, tokens = zip(*picked, strict=True)
        if len(books) == 1:
            warnings.warn(
                f"{self.name} is one document: each of its windows counts as a book, so partners "
                "come from the same text, and intervals do not know how texts differ",
                stacklevel=2,
            )
            groups = range(n)
        return Windows(np.array(tokens, np.int64), np.array(groups), np.array(starts))


class _Paragraphs:
    """The paragraphs of one book in random order, and what windows have taken of it."""

    def __init__(self, text: str, rng: np.random.Generator):
        self.text = text
        starts = [0, *(match.end() for match in re.finditer(r"\n{2,}", text))]
        self.starts = rng.permutation(starts).tolist()
        self.taken: list[tuple[int, int]] = []

    def next(self) -> int | None:
        """First character of a paragraph that no window covers, None if there is no more."""
        while self.starts:
            start = self.starts.pop()
            if not any(first <= start < last for first, last in self.taken):
                return start
        return None

    def take(self, start: int, end: int) -> bool:
        """Take these characters, unless a window has some of them."""
        free = not any(start < last and first < end for first, last in self.taken)
        if free:
            self.taken.append((start, end))
        return free


def _one_each(books: list[_Paragraphs], order: list[int], length: int, tokenizer) -> dict:
    """One further window of each book of `order`: (first character, ids), None if it has no more.

    All books at once, since a fast tokenizer encodes a batch on all cores.
    """
    found: dict[int, tuple[int, list[int]] | None] = {}
    while missing := [book for book in order if book not in found]:
        starts = {book: books[book].next() for book in missing}
        found |= {book: None for book, start in starts.items() if start is None}
        asked = [book for book in missing if starts[book] is not None]
        texts = [books[book].text for book in asked]
        encoded = _first_tokens(texts, [starts[book] for book in asked], length, tokenizer)
        for book, (ids, end) in zip(asked, encoded, strict=True):
            if ids and books[book].take(starts[book], end):
                found[book] = (starts[book], ids)
    return found


def _first_tokens(texts: list[str], starts: list[int], length: int, tokenizer) -> list:
    """The first `length` tokens of each text from a character on, and the character they end at.

    No tokens for a text that has too few.
    """
    spare = 16  # the last tokens of a cut text may be cut as well
    out: list = [None] * len(texts)
    size = 5 * (length + spare)
    while todo := [i for i, done in enumerate(out) if done is None]:
        pieces = [texts[i][starts[i] : starts[i] + size] for i in todo]
        batch = tokenizer(pieces, add_special_tokens=False, verbose=False)
        for row, i in enumerate(todo):
            ids = batch["input_ids"][row]
            whole = starts[i] + size >= len(texts[i])
            if len(ids) >= length + (0 if whole else spare):
                out[i] = ids[:length], starts[i] + batch.token_to_chars(row, length - 1).end
            elif whole:
                out[i] = [], len(texts[i])
        size *= 2
    return out


def load_corpus(name_or_path: str | Path, limit: int | None = None) -> Corpus:
    """A corpus by name, or from a `.txt` or `.parquet` file or a folder of them.

    Parameters
    ----------
    name_or_path : see the top of this module. A `.txt` file is one document; a `.parquet` file
        needs a column `text`, a row being a document.
    limit : first documents to keep; all of them if None (PG19: 28,602 books, 11 GB of text).

    Raises
    ------
    FileNotFoundError
        No such corpus, or its package is not installed.
    ConnectionError
        It has to come from the network, which is not there.
    ValueError
        A file is empty, not UTF-8, has no column `text`, or is not the one that was pinned.
    """
    name = str(name_or_path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is a number of documents, at least 1, not {limit}.")
    if name in HUB:
        table, texts = hub_table(name, limit), fingerprint(name)
    elif name == "kjv":
        table, texts = king_james(), KJV_TEXTS
    elif name in ARCHIVES:
        table, texts = archive_table(name)
    else:
        table = _read_path(Path(name))
        texts = fingerprint_texts(table["text"])
    if limit is not None:
        table = table.head(limit)
        texts = f"{texts}[:{limit}]"
    return Corpus(name, table, texts)


def fingerprint(name_or_path: str | Path, limit: int | None = None) -> str:
    """What identifies the texts of a corpus, for known names without reading them.

    The sha256 of the texts; for a Hub id its pinned revision; with a `limit`, that too.
    """
    name = str(name_or_path)
    known = {"kjv": KJV_TEXTS} | {key: archive.texts for key, archive in ARCHIVES.items()}
    known |= {key: f"{hub['path']}@{hub['revision']}" for key, hub in HUB.items()}
    if name not in known:
        return load_corpus(name, limit).fingerprint
    return known[name] if limit is None else f"{known[name]}[:{limit}]"


def _read_path(path: Path) -> pd.DataFrame:
    if not path.exists():
        names = ", ".join(["kjv", *ARCHIVES, *HUB])
        raise FileNotFoundError(
            f"There is no corpus, file or folder {str(path)!r}: give the path of a .txt or "
            f".parquet file or of a folder of them, or one of {names}."
        )
    return pd.concat([_read_file(file) for file in text_files(path)], ignore_index=True)


def text_files(path: str | Path) -> list[Path]:
    """The `.txt` and `.parquet` files of a folder, sorted by path; or the one that is named.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    path = Path(path)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix in (".txt", ".parquet")]
    if not files:
        raise FileNotFoundError(f"{path} holds no .txt or .parquet file.")
    return files


def _read_file(file: Path) -> pd.DataFrame:
    if file.suffix == ".parquet":
        try:
            table = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is no parquet file: {error}") from error
        if "text" not in table:
            raise ValueError(f"{file} has no column 'text', only {', '.join(map(str, table))}.")
    else:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 ({error}): convert it.") from error
        table = pd.DataFrame({"short_book_title": [file.stem], "text": [text]})
    empty = [
        row
        for row, text in enumerate(table["text"])
        if not (isinstance(text, str) and text.strip())
    ]
    if empty or table.empty:
        where = "" if file.suffix == ".txt" or table.empty else f" in row {empty[0]}"
        raise ValueError(f"{file} is empty{where}: a document needs text.")
    return complete(table)


def tokenizer_key(tokenizer) -> str:
    """sha256 of what a tokenizer does: its whole specification where it has one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(spec.encode()).hexdigest()


def _intact(data: Path, manifest: Path) -> bool:
    if not (data.exists() and manifest.exists()):
        return False
    try:
        return sha256(data) == json.loads(manifest.read_text())["sha256"]
    except json.JSONDecodeError:
        return False
