"""From a corpus to the two tables, with a tiny model."""

import numpy as np
import pytest
from helpers import naive, tiny
from l2m.experiments.context import past_terms
from l2m.language_models.word_cache import missed_terms

from l2m.experiments import measure as module
from l2m.experiments.measure import command_line, identity, measure
from l2m.information.bipartite import clustered_stderr, window_terms
from l2m.language_models.scoring import powers_of_two, score_whole
from l2m.text.corpora import Windows


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
    from l2m.language_models.scoring import partner_permutation

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
    monkeypatch.setattr(
        "l2m.language_models.likelihood.hidden_states", None
    )  # nothing is scored again
    table = missed_terms("tests/missed", **about)
    assert sorted(table["split"].unique()) == [2, 4, 8]
    assert "--length 16" in table.attrs["command"]


def test_fewer_documents(corpus):
    about = {"corpus": "pg19", "length": 8, "windows": 6, "dtype": "float32"}
    terms, _ = measure("tests/few", documents=3, **about)
    assert corpus[1] == [3]
    assert terms.attrs["params"]["documents"] == 3
    assert "--documents 3" in terms.attrs["command"]
    assert "documents" not in identity("pg19", "m")


def test_command_line(corpus, capsys):
    about = ["--corpus", "made-up", "--length", "16", "--windows", "12", "--bos", "0"]
    assert module.run("measure", measure, module.show_curves, ["mine", *about]) == 0
    assert "direct" in capsys.readouterr().out
    for wrong, sentence in {
        ("--windows", "11", "--partners", "20"): "11 windows, 2 of them",
        ("--partners", "0"): "at least one partner, not 0",
        ("--ratio", "1"): "ratio must be",
        ("--largest-split", "1"): "no split to score",
        ("--bos", "97"): "BOS token is from 0 to 96, not 97",
    }.items():
        assert module.run("measure", measure, module.show_curves, ["mine", *about, *wrong]) == 2
        out, error = capsys.readouterr()
        assert not out and sentence in error and error.startswith("l2m: ")
    for wrong in (["--seed", "-1"], ["--windows", "many"]):
        with pytest.raises(SystemExit, match="2"):
            module.run("measure", measure, module.show_curves, ["mine", *about, *wrong])
        assert "takes an integer from 0" in capsys.readouterr().err


@pytest.mark.parametrize("function", [measure, past_terms, missed_terms])
def test_every_option_is_explained(function, capsys):
    with pytest.raises(SystemExit, match="0"):
        module.run("any", function, None, ["--help"])
    assert "token id that sequences start with" in capsys.readouterr().out


def test_command():
    params = {"corpus": "kjv", "length": 2048, "bos": 1}
    assert command_line("measure", measure, "a/b", params) == (
        "python -m l2m.experiments.measure a/b --corpus kjv --bos 1"
    )
