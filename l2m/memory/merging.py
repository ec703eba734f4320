"""How power attention merges the slots of children into their parent's: by place, or by content."""

import torch
from torch import nn

from l2m.memory.blocks import Level

GAMMA = 4.0  # where training starts: a slot is merged from what lies under it, more or less


class FixedMerge(nn.Module):
    """Merge by a learned linear map over the slots, one a head: (heads, slots, children)."""

    def __init__(self, heads: int, head_dim: int, level: Level):
        super().__init__()
        start = torch.softmax(GAMMA * nearness(level), -1)
        self.weight = nn.Parameter(start.repeat(heads, 1, 1))

    def forward(self, x):
        """Slots of all blocks, (heads, B, 2·head_dim, n·slots), of x (…, n·children)."""
        rows = x.reshape(len(x), -1, self.weight.shape[2])
        return (rows @ self.weight.mT).view(*x.shape[:3], -1)


class ContentMerge(nn.Module):
    """Merge by attention of learned slot queries, (heads, slots, head_dim), to the children."""

    def __init__(self, heads: int, head_dim: int, level: Level):
        super().__init__()
        self.level, self.scale = level, head_dim**-0.5
        self.query = nn.Parameter(torch.zeros(heads, level.slots, head_dim))
        self.gamma = nn.Parameter(torch.full((heads, 1, 1), GAMMA))

    def forward(self, x):
        """As in `FixedMerge`."""
        near = self.gamma * nearness(self.level, x.device)  # (heads, slots, children)
        score = self.query[:, None] @ x.chunk(2, 2)[0] * self.scale
        score = score.unflatten(-1, (-1, self.level.children))  # (heads, B, slots, n, children)
        weight = (score + near[:, None, :, None]).softmax(-1).to(x.dtype)
        children = x.unflatten(-1, (-1, self.level.children))
        return torch.einsum("hbcni,hbsni->hbcns", children, weight).flatten(-2)


def nearness(level: Level, device=None):
    """−(distance/width)² of slots to children by place, width a slot's: (slots, children)."""
    slots, children = (
        (torch.arange(n, device=device) + 0.5) / n for n in (level.slots, level.children)
    )
    return -(((slots[:, None] - children) * level.slots) ** 2)


MERGE = {"fixed": FixedMerge, "content": ContentMerge}
