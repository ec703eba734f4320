"""The Santa Fe source: a text that states facts, so that its past informs its future for ever.

After Dębowski (2011): a token names a fact k and tells its binary value z, ``token = 2k + z``.
Facts come up independently with Zipf's probabilities p_k ∝ k^(-1/β), so that n tokens know about
n^β facts: I_BP ~ L^β, Hilberg's law. In the variant with a `decay` the values also flip, fact k
with probability μ_k per step, the rare facts the more slowly: I_TP(d) ~ d^(-α) while I_BP ~ L^β
still, two exponents that can be chosen apart, as in language.
"""

import numpy as np

from l2m.sources.markov import check_split, noisy_copy_mi


class SantaFeSource:
    """Facts with Zipf-distributed indices, told again and again. Stationary.

    There are K `facts`, and 2K tokens; I_BP saturates once L ~ K^(1/β). The `exponent` is β, the
    `decay` α at most 2 - β; None keeps the facts fixed, as in the original: I_TP is a constant.
    Attributes `probability` and `flip`, (K,), are p_k and μ_k = (rate/2) p_k^γ, where γ = (2 - β)/α
    gives I_TP its exponent α.
    """

    def __init__(self, facts, exponent, decay=None, rate=1.0):
        if facts < 2:
            raise ValueError(f"facts must be at least 2, not {facts}.")
        if not 0 < exponent < 1:
            raise ValueError(f"exponent must lie between 0 and 1, not {exponent}.")
        if decay is not None and not 0 < decay <= 2 - exponent:
            raise ValueError(f"decay must be above 0 and at most {2 - exponent:g}, not {decay}.")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, not {rate}.")
        weight = np.arange(1, facts + 1) ** (-1 / exponent)
        self.vocab_size = 2 * facts
        self.probability = weight / weight.sum()
        self.flip = np.zeros(facts)
        if decay is not None:
            self.flip = rate / 2 * self.probability ** ((2 - exponent) / decay)

    def change(self, fact, gap):
        """(1 - (1 - 2μ_k)^gap)/2, the probability that a value differs `gap` tokens later."""
        return -np.expm1(gap * np.log1p(-2 * self.flip[fact])) / 2

    def sample(self, n, length, rng):
        """n windows, int64 (n, length)."""
        fact = rng.choice(len(self.probability), size=(n, length), p=self.probability)
        order, gap = _by_fact(fact)
        change = np.where(gap == 0, 0.5, self.change(np.take_along_axis(fact, order, axis=1), gap))
        value = (rng.random((n, length)) < change).cumsum(axis=1) % 2
        return 2 * fact + _unsorted(value, order)

    def recall(self, tokens):
        """What the past says of each token, three arrays (n, T): `fact, gap, same`.

        Which fact k it tells, how many tokens ago this was last told (0 if never), and whether with
        the same value (False if never told).
        """
        tokens = np.asarray(tokens)
        fact = tokens // 2
        order, gap = _by_fact(fact)
        value = np.take_along_axis(tokens % 2, order, axis=1)
        same = (gap > 0) & (np.diff(value, axis=1, prepend=0) == 0)
        return fact, _unsorted(gap, order), _unsorted(same, order)

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, T), of the fact and of its value given its last telling."""
        fact, gap, same = self.recall(tokens)
        change = np.where(gap == 0, 0.5, self.change(fact, gap))
        with np.errstate(divide="ignore"):
            return np.log(self.probability[fact] * np.where(same, 1 - change, change))

    def bipartite_mi(self, split, length):
        """Sum over facts of what its last telling in X says of its first telling in Y."""
        return self._over_facts(split, length, noisy_copy_mi)

    def vclub_mi(self, split, length):
        """The limit of vCLUB (Eq. 7) with q = p: I_BP plus lautum information; fixed facts: inf."""
        return self._over_facts(split, length, _binary_vclub)

    def two_point_mi(self, d):
        """Σ_k p_k² I(z_k now; z_k d steps on)."""
        fact = np.arange(len(self.probability))
        return float(self.probability**2 @ noisy_copy_mi(self.change(fact, d)))

    def _over_facts(self, split, length, information):
        """Σ_k Σ_gap P(last telling in X and first in Y lie `gap` apart) information(change).

        They are a tokens before the border and b after it with probability p(1-p)^(a-1)
        p(1-p)^(b-1); gap = a + b - 1 has `ways` such pairs.
        """
        check_split(split, length)
        gap = np.arange(1, length)
        ways = np.minimum(np.minimum(gap, length - gap), min(split, length - split))
        total = 0.0
        for fact, p in enumerate(self.probability):
            pairs = p**2 * ways * (1 - p) ** (gap - 1)
            total += pairs @ information(self.change(fact, gap))
        return float(total)


def _by_fact(fact):
    """Positions sorted by fact, then time, and the gap to the previous telling (0 if none)."""
    order = np.argsort(fact, axis=1, kind="stable")
    sorted_fact = np.take_along_axis(fact, order, axis=1)
    again = np.diff(sorted_fact, axis=1, prepend=-1) == 0
    return order, np.where(again, np.diff(order, axis=1, prepend=0), 0)


def _unsorted(values, order):
    """Values sorted by fact, put back in the order of the text."""
    result = np.empty_like(values)
    np.put_along_axis(result, order, values, axis=1)
    return result


def _binary_vclub(change):
    """E_joint ln p(y|x) - E_product ln p(y|x) of two fair bits that differ so often."""
    with np.errstate(divide="ignore"):
        return (0.5 - change) * np.log((1 - change) / change)
