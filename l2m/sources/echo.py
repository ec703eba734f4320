"""A source that says everything twice: it asks for as much memory as its first half is long."""

import numpy as np

from l2m.sources.markov import check_split, noisy_copy_mi


class EchoSource:
    """K independent, uniform tokens, then the same K again, each one wrong with some probability.

    What X says of Y grows with every token of X: a source that asks for `size` = K tokens' worth of
    memory, and whose Y has no structure of its own. Not stationary; windows start at position 0.
    `noise` is the probability that an echo is not its original, but another token.
    """

    def __init__(self, vocab_size, size, noise=0.0):
        if vocab_size < 2 or size < 1 or not 0 <= noise <= 1 - 1 / vocab_size:
            raise ValueError("An echo needs vocab_size >= 2, size >= 1 and noise in [0, 1 − 1/M].")
        self.vocab_size, self.size, self.noise = vocab_size, size, noise
        self.token_mi = float(noisy_copy_mi(noise, vocab_size))

    def sample(self, n, length, rng):
        """n windows of 2K tokens, int64 (n, 2K)."""
        if length != 2 * self.size:
            raise ValueError(f"length must be 2·size = {2 * self.size}, not {length}.")
        first = rng.integers(self.vocab_size, size=(n, self.size))
        shift = rng.integers(1, self.vocab_size, size=first.shape)
        echo = (first + shift * (rng.random(first.shape) < self.noise)) % self.vocab_size
        return np.hstack([first, echo])

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, 2K) of whole windows."""
        first, echo = np.split(np.asarray(tokens), 2, axis=1)
        with np.errstate(divide="ignore"):
            right, wrong = np.log([1 - self.noise, self.noise / (self.vocab_size - 1)])
        fresh = np.full(first.shape, -np.log(self.vocab_size))
        return np.hstack([fresh, np.where(first == echo, right, wrong)])

    def bipartite_mi(self, split, length):
        """I_BP(ℓ; 2K), exact: of every token with its original and echo on different sides."""
        check_split(split, length)
        return min(split, length - split) * self.token_mi
