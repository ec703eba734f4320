"""Shares of information that cuts keep: exact cases, intervals that cover, the naive loop."""

import numpy as np
import pandas as pd
import pytest

from l2m.information.budgets import exponents, interval, kept_nats, kept_shares, least_sizes

NATS = 10.0  # of information, in every window


def table(shares, noise=0.0, books=8, windows=2, seed=0):
    """A table of `cache_terms` with such shares, {(policy, split, size): share}."""
    rng = np.random.default_rng(seed)
    n = books * windows
    book = np.repeat(np.arange(books), windows)
    rows = []
    for split in {split for _, split, _ in shares}:
        nats = NATS * np.exp(noise * rng.normal(size=books))[book]  # a book's windows are alike
        cost = -100 * rng.random(n)
        known = {("full", split, 0): 1.0, ("warm", split, 64): 0.0, ("first", split, 0): 0.1}
        known |= {("warm", split, 0): -0.5}
        for (policy, at, size), share in (known | shares).items():
            if at == split:
                own = share + noise * rng.normal(size=books)[book] * (
                    policy not in ("full", "warm")
                )
                row = {"window": np.arange(n), "book": book, "split": split, "policy": policy}
                rows.append(pd.DataFrame(row | {"size": size, "log_q": cost + own * nats}))
    return pd.concat(rows, ignore_index=True)


def test_shares_are_what_the_cuts_keep():
    shares = {("sink", 8, 2): 0.5, ("sink", 8, 4): 0.75, ("bits", 8, 4): 0.9}
    nats = kept_nats(table(shares), n=20)
    assert nats.loc["full"].to_numpy() == pytest.approx(NATS)
    found = kept_shares(nats)
    assert set(found.index) == {*shares}
    for cut, share in shares.items():
        assert found.loc[cut].to_numpy() == pytest.approx(share)
    after_bos = kept_shares(kept_nats(table(shares), warm=0, n=20))  # 1.5 times as much in all
    assert after_bos.loc[("sink", 8, 4), 0] == pytest.approx((0.75 + 0.5) / 1.5)
    with pytest.raises(ValueError, match=r"after \[0, 64\] foreign tokens, not 3"):
        kept_nats(table(shares), warm=3)
    with pytest.raises(ValueError, match="some windows lack some cuts"):
        kept_nats(table(shares).iloc[1:])


def test_the_ratio_is_of_means_and_samples_redraw_books():
    shares = {("sink", 8, 2): 0.5, ("sink", 8, 4): 0.8}
    data = table(shares, noise=0.3)
    nats = kept_nats(data, n=50)
    wide = data.pivot(index=["book", "window"], columns=["policy", "size"], values="log_q")
    of_book = wide.sub(wide["warm", 64], axis=0).groupby("book").sum()
    naive = of_book["sink", 2].sum() / of_book["full", 0].sum()
    assert kept_shares(nats).loc[("sink", 8, 2), 0] == pytest.approx(naive)
    draws = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=50)
    redrawn = draws @ of_book["sink", 2] / (draws @ of_book["full", 0])
    assert kept_shares(nats).loc[("sink", 8, 2)].iloc[1:].to_numpy() == pytest.approx(redrawn)


def test_intervals_of_shares_cover():
    held = []
    for seed in range(150):
        data = table({("sink", 8, 2): 0.8}, noise=0.3, books=20, seed=seed)
        found = interval(kept_shares(kept_nats(data, n=200)), 20).loc[("sink", 8, 2)]
        held.append(found["low"] <= 0.8 <= found["high"])
    assert 0.88 <= np.mean(held) <= 0.99


def test_the_least_size_is_where_the_share_passes_for_good():
    log = {("sink", 63, k): np.log(k) / np.log(64) for k in (1, 4, 16)}
    dips = {("h2o", 63, 1): 0.97, ("h2o", 63, 4): 0.9, ("h2o", 63, 16): 1.0}
    always = {("snap", 63, k): 0.99 for k in (1, 4, 16)}
    never = {("window", 63, k): -3.0 for k in (1, 4, 16)}
    sizes = least_sizes(kept_shares(kept_nats(table(log | dips | always | never), n=5)))
    assert sizes.loc[("sink", 63)].to_numpy() == pytest.approx(64**0.95)
    assert sizes.loc[("h2o", 63)].to_numpy() == pytest.approx(4 * 4**0.5)
    assert sizes.loc[("window", 63)].to_numpy() == pytest.approx(16 * 4 ** (3.95 / 4))
    assert sizes.loc[("snap", 63)].isna().all()  # somewhere at or below the smallest


def test_exponents_are_those_of_the_least_sizes():
    shares = {}
    for j in (3, 4, 5):
        split, root = 4**j, 2**j
        shares |= {("sink", split, root // 2): 0.5, ("sink", split, root): 0.95}
        shares |= {("sink", split, 2 * root): 0.99, ("snap", split, split // 4): 0.5}
        shares |= {("snap", split, split // 2): 0.95}
    sizes = least_sizes(kept_shares(kept_nats(table(shares), n=5)))
    found = exponents(sizes)
    assert found.loc["sink"].to_numpy() == pytest.approx(0.5)
    assert found.loc["snap"].to_numpy() == pytest.approx(1.0)
    assert exponents(sizes, least_split=256).empty  # of two splits no line is known
