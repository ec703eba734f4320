"""Two exactly solvable Gaussian families with one two-point law and two bipartite laws (App. C).

Glossary: γ, ρ and the 4×4 map M as in the paper; C_k the covariance of level k, of 4^k numbers;
G = Σ_c m_c m_c^T over the columns c of M that carry copies of the level below (three copies in the
sub-volume family, one in the logarithmic), R the same over the columns that carry fresh numbers.
Rows of four being flattened one after another,

    C_k = C_{k-1} ⊗ G + I ⊗ R + (last step),        C_1 = M M^T.

The columns of M are orthogonal, which is what makes the determinants cheap. The last step gives
the neighbours Z_{i,4}, Z_{i+1,1} a set correlation. The paper does not spell it out as a map, and
there are three readings: "replace" those entries of the covariance (the default), "map" each pair
by the symmetric 2×2 matrix that brings its correlation there, or "none", leave the step out.
"""

from functools import cached_property

import numpy as np
from scipy import linalg

from l2m.sources.markov import check_split

GAMMA, RHO = np.sqrt(5) / 4, 1 / 4
SIGNS = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])
M = SIGNS * np.array([GAMMA, GAMMA, GAMMA, RHO])
COPIES = {"sub-volume": 3, "logarithmic": 1}
LAST_STEPS = ("replace", "map", "none")


class GaussianFamily:
    """4^levels correlated standard normal numbers.

    Each aligned block of 4^j numbers has the law of a family of j levels, and reversing the order
    changes nothing.

    Parameters
    ----------
    kind : "sub-volume" or "logarithmic"
    levels : int
        L = 4^levels numbers: `length`.
    last_step : "replace", "map" or "none"
        The reading of the last step of the construction.
    target : float, optional
        The correlation that the last step sets; by default the paper's formula, which is 0 in both
        families, the correlations within a row being -1/4 at every level.
    """

    def __init__(self, kind, levels, last_step="replace", target=None):
        if kind not in COPIES:
            raise ValueError(f"kind must be one of {', '.join(COPIES)}, not {kind!r}.")
        if last_step not in LAST_STEPS:
            raise ValueError(
                f"last_step must be one of {', '.join(LAST_STEPS)}, not {last_step!r}."
            )
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}.")
        self.kind, self.levels, self.last_step = kind, levels, last_step
        self.length = 4**levels
        self._copied, self._fresh = M[:, : COPIES[kind]], M[:, COPIES[kind] :]
        self._g = self._copied @ self._copied.T
        self._r = self._fresh @ self._fresh.T
        # (2/5)(corr(Z_i3, Z_i4) + corr(Z_i+1,1, Z_i+1,2)) + 1/5, where both are entries of M M^T
        inner = self._g + self._r
        formula = 2 / 5 * (inner[2, 3] + inner[0, 1]) + 1 / 5
        self.target = round(formula, 12) if target is None else target

    def about(self) -> dict:
        """What identifies it."""
        names = ("kind", "levels", "last_step", "target")
        return {name: getattr(self, name) for name in names}

    def covariance(self):
        """C_layers, shape (L, L), float64: 8 L² bytes, 2.1 GB for seven levels."""
        below = M @ M.T
        for _ in range(1, self.levels):
            n = len(below)
            matrix = np.multiply(below[:, None, :, None], self._g[None, :, None, :])
            rows = np.arange(n)
            matrix[rows, :, rows, :] += self._r
            below = matrix.reshape(4 * n, 4 * n)
            self._apply_last_step(below)
        return below

    def _apply_last_step(self, matrix):
        """In place, on the pairs (Z_{i,4}, Z_{i+1,1})."""
        first = np.arange(3, len(matrix) - 1, 4)
        second = first + 1
        if self.last_step == "replace":
            matrix[first, second] = matrix[second, first] = self.target
        if self.last_step == "map":
            # square roots of 2×2 correlation matrices share the eigenvectors (1, ±1)/√2
            now = matrix[first, second]
            plus = np.sqrt((1 + self.target) / (1 + now))
            minus = np.sqrt((1 - self.target) / (1 - now))
            own, other = ((plus + minus) / 2)[:, None], ((plus - minus) / 2)[:, None]
            for part in (matrix, matrix.T):
                a, b = part[first], part[second]
                part[first], part[second] = own * a + other * b, other * a + own * b

    def correlation(self, i, j):
        """corr(Z_i, Z_j), positions from 0, by descending the levels: no matrix is built."""
        if self.last_step == "map":
            return float(self.covariance()[i, j])
        return self._entry(self.levels, *sorted((i, j)))

    def _entry(self, level, i, j):
        if level == 1:
            return float((M @ M.T)[i, j])
        if self.last_step == "replace" and j == i + 1 and j % 4 == 0:
            return float(self.target)
        entry = self._entry(level - 1, i // 4, j // 4) * self._g[i % 4, j % 4]
        return float(entry + (i // 4 == j // 4) * self._r[i % 4, j % 4])

    def two_point_mi(self, i, j):
        """-½ ln(1 - corr²) in nats, positions from 0; antipodal: i = 0, j = length - 1."""
        return float(-np.log1p(-(self.correlation(i, j) ** 2)) / 2)

    def bipartite_mi(self, split):
        """½ (ln|C_XX| + ln|C_YY| - ln|C|) in nats.

        Splits at a quarter, half or three quarters of L cost one factorisation of about (3/4)^(k-1)
        L numbers, or next to nothing in the logarithmic family (see `_quarters_log_det`). Any other
        split, "map", and targets other than 0 take one dense Cholesky factorisation, L³/3
        operations. ``LinAlgError`` where the replaced entries leave no positive definite matrix.
        """
        check_split(split, self.length)
        quarters, rest = divmod(4 * split, self.length)
        if rest or self.last_step == "map" or self.target != 0:
            log_det = self._log_det_of_blocks
            x, y, whole = log_det[split], log_det[self.length - split], log_det[self.length]
        else:
            x, y, whole = (self._quarters_log_det(q) for q in (quarters, 4 - quarters, 4))
        return float(x + y - whole) / 2

    @cached_property
    def _log_det_of_blocks(self):
        """ln|C| of the first 0, 1, ..., L numbers; by symmetry also of the last ones."""
        deviations = np.diag(self.cholesky())
        return np.append(0, 2 * np.log(deviations).cumsum())

    def _quarters_log_det(self, quarters):
        """ln|C| of the first `quarters` quarters, less a constant a quarter, without such a matrix.

        After j steps the determinant left to compute is that of (5/4)^j C_m ⊗ I + I ⊗ S with
        m = k - j levels; S acts on the last digit (base 4) of the position times the `inner`
        directions kept so far. The directions of that digit that carry fresh numbers are eliminated
        by a Schur complement. It is local, since neither R nor the last step (with target 0)
        reaches beyond one row of the level below: all blocks are equal, one is factorised. Until
        the last level but one there are as many blocks to a quarter, and these determinants cancel
        in the mutual information: leaving them out keeps it accurate for any number of levels.
        """
        basis = M / np.linalg.norm(M, axis=0)
        kept, gone = slice(0, COPIES[self.kind]), slice(COPIES[self.kind], 4)
        s = np.zeros((4, 4)) if self.levels > 1 else np.zeros((quarters, quarters))
        scale, inner, log_det = 1.0, 1, 0.0
        for m in range(self.levels, 1, -1):
            rows = 4 if m > 2 else quarters
            fresh = scale * self._local_part(rows, basis)
            s = s.reshape(4, inner, 4, inner)
            s = np.einsum("aubv,ap,bq->puqv", s, basis, basis, optimize=True)

            factor = linalg.cholesky(_block(fresh, s, gone, gone), lower=True)
            half = linalg.solve_triangular(factor, _block(fresh, s, gone, kept), lower=True)
            s = _block(fresh, s, kept, kept) - half.T @ half
            if m == 2:
                log_det = 2 * np.log(np.diag(factor)).sum()
            scale, inner = scale * 5 / 4, inner * COPIES[self.kind]
        last = scale * np.kron((M @ M.T)[:quarters, :quarters], np.eye(inner)) + s
        return log_det + 2 * np.log(np.diag(linalg.cholesky(last))).sum()

    def _local_part(self, rows, basis):
        """I ⊗ R and the last step on `rows` rows, columns in `basis`: (rows, 4, rows, 4)."""
        local = np.kron(np.eye(rows), self._r)
        if self.last_step == "replace":
            first = np.arange(3, 4 * rows - 1, 4)
            before = (M @ M.T)[0, 1] * self._g[3, 0]
            local[first, first + 1] = local[first + 1, first] = self.target - before
        local = local.reshape(rows, 4, rows, 4)
        return np.einsum("uavb,ap,bq->upvq", local, basis, basis)

    def cholesky(self, device=None):
        """The lower triangular T with C = T T^T, shape (L, L), float64.

        Z = T ε with ε standard normal is a sample, and its exact conditionals are products of the
        same triangle: E[Z_i | Z_<i] = (T ε)_i - T_ii ε_i, with deviation T_ii. The factor of the
        family with fewer levels is the upper left corner of this one.

        Parameters
        ----------
        device : str or torch.device, optional
            Factorise there and return a torch tensor; by default a NumPy array comes back. L³/3
            operations: for seven levels 1.5·10^12, about a minute on two CPU cores.
        """
        if device is None:
            return linalg.cholesky(
                self.covariance(), lower=True, overwrite_a=True, check_finite=False
            )
        import torch

        return torch.linalg.cholesky(torch.as_tensor(self.covariance(), device=device))

    def sample(self, n, rng):
        """n independent samples, float64 (n, L)."""
        return rng.standard_normal((n, self.length)) @ self._triangle.T

    def conditionals(self, z):
        """Exact E[Z_i | Z_<i] and deviation, for given z of shape (n, L): arrays (n, L), (L,)."""
        noise = linalg.solve_triangular(self._triangle, np.asarray(z).T, lower=True).T
        deviations = np.diag(self._triangle).copy()
        return z - noise * deviations, deviations

    @cached_property
    def _triangle(self):
        return self.cholesky()


def _block(fresh, s, left, right):
    """A block of fresh ⊗ I + I ⊗ S, as a matrix on (row, direction, inner)."""
    rows, inner = len(fresh), s.shape[1]
    fresh, s = fresh[:, left, :, right], s[left, :, right]
    p, q = fresh.shape[1], fresh.shape[3]
    wide = np.kron(fresh.reshape(rows * p, rows * q), np.eye(inner))
    return wide + np.kron(np.eye(rows), s.reshape(p * inner, q * inner))
