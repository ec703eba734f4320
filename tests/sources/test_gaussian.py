"""The Gaussian families: all that is O(L) against dense algebra, and the laws at lengths beyond."""

import numpy as np
import pytest
from helpers import dense_bipartite
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal

from l2m.sources import GaussianFamily
from l2m.sources.gaussian import M
from l2m.sources.gaussian_cuts import CutFamily

KINDS = ("sub-volume", "logarithmic")  # the paper's
COPIES = {"sub-volume": 3, "square-root": 2, "logarithmic": 1}
SIGNS = ((1, 1, 1, 1), (1, -1, 1, -1), (1, -1, -1, 1), (-1, -1, 1, 1))
targets = st.none() | st.floats(-0.9, 0.9)
families = st.builds(
    GaussianFamily,
    st.sampled_from(sorted(COPIES)),
    st.integers(1, 4),
    targets,
    st.sampled_from(SIGNS),
)
every = pytest.mark.parametrize("kind", COPIES)


def dense_covariance(family):
    """The naive twin: one matrix a level, and a matrix that maps the pairs."""
    mixing = np.diag(family.signs) @ M
    copies = COPIES[family.kind]
    g, r = mixing[:, :copies] @ mixing[:, :copies].T, mixing[:, copies:] @ mixing[:, copies:].T
    c = np.eye(1)
    for _ in range(family.levels):
        c = np.kron(c, g) + np.kron(np.eye(len(c)), r)
        step = np.eye(len(c))
        for u in range(3, len(c) - 1, 4):
            if family.target is not None:
                now, then = (np.array([[1, x], [x, 1]]) for x in (c[u, u + 1], family.target))
                step[u : u + 2, u : u + 2] = (sqrtm(then) @ sqrtm(np.linalg.inv(now))).real
        c = step @ c @ step.T
    return c


def construct(family, levels, rng, n):
    """Samples built as the paper builds them, pair by pair, whose map is solved for each time."""
    if levels == 0:
        return rng.standard_normal((n, 1))
    columns = rng.standard_normal((n, 4 ** (levels - 1), 4))
    for c in range(COPIES[family.kind]):
        columns[:, :, c] = construct(family, levels - 1, rng, n)
    z = (columns @ M.T).reshape(n, -1)
    for u in range(3, 4**levels - 1, 4):
        pair = z[:, u : u + 2]
        now = np.corrcoef(pair.T)
        then = np.array([[1, family.target], [family.target, 1]])
        z[:, u : u + 2] = pair @ (sqrtm(then) @ np.linalg.inv(sqrtm(now)))
    return z


@every
def test_dense_and_fast_agree_to_1024(kind):
    for levels in range(1, 6):
        family = GaussianFamily(kind, levels)
        c = dense_covariance(family)
        np.testing.assert_allclose(family.covariance(), c, atol=1e-12)
        triangle = np.linalg.cholesky(c)
        np.testing.assert_allclose(family.deviations, np.diag(triangle), atol=1e-12)
        np.testing.assert_allclose(family.cholesky(), triangle, atol=1e-12)
        noise = np.random.default_rng(levels).standard_normal((3, family.length))
        mean, deviation = family.conditionals(noise @ triangle.T)
        np.testing.assert_allclose(mean, noise @ (triangle - np.diag(deviation)).T, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(families, st.integers(0, 2**32 - 1))
def test_everything_agrees_with_the_covariance(family, seed):
    rng = np.random.default_rng(seed)
    c = dense_covariance(family)
    np.testing.assert_allclose(family.covariance(), c, atol=1e-10)
    np.testing.assert_allclose(np.diag(c), 1)
    np.testing.assert_allclose(c, c[::-1, ::-1], atol=1e-12)
    i, j = rng.integers(family.length, size=(2, 20))
    seen = [family.correlation(a, b) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(seen, c[i, j], atol=1e-12)
    mi = family.bipartite_mi_at_all_splits()
    assert mi.shape == (family.length - 1,)
    for split in rng.integers(1, family.length, 5):
        truth = dense_bipartite(c, split)
        assert mi[split - 1] == family.bipartite_mi(split) == pytest.approx(truth, abs=1e-9)
    z = family.sample(3, rng)  # conditionals multiply to the joint
    mean, deviation = family.conditionals(z)
    log_density = -(((z - mean) / deviation) ** 2) / 2 - np.log(deviation * np.sqrt(2 * np.pi))
    joint = multivariate_normal(cov=c).logpdf(z)
    np.testing.assert_allclose(log_density.sum(axis=1), joint, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(COPIES)),
    targets,
    st.lists(st.sampled_from((1, 2)), min_size=3, max_size=3),
)
def test_the_last_step_changes_nothing_at_cuts_through_the_middle_of_rows(kind, target, digits):
    """There no pair is cut at any level: the maps stay within the two sides."""
    position = 2
    for digit in digits:
        position = 4 * position + digit
    mi = [GaussianFamily(kind, 4, t).bipartite_mi(position) for t in (target, None)]
    assert mi[0] == pytest.approx(mi[1], abs=1e-9)


@every
def test_samples_are_those_of_the_construction(kind):
    family, n = GaussianFamily(kind, 3), 20_000
    c, rng = family.covariance(), np.random.default_rng(1)
    for z in (family.sample(n, rng), construct(family, 3, rng, n)):
        error = (z.T @ z / n - c) / np.sqrt((1 + c**2) / n)
        assert abs(error).max() < 6
    first = np.arange(3, 63, 4)
    np.testing.assert_allclose(c[first, first + 1], 2 / 5)


@every
def test_conditionals_are_the_regression_on_the_past(kind):
    """Also of numbers that are no sample of the family."""
    family = GaussianFamily(kind, 2)
    z = np.random.default_rng(0).uniform(-9, 9, (5, 16))
    before = z.copy()
    mean, deviation = family.conditionals(z)
    c = family.covariance()
    for i in range(1, 16):
        weight = np.linalg.solve(c[:i, :i], c[:i, i])
        np.testing.assert_allclose(mean[:, i], z[:, :i] @ weight, atol=1e-11)
        assert deviation[i] ** 2 == pytest.approx(1 - weight @ c[:i, i])
    assert (z == before).all() and (mean[:, 0] == 0).all() and deviation[0] == 1


def test_the_same_generator_gives_the_same_sample():
    one, other = (GaussianFamily("sub-volume", 4).sample(2, np.random.default_rng(5)) for _ in "ab")
    np.testing.assert_array_equal(one, other)


def test_one_two_point_law_whatever_the_last_step():
    """The outermost numbers are in no pair: corr = ±¼ (5/16)^(levels - 1)."""
    for kind in KINDS:
        for levels in (1, 2, 5, 8):
            for target in (2 / 5, -0.3, None):
                family = GaussianFamily(kind, levels, target)
                ends = 0, family.length - 1
                assert abs(family.correlation(*ends)) == pytest.approx((5 / 16) ** (levels - 1) / 4)
                truth = -np.log1p(-((5 / 16) ** (2 * levels - 2)) / 16) / 2
                assert family.two_point_mi(*ends) == pytest.approx(truth)


def test_two_bipartite_laws():
    """Fig. C.6, to a length of 65,536: L^0.79 and log L."""
    sub, log = (
        np.array([GaussianFamily(kind, k).bipartite_mi(4**k // 2) for k in range(1, 9)])
        for kind in KINDS
    )
    beta, gain = np.diff(np.log(sub)) / np.log(4), np.diff(log)
    np.testing.assert_allclose(beta[2:], np.log(3) / np.log(4), atol=0.009)
    assert (np.diff(beta) < 0).all() and beta[-1] == pytest.approx(np.log(3) / np.log(4), abs=1e-4)
    np.testing.assert_allclose(gain[2:], 0.091, atol=2e-4)


def test_without_the_last_step_the_laws_are_exact():
    """I_BP(L/2; L) is multiplied by the number of copies with each level: L^½ with two."""
    for kind, factor in COPIES.items():
        first = GaussianFamily(kind, 1).bipartite_mi(2)
        for levels in (2, 7):
            mi = GaussianFamily(kind, levels, target=None).bipartite_mi(4**levels // 2)
            assert mi == pytest.approx(first * factor ** (levels - 1))


@every
def test_a_cut_is_a_part_of_a_longer_family(kind):
    cut, whole = CutFamily(kind, 2, 21), GaussianFamily(kind, 3)
    c = dense_covariance(whole)[21:37, 21:37]
    np.testing.assert_allclose(cut.covariance(), c, atol=1e-12)
    for split in (1, 8, 11):
        assert cut.bipartite_mi(split) == pytest.approx(dense_bipartite(c, split), abs=1e-9)
    z = cut.sample(3, np.random.default_rng(0))
    mean, deviation = cut.conditionals(z)
    weight = np.linalg.solve(c[:9, :9], c[:9, 9])
    np.testing.assert_allclose(mean[:, 9], z[:, :9] @ weight, atol=1e-11)
    assert deviation[9] ** 2 == pytest.approx(1 - weight @ c[:9, 9])
    assert cut.about() == whole.about() | {"levels": 2, "offset": 21}
    with pytest.raises(ValueError, match="between 0 and 3·length = 48, not 49"):
        CutFamily(kind, 2, 49)


def test_bad_input_names_the_cure():
    for kind, levels, options, message in (
        ("area", 2, {}, "kind must be one of sub-volume, logarithmic"),
        ("sub-volume", 0, {}, "levels must be at least 1"),
        ("sub-volume", 2, {"target": 1}, "target must lie between -1 and 1"),
        ("sub-volume", 2, {"signs": (1, 1, 1, -1)}, "signs must be four ±1"),
        ("sub-volume", 2, {"signs": (1, 1)}, "signs must be four ±1"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianFamily(kind, levels, **options)
    family = GaussianFamily("sub-volume", 2)
    with pytest.raises(ValueError, match="split must lie between"):
        family.bipartite_mi(16)
    with pytest.raises(ValueError, match="positions go from 0 to length - 1 = 15"):
        family.correlation(0, 16)
