"""Laws are recovered, intervals cover, and correlated windows widen the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from l2m.information.resampling import clustered_covariance
from l2m.information.scaling import (
    bootstrap_power_law,
    compare_laws,
    fit_power_law,
    local_exponent,
    monotone,
)

X = 2.0 ** np.arange(1, 12)
exponents = st.floats(-2, 2).filter(lambda b: abs(b) > 0.05)
amplitudes = st.floats(1e-3, 1e3)


@given(amplitudes, exponents)
def test_exact_power_law_is_recovered(amplitude, exponent):
    law = fit_power_law(X, amplitude * X**exponent)
    np.testing.assert_allclose([law.amplitude, law.exponent], [amplitude, exponent], rtol=1e-6)
    np.testing.assert_allclose(law(X), amplitude * X**exponent, rtol=1e-6)
    assert law.exponent_interval[1] - law.exponent_interval[0] < 1e-6
    assert (law.offset, law.offset_interval) == (0.0, (0.0, 0.0))


@settings(deadline=None, max_examples=60)
@given(amplitudes, st.floats(0.3, 2), st.floats(0.05, 0.95))
def test_exact_law_with_offset_is_recovered(amplitude, alpha, share):
    offset = share * amplitude * X[-1] ** -alpha  # below the smallest value, as it must be
    law = fit_power_law(X, amplitude * X**-alpha + offset, offset=True)
    np.testing.assert_allclose(
        [law.amplitude, -law.exponent, law.offset], [amplitude, alpha, offset], rtol=1e-3
    )


@settings(deadline=None, max_examples=40)
@given(amplitudes, exponents, st.integers(0, 1000), st.floats(0.1, 10))
def test_fit_scales_with_its_units(amplitude, exponent, seed, unit):
    noise = np.exp(0.1 * np.random.default_rng(seed).normal(size=X.size))
    y = amplitude * X**exponent * noise
    law, scaled = fit_power_law(X, y), fit_power_law(X, unit * y)
    np.testing.assert_allclose(
        scaled.exponent_interval, law.exponent_interval, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(scaled.amplitude, unit * law.amplitude, rtol=1e-6)


def test_agrees_with_textbook_regression():
    y = 2.27 * X**0.76 * np.exp(0.1 * np.random.default_rng(0).normal(size=X.size))
    line = stats.linregress(np.log(X), np.log(y))
    law = fit_power_law(X, y)
    half = stats.t.ppf(0.975, X.size - 2) * line.stderr
    assert law.exponent == pytest.approx(line.slope)
    assert law.amplitude == pytest.approx(np.exp(line.intercept))
    assert law.exponent_interval == pytest.approx((line.slope - half, line.slope + half))


def covered(interval, truth):
    return interval[0] <= truth <= interval[1]


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    relative = np.geomspace(0.02, 0.3, X.size)  # stderr matters: the points differ in quality
    hits = []
    for _ in range(400):
        y = 2.0 * X**0.8 * (1 + relative * rng.normal(size=X.size)).clip(0.05)
        law = fit_power_law(X, y, stderr=relative * y)
        hits.append((covered(law.exponent_interval, 0.8), covered(law.amplitude_interval, 2.0)))
    assert (np.abs(np.mean(hits, axis=0) - 0.95) < 0.04).all()


def test_intervals_with_offset_cover_the_truth():
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(150):
        y = (X**-0.9 + 0.02) * np.exp(0.03 * rng.normal(size=X.size))
        law = fit_power_law(X, y, offset=True)
        hits.append((covered(law.exponent_interval, -0.9), covered(law.offset_interval, 0.02)))
    assert (np.abs(np.mean(hits, axis=0) - 0.95) < 0.06).all()


def test_weights_favour_the_precise_points():
    y = 3 * X**0.7
    y[-1] *= 5
    stderr = np.where(X > 2000, 1e4, 1e-3) * y
    assert fit_power_law(X, y, stderr=stderr).exponent == pytest.approx(0.7, abs=1e-6)
    assert fit_power_law(X, y).exponent > 0.75


def book_windows(rng, n_books=12, per_book=8, of_the_book=0.3, of_the_window=0.1):
    """Windows whose curve is 2·L^0.8, tilted by an exponent of the book and one of the window."""
    books = np.repeat(np.arange(n_books), per_book)
    tilt = of_the_book * rng.normal(size=n_books)[books]
    tilt = tilt + of_the_window * rng.normal(size=books.size)
    return 2 * X**0.8 * (1 + tilt[:, None] * np.log(X) / 8), books


def test_bootstrap_over_books_is_wider_and_covers():
    rng = np.random.default_rng(3)
    hits, wider = [], []
    for seed in range(60):
        values, books = book_windows(rng)
        by_book = bootstrap_power_law(X, values, books, n_boot=200, seed=seed).exponent_interval
        by_window = bootstrap_power_law(X, values, n_boot=200, seed=seed).exponent_interval
        wider.append(np.diff(by_book) > np.diff(by_window))
        hits.append((covered(by_book, 0.8), covered(by_window, 0.8)))
    by_book, by_window = np.mean(hits, axis=0)
    assert np.mean(wider) > 0.95
    assert by_book > 0.8 > by_window  # resampling windows pretends to know far too much


def test_bootstrap_fits_the_mean_and_repeats():
    values, books = book_windows(np.random.default_rng(4))
    first = bootstrap_power_law(X, values, books, n_boot=50, seed=7)
    assert first == bootstrap_power_law(X, values, books, n_boot=50, seed=7)
    assert first != bootstrap_power_law(X, values, books, n_boot=50, seed=8)
    assert first.exponent == fit_power_law(X, values.mean(axis=0)).exponent
    shuffled = np.random.default_rng(0).permutation(len(books))
    again = bootstrap_power_law(X, values[shuffled], books[shuffled], n_boot=50, seed=7)
    assert again.exponent_interval == pytest.approx(first.exponent_interval)


NOISE = np.exp(0.03 * np.random.default_rng(6).normal(size=X.size))


@pytest.mark.parametrize(
    ("law", "y"),
    [
        ("power", 2 * X**0.76 * NOISE),
        ("power+constant", (X**-0.9 + 0.02) * NOISE),
        ("logarithm", (1.5 + 0.8 * np.log(X)) * NOISE),
    ],
)
def test_the_right_law_wins(law, y):
    table = compare_laws(X, y).set_index("law")
    assert table.aicc.idxmin() == law and table.delta_aicc[law] == 0
    assert table.prediction_error.idxmin() == law or law == "power"
    # Order of the points is no information; fits restart the same way.
    shuffle = np.random.default_rng(0).permutation(X.size)
    again = compare_laws(X[shuffle], y[shuffle]).set_index("law")
    np.testing.assert_allclose(again.aicc, table.aicc, rtol=1e-4)


def test_prediction_uses_only_the_short_lengths():
    y = 2 * X**0.76
    y[-3:] *= 2  # the longest third (3 of 11) breaks away by log 2
    power = compare_laws(X, y).set_index("law").loc["power"]
    assert power.prediction_error == pytest.approx(np.log(2))


def correlated(curve, n_books, rng):
    """Estimates of a curve from books: neighbouring points err alike, the covariance, the books."""
    noise = 0.02 * np.cumsum(rng.normal(size=(n_books, X.size)), axis=1)
    values = curve * (1 + noise)
    how = {"covariance": clustered_covariance(values), "groups": n_books}
    return values.mean(axis=0), how


def test_generalised_least_squares_is_the_textbook_one():
    y, how = correlated(2 * X**0.5, 30, np.random.default_rng(0))
    power = compare_laws(X, y, **how).set_index("law").loc["power"]
    precision = np.linalg.inv(how["covariance"] / np.outer(y, y))
    line = np.stack([np.ones_like(X), np.log(X)], axis=1)
    theta = np.linalg.solve(line.T @ precision @ line, line.T @ precision @ np.log(y))
    residual = np.log(y) - line @ theta
    assert power.chi2 == pytest.approx(residual @ precision @ residual)
    assert (np.log(power.amplitude), power.exponent) == pytest.approx(tuple(theta))
    assert power.dof == X.size - 2


def test_independent_errors_are_a_diagonal_covariance():
    y = (1.5 + 0.8 * np.log(X)) * NOISE
    stderr = np.linspace(0.1, 0.3, X.size)
    weighted = compare_laws(X, y, stderr).set_index("law").drop("power+constant")
    squares = compare_laws(X, y, covariance=np.diag(stderr**2)).set_index("law")
    same = ["amplitude", "exponent", "offset", "prediction_error"]
    np.testing.assert_allclose(squares.loc[weighted.index, same], weighted[same], rtol=1e-4)
    shuffle = np.random.default_rng(0).permutation(X.size)
    covariance = np.diag(stderr[shuffle] ** 2)
    again = compare_laws(X[shuffle], y[shuffle], covariance=covariance).set_index("law")
    np.testing.assert_allclose(again.chi2, squares.chi2, rtol=1e-4)


@pytest.mark.parametrize("offset", [-2.0, -0.5, 0.0, 3.0])
def test_a_constant_of_either_sign_is_recovered(offset):
    y = 2 * X**0.5 + offset
    fitted = compare_laws(X, y, covariance=np.diag(y**2) / 1e4).set_index("law")
    found = fitted.loc["power+constant", ["amplitude", "exponent", "offset"]].astype(float)
    np.testing.assert_allclose(found, [2, 0.5, offset], atol=1e-3)
    assert fitted.chi2["logarithm"] > 1 > fitted.chi2["power+constant"]


def test_a_true_law_is_refused_as_often_as_p_says():
    """With few books the inverse of a covariance is too large, and χ² refuses true laws."""
    rng, p, naive = np.random.default_rng(5), [], []
    for _ in range(150):
        y, how = correlated(2 * X**0.5, 14, rng)
        law = compare_laws(X, y, **how).set_index("law").loc["power"]
        p.append(law.p)
        naive.append(stats.chi2.sf(law.chi2, law.dof))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.1 < np.mean(np.array(naive) < 0.05)


def test_a_false_law_is_refused():
    y, how = correlated(2 * X**0.5 - 1.5, 40, np.random.default_rng(6))
    p = compare_laws(X, y, **how).set_index("law").p
    assert p["power+constant"] > 0.05 and max(p["power"], p["logarithm"]) < 1e-6


def test_a_covariance_without_an_inverse_is_refused():
    y, how = correlated(2 * X**0.5, X.size, np.random.default_rng(7))  # rank 10 of 11
    with pytest.raises(ValueError, match="measure more groups, or leave points out"):
        compare_laws(X, y, **how)
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        compare_laws(X, y, covariance=-np.eye(X.size))
    with pytest.raises(ValueError, match=r"covariance must be \(11, 11\), not \(2, 2\)"):
        compare_laws(X, y, covariance=np.eye(2))


def test_local_exponent():
    np.testing.assert_allclose(local_exponent(X, 5 * X**-0.91), -0.91)
    running = local_exponent(X, np.log(X))
    assert (np.diff(running) < 0).all()
    with pytest.raises(ValueError, match="sort"):
        local_exponent(X[::-1], X)


@pytest.mark.parametrize(
    ("x", "y", "stderr", "message"),
    [
        (X, -X, None, r"y\[0\] = -2"),
        (X, np.where(X == 8, np.nan, X), None, r"y\[2\] = nan"),
        (X - 2, X, None, r"x\[0\] = 0"),
        (X, X, 0 * X, "stderr must be positive"),
        (X, X[:-1], None, "one length"),
        (X[:2], X[:2], None, "at least 3"),
        ([4, 4, 4], [1, 2, 3], None, "at least 3 points at different x, got 1"),
    ],
)
def test_bad_input_is_named(x, y, stderr, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(x, y, stderr)


def test_other_refusals():
    with pytest.raises(ValueError, match="at least 4"):
        fit_power_law(X[:3], X[:3], offset=True)
    with pytest.raises(ValueError, match="at least 6"):
        compare_laws(X[:5], X[:5])
    with pytest.raises(ValueError, match="two groups"):
        bootstrap_power_law(X, np.ones((3, X.size)), groups=[1, 1, 1])
    with pytest.raises(ValueError, match="groups has shape"):
        bootstrap_power_law(X, np.ones((3, X.size)), groups=[1, 1])
    with pytest.raises(ValueError, match="shape"):
        bootstrap_power_law(X, X)
    values = np.random.default_rng(0).normal(0.1, 1, size=(20, X.size))
    values += 0.05 - values.mean(axis=0)  # positive means, within noise of zero
    with pytest.raises(ValueError, match="not positive"):
        bootstrap_power_law(X, values)


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
