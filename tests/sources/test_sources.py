"""Exact values of the solvable sources against enumeration and Monte Carlo."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.sources import (
    CopySource,
    EchoSource,
    HiddenMarkovSource,
    MarkovSource,
    PairSource,
    SantaFeSource,
)
from l2m.sources.markov import mutual_information

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


def check_bipartite(source, length, splits):
    """Probabilities sum to one, I_BP equals enumeration."""
    total = np.exp(source.log_prob(words(source.vocab_size, length)).sum(axis=1)).sum()
    assert total == pytest.approx(1)
    for split in splits:
        truth = enumerated_bipartite(source, split, length)
        assert source.bipartite_mi(split, length) == pytest.approx(truth, abs=1e-9)


def check_exact(source, length, splits):
    """The same, and so does I_TP."""
    check_bipartite(source, length, splits)
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


@pytest.mark.parametrize(("vocab_size", "size", "noise"), [(2, 3, 0.0), (3, 2, 0.2), (2, 2, 0.5)])
def test_echo_source(vocab_size, size, noise):
    source = EchoSource(vocab_size, size, noise)
    check_bipartite(source, 2 * size, range(1, 2 * size))
    check_sample(source, 2 * size, 20_000, np.random.default_rng(0))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_markov_source(seed):
    source = random_markov(seed)
    np.testing.assert_allclose(source.stationary @ source.transition, source.stationary)
    check_exact(source, 4, [1, 2, 3])


def test_markov_samples():
    check_sample(random_markov(1), 3, 20_000, np.random.default_rng(2))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_hidden_markov_source(seed):
    rng = np.random.default_rng(seed)
    states, tokens = rng.integers(1, 4), rng.integers(2, 4)
    transition = rng.dirichlet(np.ones(states), size=states)
    source = HiddenMarkovSource(transition, rng.dirichlet(np.ones(tokens), size=states))
    check_exact(source, 5, [1, 2, 4])


def test_hidden_markov_source_far_beyond_enumeration():
    sticky = [[0.95, 0.05], [0.05, 0.95]]
    source = HiddenMarkovSource(sticky, [[0.8, 0.2], [0.2, 0.8]])
    check_sample(source, 4, 20_000, np.random.default_rng(0))
    entropy = source.block_entropy(32)
    assert (np.diff(entropy, 2) < 1e-9).all()  # increments fall: stationary
    log_prob = source.log_prob(source.sample(4000, 32, np.random.default_rng(1))).sum(axis=1)
    assert -log_prob.mean() == pytest.approx(entropy[32], abs=5 * log_prob.std() / np.sqrt(4000))
    # past and future meet in the hidden state
    assert source.bipartite_mi(4, 8) < source.bipartite_mi(8, 16) < np.log(2)


def test_a_hidden_chain_seen_openly_is_markov():
    chain = random_markov(3)
    hidden = HiddenMarkovSource(chain.transition, np.eye(3))
    tokens = chain.sample(10, 20, np.random.default_rng(0))
    np.testing.assert_allclose(hidden.log_prob(tokens), chain.log_prob(tokens))
    assert hidden.bipartite_mi(30, 100) == pytest.approx(chain.bipartite_mi(30, 100))


santa_fe = st.builds(
    SantaFeSource, st.integers(2, 3), st.floats(0.4, 0.9), st.floats(0.4, 1.1), st.floats(0.1, 1)
)


@settings(max_examples=20, deadline=None)
@given(santa_fe)
def test_santa_fe_source(source):
    check_exact(source, 4, [1, 2, 3])


@settings(max_examples=20, deadline=None)
@given(santa_fe, st.integers(1, 3))
def test_santa_fe_vclub_limit(source, split):
    """E_joint ln p(y|x) - E_product ln p(y|x), every pair of windows enumerated."""
    table = words(source.vocab_size, 4)
    by_token = source.log_prob(table)
    joint = np.exp(by_token.sum(axis=1)).reshape(source.vocab_size**split, -1)
    conditional = by_token[:, split:].sum(axis=1).reshape(joint.shape)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    truth = ((joint - product) * conditional).sum()
    assert source.vclub_mi(split, 4) == pytest.approx(truth, rel=1e-9)


def test_santa_fe_samples_and_monte_carlo():
    rng = np.random.default_rng(0)
    check_sample(SantaFeSource(2, 0.5, 1.0), 4, 30_000, rng)
    check_sample(SantaFeSource(2, 0.5), 4, 30_000, rng)
    source = SantaFeSource(64, 0.7, 0.9)
    tokens = source.sample(3000, 96, rng)
    joint, marginal = source.log_prob(tokens)[:, 32:], source.log_prob(tokens[:, 32:])
    window = (joint - marginal).sum(axis=1)
    truth = source.bipartite_mi(32, 96)
    assert window.mean() == pytest.approx(truth, abs=5 * window.std() / np.sqrt(3000))


def naive_recall_log_prob(source, tokens):
    """One token at a time, with a dictionary of the last tellings."""
    result, last = [], {}
    for t, token in enumerate(tokens):
        fact, value = divmod(int(token), 2)
        flip = 0.5
        if fact in last:
            time, old = last[fact]
            flip = (1 - (1 - 2 * source.flip[fact]) ** (t - time)) / 2
            flip = flip if value != old else 1 - flip
        last[fact] = t, value
        result.append(np.log(source.probability[fact] * flip))
    return result


@settings(max_examples=10, deadline=None)
@given(santa_fe, seeds)
def test_santa_fe_log_prob_against_a_dictionary(source, seed):
    tokens = source.sample(2, 50, np.random.default_rng(seed))
    naive = [naive_recall_log_prob(source, window) for window in tokens]
    np.testing.assert_allclose(source.log_prob(tokens), naive, rtol=1e-9)


def test_santa_fe_has_its_two_exponents():
    """β and α, each from the local slope of the exact curves deep in the power-law range."""
    source = SantaFeSource(5000, exponent=0.6, decay=1.4)
    mi = [source.bipartite_mi(length // 2, length) for length in (1000, 4000)]
    assert np.log(mi[1] / mi[0]) / np.log(4) == pytest.approx(0.6, abs=0.02)
    source = SantaFeSource(5000, exponent=0.6, decay=0.9)
    two_point = [source.two_point_mi(d) for d in (1000, 4000)]
    assert np.log(two_point[0] / two_point[1]) / np.log(4) == pytest.approx(0.9, abs=0.02)
    original = SantaFeSource(50, 0.6)
    assert original.two_point_mi(1) == pytest.approx(original.two_point_mi(1000))
    assert original.vclub_mi(4, 8) == np.inf


pairs = st.builds(
    PairSource,
    st.just(2),
    st.floats(0.1, 0.9),
    st.integers(1, 2),
    st.floats(0.01, 0.4),
    st.integers(0, 99),
)


@settings(max_examples=20, deadline=None)
@given(pairs)
def test_pair_source(source):
    table = words(source.vocab_size, 4)
    probability = np.exp(source.log_prob(table).sum(axis=1))
    check_bipartite(source, 4, [1, 2, 3])
    # a block at an offset is the marginal of the whole
    block = words(source.vocab_size, 2)
    offset = np.exp(source.log_prob(block, start=1).sum(axis=1))
    shape = (source.vocab_size, source.vocab_size**2, source.vocab_size)
    np.testing.assert_allclose(probability.reshape(shape).sum(axis=(0, 2)), offset)
    assert source.bipartite_mi(1, 2, start=1) == pytest.approx(
        mutual_information(offset.reshape(source.vocab_size, -1)), abs=1e-9
    )
    # pooled over positions
    for d in (1, 2, 3):
        joint = probability.reshape((source.vocab_size,) * 4)
        pooled = sum(
            joint.sum(axis=tuple(a for a in range(4) if a not in (i, i + d))) for i in range(4 - d)
        )
        truth = mutual_information(pooled / (4 - d))
        assert source.two_point_mi(d) == pytest.approx(truth, abs=1e-9)


def test_pair_samples_and_exponent():
    source = PairSource(3, 0.5, bits=1, noise=0.1, seed=3)
    check_sample(source, 8, 50_000, np.random.default_rng(0))
    source = PairSource(12, 0.7)
    mi = [source.bipartite_mi(2 ** (k - 1), 2**k) for k in (8, 12)]
    assert np.log2(mi[1] / mi[0]) / 4 == pytest.approx(0.7, abs=0.01)
    # aligned blocks have one law
    tokens = source.sample(3, 128, np.random.default_rng(1))[:, 64:]
    np.testing.assert_allclose(source.log_prob(tokens, start=64), source.log_prob(tokens))


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="split must lie between 1 and length - 1 = 3"):
        CopySource(2).bipartite_mi(4, 4)
    with pytest.raises(ValueError, match="split must lie between 1 and length - 1 = 7, not 8"):
        EchoSource(2, 4).bipartite_mi(8, 8)
    with pytest.raises(ValueError, match="length must be 2·size = 8"):
        EchoSource(2, 4).sample(1, 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="noise in"):
        EchoSource(2, 4, 0.6)
    with pytest.raises(ValueError, match="Row 1 of transition must sum to 1"):
        MarkovSource([[0.5, 0.5], [0.5, 0.6]])
    with pytest.raises(ValueError, match="several stationary distributions"):
        MarkovSource(np.eye(2))
    with pytest.raises(ValueError, match="decay must be above 0"):
        SantaFeSource(4, 0.5, decay=1.6)
    with pytest.raises(ValueError, match="length must be at most 4"):
        PairSource(2, 0.5).sample(1, 5, np.random.default_rng(0))
