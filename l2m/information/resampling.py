"""Errors, covariances and resamples of means over rows that go together: windows of books.

Windows of one book resemble each other, so what is independent, and drawn anew, is the book. Rows
may have weights; a row may also be the mean of a whole group, weighted by its size.
"""

import numpy as np
import pandas as pd

CONFIDENCE = 0.95


def clustered_stderr(values, groups=None, weights=None) -> np.ndarray:
    """Standard error (k,) of the mean over rows (n, k) that may go together within a group.

    The square root of g/(g−1) Σ_groups (Σ_rows w · residual)² / (Σ w)² (Liang and Zeger), NaN for
    a single group. Without `groups` and `weights`, (n,), rows are independent, and count alike.
    ValueError for weights that are negative, all zero, or not (n,).
    """
    return np.sqrt((_deviations(values, groups, weights) ** 2).sum(0))


def clustered_covariance(values, groups=None, weights=None) -> np.ndarray:
    """Covariance (k, k) of the means of k columns over rows (n, k), as of `clustered_stderr`.

    For g normal, equally large groups it is a Wishart matrix of g − 1 degrees of freedom, so that
    it has no inverse unless g > k. The diagonal is the square of the standard error.
    """
    deviations = _deviations(values, groups, weights)
    return deviations.T @ deviations


def resampled_means(values, groups=None, n=1000, seed=0, weights=None) -> np.ndarray:
    """Means, (n, k), over rows when groups are drawn with replacement, `n` times.

    `values`, `groups`, `weights` as in `clustered_stderr`; `seed` may be a np.random.Generator.
    ValueError for fewer than two groups, or no resample.
    """
    values, weights, member, g = _checked(values, groups, weights)
    if g < 2:
        raise ValueError("Resampling needs at least two groups (books); add some.")
    if not is_integer(n) or n < 1:
        raise ValueError(f"The number of resamples is an integer, at least 1, not {n!r}.")
    draws = np.random.default_rng(seed).multinomial(g, np.full(g, 1 / g), size=n)
    totals = _sums(values * weights[:, None], member, g)
    return (draws @ totals) / (draws @ np.bincount(member, weights, g))[:, None]


def is_integer(value) -> bool:
    """Whether a value is an integer, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def members(groups, n: int) -> tuple[np.ndarray, int]:
    """The number of each row's group, (n,), in the order of labels, and how many groups there are.

    None makes each row its own. ValueError if one has no label, or there are not n of them.
    """
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"groups has shape {groups.shape}, but there are {n} rows.")
    if (missing := pd.isna(groups)).any():
        which = f"{missing.sum()} of {n} rows have no group, row {missing.argmax()} for one"
        raise ValueError(f"{which}: give each row its book, or leave it out.")
    names, member = np.unique(groups, return_inverse=True)
    return member, len(names)


def _checked(values, groups, weights):
    """Values and weights as arrays, the number of each row's group, and the number of groups."""
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    if weights.shape != values.shape[:1] or not (weights >= 0).all() or not weights.any():
        raise ValueError(f"There must be rows, and a weight of each, ({len(values)},), above zero.")
    return values, weights, *members(groups, len(values))


def _deviations(values, groups, weights) -> np.ndarray:
    """What each group adds to the error of the means, (g, k): its products sum to the covariance.

    NaN for a single group.
    """
    values, weights, member, g = _checked(values, groups, weights)
    if g < 2:
        return np.full((1, values.shape[1]), np.nan)
    residual = (values - weights @ values / weights.sum()) * weights[:, None]
    return np.sqrt(g / (g - 1)) * _sums(residual, member, g) / weights.sum()


def _sums(values: np.ndarray, member: np.ndarray, g: int) -> np.ndarray:
    return np.stack([np.bincount(member, column, g) for column in values.T], axis=1)
