"""Exactly solvable sources of tokens: the truth against which the estimators are calibrated.

Every source has a vocabulary of ``vocab_size`` tokens 0, 1, ... and four methods, in nats:

==============================  ====================================================================
``sample(n, length, rng)``      n independent windows, int64 (n, length)
``log_prob(tokens, start=0)``   ln p(w_t | w_start ... w_{t-1}) of every token, float (n, T)
``bipartite_mi(split, length)`` I_BP(ℓ; L) = I(W_1..W_ℓ ; W_ℓ+1..W_L), exact (Def. 4.1)
``two_point_mi(d)``             I_TP(d) = I(W_i ; W_{i+d}), exact (Def. 4.2)
==============================  ====================================================================

``start`` is the position of the block's first token. Stationary sources ignore it, for them the
law of a block does not depend on where it stands, so that ``log_prob(Y)`` is the exact marginal of
any block Y; the source that is not stationary (`PairSource`) needs it.
"""

import numpy as np
from scipy.special import xlogy


def mutual_information(joint):
    """Mutual information in nats of a joint probability table, shape (A, B), that sums to one."""
    joint = np.asarray(joint, dtype=float)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((xlogy(joint, joint) - xlogy(joint, product)).sum())


def check_split(split, length):
    """Refuse a split that leaves one side empty."""
    if not 1 <= split < length:
        raise ValueError(f"split must lie between 1 and length - 1 = {length - 1}, not {split}.")


def check_transition(transition, name="transition"):
    """A row-stochastic matrix as a float array, or a ValueError that says which row is wrong."""
    transition = np.asarray(transition, dtype=float)
    if transition.ndim != 2 or (transition < 0).any():
        raise ValueError(f"{name} must be a matrix of probabilities, one row a state.")
    wrong = np.flatnonzero(np.abs(transition.sum(axis=1) - 1) > 1e-9)
    if wrong.size:
        raise ValueError(f"Row {wrong[0]} of {name} must sum to 1: divide each row by its sum.")
    return transition


def stationary_distribution(transition):
    """The π with πP = π of an irreducible chain, shape (S,)."""
    size = len(transition)
    balance = np.vstack([transition.T - np.eye(size), np.ones(size)])
    solution, _, rank, _ = np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0))
    if rank < size:
        raise ValueError("transition has several stationary distributions: join its states.")
    return np.clip(solution, 0, None) / np.clip(solution, 0, None).sum()


def choose(cumulative, rng):
    """One category for each row of cumulative probabilities, shape (n, S) -> (n,)."""
    u = rng.random((len(cumulative), 1)) * cumulative[:, -1:]
    return (u >= cumulative).sum(axis=1)


class CopySource:
    """One token drawn uniformly, then repeated for ever (Sec. 4.4): I_TP = I_BP = ln M everywhere.

    Parameters
    ----------
    vocab_size : int
        M, at least 1.
    """

    def __init__(self, vocab_size):
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, not {vocab_size}.")
        self.vocab_size = vocab_size

    def sample(self, n, length, rng):
        """n windows, int64 (n, length)."""
        return np.repeat(rng.integers(self.vocab_size, size=(n, 1)), length, axis=1)

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, T): -ln M first, then 0, or -inf where a copy differs."""
        tokens = np.asarray(tokens)
        result = np.where(tokens == tokens[:, :1], 0.0, -np.inf)
        result[:, 0] = -np.log(self.vocab_size)
        return result

    def bipartite_mi(self, split, length):
        """ln M, whatever the split."""
        check_split(split, length)
        return float(np.log(self.vocab_size))

    def two_point_mi(self, d):
        """ln M, whatever the distance."""
        return float(np.log(self.vocab_size))


class MarkovSource:
    """A stationary first-order Markov chain.

    Past and future meet in one token, so I_BP = I(W_ℓ; W_ℓ+1) at every split and length, while
    I_TP(d) falls exponentially.

    Parameters
    ----------
    transition : array (M, M)
        Row i holds p(next | i). Irreducible, or a ValueError.
    """

    def __init__(self, transition):
        self.transition = check_transition(transition)
        self.stationary = stationary_distribution(self.transition)
        self.vocab_size = len(self.stationary)

    def sample(self, n, length, rng):
        """n windows, int64 (n, length)."""
        tokens = np.empty((n, length), dtype=np.int64)
        tokens[:, 0] = rng.choice(self.vocab_size, size=n, p=self.stationary)
        cumulative = self.transition.cumsum(axis=1)
        for t in range(1, length):
            tokens[:, t] = choose(cumulative[tokens[:, t - 1]], rng)
        return tokens

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, T)."""
        tokens = np.asarray(tokens)
        first = self.stationary[tokens[:, :1]]
        later = self.transition[tokens[:, :-1], tokens[:, 1:]]
        with np.errstate(divide="ignore"):
            return np.log(np.concatenate([first, later], axis=1))

    def bipartite_mi(self, split, length):
        """I(W_ℓ; W_ℓ+1), whatever the split."""
        check_split(split, length)
        return self.two_point_mi(1)

    def two_point_mi(self, d):
        """MI of the joint π_i (P^d)_ij."""
        power = np.linalg.matrix_power(self.transition, d)
        return mutual_information(self.stationary[:, None] * power)
