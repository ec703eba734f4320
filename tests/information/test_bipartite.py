"""The two estimators against sources whose bipartite mutual information is known exactly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.experiments.word_cache import cache_gain
from l2m.information.bipartite import (
    bipartite_mi,
    chosen_warm,
    clustered_stderr,
    per_byte,
    window_mi,
    window_terms,
)
from l2m.information.scaling import bootstrap_power_law
from l2m.language_models.scoring import Scores, partner_permutation, score_whole
from l2m.sources import CopySource, MarkovSource


def markov_scores(n=3000, length=16, ratio=4, seed=0):
    transition = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]])
    source = MarkovSource(transition)
    windows = source.sample(n, length, np.random.default_rng(seed))
    return source, score_whole(source.log_prob, windows, [1, 2, 4], ratio)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_direct_is_unbiased_for_the_exact_model(ratio):
    source, scores = markov_scores()
    table = bipartite_mi(scores, "direct", ratio=ratio)
    exact = [source.bipartite_mi(s, ratio * s) for s in table["split"]]
    assert (table["length"] == ratio * table["split"]).all()
    assert (abs(table["mi"] - exact) < 4 * table["stderr"]).all()
    assert (table["stderr"] < 0.03).all()


def test_vclub_bounds_the_truth_from_above():
    rng = np.random.default_rng(3)
    source = MarkovSource(np.array([[0.7, 0.3], [0.4, 0.6]]))
    scores = score_whole(source.log_prob, source.sample(4000, 8, rng), [1, 2, 4], 2)
    table = bipartite_mi(scores, "vclub")
    exact = np.array([source.bipartite_mi(s, 2 * s) for s in table["split"]])
    # only the first token of Y depends on X: the excess is the same at every split, and is exactly
    joint = source.stationary[:, None] * source.transition
    product = np.outer(source.stationary, source.stationary)
    vclub = ((joint - product) * np.log(source.transition)).sum()
    assert vclub > exact[0]
    assert (abs(table["mi"] - vclub) < 4 * table["stderr"]).all()


def test_the_all_equal_source_gives_log_of_the_vocabulary():
    source = CopySource(8)
    windows = source.sample(200, 8, np.random.default_rng(0))
    table = bipartite_mi(score_whole(source.log_prob, windows, [1, 2, 4], 2))
    np.testing.assert_allclose(table["mi"], np.log(8), rtol=1e-12)


@given(n=st.integers(3, 12), k=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_control_variate_leaves_the_mean_and_the_table_is_enough(n, k, seed):
    rng = np.random.default_rng(seed)
    partners = np.stack([np.roll(np.arange(n), j + 1) for j in range(min(k, n - 1))])
    scores = Scores(
        -rng.random((n, 8)),
        {s: -rng.random((n, s)) for s in (2, 4)},
        {s: -rng.random((len(partners), n, s)) for s in (2, 4)},
        partners,
        2,
    )
    plain = window_mi(scores, "vclub", control_variate=False)
    varied = window_mi(window_terms(scores), "vclub")
    np.testing.assert_allclose(plain.mean(), varied.mean(), atol=1e-12)
    by_hand = scores.joint[:, 4:8].sum(1) - scores.shuffled[4].sum(2).mean(0)
    np.testing.assert_allclose(plain[4], by_hand, atol=1e-12)


def test_the_control_variate_lowers_the_variance():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 500)  # how hard a continuation is by itself
    partners = np.roll(np.arange(500), 1)
    noise = rng.normal(0, 1, (3, 500))
    scores = Scores(
        np.c_[np.zeros(500), hard + 2 + noise[0]],
        {1: (hard + noise[1])[:, None]},
        {1: (hard[partners] + noise[2])[:, None]},
        partners,
        2,
    )
    plain = bipartite_mi(scores, "vclub", control_variate=False)["stderr"][0]
    assert bipartite_mi(scores, "vclub")["stderr"][0] < plain / 4


def test_bigram_blend_replaces_the_first_two_tokens():
    _, scores = markov_scores(n=50)
    plain, blended = window_mi(scores, ratio=2), window_mi(scores, bigram_entropy=1.5, ratio=2)
    head = scores.marginal[4][:, :2].sum(1)
    # −log q(Y) has 0.2·(the model's two tokens) + 0.8·1.5 instead of the model's two tokens
    np.testing.assert_allclose(blended[4], plain[4] + head - 0.2 * head + 0.8 * 1.5, atol=1e-9)
    same = window_mi(scores, bigram_entropy=1.5, bigram_weight=0.0, ratio=2)
    np.testing.assert_allclose(same, plain)


def test_stderr_of_books():
    rng = np.random.default_rng(0)
    books = np.repeat(np.arange(40), 10)
    draws = rng.normal(0, 1, (300, 40))[:, books] + rng.normal(0, 1, (300, 400))
    stderr = np.array([clustered_stderr(x[:, None], books)[0] for x in draws])
    assert np.isclose(stderr.mean(), draws.mean(1).std(), rtol=0.15)
    naive = draws[0].std(ddof=1) / 20
    assert np.isclose(clustered_stderr(draws[0][:, None])[0], naive)
    assert np.isnan(clustered_stderr(draws[0][:, None], np.zeros(400))[0])


@pytest.mark.parametrize("label", [None, float("nan"), pd.NA])
def test_rows_without_a_book_are_refused_rather_than_dropped(label):
    """Left out, they would change the error without a word: 0.1391 for 0.1413."""
    values = np.random.default_rng(0).normal(size=(50, 1))
    books = np.array([f"book {i // 5}" for i in range(50)], dtype=object)
    with_own = np.where(books == "book 3", "another", books)
    np.testing.assert_allclose(clustered_stderr(values, books), clustered_stderr(values, with_own))
    books[[7, 31]] = label
    message = "2 of 50 rows have no group, row 7 for one: give each row its book"
    for use in (
        lambda: clustered_stderr(values, books),
        lambda: clustered_stderr(pd.DataFrame(values), pd.Series(books)),
        lambda: partner_permutation(50, books),
        lambda: bootstrap_power_law([1, 2, 4], 1 + 0.1 * values**2 * [1, 2, 4], books, n_boot=9),
        lambda: cache_gain(np.full((50, 20), -1.0), np.ones((50, 20), int), books),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("estimator", ["direct", "vclub"])
@pytest.mark.parametrize("kind", ["joint", "marginal", "shuffled"])
def test_a_window_that_is_no_number_is_refused_rather_than_left_out(estimator, kind):
    """The mean of the others would come back, with a standard error of 0."""
    _, scores = markov_scores(n=20)
    part = scores.joint if kind == "joint" else getattr(scores, kind)[2]
    part[3, -1] = np.nan
    if (kind, estimator) != ("shuffled", "direct"):  # which does not read it
        with pytest.raises(ValueError, match=r"window \d+ at split \d is not a number.*score them"):
            bipartite_mi(scores, estimator, ratio=4)
        with pytest.raises(ValueError, match="is not a number"):
            bipartite_mi(window_terms(scores), estimator, ratio=4)


def test_groups_of_the_scores_are_used():
    _, scores = markov_scores(n=60)
    scores.groups = np.repeat(np.arange(6), 10)
    values = window_mi(scores, ratio=2)
    expected = clustered_stderr(values.to_numpy(), scores.groups)
    np.testing.assert_allclose(bipartite_mi(scores, ratio=2)["stderr"], expected)
    np.testing.assert_allclose(bipartite_mi(window_terms(scores), ratio=2)["stderr"], expected)
    independent = bipartite_mi(scores, ratio=2, groups=range(60))["stderr"]
    np.testing.assert_allclose(independent, values.std(ddof=1) / np.sqrt(60))


def test_what_is_not_there_is_named():
    _, scores = markov_scores(n=10, ratio=2)
    with pytest.raises(ValueError, match="'direct' or 'vclub'"):
        bipartite_mi(scores, "infonce")
    with pytest.raises(ValueError, match="L/ℓ = 5"):
        bipartite_mi(scores, ratio=5)


def test_a_law_in_bytes_is_the_law_in_tokens_stretched():
    """With 4 bytes a token x = 4L: the exponent stays, and the amplitude is the value at `at`."""
    rng, splits = np.random.default_rng(0), 2 ** np.arange(1, 11)
    books = np.repeat(np.arange(30), 4)
    tables = []
    for split in splits:
        noise = np.exp(0.1 * rng.standard_normal(120) - 0.005)
        joint = -3.0 * split + 2.0 * (2 * split) ** 0.6 * noise
        row = {"window": np.arange(120), "book": books, "split": split, "ratio": 2}
        row |= {"joint": joint, "marginal": -3.0 * split, "partner_marginal": -3.0 * split}
        tables.append(pd.DataFrame(row | {"shuffled": -3.0 * split - (2 * split) ** 0.6}))
    terms = pd.concat(tables)
    sizes = [{"window": w, "tokens": k, "bytes": 4 * k} for w in range(120) for k in 2 * splits]
    sizes = pd.DataFrame([*sizes, *({"window": w, "tokens": 2, "bytes": 8} for w in range(120))])
    found = per_byte(terms, sizes, at=1000, shortest=100)
    for name, factor in (("direct", 2.0), ("vclub", 3.0)):
        values, law = window_mi(terms, name).loc[:, 16:], found[name]
        plain = bootstrap_power_law(2 * values.columns, values.to_numpy(), books)
        assert law.exponent == pytest.approx(plain.exponent)
        assert law.exponent_interval == pytest.approx(plain.exponent_interval)
        assert law.amplitude == pytest.approx(plain(250.0))
        assert law.amplitude_interval[0] < factor * 250**0.6 < law.amplitude_interval[1]
    last = terms[terms["split"] == 1024]["joint"]
    assert found["bits"] == pytest.approx(-last.mean() / 4096 / np.log(2))
    alone = clustered_stderr(last.to_numpy()[:, None] / 4096 / np.log(2), books)
    assert found["error"] == pytest.approx(alone[0])
    with pytest.raises(ValueError, match="lack lengths or windows"):
        per_byte(terms, sizes[sizes["window"] > 3])


def starts(books=40, each=25, gain=0.0, seed=0):
    """Made-up costs of two splits after BOS and after two other starts, better by `gain` nats."""
    rng = np.random.default_rng(seed)
    n = 2 * books * each
    table = pd.DataFrame({"window": np.arange(n) // 2, "split": np.tile([2, 4], n // 2)})
    table = table.assign(book=table["window"] // each, ratio=2, marginal=rng.normal(-20, 3, n))
    own = rng.normal(size=(books, 2))[table["book"]]  # a book's own liking
    for k, c in enumerate((16, 64)):
        table[f"warm_{c}"] = table["marginal"] + gain * k + own[:, k] + rng.normal(size=n)
    for name in ("marginal_head", "head_16", "head_64"):
        table[name] = rng.normal(-9, 2, n)
    return table


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-1, 1), st.sampled_from([0.0, 0.8, 1.0]))
def test_a_start_is_chosen_in_the_other_half_of_the_books(seed, gain, weight):
    table = starts(books=7, each=3, gain=gain, seed=seed)
    got = chosen_warm(table, seed, weight)
    heads = {"marginal": "marginal_head", "warm_16": "head_16", "warm_64": "head_64"}
    half = set(np.random.default_rng(seed).permutation(np.arange(7))[:3])
    for (split, inside), some in table.groupby(["split", table["book"].isin(half)]):
        other = table[(table["split"] == split) & (table["book"].isin(half) != inside)]
        price = {name: (other[name] - weight * other[head]).mean() for name, head in heads.items()}
        best = max(heads, key=price.get)
        assert (got["warm_chosen"].loc[some.index] == some[best]).all()
        assert (got["head_chosen"].loc[some.index] == some[heads[best]]).all()
    # both corrections of q(Y) at once: the start, and what the first two tokens cost after it
    table = table.join(got).assign(joint=0.0)
    by_hand = -got["warm_chosen"] + weight * (got["head_chosen"] + 7.0)
    values = window_mi(table, bigram_entropy=7.0, bigram_weight=weight, warm="chosen")
    expected = by_hand.set_axis([table["window"], table["split"]]).unstack()
    np.testing.assert_allclose(values, expected)


def test_a_chosen_start_gains_what_there_is_to_gain_and_nothing_from_hindsight():
    gained, hindsight = [], []
    for seed in range(300):
        table = starts(books=8, each=2, seed=seed)
        columns = table[["marginal", "warm_16", "warm_64"]]
        gained.append((chosen_warm(table, seed)["warm_chosen"] - table["marginal"]).mean())
        by_split = columns.groupby(table["split"]).mean()
        hindsight.append((by_split.max(axis=1) - by_split["marginal"]).mean())
    error = np.std(gained) / np.sqrt(len(gained))
    assert abs(np.mean(gained)) < 4 * error < np.mean(hindsight)
    table = starts(gain=2.0)
    assert (chosen_warm(table)["warm_chosen"] == table["warm_64"]).all()
    better = table.join(chosen_warm(table))
    fallen = bipartite_mi(table.assign(joint=0.0)) - bipartite_mi(
        better.assign(joint=0.0), warm="chosen"
    )
    assert fallen["mi"].to_numpy() == pytest.approx(2, abs=0.5)


def test_a_start_cannot_be_chosen_without_another_or_in_one_book():
    table = starts(books=2, each=1)
    for wrong in (table.drop(columns=["warm_16", "warm_64"]), table[table["book"] == 0]):
        with pytest.raises(ValueError, match="two books or more"):
            chosen_warm(wrong)
    old = table.drop(columns=["head_16", "head_64"]).assign(joint=0.0)
    assert list(chosen_warm(old)) == ["warm_chosen"]
    with pytest.raises(ValueError, match="'warm_16' the first tokens were not kept: measure it"):
        window_mi(old, warm=16, bigram_entropy=5.0)


@pytest.mark.parametrize("how", [{"warm": 16}, {"bigram_entropy": 5.0}])
def test_what_prices_y_alone_is_not_for_vclub(how):
    _, scores = markov_scores(n=10)
    with pytest.raises(ValueError, match="has no q"):
        bipartite_mi(scores, "vclub", **how)
