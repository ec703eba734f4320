"""Models behind a server: against the definition, and servers that misbehave.

`L2M_TEST_SERVER` may name the URL of a real one, which serves the embedded model as smollm2-135m.
"""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import assert_same, naive, windows
from stub_server import Tokenizer, model, serving

from l2m.files import ROOT
from l2m.information.bipartite import bipartite_mi
from l2m.language_models import served
from l2m.language_models.scoring import score, score_whole
from l2m.language_models.served import ServedModel
from l2m.language_models.trust import UntrustedModel


def connected(stub, name="tiny", **options):
    options = {"requests": 4, "attempts": 4, "pause": 0.01, "timeout": 10} | options
    return ServedModel(stub.url, name, Tokenizer(), **options)


def scored(stub, w=None, **options):
    w = windows() if w is None else w
    return score(connected(stub), w, progress=False, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vllm", {}),
        ("vllm", {"scale_out": True}),
        ("vllm", {"scale_out": True, "noise": False}),
        ("sglang", {}),
        ("llamacpp", {}),
        ("somebody", {}),
    ],
)
def test_every_way_gives_what_the_model_says(kind, options):
    w = windows()
    with serving(kind, **options) as stub:
        server = connected(stub)
        for splits, ratio, k in (([2, 4, 8], 2, 2), ([1, 3, 12, 23], 4, 1)):
            got = score(server, w, splits, ratio, n_partners=k, progress=False)
            assert_same(got, score_whole(naive(model()), w, splits, ratio, got.partners))
    assert (server.cached > 0) == ("scale_out" in options)
    assert bipartite_mi(got, "vclub").mi.notna().all()


def test_a_past_that_is_cached_is_not_read_again():
    w = windows(6)
    with serving(scale_out=True) as stub:
        server = connected(stub)
        score(server, w, [4, 8, 12], check=0, progress=False)
    # of BOS and four, eight, twelve tokens of X all whole blocks, but none of Y
    assert server.cached == 6 * (4 + 8 + 12)
    assert server.asked == 6 * (25 + (5 + 4 + 9 + 8 + 13 + 12) + (1 + 4 + 1 + 8 + 1 + 12))


def test_a_continuation_that_is_cached_is_read_again():
    """Asked twice for the same, vLLM would tell noise of all but the last block."""
    with serving(scale_out=True) as stub:
        server, w = connected(stub), windows(1)[0]
        first = server.log_q([0, *w[:8]], w[8:])
        np.testing.assert_array_equal(server.log_q([0, *w[:8]], w[8:]), first)
    np.testing.assert_allclose(first, naive(model())(w[None])[0, 8:], atol=1e-4)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "somebody"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("trims", r"read \d+ tokens where \d+ were sent.*without what trims"),
        ("adds BOS", r"read \d+ tokens where \d+ were sent"),
        ("template", r"read \d+ tokens where \d+ were sent"),
        ("likeliest", r"nothing of token \d+ .id \d+.*, but of \[\d+\]"),
        ("other ids", r"nothing of token \d+ .id \d+.*, but of \[\d+\]"),
        ("nan", "is nan, not a finite number"),
        ("clamped", "is -9999.0, not a finite number"),
        ("positive", "is 0.5, not a finite number"),
        ("hot", "is not what it predicts next .log q of a token is off by"),
        ("predicts nothing", "is not what it predicts next .log q of a token is off by inf"),
    ],
)
def test_an_answer_that_is_no_log_likelihood_is_refused(kind, fault, message):
    with serving(kind, fault) as stub, pytest.raises(UntrustedModel, match=message):
        scored(stub)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "somebody"])
def test_a_log_probability_that_is_left_out_is_noticed(kind):
    with serving(kind, "drops the first") as stub, pytest.raises(UntrustedModel):
        scored(stub)


@pytest.mark.parametrize("kind", ["vllm", "somebody"])
def test_a_server_that_tells_nothing_of_prompts_is_refused(kind):
    with (
        serving(kind, "tells nothing") as stub,
        pytest.raises(UntrustedModel, match="tells no log-probabilities.*take vLLM"),
    ):
        scored(stub)


@pytest.mark.parametrize("fault", [429, 500, 503, "closed", "cut", "late"])
def test_what_passes_is_tried_again(fault):
    with serving(fault=lambda number: fault if number in (2, 5, 6) else None) as stub:
        w, server = windows(2), connected(stub, timeout=0.5 if fault == "late" else 10)
        got = score(server, w, [4, 8], check=0, progress=False)
    assert stub.asked == 1 + 2 * 5 + 3  # the first to see what it can do
    assert_same(got, score_whole(naive(model()), w, [4, 8], 2, got.partners))


def test_what_does_not_pass_is_said():
    with serving(fault=lambda number: 503) as stub:
        with pytest.raises(RuntimeError, match="gives no answer .*503.*run this again"):
            scored(stub)
        stub.fault = lambda number: 400
        asked = stub.asked
        with pytest.raises(ValueError, match=r"refuses: .*400.*no"):
            scored(stub)
        assert stub.asked <= asked + 2  # not tried again
        stub.fault = lambda number: 401
        with pytest.raises(ValueError, match="refuses: .*401.*L2M_SERVER_KEY"):
            scored(stub)
    with pytest.raises(RuntimeError, match="gives no answer.*see that the server runs"):
        scored(stub)


def test_another_model_or_tokenizer_is_refused():
    with serving() as stub:
        assert connected(stub, "/there").name == "tiny"  # where it was loaded from
        with pytest.raises(ValueError, match="serves tiny, not large: name one of these"):
            connected(stub, "large")
        bad = "localhost", "ftp://x", "http://", "http://x:abc", "http://x:99999", "http://[::1"
        for url in (*bad, "http://a b", "http://x\n", "http://me:secret@localhost:1"):
            with pytest.raises(ValueError, match="such as http://localhost:8000") as caught:
                ServedModel(url, "tiny", Tokenizer())
            assert "secret" not in str(caught.value)
        stub.fault = "tokenizer"
        with pytest.raises(ValueError, match="makes other ids of a sample"):
            connected(stub)


def test_windows_fit_the_servers_context_and_vocabulary():
    with serving() as stub:
        with pytest.raises(ValueError, match="65 tokens exceed the model's context of 64"):
            scored(stub, windows(2, 65))
        with pytest.raises(ValueError, match="vocabulary from 0 to 96"):
            scored(stub, windows() + 97)
        scored(stub, windows(2, 64), splits=[2], check=1)


def test_a_run_that_broke_off_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(served, "SHARD", 2)
    w, options = windows(8), {"splits": [4], "check": 0, "folder": tmp_path}
    with serving(fault=lambda number: 500 if number > 15 else None) as stub:
        with pytest.raises(RuntimeError, match="what was scored is kept"):
            scored(stub, w, **options)
        kept = len(list(tmp_path.glob("shard-*")))
        assert 0 < kept < 4
        stub.fault, before = "", stub.asked
        got = scored(stub, w, **options)
        assert stub.asked - before - 1 == (8 - 2 * kept) * 3  # and one to see what it can do
        assert_same(got, score_whole(naive(model()), w, [4], 2, got.partners))
        assert_same(scored(stub, w, **options), got, 0)
        monkeypatch.setattr(ServedModel, "log_q", None)  # nothing is asked of a finished folder
        assert_same(scored(stub, w, **options), got, 0)
        stub.kind = "sglang"
        with pytest.raises(RuntimeError, match="made with another model"):
            scored(stub, w, **options)


@pytest.mark.skipif("L2M_TEST_SERVER" not in os.environ, reason="no L2M_TEST_SERVER")
def test_a_real_server_agrees_with_the_model_here():
    from l2m.language_models.models import load_model, load_tokenizer
    from l2m.text.corpora import load_corpus

    tokenizer = load_tokenizer()
    w = load_corpus("kjv").windows(tokenizer, 128, 4, 0)
    server = ServedModel(os.environ["L2M_TEST_SERVER"], "smollm2-135m", tokenizer)
    got, here = (score(m, w, progress=False) for m in (server, load_model()))
    off = got.joint - here.joint
    assert abs(off).mean() < 0.1  # llama.cpp's 4-bit arithmetic; in float32 1e-4
    assert abs(off.mean()) < 0.02
    for estimator in ("direct", "vclub"):
        off = bipartite_mi(got, estimator).mi - bipartite_mi(here, estimator).mi
        assert abs(off).max() < 1.0


# answers that are none


ODD = [None, [], "no", 5, True, {}, {"data": None}, {"data": [5]}, {"data": [{"root": 1}]}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_is_no_server_of_models_is_refused(odd):
    with serving() as stub:
        stub.answer = lambda path, body: odd
        with pytest.raises((ValueError, RuntimeError)) as caught:
            connected(stub)
    assert re.search("gives no answer|is no server of language models", str(caught.value))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"total_slots": "many"}, "is no server of language models"),
        ({"total_slots": 0}, ""),
        ({"max_model_len": "long"}, "is no server of language models"),
        ({"max_model_len": None, "meta": 7}, "is no server of language models"),
        ({"meta": {"n_vocab": "97"}}, ""),
    ],
)
def test_what_a_server_says_of_itself_may_be_odd(about, said):
    with serving("llamacpp") as stub:

        def answer(path, body, usual=stub.answer):
            found = usual(path, body)
            if path == "/v1/models":
                found["data"][0] |= about
            return found | about if path == "/props" else found

        stub.answer = answer
        if said:
            with pytest.raises(ValueError, match=said):
                connected(stub)
        else:
            assert scored(stub, windows(2), splits=[4]).splits == [4]


VALUES = [None, "low", [], {}, True, False, -1e400, 10**400, "-1.5"]


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "somebody"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:9])
def test_a_log_probability_of_another_type_is_refused(kind, value):
    with serving(kind) as stub:

        def told(prompt, usual=stub.told):
            return [entry and dict.fromkeys(entry, value) for entry in usual(prompt)]

        stub.told = told
        with pytest.raises(UntrustedModel):
            scored(stub)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp", "somebody"])
def test_answers_cut_to_pieces_are_refused_in_a_sentence(kind, record_property):
    """Any part of any answer may be missing, or of another type."""
    record_property("tried", 60)

    def breaking(usual, number, rng):
        calls = itertools.count()

        def answer(path, body):
            found = usual(path, body)
            return broken(found, rng) if next(calls) == number else found

        return answer

    def broken(value, rng):
        if isinstance(value, dict) and value and rng.integers(4):
            key = list(value)[rng.integers(len(value))]
            return value | {key: broken(value[key], rng)}
        if isinstance(value, list) and value and rng.integers(4):
            i = rng.integers(len(value))
            return [*value[:i], broken(value[i], rng), *value[i + 1 :]]
        return [None, [], {}, "x", -7, {"a": 1}, [[]]][rng.integers(7)]

    w = windows(2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        with serving(kind) as stub:
            stub.answer = breaking(stub.answer, int(rng.integers(12)), rng)
            try:
                got = scored(stub, w, splits=[4], check=1)
            except (ValueError, RuntimeError) as error:
                assert stub.url in str(error) and "\n" not in str(error), seed
            else:  # what was broken is not used
                assert_same(got, score_whole(naive(model()), w, [4], 2, got.partners))


def test_a_key_is_for_its_server_and_is_never_shown(monkeypatch):
    seen = []
    with serving() as stub, serving() as other:

        def answer(path, body, usual=stub.answer):
            return 302 if path == "/version" else usual(path, body)

        stub.answer = answer
        other.answer = lambda path, body: seen.append(path) or {"version": "1"}
        stub.location = other.url + "/version"
        with pytest.raises(ValueError, match="refuses: .*302"):
            connected(stub)
    assert not seen
    for key in ("sk-secret\nX: y", "sk-secret…", "sk-\x07secret"):
        monkeypatch.setenv(served.KEY, key)
        with serving() as stub, pytest.raises(ValueError, match="L2M_SERVER_KEY holds") as caught:
            connected(stub)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv(served.KEY, "sk-secret\n")  # as a file gives it
    with serving() as stub:
        connected(stub)


WAITING = """
import sys
import l2m.cli
from l2m.language_models.served import ServedModel
from stub_server import Tokenizer
from l2m.language_models.scoring import score
from helpers import windows

def main(**_):
    served = ServedModel(sys.argv[1], "tiny", Tokenizer(), timeout=300)
    score(served, windows(), splits=[4], check=0, folder=sys.argv[2])

l2m.cli.main = main
import l2m.__main__
sys.exit(l2m.__main__.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_does_not_wait_for_a_server(tmp_path, number):
    hangs, asked = threading.Event(), threading.Event()
    with serving() as stub:

        def answer(path, body, usual=stub.answer):
            if path == "/v1/completions" and len(body["prompt"]) > 5:
                asked.set()
                hangs.wait(60)
            return usual(path, body)

        stub.answer = answer
        here = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), str(ROOT)])
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, stub.url, str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": here},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert asked.wait(60)
        process.send_signal(number)
        start = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - start < 20
        hangs.set()
    assert process.returncode == 128 + number and "l2m: stopped; what" in said
