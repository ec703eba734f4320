"""Two exactly solvable Gaussian families with one two-point law and two bipartite laws (App. C).

Level k makes L = 4^k numbers out of independent copies of the family of level k-1 (three in the
sub-volume family, one in the logarithmic; two in one that is not the paper's, with I_BP ~ L^½ and a
two-point law that falls faster), each of which gives row m its number m; fresh standard normal
numbers fill up the rows of four. Each row is mixed by the matrix M, the rows are flattened, and in
a last step (Eq. C.23) each pair of neighbours Z_{m,4}, Z_{m+1,1} is brought to a set
correlation by a symmetric linear map

    u' = α u + β v,    v' = β u + α v.

The paper does not spell this map out: `gaussian_readings` has what else can be read into it. The
reading here has both of the paper's laws, L^0.79 and log L.

Why all is cheap: let i = 4m + j with j = 1, …, 4, rows and numbers counted from 0. To know z_<i is
to know the rows before m, before their last step, and the first j of the *six*

    Z_{m,1}, Z_{m,2}, Z_{m,3}, u', v', Z_{m+1,2}

(Z_{m,1} and Z_{m-1,4} since of their pair both u' and v' are known). The next two of the six are
z_i and z_{i+1}. So what is known of (z_i, z_{i+1}) given z_<i follows from what is known of
(a_m, a_{m+1}) given a_<m, of the copies one level below: pairs of neighbours suffice at every
level, and a row costs the Cholesky factor of a 6×6 matrix. Any correlation is found by the same
descent. One independent number more is imagined beyond either end: they are no special case.
"""

from functools import cached_property

import numpy as np

from l2m.sources.markov import check_split

M = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])
M = M * np.sqrt([5, 5, 5, 1]) / 4  # its columns are orthogonal, its rows have length 1
COPIES = {"sub-volume": 3, "logarithmic": 1, "square-root": 2}


class GaussianFamily:
    """L = 4^levels correlated standard normal numbers, the same when their order is reversed.

    The `kind` is "sub-volume", "logarithmic" or "square-root", `target` the correlation that the
    last step sets, between -1 and 1; None leaves the step out. `signs` are four of ±1, of the rows
    of M; backwards they must be the same, or all opposite. All but `covariance` and `cholesky`
    takes O(L) time and memory.
    """

    def __init__(self, kind, levels, target=2 / 5, signs=(1, 1, 1, 1)):
        if kind not in COPIES:
            raise ValueError(f"kind must be one of {', '.join(COPIES)}, not {kind!r}.")
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}.")
        if target is not None and not -1 < target < 1:
            raise ValueError(f"target must lie between -1 and 1, or be None, not {target}.")
        signs, back = tuple(signs), tuple(signs)[::-1]
        if len(signs) != 4 or {*signs} - {1, -1} or back not in (signs, tuple(-s for s in signs)):
            raise ValueError(f"signs must be four ±1, alike or opposite backwards, not {signs}.")
        self.kind, self.levels, self.target, self.signs = kind, levels, target, signs
        self.length = 4**levels
        self._mixing = np.array(signs)[:, None] * M
        self._copies = COPIES[kind]

    def about(self) -> dict:
        """What identifies it, as JSON has it."""
        return {name: getattr(self, name) for name in ("kind", "levels", "target", "signs")}

    def sample(self, n, rng):
        """n independent samples, float64 (n, L)."""
        return self._construct(rng.standard_normal((n, self.length)).T, self.levels).T

    def conditionals(self, z):
        """Exact E[Z_i | Z_<i] and deviation, for given z of shape (n, L): arrays (n, L), (L,)."""
        means = self._neighbours_ahead(np.asarray(z, dtype=float).T, self.levels)
        return means[1:, 0].T, self.deviations

    @property
    def deviations(self):
        """Exact deviations of Z_i given Z_<i, which do not depend on the values, (L,)."""
        return np.sqrt(self._levels[1][1:, 0, 0])

    def bipartite_mi(self, split):
        """I_BP(split; L) = ½ (ln|C_XX| + ln|C_YY| - ln|C|) in nats."""
        check_split(split, self.length)
        return float(self.bipartite_mi_at_all_splits()[split - 1])

    def bipartite_mi_at_all_splits(self):
        """I_BP(split; L) in nats at split = 1, …, L-1, shape (L-1,)."""
        # H(Z_1 … Z_i) less that of independent numbers; by symmetry also that of the last i
        entropy = np.log(self.deviations).cumsum()
        return entropy[:-1] + entropy[-2::-1] - entropy[-1]

    def correlation(self, i, j):
        """corr(Z_i, Z_j), positions from 0."""
        for position in (i, j):
            if not 0 <= position < self.length:
                last = self.length - 1
                raise ValueError(f"positions go from 0 to length - 1 = {last}, not {position}.")
        return float(self._between_neighbours(self.levels, i, j)[0, 0])

    def two_point_mi(self, i, j):
        """-½ ln(1 - corr²) in nats, positions from 0; antipodal: i = 0, j = length - 1."""
        return float(-np.log1p(-(self.correlation(i, j) ** 2)) / 2)

    def covariance(self):
        """C, (L, L), float64: 8 L² bytes, 2.1 GB for seven levels."""
        # the construction is linear, Z = A X with independent X, so that C = A A^T
        return self._construct(self._construct(np.eye(self.length), self.levels).T, self.levels)

    def cholesky(self):
        """The lower triangular T with C = T T^T, (L, L), after L³/3 operations.

        Z = T ε with ε standard normal is a sample, and its exact conditionals are products of the
        same triangle: E[Z_i | Z_<i] = (T ε)_i - T_ii ε_i, with deviation T_ii.
        """
        return np.linalg.cholesky(self.covariance())

    def _construct(self, x, level):
        """Z of a level from as many independent numbers x, shape (4^level, batch)."""
        if level == 0:
            return x
        rows, c = x.reshape(len(x) // 4, 4, -1), self._copies
        below = self._construct(rows[:, :c].reshape(len(rows), -1), level - 1)
        copies = below.reshape(rows[:, :c].shape)
        z = self._mixing[:, :c] @ copies + self._mixing[:, c:] @ rows[:, c:]
        return _map_pairs(z.reshape(x.shape), *_own_and_other(self._levels[0][level - 1][0]))

    def _neighbours_ahead(self, z, level):
        """E[Z_i, Z_{i+1} | Z_<i] at i = -1, …, L-1, (L+1, 2, batch), of z (L, batch)."""
        if level == 0:
            return np.zeros((2, 2, z.shape[1]))
        six, factor = self._levels[0][level - 1]
        own, other = _own_and_other(six)
        scale = own**2 - other**2
        rows = _map_pairs(z.copy(), own / scale, -other / scale).reshape(len(z) // 4, 4, -1)
        copies = (np.linalg.inv(self._mixing) @ rows)[:, : self._copies]
        below = self._neighbours_ahead(copies.reshape(len(rows), -1), level - 1)
        below = below.reshape(len(rows) + 1, 2 * self._copies, -1)
        known = np.zeros((len(rows) + 1, 4, z.shape[1]))  # the first four of the six
        known[1:] = z.reshape(rows.shape)
        known[1:, 0] = rows[:, 0]
        mean = six @ np.kron(np.eye(2), self._mixing[:, : self._copies]) @ below
        noise = np.linalg.solve(factor[:, :4, :4], known - mean[:, :4])
        ahead = [mean[:, j : j + 2] + factor[:, j : j + 2, :j] @ noise[:, :j] for j in range(1, 5)]
        return _by_position(ahead)

    def _between_neighbours(self, level, i, j):
        """Covariance of (Z_i, Z_{i+1}) with (Z_j, Z_{j+1}), 2×2."""
        if level == 0:
            return np.eye(2, k=i - j)
        (m, first), (n, second) = divmod(i - 1, 4), divmod(j - 1, 4)
        rows = self.of_rows(self._between_neighbours(level - 1, m, n), np.eye(2, k=m - n))
        six, _ = self._levels[0][level - 1]
        left, right = six[m + 1, first + 1 : first + 3], six[n + 1, second + 1 : second + 3]
        return left @ rows @ right.T

    def of_rows(self, copies, fresh):
        """Covariance 8×8 of two rows with two, from those of the numbers that they are made of."""
        kept, new = self._mixing[:, : self._copies], self._mixing[:, self._copies :]
        return np.kron(copies, kept @ kept.T) + np.kron(fresh, new @ new.T)

    @cached_property
    def _levels(self):
        """(six, factor) of each level; Cov[Z_i, Z_{i+1} | Z_<i] at i = -1, …, L-1: (L+1, 2, 2).

        Of n rows, windows m = -1, …, n-1 stand for the rows m and m+1: `six`, (n+1, 6, 8), has the
        six numbers as combinations of these, `factor`, (n+1, 6, 6), is the Cholesky factor of their
        covariance given the rows before.
        """
        levels, now = [], np.tile(np.eye(2), (2, 1, 1))  # covariances of neighbours,
        ahead = now  # and given all before them
        for _ in range(self.levels):
            rows = self.of_rows(now, np.eye(2))
            six = np.tile(np.eye(8)[:6], (len(rows), 1, 1))  # both ends stay as they are
            own, other = self._last_step(rows[1:-1, 3, 4])
            six[1:-1, 3, 3] = six[1:-1, 4, 4] = own
            six[1:-1, 3, 4] = six[1:-1, 4, 3] = other
            turned = six.swapaxes(1, 2)
            factor = np.linalg.cholesky(six @ self.of_rows(ahead, np.eye(2)) @ turned)
            levels.append((six, factor))
            rows = six @ rows @ turned
            now = _by_position([rows[:, j : j + 2, j : j + 2] for j in range(1, 5)])
            ahead = _by_position([factor[:, j : j + 2, j : j + 2] for j in range(1, 5)])
            ahead = ahead @ ahead.swapaxes(1, 2)
        return levels, ahead

    def _last_step(self, correlation):
        """α and β of the map that takes pairs of this correlation to the target."""
        if self.target is None:
            return 1, 0
        # square roots of 2×2 correlation matrices share the eigenvectors (1, ±1)/√2
        plus = np.sqrt((1 + self.target) / (1 + correlation))
        minus = np.sqrt((1 - self.target) / (1 - correlation))
        return (plus + minus) / 2, (plus - minus) / 2


def _own_and_other(six):
    """α and β of the last step of a level, (n-1, 1) each."""
    return six[1:-1, 3, 3, None], six[1:-1, 3, 4, None]


def _map_pairs(z, own, other):
    """z, shape (L, batch), after mapping each pair of neighbours across rows; in place."""
    u, v = z[3:-1:4], z[4::4]
    z[3:-1:4], z[4::4] = own * u + other * v, other * u + own * v
    return z


def _by_position(windows):
    """Four arrays (n+1, 2, …), for i = 4m+1, …, 4m+4 with m = -1, …: (4n+1, 2, …), i from -1."""
    stacked = np.stack(windows, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])[2:-1]
