"""The scoring engine against its naive twin: whole sequences through the model's own forward."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import FAMILIES, SMALL, VOCABULARY, assert_same, naive, tiny, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

from l2m.information.bipartite import window_mi, window_terms
from l2m.language_models import likelihood, packing
from l2m.language_models.packing import PackedAttention, layout
from l2m.language_models.scoring import (
    one_ahead,
    partner_permutation,
    powers_of_two,
    score,
    score_whole,
)
from l2m.text.corpora import Windows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_whole_passes(family):
    model, w = tiny(family), windows()
    best = FAMILIES[family][1]
    with warnings.catch_warnings():
        falls_back = family in ("gemma2", "mamba", "jamba", "recurrent_gemma")  # and says so
        warnings.simplefilter("ignore" if falls_back else "error", UserWarning)
        for splits, ratio in (([2, 4, 8], 3), ([1, 3, 12, 23], 4), (None, 2)):
            got = score(model, w, splits, ratio, progress=False)
            assert_same(got, score_whole(naive(model), w, splits or [2, 4, 8], ratio, got.partners))
    if best:
        with torch.inference_mode():
            score(model, w, progress=False, method=best)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_windows_may_be_as_long_as_the_context(family):
    """A learned position for each of T tokens: what follows the last is never asked for."""
    if family == "opt":
        sizes = {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
        model = OPTForCausalLM(OPTConfig(**sizes)).eval().requires_grad_(False)
    else:
        model = tiny(family)
    w = windows(3, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        got = score(model, w, progress=False)
    assert got.splits[-1] == 32  # the longest future ends where the context does
    assert_same(got, score_whole(naive(model), w, got.splits, 2, got.partners))


@pytest.mark.parametrize("family", ["llama", "mamba", "mamba2"])
def test_half_precision_agrees_within_its_rounding(family):
    model, w = tiny(family).to(torch.bfloat16), windows()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if family == "mamba" else "error", UserWarning)
        got = score(model, w, progress=False)
    own = score_whole(naive(model), w, got.splits, 2, got.partners)
    assert abs(got.joint - own.joint).mean() < 0.05
    assert abs(got.shuffled[8] - own.shuffled[8]).mean() < 0.05


def test_a_head_that_is_not_one_matrix_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    sizes = SMALL | {"intermediate_size": 48, "max_position_embeddings": 64, "is_decoder": True}
    model = BertLMHeadModel(BertConfig(**sizes)).eval()
    with pytest.raises(RuntimeError, match="whole scoring of BertLMHeadModel differs"):
        score(model, windows(), method="whole", progress=False)


def test_batches_order_and_more_partners_change_nothing():
    model, w = tiny("llama"), windows(6)
    one = score(model, w, n_partners=2, batch_size=1, progress=False)
    for other in (
        score(model, w, n_partners=2, batch_size=4, progress=False),
        score(model, w, method="whole", partners=one.partners, progress=False),
        score_whole(naive(model), w, [2, 4, 8], 2, one.partners),
    ):
        assert_same(one, other)
    assert one.shuffled[4].shape == (2, 6, 4)
    order = np.array([3, 5, 0, 1, 4, 2])
    moved = score(
        model, w[order], partners=np.argsort(order)[one.partners[:, order]], progress=False
    )
    np.testing.assert_allclose(moved.joint, one.joint[order], atol=1e-4)
    np.testing.assert_allclose(moved.shuffled[8], one.shuffled[8][:, order], atol=1e-4)


@pytest.fixture
def threads():
    """Sets how many threads torch uses."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_and_threads_agree_to_five_digits(family, threads):
    model, w = tiny(family), windows(6)
    threads(1)
    one = score(model, w, batch_size=1, progress=False)
    most = 1e-5 * abs(one.joint).max()
    for number, size in ((1, 6), (2, 4)):
        threads(number)
        assert_same(one, score(model, w, batch_size=size, progress=False), most)
    threads(1)
    again = score(model, w, batch_size=1, progress=False)
    assert_same(one, again, 0.0)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bloom", "mamba2"])
def test_a_future_is_priced_after_tokens_of_another_window(family):
    model, w = tiny(family), windows(5)
    got = score(model, w, [2, 4, 8], 3, warm=[3, 1], progress=False)
    plain = score(model, w, [2, 4, 8], 3, partners=got.partners, progress=False)
    assert_same(got, plain)
    assert set(got.warm) == {(split, c) for split in (2, 4, 8) for c in (1, 3)}
    for (split, c), values in got.warm.items():
        for row, partner in enumerate(got.partners):
            past, y = w[row, : min(c, split)], w[partner, split : 3 * split]
            expected = naive(model)(np.concatenate([past, y])[None])[0, len(past) :]
            np.testing.assert_allclose(values[partner], expected, atol=2e-4)
    np.testing.assert_array_equal(got.warm[2, 3][got.partners], got.shuffled[2])
    terms = window_terms(got)
    mine = window_mi(terms, "direct", warm=3)[4]
    assert mine.to_numpy() == pytest.approx(
        got.joint[:, 4:12].sum(1) - got.warm[4, 3].sum(1), abs=1e-4
    )
    more = score(model, w, [2, 4, 8], 3, warm=[1], n_partners=2, progress=False)
    assert more.warm.keys() == {(2, 1), (4, 1), (8, 1)}


def test_windows_of_a_corpus_bring_their_books():
    model, w = tiny("llama"), windows(4)
    books = Windows(w, np.array([0, 0, 1, 1]), np.zeros(4, int))
    scores = score(model, books, progress=False)
    assert_same(scores, score(model, w, groups=books.groups, progress=False))
    np.testing.assert_array_equal(scores.groups, books.groups)
    whole = score_whole(naive(model), books, [2, 4, 8])
    np.testing.assert_array_equal(whole.groups, books.groups)


def test_logits_are_made_in_chunks(monkeypatch):
    model, w = tiny("llama"), windows(2)
    whole = score(model, w, progress=False)
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 4 * VOCABULARY * 7)  # seven tokens at a time
    assert_same(score(model, w, progress=False), whole)


def test_a_wrong_way_is_noticed():
    model, w = tiny("mamba"), windows(2)
    with pytest.raises(RuntimeError, match="packed scoring of MambaForCausalLM"):
        score(model, w, method="packed", progress=False)
    with pytest.warns(UserWarning, match="prefix scoring"):
        score(model, w, progress=False)


def test_tokens_a_window():
    splits = powers_of_two(2048)
    assert splits == [2**k for k in range(1, 11)]
    assert layout(2048, splits, 2).length <= 6200
    assert layout(2048, powers_of_two(2048, 4), 4).length <= 8400


@pytest.mark.parametrize(
    ("length", "ratio", "partners", "window"),
    [(64, 2, 1, None), (300, 4, 1, None), (200, 3, 2, None), (300, 2, 1, 50)],
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_block_mask(length, ratio, partners, window):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    packed = PackedAttention(layout(length, powers_of_two(length), ratio, partners))
    ours, size = packed.block_mask(window, "cpu"), packed.layout.length
    theirs = create_block_mask(ours.mask_mod, None, None, size, size, device="cpu")
    assert ours.shape == theirs.shape
    for kind in ("kv", "full_kv"):
        counts = getattr(theirs, f"{kind}_num_blocks")
        assert torch.equal(getattr(ours, f"{kind}_num_blocks"), counts)
        for row, count in enumerate(counts[0, 0]):
            columns = [
                getattr(mask, f"{kind}_indices")[0, 0, row, :count] for mask in (ours, theirs)
            ]
            assert torch.equal(*columns)
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, size, 16, generator=rng) for heads in (4, 2, 2))
    flex = flex_attention(query, key, value, block_mask=ours, enable_gqa=True)
    torch.testing.assert_close(packed._branchwise(query, key, value, None, window), flex)


def test_every_shape_is_compiled(monkeypatch):
    def count(x):
        return x + torch.compiler.is_compiling()

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(recompile_limit=8):
        function = packing.compiled(count)
        assert all((function(torch.zeros(n)) == 1).all() for n in range(2, 30))


def test_the_next_batch_is_started_before_one_is_waited_for():
    events = []
    for item, value in one_ahead(lambda x: events.append(x) or 2 * x, [1, 2, 3]):
        events.append((item, value))
    assert events == [1, 2, (1, 2), 3, (2, 4), (3, 6)]
    assert not list(one_ahead(abs, []))


@pytest.mark.parametrize(("n", "d", "M"), [(130, 64, 300), (5, 128, 97), (128, 64, 256)])
def test_the_kernel_of_the_head_is_a_log_softmax(n, d, M):
    """Interpreted without a GPU; rows, vocabulary and targets at the ends of its tiles."""
    pytest.importorskip("triton")
    draw = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    hidden, weight = (torch.randn(k, d, generator=draw).to(DEVICE, dtype) for k in (n, M))
    targets = torch.randint(0, M, (n,), generator=draw).to(DEVICE)
    targets[:3] = torch.tensor([0, M - 1, M // 2])
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    got = likelihood.kernel_log_likelihood(hidden, weight, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, atol=1e-4, rtol=0)


def test_compiled_layers_with_flex_attention(monkeypatch):
    monkeypatch.setattr(PackedAttention, "takes_flex", staticmethod(lambda device: True))
    model, w = tiny("mistral"), windows()
    with torch.inference_mode():
        got = score(model, w, method="packed", compile_layers=True, check=0, progress=False)
    monkeypatch.undo()
    assert_same(got, score(model, w, method="whole", check=0, progress=False))


def test_a_model_laid_out_by_hugging_face(tmp_path, monkeypatch):
    from l2m.language_models.models import load_model

    tiny("llama").save_pretrained(tmp_path / "model")
    w = windows()
    expected = score(tiny("llama"), w, progress=False)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {"lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    for where in ({"device_map": "auto"}, {"device_map": places, "offload_folder": tmp_path}):
        model = load_model(str(tmp_path / "model"), "float32", **where)
        assert_same(score(model, w, progress=False), expected)
    last = model.model.layers[1]
    assert last.mlp.up_proj.weight.device.type == "meta"  # read when it is run
    monkeypatch.setattr("l2m.language_models.packing.compiled", lambda function: function)
    loading = last.forward
    with PackedAttention(layout(24, [2, 4, 8], 2), compile_layers=True).installed(model):
        assert last.forward is loading
        assert "forward" in vars(model.model.layers[0])
    assert last.forward is loading


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8),
    k=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_partners_are_permutations_between_books(sizes, k, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    n = len(groups)
    if n - 2 * max(sizes) + 1 < k:
        with pytest.raises(ValueError, match="partner"):
            partner_permutation(n, groups, k, seed)
        return
    partners = np.atleast_2d(partner_permutation(n, groups, k, seed))
    assert partners.shape == (k, n)
    for row in partners:
        assert sorted(row) == list(range(n))
        assert (groups[row] != groups).all()
    assert all(len(set(column)) == k for column in partners.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": windows(2, 65)}, "65 tokens exceed the model's context of 64"),
        ({"windows": windows(2) + VOCABULARY}, "vocabulary from 0 to 96"),
        ({"windows": windows(2) / 2}, "integers of shape"),
        ({"windows": windows(2), "splits": [24]}, "between 1 and 23"),
        ({"windows": windows(2, 3)}, "no split to score: windows of 3 tokens"),
        ({"windows": windows(2), "bos_token_id": -2}, "BOS token is from 0 to 96, not -2"),
        ({"windows": windows(2), "ratio": 1}, "ratio must be"),
        ({"windows": windows(3), "groups": [0, 0, 1]}, "more books"),
        ({"windows": windows(3), "groups": [0, 1]}, "groups has shape .2,., but there are 3"),
        ({"windows": windows(3), "partners": [0, 1, 3]}, "indices below 3"),
        ({"windows": windows(2), "warm": [0, 3]}, "each at least 1"),
        ({"windows": windows(3), "warm": [1], "partners": [1, 2, 1]}, "to be a permutation"),
        ({"windows": windows(2), "method": "fast"}, "unknown method 'fast'"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        score(tiny("llama"), progress=False, **options)


def test_a_model_without_bos_asks_for_one():
    model = tiny("llama")
    model.config.bos_token_id = None
    with pytest.raises(ValueError, match="bos_token_id"):
        score(model, windows(2), progress=False)
    score(model, windows(2), bos_token_id=3, progress=False)
