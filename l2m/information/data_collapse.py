"""How well one monotone curve describes measurements of many kinds: a measure of collapse.

Data collapse if y depends on x alone, whatever else differs. The curve is not known, save that it
rises or falls; it is fitted by isotonic regression on log x and log y. Each point is predicted by
the curve through the *others*, so that a curve with as many steps as points explains nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from l2m.information.resampling import drawn_groups, members


@dataclass(frozen=True)
class Collapse:
    """Share of the variance of log y that the curve explains, with a 95% interval, and residuals.

    `explained` is 1 - Σ residual² / Σ (log y - its mean over the other points)²: 1 for a perfect
    collapse, 0 or less if x says nothing. `scatter` is the root mean square of the residuals, in
    units of log y.
    """

    explained: float
    interval: tuple[float, float]
    scatter: float
    residuals: np.ndarray


def monotone(x, y, new, rising=True):
    """Value at `new` of the monotone curve through (x, y), all positive: isotonic on logarithms.

    Points of equal x count as one, at their mean. Between points the curve is a straight line in
    log x and log y, beyond them it is constant.
    """
    at, inverse, count = np.unique(np.log(x), return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, np.log(y)) / count
    fit = isotonic_regression(mean, weights=count.astype(float), increasing=rising)
    return np.exp(np.interp(np.log(new), at, fit.x))


def collapse(x, y, rising=True, groups=None, n_boot=2000, seed=0):
    """Measure how well y is one monotone function of x: a `Collapse`.

    Parameters
    ----------
    x, y : (n,), positive; with `rising`, y rises with x, else it falls.
    groups : (n,), of points that are left out and resampled together; by default each is its own.
    n_boot, seed : resamples, and their seed.

    Raises
    ------
    ValueError : fewer than three groups, or values that are not positive.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not ((x > 0).all() and (y > 0).all() and np.isfinite([x, y]).all()):
        raise ValueError("x and y must be positive and finite: leave out the points that are not.")
    member, n_groups = members(groups, len(x))
    if n_groups < 3:
        raise ValueError(f"Resampling needs at least three groups of points, not {n_groups}.")
    residual, deviation = np.empty(len(x)), np.empty(len(x))
    for g in range(n_groups):
        out, others = member == g, member != g
        residual[out] = np.log(y[out] / monotone(x[others], y[others], x[out], rising))
        deviation[out] = np.log(y[out]) - np.log(y[others]).mean()
    missed, spread = (np.bincount(member, part**2) for part in (residual, deviation))
    draws = drawn_groups(n_groups, n_boot, seed)
    low, high = np.quantile(1 - (draws @ missed) / (draws @ spread), [0.025, 0.975])
    explained = float(1 - missed.sum() / spread.sum())
    scatter = float(np.sqrt(np.mean(residual**2)))
    return Collapse(explained, (float(low), float(high)), scatter, residual)
