"""The training loop: what it computes, and that a kill or a second process changes nothing."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import flip

from l2m.training import networks
from l2m.training.acceleration import flops_per_token
from l2m.training.loop import Training, evaluate_positions, train
from l2m.training.loss import token_loss, token_values
from l2m.training.networks import build_model

SIZES = {
    "gpt2": {"layers": 2, "width": 16},
    "mamba": {"layers": 1, "width": 16, "state": 4},
    "mamba2": {"layers": 1, "width": 32, "state": 8},
}


class Copying:
    """Tokens of which every other repeats the one before: half of the loss can be learned away."""

    length, vocab_size = 12, 7

    def __init__(self, fail_at=None, seed=5):
        self.fail_at, self.seed = fail_at, seed

    def about(self):
        return {"task": "copying", "seed": self.seed}

    def batch(self, step, size, rows, device):
        if step == self.fail_at:
            raise KeyboardInterrupt
        rng = np.random.default_rng([self.seed, step])
        tokens = rng.integers(1, self.vocab_size, (size, self.length // 2)).repeat(2, axis=1)
        return (torch.as_tensor(tokens[rows], device=device),)

    def loss(self, model, tokens):
        return token_loss(model, tokens, 0)

    def values(self, model, tokens):
        return token_values(model, tokens, 0)


def small(family, seed=0):
    return build_model(
        family, vocab_size=Copying.vocab_size, length=Copying.length, seed=seed, **SIZES[family]
    )


CONFIG = Training(
    steps=6, batch_size=4, warmup_steps=2, learning_rate=1e-2, precision="fp32", log_every=2
)


@pytest.mark.parametrize("family", SIZES)
def test_values_are_those_of_the_logits(family):
    model, task = small(family).train(), Copying()
    (tokens,) = task.batch(0, 3, slice(None), "cpu")
    inputs = torch.cat([torch.zeros_like(tokens[:, :1]), tokens], 1)[:, :-1]
    log_q = model(inputs, use_cache=False).logits.log_softmax(-1)
    expected = -log_q.gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(token_values(model, tokens, 0), expected.detach())
    torch.testing.assert_close(token_loss(model, tokens, 0), expected.mean())


@pytest.mark.parametrize("family", ["gpt2", "mamba"])
def test_a_killed_run_resumes_to_the_very_same_weights(family, tmp_path):
    whole = small(family)
    table = train(whole, Copying(), CONFIG, progress=False)
    config = Training(**{**vars(CONFIG), "save_every": 2})
    with pytest.raises(KeyboardInterrupt):
        train(small(family), Copying(fail_at=5), config, tmp_path, progress=False)
    resumed = small(family)
    again = train(resumed, Copying(fail_at=3), config, tmp_path, progress=False)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    columns = ["step", "tokens", "loss", "learning_rate", "grad_norm"]
    pd.testing.assert_frame_equal(table[columns], again[columns], check_exact=True)
    restored = small(family)  # by a run that has nothing left to do
    train(restored, Copying(fail_at=0), config, tmp_path, progress=False)
    values = [
        evaluate_positions(m, Copying(), [Copying().batch(9, 3, slice(None), "cpu")])
        for m in (whole, restored)
    ]
    np.testing.assert_array_equal(*values)


def test_a_deadline_stops_at_a_checkpoint_and_a_watch_is_asked(tmp_path):
    asked = []
    options = {"watch": lambda model: len(asked.append(model) or asked), "watch_every": 3}
    table = train(small("gpt2"), Copying(), CONFIG, tmp_path, progress=False, deadline=0, **options)
    assert table.step.tolist() == [1]
    table = train(small("gpt2"), Copying(), CONFIG, tmp_path, progress=False, **options)
    assert table.step.tolist() == [1, 2, 3, 4, 6]
    assert table.watched.dropna().tolist() == [1, 2]
    assert table.loc[table.watched.notna(), "step"].tolist() == [3, 6]


@pytest.mark.parametrize("place", [0, 20, -100], ids=["length", "header", "tensors"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, place):
    config = Training(**{**vars(CONFIG), "save_every": 2})
    table = train(small("gpt2"), Copying(), config, tmp_path, progress=False)
    before, last = sorted(tmp_path.iterdir())
    flip(last, place)
    resumed = small("gpt2")
    with pytest.warns(UserWarning, match="step-00000006-.* is damaged; going on without"):
        again = train(resumed, Copying(fail_at=3), config, tmp_path, progress=False)
    assert again.loss.tolist() == table.loss.tolist()
    assert before in tmp_path.iterdir() and last not in tmp_path.iterdir()


@pytest.mark.filterwarnings("ignore:step-0000000.* is damaged")
def test_of_damaged_checkpoints_nothing_is_taken_and_later_ones_are_kept(tmp_path):
    config = Training(**{**vars(CONFIG), "save_every": 2})
    table = train(small("gpt2"), Copying(), config, tmp_path, progress=False)
    for file in tmp_path.iterdir():
        flip(file, -100)
    with pytest.raises(KeyboardInterrupt):  # begun anew, from weights that nothing has touched
        train(small("gpt2"), Copying(fail_at=3), config, tmp_path, progress=False)
    again = train(small("gpt2"), Copying(fail_at=1), config, tmp_path, progress=False)
    assert again.loss.tolist() == table.loss.tolist()


class Shifting(Copying):
    """Another family of data."""

    def about(self):
        return {"task": "shifting", "seed": self.seed}


class Nameless:
    """Data that do not say what they are."""

    length, batch, loss = Copying.length, Copying.batch, Copying.loss


@pytest.mark.parametrize(
    ("model", "task", "change", "differing"),
    [
        ("gpt2", Copying(seed=6), {}, "seed"),
        ("gpt2", Shifting(), {}, "task"),
        ("gpt2 from other weights", Copying(), {}, "sha256"),
        ("mamba", Copying(), {}, ".*model_type.*"),
        ("gpt2", Copying(), {"learning_rate": 1e-3}, "learning_rate"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, model, task, change, differing):
    train(small("gpt2"), Copying(), CONFIG, tmp_path, progress=False)
    family, *other = model.split()
    config = Training(**{**vars(CONFIG), **change})
    with pytest.raises(RuntimeError, match=f"another run .differs in {differing}."):
        train(small(family, seed=len(other)), task, config, tmp_path, progress=False)


def test_a_task_must_name_itself_to_be_kept(tmp_path):
    with pytest.raises(TypeError, match="Nameless cannot say what identifies its data: give it"):
        train(small("gpt2"), Nameless(), CONFIG, tmp_path, progress=False)


def test_a_trained_model_still_sees_its_mask():
    """While it trains it attends without one; what padding holds must not matter afterwards."""
    model = small("gpt2")
    train(model, Copying(), CONFIG, progress=False)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    ids = torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5], [6, 5, 4, 1, 2, 3, 4, 5]])
    logits = model(ids, attention_mask=mask.expand(2, -1), position_ids=places).logits[:, 3:]
    torch.testing.assert_close(logits[0], logits[1])


def test_losses_that_are_not_finite_are_refused():
    model, task = small("gpt2"), Copying()
    batch = task.batch(0, 3, slice(None), "cpu")
    with torch.no_grad():
        model.transformer.wpe.weight[4] = float("nan")
    with pytest.raises(RuntimeError, match="the loss of sequence 0 at position 0 is nan"):
        evaluate_positions(model, task, [batch], "fp32")


def test_the_loss_falls_to_what_cannot_be_known():
    model, task = small("gpt2"), Copying()
    config = Training(
        steps=150, batch_size=32, warmup_steps=10, learning_rate=1e-2, precision="fp32"
    )
    table = train(model, task, config, progress=False)
    assert table.attrs["tokens"] == 150 * 32 * 12
    values = evaluate_positions(model, task, [task.batch(10**6, 64, slice(None), "cpu")], "fp32")
    new, copied = values[:, ::2].mean(), values[:, 1::2].mean()
    assert new == pytest.approx(np.log(6), abs=0.05)
    assert copied < 0.1


def test_parts_of_a_batch_add_up_to_the_batch():
    config = Training(**{**vars(CONFIG), "gradient_accumulation_steps": 2})
    whole, parts = (train(small("gpt2"), Copying(), c, progress=False) for c in (CONFIG, config))
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-5)
    np.testing.assert_allclose(parts.grad_norm, whole.grad_norm, rtol=1e-4)


def test_threads_of_torch_agree_to_five_digits():
    before, losses = torch.get_num_threads(), []
    try:
        for number in (1, 3, 1):
            torch.set_num_threads(number)
            losses.append(train(small("gpt2"), Copying(), CONFIG, progress=False).loss)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[2].tolist() == losses[0].tolist()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys; sys.path[:0] = sys.argv[1:4]\n"
        "import torch; torch.set_num_threads(1)\n"
        "from test_loop import CONFIG, Copying, small, train\n"
        "table = train(small('gpt2'), Copying(), CONFIG, device='cpu', progress=False)\n"
        "if int(os.environ.get('RANK', 0)) == 0: table.to_parquet(sys.argv[4])\n"
    )
    here = os.path.dirname(__file__)
    root = os.path.dirname(os.path.dirname(here))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(script), root, here, os.path.dirname(here), str(tmp_path / "two.parquet")]
    subprocess.run([*torchrun, *arguments], check=True, env=environment, timeout=120)
    one = train(small("gpt2"), Copying(), CONFIG, device="cpu", progress=False)
    two = pd.read_parquet(tmp_path / "two.parquet")
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(two.grad_norm, one.grad_norm, rtol=1e-4)


def test_rates_rise_and_fall():
    rates = [CONFIG.rate_at(step) for step in range(6)]
    assert rates[:3] == pytest.approx([0.005, 0.01, 0.01])
    assert rates[-1] == pytest.approx(0.01 * (1 + np.cos(np.pi * 3 / 4)) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 5, "gradient_accumulation_steps": 2}, "does not divide"),
        ({"graph": True}, "needs one process and a GPU"),
        ({"precision": "fp8"}, "'bf16' or 'fp32'"),
        ({"learning_rate": 1e30}, "the loss is nan at step 2: lower the learning rate"),
        ({"steps": 0}, "steps is a whole number, at least 1, not 0"),
        ({"batch_size": 2.0}, "batch_size is a whole number, at least 1, not 2.0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is .* at least 1"),
        ({"save_every": -1}, "save_every is a whole number, at least 0, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate is a number, at least 0, not nan"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        config = Training(**{**vars(CONFIG), **change})
        train(small("gpt2"), Copying(), config, device="cpu", progress=False)


@pytest.mark.parametrize("fault", [1.0, 1.5, float("nan")])
def test_a_compiler_that_errs_is_found_before_the_first_step(fault):
    model = small("gpt2")
    layer = model.transformer.h[0]
    layer.mlp.register_forward_hook(
        lambda module, inputs, out: out * fault if torch.compiler.is_compiling() else None
    )
    layer.compile = lambda: torch.nn.Module.compile(layer, backend="eager")
    model.transformer.h[1].compile = lambda: None
    config, before = Training(**{**vars(CONFIG), "compile": True}), layer.mlp.c_fc.weight.clone()
    if fault == 1.0:
        train(model, Copying(), config, device="cpu", progress=False)
        assert not torch.equal(layer.mlp.c_fc.weight, before)
        return
    with pytest.raises(RuntimeError, match="the compiler errs; train with compile=False"):
        train(model, Copying(), config, device="cpu", progress=False)
    assert torch.equal(layer.mlp.c_fc.weight, before)


def test_weights_that_are_no_numbers_are_no_fault_of_the_compiler():
    model = small("gpt2")
    for layer in model.transformer.h:
        layer.compile = lambda: None
    with torch.no_grad():
        model.transformer.wpe.weight[4] = float("nan")
    config = Training(**{**vars(CONFIG), "compile": True, "log_every": 1})
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        train(model, Copying(), config, device="cpu", progress=False)


def test_a_mamba_without_kernels_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: name == "triton" or None)
    networks.require_kernels(small("gpt2"))
    networks.require_kernels(small("mamba"))
    with pytest.raises(ModuleNotFoundError, match="needs mamba_ssm and causal_conv1d: run `pip"):
        networks.require_kernels(small("mamba2"))
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="training mamba on a GPU needs"):
        networks.require_kernels(small("mamba"))


def test_operations_a_token():
    with torch.device("meta"):
        model = build_model("gpt2", vocab_size=50257, length=1023)
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert flops_per_token(model, 4096) == pytest.approx(
        6 * matrices + 6 * 12 * 768 * 4096, rel=2e-3
    )
