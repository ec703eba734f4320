"""How much of the past a model uses: the cost of one Y after ever longer ends of X.

    python -m l2m.experiments.context past --corpus my_books/ --length 4096 --windows 200

Y is the second half of each window. The model sees BOS and the last c tokens of X, for c from
nothing to all. What the cost loses with c is what the model has made of so much past.
"""

import sys

import numpy as np
import pandas as pd

from l2m.language_models import models
from l2m.experiments.measure import command_line, identity, run, scored_windows
from l2m.results import recorded


def past_terms(
    name: str,
    corpus: str = "english-novels-100",
    model: str = models.EMBEDDED,
    length: int = 4096,
    windows: int = 200,
    bos: int = -1,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> pd.DataFrame:
    """Cost of the second half of windows after the last c tokens of the first.

    Parameters
    ----------
    name : of the result (see `l2m.results.recorded`); the others as in `l2m.experiments.measure.measure`.

    Returns
    -------
    DataFrame `window, book, context, first, tokens, cost`: c = 0, 1, 4, 16, … and length/2, and
    of Y the tokens from `first` (1, 2, 4, 8, …) to before the next, their number, and what they
    cost together (nats).
    """
    params = {
        **identity(corpus, model),
        **{"length": length, "windows": windows, "bos": bos, "dtype": dtype, "seed": seed},
    }
    half = length // 2
    contexts = [0, *(4**k for k in range(half.bit_length()) if 4**k < half)]

    def compute():
        _, scores, attrs = scored_windows(params, [half - c for c in contexts], length)
        table = past_table(scores, half)
        table.attrs = attrs
        return table

    return recorded(
        name, params, compute, command=command_line("context", past_terms, name, params)
    )


def past_table(scores, half: int) -> pd.DataFrame:
    """The table of `past_terms`, from scores with a split half − c for every context c."""
    n, length = scores.joint.shape
    books = scores.books
    costs = {half - split: -scores.marginal[split][:, half - split :] for split in scores.splits}
    costs[half] = -scores.joint[:, half:]
    edges = [2**k for k in range((length - half).bit_length())]
    rows = []
    for context, cost in sorted(costs.items()):
        for first, end in zip(edges, [*edges[1:], length - half + 1], strict=True):
            some = cost[:, first - 1 : end - 1]
            row = {"window": np.arange(n), "book": books, "context": context, "first": first}
            row |= {"tokens": some.shape[1], "cost": some.sum(1, dtype=np.float64)}
            rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


def show_costs(table):
    """Print the mean cost of a token by context."""
    total = table.groupby("context")[["cost", "tokens"]].sum()
    print((total["cost"] / total["tokens"]).rename("nats a token").round(4).to_string())


if __name__ == "__main__":
    sys.exit(run("context", past_terms, show_costs))
