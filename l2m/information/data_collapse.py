"""The one monotone curve through measurements of many kinds: do they depend on x alone?"""

import numpy as np
from scipy.optimize import isotonic_regression


def monotone(x, y, new):
    """Value at `new` of the rising curve through (x, y), all positive: isotonic on logarithms.

    Points of equal x count as one, at their mean. Between points the curve is a straight line in
    log x and log y, beyond them it is constant.
    """
    at, inverse, count = np.unique(np.log(x), return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, np.log(y)) / count
    fit = isotonic_regression(mean, weights=count.astype(float))
    return np.exp(np.interp(np.log(new), at, fit.x))
