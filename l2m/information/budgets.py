"""What is left of the information when a model's past is cut, and how large a cut keeps most of it.

The direct estimate of what Y has left of X, over that of all of it, is the share that survives:

    E[log q_K(Y|X) − log q(Y)] / E[log q(Y|X) − log q(Y)]

Neither is a bound. Each table has *samples* for columns: first the estimate, then what it is when
books are drawn with replacement, the same for all rows; so intervals know that all cuts, and all
lengths, were made in the same windows.
"""

import numpy as np
import pandas as pd
from scipy import stats

from l2m.information.resampling import CONFIDENCE, resampled_means

MARGINALS = ("first", "warm")  # rows of `cache_terms` that are no cut


def kept_nats(table, warm=64, n=1000, seed=0) -> pd.DataFrame:
    """E[log q_K(Y|X) − log q(Y)] in nats: samples, a row for each `policy, split, size`.

    `table` is of `l2m.experiments.measure.cache_terms`; the policy "full" is no cut. log q(Y) is
    after `warm` tokens of another book, 0 for BOS alone. There are `n` resamples, drawn with
    `seed`. ValueError for a `warm` that was not scored, scores that are missing, or a single book.
    """
    names = ["policy", "split", "size"]
    wide = table.pivot(index=["window", "book"], columns=names, values="log_q").astype(float)
    if wide.isna().any(axis=None):
        raise ValueError("some windows lack some cuts: measure them anew")
    scored = sorted(map(int, wide["warm"].columns.unique("size")))
    if warm not in scored:
        raise ValueError(f"Y was scored after {scored} foreign tokens, not {warm}")
    wide = wide.sub(wide["warm"].xs(warm, axis=1, level="size"), axis=1, level="split")
    wide = wide.drop(columns=[name for name in MARGINALS if name in wide], level="policy")
    resamples = resampled_means(wide, wide.index.get_level_values("book"), n, seed)
    samples = pd.DataFrame(np.vstack([wide.mean(), resamples]).T, index=wide.columns)
    return samples.sort_index()


def kept_shares(nats) -> pd.DataFrame:
    """The share of the information that each cut keeps: samples, from those of `kept_nats`."""
    return nats.div(nats.xs("full").droplevel("size"), level="split").drop("full")


def least_sizes(shares, keep=0.95) -> pd.DataFrame:
    """The smallest K from which on a policy keeps such a share: samples, by `policy, split`.

    Between budgets the share is a straight line in log K; all ℓ + 1 entries keep 1. NaN where even
    the smallest budget keeps it, or there is none.
    """
    rows = {}
    for (policy, split), group in shares.drop("bits", errors="ignore").groupby(level=[0, 1]):
        sizes = np.append(group.index.get_level_values("size"), split + 1)
        known = np.vstack([group.to_numpy(), np.ones(group.shape[1])])
        below = (known < keep)[::-1].argmax(0)  # from the end; 0 where none is
        low = len(sizes) - 1 - below
        high = np.minimum(low + 1, len(sizes) - 1)
        a, b = (np.take_along_axis(known, i[None], 0)[0] for i in (low, high))
        part = (keep - a) / np.where(below > 0, b - a, 1)
        size = sizes[low] * (sizes[high] / sizes[low]) ** part
        rows[policy, split] = np.where(below > 0, size, np.nan)
    index = pd.MultiIndex.from_tuples(rows, names=["policy", "split"])
    return pd.DataFrame([*rows.values()], index=index)


def exponents(sizes, least_split=32) -> pd.DataFrame:
    """The exponent b of K ~ L^b from such a split on, by least squares on logarithms: samples.

    `sizes` are those of `least_sizes`; a row for each policy with 3 splits or more.
    """
    rows = {}
    for policy, group in sizes.groupby(level="policy"):
        some = group[group.index.get_level_values("split") >= least_split].dropna(subset=[0])
        if len(some) >= 3:
            x = np.log(some.index.get_level_values("split").to_numpy())
            rows[policy] = (x - x.mean()) @ np.log(some.to_numpy()) / np.sum((x - x.mean()) ** 2)
    return pd.DataFrame.from_dict(rows, orient="index", columns=sizes.columns)


def interval(samples, books: int) -> pd.DataFrame:
    """Estimates with 95% intervals: `estimate, low, high`, from samples of so many books.

    Student-t, with the standard deviation of the resamples for an error. NaN if more than 1% of
    the resamples have no value.
    """
    resamples = samples.iloc[:, 1:]
    error = resamples.std(axis=1).where(resamples.isna().mean(axis=1) <= 0.01)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, books - 1) * error
    table = {"estimate": samples[0], "low": samples[0] - half, "high": samples[0] + half}
    return pd.DataFrame(table)
