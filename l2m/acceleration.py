"""What makes a model train faster without changing its numbers.

Compiled layers, one at a time, since a model's layers are alike and compile once; the memory layout
that Mamba's kernels want; the fastest attention kernel; a whole step as one CUDA graph.
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
    """Make a model fast on its device without changing its numbers: kernels' layout, compiling."""
    backbone = getattr(model, "backbone", None) or model.base_model
    mamba = backbone.config.model_type.startswith("mamba")
    cuda = next(model.parameters()).is_cuda
    for layer in backbone.layers if mamba else backbone.h:
        if mamba and cuda:
            # Its kernels are opaque to the compiler, which would stumble over them one by one.
            layer.mixer.forward = torch.compiler.disable(layer.mixer.forward)
        if backbone.config.model_type == "mamba" and cuda:
            _time_last(layer.mixer.in_proj)
        if compile_layers:
            layer.compile()


def _time_last(linear):
    """Give a projection's output the memory layout that the scan wants: time runs fastest."""

    def forward(x):
        out = linear.weight @ x.flatten(0, 1).T
        return out.view(-1, *x.shape[:2]).permute(1, 2, 0)

    linear.forward = forward


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
