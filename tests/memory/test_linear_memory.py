"""Linear memories: exact ones against dense algebra, bounds below what memories reach."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.experiments.gaussian import window_floor
from l2m.memory import linear_memory
from l2m.memory.linear_memory import canonical_nats, filter_divergence, least_divergence, ranks
from l2m.sources.gaussian import GaussianFamily
from l2m.sources.gaussian_readings import reading

KINDS = ("sub-volume", "logarithmic")
every = pytest.mark.parametrize("kind", KINDS)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 4), st.floats(-0.8, 0.8), st.data())
def test_canonical_terms_are_those_of_the_definition(kind, levels, target, data):
    family = GaussianFamily(kind, levels, target)
    cut = data.draw(st.integers(1, family.length - 1))
    nats, c = canonical_nats(family, cut), family.covariance()
    assert nats.sum() == pytest.approx(family.bipartite_mi(cut), abs=1e-9)
    regress = np.linalg.solve(c[:cut, :cut], c[:cut, cut:])
    squares = np.linalg.eigvals(np.linalg.solve(c[cut:, cut:], c[cut:, :cut] @ regress)).real
    squares = np.sort(squares)[::-1][: len(nats)]
    np.testing.assert_allclose(nats, -np.log1p(-squares) / 2, atol=1e-10)


def test_ranks_at_every_cut():
    """Most in the middle, where pairs are cut at every level: r_k = 3 r_(k-1) + 1 = 5, 16, 49."""
    for levels, most in ((2, 5), (3, 16), (4, 49)):
        family = GaussianFamily("sub-volume", levels)
        rank, half = ranks(family), family.length // 2
        assert rank.max() == rank[half - 1] == len(canonical_nats(family, half)) == most
        assert most == (11 * 3 ** (levels - 2) - 1) // 2
        np.testing.assert_array_equal(rank, rank[::-1])
        mi = family.bipartite_mi_at_all_splits()
        assert rank[mi.argmax()] == (3**levels - 1) // 2  # where I_BP is largest, off the middle
        assert ranks(GaussianFamily("logarithmic", levels)).max() == 2 * levels - 1
    c = family.covariance()
    some = [np.linalg.matrix_rank(c[cut:, :cut], tol=1e-8) for cut in range(1, 256, 9)]
    np.testing.assert_array_equal(rank[::9], some)


def test_ranks_of_the_family_with_replaced_entries():
    for levels in (2, 3, 4):
        rank = ranks(reading("sub-volume", levels, "replace", 0))
        assert rank[len(rank) // 2] == 4 * 3 ** (levels - 2)
        assert rank.max() == (3**levels - 1) // 2


def test_the_largest_information_is_off_the_middle():
    mi = GaussianFamily("sub-volume", 4).bipartite_mi_at_all_splits()
    assert mi.argmax() + 1 in (102, 154)  # 0.4 L, or 0.6 L
    assert (mi.max(), mi[127]) == pytest.approx((10.206, 9.252), abs=1e-3)


@every
def test_memories_obey_the_bound(kind):
    """The filter and the last m numbers are such memories; all numbers, or enough, are exact."""
    for levels in (1, 2, 3):
        family = GaussianFamily(kind, levels)
        enough = ranks(family).max()
        sizes = range(enough + 1)
        least, reached = least_divergence(family, sizes), filter_divergence(family, sizes)
        windows = [window_floor(family, m).mean() for m in sizes]
        assert (least <= reached + 1e-12).all() and (reached <= np.array(windows) + 1e-12).all()
        assert (np.diff(least) <= 0).all() and (np.diff(reached) <= 1e-12).all()
        assert reached[0] == pytest.approx(-np.log(family.deviations).mean())
        assert least[-1] == pytest.approx(0) == reached[-1]
    assert least[1] > 0.85 * reached[1]


def test_the_filter_is_what_simulating_it_gives():
    """The same memory, followed as weights on Z_1 … Z_i, and regressed on with the covariance."""
    family, m = GaussianFamily("sub-volume", 3), 4
    c, deviation = family.covariance(), family.deviations
    steps = linear_memory._exact_filter(family)
    weights, cost, x = np.zeros((0, 64)), [], np.zeros((0, 64))
    value = linear_memory._value(steps, 0.9)
    for i, (read, _, keep) in enumerate(steps):
        var = weights @ c @ weights.T
        with_z = weights @ c[:, i]
        left = 1 - with_z @ np.linalg.solve(var, with_z) if len(var) else 1.0
        cost.append(np.log(left / deviation[i] ** 2) / 2)
        noise = (np.eye(64)[i] - read @ x) / deviation[i]
        x = keep @ np.vstack([x, noise])  # the exact memory as weights on Z
        np.testing.assert_allclose(x @ c @ x.T, np.eye(len(x)), atol=1e-10)
        both = np.vstack([weights, np.eye(64)[i]])
        both = np.linalg.solve(np.linalg.cholesky(both @ c @ both.T), both)
        with_x = both @ c @ x.T
        _, vectors = np.linalg.eigh(with_x @ value[i + 1] @ with_x.T)
        weights = vectors[:, -m:].T @ both
    assert linear_memory._reduced(steps, value, m) == pytest.approx(np.mean(cost), abs=1e-10)


def test_any_cuts_give_a_valid_bound_and_more_a_better_one():
    family, sizes = GaussianFamily("sub-volume", 3), (1, 2, 4, 8)
    bounds = [least_divergence(family, sizes, pieces) for pieces in (1, 4, 16, 64)]
    reached = filter_divergence(family, sizes)
    for fewer, more in pairwise([*bounds, reached]):
        assert (fewer <= more + 1e-12).all()
    # as good as disjoint stretches of 1, 2, 4, … numbers, of which each is charged once
    c = family.covariance()
    terms = [
        -np.log1p(-(np.linalg.svd(linear_memory._whitened(c[: 2 * n, : 2 * n], n))[1] ** 2)) / 2
        for n in 2 ** np.arange(6)
    ]
    dyadic = [sum(t[m:].sum() for t in terms) / 64 for m in sizes]
    assert (bounds[-1] > 1.2 * np.array(dyadic)).all()


def test_pieces_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pieces must divide length = 64, and 48 does not"):
        least_divergence(GaussianFamily("sub-volume", 3), [1], pieces=48)
    with pytest.raises(ValueError, match="split must lie between"):
        canonical_nats(GaussianFamily("sub-volume", 3), 64)
