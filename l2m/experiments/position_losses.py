"""Loss by position on held-out books: curves, differences, slopes, where they cross.

Everything rests on the mean loss of every book in every block of positions (the table `positions`
of `books`), and every interval on resampling books: sequences of one book are alike. Two models
that read the same sequences are compared book by book, which takes most of the spread out.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from l2m.information.resampling import CONFIDENCE, clustered_stderr, resampled_means

POWER = 0.8  # with which a slope would be seen


def block_edges(length: int, per_octave: int = 12, multiple: int = 1) -> np.ndarray:
    """First positions (from 1) of blocks that grow with the position, and length + 1.

    An octave has `per_octave` blocks; where they are wide, they hold whole multiples of `multiple`.
    """
    steps = np.arange(per_octave * np.log2(length) + 1e-9)
    first = np.round(2 ** (steps / per_octave))
    wide = first > 4 * multiple if multiple > 1 else np.zeros(len(first), bool)
    first[wide] = 1 + multiple * np.round((first[wide] - 1) / multiple)
    return np.unique([*first, length + 1]).astype(int)


def block_means(values, edges) -> np.ndarray:
    """Means of values by position (n, L) over the blocks between edges: (n, blocks)."""
    return np.add.reduceat(values, edges[:-1] - 1, axis=1) / np.diff(edges)


@dataclass(frozen=True)
class BookLosses:
    """Mean losses of g books in k blocks of positions."""

    position: np.ndarray  # (k,) middle of each block, geometric
    tokens: np.ndarray  # (k,) positions in it
    losses: np.ndarray  # (g, k), nats; or differences of two models' losses
    weight: np.ndarray  # (g,) sequences of each book

    def __sub__(self, other: "BookLosses") -> "BookLosses":
        """This model's losses minus another's on the same sequences, as far as both go."""
        k = min(len(self.position), len(other.position))
        same = np.array_equal(self.tokens[: k - 1], other.tokens[: k - 1])
        if not same or not np.array_equal(self.weight, other.weight):
            raise ValueError("the two models were not evaluated on the same sequences")
        k -= not np.array_equal(self.tokens[:k], other.tokens[:k])  # the last block may be cut
        losses = self.losses[:, :k] - other.losses[:, :k]
        return BookLosses(self.position[:k], self.tokens[:k], losses, self.weight)

    def smoothed(self, octaves: float = 0.5) -> "BookLosses":
        """Averaged over neighbouring blocks: a triangle of this half-width in log₂(position)."""
        distance = np.abs(np.subtract.outer(*2 * [np.log2(self.position)])) / octaves
        kernel = np.clip(1 - distance, 0, None) * self.tokens
        kernel /= kernel.sum(1, keepdims=True)
        return replace(self, losses=self.losses @ kernel.T)

    def between(self, first: float, last: float) -> "BookLosses":
        """The blocks whose middle lies between these positions."""
        some = (self.position >= first) & (self.position <= last)
        return BookLosses(self.position[some], self.tokens[some], self.losses[:, some], self.weight)

    def stretch(self, first: float, last: float) -> tuple[float, float]:
        """Mean over a stretch of positions, and half of its 95% interval."""
        part = self.between(first, last).overall()
        return float(part.mean[0]), float(part.half_width[0])

    def slope(self, first: float) -> "Slope":
        """Rise with every doubling of the position, from one on: a line through each book."""
        part = self.between(first, np.inf)
        x = np.log2(part.position)
        x -= np.average(x, weights=part.tokens)  # a block counts as many times as tokens
        rise = part.losses @ (part.tokens * x) / (part.tokens @ x**2)
        fitted = replace(part.overall(), losses=rise[:, None])
        half_width = float(fitted.half_width[0])
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(self.weight) - 1)
        seen = half_width * (1 + stats.norm.ppf(POWER) / quantile)
        return Slope(float(fitted.mean[0]), half_width, float(seen))

    def overall(self) -> "BookLosses":
        """All positions as one block: the mean loss of a token."""
        mean = (self.losses @ self.tokens / self.tokens.sum())[:, None]
        middle = np.array([np.sqrt(self.position[0] * self.position[-1])])
        return BookLosses(middle, np.array([self.tokens.sum()]), mean, self.weight)

    @property
    def mean(self) -> np.ndarray:
        """(k,) mean over sequences."""
        return self.weight @ self.losses / self.weight.sum()

    @property
    def half_width(self) -> np.ndarray:
        """(k,) half of the 95% interval of `mean` over the choice of books (Student-t)."""
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(self.weight) - 1)
        return quantile * clustered_stderr(self.losses, weights=self.weight)


def book_losses(positions: pd.DataFrame, run: str) -> BookLosses:
    """The held-out losses of one run of the table `positions`; ValueError if it is not there."""
    own = positions[(positions["run"] == run) & (positions["data"] == "held-out")]
    if own.empty:
        raise ValueError(f"no run {run!r}, only {', '.join(map(str, positions['run'].unique()))}")
    losses = own.pivot(index="book", columns=["first", "last"], values="nll").sort_index(axis=1)
    first, last = losses.columns.to_frame().to_numpy().T
    weight = own.groupby("book")["sequences"].first().to_numpy(np.float64)
    return BookLosses(np.sqrt(first * last), last - first + 1, losses.to_numpy(np.float64), weight)


class Slope(NamedTuple):
    """Nats for each doubling of the position, with half of the 95% interval over books.

    `seen` is the smallest slope that such an interval would exclude zero for in 80% of samples.
    """

    rise: float
    half_width: float
    seen: float

    def __str__(self) -> str:
        """The slope and its interval, such as "+0.0118 ± 0.0024"."""
        return f"{self.rise:+.4f} ± {self.half_width:.4f}"


class Place(NamedTuple):
    """A position on a curve, with its 95% interval over books.

    Infinite where the curve has no such place before its end; so is an end of the interval when
    more than 2.5% of the resamples have none.
    """

    position: float
    low: float
    high: float

    def __str__(self) -> str:
        """The position and its interval, such as "520 (410 to 700)"."""
        here, low, high = (f"{x:,.0f}" if np.isfinite(x) else "end" for x in self)
        return f"{here} ({low} to {high})" if np.isfinite(self.low) else "not before the end"


def above_zero_from(curve: BookLosses, n: int = 2000, seed=0) -> Place:
    """From where on a curve is above zero, interpolated; infinite if its end is not."""
    x = np.log2(curve.position)

    def find(y):
        below = np.flatnonzero(y <= 0)
        if not len(below):
            return curve.position[0]
        if (i := below[-1]) == len(y) - 1:
            return np.inf
        return 2 ** (x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i]))

    means = resampled_means(curve.losses, n=n, seed=seed, weights=curve.weight)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile([find(mean) for mean in means], [tail, 1 - tail], method="nearest")
    return Place(*map(float, (find(curve.mean), *ends)))
