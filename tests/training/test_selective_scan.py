"""The selective scan against the recurrence it stands for; without a GPU, interpreted by Triton."""

import pytest
import torch

from l2m.training import own_layers
from l2m.training.loss import token_loss
from l2m.training.networks import build_model
from l2m.training.selective_scan import selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def example(batch, L, D, N, dtype):
    draw = torch.Generator().manual_seed(0)
    shapes = (batch, L, D), (batch, L, D), (D, N), (batch, L, N), (batch, L, N)
    u, delta, A, B, C = (torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes)
    return u, delta.exp() / 8, -A.exp(), B, C


def recurrence(u, delta, A, B, C):
    """The naive twin: one step after the other."""
    h, ys = 0, []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]  # (batch, D, 1)
        h = torch.exp(step * A) * h + step * u[:, t, :, None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def run(scan, *inputs):
    """The outputs, and the gradients of a loss that weighs each differently."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = scan(*inputs)
    loss = (y * torch.arange(y.numel(), device=y.device).view_as(y).cos()).sum()
    return [y.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [(2, 64, 4, 16), (1, 70, 4, 4), (1, 5, 6, 3), (1, 9, 1, 64)],
    ids=["one chunk", "a chunk and a bit", "states no power of two", "many states"],
)
def test_outputs_and_gradients_are_those_of_the_recurrence(shape):
    exact = example(*shape, torch.float64)
    fast = run(selective_scan, *(x.float().to(DEVICE) for x in exact))
    for got, expected in zip(fast, run(recurrence, *exact), strict=True):
        assert (got.cpu() - expected).abs().max() < 2e-6 * expected.abs().max()


def test_half_precision_rounds_only_inputs_and_outputs():
    inputs = [x.bfloat16() for x in example(1, 64, 2, 4, torch.float32)]
    fast = run(selective_scan, *(x.to(DEVICE) for x in inputs))
    exact = run(recurrence, *(x.double() for x in inputs))
    for got, expected in zip(fast, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.cpu() - expected).abs().max() < 2**-7 * expected.abs().max()


@pytest.mark.slow
def test_a_mamba_with_our_mixer_is_the_one_of_transformers(monkeypatch):
    monkeypatch.setattr(own_layers, "MAMBA_SSM", False)
    torch._dynamo.reset()
    tokens = torch.randint(1, 50, (1, 20), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    model = build_model("mamba", vocab_size=50, length=64, layers=2, width=8, state=3).to(DEVICE)
    results, near = [], 3e-6 if DEVICE == "cpu" else 1e-3  # where it is compared with kernels
    with monkeypatch.context() as patched, torch._dynamo.config.patch(error_on_recompile=True):
        for ours, compiled in ((False, False), (True, False), (True, True)):
            patched.setattr(own_layers, "_on_gpu", lambda _, ours=ours: ours)
            for layer in model.backbone.layers if compiled else ():  # once for all layers
                layer.compile(backend="aot_eager", fullgraph=True)
            model.zero_grad()
            loss = token_loss(model, tokens, 0)
            loss.backward()
            results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours in results[1:]:
        for got, expected in zip(ours, results[0], strict=True):
            assert (got - expected).abs().max() < near * expected.abs().max()


def test_the_scan_asks_for_a_gpu(monkeypatch):
    monkeypatch.setattr("l2m.training.selective_scan.INTERPRETED", False)
    with pytest.raises(ValueError, match="needs a GPU"):
        selective_scan(*example(1, 8, 2, 4, torch.float32))
