"""The L²M condition: how fast a history state must grow, and how large it must be (Sec. 5, App. D).

Theorem 5.2 bounds what a state of so many numbers carries, `Bound`; Theorems 5.4 and 5.6 ask for a
state that grows like the data's I_BP ~ L^β, `satisfies_l2m`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, log2

import numpy as np

from l2m.memory.history_state import history_state

LONGEST = 10**18  # tokens: `reach` looks no further


@dataclass(frozen=True)
class Growth:
    """How the history state grows with the length L."""

    law: str  # "linear", "power", "logarithmic" or "bounded"
    exponent: float  # in L
    rate: float  # scalars per token, per L^exponent or per doubling; of a bounded state the largest


@dataclass(frozen=True)
class Verdict:
    """Whether the L²M condition can be met; true if it is by a single model.

    In a series of models, one for each length, the state must grow by L^series_exponent more than
    in a single one to meet the condition (Theorem 5.6): 0 where a single model for all lengths does
    (Theorem 5.4).
    """

    single: bool
    series_exponent: float
    why: str

    def __bool__(self):
        return self.single


@dataclass(frozen=True)
class Bound:
    """Theorem 5.2 with its constant: I_BP^q ≤ C·dim(z) + log M, in nats."""

    C: float

    @classmethod
    def discrete(cls, bits: float = 16) -> "Bound":
        """Scalars of `bits` bits: the state is one of 2^(bits·dim), so C = bits·log 2."""
        if not bits > 0:
            raise ValueError(f"bits must be positive, not {bits!r}.")
        return cls(bits * log(2))

    def dim(self, nats, vocab_size: int = 1):
        """Return the least number of scalars that can carry `nats`; a float, for scaling."""
        return np.maximum(np.asarray(nats) - log(vocab_size), 0.0) / self.C


def growth(config_or_model) -> Growth:
    """Return how dim(z) grows with the length L: like L, a power of L, log L, or not at all.

    Blocks of power attention are counted at their fullest: all digits of L in its base the largest.
    """
    terms = [_growth(memory) for memory in history_state(config_or_model).memories]
    terms = [term for term in terms if term.rate] or [Growth("bounded", 0.0, 0.0)]
    exponent, _, law = max((t.exponent, t.law == "logarithmic", t.law) for t in terms)
    rates = [t.rate for t in terms if (t.law, t.exponent) == (law, exponent)]
    return Growth(law, exponent, sum(rates))


def _growth(memory) -> Growth:
    """That of one memory."""
    scalars = memory.layers * memory.width  # of one slot in all layers
    if memory.slots == "power":
        s, c, b = memory.size.s, memory.size.slots, memory.size.base
        if s == 0:
            return Growth("logarithmic", 0.0, scalars * max(1, round(c)) * (b - 1) / log2(b))
        # Σ_j (b - 1)·c·b^(s·j) over all levels below L; no block has more slots than tokens
        rate = c * (b - 1) / (b**s - 1) if s < 1 else min(c, 1.0)
        return Growth("power" if s < 1 else "linear", float(s), scalars * rate)
    if memory.slots in ("tokens", "blocks"):
        return Growth("linear", 1.0, scalars / (memory.size or 1))
    if memory.slots == "levels":
        return Growth("logarithmic", 0.0, scalars)
    return Growth("bounded", 0.0, scalars * (memory.size or 1))


def satisfies_l2m(config_or_model, beta: float) -> Verdict:
    """Return whether a model can meet the L²M condition dim(z_{L/2}) ≿ L^β (Theorems 5.4, 5.6).

    The condition is necessary, not sufficient, and about growth: it says nothing of one length; for
    that compare `history_state_dim` with `required_dim`. `config_or_model` as in `history_state`;
    `beta` is the exponent of the data's I_BP ~ L^β, from 0 to 1, or a ValueError.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is an exponent between 0 and 1, not {beta!r}.")
    found = growth(config_or_model)
    single = found.exponent >= beta
    if single:
        why = f"its state grows like L^{found.exponent:g}, I_BP like L^{beta:g}"
    elif found.law == "power":
        why = f"its state grows like L^{found.exponent:g}, slower than I_BP ~ L^{beta:g}"
    elif found.law == "logarithmic":
        why = f"its state grows like log L, slower than I_BP ~ L^{beta:g}"
    else:
        why = f"its state never exceeds {found.rate:,.0f} scalars, while I_BP ~ L^{beta:g} grows"
    return Verdict(single, 0.0 if single else float(beta - found.exponent), why)


def required_dim(length, fit: Callable, *, bound: Bound | None = None, vocab_size: int = 1):
    """Return the least dim(z_{L/2}) with which a model can carry I_BP(L/2; L) (Theorem 5.2).

    The solution of I_BP = C·dim(z) + log M for dim(z): a number of scalars, not rounded. `length`
    is L, an int or array; `fit` gives I_BP in nats as a function of L, as a `PowerLaw` does;
    `bound` is the theorem's constant, 16-bit scalars by default: what models are seen to hold is
    far less, and ``Bound(C)`` with a measured C asks the practical question. `vocab_size` is M; by
    default the log M that the last token carries is left out.
    """
    return (bound or Bound.discrete()).dim(fit(np.asarray(length)), vocab_size)


def reach(config_or_model, law, *, bound: Bound | None = None, vocab_size: int = 1):
    """Return the first length L ≥ 2 whose I_BP the state after ⌊L/2⌋ tokens cannot carry.

    An int, or inf if there is none up to `LONGEST`. Exact, without a grid: after n tokens a state
    grows at least by its scalars per token, so what it can spare beyond A·(2m+1)^β at a later m is
    bounded from below by a convex function, whose first zero is the next place to look at.
    `law` is a `PowerLaw` with 0 ≤ β ≤ 1; others as in `required_dim`. ValueError for slots that
    merge (power attention): such a state can fall, and reach a length that it did not reach before.
    """
    memories, bound = history_state(config_or_model).memories, bound or Bound.discrete()
    if any(memory.slots == "power" for memory in memories):
        raise ValueError("A state whose slots merge can fall: compare it with `required_dim`.")
    if not 0 <= law.exponent <= 1:
        raise ValueError(f"The exponent of the law is between 0 and 1, not {law.exponent!r}.")
    slope = sum(m.layers * m.width for m in memories if m.slots == "tokens")

    def need(L):
        return (law.amplitude * float(L) ** law.exponent + law.offset - log(vocab_size)) / bound.C

    last, n = _lowest(law, slope * bound.C), 1
    while True:
        kept = sum(memory.dim(n) for memory in memories)
        if kept < need(2 * n + 1):
            return 2 * n if kept < need(2 * n) else 2 * n + 1

        def spare(m, kept=kept, n=n):
            return kept + slope * (m - n) - need(2 * m + 1)

        fails = max(last, n)
        fails = min(fails, fails + 1, key=spare)
        if spare(fails) >= 0:
            return inf
        fits = n
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (fits, middle) if spare(middle) < 0 else (middle, fails)
        n = fails


def _lowest(law, slope) -> int:
    """The whole m before the minimum of slope·m - A·(2m+1)^β, at most that of `LONGEST`."""
    A, beta, most = law.amplitude, law.exponent, LONGEST // 2
    if slope == 0 or (beta == 1 and slope < 2 * A):
        return most if beta > 0 else 0
    if beta == 1:
        return 0
    log_L = log(2 * A * beta / slope) / (1 - beta) if beta > 0 else -inf
    return int(max(0.0, np.exp(log_L) - 1) / 2) if log_L < log(LONGEST) else most
