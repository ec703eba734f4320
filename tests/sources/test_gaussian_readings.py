"""The other readings of the last step: the cheap determinants against dense ones, and the map."""

import numpy as np
import pytest
from helpers import dense_bipartite
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.sources.gaussian import GaussianFamily, M
from l2m.sources.gaussian_readings import ALTERNATING, PAPER, ReplacedFamily, reading

KINDS = ("sub-volume", "logarithmic")
families = st.builds(
    ReplacedFamily,
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.sampled_from((0, 0.05, -0.05)),
    st.sampled_from((PAPER, ALTERNATING)),
)


@pytest.mark.parametrize(("signs", "correlation"), [(PAPER, 0), (ALTERNATING, 2 / 5)])
def test_the_papers_formula_depends_on_the_signs(signs, correlation):
    """Eq. C.23; and 2/5, where the sizes of the correlations count."""
    within = np.outer(signs, signs) * (M @ M.T)
    formula = [2 / 5 * (w[2, 3] + w[0, 1]) + 1 / 5 for w in (within, abs(within))]
    assert formula == pytest.approx([correlation, GaussianFamily("sub-volume", 1).target])


@settings(max_examples=20, deadline=None)
@given(families, st.data())
def test_replaced_families_agree_with_dense_algebra(family, data):
    c = family.covariance()
    np.testing.assert_allclose(np.diag(c), 1)
    np.testing.assert_allclose(c, c[::-1, ::-1], atol=1e-14)
    first = np.arange(3, family.length - 1, 4)
    np.testing.assert_allclose(c[first, first + 1], family.target)
    quarter = family.length // 4
    for split in (data.draw(st.integers(1, family.length - 1)), quarter, 2 * quarter, 3 * quarter):
        truth = dense_bipartite(c, split)
        assert family.bipartite_mi(split) == pytest.approx(truth, abs=1e-10)


def test_replaced_by_zero_the_second_family_converges():
    """It looks like log L for long: gains of .0055, .0069, .0059 …, then less and less."""
    mi = [reading("logarithmic", k, "replace", 0).bipartite_mi(4**k // 2) for k in range(1, 8)]
    np.testing.assert_allclose(np.diff(mi)[1:], [0.0055, 0.0069, 0.0059, 0.0050, 0.0041], atol=6e-5)
    many = [reading("logarithmic", k, "replace", 0).bipartite_mi(4**k // 2) for k in (20, 40, 60)]
    assert mi[-1] < many[0] < many[1] == pytest.approx(many[2], abs=2e-4)


def test_replacing_by_the_books_target_is_impossible():
    with pytest.raises(np.linalg.LinAlgError):
        reading("logarithmic", 3, "replace", 2 / 5).bipartite_mi(1)


def test_without_the_step_the_target_does_not_matter():
    one, other = reading("sub-volume", 3, "none"), GaussianFamily("sub-volume", 3, None)
    np.testing.assert_array_equal(one.covariance(), other.covariance())


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="last_step must be one of map, replace, none"):
        reading("sub-volume", 2, "rotate")
    with pytest.raises(ValueError, match="target must be a number"):
        reading("sub-volume", 2, "replace", None)
