"""Counts → entropy in nats, by four estimators, each with a standard error.

N samples fall on types; an estimate is a mean over samples, whose type was seen n times, of

    plugin         log N − log n, the naive estimate; low by about (types − 1) / 2N
    miller-madow   log N − log n + 1 / 2n, less 1 / 2N at the end {cite}`miller1955note`
    grassberger    log N − G(n) {cite}`grassberger2003`, the paper's choice (App. B.VI)
    chao-shen      −C log q / (1 − (1 − q)^N), with q = C n / N and the coverage
                   C = 1 − (types seen once) / N {cite}`chao2003nonparametric`

Equal counts may be given once, with how many types have them (the counts of counts).
"""

import numpy as np
from scipy.special import digamma

METHODS = ("plugin", "miller-madow", "grassberger", "chao-shen")


def entropy(counts, method: str = "grassberger", times=None) -> float:
    """Entropy, in nats, of the distribution that counts were drawn from, by one of `METHODS`.

    `counts`, integers of any shape, are how often each type was seen; zeros are ignored. `times`,
    of the same shape, is how many types have each count; one each if None. ValueError for an
    unknown method, no samples, or counts that are negative or no integers.
    """
    n, t = _check(counts, method, times)
    constant = 0.5 / (n @ t) if method == "miller-madow" else 0.0
    return float(n * t @ _terms(n, t, method) / (n @ t) - constant)


def entropy_stderr(counts, method: str = "grassberger", times=None) -> float:
    """Standard error of `entropy` in nats, the spread of its terms over √N; ignorant of bias."""
    n, t = _check(counts, method, times)
    terms, weights = _terms(n, t, method), n * t / (n @ t)
    return float(np.sqrt(weights @ (terms - weights @ terms) ** 2 / (n @ t)))


def grassberger_g(n) -> np.ndarray:
    """Grassberger's G(n) = ψ(n) + ((−1)^n / 2)·[ψ((n+1)/2) − ψ(n/2)], for n ≥ 1."""
    n = np.asarray(n, float)
    sign = 1 - 2 * (n % 2)
    return digamma(n) + sign / 2 * (digamma((n + 1) / 2) - digamma(n / 2))


def _terms(n: np.ndarray, t: np.ndarray, method: str) -> np.ndarray:
    """The term of a sample whose type was seen n times, for every different n."""
    samples = n @ t
    if method == "plugin":
        return np.log(samples / n)
    if method == "miller-madow":
        return np.log(samples / n) + 0.5 / n
    if method == "grassberger":
        return np.log(samples) - grassberger_g(n)
    once = min(t[n == 1].sum(), samples - 1)  # were it all samples, nothing would be covered
    coverage = 1 - once / samples
    q = coverage * n / samples
    with np.errstate(divide="ignore"):  # q = 1: seen for sure
        return -coverage * np.log(q) / -np.expm1(samples * np.log1p(-q))


def _whole(x: np.ndarray) -> bool:
    return x.dtype.kind in "buif" and bool((np.isfinite(x) & (x >= 0) & (x == np.floor(x))).all())


def _check(counts, method, times) -> tuple[np.ndarray, np.ndarray]:
    """Different positive counts and how many types have them, as floats (exact up to 2^53)."""
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, not {method!r}.")
    n = np.asarray(counts)
    t = np.ones_like(n) if times is None else np.asarray(times)
    if n.shape != t.shape:
        raise ValueError(f"counts and times differ in shape: {n.shape} and {t.shape}.")
    if n.size and not (_whole(n) and _whole(t)):
        raise ValueError("Counts, and how many types have each, are integers, not negative.")
    seen = (n > 0) & (t > 0)
    if not seen.any():
        raise ValueError("There is no entropy of no samples: all counts are zero.")
    n, where = np.unique(n[seen], return_inverse=True)
    return n.astype(float), np.bincount(where.ravel(), weights=t[seen].ravel())
