"""What else the paper's last step can mean: the readings beside that of `gaussian` (App. C).

Eq. C.23 gives the neighbours Z_{m,4}, Z_{m+1,1} of different rows the correlation

    (2/5) (corr(Z_{m,3}, Z_{m,4}) + corr(Z_{m+1,1}, Z_{m+1,2})) + 1/5,

by "an addition operation". Open are the operation, a linear map of the pair (`GaussianFamily`) or
an entry of the covariance that is replaced (`ReplacedFamily`), and the value: the two correlations
are -1/4 with the paper's M, which gives 0; their sizes, or rows of M with ALTERNATING signs, give
2/5. Where no pair is cut, at 2/5 of L for one, the map changes no I_BP at all.
"""

import numpy as np
from scipy import linalg

from l2m.sources.gaussian import COPIES, GaussianFamily, M
from l2m.sources.markov import check_split

PAPER, ALTERNATING = (1, 1, 1, 1), (1, -1, 1, -1)


def reading(kind, levels, last_step="map", target=2 / 5, signs=PAPER):
    """The family whose `last_step` is "map", "replace" or "none"; others as in `GaussianFamily`."""
    if last_step not in ("map", "replace", "none"):
        raise ValueError(f"last_step must be one of map, replace, none, not {last_step!r}.")
    if last_step == "replace":
        return ReplacedFamily(kind, levels, target, signs)
    return GaussianFamily(kind, levels, target if last_step == "map" else None, signs)


class ReplacedFamily:
    """The family whose last step replaces an entry of the covariance; all else as it was.

    Not every target leaves a positive definite matrix: ``LinAlgError`` where it does not.
    """

    def __init__(self, kind, levels, target=0, signs=PAPER):
        if target is None:
            raise ValueError('target must be a number: reading(…, "none") leaves the step out.')
        self._rows = GaussianFamily(kind, levels, target, signs)
        self.kind, self.levels, self.target, self.length = kind, levels, target, 4**levels

    def covariance(self):
        """C_levels, (L, L), float64, by C_k = C_{k-1} ⊗ G + I ⊗ R, entries replaced."""
        matrix = np.eye(1)
        for _ in range(self.levels):
            matrix = self._rows.of_rows(matrix, np.eye(len(matrix)))
            _replace(matrix, self.target)
        return matrix

    cholesky = GaussianFamily.cholesky

    def bipartite_mi(self, split):
        """I_BP(split; L) in nats, after L³/3 operations.

        With target 0, splits at a quarter, half or three quarters of L cost one factorisation of
        about (3/4)^(k-1) L numbers, or next to nothing in the logarithmic family.
        """
        check_split(split, self.length)
        quarters, rest = divmod(4 * split, self.length)
        if rest or self.target != 0:
            entropy = np.append(0, np.log(np.diag(self.cholesky())).cumsum())
            return float(entropy[split] + entropy[-1 - split] - entropy[-1])
        x, y, whole = (self._quarters_log_det(q) for q in (quarters, 4 - quarters, 4))
        return float(x + y - whole) / 2

    def _quarters_log_det(self, quarters):
        """ln|C| of the first `quarters` quarters, target 0, less a constant a quarter.

        After j steps the determinant left is that of (5/4)^j C_m ⊗ I + I ⊗ S with m = k - j levels;
        S acts on the last digit (base 4) of the position times the `inner` directions kept so far.
        The columns of M are orthogonal: the directions of that digit that carry fresh numbers are
        eliminated by a Schur complement. It is local, since neither R nor the last step reaches
        beyond one row of the level below: all blocks are equal, one is factorised. Until the last
        level but one these determinants cancel in the mutual information: left out, it is accurate
        for any number of levels. The signs of M's rows change nothing here.
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
        kept, new = M[:, : COPIES[self.kind]], M[:, COPIES[self.kind] :]
        local = np.kron(np.eye(rows), new @ new.T)
        _replace(local, -(M @ M.T)[0, 1] * (kept @ kept.T)[3, 0])
        local = local.reshape(rows, 4, rows, 4)
        return np.einsum("uavb,ap,bq->upvq", local, basis, basis)


def _replace(matrix, value):
    """Set the entries of the pairs of neighbours in different rows, in place."""
    first = np.arange(3, len(matrix) - 1, 4)
    matrix[first, first + 1] = matrix[first + 1, first] = value


def _block(fresh, s, left, right):
    """A block of fresh ⊗ I + I ⊗ S, as a matrix on (row, direction, inner)."""
    rows, inner = len(fresh), s.shape[1]
    fresh, s = fresh[:, left, :, right], s[left, :, right]
    p, q = fresh.shape[1], fresh.shape[3]
    wide = np.kron(fresh.reshape(rows * p, rows * q), np.eye(inner))
    return wide + np.kron(np.eye(rows), s.reshape(p * inner, q * inner))
