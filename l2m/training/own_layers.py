"""Layers of ours in models of transformers: Mamba's mixers on a GPU, and power attention.

A Mamba-1 takes the faster of two scans, ours or that of mamba-ssm; a Mamba-2 is kept from the
compiler. `PowerModel` is GPT-NeoX with power attention in the place of its attention, for tokens or
vectors. All else is as in the rotary GPT-2 of `networks`: blocks that norm first, the same
perceptrons. With s = 1 and c = 1 it is that model, weight by weight.
"""

import importlib.util

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM, GPTNeoXModel
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from l2m.memory.blocks import Blocks
from l2m.memory.power_attention import PowerAttention, layout_of
from l2m.training.networks import missing_kernels

if importlib.util.find_spec("triton"):
    from l2m.training.selective_scan import selective_scan

MAMBA_SSM = not missing_kernels()
MANY_STATES = 3 * 2**16  # of a batch, in one layer: as many as keep an H100 busy


def take_own_mixers(backbone) -> None:
    """Put our mixers in the place of those of a Mamba that transformers built, the same weights."""
    mixers = {"mamba": ScanMixer, "mamba2": OpaqueMixer}
    if (mixer_class := mixers.get(backbone.config.model_type)) is None:
        return
    for i, layer in enumerate(backbone.layers):
        with torch.device("meta"):
            mixer = mixer_class(backbone.config, layer_idx=i)
        mixer.load_state_dict(layer.mixer.state_dict(), assign=True)
        layer.mixer = mixer


class OpaqueMixer(Mamba2Mixer):
    """Mamba-2's, opaque to the compiler, which would stumble over its kernels one by one."""

    forward = torch.compiler.disable(Mamba2Mixer.forward)


class ScanMixer(MambaMixer):
    """Mamba-1's mixer, by our scan where all around it is compiled and there are many states.

    Few states leave most of a GPU idle, and not compiled it is many kernels: then mamba-ssm, if it
    is installed, does it all in one. Off a GPU, or with a cache, it is that of transformers.
    """

    def forward(self, hidden, cache_params=None, attention_mask=None, **options):
        if cache_params is not None or not _on_gpu(hidden):
            return super().forward(hidden, cache_params, attention_mask, **options)
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


def _on_gpu(tensor) -> bool:
    return tensor.is_cuda


@torch.compiler.disable
def _fused(mixer, hidden):
    """The same, through mamba-ssm's kernel in its own layout, keeping what backward needs."""
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    xz = (mixer.in_proj.weight @ hidden.flatten(0, 1).T).view(-1, *hidden.shape[:2])
    weights = [mixer.conv1d.weight, mixer.conv1d.bias, mixer.x_proj.weight, mixer.dt_proj.weight]
    weights += [mixer.out_proj.weight, mixer.out_proj.bias, -mixer.A_log.float().exp()]
    step = {"delta_bias": mixer.dt_proj.bias.float(), "delta_softplus": True}
    D = mixer.D.float()
    return mamba_inner_fn(xz.transpose(0, 1), *weights, D=D, **step, checkpoint_lvl=0)


@strict
class PowerConfig(GPTNeoXConfig):
    """GPT-NeoX's, with the exponent s, c `slots`, base and window, and how slots are merged."""

    model_type = "power_attention"

    s: float | int = 1.0
    slots: float | int = 1.0
    base: int = 2
    attention_window: int = 16
    merge: str = "fixed"
    head_dim: int | None = None

    def validate_architecture(self):
        """Its layers say what is wrong: heads need not divide the width."""

    def blocks(self) -> Blocks:
        """How its layers cut the past."""
        return Blocks(self.s, self.slots, self.base, self.attention_window)


class Attention(PowerAttention):
    """Power attention as GPT-NeoX's layer calls it."""

    def __init__(self, config):
        blocks, width, heads = config.blocks(), config.hidden_size, config.num_attention_heads
        options = {"merge": config.merge, "length": config.max_position_embeddings}
        options |= {"head_dim": config.head_dim, **vars(blocks)}
        super().__init__(width, heads, **options)

    def forward(self, hidden, attention_mask=None, layer_past=None, position_embeddings=None, **_):
        """Attend; ValueError if padding is to be masked, or transformers' cache to be used."""
        if layer_past is not None:
            cure = "pass use_cache=False, or take its own, of PowerAttention.step"
            raise ValueError(f"power attention has no cache of transformers: {cure}")
        if attention_mask is not None:
            raise ValueError("power attention takes no mask: pass sequences without padding")
        return super().forward(hidden, position_embeddings), None


class Layouts(nn.Module):
    """In the place of rotary positions: the layout that all layers attend by, made once."""

    def __init__(self, config):
        super().__init__()
        self.blocks, self.length = config.blocks(), config.max_position_embeddings
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads

    def forward(self, hidden, position_ids):
        """The layout of sequences of that length."""
        if (length := hidden.shape[1]) > self.length:
            raise ValueError(f"{length} tokens are more than the model's length={self.length}.")
        return layout_of(self.blocks, length, self.head_dim, hidden.device)


class PowerModel(GPTNeoXModel):
    """The model without a head."""

    config_class = PowerConfig
    _is_stateful = True  # its attention cannot be replaced, nor its cache cut

    def __init__(self, config):
        super().__init__(config)
        for layer in self.layers:
            layer.attention = Attention(config)
        self.rotary_emb = Layouts(config)
        self.post_init()


class PowerForCausalLM(GPTNeoXForCausalLM):
    """The model of tokens."""

    config_class = PowerConfig
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        self.gpt_neox = PowerModel(config)
        self.post_init()


AutoConfig.register(PowerConfig.model_type, PowerConfig)
AutoModel.register(PowerConfig, PowerModel)
AutoModelForCausalLM.register(PowerConfig, PowerForCausalLM)
