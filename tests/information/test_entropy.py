"""Entropy estimators: their formulas, and their bias and errors against exact entropies."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2m.information.entropy import METHODS, entropy, entropy_stderr, grassberger_g

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def naive(counts, method):
    """The estimators type by type, as their papers write them."""
    counts = [n for n in counts if n]
    N, types = sum(counts), len(counts)
    plugin = -sum(n / N * np.log(n / N) for n in counts)
    if method == "plugin":
        return plugin
    if method == "miller-madow":
        return plugin + (types - 1) / (2 * N)
    if method == "grassberger":
        return np.log(N) - sum(n * float(exact_g(n)) for n in counts) / N
    once = sum(n == 1 for n in counts)
    coverage = 1 - min(once, N - 1) / N if N > 1 else 1
    q = [coverage * n / N for n in counts]
    return sum(-x * np.log(x) / (1 - (1 - x) ** N) for x in q)


def exact_g(n):
    psi = mpmath.digamma
    return psi(n) + (-1) ** n * (psi(mpmath.mpf(n + 1) / 2) - psi(mpmath.mpf(n) / 2)) / 2


@given(counts=COUNTS, method=st.sampled_from(METHODS))
def test_agrees_with_the_formula(counts, method):
    assert entropy(counts, method) == pytest.approx(naive(counts, method), abs=1e-10)


@given(counts=COUNTS, method=st.sampled_from(METHODS), seed=st.integers(0, 9))
def test_counts_of_counts_and_order_do_not_matter(counts, method, seed):
    values, times = np.unique(counts, return_counts=True)
    again = np.random.default_rng(seed).permutation(len(values))
    values, times = np.append(values[again], values[0]), np.append(times[again], 0)
    for function in (entropy, entropy_stderr):
        expected = pytest.approx(function(counts, method), abs=1e-10)
        assert function(values, method, times) == expected


def test_grassberger_g():
    n = np.arange(1, 200)
    np.testing.assert_allclose(grassberger_g(n), [float(exact_g(int(k))) for k in n], rtol=1e-13)
    assert grassberger_g(1) == pytest.approx(-np.euler_gamma - np.log(2))
    assert grassberger_g(10.0**9) == pytest.approx(np.log(1e9))


SOURCES = {
    "uniform": np.full(300, 1 / 300),
    "Zipf": 1 / np.arange(1, 1001) / np.sum(1 / np.arange(1, 1001)),
    "geometric": 0.5 ** np.arange(1, 50) / np.sum(0.5 ** np.arange(1, 50)),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("samples", [300, 3000])
def test_bias_against_exact_entropies(name, samples):
    p = SOURCES[name]
    truth = -np.sum(p * np.log(p))
    draws = np.random.default_rng(0).multinomial(samples, p, size=80)
    bias = {m: np.mean([entropy(d, m) for d in draws]) - truth for m in METHODS}
    noise = 4 * np.std([entropy(d, "grassberger") for d in draws]) / np.sqrt(len(draws))
    assert bias["plugin"] < noise
    for method in METHODS[1:]:
        assert abs(bias[method]) < abs(bias["plugin"]) + noise
    assert abs(bias["grassberger"]) < 0.5 * abs(bias["plugin"]) + noise


@pytest.mark.parametrize("method", METHODS)
def test_standard_errors_are_the_spread(method):
    draws = np.random.default_rng(1).multinomial(3000, SOURCES["Zipf"], size=150)
    spread = np.std([entropy(d, method) for d in draws])
    errors = [entropy_stderr(d, method) for d in draws[:30]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_one_certain_outcome(method):
    assert entropy([10_000], method) == pytest.approx(0, abs=1e-4)
    assert entropy_stderr([10_000], method) == 0
    assert np.isfinite(entropy([1], method))
    assert np.isfinite(entropy([1, 1, 1], method))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([], {}, "no samples"),
        ([0, 0], {}, "no samples"),
        ([1, -1], {}, "not negative"),
        ([1.5], {}, "integers"),
        ([1, 2], {"times": [1]}, "differ in shape"),
        ([1, 2], {"method": "jackknife"}, "not 'jackknife'"),
    ],
)
def test_bad_input(counts, options, message):
    with pytest.raises(ValueError, match=message):
        entropy(counts, **options)
