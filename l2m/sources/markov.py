"""Sources that are Markov, openly or underneath: their predictive information saturates."""

import numpy as np
from scipy.special import xlogy


def mutual_information(joint):
    """Mutual information in nats of a joint probability table, shape (A, B), that sums to one."""
    joint = np.asarray(joint, dtype=float)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((xlogy(joint, joint) - xlogy(joint, product)).sum())


def noisy_copy_mi(noise, vocab_size=2):
    """MI in nats of a uniform token and its copy, which with probability `noise` is another one."""
    wrong = xlogy(noise, noise) - noise * np.log(vocab_size - 1)
    return np.log(vocab_size) + xlogy(1 - noise, 1 - noise) + wrong


def check_split(split, length):
    """Refuse a split that leaves one side empty."""
    if not 1 <= split < length:
        raise ValueError(f"split must lie between 1 and length - 1 = {length - 1}, not {split}.")


def check_transition(transition, name="transition"):
    """A row-stochastic matrix as a float array, or a ValueError that says which row is wrong."""
    transition = np.asarray(transition, dtype=float)
    if transition.ndim != 2 or (transition < 0).any():
        raise ValueError(f"{name} must be a matrix of probabilities, one row per state.")
    wrong = np.flatnonzero(np.abs(transition.sum(axis=1) - 1) > 1e-9)
    if wrong.size:
        raise ValueError(f"Row {wrong[0]} of {name} must sum to 1: divide each row by its sum.")
    return transition


def stationary_distribution(transition):
    """The π with πP = π of an irreducible chain, shape (S,); ValueError if there are several."""
    size = len(transition)
    balance = np.vstack([transition.T - np.eye(size), np.ones(size)])
    solution, _, rank, _ = np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0))
    if rank < size:
        raise ValueError("transition has several stationary distributions: join its states.")
    positive = np.clip(solution, 0, None)
    return positive / positive.sum()


def choose(cumulative, rng):
    """One category for each row of cumulative probabilities, shape (n, S) -> (n,)."""
    u = rng.random((len(cumulative), 1)) * cumulative[:, -1:]
    return (u >= cumulative).sum(axis=1)


class CopySource:
    """One of `vocab_size` tokens, then repeated for ever (Sec. 4.4): I_TP = I_BP = ln M."""

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

    def two_point_mi(self, d):
        """ln M, whatever the distance."""
        return float(np.log(self.vocab_size))

    def bipartite_mi(self, split, length):
        """The same, whatever the split."""
        check_split(split, length)
        return self.two_point_mi(1)


class MarkovSource:
    """A stationary first-order Markov chain.

    I_BP = I(W_ℓ; W_ℓ+1) at every split and length, while I_TP(d) falls exponentially. Row i of
    `transition` (M, M) holds p(next | i); a ValueError if it is not irreducible.
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


class HiddenMarkovSource:
    """A stationary hidden Markov chain: I_BP saturates below H(state) as the belief settles.

    Row i of `transition` (S, S) holds p(next state | state i), of `emission` (S, M) p(token |
    state i); a ValueError if the chain is not irreducible.
    """

    RESOLUTION = 1e-5  # beliefs closer than this are merged, which changes entropies by ~1e-10
    MAX_BELIEFS = 2**18

    def __init__(self, transition, emission):
        self.transition = check_transition(transition)
        self.emission = check_transition(emission, "emission")
        self.stationary = stationary_distribution(self.transition)
        self.vocab_size = self.emission.shape[1]

    def sample(self, n, length, rng):
        """n windows, int64 (n, length)."""
        tokens = np.empty((n, length), dtype=np.int64)
        state = rng.choice(len(self.stationary), size=n, p=self.stationary)
        for t in range(length):
            tokens[:, t] = choose(self.emission.cumsum(axis=1)[state], rng)
            state = choose(self.transition.cumsum(axis=1)[state], rng)
        return tokens

    def log_prob(self, tokens, start=0):
        """Per-token log-likelihoods (n, T), by the forward algorithm."""
        tokens = np.asarray(tokens)
        result = np.empty(tokens.shape)
        belief = np.tile(self.stationary, (len(tokens), 1))
        for t in range(tokens.shape[1]):
            seen = belief * self.emission[:, tokens[:, t]].T
            likelihood = seen.sum(axis=1, keepdims=True)
            with np.errstate(divide="ignore"):
                result[:, t] = np.log(likelihood[:, 0])
            belief = (seen / np.maximum(likelihood, 1e-300)) @ self.transition
        return result

    def block_entropy(self, length):
        """Entropies in nats of blocks of 0, 1, ..., length tokens, shape (length + 1,).

        H(L) is the sum over t of E[H(W_t | belief)], the belief being the distribution of the state
        given the past. Pasts of the same belief are merged: these are fewer than M^L.
        """
        belief, weight = self.stationary[None], np.ones(1)
        increments = np.zeros(length + 1)
        for t in range(length):
            token = belief @ self.emission
            increments[t + 1] = -(weight @ xlogy(token, token).sum(axis=1))
            seen = (belief[:, None, :] * self.emission.T).reshape(-1, len(self.stationary))
            weight = (weight[:, None] * token).ravel()
            possible = weight > 0
            belief = (seen / np.maximum(token.ravel(), 1e-300)[:, None])[possible] @ self.transition
            belief, weight = self._merge(belief, weight[possible])
        return increments.cumsum()

    def _merge(self, belief, weight):
        """Merge beliefs that agree to RESOLUTION, keeping their mean: a second-order error."""
        cell = np.round(belief / self.RESOLUTION)
        order = np.lexsort(cell.T)
        start = np.flatnonzero(np.diff(cell[order], axis=0, prepend=-1).any(axis=1))
        if len(start) > self.MAX_BELIEFS:
            raise ValueError("This source has too many beliefs for exact entropies: shorten it.")
        total = np.add.reduceat(weight[order], start)
        mean = np.add.reduceat((weight[:, None] * belief)[order], start) / total[:, None]
        return mean, total

    def bipartite_mi(self, split, length):
        """H(ℓ) + H(L - ℓ) - H(L)."""
        check_split(split, length)
        entropy = self.block_entropy(length)
        return float(entropy[split] + entropy[length - split] - entropy[length])

    def two_point_mi(self, d):
        """MI of the joint of the tokens emitted by two states d steps apart."""
        power = np.linalg.matrix_power(self.transition, d)
        joint = self.emission.T @ (self.stationary[:, None] * power) @ self.emission
        return mutual_information(joint)
