"""Mamba-1's mixer on a GPU, with the faster of two scans: ours, or that of mamba-ssm."""

import importlib.util

import torch
import torch.nn.functional as F
from transformers.models.mamba.modeling_mamba import MambaMixer

from l2m.training.networks import missing_kernels

if importlib.util.find_spec("triton"):
    from l2m.training.selective_scan import selective_scan

MAMBA_SSM = not missing_kernels()
MANY_STATES = 3 * 2**16  # of a batch, in one layer: as many as keep an H100 busy


class Mixer(MambaMixer):
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
