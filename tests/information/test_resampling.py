"""The covariance of means over books: against its standard error, a bootstrap and the truth."""

import numpy as np
import pytest

from l2m.information.resampling import clustered_covariance, clustered_stderr, resampled_means

BOOKS = np.repeat(np.arange(40), 5)
OF_A_BOOK = np.array([[1.0, 0.5, 0.0], [0.5, 2.0, -0.7], [0.0, -0.7, 1.0]])
OF_A_WINDOW = np.array([[1.0, 0.9, 0.8], [0.9, 1.0, 0.9], [0.8, 0.9, 1.0]])


def windows(rng, books=BOOKS):
    of_books = rng.multivariate_normal(np.zeros(3), OF_A_BOOK, size=books.max() + 1)
    return of_books[books] + rng.multivariate_normal(np.zeros(3), OF_A_WINDOW, size=len(books))


def test_its_diagonal_is_the_square_of_the_standard_error():
    values, weights = windows(np.random.default_rng(0)), np.linspace(1, 2, len(BOOKS))
    for how in ({}, {"groups": BOOKS}, {"groups": BOOKS, "weights": weights}):
        covariance = clustered_covariance(values, **how)
        np.testing.assert_allclose(np.diag(covariance), clustered_stderr(values, **how) ** 2)
    np.testing.assert_allclose(clustered_covariance(values), np.cov(values.T) / len(values))
    assert np.isnan(clustered_covariance(values, np.zeros(len(values)))).all()


@pytest.mark.parametrize("sizes", [5, np.arange(40) % 7 + 2])
def test_it_is_that_of_resampled_books(sizes):
    books = np.repeat(np.arange(40), sizes)
    values = windows(np.random.default_rng(1), books)
    means = resampled_means(values, books, n=20_000, seed=2)
    bar = clustered_stderr(values, books)
    found = clustered_covariance(values, books) / np.outer(bar, bar)
    np.testing.assert_allclose(np.cov(means.T) / np.outer(bar, bar), found, atol=0.1)


def test_it_is_the_true_one_on_average():
    rng = np.random.default_rng(3)
    draws = [windows(rng) for _ in range(1500)]
    found = np.mean([clustered_covariance(values, BOOKS) for values in draws], axis=0)
    true = (OF_A_BOOK + OF_A_WINDOW / 5) / 40
    np.testing.assert_allclose(found, true, atol=0.03 * true.max())
    np.testing.assert_allclose(np.cov(np.mean(draws, axis=1).T), true, atol=0.1 * true.max())
