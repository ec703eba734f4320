"""From a corpus to the two tables, with a tiny model."""

import numpy as np
import pytest
import torch
from helpers import library, naive, tiny, windows, words
from stub_server import Tokenizer, serving

from l2m.experiments import measure as module
from l2m.experiments.measure import (
    cache_terms,
    command_line,
    identity,
    measure,
    missed_terms,
    past_table,
    show_curves,
    show_kept,
    window_bytes,
)
from l2m.information.bipartite import bipartite_mi, window_terms
from l2m.information.resampling import clustered_stderr
from l2m.language_models.cut_cache import cut_scores
from l2m.language_models.scoring import partner_permutation, powers_of_two, score, score_whole
from l2m.text.corpora import Windows, load_corpus


@pytest.fixture
def corpus(monkeypatch, tmp_path):
    """A made-up corpus of 6 books with 2 windows each; returns its tokens and the limits asked."""
    tokens, asked = np.random.default_rng(0).integers(0, 97, (12, 16)), []

    class Books:
        def windows(self, tokenizer, length, n, seed):
            return Windows(tokens[:n, :length], np.arange(n) // 2, np.zeros(n, int))

    monkeypatch.setenv("L2M_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "load_corpus", lambda name, limit: asked.append(limit) or Books())
    monkeypatch.setattr(module, "fingerprint", lambda name, limit: f"{name}[:{limit}]")
    monkeypatch.setattr(module.models, "load_model", lambda *a, **k: tiny("llama"))
    monkeypatch.setattr(module.models, "load_tokenizer", lambda name: None)
    return tokens, asked


def test_tables(corpus):
    about = {"corpus": "made-up", "length": 16, "windows": 12, "ratio": 3, "bos": 0}
    terms, positions = measure("tests/made-up", partners=2, dtype="float32", **about)
    tokens, _ = corpus
    books = np.arange(12) // 2
    partners = partner_permutation(12, books, 2, 0)
    whole = score_whole(naive(tiny("llama")), tokens, powers_of_two(16), 3, partners, books)
    expected = window_terms(whole)
    np.testing.assert_allclose(terms, expected, rtol=1e-5, atol=1e-4)
    assert positions["position"].tolist() == list(range(1, 17))
    for kind, stderr, x in (
        ("nll", "stderr", whole.joint),
        ("marginal", "marginal_stderr", whole.marginal[8]),
        ("shuffled", "shuffled_stderr", whole.shuffled[8].mean(0)),
    ):
        here = positions[[kind, stderr]].dropna()
        np.testing.assert_allclose(here[kind], -x.mean(0), rtol=1e-4)
        np.testing.assert_allclose(here[stderr], clustered_stderr(x, books), rtol=1e-3)
    again, _ = measure("tests/made-up", partners=2, dtype="float32", **about)
    assert terms.attrs["sha256"] == again.attrs["sha256"]


def test_the_cache_uses_scores_that_are_kept(corpus, monkeypatch):
    about = {"corpus": "made-up", "length": 16, "windows": 12, "bos": 0, "dtype": "float32"}
    measure("tests/made-up", **about)
    monkeypatch.setattr("l2m.language_models.likelihood.hidden_states", None)  # no more scoring
    table = missed_terms("tests/missed", **about)
    assert sorted(table["split"].unique()) == [2, 4, 8]
    assert "--length 16" in table.attrs["command"]


def test_cut_caches(corpus, monkeypatch):
    about = {"corpus": "made-up", "length": 16, "windows": 12, "bos": 0, "dtype": "float32"}
    table = cache_terms("tests/cut", budgets="2,1/2", warm="3", **about)
    tokens, books = corpus[0], np.arange(12) // 2
    how = {"warm": (3,), "groups": books, "bos_token_id": 0, "progress": False}
    expected = cut_scores(tiny("llama"), tokens, ["2", "1/2"], **how)
    found = table.set_index(["policy", "split", "size", "window"])["log_q"].sort_index()
    for (policy, split, *size), log_q in expected.items():
        here = found.loc[policy, split, size[0] if size else 0]
        np.testing.assert_allclose(here, log_q, atol=1e-5)
    assert len(table) == 12 * len(expected)
    assert (table["book"] == table["window"] // 2).all()
    assert "--what cache" in table.attrs["command"] and "--budgets 2,1/2" in table.attrs["command"]
    line = next(line for line in show_kept(table).splitlines() if line.startswith("sink"))
    kept = [expected["sink", s, 2] - expected["warm", s, 3] for s in (2, 4, 8)]
    whole = [expected["full", s] - expected["warm", s, 3] for s in (2, 4, 8)]
    shares = np.sum(kept, 1) / np.sum(whole, 1)
    assert [float(x) for x in line.split()[2:]] == pytest.approx(shares, abs=2e-3)
    for budgets in ("", "a", "0", "1/0", "-1", "2,"):
        with pytest.raises(ValueError, match="--budgets is numbers of entries, or shares"):
            cache_terms("tests/cut", budgets=budgets, **about)


def test_fewer_documents(corpus):
    about = {"corpus": "pg19", "length": 8, "windows": 6, "dtype": "float32"}
    terms, _ = measure("tests/few", documents=3, **about)
    assert corpus[1] == [3]
    assert terms.attrs["params"]["documents"] == 3
    assert "--documents 3" in terms.attrs["command"]
    assert "documents" not in identity("pg19", "m")


def test_a_served_model(corpus, monkeypatch):
    about = {"corpus": "made-up", "length": 16, "windows": 12, "bos": 0}
    here = measure("tests/here", dtype="float32", **about)
    monkeypatch.setattr(module.models, "load_model", None)
    monkeypatch.setattr(module.models, "load_tokenizer", lambda name: Tokenizer())
    with serving() as stub:
        there = measure("tests/there", model="tiny", server=stub.url, **about)
        asked = stub.asked
        measure("tests/again", model="tiny", server=stub.url + "/v1", **about)
        missed_terms("tests/missed", model="tiny", server=stub.url, **about)
        assert stub.asked == asked + 2  # scores are kept; each connection asks what it can do
        with pytest.raises(ValueError, match="leave --dtype out"):
            measure("tests/there", model="tiny", server=stub.url, dtype="float32", **about)
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    attrs = there[0].attrs
    assert stub.url not in str(attrs) and "--server URL" in attrs["command"]
    assert attrs["params"]["served"]["name"] == "tiny" and attrs["dtype"] is None
    assert attrs["tokens_asked"] == attrs["tokens_computed"] > 12 * 4 * 16


def test_curves_are_shown(corpus):
    tables = measure("tests/shown", corpus="made-up", length=16, windows=12, bos=0, dtype="float32")
    assert show_curves(tables).startswith("direct\n") and "vclub\n" in show_curves(tables)


def test_a_future_may_be_priced_after_another_book(corpus):
    about = {"corpus": "made-up", "length": 16, "windows": 12, "bos": 0, "dtype": "float32"}
    tables = measure("tests/warm", warm="4,1", **about)
    plain, _ = measure("tests/made-up", **about)
    assert [name for name in tables[0] if name not in plain] == [
        "warm_1",
        "head_1",
        "warm_4",
        "head_4",
    ]
    own = corpus[0]
    partners = partner_permutation(12, np.arange(12) // 2, 1, 0)
    row = tables[0].query("split == 8 and window == @partners[3]").iloc[0]
    text = np.concatenate([own[3, :4], own[partners[3], 8:16]])
    log_q = naive(tiny("llama"))(text[None])[0, 4:]
    assert row["warm_4"] == pytest.approx(log_q.sum(), abs=1e-3)
    assert row["head_4"] == pytest.approx(log_q[:2].sum(), abs=1e-3)
    assert "direct, after 4 tokens of another book\n" in show_curves(tables)
    assert "--warm 4,1" in tables[0].attrs["command"] and "warm" not in plain.attrs["params"]
    curve = bipartite_mi(tables[0], "direct", warm=4)
    values = tables[0].eval("joint - warm_4").groupby(tables[0]["split"]).mean()
    np.testing.assert_allclose(curve["mi"], values)
    with pytest.raises(ValueError, match="not scored after 8 tokens, only as .*'warm_1', 'warm_4'"):
        bipartite_mi(tables[0], "direct", warm=8)
    both = bipartite_mi(tables[0], "direct", warm=4, bigram_entropy=9.0)
    more = tables[0].groupby("split")["head_4"].mean() + 9.0
    np.testing.assert_allclose(both["mi"], values + 0.8 * more)
    with pytest.raises(ValueError, match="such as 4,16,64, not '4;1'"):
        measure("tests/warm", warm="4;1", **about)


def test_command():
    params = {"corpus": "kjv", "length": 2048, "bos": 1}
    assert command_line("information", measure, "a/b", params) == (
        "l2m measure a/b --corpus kjv --bos 1"
    )
    assert command_line("missed", missed_terms, "a/b", params).startswith(
        "l2m measure a/b --what missed --corpus kjv"
    )


def test_costs_after_a_short_past_are_those_of_whole_passes():
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


def test_bytes_of_windows_are_those_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "recorded", lambda name, params, compute, command: compute())
    (tmp_path / "books").mkdir()
    rng, letters = np.random.default_rng(0), [*"eéaé北n ,🙂 "]
    for i in range(3):
        parts = ("It was. " + "".join(rng.choice(letters, 300)) for _ in range(8))
        (tmp_path / "books" / f"{i}.txt").write_text("\n\n".join(parts), encoding="utf-8")
    corpus = str(tmp_path / "books")
    table = window_bytes("tests/bytes", corpus, length=50, windows=6)
    assert table["tokens"].unique().tolist() == [2, 4, 8, 16, 32, 50]
    tokenizer, texts = module.models.load_tokenizer(), load_corpus(corpus).texts
    for row in table.itertuples():
        text = texts[row.book][row.start :]
        encoded = tokenizer([text], add_special_tokens=False)
        end = encoded.token_to_chars(0, row.tokens - 1).end
        assert abs(row.bytes - len(text[:end].encode())) <= 3  # of a character cut in two
    library(tmp_path / "library")
    with pytest.raises(ValueError, match="does not give back the text"):
        window_bytes("tests/b", str(tmp_path / "library"), words(tmp_path / "words"), 50, 6)
