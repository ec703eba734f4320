"""Documents tokenised once: a folder of token ids that any number of runs map into memory.

    tokens.bin       ids of all documents, one after the other; uint16 if the vocabulary allows
    paragraphs.bin   int64, the tokens at which paragraphs start, counted from the first of all
    manifest.json    what was tokenised with what, the documents, the sha256 of the other two

It is made under another name and renamed when it is complete. A run that was killed meanwhile goes
on after the last document that it had finished, and of which it finds the same ids again.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm import tqdm

from l2m.files import cache_dir, digest, made, opened, seal, tree_digest, write_atomic

SCHEMA = "tokens 2"
LETTERS = 1 << 22  # after which a batch is encoded: it takes 100 bytes of memory a letter
NOBODY = ("", "Anonymous", "Various")  # authors who may be any of the others


class TokenFile:
    """A token file that is there, checked against its sha256 when it is opened.

    tokens        (n,) ids of all documents, memory-mapped
    paragraphs    (p,) int64, memory-mapped: the token at which each paragraph starts, increasing
    books         a row per document: `corpus, title, author, start, end, sha256`; start and end
                  count the tokens of the file, the digest is of its ids and paragraphs
    sha256        of the ids; `identity` of all that is read: also paragraphs, and the books
    vocab_size    M, the number of token ids, rounded up to a multiple of 128 (what GPUs like)
    bos_token_id  the token put in front of every sequence, the tokenizer's separator of documents

    FileNotFoundError if there is none in the `folder`, DamagedFile if it is not what it was.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "manifest.json").exists():
            raise FileNotFoundError(f"{folder} is no token file (no manifest.json): remove it")
        about = opened(self.folder, SCHEMA, f"remove {folder}, and it is made again")
        self.manifest = about
        self.tokens = _mapped(self.folder / "tokens.bin", about["dtype"])
        self.paragraphs = _mapped(self.folder / "paragraphs.bin", np.int64)
        self.books = pd.DataFrame(about["books"])
        self.sha256 = about["sha256"]["tokens.bin"]
        self.identity = digest(*(about[key] for key in ("sha256", "bos", "vocabulary", "books")))
        self.vocab_size = -(-about["vocabulary"] // 128) * 128
        self.bos_token_id = about["bos"]

    def documents(self) -> list[np.ndarray]:
        """The ids of each document, slices of `tokens`."""
        return np.split(self.tokens, self.books["end"].to_numpy()[:-1])

    def paragraphs_of(self, book: int) -> np.ndarray:
        """The tokens of the file at which the paragraphs of a book start."""
        first, last = np.searchsorted(self.paragraphs, self.books.loc[book, ["start", "end"]])
        return np.asarray(self.paragraphs[first:last])

    def held_out(
        self, n: int, seed: int = 0, exclude=(), by_author: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the books to train on, and of those that are kept from it: see `split`."""
        return split(self.books, n, seed, exclude, by_author)


def split(
    books: pd.DataFrame, n: int, seed: int = 0, exclude=(), by_author: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the books (`title, author`) to train on and of the `n` ones that are held out.

    A book's place in the draw depends on the seed, its author and title alone, so a larger corpus
    keeps most of the choice. Books with a title in `exclude` are used for neither. `by_author`,
    authors are drawn, until theirs are `n` books or more: none has books on both sides, and books
    of `NOBODY` are on neither. ValueError if nothing is left to train on.
    """
    titles, authors = books["title"], books["author"]
    if unknown := set(exclude) - set(titles):
        raise ValueError(f"no book to exclude is called {', '.join(sorted(unknown))}")
    names = f"{seed}|" + authors + ("" if by_author else "|" + titles)
    keys = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    order = [i for i in np.argsort(keys, kind="stable") if titles[i] not in exclude]
    if by_author:
        order = [i for i in order if authors[i] not in NOBODY]
    end = n
    while by_author and 0 < end < len(order) and keys[order[end]] == keys[order[end - 1]]:
        end += 1
    if not 0 < end < len(order):
        of_authors = " with all of their authors" if by_author else ""
        cure = "at least one must be, and one must be left to train on"
        raise ValueError(f"{n} books cannot be held out of {len(order)}{of_authors}: {cure}")
    return np.sort(order[end:]), np.sort(order[:end])


def tokenised(documents: Iterable, tokenizer, about) -> TokenFile:
    """Open the token file of some documents in the cache folder; make it first if there is none.

    `documents` are pairs (`{"corpus", "title", "author"}`, text), read only if the file is not
    there; `about` identifies them, as JSON has it. Of a `transformers` tokenizer that is not fast,
    paragraphs are not known. A file that another process is making is waited for.
    """
    about = {"tokenizer": tokenizer_key(tokenizer), "corpora": about}
    folder = cache_dir() / "tokens" / digest(SCHEMA, about)[:16]
    return TokenFile(made(folder, lambda new: _make(new, documents, tokenizer, about)))


def tokenizer_key(tokenizer) -> str:
    """sha256 of all that a tokenizer does: its specification, or the files it would be saved as."""
    about = [type(tokenizer).__name__, tokenizer.bos_token_id, tokenizer.eos_token_id]
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        backend.no_truncation()  # which the last call has left there
        backend.no_padding()
        return digest(about, getattr(tokenizer, "split_special_tokens", False), backend.to_str())
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        return digest(about, tree_digest(folder, files))


def paragraph_starts(text: str) -> np.ndarray:
    """The characters at which the paragraphs of a text start, the first at 0."""
    return np.array([0, *(match.end() for match in re.finditer(r"\n{2,}", text))])


def _make(partial: Path, documents, tokenizer, about) -> None:
    """Tokenise into a folder, going on where an earlier process was stopped."""
    partial.mkdir(exist_ok=True)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    journal = partial / "books.jsonl"
    books = _finished(partial, dtype)
    write_atomic(journal, "".join(map(_line, books)))
    end, n = (books[-1]["end"], books[-1]["paragraphs"]) if books else (0, 0)
    rest = itertools.islice(documents, len(books), None)
    bar = tqdm(_encoded(rest, tokenizer), "tokens", len(books), unit="book", delay=5)
    with (
        open(partial / "tokens.bin", "ab") as tokens,
        open(partial / "paragraphs.bin", "ab") as paragraphs,
        open(journal, "a", encoding="utf-8") as lines,
    ):
        tokens.truncate(end * dtype.itemsize)  # what is left of a book that was not finished
        paragraphs.truncate(n * 8)
        for about_book, ids, starts in bar:
            ids, starts = np.asarray(ids, dtype), np.asarray(starts, np.int64)
            tokens.write(ids.tobytes())
            paragraphs.write((starts + end).tobytes())
            tokens.flush()
            paragraphs.flush()
            n += len(starts)
            books.append(about_book | {"start": end, "end": end + len(ids), "paragraphs": n})
            books[-1]["sha256"] = digest(ids, starts)
            end += len(ids)
            lines.write(_line(books[-1]))  # after what it speaks of
            lines.flush()
    about |= {"dtype": dtype.name, "vocabulary": len(tokenizer), "bos": _bos(tokenizer)}
    seal(partial, SCHEMA, about | {"books": books}, ("tokens.bin", "paragraphs.bin"))
    journal.unlink()


def _mapped(path: Path, dtype) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def _line(book: dict) -> str:
    """A document's line of the journal, which carries a digest of itself."""
    return json.dumps([book, digest(book)]) + "\n"


def _finished(partial: Path, dtype) -> list[dict]:
    """The documents that are finished, up to the first of which anything is missing or damaged."""
    books, n = [], 0
    names = ("books.jsonl", "tokens.bin", "paragraphs.bin")
    journal, tokens, paragraphs = (partial / name for name in names)
    if not (journal.exists() and tokens.exists() and paragraphs.exists()):
        return []
    for line in journal.read_bytes().splitlines():
        try:
            book, own = json.loads(line)
        except (ValueError, TypeError):  # the last line may be cut
            break
        if own != digest(book):
            break
        start, size = book["start"], book["end"] - book["start"]
        ids = np.fromfile(tokens, dtype, size, offset=start * dtype.itemsize)
        starts = np.fromfile(paragraphs, np.int64, book["paragraphs"] - n, offset=8 * n)
        if digest(ids, starts - start) != book["sha256"]:
            break
        books.append(book)
        n = book["paragraphs"]
    return books


def _encoded(documents, tokenizer):
    """Yield of every document what it is, its ids (n,), the tokens at which paragraphs start."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    for batch in _batches(documents):
        encoded = tokenizer([text for _, text in batch], **options)
        for row, (about, text) in enumerate(batch):
            starts = np.empty(0)
            if encoded.encodings:  # a paragraph that starts within a token is left out
                first = [begin for begin, _ in encoded.encodings[row].offsets]
                starts = np.intersect1d(first, paragraph_starts(text), return_indices=True)[1]
            yield about, encoded["input_ids"][row], starts
        del encoded  # before the next one is made


def _batches(documents):
    """Lists of documents that are encoded at once: a fast tokenizer takes them on all cores."""
    batch, letters = [], 0
    for document in documents:
        batch.append(document)
        letters += len(document[1])
        if letters > LETTERS or len(batch) == max(8, os.cpu_count() or 1):
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def _bos(tokenizer) -> int | None:
    """The token between documents where the vocabulary names one, else BOS, else EOS."""
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    candidates = (separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if token is not None), None)
