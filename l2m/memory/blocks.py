"""The blocks that power attention cuts the past into, and how many slots each keeps: arithmetic.

Position t (from 0) attends to t + 1 tokens, its own included. It sees the last ones exactly, from

    g(t) = max(0, w·(⌊(t + 1)/w⌋ - 1))

on: its window, of at least w tokens (or all there are) and fewer than 2w. The g(t) tokens before
are cut into blocks by the base-b expansion of g(t), the largest first, as in a Fenwick tree:
g = Σ_j d_j b^j gives d_j blocks of b^j tokens. So every past token is in the window or in one
block. A block of b^j tokens is kept as

    m_j = min(b^j, max(1, round(c·b^(s·j))))

slots, merged from the b·m_{j-1} slots of its b children. Where m_j = b·m_{j-1} nothing is merged:
the slots of the children go on as they are. A slot, or a token, is thus seen by all positions
between two: the first whose blocks (or window) hold it, and the first by which it has been merged.
That makes masks of any length cheap: two numbers for every key.

All that is kept is O(L^s) slots, O(log L) for s = 0; s = 1 with c = 1 is full attention.
"""

from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """One level at which slots are merged."""

    size: int  # b^j, tokens of a block
    slots: int  # m_j that it keeps
    children: int  # b·m_{j-1} slots that these are merged from


class Keys(NamedTuple):
    """What is attended to in a sequence of L: its tokens, then the slots of one level by another.

    Arrays (K,). Of each level all ⌊L/b^j⌋ blocks are there, in order, also those not seen yet.
    """

    opens: np.ndarray  # the first position that sees it
    closes: np.ndarray  # the first that no longer does; L if none
    place: np.ndarray  # its position; of a slot, the middle of the tokens that it stands for
    tokens: np.ndarray  # b^j / m_j, how many those are


@dataclass(frozen=True)
class Blocks:
    """How the past is kept: the exponent s, c `slots`, the base b, the window w.

    ValueError if s is outside 0…1, c not positive, b below 2 or w below 1.
    """

    s: float
    slots: float = 1.0
    base: int = 2
    window: int = 1

    def __post_init__(self):
        if not 0 <= self.s <= 1:
            raise ValueError(f"s is an exponent between 0 and 1, not {self.s!r}.")
        if not (isfinite(self.slots) and self.slots > 0):
            what = "slots, the c of c·b^(s·j), is a positive number"
            raise ValueError(f"{what}, not {self.slots!r}.")
        for name, least in (("base", 2), ("window", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} is a whole number, at least {least}, not {value!r}.")

    def kept(self, level: int) -> int:
        """m_j, the slots of a block of b^level tokens."""
        most = self.base**level
        return min(most, max(1, round(self.slots * self.base ** (self.s * level))))

    def before(self, seen):
        """The g of the position that attends to `seen` tokens, its own included; arrays too."""
        return np.maximum(0, self.window * (seen // self.window - 1))

    def levels(self, length: int) -> list[Level]:
        """The merging levels whose blocks a position of a sequence of `length` can see."""
        most, found, j = self.before(length), [], 1
        while self.base**j <= most:
            children = self.base * self.kept(j - 1)
            if self.kept(j) != children:
                found.append(Level(self.base**j, self.kept(j), children))
            j += 1
        return found

    def count(self, length):
        """Slots and tokens that are kept after `length` tokens, for the next one; an int or array.

        Just what the next position sees, less itself: L for full attention, and with w = 1 the
        slots of the blocks of L.
        """
        length = np.asarray(length, np.int64)
        rest = self.before(length + 1)
        total, j = length - rest, 0
        while rest.any():
            rest, digit = np.divmod(rest, self.base)
            total, j = total + digit * self.kept(j), j + 1
        return total if total.ndim else int(total)

    def keys(self, length: int) -> Keys:
        """The keys of a sequence of `length`, and which positions see each."""
        levels = self.levels(length)
        parts = []
        for i, (size, slots) in enumerate([(1, 1), *((m.size, m.slots) for m in levels)]):
            n, middle = length // size * slots, size / slots
            first = np.arange(n) // slots * size
            place = first + (np.arange(n) % slots + 0.5) * middle - 0.5
            opens = self._by(first + size) if i else first
            parent = levels[i].size if i < len(levels) else None
            closes = self._by((first // parent + 1) * parent) if parent else np.full(n, length)
            parts.append((opens, np.minimum(closes, length), place, np.full(n, middle)))
        return Keys(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _by(self, end):
        """The first position whose window begins at `end` or later."""
        return self.window * (-(-end // self.window) + 1) - 1
