"""How power attention merges the slots of children into their parent's: by place, or by content."""

import torch
from torch import nn

from l2m.memory.blocks import Level

GROUP = 16  # tokens, at most, whose levels of fixed maps are merged by one product
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


def merged(x, levels, mergers) -> list:
    """Slots of each level in turn, of tokens x (heads, B, 2·head_dim, L), one product a level.

    Fixed maps of blocks up to `GROUP` tokens are composed, and applied at once: a product of 2
    slots by 1 keeps a GPU waiting for memory, one of 16 tokens by all their slots reads them once.
    """
    parts, length, first = [x], x.shape[-1], [m for m in levels if m.size <= GROUP]
    if len(first) > 1 and isinstance(mergers[0], FixedMerge) and length % first[-1].size == 0:
        parts += _at_once(x, first[-1].size, mergers[: len(first)])
    for level, merger in list(zip(levels, mergers, strict=False))[len(parts) - 1 :]:
        parts.append(merger(parts[-1][..., : length // level.size * level.children]))
    return parts


def _at_once(x, size: int, mergers) -> list:
    """Slots of the first levels, whose largest blocks have `size` tokens."""
    with torch.autocast(x.device.type, enabled=False):  # what they make of each single token
        slots = [torch.eye(size, device=x.device).expand(len(x), 1, size, size)]
        for merger in mergers:
            slots.append(merger(slots[-1]))
        maps = torch.cat(slots[1:], -1)[:, 0]
    out = (x.reshape(len(x), -1, size) @ maps).unflatten(1, (*x.shape[1:3], -1))
    return [part.flatten(-2) for part in out.split([s.shape[-1] for s in slots[1:]], -1)]


MERGE = {"fixed": FixedMerge, "content": ContentMerge}
