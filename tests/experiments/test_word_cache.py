"""What a cache adds to a model that does not know what it could know."""

import numpy as np
import pytest

from l2m.experiments.word_cache import FROM, cache_gain, missed_table, mixture_weights, repeats
from l2m.language_models.scoring import Scores, partner_permutation


def test_repeats_by_hand():
    word, pair = repeats([5, 7, 5, 7, 5, 9, 5])
    np.testing.assert_allclose(word, [0, 0, 1 / 2, 1 / 3, 2 / 4, 0, 3 / 6])
    np.testing.assert_allclose(pair, [0, 0, 0, 1, 1, 0, 0])


def test_caches_are_probabilities():
    """Over all tokens that may come next they add up to at most one."""
    past = np.random.default_rng(0).integers(0, 6, 40)
    for t in (1, 9, 40):
        last = np.array([[x[-1] for x in repeats([*past[:t], token])] for token in range(7)])
        np.testing.assert_allclose(last[:, 0].sum(), 1)
        assert last[:, 1].sum() == pytest.approx(1) or last[:, 1].sum() == 0
        assert last.min() >= 0


def test_weights_are_the_likeliest():
    rng = np.random.default_rng(1)
    parts = rng.random((3, 400))
    best = mixture_weights(parts, steps=2000)
    assert best.sum() == pytest.approx(1)
    for other in rng.dirichlet(np.ones(3), 50):
        assert np.log(other @ parts).mean() <= np.log(best @ parts).mean() + 1e-9


def source(n=200, length=256, seed=2):
    """Windows that each use 8 of 64 words, and a model that does not know which."""
    rng = np.random.default_rng(seed)
    words = np.stack([rng.choice(64, 8, replace=False) for _ in range(n)])
    return words[np.arange(n)[:, None], rng.integers(0, 8, (n, length))]


def test_gain_is_what_the_model_missed_and_no_more():
    tokens = source()
    gain = cache_gain(np.full(tokens.shape, -np.log(64)), tokens, np.arange(len(tokens)) // 4)
    assert (gain[:, :FROM] == 0).all()
    missed = np.log(64) - np.log(8)  # at every token, once the words are known
    late = gain[:, 128:].mean()
    assert 0.9 * missed < late <= missed
    assert gain[:, FROM:16].mean() < late


def test_nothing_is_gained_where_nothing_is_missed():
    tokens = np.random.default_rng(3).integers(0, 64, (200, 256))
    gain = cache_gain(np.full(tokens.shape, -np.log(64)), tokens, np.arange(200))
    assert abs(gain.mean()) < 1e-3


def test_table_gives_x_to_y_and_not_to_y_alone():
    tokens = source(n=60, length=64)
    n, flat = len(tokens), -np.log(64)
    marginal = {split: np.full((n, split), flat) for split in (8, 32)}
    scores = Scores(np.full(tokens.shape, flat), marginal, marginal, partner_permutation(n), 2)
    table = missed_table(scores, tokens)
    whole = cache_gain(scores.joint, tokens, np.arange(n))
    alone = cache_gain(marginal[32], tokens[:, 32:], np.arange(n))
    last = table[table["split"] == 32]
    np.testing.assert_allclose(last["joint"], whole[:, 32:].sum(1))
    np.testing.assert_allclose(last["marginal"], alone.sum(1))
    assert last["joint"].mean() > last["marginal"].mean() + 5
