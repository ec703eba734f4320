"""Books → documents, token arrays, and windows that start at a paragraph.

A corpus is a table with the columns `short_book_title, author, publication_date, language, url,
text`, one row per document, paragraphs separated by a blank line. By name, `kjv` is embedded: the
King James Bible, 66 books, one paragraph per chapter; `english-novels-100`, `eltec-eng`,
`eltec-deu`, `eltec-fra` are read from the folder named by the environment variable `L2M_CORPORA`,
else rebuilt from their archives; `english-books` are read from that folder alone; `pg19` and
`wikipedia` are streamed from the Hugging Face Hub at a pinned revision. Anything else is a `.txt`
or `.parquet` file, or a folder of them.
"""

import itertools
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from l2m.files import digest, meant, tree_digest
from l2m.text import archives, cleaning
from l2m.text.archives import ARCHIVES, COLUMNS, HUB, complete
from l2m.text.sequences import Windows, draw_windows
from l2m.text.token_files import TokenFile, tokenised

# A table that unpacks to more bytes, and so many times those of its file, holds no text.
UNPACKED, RATIO = 1 << 28, 100
TOGETHER = 64  # text files that are read at once
CONVERT = "convert it, say with `iconv -f UTF-16 -t UTF-8`."
# What no person would call a document: hidden, of a tool's own, or about the folder.
NO_DOCUMENT = re.compile(r"[.~]|__|_(common_)?metadata\.|(readme|licen[cs]e|copying)\.", re.I)


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
        """Token ids of every document, no special ones: slices of a file that is made once."""
        authors = list(map(str, self.table["author"]))
        about = [[self.name, self.fingerprint, list(map(str, self.titles)), authors]]
        return tokenised(_books(self.name, self.table), tokenizer, about).documents()

    def windows(self, tokenizer, length: int, n: int, seed: int = 0) -> Windows:
        """Draw `n` windows of `length` tokens from as many books as possible.

        A window starts at a paragraph. Books are visited in turn, in an order drawn anew each
        round; windows of one book do not overlap. The first windows of a larger `n` are those of a
        smaller one. If there is one book only, a warning says so, and each window counts as a book
        of its own. The `transformers` tokenizer must be fast: it tells which characters a token
        covers. ValueError if the corpus does not hold `n` such windows, but fewer, which it says.
        """
        if length < 1 or n < 1:
            raise ValueError(f"Windows need length ≥ 1 and n ≥ 1, not {length} and {n}.")
        _require_fast(tokenizer)
        found = draw_windows(self.texts, tokenizer, length, n, seed)
        if len(found.tokens) < n:
            held = f"{self.name} holds {len(found.tokens)} windows of {length} tokens"
            why = f"that start at a paragraph and do not overlap, not {n}"
            raise ValueError(f"{held} {why}: ask for fewer or shorter ones.")
        if len(self.table) > 1:
            return found
        warnings.warn(
            f"{self.name} is one document: each of its windows counts as a book, so partners come "
            "from the same text, and intervals do not know how texts differ",
            stacklevel=2,
        )
        return Windows(found.tokens, np.arange(n), found.starts)


def load_corpus(name_or_path: str | Path, limit: int | None = None) -> Corpus:
    """A corpus by name (see the top of this module), or from files.

    Of files, a `.txt` is one document; a `.parquet` needs a column `text`, one document per row.
    What is hidden, such as `.ipynb_checkpoints`, or a README is none; a warning names equal ones.
    Only the first `limit` documents are kept; with None all (PG19: 28,602 books, 11 GB of text).

    FileNotFoundError if there is no such corpus, or its package is not installed; ConnectionError
    if it has to come from a network that is not there; ValueError if a file is empty, not UTF-8,
    not the pinned one, or has no column `text`; DamagedFile if what was fetched is damaged.
    """
    name = str(name_or_path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is a number of documents, at least 1, not {limit}.")
    known = archives.known()
    if name in HUB:
        table = complete(pd.DataFrame(itertools.islice(archives.hub_documents(name), limit)))
    elif name == "kjv":
        table = archives.king_james()
    elif name in ARCHIVES:
        table = archives.archive_table(name)
    elif Path(name).exists():
        files = tqdm(text_files(name), "texts", unit="file", delay=5)
        table = pd.concat(_read_files(files), ignore_index=True)
    else:
        raise FileNotFoundError(
            f"There is no corpus, file or folder {name!r}: give the path of a .txt or .parquet "
            f"file or of a folder of them, or one of {', '.join(known)}.{meant(name, known)}"
        )
    if name in HUB or name not in known:
        _report_equal(name, table["short_book_title"], [digest(text) for text in table["text"]])
    texts = known[name] if name in known else archives.fingerprint_texts(table["text"])
    return Corpus(name, table.head(limit or len(table)), texts + _limited(limit))


def fingerprint(name_or_path: str | Path, limit: int | None = None) -> str:
    """What identifies the texts of a corpus, for known names without reading them."""
    texts = archives.known().get(str(name_or_path))
    return texts + _limited(limit) if texts else load_corpus(name_or_path, limit).fingerprint


def _limited(limit: int | None) -> str:
    return "" if limit is None else f"[:{limit}]"


def token_file(names, tokenizer, limit: int | None = None) -> TokenFile:
    """Open the token file of some corpora in the cache folder; make it first if there is none.

    `names` are corpora in order, names or paths; those of the Hub are streamed, and folders are
    read file by file: a corpus need not fit into memory. Of each only the first `limit` books are
    kept, all when None. Errors as of `load_corpus`; ValueError also for a `transformers` tokenizer
    that is slow, or has no token that could begin a sequence; DamagedFile if the file is damaged.
    """
    _require_fast(tokenizer)
    about = [[str(name), identity(name), limit] for name in names]
    file = tokenised(_documents(names, limit), tokenizer, about)
    if file.bos_token_id is None:
        raise ValueError("the tokenizer names no token that could begin a sequence")
    _report_equal(", ".join(map(str, names)), file.books["title"], file.books["sha256"])
    return file


def _require_fast(tokenizer) -> None:
    if not getattr(tokenizer, "is_fast", True):
        problem = f"{type(tokenizer).__name__} is no fast tokenizer: it cannot say where paragraphs"
        raise ValueError(f"{problem} start; name a model or folder that has a tokenizer.json.")


def _report_equal(name, titles, keys) -> None:
    """Warn of documents that are the same: those with equal keys."""
    table = pd.DataFrame({"title": map(str, titles), "key": keys})
    if len(same := table[table.duplicated("key", keep=False)]):
        groups = [" and ".join(map(repr, part)) for _, part in same.groupby("key")["title"]]
        warnings.warn(
            f"{name} has equal documents ({'; '.join(groups[:5])}), so that a text may be its own "
            "partner, or held out and trained on: remove all but one of each",
            stacklevel=3,
        )


def _documents(names, limit) -> Iterator[tuple[dict, str]]:
    """Yield (what it is, text) of every book, corpus after corpus, never a whole one at once."""
    for name in map(str, names):
        if name in HUB:
            tables = (complete(pd.DataFrame([row])) for row in archives.hub_documents(name))
        elif Path(name).is_dir():
            tables = _read_files(text_files(name))
        else:
            tables = [load_corpus(name).table]
        books = (book for table in tables for book in _books(name, table))
        yield from itertools.islice(books, limit)


def _books(name, table) -> Iterator[tuple[dict, str]]:
    for book in table.itertuples():
        about = {"corpus": name, "title": str(book.short_book_title), "author": str(book.author)}
        yield about, book.text


def identity(name) -> str:
    """What identifies a corpus, titles included, without keeping it in memory."""
    return tree_digest(name, text_files(name)) if Path(name).exists() else fingerprint(name)


def text_files(path: str | Path) -> list[Path]:
    """The `.txt` and `.parquet` files of a folder, sorted by path; or the one that is named.

    FileNotFoundError if there are none; ValueError for a pipe, or a name that is not UTF-8.
    """
    path, files = Path(path), [Path(path)]
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise ValueError(f"{path} is neither a file nor a folder: write its text to a .txt file.")
    if path.is_dir():
        files = [file for file in _files_below(path) if not NO_DOCUMENT.match(file.name)]
    files = sorted(file for file in files if file.suffix.lower() in (".txt", ".parquet"))
    for file in files:
        if file.is_symlink() and not file.exists():
            raise ValueError(f"{file} is a link that leads nowhere: mend it, or remove it.")
    files = [file for file in files if file.is_file()]
    if not files:
        raise FileNotFoundError(f"{path} holds no .txt or .parquet file.")
    for name in map(str, files):
        if name.encode(errors="replace").decode() != name:
            raise ValueError(f"The name {name!r} is not UTF-8: rename it.")
    return files


def _files_below(folder: Path) -> Iterator[Path]:
    """What is in a folder and those below, but hidden ones; of links to folders each one once."""

    def unread(error):
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}.")

    seen = set()
    for here, folders, names in os.walk(folder, onerror=unread, followlinks=True):
        new = (real := os.path.realpath(here)) not in seen
        seen.add(real)
        folders[:] = sorted(f for f in folders if new and not NO_DOCUMENT.match(f))
        yield from (Path(here, name) for name in names if new)


def _read_files(files) -> Iterator[pd.DataFrame]:
    """The documents of files, a table for each that is one, else for some together."""
    for is_table, some in itertools.groupby(files, lambda file: file.suffix.lower() == ".parquet"):
        for file in some if is_table else ():
            table = _read_parquet(file)
            if table.empty:
                raise ValueError(f"{file} is empty: a document needs text.")
            texts = [_plain(text, file, f" in row {row}") for row, text in enumerate(table["text"])]
            yield complete(table.assign(text=texts))
        while part := list(itertools.islice(some, TOGETHER)):
            texts = [_plain(_read_text(file), file) for file in part]
            titles = [file.stem for file in part]
            yield complete(pd.DataFrame({"short_book_title": titles, "text": texts}))


def _plain(text, file: Path, where: str = "") -> str:
    """A text, its line ends as "\\n"; ValueError if it is none."""
    if not isinstance(text, str) and not (pd.api.types.is_scalar(text) and pd.isna(text)):
        said = f"holds {type(text).__name__}, not text,{where}"
        raise ValueError(f"{file} {said}: make its column 'text' one of strings.")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{file} is empty{where}: a document needs text.")
    if cleaning.is_binary(text):
        problem = "is not UTF-8 (it has null or control characters)"
        raise ValueError(f"{file} {problem}{where}: {CONVERT}")
    return cleaning.plain_lines(text)


def _read_text(file: Path) -> str:
    try:
        with open(file, "rb") as start:  # what is no text may be larger than the memory
            if b"\0" in start.read(1 << 16):
                return "\0"
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): {CONVERT}") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error


def _read_parquet(file: Path) -> pd.DataFrame:
    """The columns of a corpus in a parquet file; ValueError if it is none, or holds no text."""
    most, size, batches = max(UNPACKED, RATIO * file.stat().st_size), 0, []
    try:
        with pq.ParquetFile(file) as parquet:
            names, about = parquet.schema_arrow.names, parquet.metadata
            if names.count("text") != 1:
                many = "more than one column" if "text" in names else "no column"
                raise ValueError(f"{file} has {many} 'text', only {', '.join(names)}.")
            packed = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            rows = max(1, min(most // max(1, packed), 1 << 16))  # a row may hold all of it
            wanted = [name for name in COLUMNS if name in names]
            for batch in parquet.iter_batches(rows, columns=wanted) if packed <= most else ():
                batches.append(batch)
                columns = (c.dictionary_decode() if hasattr(c, "indices") else c for c in batch)
                size += sum(column.nbytes for column in columns)
                if size > most:
                    break
        if max(packed, size) > most:
            much = f"unpacks to more than {most:,} bytes, and over {RATIO} times its own"
            raise ValueError(f"{file} {much}, which no text does: see what is in it.")
        if not batches:
            return pd.DataFrame({"text": []})
        return pa.Table.from_batches(batches).replace_schema_metadata().to_pandas()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no parquet file: {error}") from error
