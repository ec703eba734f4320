"""Estimators given what is no count, no resample, no partner and no split: refused, never nan."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.information.bipartite import bipartite_mi
from l2m.information.entropy import METHODS, entropy, entropy_stderr
from l2m.information.resampling import clustered_stderr, resampled_means
from l2m.information.scaling import bootstrap_power_law
from l2m.language_models.scoring import partner_permutation, score_whole

calm = settings(deadline=None, max_examples=40)
NO_INTEGER = st.one_of(
    st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.fractions()
)  # and a whole float is none either
NO_COUNT = st.one_of(
    st.sampled_from([np.inf, -np.inf, np.nan]),
    st.integers(-(10**6), -1),
    st.floats(0.001, 0.999).map(lambda x: x + 3),
)
X = np.array([1.0, 2.0, 4.0, 8.0])
VALUES = X + np.random.default_rng(0).normal(0, 0.1, (10, 4))
WINDOWS = np.random.default_rng(0).integers(0, 7, (6, 8))


def uniform(tokens):
    return np.full(tokens.shape, -np.log(7))


SCORES = score_whole(uniform, WINDOWS, [2, 4])


@calm
@given(
    st.lists(st.integers(0, 1000), max_size=6), NO_COUNT, st.booleans(), st.sampled_from(METHODS)
)
def test_what_is_no_count_has_no_entropy(counts, wrong, of_times, method):
    counts = [*counts, wrong]
    times = counts if of_times else None
    for estimate in (entropy, entropy_stderr):
        with pytest.raises(ValueError, match="are integers, not negative"):
            estimate(np.ones(len(counts)) if of_times else counts, method, times)


@calm
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.sampled_from(METHODS))
def test_counts_have_a_finite_entropy_whatever_their_type(counts, method):
    if not any(counts):
        with pytest.raises(ValueError, match="no samples"):
            entropy(counts, method)
        return
    found = entropy(counts, method)
    assert np.isfinite(found)
    assert found == pytest.approx(entropy(np.array(counts, float), method))
    assert found == pytest.approx(entropy(np.array(counts, np.uint16), method))


@calm
@given(st.one_of(NO_INTEGER, st.integers(max_value=1)))
def test_an_interval_needs_two_resamples(n):
    with pytest.raises(ValueError, match="n_boot is an integer, at least 2"):
        bootstrap_power_law(X, VALUES, n_boot=n)
    if n != 1 or isinstance(n, bool | float):
        with pytest.raises(ValueError, match="number of resamples is an integer, at least 1"):
            resampled_means(VALUES, n=n)


@calm
@given(st.integers(2, 20), st.integers(0, 100))
def test_intervals_are_finite_from_two_resamples_on(n, seed):
    law = bootstrap_power_law(X, VALUES, n_boot=n, seed=seed)
    assert np.isfinite([*law.amplitude_interval, *law.exponent_interval]).all()


def test_of_one_sample_there_is_no_interval():
    for some, groups in ((VALUES[:1], None), (VALUES, np.zeros(10)), (VALUES[:0], None)):
        with pytest.raises(ValueError, match="at least two groups|There must be rows"):
            bootstrap_power_law(X, some, groups)
    assert np.isnan(clustered_stderr(VALUES[:1])).all()


@calm
@given(st.lists(st.floats(0, 9), min_size=10, max_size=10), st.sampled_from([-1, np.nan]))
def test_weights_are_not_negative(weights, wrong):
    for bad in ([*weights[:9], wrong], [0] * 10, weights[:9]):
        with pytest.raises(ValueError, match="a weight of each"):
            clustered_stderr(VALUES, weights=bad)


@calm
@given(st.permutations(range(6)))
def test_no_window_is_its_own_partner(partners):
    own = [i for i, partner in enumerate(partners) if i == partner]
    if own:
        with pytest.raises(ValueError, match=f"window {own[0]} is its own partner: give it"):
            score_whole(uniform, WINDOWS, [2], partners=partners)
    else:
        assert score_whole(uniform, WINDOWS, [2], partners=partners).shuffled[2].shape == (6, 2)


@pytest.mark.parametrize("partners", [[1, 2, 3, 4, 5, 0.5], [True] * 6, [], [[]], [6] * 6])
def test_partners_are_indices(partners):
    with pytest.raises(ValueError, match="partners must be indices below 6"):
        score_whole(uniform, WINDOWS, [2], partners=partners)


@calm
@given(st.one_of(NO_INTEGER, st.integers(max_value=1), st.integers(min_value=9)))
def test_ratios_are_integers_that_fit(ratio):
    with pytest.raises(ValueError, match="ratio must be an integer from 2 to the length, 8"):
        score_whole(uniform, WINDOWS, [2], ratio=ratio)
    if ratio is not None and ratio != 2:
        with pytest.raises(ValueError, match="no complete split with L/ℓ"):
            bipartite_mi(SCORES, ratio=ratio)
        with pytest.raises(ValueError, match="no complete split with L/ℓ"):
            bipartite_mi(replace(SCORES, groups=[0, 0, 1, 1, 2, 2]), ratio=ratio)


@calm
@given(NO_INTEGER)
def test_splits_and_numbers_of_partners_are_integers(wrong):
    with pytest.raises(ValueError, match="splits must be integers"):
        score_whole(uniform, WINDOWS, [2, wrong])
    with pytest.raises(ValueError, match="an integer number of partners"):
        partner_permutation(6, k=wrong)


@pytest.mark.parametrize("splits", [[2, 4], (4, 2), np.array([2, 4]), range(2, 5, 2)])
def test_splits_come_in_any_collection(splits):
    assert score_whole(uniform, WINDOWS, splits).splits == [2, 4]
