"""Books tokenised once: a file of token ids that any number of training runs can map into memory.

A token file is a folder,

    tokens.bin       ids of all books, one after the other; uint16 if the vocabulary allows
    paragraphs.bin   int64, the tokens at which paragraphs start, counted from the first of all
    manifest.json    tokenizer, corpora, books, and the sha256 of the other two

made under another name and renamed when it is complete. A run that was killed while making it goes
on after the last book that it had finished.
"""

import hashlib
import itertools
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from l2m import corpora
from l2m.archives import HUB, complete, hub_documents
from l2m.results import cache_dir, sha256, write_atomic


@dataclass(frozen=True)
class TokenFile:
    """A token file that is there, checked against its sha256 when it is opened (`open_tokens`)."""

    folder: Path
    manifest: dict

    @cached_property
    def tokens(self) -> np.ndarray:
        """(n,) ids of all books, memory-mapped."""
        return np.memmap(self.folder / "tokens.bin", self.manifest["dtype"], mode="r")

    @cached_property
    def paragraphs(self) -> np.ndarray:
        """(p,) int64, memory-mapped: the token at which each paragraph starts, increasing."""
        return np.memmap(self.folder / "paragraphs.bin", np.int64, mode="r")

    @cached_property
    def books(self) -> pd.DataFrame:
        """One row a book: `corpus, title, author, start, end` (tokens of the file)."""
        return pd.DataFrame(self.manifest["books"])

    @property
    def sha256(self) -> str:
        """Of the ids, which identifies the file."""
        return self.manifest["sha256"]["tokens.bin"]

    @property
    def vocabulary(self) -> int:
        """M, the number of token ids, rounded up to a multiple of 128 (what GPUs like)."""
        return -(-self.manifest["vocabulary"] // 128) * 128

    @property
    def bos(self) -> int:
        """Id put in front of every sequence: the tokenizer's separator of documents."""
        return self.manifest["bos"]

    def paragraphs_of(self, book: int) -> np.ndarray:
        """The tokens of the file at which the paragraphs of a book start."""
        start, end = self.books.loc[book, ["start", "end"]]
        first, last = np.searchsorted(self.paragraphs, [start, end])
        return np.asarray(self.paragraphs[first:last])

    def split(self, held_out: int, seed: int = 0, exclude=()) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the books to train on and of the `held_out` ones that are kept from it.

        A book's place in the draw depends on the seed, its author and title alone, so a larger
        corpus, or another order, keeps most of the split.

        Parameters
        ----------
        exclude : titles of books that are used for neither.

        Raises
        ------
        ValueError
            If nothing is left to train on, or a title is not there.
        """
        titles = self.books["title"]
        if unknown := set(exclude) - set(titles):
            raise ValueError(f"no book to exclude is called {', '.join(sorted(unknown))}")
        keys = [
            hashlib.sha256(f"{seed}|{author}|{title}".encode()).hexdigest()
            for author, title in zip(self.books["author"], titles, strict=True)
        ]
        order = [i for i in np.argsort(keys, kind="stable") if titles[i] not in exclude]
        if not 0 < held_out < len(order):
            raise ValueError(
                f"{held_out} books cannot be held out of {len(order)}: at least one must be, and "
                "one must be left to train on"
            )
        return np.sort(order[held_out:]), np.sort(order[:held_out])


def token_file(names, tokenizer=None, limit: int | None = None) -> TokenFile:
    """Open the token file of some corpora in the cache folder; make it first if there is none.

    Parameters
    ----------
    names : corpora in order: names of `l2m.corpora.load_corpus`, or paths. Those of the Hub are
        streamed, and folders are read file by file: a corpus need not fit into memory.
    tokenizer : name or path (`l2m.models.load_tokenizer`); the embedded one when None. It has to
        be a fast one.
    limit : first books of each corpus to keep; all when None.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        As `load_corpus` and `load_tokenizer` raise them; ValueError for a slow tokenizer.
    RuntimeError
        If the file is damaged, or another process is making it.
    """
    from filelock import FileLock, Timeout

    from l2m.models import EMBEDDED, load_tokenizer

    loaded = load_tokenizer(tokenizer or EMBEDDED)
    if not loaded.is_fast:
        raise ValueError(f"{tokenizer} is no fast tokenizer: it cannot say where paragraphs start")
    about = {
        "tokenizer": corpora.tokenizer_key(loaded),
        "corpora": [[str(name), _identity(name)] for name in names],
        "limit": limit,
    }
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = cache_dir() / "token_files" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            if not folder.exists():
                _make(folder, names, loaded, limit, about)
    except Timeout:
        raise RuntimeError(f"another process is writing {folder}: wait for it") from None
    return open_tokens(folder)


def open_tokens(folder: str | Path) -> TokenFile:
    """Open a token file and check it.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RuntimeError
        If it is not what its manifest says.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise FileNotFoundError(f"{folder} is no token file: it has no manifest.json")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, expected in manifest["sha256"].items():
        if not (folder / name).exists() or sha256(folder / name) != expected:
            raise RuntimeError(
                f"{folder / name} is damaged (its sha256 is not the manifest's): remove {folder} "
                "to have it made again"
            )
    return TokenFile(folder, manifest)


def _make(folder: Path, names, tokenizer, limit, about) -> None:
    """Tokenise into `<folder>.partial`, going on where an earlier process was stopped; rename."""
    from tqdm import tqdm

    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    journal = partial / "books.jsonl"
    books = _journal(journal)
    end, n = (books[-1]["end"], books[-1]["paragraphs"]) if books else (0, 0)
    documents = itertools.islice(_documents(names, limit), len(books), None)
    bar = tqdm(_encoded(documents, tokenizer), "tokens", len(books), unit="book", delay=5)
    with (
        _appending(partial / "tokens.bin", end * dtype.itemsize) as tokens,
        _appending(partial / "paragraphs.bin", n * 8) as paragraphs,
        open(journal, "a", encoding="utf-8") as lines,
    ):
        for about_book, ids, starts in bar:
            tokens.write(np.asarray(ids, dtype).tobytes())
            paragraphs.write(np.asarray(starts + end, np.int64).tobytes())
            tokens.flush()
            paragraphs.flush()
            n += len(starts)
            books.append(about_book | {"start": end, "end": end + len(ids), "paragraphs": n})
            end += len(ids)
            lines.write(json.dumps(books[-1]) + "\n")  # after what it speaks of
            lines.flush()
    manifest = about | {"dtype": dtype.name, "vocabulary": len(tokenizer), "bos": _bos(tokenizer)}
    files = ("tokens.bin", "paragraphs.bin")
    manifest |= {"sha256": {name: sha256(partial / name) for name in files}, "books": books}
    write_atomic(partial / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1))
    journal.unlink()
    os.rename(partial, folder)


def _journal(path: Path) -> list[dict]:
    """The books that are finished, and a journal of these alone."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if line.endswith("\n")]  # the last may be cut
    write_atomic(path, "".join(lines))
    return [json.loads(line) for line in lines]


def _appending(path: Path, size: int):
    """Open a file for writing after its first `size` bytes."""
    path.touch()
    os.truncate(path, size)
    return open(path, "ab")


def _encoded(documents, tokenizer):
    """Yield about every book: what it is, its ids (n,), the tokens at which paragraphs start."""
    size = max(8, os.cpu_count() or 1)  # a fast tokenizer takes a batch on all cores
    while batch := list(itertools.islice(documents, size)):
        texts = [text for _, text in batch]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encodings = tokenizer(texts, **options).encodings
        for (about, text), encoding in zip(batch, encodings, strict=True):
            first = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]
            chars = np.array([0, *(match.end() for match in re.finditer(r"\n{2,}", text))])
            at = np.searchsorted(first, chars)
            inside = at < len(first)
            at, chars = at[inside], chars[inside]
            yield about, encoding.ids, at[first[at] == chars]  # none within a token


def _documents(names, limit):
    """Yield (what it is, text) of every book, corpus after corpus, never a whole one at once."""
    for name in names:
        name = str(name)
        if name in HUB:
            tables = (complete(pd.DataFrame([row])) for row in hub_documents(name))
        elif Path(name).is_dir():
            tables = (corpora.load_corpus(file).table for file in corpora.text_files(name))
        else:
            tables = iter([corpora.load_corpus(name).table])
        books = (book for table in tables for book in table.itertuples())
        for book in itertools.islice(books, limit):
            about = {"corpus": name, "title": str(book.short_book_title)}
            yield about | {"author": str(book.author)}, book.text


def _identity(name) -> str:
    """What identifies a corpus without keeping it in memory."""
    if Path(name).is_dir():
        return hashlib.sha256("".join(map(sha256, corpora.text_files(name))).encode()).hexdigest()
    return corpora.fingerprint(name)


def _bos(tokenizer) -> int:
    """The token between documents where the vocabulary names one, else BOS, else EOS."""
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    for token in (separator, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer names no token that could begin a sequence")
