"""The cost of Y after the end of X, against whole passes over just that."""

import numpy as np
import torch
from helpers import naive, tiny, windows

from l2m.experiments.measure import past_table
from l2m.language_models.scoring import score


def test_costs_are_those_of_whole_passes():
    model, w, half = tiny("llama"), windows(4, 24), 12
    contexts = [0, 1, 4]
    scores = score(model, w, [half - c for c in contexts], 24, progress=False)
    table = past_table(scores, half)
    assert sorted(table["context"].unique()) == [0, 1, 4, 12]
    assert (table.groupby(["window", "context"])["tokens"].sum() == half).all()
    for c in (0, 1, 4, 12):
        with torch.inference_mode():
            cost = -naive(model)(w[:, half - c :])[:, c:]
        rows = table[table["context"] == c]
        for first, end in ((1, 2), (2, 4), (4, 8), (8, 13)):
            some = rows[rows["first"] == first].sort_values("window")
            np.testing.assert_allclose(some["cost"], cost[:, first - 1 : end - 1].sum(1), rtol=1e-5)
