"""Windows of equal length that start at a paragraph, from as many books as possible."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from l2m.text.token_files import paragraph_starts

SPARE = 16  # tokens: the last ones of a cut text may be cut as well


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
    for text, book, start in zip(
        _decoded(tokenizer, windows.tokens), windows.groups, windows.starts, strict=True
    ):
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
