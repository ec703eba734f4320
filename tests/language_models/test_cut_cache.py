"""A cache with a budget, against explicit masks over the whole sequence, and against `score`."""

import numpy as np
import pytest
import torch
from helpers import tiny

from l2m.language_models import cut_cache
from l2m.language_models.cut_cache import POLICIES, cut_scores, cuts_at, quantised
from l2m.language_models.scoring import partner_permutation, score

BUDGETS = (1, 3, "1/2", "1/4")


@pytest.fixture
def windows():
    return np.random.default_rng(0).integers(1, 97, (6, 64))


def cut(model, windows, budgets=BUDGETS, **options):
    return cut_scores(model, windows, budgets, progress=False, **options)


def by_masks(model, window, split, policy, size, bos=0):
    """log q(Y | X cut), of one window, by a mask over all of BOS, X and Y, or quantised in place.

    The mask of every layer and key/value head is another, so attention stands here in the open.
    """
    from transformers import AttentionInterface

    tokens = torch.cat([torch.tensor([bos]), torch.as_tensor(window[: 2 * split])])
    n, x = 2 * split, split + 1

    def attend(module, query, key, value, mask, scaling=None, **_):
        group = query.shape[1] // key.shape[1]
        out = torch.empty_like(query)
        for head in range(query.shape[1]):
            own = head // group
            k, v = key[0, own], value[0, own]
            weights = causal(query[0, :, :] @ key[0].repeat_interleave(group, 0).mT * scaling)
            shared = weights[own * group : (own + 1) * group, :x, :x]
            keep = sees(policy, size, x, shared)
            allowed = torch.ones(n, n, dtype=torch.bool).tril()
            allowed[x:, :x] = keep
            logits = (query[0, head] @ k.mT) * scaling
            out[0, head] = logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ v
            if policy == "bits":
                past = [torch.cat([by_hand(z[:x], size), z[x:]]) for z in (k, v)]
                logits = (query[0, head] @ past[0].mT) * scaling
                changed = logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ past[1]
                out[0, head, x:] = changed[x:]
        return out.transpose(1, 2), None

    AttentionInterface.register("by_masks", attend)
    before = model.config._attn_implementation
    model.set_attn_implementation("by_masks")
    logits = model(tokens[None, :-1]).logits[0].double().log_softmax(-1)
    model.set_attn_implementation(before)
    at = torch.arange(split, 2 * split)
    return float(logits[at, tokens[at + 1]].sum())


def causal(logits):
    n = logits.shape[-1]
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    return logits.masked_fill(future, -torch.inf).softmax(-1)


def sees(policy, size, n, weights):
    """Which of n entries a policy keeps (n,), from the weights (group, n, n) of X's own queries."""
    keep = torch.zeros(n, dtype=torch.bool)
    if policy == "bits":
        return ~keep
    heavy = weights.sum((0, 1))
    recent = {"window": size, "sink": size - 1, "h2o": size // 2, "snap": min(size // 2, 32)}
    if count := recent.get(policy, 0):
        keep[-count:] = True
    if policy == "sink":
        keep[0] = True
    if policy == "snap":
        heavy = weights[:, max(0, n - 32) :].sum((0, 1))
    if policy in ("heavy", "h2o", "snap"):
        order = heavy.masked_fill(keep, -1).argsort(descending=True)
        keep[order[: size - int(keep.sum())]] = True
    assert keep.sum() == size
    return keep


def by_hand(x, bits):
    low = x.min(-1, keepdim=True).values.half().float()
    step = (x.max(-1, keepdim=True).values - x.min(-1, keepdim=True).values) / (2**bits - 1)
    step = step.half().float()
    return torch.round((x - low) / step.clamp(min=1e-7)).clamp(0, 2**bits - 1) * step + low


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_cut_caches_are_explicit_masks(family, windows):
    model = tiny(family)
    found = cut(model, windows)
    cases = [(policy, 3) for policy in POLICIES] + [("bits", b) for b in (2, 4, 8)]
    cases += [(policy, 16) for policy in POLICIES]
    for split in (4, 32):
        for policy, size in cases:
            if size > split and policy != "bits":
                continue
            expected = [by_masks(model, window, split, policy, size) for window in windows[:2]]
            np.testing.assert_allclose(found[policy, split, size][:2], expected, atol=1e-4)


def test_whole_caches_and_marginals_are_those_of_score(windows):
    model, groups = tiny("llama"), np.arange(6) // 2
    found = cut(model, windows, warm=(3, 8), groups=groups)
    scores = score(model, windows, warm=(3, 8), groups=groups, progress=False)
    assert (scores.partners == partner_permutation(6, groups)).all()
    for split in scores.splits:
        own = scores.joint[:, split : 2 * split]
        np.testing.assert_allclose(found["full", split], own.sum(1), atol=1e-4)
        np.testing.assert_allclose(found["first", split], own[:, 0], atol=1e-5)
        marginal = scores.marginal[split].sum(1)
        np.testing.assert_allclose(found["warm", split, 0], marginal, atol=1e-4)
        for c in (3, 8):
            warm = scores.warm[split, c].sum(1)
            np.testing.assert_allclose(found["warm", split, c], warm, atol=1e-4)


def test_all_entries_are_the_whole_cache(windows):
    model = tiny("llama")
    tokens = torch.as_tensor(windows)
    cuts = {split: [(policy, split + 1) for policy in POLICIES] for split in (2, 8, 32)}
    found = cut_cache.cut_log_q(model, tokens, tokens, cuts, (), 0)
    for split, wanted in cuts.items():
        for policy, size in wanted:
            np.testing.assert_allclose(found[policy, split, size], found["full", split], atol=1e-4)


def test_pieces_batches_and_shards_change_nothing(windows, tmp_path, monkeypatch):
    expected = cut(tiny("llama"), windows, warm=(3,))
    monkeypatch.setattr(cut_cache, "WATCHED", {"cpu": 100})
    monkeypatch.setattr(cut_cache, "TOKENS", {"cpu": 1})
    found = cut(tiny("llama"), windows, warm=(3,), batch_size=2, folder=tmp_path)
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        np.testing.assert_allclose(found[key], x, atol=1e-4)
    sorted(tmp_path.glob("shard-*"))[1].unlink()  # as after a kill
    again = cut(tiny("llama"), windows, warm=(3,), batch_size=2, folder=tmp_path)
    assert len([*tmp_path.glob("shard-*")]) == 3
    for key, x in found.items():
        np.testing.assert_array_equal(again[key], x)
    with pytest.raises(RuntimeError, match="made with another .*cuts"):
        cut(tiny("llama"), windows, (2,), warm=(3,), batch_size=2, folder=tmp_path)


def test_cuts_are_budgets_or_shares_of_the_past():
    assert cuts_at(8, [3, 9, "1/4", "1/16", "2"], ["sink"], [4]) == [
        ("sink", 2),
        ("sink", 3),
        ("bits", 4),
    ]
    for wrong in ([0], ["-1/2"], ["many"]):
        with pytest.raises(ValueError, match=r"budget|Fraction"):
            cuts_at(8, wrong)
    with pytest.raises(ValueError, match="policies are window, sink.*, not best"):
        cuts_at(8, [2], ["best"])
    with pytest.raises(ValueError, match="1 to 8 bits, not 16"):
        cuts_at(8, [2], bits=[16])


def test_a_budget_beyond_the_past_is_refused(windows):
    with pytest.raises(ValueError, match="64 entries cuts nothing: X has 32 at most"):
        cut(tiny("llama"), windows, (4, 64))


@pytest.mark.parametrize(
    "family",
    ["mistral", "gemma3_text", "gemma2", "llama4_text", "mamba", "mamba2", "jamba", "bloom"],
)
def test_other_states_are_refused(family, windows):
    with pytest.raises(ValueError, match=f"a cut cache is for full attention.*{cut_cache.CURE}"):
        cut(tiny(family), windows)


def test_quantised_numbers_are_the_nearest_of_even_steps():
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    for bits in (1, 2, 4, 8):
        y = quantised(x, bits)
        assert all(len(row.unique()) <= 2**bits for row in y.flatten(0, 1))
        step = (x.amax(-1) - x.amin(-1)) / (2**bits - 1)
        assert ((x - y).abs().amax(-1) <= step / 2 + 3e-3).all()
    constant = torch.full((2, 64), 0.5)
    torch.testing.assert_close(quantised(constant, 2), constant)


def test_a_model_that_reads_its_cache_otherwise_is_not_trusted(windows, monkeypatch):
    monkeypatch.setattr(
        cut_cache, "lower_right", lambda q, k, _: torch.ones(q, k).bool().tril(k - q - 1)
    )
    with pytest.raises(RuntimeError, match="with all of its cache differs from a whole pass by"):
        cut(tiny("llama"), windows)
