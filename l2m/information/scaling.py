"""Scaling laws and how well they are known.

The paper's two laws are powers: I_BP(L/2; L) = A·L^β and I_TP(d) = A·d^{−α} (its Secs. 3-4),
the second seen through a constant bias C (its Sec. B.VII).  Everything here is fitted to log y,
because errors of a mutual information are closer to relative than to absolute ones.

Intervals of `fit_power_law` come from the scatter of the points about the law and take the points
as independent.  Values measured on the same windows are not: for those use `bootstrap_power_law`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from l2m.information.resampling import CONFIDENCE, resampled_means


@dataclass(frozen=True)
class PowerLaw:
    """y = amplitude · x^exponent + offset, with 95% intervals `(low, high)`; call it to evaluate.

    For a decaying law α is `-exponent`.  `amplitude` and `offset` carry the unit of y (nats).
    """

    amplitude: float
    exponent: float
    offset: float
    amplitude_interval: tuple[float, float]
    exponent_interval: tuple[float, float]
    offset_interval: tuple[float, float]

    def __call__(self, x):
        return self.amplitude * np.asarray(x, float) ** self.exponent + self.offset


def fit_power_law(x, y, stderr=None, offset=False):
    """Fit y = A·x^b, or y = A·x^b + C with 0 ≤ C < min(y), by least squares on log y.

    Parameters
    ----------
    x, y : array of shape (n,), positive
        Lengths or distances, and mutual information in nats.
    stderr : array of shape (n,), optional
        Standard errors of y.  A point weighs as (y/stderr)², the inverse variance of log y; only
        their ratios matter, since the scale of the noise is read off the residuals.
    offset : bool
        Fit the constant C as well (Sec. B.VII of the paper: the bias of two-point MI).

    Returns
    -------
    PowerLaw
        Intervals are Student-t, from the covariance of the (linearised) fit.

    Raises
    ------
    ValueError
        For values that are not positive and finite, shapes that differ, or fewer than 3 points
        (4 with `offset`).
    """
    x, y, weight = _checked(x, y, stderr, at_least=4 if offset else 3)
    theta = _solve_offset(x, y, weight) if offset else _solve(x, y, weight)
    error = _standard_errors(theta, x, y, weight)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(x) - len(theta)) * error
    low, high = theta - half, theta + half
    if offset:  # what the fit cannot choose, its interval does not hold
        low[2], high[2] = max(low[2], 0.0), min(high[2], y.min())
    return _power_law(theta, low, high)


def bootstrap_power_law(x, values, groups=None, n_boot=1000, seed=0, offset=False):
    """Fit the law to the mean over samples, with intervals from resampling whole groups.

    Windows of one book resemble each other, and all points of the curve come from the same
    windows; drawing books with replacement keeps both dependences, which `fit_power_law` ignores.

    Parameters
    ----------
    x : array of shape (k,)
        Lengths or distances.
    values : array of shape (n, k)
        Mutual information (nats) of each of n windows at each x; only their mean must be positive.
    groups : array of shape (n,), optional
        Which group (book) a window belongs to; by default each is its own.
    n_boot : int
        Number of resamples.
    seed : int or np.random.Generator
    offset : bool
        As in `fit_power_law`.

    Returns
    -------
    PowerLaw
        The law of the mean over all n. Intervals are Student-t with (groups − 1) degrees of freedom
        about it, with the standard deviation of the resampled log A, b and C for a standard error:
        with tens of books percentiles of the resamples hold the truth less often than promised.

    Raises
    ------
    ValueError
        For fewer than two groups, or when more than 1% of the resamples have a mean that is not
        positive at some x: then the data cannot tell a power law there.
    """
    values = np.asarray(values, float)
    if values.ndim != 2:
        raise ValueError(f"values must have shape (windows, points), not {values.shape}.")
    means = resampled_means(values, groups, n_boot, seed)
    x, mean, _ = _checked(x, values.mean(axis=0), None, at_least=4 if offset else 3)
    usable = (means > 0).all(axis=1)
    if usable.mean() < 0.99:
        worst = x[(means <= 0).mean(axis=0).argmax()]
        raise ValueError(
            f"The mean is not positive in {np.sum(~usable)} of {n_boot} resamples, most often at "
            f"x = {worst:g}: leave that x out or measure more windows."
        )
    best = _solve_offset(x, mean) if offset else _solve(x, mean)
    if offset:
        thetas = np.array([_solve_offset(x, m, start=best) for m in means[usable]])
    else:
        thetas = _solve(x, means[usable].T).T
    spread = thetas.std(axis=0, ddof=1)
    n_groups = len(values if groups is None else np.unique(groups))
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, n_groups - 1) * spread
    low, high = best - half, best + half
    if offset:  # what the fit cannot choose, its interval does not hold
        low[2], high[2] = max(low[2], 0.0), min(high[2], mean.min())
    return _power_law(best, low, high)


def compare_laws(x, y, stderr=None):
    """Set three laws side by side on the same data, all fitted to log y.

    ``power`` is A·x^b, ``power+constant`` is A·x^b + C with C ≥ 0, ``logarithm`` is A·log x + C.

    Parameters
    ----------
    x, y, stderr
        As in `fit_power_law`, at least 6 points.

    Returns
    -------
    pandas.DataFrame
        One row a law: ``law, amplitude, exponent, offset, aicc, delta_aicc, prediction_error``.
        `aicc` is Akaike's criterion corrected for few points (lower is better; `delta_aicc` counts
        from the best).  `prediction_error` is the root-mean-square of log(prediction/y) on the
        longest third of the x when the law is fitted to the others.
    """
    x, y, weight = _checked(x, y, stderr, at_least=6)
    order = np.argsort(x)
    x, y, weight = x[order], y[order], weight[order]
    known = len(x) - len(x) // 3
    rows = []
    for law, (solve, log_law) in _LAWS.items():
        theta = solve(x, y, weight)
        short = solve(x[:known], y[:known], weight[:known])
        residual = (log_law(theta, x) - np.log(y)) * weight
        miss = log_law(short, x[known:]) - np.log(y[known:])
        rows.append(
            {
                "law": law,
                "amplitude": theta[0] if law == "logarithm" else np.exp(theta[0]),
                "exponent": np.nan if law == "logarithm" else theta[1],
                "offset": theta[-1] if len(theta) == 3 or law == "logarithm" else 0.0,
                "aicc": _aicc(residual, n_parameters=len(theta) + 1),
                "prediction_error": np.sqrt(np.mean(miss**2)),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(5, "delta_aicc", table.aicc - table.aicc.min())
    return table


def local_exponent(x, y):
    """The running exponent d log y / d log x at each x (central differences, one-sided at ends).

    A power law gives a constant; a logarithm gives 1/log x, falling towards zero.

    Parameters
    ----------
    x, y : array of shape (n,), positive, n ≥ 3, with x increasing

    Returns
    -------
    array of shape (n,)
    """
    x, y, _ = _checked(x, y, None, at_least=3)
    if np.any(np.diff(x) <= 0):
        raise ValueError("x must increase from point to point: sort the points and merge equal x.")
    return np.gradient(np.log(y), np.log(x))


def _power_law(theta, low, high):
    """PowerLaw from (log A, b) or (log A, b, C) and the ends of their intervals."""
    ends = np.stack([low, high], axis=1)
    ends[0] = np.exp(np.minimum(ends[0], 700.0))  # exp overflows beyond 709
    intervals = [(float(a), float(b)) for a, b in ends]
    offset, offset_interval = (theta[2], intervals[2]) if len(theta) == 3 else (0.0, (0.0, 0.0))
    return PowerLaw(
        float(np.exp(theta[0])), float(theta[1]), float(offset), *intervals[:2], offset_interval
    )


def _checked(x, y, stderr, at_least):
    x, y = np.asarray(x, float), np.asarray(y, float)
    stderr = y if stderr is None else np.asarray(stderr, float)  # equal weights in log y
    if not x.shape == y.shape == stderr.shape or x.ndim != 1:
        raise ValueError(
            f"x, y and stderr must be vectors of one length, not of shapes "
            f"{x.shape}, {y.shape}, {stderr.shape}."
        )
    if len(np.unique(x)) < at_least:
        raise ValueError(
            f"This fit needs at least {at_least} points at different x, got {len(np.unique(x))}."
        )
    for name, values in {"x": x, "y": y, "stderr": stderr}.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise ValueError(
                f"{name} must be positive and finite for a law fitted to logarithms, but "
                f"{name}[{bad[0]}] = {values[bad[0]]:g}: leave it out or measure it better."
            )
    return x, y, y / stderr


def _solve(x, y, weight=None):
    """(log A, b) of the straight line through (log x, log y); y may be (n,) or (n, fits)."""
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1, w=weight)
    return np.array([intercept, slope])


def _log_power(theta, x):
    """log(A·x^b + C), also for the two-parameter law."""
    offset = theta[2] if len(theta) == 3 else 0.0
    with np.errstate(divide="ignore"):
        return np.logaddexp(theta[0] + theta[1] * np.log(x), np.log(offset))


def _jacobian(theta, x):
    """Derivatives of log(A·x^b + C) by (log A, b, C), shape (n, 2 or 3)."""
    total = np.exp(_log_power(theta, x))
    share = np.exp(theta[0] + theta[1] * np.log(x)) / total
    return np.stack([share, share * np.log(x), 1 / total], axis=1)[:, : len(theta)]


def _solve_offset(x, y, weight=1.0, start=None):
    """(log A, b, C): the best of several starts, as the sum of squares has more than one valley."""
    floor = y.min()
    if start is None:
        fractions = (0.0, 0.3, 0.6, 0.9, 0.99)
        starts = [np.append(_solve(x, y - f * floor * 0.999), f * floor * 0.999) for f in fractions]
    else:
        starts = [np.append(start[:2], min(start[2], 0.999 * floor))]
    weight = np.broadcast_to(weight, x.shape)
    fits = [
        optimize.least_squares(
            lambda t: (_log_power(t, x) - np.log(y)) * weight,
            np.clip(s, [-np.inf, -np.inf, 0], [np.inf, np.inf, floor]),
            jac=lambda t: _jacobian(t, x) * weight[:, None],
            bounds=([-np.inf, -np.inf, 0], [np.inf, np.inf, floor]),
            x_scale=(1, 1, floor),
        )
        for s in starts
    ]
    return min(fits, key=lambda fit: fit.cost).x


def _solve_logarithm(x, y, weight):
    """(A, C) of A·log x + C, on log residuals; started from the straight line in log x."""
    start = np.polyfit(np.log(x), y, 1, w=weight / y)
    fit = optimize.least_squares(lambda t: (_log_logarithm(t, x) - np.log(y)) * weight, start)
    return fit.x


def _log_logarithm(theta, x):
    # Where A·log x + C is not positive there is no logarithm; a tiny value makes the miss count.
    return np.log(np.maximum(theta[0] * np.log(x) + theta[1], 1e-12))


_LAWS = {
    "power": (_solve, _log_power),
    "power+constant": (_solve_offset, _log_power),
    "logarithm": (_solve_logarithm, _log_logarithm),
}


def _standard_errors(theta, x, y, weight):
    """Of the fitted parameters, from the Jacobian and the residuals; infinite if undetermined."""
    jacobian = _jacobian(theta, x) * weight[:, None]
    residual = (_log_power(theta, x) - np.log(y)) * weight
    scale = np.linalg.norm(jacobian, axis=0)  # parameters have different units
    gram = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(gram) > 1e13:
        return np.full(len(theta), np.inf)
    variance = np.sum(residual**2) / (len(x) - len(theta))
    return np.sqrt(variance * np.diag(np.linalg.inv(gram))) / scale


def _aicc(residual, n_parameters):
    n = len(residual)
    spread = max(np.mean(residual**2), np.finfo(float).eps ** 2)  # an exact fit must not be −∞
    penalty = 2 * n_parameters + 2 * n_parameters * (n_parameters + 1) / (n - n_parameters - 1)
    return n * np.log(spread) + penalty
