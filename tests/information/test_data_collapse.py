"""One monotone curve through many points: exact cases, noise, and what explains nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.information.data_collapse import collapse, monotone


def best_monotone(y):
    """The naive twin: isotonic regression by its min-max formula."""
    n = len(y)
    return [
        max(min(np.mean(y[a : b + 1]) for b in range(i, n)) for a in range(i + 1)) for i in range(n)
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.booleans())
def test_the_curve_is_isotonic_regression(log_y, rising):
    x, sign = np.exp(np.arange(len(log_y))), 1 if rising else -1
    expected = sign * np.array(best_monotone(sign * np.array(log_y)))
    np.testing.assert_allclose(np.log(monotone(x, np.exp(log_y), x, rising)), expected, atol=1e-9)


def test_points_at_one_x_count_as_one():
    x, y = np.array([1.0, 1.0, 4.0]), np.array([1.0, 4.0, 8.0])
    np.testing.assert_allclose(monotone(x, y, [1.0, 2.0, 16.0]), [2.0, 4.0, 8.0])


@pytest.mark.parametrize("rising", [True, False])
def test_a_function_of_x_collapses_and_noise_does_not(rising):
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(0, 8, 80))
    other = np.exp(rng.uniform(0, 8, 80))
    y = (0.01 + x / (x + 50)) if rising else 1 / (0.01 + x / (x + 50))
    exact = collapse(x, y, rising)
    assert exact.explained > 0.98 and exact.scatter < 0.1
    assert exact.interval[0] <= exact.explained <= exact.interval[1]
    assert collapse(other, y, rising).explained < 0.1
    noise = np.exp(0.3 * rng.standard_normal(80))
    noisy = collapse(x, y * noise, rising)
    assert 0.27 < noisy.scatter < 0.45  # 0.3, and the error of the curve
    np.testing.assert_allclose(np.sqrt(np.mean(noisy.residuals**2)), noisy.scatter)


def test_a_group_is_predicted_from_the_others_only():
    """One group lies off the curve: it cannot pull the curve towards itself."""
    x = np.tile(np.arange(1.0, 21), 3)
    groups = np.repeat(["a", "b", "c"], 20)
    y = np.where(groups == "c", 10 * x, x)
    together = collapse(x, y, groups=groups)
    np.testing.assert_allclose(together.residuals[groups == "c"], np.log(10), atol=1e-9)


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="must be positive"):
        collapse([1, 2, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="at least three groups"):
        collapse([1, 2, 3], [1, 2, 3], groups=[0, 0, 1])
