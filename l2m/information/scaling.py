"""Scaling laws and how well they are known.

The paper's two laws are powers: I_BP(L/2; L) = A·L^β and I_TP(d) = A·d^{−α} (its Secs. 3-4), the
second seen through a constant bias C (its Sec. B.VII). All is fitted to log y: errors of a mutual
information are closer to relative than to absolute ones. Intervals of `fit_power_law` take the
points as independent; values measured on the same windows are not: `bootstrap_power_law` gives
their intervals, and `compare_laws` uses their covariance. `monotone` asks less than a law: whether
measurements of many kinds depend on x alone.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import optimize, stats

from l2m.information.resampling import CONFIDENCE, is_integer, resampled_means


@dataclass(frozen=True)
class PowerLaw:
    """y = amplitude · x^exponent + offset, with 95% intervals `(low, high)`; call it to evaluate.

    For a decaying law α is `-exponent`. `amplitude` and `offset` carry the unit of y (nats).
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

    `x` and `y`, (n,), are lengths or distances, and mutual information in nats; with `offset` the
    constant C is fitted as well (Sec. B.VII of the paper: the bias of two-point MI). A point weighs
    as (y/stderr)², the inverse variance of log y; only ratios matter, since the scale of the noise
    is read off the residuals. Intervals are Student-t, from the covariance of the linearised fit.
    ValueError for values that are not positive and finite, or too few points: 3, or 4 with C.
    """
    x, y, weight = _checked(x, y, stderr, at_least=4 if offset else 3)
    weight = np.diag(weight)
    theta = _solve_offset(x, y, weight) if offset else _solve(x, y, weight)
    error = _standard_errors(theta, x, y, weight)
    return _power_law(theta, error, len(x) - len(theta), y.min())


def bootstrap_power_law(x, values, groups=None, n_boot=1000, seed=0):
    """Fit y = A·x^b to the mean over samples, with intervals from resampling whole groups.

    Windows of one book resemble each other, and all points of the curve come from the same windows;
    drawing books with replacement keeps both dependences. Intervals are Student-t with (groups − 1)
    degrees of freedom, with the standard deviation of the resampled log A and b for an error: with
    tens of books percentiles of the resamples hold the truth less often than promised.

    `x`, (k,), are lengths or distances, `values`, (n, k), mutual information (nats) of each of n
    windows at each x; `groups`, (n,), is the book of each window, by default its own; `n_boot` is
    the number of resamples, `seed` theirs, or a np.random.Generator. ValueError for fewer than two
    groups or resamples, or if more than 1% of the resamples have a mean that is not positive at
    some x: then the data cannot tell a power law there.
    """
    values = np.asarray(values, float)
    if values.ndim != 2:
        raise ValueError(f"values must have shape (windows, points), not {values.shape}.")
    if not is_integer(n_boot) or n_boot < 2:
        wanted = "an integer, at least 2, whose spread is the error"
        raise ValueError(f"n_boot is {wanted}, not {n_boot!r}.")
    means = resampled_means(values, groups, n_boot, seed)
    x, mean, _ = _checked(x, values.mean(axis=0), None, at_least=3)
    usable = (means > 0).all(axis=1)
    if usable.mean() < 0.99:
        often = f"in {np.sum(~usable)} of {n_boot} resamples, most often"
        worst = f"{often} at x = {x[(means <= 0).mean(axis=0).argmax()]:g}"
        cure = "leave that x out or measure more windows"
        raise ValueError(f"The mean is not positive {worst}: {cure}.")
    n_groups = len(values if groups is None else np.unique(groups))
    error = _solve(x, means[usable].T).std(axis=1, ddof=1)
    return _power_law(_solve(x, mean), error, n_groups - 1, mean.min())


def compare_laws(x, y, stderr=None, *, covariance=None, groups=None):
    """Set three laws side by side on the same data, all fitted to log y.

    ``power`` is A·x^b, ``power+constant`` is A·x^b + C with C ≥ 0, ``logarithm`` is A·log x + C.
    `x`, `y`, `stderr` and errors as in `fit_power_law`, but at least 6 points.
    DataFrame, one row per law: ``law, amplitude, exponent, offset, aicc, delta_aicc,
    prediction_error``. `aicc` is Akaike's criterion corrected for few points (lower is better;
    `delta_aicc` counts from the best), `prediction_error` the root-mean-square of log(prediction/y)
    on the longest third of the x when the law is fitted to the others.

    With the `covariance` of y, (n, n), in place of `stderr`, the fits are generalised least squares
    and may have C < 0; ``chi2, dof, p`` stand in place of the two of Akaike. `chi2` is the smallest
    r' S⁻¹ r of the residuals r and the covariance S of log y, S_ij = covariance_ij / (y_i y_j). `p`
    is the probability of one as large if the law is true. For a `clustered_covariance` say of how
    many `groups`: chi2 is then Hotelling's T² of m = dof contrasts, and (ν − m + 1)/(ν m) · T² has
    the F distribution with m and ν − m + 1 degrees of freedom, ν = groups − 1
    ({cite:t}`rao1959`; exact for normal groups of one size and a law linear in its parameters).
    Without `groups` the covariance counts as known, and `p` is of χ². ValueError for a covariance
    that is not positive definite, as when there are no more groups than points: along what groups
    do not span no error is known, so a pseudo-inverse would leave out misfits or make them certain.
    """
    x, y, weight = _checked(x, y, stderr, at_least=6)
    order = np.argsort(x)
    x, y, weight = x[order], y[order], np.diag(weight[order])
    if covariance is not None:
        covariance = np.asarray(covariance, float)
        if covariance.shape != weight.shape:
            raise ValueError(f"covariance must be {weight.shape}, not {covariance.shape}.")
        weight = _whitening(covariance[np.ix_(order, order)] / np.outer(y, y))
    known = len(x) - len(x) // 3
    corner = weight[:known, :known]  # of a triangular matrix: the weight of the shorter x alone
    rows = []
    for law, (solve, log_law) in _LAWS.items():
        if covariance is not None and law == "power+constant":
            solve = partial(solve, lowest=-np.inf)
        theta, short = solve(x, y, weight), solve(x[:known], y[:known], corner)
        square = np.sum((weight @ (log_law(theta, x) - np.log(y))) ** 2)
        miss = log_law(short, x[known:]) - np.log(y[known:])
        a, b, c = (theta[0], np.nan, theta[1]) if law == "logarithm" else _parameters(theta)
        if covariance is None:
            judged = {"aicc": _aicc(square, len(x), len(theta) + 1), "delta_aicc": 0.0}
        else:
            judged = _chi_square(square, len(x) - len(theta), groups)
        error = {"prediction_error": np.sqrt(np.mean(miss**2))}
        rows.append({"law": law, "amplitude": a, "exponent": b, "offset": c} | judged | error)
    table = pd.DataFrame(rows)
    if covariance is None:
        table["delta_aicc"] = table.aicc - table.aicc.min()
    return table


def local_exponent(x, y):
    """The running exponent d log y / d log x, (n,): central differences, one-sided at the ends.

    Of 3 points or more, positive, with x increasing, or a ValueError. A power law gives a constant.
    """
    x, y, _ = _checked(x, y, None, at_least=3)
    if np.any(np.diff(x) <= 0):
        raise ValueError("x must increase from point to point: sort the points and merge equal x.")
    return np.gradient(np.log(y), np.log(x))


def monotone(x, y, new):
    """Value at `new` of the one rising curve through (x, y), all positive: isotonic on logarithms.

    Points of equal x count as one, at their mean. Between points the curve is a straight line in
    log x and log y, beyond them it is constant.
    """
    at, inverse, count = np.unique(np.log(x), return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, np.log(y)) / count
    fit = optimize.isotonic_regression(mean, weights=count.astype(float))
    return np.exp(np.interp(np.log(new), at, fit.x))


def _aicc(square, n, k):
    """Akaike's corrected criterion, of k parameters, the scale of the noise among them."""
    spread = max(square / n, np.finfo(float).eps ** 2)  # an exact fit must not be −∞
    return n * np.log(spread) + (2 * k + 2 * k * (k + 1) / (n - k - 1))


def _chi_square(square, dof, groups):
    """χ², its degrees of freedom, and p; that of Hotelling's T² for a covariance of groups."""
    p = stats.chi2.sf(square, dof)
    if groups is not None:
        rest = groups - dof
        p = stats.f.sf(square * rest / ((groups - 1) * dof), dof, rest)
    return {"chi2": square, "dof": dof, "p": p}


def _whitening(covariance):
    """The triangular W with W S W' = 1 for a covariance S, or a ValueError."""
    values = np.linalg.eigvalsh(covariance)
    if not (np.allclose(covariance, covariance.T) and values[0] > 1e-12 * values[-1]):
        why = "a covariance from groups is singular unless there are more groups than points"
        cure = "measure more groups, or leave points out"
        raise ValueError(f"covariance must be symmetric and positive definite ({why}: {cure}).")
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _parameters(theta):
    """(A, b, C) from (log A, b) or (log A, b, C)."""
    return np.exp(theta[0]), theta[1], theta[2] if len(theta) == 3 else 0.0


def _power_law(theta, error, freedom, smallest):
    """PowerLaw from (log A, b) or (log A, b, C), its errors and degrees of freedom, and min(y)."""
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * error
    low, high = theta - half, theta + half
    if len(theta) == 3:  # what the fit cannot choose, its interval does not hold
        low[2], high[2] = max(low[2], 0.0), min(high[2], smallest)
    ends = np.zeros((3, 2))
    ends[: len(theta)] = np.stack([low, high], axis=1)
    ends[0] = np.exp(np.minimum(ends[0], 700.0))  # exp overflows beyond 709
    return PowerLaw(*map(float, _parameters(theta)), *map(tuple, ends.tolist()))


def _checked(x, y, stderr, at_least):
    """x, y and the weight of log y, (n,) each, or a ValueError."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    stderr = y if stderr is None else np.asarray(stderr, float)  # equal weights in log y
    if not x.shape == y.shape == stderr.shape or x.ndim != 1:
        shapes = f"{x.shape}, {y.shape}, {stderr.shape}"
        raise ValueError(f"x, y and stderr must be vectors of one length, not of shapes {shapes}.")
    if (n := len(np.unique(x))) < at_least:
        raise ValueError(f"This fit needs at least {at_least} points at different x, got {n}.")
    for name, values in {"x": x, "y": y, "stderr": stderr}.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            where = f"{name}[{bad[0]}] = {values[bad[0]]:g}: leave it out or measure it better"
            must = "must be positive and finite for a law fitted to logarithms"
            raise ValueError(f"{name} {must}, but {where}.")
    return x, y, y / stderr


def _solve(x, y, weight=None):
    """(log A, b) of the straight line through (log x, log y); y may be (n,) or (n, fits)."""
    line, log_y = np.stack([np.ones(len(x)), np.log(x)], axis=1), np.log(y)
    if weight is not None:
        line, log_y = weight @ line, weight @ log_y
    return np.linalg.lstsq(line, log_y)[0]


def _log_power(theta, x):
    """log(A·x^b + C), also of two parameters; a tiny value for none makes the miss count."""
    power = theta[0] + theta[1] * np.log(x)
    offset = theta[2] if len(theta) == 3 else 0.0
    with np.errstate(divide="ignore", over="ignore"):
        if offset < 0:
            return power + np.log1p(np.maximum(offset * np.exp(-power), -1 + 1e-12))
        return np.logaddexp(power, np.log(offset))


def _jacobian(theta, x):
    """Derivatives of log(A·x^b + C) by (log A, b, C), shape (n, 2 or 3)."""
    total = np.exp(_log_power(theta, x))
    share = np.exp(theta[0] + theta[1] * np.log(x)) / total
    return np.stack([share, share * np.log(x), 1 / total], axis=1)[:, : len(theta)]


def _solve_offset(x, y, weight, lowest=0.0):
    """(log A, b, C ≥ lowest): the best of several starts, as there are several valleys."""
    floor = y.min()
    shares = (0.0, 0.3, 0.6, 0.9, 0.99) if lowest == 0 else (-3.0, -1.0, 0.0, 0.3, 0.9)
    offsets = [f * floor * 0.999 for f in shares]
    fits = [
        optimize.least_squares(
            lambda t: weight @ (_log_power(t, x) - np.log(y)),
            np.append(_solve(x, y - offset), offset),
            jac=lambda t: weight @ _jacobian(t, x),
            bounds=([-np.inf, -np.inf, lowest], [np.inf, np.inf, floor]),
            x_scale=(1, 1, floor),
        )
        for offset in offsets
    ]
    return min(fits, key=lambda fit: fit.cost).x


def _solve_logarithm(x, y, weight):
    """(A, C) of A·log x + C, on log residuals: from the straight line in log x, and a chord."""
    ends = [x.argmin(), x.argmax()]
    starts = (
        np.polyfit(np.log(x), y, 1, w=weight.diagonal() / y),
        np.polyfit(np.log(x[ends]), y[ends], 1),  # positive at every x
    )
    fits = [
        optimize.least_squares(lambda t: weight @ (_log_logarithm(t, x) - np.log(y)), start)
        for start in starts
    ]
    return min(fits, key=lambda fit: fit.cost).x


def _log_logarithm(theta, x):
    """log(A·log x + C); a tiny value where there is no logarithm makes the miss count."""
    return np.log(np.maximum(theta[0] * np.log(x) + theta[1], 1e-12))


_LAWS = {
    "power": (_solve, _log_power),
    "power+constant": (_solve_offset, _log_power),
    "logarithm": (_solve_logarithm, _log_logarithm),
}


def _standard_errors(theta, x, y, weight):
    """Of the fitted parameters, from the Jacobian and the residuals; infinite if undetermined."""
    jacobian = weight @ _jacobian(theta, x)
    residual = weight @ (_log_power(theta, x) - np.log(y))
    scale = np.linalg.norm(jacobian, axis=0)  # parameters have different units
    gram = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(gram) > 1e13:
        return np.full(len(theta), np.inf)
    variance = np.sum(residual**2) / (len(x) - len(theta))
    return np.sqrt(variance * np.diag(np.linalg.inv(gram))) / scale
