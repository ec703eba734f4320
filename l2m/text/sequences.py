"""Tokens in a row from a paragraph on: sequences to train on, and windows to measure on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from l2m.text.token_files import TokenFile, paragraph_starts

SPARE = 16  # tokens: the last ones of a cut text may be cut as well


class Sequences:
    """Sequences of L tokens of some books, in the order of any number of epochs.

    Every epoch cuts each book anew into sequences that start at a paragraph, and shuffles them. The
    first one starts at a random paragraph, the next ones at the first or second paragraph after an
    end, by chance: taking always the first, cuts that begin apart would soon run together. What
    lies between is left out, and so are the ends of books. `books` are indices of those in the
    token file, all when None; ValueError if none of them holds such a sequence.
    """

    def __init__(self, file: TokenFile, length: int, seed: int = 0, books=None):
        self.file, self.length, self.seed = file, length, seed
        self.books = np.arange(len(file.books)) if books is None else np.asarray(books)
        self._paragraphs = {book: file.paragraphs_of(book) for book in self.books}
        self._ends = [0]  # sequences of the first epochs together
        self._order = lru_cache(2)(self._order)  # a batch spans two epochs at most
        if not len(self.cut(0)[0]):
            raise ValueError(f"no book has {length} tokens from a paragraph on: train on shorter")

    def cut(self, epoch: int | None) -> tuple[np.ndarray, np.ndarray]:
        """First token and book of the sequences of a cut; of None, each as early as it can be."""
        rng = None if epoch is None else np.random.default_rng([self.seed, epoch])
        starts, owner = [], []
        for book in self.books:
            paragraphs = self._paragraphs[book]
            paragraphs = paragraphs[paragraphs + self.length <= self.file.books.at[book, "end"]]
            if not len(paragraphs):
                continue
            early = np.searchsorted(paragraphs, paragraphs[0] + self.length)
            i = 0 if rng is None else rng.integers(early)
            while i < len(paragraphs):
                starts.append(paragraphs[i])
                owner.append(book)
                i = np.searchsorted(paragraphs, paragraphs[i] + self.length)
                i += 0 if rng is None else rng.integers(2)
        return np.array(starts, np.int64), np.array(owner, np.int64)

    def read(self, starts) -> np.ndarray:
        """The sequences that begin at these tokens of the file: int64 (n, L)."""
        rows = [self.file.tokens[start : start + self.length] for start in starts]
        return np.stack(rows).astype(np.int64)

    def numbered(self, numbers) -> np.ndarray:
        """The sequences of these numbers, counted from 0 over all epochs: int64 (n, L)."""
        places = [(self.epoch(number), number) for number in numbers]
        return self.read([self._order(e)[number - self._ends[e]] for e, number in places])

    def epoch(self, number: int) -> int:
        """The epoch, from 0, in which the sequence of this number comes."""
        while number >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._order(len(self._ends) - 1)))
        return int(np.searchsorted(self._ends, number, side="right")) - 1

    def epochs(self, tokens: int) -> float:
        """How many epochs so many tokens are."""
        number = tokens // self.length
        epoch = self.epoch(number)
        first, end = self._ends[epoch : epoch + 2]
        return epoch + (number - first) / (end - first)

    def _order(self, epoch: int) -> np.ndarray:
        """First tokens of the sequences of an epoch, shuffled."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        return rng.permutation(self.cut(epoch)[0])


@dataclass(frozen=True)
class Windows:
    """Windows, and where they are from; of a single document each counts as a book of its own."""

    tokens: np.ndarray  # (n, length) int64
    groups: np.ndarray  # (n,) the index of each window's book
    starts: np.ndarray  # (n,) the character of that book at which it starts


def draw_windows(texts, tokenizer, length: int, n: int, seed: int) -> Windows:
    """At most `n` windows of `length` tokens, book after book: see `Corpus.windows`."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(paragraph_starts(text)) for text in texts]
    books = [_windows(*book, length, tokenizer) for book in zip(texts, orders, strict=True)]
    picked, alive = [], dict(enumerate(books))
    while len(picked) < n and alive:
        for book in rng.permutation([*alive]).tolist():
            if len(picked) == n:
                break
            if window := next(alive[book], None):
                picked.append((book, *window))
            else:
                del alive[book]
    groups, starts, tokens = zip(*picked, strict=True) if picked else ((), (), ())
    tokens = np.array(tokens, np.int64).reshape(len(picked), length if picked else 0)
    return Windows(tokens, np.array(groups, int), np.array(starts, int))


def byte_lengths(tokenizer, tokens, first) -> np.ndarray:
    """UTF-8 bytes of the first k tokens of each window (n, T), for every k of `first`: (n, len).

    A character of which only a part has come counts as the three bytes of a replacement character.
    """
    texts = [_decoded(tokenizer, np.asarray(tokens)[:, :k]) for k in first]
    return np.array([[len(text.encode()) for text in some] for some in texts]).T


def require_faithful(tokenizer, windows: Windows, texts) -> None:
    """ValueError unless the tokens of every window decode to the text that they were read from."""
    read = _decoded(tokenizer, windows.tokens)
    for text, book, start in zip(read, windows.groups, windows.starts, strict=True):
        if not texts[book if len(texts) > 1 else 0].startswith(text.rstrip("\ufffd"), start):
            raise ValueError(
                "the tokenizer does not give back the text that it has read, so that the bytes of "
                "its tokens are not known: take a model with another"
            )


def _decoded(tokenizer, tokens) -> list[str]:
    return tokenizer.batch_decode(tokens.tolist(), clean_up_tokenization_spaces=False)


def _windows(text: str, order: np.ndarray, length: int, tokenizer) -> Iterator[tuple]:
    """Yield first character and ids of windows of a book, as far as they do not overlap."""
    taken: list[tuple[int, int]] = []

    def free(start, end):
        return not any(start < last and first < end for first, last in taken)

    for start in order[::-1].tolist():
        if free(start, start + 1):
            ids, end = _first_tokens(text, start, length, tokenizer)
            if ids and free(start, end):
                taken.append((start, end))
                yield start, ids


def _first_tokens(text: str, start: int, length: int, tokenizer) -> tuple[list[int], int]:
    """The `length` tokens of a text from a character on, none if it has too few, and their end."""
    size = 5 * (length + SPARE)
    while True:
        encoded = tokenizer([text[start : start + size]], add_special_tokens=False, verbose=False)
        ids, whole = encoded["input_ids"][0], start + size >= len(text)
        if len(ids) >= length + (0 if whole else SPARE):
            return ids[:length], start + encoded.token_to_chars(0, length - 1).end
        if whole:
            return [], len(text)
        size *= 2
