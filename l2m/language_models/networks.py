"""Sequence models of real vectors: a backbone between two-layer MLPs (App. F of the paper)."""

import torch
from torch import nn


class VectorModel(nn.Module):
    """Predict each vector of a sequence, as independent normal components, from those before it.

    Parameters
    ----------
    backbone : a transformers model without head (GPT-2, Mamba, Mamba-2, …).
    dim : components of a vector.
    """

    def __init__(self, backbone, dim: int):
        super().__init__()
        width = backbone.config.hidden_size
        self.backbone, self.dim = backbone, dim
        self.embed = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * dim))
        self.config = backbone.config

    def forward(self, z):
        """Mean and deviation of z_i given z_<i, each (B, L, dim), fp32, for z (B, L, dim).

        An all-zero vector stands for BOS, before the first.
        """
        shifted = nn.functional.pad(z, (0, 0, 1, -1))
        hidden = run_backbone(self.backbone, inputs_embeds=self.embed(shifted))
        with torch.autocast(z.device.type, enabled=False):  # σ is what the loss divides by
            mean, log_deviation = self.head(hidden.float()).chunk(2, dim=-1)
        return mean, log_deviation.exp()


def run_backbone(backbone, **inputs):
    """Last hidden states (B, L, width), with the window of `build_model`, without a cache."""
    window = getattr(backbone.config, "sliding_window", None)
    if window is not None and backbone.config.model_type == "gpt2":
        some = next(iter(inputs.values()))
        position = torch.arange(some.shape[1], device=some.device)
        distance = position[:, None] - position
        inputs["attention_mask"] = ((distance >= 0) & (distance < window))[None, None]
    return backbone(**inputs, use_cache=False).last_hidden_state
