"""One monotone curve through many points: exact cases, and isotonic regression."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.information.data_collapse import monotone


def best_monotone(y):
    """The naive twin: isotonic regression by its min-max formula."""
    n = len(y)
    return [
        max(min(np.mean(y[a : b + 1]) for b in range(i, n)) for a in range(i + 1)) for i in range(n)
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8))
def test_the_curve_is_isotonic_regression(log_y):
    x = np.exp(np.arange(len(log_y)))
    np.testing.assert_allclose(
        np.log(monotone(x, np.exp(log_y), x)), best_monotone(log_y), atol=1e-9
    )


def test_points_at_one_x_count_as_one():
    x, y = np.array([1.0, 1.0, 4.0]), np.array([1.0, 4.0, 8.0])
    np.testing.assert_allclose(monotone(x, y, [1.0, 2.0, 16.0]), [2.0, 4.0, 8.0])
