"""Models with power attention: GPT-NeoX where s = c = 1; trained, resumed, saved, scored."""

import numpy as np
import pytest
import torch

from l2m.experiments.gaussian import GaussianTask
from l2m.memory.history_state import history_state_dim
from l2m.training.loop import Training, evaluate_positions, train
from l2m.training.loss import token_loss
from l2m.training.networks import build_model

SIZES = {"layers": 2, "width": 32, "heads": 2, "attention_window": 2}
both = pytest.mark.parametrize("merge", ["fixed", "content"])


def of_vectors(s=0.5, **options):
    return build_model("power", dim=4, length=16, s=s, **SIZES | options)


def of_tokens(s=0.5, **options):
    return build_model("power", vocab_size=7, length=16, s=s, **SIZES | options)


class Cycle:
    """Tokens that count round from a random first one."""

    length = 16

    def about(self):
        return {"task": "cycle"}

    def batch(self, step, size, rows, device):
        first = np.random.default_rng(step).integers(1, 7, (size, 1))
        return (torch.as_tensor((first + np.arange(self.length))[rows] % 6 + 1),)

    def loss(self, model, tokens):
        return token_loss(model, tokens, 0)


def config(steps, **options):
    options = {"warmup_steps": 2, "learning_rate": 1e-2, "precision": "fp32"} | options
    return Training(steps=steps, batch_size=8, log_every=1, **options)


def test_with_s_and_c_of_one_it_is_the_rotary_gpt2():
    torch.manual_seed(0)
    plain = build_model("gpt2", vocab_size=11, length=30, layers=2, width=32, positions="rotary")
    power = build_model("power", vocab_size=11, length=30, layers=2, width=32, s=1, seed=1)
    missing, other = power.load_state_dict(plain.state_dict(), strict=False)
    assert {name.rsplit(".", 1)[1] for name in missing} == {"offsets"} and not other
    assert sum(p.numel() for p in power.parameters()) == sum(p.numel() for p in plain.parameters())
    tokens = torch.randint(11, (3, 30))
    torch.testing.assert_close(power(tokens).logits, plain(tokens).logits, atol=1e-5, rtol=1e-5)


@both
def test_a_vector_is_predicted_from_those_before_it(merge):
    model, z = of_vectors(merge=merge), torch.randn(2, 16, 4)
    changed = z.clone()
    changed[:, 9] += 1
    for before, after in zip(model(z), model(changed), strict=True):
        assert torch.equal(before[:, :10], after[:, :10])
        assert (before[:, 10:] - after[:, 10:]).abs().max() > 1e-4


def test_the_state_is_that_of_the_caches_of_its_layers():
    model = of_vectors(s=0.79, slots=2, base=4, head_dim=6)
    assert history_state_dim(model, 13) == history_state_dim(model.config.to_dict(), 13)
    layers = [layer.attention for layer in model.backbone.layers]
    assert history_state_dim(model, 13) == sum(layer.cache(1, 13).numel() for layer in layers)


@both
def test_it_learns_vectors_and_resumes_to_the_same_weights(merge, tmp_path):
    task, first = GaussianTask("sub-volume", 2, copies=4), of_vectors(merge=merge)
    batch = [task.held_out(0, 64, "cpu")]
    before = evaluate_positions(first, task, batch).mean()
    whole = config(30, save_every=15)
    train(first, task, whole, tmp_path, progress=False)
    assert evaluate_positions(first, task, batch).mean() < before - 0.01
    for path in tmp_path.glob("step-00000030*"):
        path.unlink()
    again = of_vectors(merge=merge)
    train(again, task, whole, tmp_path, progress=False)
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name
    with pytest.raises(RuntimeError, match="slots"):
        train(of_vectors(merge=merge, slots=3), task, whole, tmp_path, progress=False)


@both
def test_it_learns_tokens(merge):
    table = train(of_tokens(merge=merge), Cycle(), config(30), progress=False)
    assert table.loss.iloc[-1] < 0.5 * table.loss.iloc[0]


@both
def test_saved_and_loaded_it_gives_the_same_numbers(merge, tmp_path):
    from transformers import AutoModelForCausalLM

    model, tokens = of_tokens(s=0.79, slots=2, merge=merge).eval(), torch.randint(7, (2, 16))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.s == 0.79 and loaded.config.slots == 2
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_it_is_scored_whole_sequence_by_whole_sequence():
    from l2m.language_models.scoring import score

    windows = np.random.default_rng(0).integers(1, 7, (6, 12))
    with pytest.warns(UserWarning, match="another way"):
        scores = score(of_tokens().eval(), windows, [6], bos_token_id=0)
    expected = score(of_tokens().eval(), windows, [6], bos_token_id=0, method="whole")
    np.testing.assert_allclose(scores.joint, expected.joint, atol=1e-6)


def test_padding_and_other_caches_are_refused():
    model, tokens = of_tokens().eval(), torch.ones(1, 8, dtype=torch.long)
    padded = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="takes no mask: pass sequences without padding"):
        model(tokens, attention_mask=padded)
    with pytest.raises(ValueError, match="pass use_cache=False"):
        model(tokens, use_cache=True)
    with pytest.raises(ValueError, match="40 tokens are more than the model's length"):
        model(torch.ones(1, 40, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass s=…"),
        ({"s": 2}, "between 0 and 1"),
        ({"s": 0.5, "slots": 0}, "positive number"),
        ({"s": 0.5, "heads": 3}, "3 heads do not divide"),
        ({"s": 0.5, "merge": "magic"}, "one of fixed, content"),
        ({"s": 0.5, "colour": 1}, "'power' takes no colour"),
        ({"s": 0.5, "state": 3}, "no d_state"),
        ({"s": 0.5, "positions": "rotary"}, "of a gpt2 alone"),
        ({"name": "gpt2", "s": 0.5}, "'gpt2' takes no s"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"name": "power", "dim": 2, "layers": 1, "width": 32} | arguments)
