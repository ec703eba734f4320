"""What makes a model train faster without changing its numbers.

Layers compiled one at a time, since they are alike and compile once; the fastest attention kernel;
a whole step as one CUDA graph. And how much arithmetic there is to do.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from l2m.language_models.likelihood import body
from l2m.language_models.models import device_name
from l2m.language_models.packing import attending

CAUSAL = "l2m_causal"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, NVIDIA's data sheets
ATTENTION = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")  # fastest first


def causal_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """Causal attention through torch, for transformers: no mask but the one of a window is made.

    transformers makes one of L×L while a CUDA graph is captured, and compiled layers once more.
    """
    masking = {"attn_mask": attention_mask, "is_causal": attention_mask is None}
    out = scaled_dot_product_attention(query, key, value, **masking, scale=scaling)
    return out.transpose(1, 2), None


def attention_kernels(device):
    """The context in which attention takes the first of `ATTENTION` that does its case."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    return sdpa_kernel([getattr(SDPBackend, name) for name in ATTENTION], set_priority=True)


@contextmanager
def prepared(model, compile_layers: bool):
    """Inside the `with` a model is fast, but takes neither mask nor cache; layers stay compiled."""
    backbone, hooks = body(model), []
    kind, cuda = backbone.config.model_type, next(model.parameters()).is_cuda
    attends = kind in ("gpt2", "gpt_neox", "power_attention")
    for layer in backbone.h if kind == "gpt2" else backbone.layers:
        if kind in ("mamba", "mamba2") and cuda:
            hooks.append(layer.norm.register_forward_hook(_to_autocast))
        if compile_layers:
            layer.compile()
    try:
        with attending(backbone, CAUSAL, causal_attention) if attends else nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _to_autocast(module, inputs, output):
    """Cast where the norm is compiled, rather than in a kernel of its own."""
    return output.to(autocast_dtype(output))


def autocast_dtype(x):
    """The dtype that autocast takes products of `x` in, where it is on; else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def graphed(run, step):
    """Capture a run's step as a CUDA graph; returns the function of a step that replays it."""
    static = [tuple(t.clone() for t in batch) for batch in run.batches(step)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # warming up changes nothing
            run.step_on(static, update=False)
    torch.cuda.current_stream().wait_stream(stream)
    run.optimiser.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run.step_on(static)

    def replay(step):
        for batch, fresh in zip(static, run.batches(step), strict=True):
            for old, new in zip(batch, fresh, strict=True):
                old.copy_(new)
        graph.replay()
        return result

    return replay


def flops_per_token(model, length: int) -> float:
    """Floating-point operations of one token's forward and backward pass.

    Six per weight that multiplies (tied embeddings once, positions not), and 6·layers·width·L for
    causal attention (App. B of PaLM, arXiv 2204.02311, halved for the mask); no scans of Mamba, nor
    what power attention does with slots.
    """
    named = [(n, p) for n, p in model.named_parameters() if ".mergers." not in n]
    weights = sum(p.numel() for n, p in named if not n.endswith("wpe.weight"))
    config = model.config
    attention = config.model_type in ("gpt2", "gpt_neox")
    return 6 * weights + attention * 6 * config.num_hidden_layers * config.hidden_size * length


def peak_flops(device) -> float:
    """Operations per second of the card's data sheet in bf16, or 0 if it is not known."""
    name = device_name(device)
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), 0.0)
