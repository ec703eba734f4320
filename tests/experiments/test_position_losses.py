"""Curves over positions: means, slopes and crossings, and whether intervals hold."""

import numpy as np
import pandas as pd
import pytest

from l2m.experiments.position_losses import (
    BookLosses,
    above_zero_from,
    block_edges,
    block_means,
    book_losses,
)
from l2m.information.resampling import resampled_means


def losses(function, books=24, noise=0.0, slant=0.0, length=4096, seed=0):
    """Losses function(position) of books that each lie higher or lower, and slant."""
    rng = np.random.default_rng(seed)
    edges = block_edges(length)
    position = np.sqrt(edges[:-1] * (edges[1:] - 1))
    own = noise * rng.normal(size=(books, 1))
    own = own + slant * rng.normal(size=(books, 1)) * (np.log2(position) - 6)
    weight = rng.integers(5, 33, books).astype(float)
    return BookLosses(position, np.diff(edges), function(position) + own, weight)


def test_the_table_becomes_an_array():
    rows = []
    for run, shift in (("a", 0.0), ("b", 1.0)):
        for book, sequences in ((4, 10), (9, 30)):
            for first, last in ((1, 1), (2, 3), (4, 8)):
                rows.append([run, "held-out", book, first, last, shift + book + first, sequences])
        rows.append([run, "seen", -1, 1, 1, 99.0, 5])
    columns = ["run", "data", "book", "first", "last", "nll", "sequences"]
    table = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)
    found = book_losses(table, "b")
    assert found.losses.tolist() == [[6, 7, 9], [11, 12, 14]]
    assert found.tokens.tolist() == [1, 2, 5] and found.weight.tolist() == [10, 30]
    assert found.mean == pytest.approx([9.75, 10.75, 12.75])
    assert (found - book_losses(table, "a")).losses == pytest.approx(np.ones((2, 3)))
    assert found.overall().mean == pytest.approx([(9.75 + 2 * 10.75 + 5 * 12.75) / 8])
    with pytest.raises(ValueError, match="no run 'c', only"):
        book_losses(table, "c")


def test_lengths_need_not_agree_but_sequences_must():
    long, short = losses(np.log2, length=8192), losses(np.sqrt, length=5000)
    both = long - short
    assert both.position[-1] < 5000 and len(both.position) >= len(short.position) - 1
    other = BookLosses(short.position, short.tokens, short.losses, short.weight + 1)
    with pytest.raises(ValueError, match="not evaluated on the same sequences"):
        long - other


def test_intervals_of_a_mean_hold_it():
    held = 0
    for seed in range(400):
        curve = losses(lambda x: 0 * x, books=16, noise=1.0, seed=seed)
        held += abs(curve.mean[0]) < curve.half_width[0]
    assert 0.91 < held / 400 < 0.985
    curve = losses(lambda x: 0 * x, books=16, noise=1.0)
    spread = resampled_means(curve.losses, n=4000, weights=curve.weight).std(0)[0]
    assert spread == pytest.approx(curve.half_width[0] / 2.131, rel=0.06)


def test_smoothing_keeps_lines_inside_and_takes_noise_away():
    line = losses(lambda x: np.log2(x))
    inside = (line.position > 64) & (line.position < 2048)
    assert line.smoothed().mean[inside] == pytest.approx(np.log2(line.position[inside]), abs=0.06)
    rng = np.random.default_rng(0)
    noisy = losses(lambda x: rng.normal(size=len(x)))
    assert noisy.smoothed().mean[inside].std() < noisy.mean[inside].std() / 2


def test_the_slope_of_a_line():
    line = losses(lambda x: 0.02 * np.log2(x) - np.where(x < 64, 1, 0), noise=1.0)
    slope = line.slope(64)  # what is before does not count
    assert slope.rise == pytest.approx(0.02) and slope.half_width < 1e-9
    assert str(losses(lambda x: -0.5 * np.log2(x)).slope(1)).startswith("-0.5000 ± 0.0000")
    curve = losses(lambda x: np.log2(x) ** 2, slant=0.1)
    part = curve.between(300, np.inf)
    lines = np.polyfit(np.log2(part.position), part.losses.T, 1, w=np.sqrt(part.tokens))[0]
    assert curve.slope(300).rise == pytest.approx(np.average(lines, weights=curve.weight))


def test_a_slope_is_in_its_interval_and_seen_as_often_as_said():
    held = seen = 0
    least = np.mean([losses(np.zeros_like, slant=0.02, seed=k).slope(64).seen for k in range(400)])
    for seed in range(400):
        curve = losses(lambda x: least * np.log2(x), noise=1.0, slant=0.02, seed=seed)
        slope = curve.slope(64)
        held += abs(slope.rise - least) < slope.half_width
        seen += slope.rise > slope.half_width
    assert 0.91 < held / 400 < 0.985
    assert 0.72 < seen / 400 < 0.88


def test_a_crossing_is_found_and_its_interval_holds_it():
    def truth(x):
        return 0.05 * np.log2(x / 500)

    assert above_zero_from(losses(truth)).position == pytest.approx(500, rel=0.01)
    held = 0
    for seed in range(100):
        place = above_zero_from(losses(truth, noise=0.05, slant=0.005, seed=seed), 300)
        held += place.low <= 500 <= place.high
    assert held >= 85
    doubtful = above_zero_from(losses(lambda x: 0.05 * np.log2(x / 3000), noise=0.05))
    assert doubtful.low < 3000 and doubtful.high == np.inf and str(doubtful).endswith("to end)")
    assert np.isinf(above_zero_from(losses(lambda x: truth(x) - 9)).position)
    above = losses(lambda x: 0 * x + 1)
    assert above_zero_from(above).position == above.position[0]


def test_a_pair_is_known_better_than_either():
    one = losses(lambda x: np.log2(x), noise=1.0)
    two = losses(lambda x: np.log2(x) + 0.01, noise=1.0)  # the same books
    difference = two - one
    assert difference.mean == pytest.approx(np.full(len(difference.mean), 0.01))
    assert difference.half_width.max() < 1e-9 < one.half_width.min()


@pytest.mark.parametrize("length", [2, 16, 64, 100, 256, 4096])
@pytest.mark.parametrize("rows", [{}, {"per_octave": 24, "multiple": 16}])
def test_blocks_cover_every_position_once(length, rows):
    edges = block_edges(length, **rows)
    assert edges[0] == 1 and edges[-1] == length + 1 and (np.diff(edges) > 0).all()
    assert np.diff(edges).max() <= max(rows.get("multiple", 1), 0.07 * length)
    if rows:
        assert (np.diff(edges[edges > 200])[:-1] % 16 == 0).all()
        assert (np.diff(edges)[:16] == 1).all()
    values = np.random.default_rng(0).random((6, length))
    means = block_means(values, edges)
    assert np.average(means, axis=1, weights=np.diff(edges)) == pytest.approx(values.mean(1))
