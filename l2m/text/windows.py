"""Windows of equal length that start at a paragraph, from as many books as possible."""

from dataclasses import dataclass

import numpy as np

from l2m.text.token_files import paragraph_starts


@dataclass(frozen=True)
class Windows:
    """`tokens` (n, length) int64; `groups` (n,) the index of each window's book (of a single
    document: each its own); `starts` (n,) the character of that book at which it starts."""

    tokens: np.ndarray
    groups: np.ndarray
    starts: np.ndarray


def draw_windows(texts, tokenizer, length: int, n: int, seed: int) -> Windows:
    """At most `n` windows of `length` tokens, book after book: see `Corpus.windows`."""
    rng = np.random.default_rng(seed)
    books = [_Paragraphs(text, rng) for text in texts]
    picked: list[tuple[int, int, list[int]]] = []
    alive = list(range(len(books)))
    while len(picked) < n and alive:
        order = rng.permutation(alive).tolist()
        while order and len(picked) < n:
            some, order = order[: n - len(picked)], order[n - len(picked) :]
            found = _one_each(books, some, length, tokenizer)
            picked += [(book, *found[book]) for book in some if found[book] is not None]
            alive = [book for book in alive if found.get(book, ()) is not None]
    groups, starts, tokens = zip(*picked, strict=True) if picked else ((), (), ())
    tokens = np.array(tokens, np.int64).reshape(-1, length)
    return Windows(tokens, np.array(groups, int), np.array(starts, int))


class _Paragraphs:
    """The paragraphs of one book in random order, and what windows have taken of it."""

    def __init__(self, text: str, rng: np.random.Generator):
        self.text = text
        self.starts = rng.permutation(paragraph_starts(text)).tolist()
        self.taken: list[tuple[int, int]] = []

    def free(self, start: int, end: int) -> bool:
        """Whether no window has any of these characters."""
        return not any(start < last and first < end for first, last in self.taken)

    def next(self) -> int | None:
        """First character of a paragraph that no window covers, None if there is no more."""
        while self.starts:
            start = self.starts.pop()
            if self.free(start, start + 1):
                return start
        return None


def _one_each(books: list[_Paragraphs], order: list[int], length: int, tokenizer) -> dict:
    """One further window of each book of `order`: (first character, ids), None if it has no more.

    All books at once: a fast tokenizer encodes a batch on all cores.
    """
    found: dict[int, tuple[int, list[int]] | None] = {}
    while missing := [book for book in order if book not in found]:
        starts = {book: books[book].next() for book in missing}
        found |= {book: None for book, start in starts.items() if start is None}
        asked = [book for book in missing if starts[book] is not None]
        texts = [books[book].text for book in asked]
        encoded = _first_tokens(texts, [starts[book] for book in asked], length, tokenizer)
        for book, (ids, end) in zip(asked, encoded, strict=True):
            if ids and books[book].free(starts[book], end):
                books[book].taken.append((starts[book], end))
                found[book] = (starts[book], ids)
    return found


def _first_tokens(texts: list[str], starts: list[int], length: int, tokenizer) -> list:
    """The first `length` tokens of each text from a character on, none if it has too few.

    With them, the character at which they end.
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
