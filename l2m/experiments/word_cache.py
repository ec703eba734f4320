"""A cache of words beside a language model: what the model misses of its past.

A cache model {cite}`kuhn1990cache` predicts that words come back, and what followed a word follows
it again. If it improves a language model, that model had left something lying in its past: as many
nats, at least, as the mixture gains.
"""

from collections import Counter

import numpy as np
import pandas as pd

from l2m.information.resampling import members

FROM = 8  # tokens; before, there is nothing to come back


def missed_table(scores, tokens) -> pd.DataFrame:
    """What the cache adds, window by window, from the `Scores` of windows and their tokens (n, T).

    A DataFrame `window, book, split, joint, marginal`, nats gained on the ℓ tokens of Y: after X,
    with a cache of X and of Y so far, and without X, with a cache of Y so far.
    """
    books, rows = scores.books, []
    after_x = cache_gain(scores.joint, tokens, books)
    for split in scores.splits:
        y = slice(split, 2 * split)
        alone = cache_gain(scores.marginal[split][:, :split], tokens[:, y], books)
        row = {"window": np.arange(len(tokens)), "book": books, "split": split}
        rows.append(pd.DataFrame(row | {"joint": after_x[:, y].sum(1), "marginal": alone.sum(1)}))
    return pd.concat(rows, ignore_index=True)


def cache_gain(log_q, tokens, groups) -> np.ndarray:
    """log of (mixture of q and the cache) / q for each token (n, m), nats.

    The weights are fitted by expectation–maximisation, one set for each octave of positions, on
    half of the groups (books), and judged on the other half, both ways.
    """
    q = np.exp(np.asarray(log_q, np.float64))
    parts = np.stack([q, *map(np.stack, zip(*map(repeats, tokens), strict=True))])
    half = members(groups, len(q))[0] % 2
    gain = np.zeros_like(q)
    for first in (FROM * 2**k for k in range(32) if FROM * 2**k < q.shape[1]):
        octave = slice(first, 2 * first)
        some = parts[:, :, octave]
        for fold in (0, 1):
            weights = mixture_weights(some[:, half != fold].reshape(len(parts), -1))
            mixture = np.tensordot(weights, some[:, half == fold], 1)
            gain[half == fold, octave] = np.log(mixture / some[0, half == fold])
    return gain


def repeats(tokens) -> tuple[np.ndarray, np.ndarray]:
    """Two caches' probabilities of each token of a sequence, from those before it.

    The share of the token among all earlier ones, and among those that followed the earlier
    occurrences of the token just before it (0 if there were none).
    """
    words, pairs, firsts = Counter(), Counter(), Counter()
    word, pair = np.zeros(len(tokens)), np.zeros(len(tokens))
    last = None
    for t, token in enumerate(np.asarray(tokens).tolist()):
        word[t] = words[token] / max(t, 1)
        pair[t] = pairs[last, token] / max(firsts[last], 1)
        words[token] += 1
        if last is not None:
            pairs[last, token] += 1
            firsts[last] += 1
        last = token
    return word, pair


def mixture_weights(probabilities, steps=50) -> np.ndarray:
    """Weights of the likeliest mixture of k predictions: (k, n) probabilities → (k,)."""
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for _ in range(steps):
        share = weights[:, None] * probabilities
        weights = (share / share.sum(0)).mean(1)
    return weights
