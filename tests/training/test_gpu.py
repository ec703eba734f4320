"""What only a GPU can show: kernels, graphs and compiled layers against their plain twins."""

import os
import subprocess
import sys

import pytest
import torch

from l2m.training.loop import Training, evaluate_positions, train
from l2m.training.loss import token_values
from l2m.training.networks import build_model, missing_kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
with_library = pytest.mark.skipif(
    bool(missing_kernels()),
    reason=f"needs {' and '.join(missing_kernels())}: `pip install --no-build-isolation "
    "mamba-ssm causal-conv1d` compiles them",
)
SIZES = {
    "gpt2": {"layers": 2, "width": 128},
    "mamba": {"layers": 2, "width": 128},
    "mamba2": {"layers": 2, "width": 128, "state": 64},
}


class Walk:
    """Vectors that each stay close to the one before."""

    length = 64

    def about(self):
        return {"task": "walk"}

    def batch(self, step, size, rows, device):
        generator = torch.Generator(device).manual_seed(step)
        z = torch.randn(size, self.length, 8, generator=generator, device=device)
        return (z.cumsum(1)[rows] / 8,)

    def values(self, model, z):
        mean, deviation = model(z)
        return (((z - mean) / deviation) ** 2 / 2 + deviation.log()).mean(-1)

    def loss(self, model, z):
        return self.values(model, z).mean()


def tokens_and_model(family):
    model = build_model(family, vocab_size=50, length=256, **SIZES[family]).train()
    return model, torch.randint(1, 50, (2, 256), generator=torch.Generator().manual_seed(0))


def vectors(family):
    return build_model(family, dim=8, length=Walk.length, **SIZES[family])


@pytest.mark.parametrize(
    ("family", "library"),
    [
        ("gpt2", False),
        ("mamba", False),
        pytest.param("mamba", True, marks=with_library),
        pytest.param("mamba2", True, marks=with_library),
    ],
)
def test_kernels_agree_with_the_slow_path(family, library, tmp_path, monkeypatch):
    """Those of mamba-ssm, and for Mamba our own scan, too."""
    from l2m.training.acceleration import prepared

    monkeypatch.setattr("l2m.training.own_layers.MAMBA_SSM", library)
    model, tokens = tokens_and_model(family)
    model.cuda()
    script = (
        "import sys; sys.modules.update(mamba_ssm=None, causal_conv1d=None)\n"  # not installed
        f"sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}\n"
        "import torch; from test_gpu import tokens_and_model, token_values\n"
        f"torch.save(token_values(*tokens_and_model({family!r}), 0), {str(tmp_path / 'x')!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    expected = torch.load(tmp_path / "x", weights_only=True)
    with prepared(model, compile_layers=False):
        values = token_values(model, tokens.cuda(), 0).cpu()
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["gpt2", "mamba", pytest.param("mamba2", marks=with_library)])
@pytest.mark.parametrize("change", [{"graph": True}, {"compile": True}], ids=["graph", "compiled"])
def test_fast_training_is_plain_training(family, change):
    config = {"steps": 20, "batch_size": 16, "warmup_steps": 5, "learning_rate": 1e-3}
    config |= {"log_every": 5, "precision": "fp32"}
    losses = [
        train(vectors(family), Walk(), Training(**config, **extra), progress=False).loss
        for extra in ({}, change)
    ]
    assert losses[0].iloc[-1] < losses[0].iloc[0]
    torch.testing.assert_close(*map(torch.as_tensor, map(list, losses)), rtol=1e-3, atol=1e-3)


def test_a_graph_resumes_where_it_stopped(tmp_path):
    config = Training(steps=20, batch_size=16, warmup_steps=5, graph=True, save_every=10)
    whole, again = vectors("mamba"), vectors("mamba")
    train(whole, Walk(), config, tmp_path, progress=False)
    max(tmp_path.iterdir()).unlink()
    train(again, Walk(), config, tmp_path, progress=False)
    batch = Walk().batch(99, 8, slice(None), "cuda")
    values = [torch.as_tensor(evaluate_positions(m, Walk(), [batch])) for m in (whole, again)]
    torch.testing.assert_close(*values, rtol=1e-2, atol=1e-2)
