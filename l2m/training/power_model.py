"""Transformers' GPT-NeoX with power attention in the place of its attention, for tokens or vectors.

All else is as in the rotary GPT-2 of `networks`: blocks that norm first, the same perceptrons. With
s = 1 and c = 1 it is that model, weight by weight.
"""

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM, GPTNeoXModel

from l2m.memory.blocks import Blocks
from l2m.memory.power_attention import PowerAttention, layout_of


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
            raise ValueError(
                "power attention has no cache of transformers: pass use_cache=False, or take its "
                "own, of PowerAttention.step"
            )
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
