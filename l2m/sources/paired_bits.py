"""A hierarchical source of paired bits: any exponent, exact by counting pairs.

After the random pairs of Lu et al. (2021). A token is a tuple of bits. Two blocks of 2^(k-1) tokens
make one of 2^k, in which some free bits of the left half are paired with free bits of the right
half: a pair is a fair bit and its noisy copy. The pairing leaves 2^(βk) times `bits` bits free, so
that the number of pairs that join the two halves, and with it I_BP(L/2; L), grows like L^β.
"""

import numpy as np

from l2m.sources.markov import check_split, mutual_information, noisy_copy_mi


class PairSource:
    """Hierarchically paired bits. Not stationary: its distribution depends on the position.

    Aligned blocks of 2^k tokens are all distributed alike: of windows that start at 0, for
    ℓ = L/2 = 2^k, the marginal of Y needs no `start`. Any other block does. Attribute `mate`, int
    (2^levels · bits,), is the index of the bit that each is paired with, -1 if free.
    There are 2^levels positions, and 2^bits tokens; with few bits I_BP is coarse at small L. The
    `exponent` is β, `noise` the probability that a copy is wrong (vCLUB is infinite at 0), `seed`
    that of the pairs.
    """

    def __init__(self, levels, exponent, bits=8, noise=0.0, seed=0):
        if not 0 < exponent < 1:
            raise ValueError(f"exponent must lie between 0 and 1, not {exponent}.")
        if not 0 <= noise < 0.5:
            raise ValueError(f"noise must be at least 0 and below 0.5, not {noise}.")
        self.bits, self.noise, self.vocab_size = bits, noise, 2**bits
        self.pair_mi = float(noisy_copy_mi(noise))
        rng = np.random.default_rng(seed)
        mate, free = np.full(bits, -1), np.arange(bits)
        for level in range(1, levels + 1):
            half = len(mate)
            mate = np.append(mate, np.where(mate < 0, -1, mate + half))
            left, right = rng.permutation(free), rng.permutation(free) + half
            keep = round(bits * 2 ** (exponent * level) / 2)
            mate[left[keep:]], mate[right[keep:]] = right[keep:], left[keep:]
            free = np.append(left[:keep], right[:keep])
        self.mate = mate

    def sample(self, n, length, rng):
        """n windows that start at position 0, int64 (n, length)."""
        if length * self.bits > len(self.mate):
            raise ValueError(f"length must be at most {len(self.mate) // self.bits}.")
        values = rng.integers(2, size=(n, length * self.bits))
        later, earlier = self._pairs(0, length)
        values[:, later] = values[:, earlier] ^ (rng.random((n, len(later))) < self.noise)
        return values.reshape(n, length, self.bits) @ (1 << np.arange(self.bits))

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, T) of the block that starts at position `start`."""
        tokens = np.asarray(tokens)
        n, length = tokens.shape
        values = (tokens[:, :, None] >> np.arange(self.bits) & 1).reshape(n, -1)
        later, earlier = (index - start * self.bits for index in self._pairs(start, length))
        result = np.full(values.shape, -np.log(2))
        with np.errstate(divide="ignore"):
            right, wrong = np.log1p(-self.noise), np.log(self.noise)
        result[:, later] = np.where(values[:, later] == values[:, earlier], right, wrong)
        return result.reshape(n, length, self.bits).sum(axis=2)

    def bipartite_mi(self, split, length, start=0):
        """The pairs that straddle the split, times the MI of one pair."""
        check_split(split, length)
        later, earlier = self._pairs(start, length)
        border = (start + split) * self.bits
        return self.pair_mi * int(((earlier < border) & (later >= border)).sum())

    def two_point_mi(self, d):
        """MI of (W_i, W_i+d) for i drawn uniformly, a mixture: far below the average MI over i."""
        positions = len(self.mate) // self.bits
        later, earlier = self._pairs(0, positions)
        token = earlier // self.bits
        linked = later // self.bits - token == d
        spin = 1 - 2.0 * (np.arange(self.vocab_size)[:, None] >> np.arange(self.bits) & 1)
        joint = np.full((self.vocab_size, self.vocab_size), float(positions - d))
        for i in np.unique(token[linked]):
            here = linked & (token == i)
            x, y = spin[:, earlier[here] % self.bits], spin[:, later[here] % self.bits]
            factors = 1 + (1 - 2 * self.noise) * x[:, None] * y[None]
            joint += factors.prod(axis=2) - 1
        return mutual_information(joint / ((positions - d) * self.vocab_size**2))

    def _pairs(self, start, length):
        """Indices (later, earlier) of the pairs whose two bits lie in the block."""
        first, last = start * self.bits, (start + length) * self.bits
        later = np.arange(first, min(last, len(self.mate)))
        earlier = self.mate[later]
        inside = (earlier >= first) & (earlier < later)
        return later[inside], earlier[inside]
