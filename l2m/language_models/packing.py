"""Packed sequences, one per window: every split's branches beside the window that they share.

The naive way scores, for every split ℓ, whole sequences that repeat the window's own prefix. Here
the *trunk* BOS, w₁ … w_{T−1} stands once, and each split adds two short *branches*:

    shuffled   the partner's continuation, which sees the trunk up to position ℓ, then itself
    marginal   the own continuation, which sees BOS alone, then itself
    warm       the partner's continuation, which sees the trunk's first c < ℓ tokens, then itself

For attention this is exact: keys and values of a position depend on what it sees and on its
position number, as in the whole sequence. Tokens per window: T + 2 Σ_ℓ (r−1)ℓ, that is 6,140
instead of 40,983 for T = 2048, r = 2, ℓ = 2 … 1024.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import MethodType

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "l2m_packed"
BLOCK = 128  # queries and keys of one block of FlexAttention's mask
SHAPES = 200  # that a function is compiled for, in one process


@dataclass(frozen=True)
class Branch:
    """A run of packed tokens, which see the trunk's first `seen` ones (the trunk: 0) and itself."""

    start: int
    stop: int
    seen: int


@dataclass(frozen=True)
class Layout:
    """Where each of S packed tokens comes from, and what it predicts; arrays (S,).

    Rows are [BOS, window (T), partner 1 (T), partner 2, …]. Of a branch's run of packed tokens the
    targets are a run, too. Branches: ("joint",), the trunk, ("marginal", ℓ), ("shuffled", ℓ, k),
    ("warm", ℓ, c).
    """

    inputs: np.ndarray  # indices into the row
    positions: np.ndarray  # in the whole sequence
    sources: np.ndarray  # the packed position whose output predicts each target
    targets: np.ndarray  # indices into the row
    branches: dict[tuple, Branch]

    @property
    def length(self) -> int:
        """Packed tokens per window, S."""
        return len(self.inputs)


def layout(length: int, splits, ratio: int, partners: int = 1, warm=()) -> Layout:
    """Packed layout of windows of `length` tokens, for every split, so many partners, each c."""
    trunk = np.arange(length)  # BOS and all tokens but the last, which nothing follows
    inputs, positions, sources, targets = [trunk], [trunk], [trunk], [trunk + 1]
    branches, start = {("joint",): Branch(0, length, 0)}, length
    for name, part, past, which in continuations(length, splits, ratio, partners, warm):
        seen, m = 1 + past, part.stop - part.start
        tokens = np.arange(part.start, part.stop) + 1 + length * which
        inputs.append(tokens)  # the last is not needed, but whole blocks are faster
        positions.append(np.arange(seen, seen + m))
        sources.append(np.r_[seen - 1, start : start + m - 1])
        targets.append(tokens)
        branches[name] = Branch(start, start + m, seen)
        start += m
    joined = [np.concatenate(parts) for parts in (inputs, positions, sources, targets)]
    return Layout(*joined, branches)


def continuations(length: int, splits, ratio: int, partners: int, warm) -> Iterator[tuple]:
    """Yield what is scored of a window beside itself: name, tokens (a slice), past and whose it is.

    Those are the (ratio−1)·ℓ tokens after ℓ, or fewer at the window's end; see `origin`. The long
    ones are first: they start on whole blocks.
    """
    for split in sorted(splits, reverse=True):
        names = [("marginal", split), *(("shuffled", split, k) for k in range(partners))]
        names += [("warm", split, c) for c in warm if c < split]
        for name in names:
            yield name, slice(split, min(ratio * split, length)), *origin(*name)[1:]


def origin(kind: str, split: int = 0, number: int = 0) -> tuple[int, int, int]:
    """Of a name: ℓ, how many own tokens come before, and whose it is: the window's, 0, or k + 1."""
    if kind == "shuffled":
        return split, split, number + 1
    return (split, number, 1) if kind == "warm" else (split, 0, 0)


@contextmanager
def attending(model, name: str, attention):
    """Let a model of transformers attend by a function, known by a name, inside the `with`."""
    AttentionInterface.register(name, attention)
    previous = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


class PackedAttention:
    """An attention backend of transformers that lets packed tokens see only what they may.

    On a GPU, FlexAttention with a block mask; elsewhere one ordinary attention per branch, which
    spends nothing on masked blocks. Sliding windows count positions, so they stay exact.
    """

    def __init__(self, layout: Layout, compile_layers: bool = False):
        self.layout, self.compile_layers = layout, compile_layers
        self.flex_attention = compiled(flex_attention)
        self.positions = torch.as_tensor(layout.positions)
        self.masks, self.moved = {}, {}

    def on(self, device) -> Layout:
        """The layout with its arrays as tensors on a device; kept: to copy them, it would wait."""
        if device not in self.moved:
            names = ("inputs", "positions", "sources", "targets")
            arrays = {k: torch.as_tensor(getattr(self.layout, k), device=device) for k in names}
            self.moved[device] = replace(self.layout, **arrays)
        return self.moved[device]

    @staticmethod
    def takes_flex(device) -> bool:
        """Whether FlexAttention is the way there; else every branch attends for itself."""
        return device.type == "cuda"

    @contextmanager
    def installed(self, model):
        """Let `model` attend this way inside the `with`, its layers compiled if that was asked."""
        if self.takes_flex(model.device):  # now, since a mask made by compiled layers breaks them
            for window in {None, getattr(model.config.get_text_config(), "sliding_window", None)}:
                self._mask(window, model.device)
        # What `layer.compile()` does stays, and other lengths would compile anew: so forward is
        # replaced for the time of the pass, but not where `device_map` has wrapped it to move data.
        repeated = set(model._no_split_modules or ()) if self.compile_layers else ()
        layers = [m for m in model.modules() if type(m).__name__ in repeated]
        layers = [layer for layer in layers if "forward" not in vars(layer)]
        for layer in layers:
            layer.forward = MethodType(compiled(type(layer).forward), layer)
        try:
            with attending(model, ATTENTION, self):
                yield
        finally:
            for layer in layers:
                del layer.forward

    def __call__(self, module, query, key, value, mask, scaling=None, **options):
        for name in ("softcap", "s_aux", "position_bias", "alibi"):
            if options.get(name) is not None:
                raise NotImplementedError(f"packed attention has no {name!r}")
        window = options.get("sliding_window")
        attend = self._flex if self.takes_flex(query.device) else self._branchwise
        return attend(query, key, value, scaling, window).transpose(1, 2), None

    def _branchwise(self, query, key, value, scaling, window):
        out = torch.empty_like(query[..., : value.shape[-1]])
        gqa = query.shape[1] != key.shape[1]
        for branch in self.layout.branches.values():
            own, name = slice(branch.start, branch.stop), (branch, window)
            causal = branch.seen == 0 and window is None  # needs no mask
            if not causal and name not in self.masks:
                seen = torch.cat([self.positions[: branch.seen], self.positions[own]])
                mask = _sees(self.positions[own, None], seen[None], window)
                self.masks[name] = mask.to(query.device)
            k, v = (torch.cat([x[:, :, : branch.seen], x[:, :, own]], 2) for x in (key, value))
            mask = self.masks.get(name)
            out[:, :, own] = scaled_dot_product_attention(
                query[:, :, own], k, v, mask, is_causal=causal, scale=scaling, enable_gqa=gqa
            )
        return out

    def block_mask(self, window, device):
        """FlexAttention's block mask: the trunk's seen part, or one's own branch, causally.

        Counted a row of blocks at a time: `create_block_mask` compiles for minutes at some sizes,
        and without compiling holds all size² entries.
        """
        size = self.layout.length
        start = torch.zeros(size, dtype=torch.int32, device=device)
        seen = torch.zeros(size, dtype=torch.int32, device=device)
        for run in self.layout.branches.values():
            start[run.start : run.stop] = run.start
            seen[run.start : run.stop] = run.seen
        position = self.positions.to(device)

        def visible(b, h, q, k):
            allowed = ((k >= start[q]) & (k <= q)) | (k < seen[q])
            # without a window positions add nothing, and reading them costs
            return allowed if window is None else allowed & _sees(position[q], position[k], window)

        keys = torch.arange(size, device=device)
        counts = []
        for query in keys.split(BLOCK):
            allowed = visible(None, None, query[:, None], keys).sum(0)
            counts.append(pad(allowed, (0, -size % BLOCK)).view(-1, BLOCK).sum(1))
        counts = torch.stack(counts)
        full = counts == BLOCK**2
        lists = []
        for kind in ((counts > 0) & ~full, full):
            order = kind.int().argsort(dim=1, descending=True, stable=True)
            lists += [kind.sum(1).int()[None, None], order.int()[None, None]]
        sizes = {"BLOCK_SIZE": BLOCK, "seq_lengths": (size, size)}
        return BlockMask.from_kv_blocks(*lists, mask_mod=visible, **sizes)

    def _mask(self, window, device):
        if (window, device) not in self.masks:
            self.masks[window, device] = self.block_mask(window, device)
        return self.masks[window, device]

    def _flex(self, query, key, value, scaling, window):
        mask, gqa = self._mask(window, query.device), query.shape[1] != key.shape[1]
        tiles = {"BLOCK_M": 64, "BLOCK_N": 64}  # 2.5 times the default's speed
        if query.shape[-1] > 128:  # such tiles of wide heads do not fit into shared memory
            tiles = None
        return self.flex_attention(
            query, key, value, block_mask=mask, scale=scaling, enable_gqa=gqa, kernel_options=tiles
        )


def _sees(query_position, key_position, window):
    """Causal, and within the sliding window if there is one."""
    distance = query_position - key_position
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


@cache
def packed_attention(length, splits, ratio, partners, warm, compile_layers) -> PackedAttention:
    """The attention of a layout; kept, since what is compiled for it is worth keeping."""
    return PackedAttention(layout(length, splits, ratio, partners, warm), compile_layers)


@cache
def compiled(function):
    """The function compiled for fixed shapes: one for all who ask, so that it compiles once."""
    # Of the ninth shape on torch would not compile it, and FlexAttention then holds all size².
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(function, dynamic=False)
