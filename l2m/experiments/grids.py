"""Which models are trained on what: the grids of the experiments `gaussian` and `books`.

A grid of `grids.json` has a list of runs, the most important first, so that whatever a deadline
leaves is of use. A run has the fields listed for it, and those that are `common` to all; where
there is an `each`, every run is made once with each of the fields there.

Predicted before the Gaussian runs were made (November 2026): told the place, GPT-2 with rotary
positions stays flat, KL(4,096) / KL(256) < 2, and a Mamba of 16 states rises by 5 or more. The
place alone takes a third or more off a Mamba's divergence at 256. At fixed length and width the
divergence falls with the state until the state is about twice the numbers needed, then no more.
Before the second half of them: windows of 16, told the place, do as well as all of attention at 64,
and at 1,024 no better than `window_floor` allows; Mamba-2 of 64 states is between Mamba of 16 and
attention at 1,024; in the paper's own sizes (all of 16 states) ratio and length explain as much.

Predicted before the runs of "just_enough" were made (November 2026): power attention of inner width
32 on 16 copies, c such that 6 slots are kept of 32 vectors at every s (after 512: 6, 23, 54 and 97;
at other positions more blocks are there, and of s = 0 the most). At 1,024, β = 0.79: the divergence
falls from s = 0 to 0.5 to 0.79, by a factor of 2 or more each time, and to s = 1 by less than 1.5.
β = 0.5: s = 0 is worse than 0.5 by 2 or more, all others are within 1.5 of each other. β = 0: all
are within 2. From 256 to 1,024 it rises less than twofold only where s ≥ β. What counts is the
state: s = 0 with 54 slots a block is within 2 of s = 0.79; widths that make the weights equal
change less than 1.3. Cut at an offset, the order in s stays, each s at most 2 worse. After a trial
at 64 with c = 1 (two layers, 600 steps, one seed; fixed maps: 0.068, 0.074 and 0.036 for s = 0, 0.5
and 0.79; by content, s = 0.79: 0.060; full attention: 0.069): merging by content, a softmax that
knows no minus sign, is worse than fixed maps by 1.5 or more at β = 0.79; full attention (s = c = 1)
with its place told is within 1.5 of s = 0.79 at 64, where 6,000 steps suffice for both, and behind
it at 1,024.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

GRIDS = json.loads(Path(__file__).with_name("grids.json").read_text(encoding="utf-8"))


def grids_of(experiment: str, make: Callable) -> dict[str, Callable[[], list]]:
    """By the name of a grid, a function that makes its runs, each by `make` from its fields."""
    return {name: partial(_runs, grid, make) for name, grid in GRIDS[experiment].items()}


def _runs(grid: dict, make: Callable) -> list:
    common, variants = grid.get("common", {}), grid.get("each", [{}])
    return [make(**common | each | run) for each in variants for run in grid["runs"]]
