"""What held-out books have in common with training books, word for word.

Runs of tokens of one book are looked for in the others by hashes, of which one in a few is kept.
"""

import numpy as np
import pandas as pd

from l2m.text.token_files import TokenFile

SHINGLE = 50  # tokens that are no coincidence when two books have them in a row
SAMPLED = 8  # one in so many shingles is compared, the same ones in all books
TOLERATED = 0.01  # share of a held-out book's shingles that a training book may have
BASE = 0x9E3779B97F4A7C15  # B of the hashes


def overlaps(file: TokenFile, training, held_out) -> pd.DataFrame:
    """What held-out books share with training books: DataFrame `held_out, training, share`.

    Titles, and the share of the held-out book's runs of `SHINGLE` tokens that the training book has
    too; pairs that have any, the largest first. One run in `SAMPLED` is looked at.
    """
    weight = np.random.default_rng(0).integers(0, 2**64, file.vocab_size, np.uint64)
    own = [_shingles(file, book, weight) for book in held_out]
    shingles, first = np.unique(np.concatenate(own), return_index=True)
    owner = np.repeat(np.arange(len(own)), list(map(len, own)))[first]
    rows = []
    for book in training if len(shingles) else ():
        theirs = _shingles(file, book, weight)
        places = np.searchsorted(shingles, theirs, "right") - 1
        found = owner[places[shingles[places] == theirs]]
        common = np.bincount(found, minlength=len(own))
        for i in np.flatnonzero(common):
            rows.append([*file.books["title"][[held_out[i], book]], common[i] / len(own[i])])
    table = pd.DataFrame(rows, columns=["held_out", "training", "share"])
    return table.sort_values("share", ascending=False, ignore_index=True)


def require_apart(file: TokenFile, training, held_out) -> pd.DataFrame:
    """`overlaps`, and a ValueError naming the books of which more than `TOLERATED` is the same."""
    table = overlaps(file, training, held_out)
    if len(same := table[table["share"] > TOLERATED]):
        pairs = [f"{a!r} has {share:.0%} in {b!r}" for a, b, share in same.head(5).values]
        which = f"{len(same)} pairs of a held-out and a training book ({'; '.join(pairs)})"
        cure = "exclude one of each (`exclude`), or hold out with another seed"
        raise ValueError(f"{which} have text in common: {cure}")
    return table


def _shingles(file: TokenFile, book: int, weight: np.ndarray) -> np.ndarray:
    """Hashes Σ_j weight(w_{i+j})·B^j modulo 2^64 of the sampled runs of a book: unique, uint64."""
    start, end = file.books.loc[book, ["start", "end"]]
    if end - start < SHINGLE:
        return np.empty(0, np.uint64)
    powers = np.array([pow(BASE, j, 2**64) for j in range(SHINGLE)], np.uint64)
    hashes = np.correlate(weight[file.tokens[start:end]], powers, "valid")
    return np.unique(hashes[hashes >> np.uint64(40) < 2**24 // SAMPLED])
