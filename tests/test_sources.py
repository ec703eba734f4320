"""Exact values of the solvable sources against enumeration and Monte Carlo."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.sources import CopySource, MarkovSource, mutual_information

seeds = st.integers(0, 2**32 - 1)


def words(vocab_size, length):
    return np.array(list(itertools.product(range(vocab_size), repeat=length)))


def enumerated_bipartite(source, split, length):
    """I(X;Y) from the full table of p(x, y): the naive twin."""
    probability = np.exp(source.log_prob(words(source.vocab_size, length)).sum(axis=1))
    return mutual_information(probability.reshape(source.vocab_size**split, -1))


def enumerated_two_point(source, d):
    probability = np.exp(source.log_prob(words(source.vocab_size, d + 1)).sum(axis=1))
    table = probability.reshape(source.vocab_size, -1, source.vocab_size)
    return mutual_information(table.sum(axis=1))


def random_markov(seed, size=3):
    return MarkovSource(np.random.default_rng(seed).dirichlet(np.ones(size), size=size))


def check_exact(source, length, splits):
    """Probabilities sum to one, marginals are consistent, MI equals enumeration."""
    total = np.exp(source.log_prob(words(source.vocab_size, length)).sum(axis=1)).sum()
    assert total == pytest.approx(1)
    for split in splits:
        truth = enumerated_bipartite(source, split, length)
        assert source.bipartite_mi(split, length) == pytest.approx(truth, abs=1e-9)
    for d in range(1, length):
        assert source.two_point_mi(d) == pytest.approx(enumerated_two_point(source, d), abs=1e-9)


def check_sample(source, length, n, rng):
    """Sampled words have the probabilities that log_prob says: a chi-square within reach."""
    tokens = source.sample(n, length, rng)
    assert tokens.shape == (n, length) and tokens.dtype == np.int64
    table = words(source.vocab_size, length)
    expected = n * np.exp(source.log_prob(table).sum(axis=1))
    index = tokens @ source.vocab_size ** np.arange(length - 1, -1, -1)
    seen = np.bincount(index, minlength=len(table))
    assert seen[expected == 0].sum() == 0
    chi2 = ((seen - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    freedom = (expected > 0).sum()
    assert chi2 < freedom + 6 * np.sqrt(2 * freedom)


def test_mutual_information_of_known_tables():
    assert mutual_information(np.full((2, 3), 1 / 6)) == pytest.approx(0)
    assert mutual_information(np.eye(4) / 4) == pytest.approx(np.log(4))


@pytest.mark.parametrize("vocab_size", [1, 2, 3])
def test_copy_source(vocab_size):
    source = CopySource(vocab_size)
    check_exact(source, 4, [1, 2, 3])
    check_sample(source, 3, 1000, np.random.default_rng(0))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_markov_source(seed):
    source = random_markov(seed)
    np.testing.assert_allclose(source.stationary @ source.transition, source.stationary)
    check_exact(source, 4, [1, 2, 3])


def test_markov_samples():
    check_sample(random_markov(1), 3, 20_000, np.random.default_rng(2))


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="split must lie between 1 and length - 1 = 3"):
        CopySource(2).bipartite_mi(4, 4)
    with pytest.raises(ValueError, match="Row 1 of transition must sum to 1"):
        MarkovSource([[0.5, 0.5], [0.5, 0.6]])
    with pytest.raises(ValueError, match="several stationary distributions"):
        MarkovSource(np.eye(2))
