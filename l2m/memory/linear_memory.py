"""What a memory of a Gaussian family must hold, and what a small one must miss (Sec. 5, App. C).

A *linear memory of m numbers* is m numbers h_i at each position i, h_{i+1} being a linear function,
which may differ from position to position, of h_i and Z_i; Z_i is predicted from h_i. It costs

    D_i = ½ ln(Var[Z_i | h_i] / Var[Z_i | Z_<i])  nats

at position i, the divergence of its best prediction from the exact one: in the mean no less than
`least_divergence`, and no more than `filter_divergence`. A family is a `GaussianFamily`, or has its
`covariance`, `cholesky` and `bipartite_mi_at_all_splits`. All is dense: half a minute at L = 1,024.
For n independent copies, read m as numbers a copy.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular, svdvals

SMALL = 1e-8  # correlations below are none: those of the families are above 1e-4 up to L = 1,024


def canonical_nats(family, split):
    """-½ ln(1 - ρ²), nats, of the canonical correlations of Z_1 … Z_split with the rest: (rank,).

    Those that are not zero, descending; they add up to I_BP(split; L). The best linear memory of m
    numbers keeps the first m terms, and misses the others.
    """
    if not 1 <= split < family.length:
        raise ValueError(f"split must lie between 1 and {family.length - 1}, not {split}.")
    rho = svdvals(_whitened(family.covariance(), split))
    return -np.log1p(-(rho[rho > SMALL] ** 2)) / 2


def ranks(family):
    """Numbers that an exact linear memory needs after the first 1, …, L-1, ints (L-1,)."""
    return np.array([len(step.read) for step in _exact_filter(family)[1:]])


def least_divergence(family, sizes, pieces=32):
    """Lower bounds, (len(sizes),) nats, on the mean of D_i of every linear memory of m numbers.

    Let V(S) be the least cost in a stretch S against a prediction from the memory at its start and
    all of S so far. Cut it into A then B. Of the canonical terms m numbers carry at most the first
    m from A to B. The others, t_m(A, B), are missed in B, and are no fewer for what the memory had
    when A began: a larger set has larger canonical correlations. Hence

        V(S) ≥ V(A) + V(B) + t_m(A, B),

    and the bound is the best that this gives over all ways of cutting the sequence again and again,
    at one place in each of `pieces` equal parts: any cuts are valid, more help small memories most,
    and take pieces³/6 spectra of at most L/2 numbers. `sizes` are the m, each at least 0.
    """
    c, cuts = family.covariance(), _cuts(family, pieces)
    n = len(cuts)
    missed = np.zeros((n, n, n, len(sizes)))  # of first cut, cut between, last cut
    for j in range(1, n - 1):
        whitened = _whitened(c, cuts[j])
        for i, k in product(range(j), range(j + 1, n)):
            block = whitened[: cuts[k] - cuts[j], : cuts[j] - cuts[i]]
            missed[i, j, k] = _beyond(block, sizes)
    cost = np.zeros((n, n, len(sizes)))
    for width in range(2, n):
        for i in range(n - width):
            k, j = i + width, np.arange(i + 1, i + width)
            cost[i, k] = (cost[i, j] + cost[j, k] + missed[i, j, k]).max(axis=0)
    return cost[0, -1] / family.length


def filter_divergence(family, sizes):
    """The mean of D_i, in nats, of a certain linear memory of m numbers: (len(sizes),).

    Exact for this memory, hence an upper bound on the least; `sizes` are the m, each at least 0. It
    follows the exact memory x_i as well as m numbers can: of the m + 1 combinations that h_i and
    Z_i make it drops the one that costs least in the near future. Of two horizons found by trial,
    2m + 2 and 8m + 8 numbers, it has the better one. Descent on all coefficients gained 2 to 9%
    more where it was tried.
    """
    steps, best = _exact_filter(family), []
    for m in sizes:
        values = (_value(steps, 1 - 1 / horizon) for horizon in (2 * m + 2, 8 * m + 8))
        best.append(min(_reduced(steps, value, m) for value in values))
    return np.array(best)


class Step(NamedTuple):
    """One step of the exact memory x, uncorrelated with unit variances, and noise ε likewise.

    Z_i = read·x_i + deviation ε_i, where Var[Z_i | Z_<i] = deviation²; x_{i+1} = keep (x_i, ε_i).
    """

    read: np.ndarray
    deviation: float
    keep: np.ndarray


def _exact_filter(family):
    """The smallest linear memory that loses nothing: a `Step` for each position."""
    triangle, steps = family.cholesky(), []
    ahead = triangle[:, :0]  # what x_i adds to Z_i, Z_{i+1}, …: (L - i, rank)
    for i, column in enumerate(triangle.T):
        after = np.column_stack([ahead[1:], column[i + 1 :]])
        _, size, directions = np.linalg.svd(after, full_matrices=False)
        keep = directions[size > SMALL]
        steps.append(Step(ahead[0], column[i], keep))
        ahead = after @ keep.T
    return steps


def _value(steps, discount):
    """What errors of x_1, x_2, …, x_{L+1} cost, matrices (rank, rank): later numbers count less.

    Without a discount these are the Fisher informations of all that follows about x.
    """
    value = [np.zeros((0, 0))]
    for read, deviation, keep in reversed(steps):
        error = keep[:, :-1] - np.outer(keep[:, -1], read) / deviation  # its propagation
        later = discount * error.T @ value[-1] @ error
        value.append(later + np.outer(read, read) / deviation**2)
    return value[::-1]


def _reduced(steps, value, m):
    """Mean of D_i of the memory of m numbers that keeps what is of most value."""
    known, cost = np.zeros((0, 0)), 0.0  # covariances of its m numbers with x: they are white
    for (read, deviation, keep), worth in zip(steps, value[1:], strict=True):
        seen = known @ read
        variance = read @ read + deviation**2 - seen @ seen
        cost += np.log(variance / deviation**2) / 2
        news = keep @ np.append(read - seen @ known, deviation) / np.sqrt(variance)
        known = np.vstack([known @ keep[:, :-1].T, news])
        if len(known) > m:
            _, directions = np.linalg.eigh(known @ worth @ known.T)
            known = directions[:, len(known) - m :].T @ known
    return cost / len(steps)


def _whitened(c, cut):
    """Correlations of what is new in each number after the cut with what is in each before it.

    Rows go forward from the cut, columns backward. The singular values of the first a rows and b
    columns are the canonical correlations of the a numbers after the cut with the b before it.
    """
    before, after = c[:cut, :cut][::-1, ::-1], c[cut:, cut:]
    left = solve_triangular(cholesky(after, lower=True), c[cut:, :cut][:, ::-1], lower=True)
    return solve_triangular(cholesky(before, lower=True), left.T, lower=True).T


def _beyond(whitened, sizes):
    """Sum of the canonical terms after the first m, for each m of the sizes, nats."""
    if min(whitened.shape) <= min(sizes):
        return np.zeros(len(sizes))
    short = min(whitened, whitened.T, key=len)
    terms = -np.log1p(-np.linalg.eigvalsh(short @ short.T).clip(0, 1 - 1e-12)) / 2
    sums = np.append(0, terms.cumsum())  # of the smallest
    return sums[np.maximum(len(terms) - np.asarray(sizes), 0)]


def _cuts(family, pieces):
    """0, L, and between them one in each of equal parts, at the same place, of largest I_BP."""
    pieces = min(pieces, family.length)
    if family.length % pieces:
        raise ValueError(f"pieces must divide length = {family.length}, and {pieces} does not.")
    mi = np.append(0, family.bipartite_mi_at_all_splits()).reshape(pieces, -1)
    inside = np.arange(pieces) * mi.shape[1] + mi.sum(axis=0).argmax()
    return np.unique([0, *inside, family.length])
