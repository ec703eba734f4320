"""What makes a model train faster without changing its numbers.

Compiled layers, one at a time, since a model's layers are alike and compile once; the faster of two
scans for Mamba; the fastest attention kernel; a whole step as one CUDA graph.
"""

from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# The fastest first; each does only some cases (no mask, half precision, …).
ATTENTION = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


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
        if kind.startswith("mamba") and cuda:
            layer.norm.register_forward_hook(_to_autocast)
            _take_kernels(layer.mixer, kind)
        if compile_layers:
            layer.compile()


def _take_kernels(mixer, kind):
    if kind == "mamba":
        from l2m.training.mamba_mixer import Mixer

        mixer.__class__ = Mixer  # a class, since compiled code is shared by a class
    else:
        # The kernels are opaque to the compiler, which would stumble over them one by one.
        mixer.forward = torch.compiler.disable(mixer.forward)


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
