"""Power attention: softmax attention whose cache grows like L^s.

A position attends, in one softmax, to the tokens of its window and to the slots of the blocks that
its past before is cut into (`blocks`, which has the definition and the symbols s, c, b, w). What a
slot is, by head:

- Its value, and its key before rotation, are merged from those of the children's slots, with the
  same weights; all weights of a slot add up to 1 where training starts.
  `FixedMerge`: learned linear maps over the slots, that start as the average by place.
  `ContentMerge`: weights of a softmax over the children's slots, of a learned query of the slot in
  their keys, less γ (distance/width)²; the queries start at 0, so at an average by place.
- Its key gets a learned offset of its level, and is then rotated by its place, the middle of the
  tokens it stands for, as the tokens' keys and the queries are by theirs (rotary positions).
- The score gets log(b^j / m_j) more, as if each of the tokens it stands for were there.

So s = 1 with c = 1 is rotary full attention to the last digit, with the weights of GPT-NeoX's.

In parallel all levels are computed for the whole sequence: O(L) slots for s < 1, and one batched
product a level, or for the first few, heads by (batch, channels, blocks) by slots, which finds its
operands in place. A key is seen from one position to another: no mask of L by all slots exists;
chunks of positions, or tiles of FlexAttention where it is compiled on a GPU, take the keys that
they see. `PowerAttention.step` is the same, one token at a time, with a `Cache` that holds just
what is counted.
"""

from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import inf, log

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from l2m.memory.blocks import Blocks, Level

CHUNK = 1024  # positions that are masked at once, where there is no FlexAttention
TILE = 128  # of FlexAttention
THETA = 10_000.0  # of rotary positions
GROUP = 16  # tokens, at most, whose levels of fixed maps are merged by one product
# Of one token more: cuDNN's kernel would be prepared anew for every length, which takes 40 ms.
STEP = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
GAMMA = 4.0  # where training starts: a slot is merged from what lies under it, more or less


class Layout:
    """What a sequence of `length` tokens attends to, as tensors; the same for all layers.

    `Blocks.keys` has the parts. `turn` are cosines and sines of the tokens' and slots' places.
    """

    def __init__(self, blocks: Blocks, length: int, head_dim: int, device=None):
        keys = blocks.keys(length)
        self.length, self.levels = length, len(blocks.levels(length))
        self.opens, self.closes = (torch.as_tensor(x, device=device) for x in keys[:2])
        self.turn = turn(torch.as_tensor(keys.place, device=device), head_dim)
        self.weight = torch.as_tensor(keys.tokens, device=device, dtype=torch.float32).log()
        self.chunks = []  # (first position, last + 1, indices of the keys that they see)
        for start in range(0, length, CHUNK):
            stop = min(start + CHUNK, length)
            seen = (self.opens < stop) & (self.closes > start)
            all_seen = start == 0 and stop == length
            self.chunks.append((start, stop, slice(None) if all_seen else seen.nonzero()[:, 0]))
        on_gpu = self.levels and self.opens.is_cuda and length > CHUNK
        self.block_mask = block_mask(self.opens, self.closes, length) if on_gpu else None


@lru_cache(8)
def layout_of(blocks: Blocks, length: int, head_dim: int, device) -> Layout:
    """The `Layout`, made once."""
    with torch.inference_mode(False):
        return Layout(blocks, length, head_dim, device)


def turn(place, head_dim: int):
    """Cosines and sines of rotary positions, float32 (n, head_dim) each, of places (n,)."""
    rate = THETA ** -(torch.arange(0.0, head_dim, 2, device=place.device).double() / head_dim)
    angle = (place.double()[:, None] * rate).repeat(1, 2)  # exact at a million
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotate x (…, n, head_dim) by its places; in its dtype."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def block_mask(opens, closes, length: int) -> BlockMask:
    """FlexAttention's mask of keys that open and close: no more memory than tiles."""

    def sees(batch, head, position, key):
        return (position >= opens[key]) & (position < closes[key])

    spare = -len(opens) % TILE
    ends = [pad(x, (0, spare), value=v).view(-1, TILE) for x, v in ((opens, length), (closes, 0))]
    begin = torch.arange(0, length, TILE, device=opens.device)[:, None]
    end = (begin + TILE).clamp(max=length)
    full = (ends[0].amax(1) <= begin) & (ends[1].amin(1) >= end)
    some = (ends[0].amin(1) < end) & (ends[1].amax(1) > begin) & ~full
    tiles = []
    for kind in (some, full):  # how many of each row of tiles, and their indices first
        order = kind.int().argsort(dim=1, descending=True, stable=True)
        tiles += [kind.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]]
    sizes = {"BLOCK_SIZE": TILE, "mask_mod": sees, "seq_lengths": (length, len(opens))}
    return BlockMask.from_kv_blocks(*tiles, **sizes)


def attend(q, k, v, layout: Layout):
    """Attention of q (B, heads, L, head_dim) to all keys (B, heads, K, head_dim) of a layout."""
    if not layout.levels:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    if layout.block_mask is not None and torch.compiler.is_compiling():

        def scored(score, batch, head, position, key):
            return score + layout.weight[key]

        return flex_attention(q, k, v, score_mod=scored, block_mask=layout.block_mask)
    parts = []
    for start, stop, seen in layout.chunks:
        position = torch.arange(start, stop, device=q.device)[:, None]
        hidden = (position < layout.opens[seen]) | (position >= layout.closes[seen])
        mask = layout.weight[seen].masked_fill(hidden, -inf).to(q.dtype)
        inputs = q[:, :, start:stop], k[:, :, seen], v[:, :, seen]
        parts.append(scaled_dot_product_attention(*inputs, attn_mask=mask))
    return torch.cat(parts, 2)


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
        self.level = level
        self.query = nn.Parameter(torch.zeros(heads, level.slots, head_dim))
        self.gamma = nn.Parameter(torch.full((heads, 1, 1), GAMMA))

    @torch.compiler.disable  # its gradient, compiled by torch 2.11, is wrong where s is large
    def forward(self, x):
        """As in `FixedMerge`."""
        near = self.gamma * nearness(self.level, x.device)  # (heads, slots, children)
        blocks = x.unflatten(-1, (-1, self.level.children)).permute(1, 3, 0, 4, 2).flatten(0, 1)
        query = self.query.to(x.dtype).expand(len(blocks), -1, -1, -1)
        keys = blocks[..., : query.shape[-1]]  # of the children, (B·n, heads, children, head_dim)
        slots = scaled_dot_product_attention(query, keys, blocks, attn_mask=near.to(x.dtype))
        return slots.unflatten(0, (x.shape[1], -1)).permute(2, 0, 4, 1, 3).flatten(-2)


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
        same = {"dtype": mergers[0].weight.dtype, "device": x.device}
        slots = [torch.eye(size, **same).expand(len(x), 1, size, size)]
        for merger in mergers:
            slots.append(merger(slots[-1]))
        maps = torch.cat(slots[1:], -1)[:, 0]
    out = (x.reshape(len(x), -1, size) @ maps).unflatten(1, (*x.shape[1:3], -1))
    return [part.flatten(-2) for part in out.split([s.shape[-1] for s in slots[1:]], -1)]


MERGE = {"fixed": FixedMerge, "content": ContentMerge}


@dataclass
class Cache:
    """What a layer keeps of `seen` tokens: keys (not rotated) and values, nothing else.

    `parts`, (heads, B, 2·head_dim, n) each, are the tokens not merged, then the slots by level.
    """

    layout: tuple
    seen: int
    parts: list[torch.Tensor] = field(repr=False)

    def numel(self) -> int:
        """Scalars that it holds."""
        return sum(part.numel() for part in self.parts)


class PowerAttention(nn.Module):
    """Causal attention with a cache of O(L^s) slots: (B, L, width) to the same, L ≤ `length`.

    Parameters
    ----------
    width, heads : heads of width/heads channels, if `head_dim` does not say otherwise.
    s, slots, base, window : of `Blocks`; `slots` is c.
    merge : "fixed" or "content" (see the module).
    length : the longest sequence; a longer one may need levels that have no weights.
    head_dim : channels of a head, an even number.

    Raises ValueError if these make no layer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        s: float,
        slots: float = 1.0,
        base: int = 2,
        window: int = 16,
        merge: str = "fixed",
        length: int = 1024,
        head_dim: int | None = None,
    ):
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads is a whole number, at least 1, not {heads!r}.")
        if head_dim is None and width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}: give head_dim too.")
        head_dim = head_dim or width // heads
        if head_dim % 2 or head_dim < 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}.")
        if merge not in MERGE:
            raise ValueError(f"merge is one of {', '.join(MERGE)}, not {merge!r}.")
        self.blocks = Blocks(s, slots, base, window)
        self.heads, self.head_dim, self.length = heads, head_dim, length
        self.levels = self.blocks.levels(length)
        self._sizes = [Level(1, 1, 1), *self.levels]  # of tokens, and of slots by level
        self.query_key_value = nn.Linear(width, 3 * heads * head_dim)
        self.mergers = nn.ModuleList(MERGE[merge](heads, head_dim, m) for m in self.levels)
        self.offsets = nn.Parameter(torch.zeros(len(self.levels), heads, head_dim, 1))
        self.dense = nn.Linear(heads * head_dim, width)

    def forward(self, x, layout: Layout | None = None):
        """Attend in parallel; the layout is looked up if it is not given."""
        length = self._checked(x.shape[1])
        layout = layout or layout_of(self.blocks, length, self.head_dim, x.device)
        return self.dense(self.mixed(*self.projected(x), layout))

    def mixed(self, q, kv, layout: Layout):
        """All between the two projections: (B, L, heads·head_dim) of what `projected` gives."""
        parts = merged(kv, self.levels[: layout.levels], self.mergers)
        q = rotate(q, *(x[: layout.length] for x in layout.turn))
        return self._attended(q, parts, layout.turn, lambda *qkv: attend(*qkv, layout))

    def step(self, x, cache: Cache | None = None):
        """Attend from one token more, x (B, 1, width): the same, and the cache after it.

        ValueError if the cache is of another layout, or has had `length` tokens.
        """
        cache = self.cache(len(x), dtype=x.dtype, device=x.device) if cache is None else cache
        if cache.layout != self._layout(len(x)):
            raise ValueError(f"the cache is of another layout, {cache.layout}: begin without one.")
        seen = self._checked(cache.seen + 1)
        q, kv = self.projected(x)
        parts = [torch.cat([cache.parts[0], kv], -1), *cache.parts[1:]]
        firsts, places, weights = self._firsts(seen), [], []
        for level, first, part in zip(self._sizes, firsts, parts, strict=True):
            slot = torch.arange(part.shape[-1], device=x.device).double()  # as exact as `Layout`
            tokens = level.size / level.slots
            places.append((slot + 0.5) * tokens + (first - 0.5))
            weights.append(torch.full(slot.shape, log(tokens), dtype=q.dtype, device=x.device))
        q = rotate(q, *turn(torch.tensor([seen - 1.0], device=x.device), self.head_dim))
        turned = turn(torch.cat(places), self.head_dim)
        mask = torch.cat(weights)[None] if self.levels else None  # without one it is faster
        attention = partial(scaled_dot_product_attention, attn_mask=mask)
        with sdpa_kernel(STEP):
            out = self._attended(q, parts, turned, attention)
        for i, (level, merger) in enumerate(zip(self.levels, self.mergers, strict=True)):
            whole = (self._firsts(seen + 1)[i] - firsts[i]) // level.size * level.children
            if whole:  # blocks of this level, that no position will see in parts any more
                fresh = merger(parts[i][..., :whole]).to(kv.dtype)
                parts[i] = parts[i][..., whole:].clone()  # lets go of the others' memory
                parts[i + 1] = torch.cat([parts[i + 1], fresh], -1)
        return self.dense(out), Cache(cache.layout, seen, parts)

    def cache(self, batch: int, seen: int = 0, dtype=None, device=None) -> Cache:
        """A cache as after `seen` tokens, with zeros where they would have left numbers."""
        parts, end = [], seen
        for level, first in zip(self._sizes, self._firsts(seen + 1), strict=True):
            n = (end - first) // level.size * level.slots
            shape, end = (self.heads, batch, 2 * self.head_dim, n), first
            parts.append(torch.zeros(shape, dtype=dtype, device=device))
        return Cache(self._layout(batch), seen, parts)

    def _firsts(self, seen: int) -> list[int]:
        """First token of the tokens, then of each level's slots, that a position of `seen` sees.

        Each of these parts ends where the one before begins.
        """
        g = int(self.blocks.before(seen))
        return [*(g // level.size * level.size for level in self.levels), 0]

    def projected(self, x):
        """Queries (B, heads, L, head_dim); keys and values (heads, B, 2·head_dim, L)."""
        qkv = self.query_key_value(x).unflatten(-1, (self.heads, -1))
        q, kv = qkv.split([self.head_dim, 2 * self.head_dim], -1)
        return q.transpose(1, 2), kv.permute(2, 0, 3, 1).contiguous()

    def _attended(self, q, parts, turned, attention):
        """Attention of queries to all parts, before the last projection."""
        keys, values = zip(*(part.chunk(2, 2) for part in parts), strict=True)
        offsets = self.offsets[: len(parts) - 1, :, None]
        moved = [(k + o).to(k.dtype) for k, o in zip(keys[1:], offsets, strict=True)]
        k, v = (torch.cat(x, -1).mT for x in ((keys[0], *moved), values))
        k, v = (x.transpose(0, 1).contiguous() for x in (k, v))
        return attention(q, rotate(k, *turned), v).transpose(1, 2).flatten(2)

    def _layout(self, batch: int):
        return (self.blocks, self.heads, self.head_dim, len(self.levels), batch)

    def _checked(self, length: int) -> int:
        if length > self.length:
            raise ValueError(f"{length} tokens are more than the layer's length={self.length}.")
        return length
