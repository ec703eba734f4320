"""Sequences cut out of a longer Gaussian family, at a place where its blocks do not begin.

What a model gains from a hierarchy that lies like that of the data, it does not gain here. The
numbers are Gaussian with a part of the longer family's covariance: all is known exactly.
"""

from functools import cached_property

import numpy as np
from scipy import linalg

from l2m.sources.gaussian import GaussianFamily
from l2m.sources.markov import check_split


class CutFamily:
    """The numbers offset, …, offset + L - 1, L = 4^levels, of a family one level longer.

    All is dense: a covariance of 16 L² numbers is made once, and L³/3 operations factorise L.
    `offset` is from 0 to 3L, or a ValueError; others as in `GaussianFamily`.
    """

    def __init__(self, kind, levels, offset):
        self.whole = GaussianFamily(kind, levels + 1)
        self.kind, self.levels, self.offset = kind, levels, offset
        self.length = 4**levels
        if not 0 <= offset <= 3 * self.length:
            most = 3 * self.length
            raise ValueError(f"offset is between 0 and 3·length = {most}, not {offset}.")

    def about(self) -> dict:
        """What identifies it, as JSON has it."""
        return self.whole.about() | {"levels": self.levels, "offset": self.offset}

    def covariance(self):
        """C, (L, L), float64."""
        here = slice(self.offset, self.offset + self.length)
        return self.whole.covariance()[here, here]

    cholesky = GaussianFamily.cholesky

    def sample(self, n, rng):
        """n independent samples, float64 (n, L)."""
        return rng.standard_normal((n, self.length)) @ self._triangle.T

    def conditionals(self, z):
        """Exact E[Z_i | Z_<i] and deviation, for given z (n, L): arrays (n, L), (L,)."""
        noise = linalg.solve_triangular(self._triangle, np.asarray(z).T, lower=True).T
        return z - noise * self.deviations, self.deviations

    @property
    def deviations(self):
        """Exact deviations of Z_i given Z_<i, (L,)."""
        return np.diag(self._triangle).copy()

    def bipartite_mi(self, split):
        """I_BP(split; L) in nats."""
        check_split(split, self.length)
        backwards = np.linalg.cholesky(self.covariance()[::-1, ::-1])
        left, right = np.log(self.deviations), np.log(np.diag(backwards))
        return float(left[:split].sum() + right[: self.length - split].sum() - left.sum())

    @cached_property
    def _triangle(self):
        return self.cholesky()
