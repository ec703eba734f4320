"""The Gaussian families: structure against dense algebra, conditionals against the joint."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from l2m.sources import GaussianFamily

KINDS = ("sub-volume", "logarithmic")
STEPS = ("replace", "map", "none")
families = st.builds(
    GaussianFamily, st.sampled_from(KINDS), st.integers(1, 4), st.sampled_from(STEPS)
)


def dense_bipartite(family, split):
    """The naive twin: three dense log-determinants."""
    c = family.covariance()
    parts = c[:split, :split], c[split:, split:], c
    x, y, whole = (np.linalg.slogdet(part)[1] for part in parts)
    return (x + y - whole) / 2


def construct(kind, levels, rng, n):
    """Samples built as the paper builds them, without the last step."""
    gamma, rho = np.sqrt(5) / 4, 1 / 4
    m = [[gamma, gamma, gamma, rho], [-gamma, gamma, -gamma, rho]]
    m = np.array([*m, [-gamma, -gamma, gamma, rho], [gamma, -gamma, -gamma, rho]])
    if levels == 0:
        return rng.standard_normal((n, 1))
    columns = rng.standard_normal((n, 4 ** (levels - 1), 4))
    for c in range(3 if kind == "sub-volume" else 1):
        columns[:, :, c] = construct(kind, levels - 1, rng, n)
    return (columns @ m.T).reshape(n, -1)


@settings(max_examples=30, deadline=None)
@given(families)
def test_covariance_is_a_correlation_matrix(family):
    c = family.covariance()
    assert c.shape == (family.length, family.length)
    np.testing.assert_allclose(np.diag(c), 1)
    np.testing.assert_allclose(c, c.T, atol=1e-14)
    np.testing.assert_allclose(c, c[::-1, ::-1], atol=1e-14)
    assert np.linalg.eigvalsh(c)[0] > 0.1
    quarter = family.length // 4
    if family.levels > 1:  # consistent: each aligned block is a family of fewer levels
        smaller = GaussianFamily(family.kind, family.levels - 1, family.last_step).covariance()
        if family.last_step != "map":
            np.testing.assert_allclose(c[quarter : 2 * quarter, quarter : 2 * quarter], smaller)


@settings(max_examples=30, deadline=None)
@given(families, st.data())
def test_bipartite_mi_agrees_with_dense_determinants(family, data):
    split = data.draw(st.integers(1, family.length - 1))
    assert family.bipartite_mi(split) == pytest.approx(dense_bipartite(family, split), abs=1e-10)
    for split in (family.length // 4, family.length // 2, 3 * family.length // 4):
        truth = dense_bipartite(family, split)
        assert family.bipartite_mi(split) == pytest.approx(truth, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_two_point_mi_reads_the_covariance(kind, step):
    family = GaussianFamily(kind, 3, step)
    c = family.covariance()
    i, j = np.random.default_rng(0).integers(family.length, size=(2, 60))
    seen = [family.correlation(a, b) for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(seen, c[i, j], atol=1e-14)
    antipodal = -np.log(1 - c[0, -1] ** 2) / 2
    assert family.two_point_mi(0, family.length - 1) == pytest.approx(antipodal)


@pytest.mark.parametrize("step", STEPS)
def test_both_families_have_the_same_antipodal_mi(step):
    for levels in range(1, 5):
        one, other = (GaussianFamily(kind, levels, step) for kind in KINDS)
        last = one.length - 1
        assert one.two_point_mi(0, last) == pytest.approx(other.two_point_mi(0, last))


@pytest.mark.parametrize("kind", KINDS)
def test_covariance_is_that_of_the_construction(kind):
    family = GaussianFamily(kind, 3, "none")
    n = 40_000
    z = construct(kind, 3, np.random.default_rng(1), n)
    c = family.covariance()
    error = (z.T @ z / n - c) / np.sqrt((1 + c**2) / n)
    assert abs(error).max() < 6
    # the last step, replaced or mapped, gives every pair of neighbouring rows the target
    for step in ("replace", "map"):
        c = GaussianFamily(kind, 3, step, target=0.05).covariance()
        first = np.arange(3, 63, 4)
        np.testing.assert_allclose(c[first, first + 1], 0.05)


def test_without_the_last_step_the_laws_are_exact():
    """I_BP(L/2; L) triples with each layer in one family and stays in the other."""
    for levels in (2, 6):
        for kind, factor in zip(KINDS, (3, 1), strict=True):
            first = GaussianFamily(kind, 1).bipartite_mi(2)
            family = GaussianFamily(kind, levels, "none")
            mi = family.bipartite_mi(family.length // 2)
            assert mi == pytest.approx(first * factor ** (levels - 1))


def test_many_layers_stay_accurate():
    """The logarithmic family with the paper's last step converges: gains shrink geometrically."""
    mi = [GaussianFamily("logarithmic", k).bipartite_mi(4**k // 2) for k in (20, 40, 60)]
    assert mi[0] < mi[1] and mi[1] == pytest.approx(mi[2], abs=2e-4)


@settings(max_examples=15, deadline=None)
@given(families, st.integers(0, 2**32 - 1))
def test_conditionals_multiply_to_the_joint(family, seed):
    z = family.sample(3, np.random.default_rng(seed))
    mean, deviation = family.conditionals(z)
    assert mean.shape == z.shape and deviation.shape == (family.length,)
    log_density = -(((z - mean) / deviation) ** 2) / 2 - np.log(deviation * np.sqrt(2 * np.pi))
    joint = multivariate_normal(cov=family.covariance()).logpdf(z)
    np.testing.assert_allclose(log_density.sum(axis=1), joint, rtol=1e-9)


def test_conditionals_are_the_regression_on_the_past():
    family = GaussianFamily("sub-volume", 2)
    z = family.sample(5, np.random.default_rng(0))
    mean, deviation = family.conditionals(z)
    c = family.covariance()
    for i in range(1, family.length):
        weight = np.linalg.solve(c[:i, :i], c[:i, i])
        np.testing.assert_allclose(mean[:, i], z[:, :i] @ weight, atol=1e-12)
        assert deviation[i] ** 2 == pytest.approx(1 - weight @ c[:i, i])


def test_samples_have_the_covariance():
    family = GaussianFamily("logarithmic", 3)
    n = 20_000
    z = family.sample(n, np.random.default_rng(3))
    c = family.covariance()
    assert abs((z.T @ z / n - c) / np.sqrt((1 + c**2) / n)).max() < 6


def test_torch_factor_is_the_same():
    pytest.importorskip("torch")
    family = GaussianFamily("sub-volume", 3)
    np.testing.assert_allclose(family.cholesky("cpu").numpy(), family.cholesky(), atol=1e-12)


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="kind must be one of sub-volume, logarithmic"):
        GaussianFamily("area", 2)
    with pytest.raises(ValueError, match="last_step must be one of"):
        GaussianFamily("sub-volume", 2, "rotate")
    with pytest.raises(ValueError, match="split must lie between"):
        GaussianFamily("sub-volume", 2).bipartite_mi(16)
