"""What makes a model train faster without changing its numbers.

Compiled layers, one at a time, since a model's layers are alike and compile once; the faster of two
scans for Mamba; the fastest attention kernel; a whole step as one CUDA graph.
"""

import importlib.util
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.mamba.modeling_mamba import MambaMixer

if importlib.util.find_spec("triton"):
    from l2m.selective_scan import selective_scan

# The fastest first; each does only some cases (no mask, half precision, …).
ATTENTION = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
MAMBA_SSM = all(importlib.util.find_spec(name) for name in ("mamba_ssm", "causal_conv1d"))
MANY_STATES = 3 * 2**16  # of a batch, in one layer: as many as keep an H100 busy


def attention_kernels(device):
    """The context in which attention takes the first of `ATTENTION` that can do it."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    return sdpa_kernel(list(ATTENTION), set_priority=True)


def prepare(model, compile_layers: bool) -> None:
    """Make a model fast on its device without changing its numbers; it must not use a cache."""
    backbone = getattr(model, "backbone", None) or model.base_model
    kind, cuda = backbone.config.model_type, next(model.parameters()).is_cuda
    for layer in backbone.h if kind == "gpt2" else backbone.layers:
        if kind == "mamba" and cuda:
            layer.mixer.__class__ = Mixer  # a class, since compiled code is shared by a class
        if kind == "mamba2" and cuda:
            # The kernels are opaque to the compiler, which would stumble over them one by one.
            layer.mixer.forward = torch.compiler.disable(layer.mixer.forward)
        if kind.startswith("mamba") and cuda:
            layer.norm.register_forward_hook(_to_autocast)
        if compile_layers:
            layer.compile()


class Mixer(MambaMixer):
    """Mamba-1's mixer, by our scan where all around it is compiled and there are many states.

    Few states, as of a single narrow sequence, would leave most of a GPU idle, and not compiled it
    is many kernels: then, if it is installed, mamba-ssm does it all in one.
    """

    def forward(self, hidden, cache_params=None, attention_mask=None):
        if cache_params is not None:
            raise ValueError("a model prepared for training has no cache: pass use_cache=False")
        many = hidden.shape[0] * self.A_log.numel() >= MANY_STATES
        if MAMBA_SSM and not (many and torch.compiler.is_compiling()):
            return _fused(self, hidden)
        u, z = self.in_proj(hidden).chunk(2, -1)
        weight, L = self.conv1d.weight[:, 0], u.shape[1]
        before = F.pad(u, (0, 0, weight.shape[1] - 1, 0))
        u = sum(before[:, i : i + L] * w for i, w in enumerate(weight.unbind(1)))
        u = F.silu(u if self.conv1d.bias is None else u + self.conv1d.bias).to(z.dtype)
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        delta, B, C = self.x_proj(u).split(sizes, -1)
        delta = F.linear(delta, self.dt_proj.weight) + self.dt_proj.bias.float()
        delta = F.softplus(delta).to(z.dtype)
        y = selective_scan(u, delta, -self.A_log.float().exp(), B, C)
        return self.out_proj(((y + u * self.D) * F.silu(z)).to(z.dtype))


@torch.compiler.disable
def _fused(mixer, hidden):
    """The same through the kernel of mamba-ssm, in the layout that it wants: time runs fastest.

    Intermediate results are kept for the backward pass, where the class of transformers has the
    kernel compute them again.
    """
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    xz = (mixer.in_proj.weight @ hidden.flatten(0, 1).T).view(-1, *hidden.shape[:2])
    return mamba_inner_fn(
        xz.transpose(0, 1),
        mixer.conv1d.weight,
        mixer.conv1d.bias,
        mixer.x_proj.weight,
        mixer.dt_proj.weight,
        mixer.out_proj.weight,
        mixer.out_proj.bias,
        -mixer.A_log.float().exp(),
        D=mixer.D.float(),
        delta_bias=mixer.dt_proj.bias.float(),
        delta_softplus=True,
        checkpoint_lvl=0,
    )


def _to_autocast(module, inputs, output):
    """Cast where the norm is compiled, rather than in a kernel of its own."""
    return output.to(autocast_dtype(output))


def autocast_dtype(x):
    """The dtype that autocast takes products of `x` in, where it is on; else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def graphed(step_on, batches, optimiser, step):
    """Capture one step as a CUDA graph; returns the function that copies a batch in and replays.

    Warming up is done with the optimiser's `step` left out, so that nothing changes.
    """
    static = [tuple(t.clone() for t in batch) for batch in batches(step)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        update, optimiser.step = optimiser.step, lambda: None
        for _ in range(3):
            optimiser.zero_grad(set_to_none=True)
            step_on(static)
        optimiser.step = update
    torch.cuda.current_stream().wait_stream(stream)
    optimiser.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step_on(static)

    def replay(step):
        for batch, fresh in zip(static, batches(step), strict=True):
            for old, new in zip(batch, fresh, strict=True):
                old.copy_(new)
        graph.replay()
        return result

    return replay
