"""Models built by name: the published sizes, and vectors in place of tokens."""

import pytest
import torch

from l2m.memory.history_state import history_state_dim
from l2m.training.networks import SIZES, build_model


@pytest.mark.parametrize(
    ("name", "vocab_size", "length", "parameters"),
    [
        ("gpt2", 50257, 1023, 124_439_808),
        ("gpt2-medium", 50257, 1023, 354_823_168),
        ("mamba-130m", 50280, 1024, 129_135_360),
        ("mamba-370m", 50280, 1024, 371_516_416),
        ("mamba2-130m", 50288, 1024, 128_989_632),
    ],
)
def test_published_models_have_their_published_sizes(name, vocab_size, length, parameters):
    with torch.device("meta"):
        model = build_model(name, vocab_size=vocab_size, length=length)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_size_of_the_paper_is_known():
    assert SIZES["gpt2-large"] == (36, 1280)
    assert SIZES["mamba-1.4b"] == (48, 2048)


@pytest.mark.parametrize("family", ["gpt2", "mamba", "mamba2"])
def test_a_vector_is_predicted_from_those_before_it(family):
    model = build_model(family, dim=3, length=8, layers=2, width=32).train()
    z = torch.randn(2, 8, 3)
    changed = z.clone()
    changed[:, 5] += 1
    before, after = model(z), model(changed)
    for a, b in zip(before, after, strict=True):
        assert a.shape == (2, 8, 3)
        assert torch.allclose(a[:, :6], b[:, :6], atol=1e-6)
        assert (a[:, 6:] - b[:, 6:]).abs().max() > 1e-4
    assert (before[1] > 0).all()


def test_a_window_bounds_what_is_seen_and_the_state():
    model = build_model("gpt2", dim=2, length=12, layers=2, width=16, window=3)
    z = torch.randn(1, 12, 2, generator=torch.Generator().manual_seed(0))
    changed = z.clone()
    changed[:, 0] += 1
    difference = (model(z)[0] - model(changed)[0]).abs().sum((0, 2))
    reach = 1 + 2 * (3 - 1)  # the shift by BOS, then layers × (window − 1)
    assert difference[reach] > 1e-7
    assert (difference[reach + 1 :] == 0).all()
    assert history_state_dim(model.config, 1000) == 2 * 2 * 16 * (3 - 1)


def test_weights_follow_the_seed():
    first, same, other = (
        build_model("mamba", dim=2, layers=1, width=16, seed=s) for s in (0, 0, 1)
    )
    a, b, c = (m.backbone.layers[0].mixer.in_proj.weight for m in (first, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gpt3", "vocab_size": 5}, "unknown model 'gpt3'"),
        ({"name": "mamba", "vocab_size": 5}, "pass layers=… and width=…"),
        ({"name": "gpt2"}, "vocab_size=M"),
        ({"name": "gpt2", "vocab_size": 5, "state": 3}, "no d_state"),
        ({"name": "mamba-130m", "dim": 5, "window": 3}, "only a gpt2"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**arguments)
