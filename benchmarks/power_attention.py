"""Time power attention against full attention: sequences forward and backward, and one token more.

    python benchmarks/power_attention.py --record     # one GPU: compiling takes most of the time
    python benchmarks/power_attention.py --small      # a few seconds on a CPU, which say nothing

Sequences: all between the two projections of a layer, merging and attention, in bf16, compiled,
12 heads of 64, 65,536 tokens a step; full attention is the same layer with s = 1. Beside it how far
the compiled numbers are from those of the plain way, in chunks of positions with a mask.

One token: a layer's step in bf16, batch 1, after so many tokens, its cache filled with zeros, just
short of a power of two, where a cache is fullest; merging the largest blocks, once in as many
tokens, is not in it. Slots are merged by content: fixed maps of a million tokens have billions of
weights (s = 0.75: 5·10^9).

Expected before the first run on an H100 (November 2026; ms forward and backward at 4,096 / 16,384 /
65,536 tokens): full attention 4 / 13 / 52; FlexAttention alone 7–16. Merging by fixed maps moves
about 200 MB of keys and values, half as much for each level above, and copies all keys once:
1.5 GB in all, forward and backward, 1 ms at the card's bandwidth, if its products of 1…4 slots by
2…8 are as fast as copies, which cuBLAS may not be: 2–6 ms. So at 65,536 about 3 times faster than
full attention, at 16,384 as fast, at 4,096 twice as slow. By content: twice the merging for s = 0,
more for s = 0.75, whose scores of all slots with all children are in memory.
"""

import argparse

import numpy as np
import torch
from timing import record, timed

from l2m.language_models.models import device_name
from l2m.memory.power_attention import PowerAttention, layout_of

WAYS = [("full", 1, "fixed")]
WAYS += [(f"{merge}, s = {s}", s, merge) for merge in ("fixed", "content") for s in (0, 0.5, 0.75)]


def sequences(way, length, args):
    """Milliseconds forward and backward, peak memory, and the error of the compiled numbers."""
    name, s, merge = way
    device, heads, head_dim = args.device, args.heads, args.head_dim
    torch.manual_seed(0)
    options = {"window": args.window, "merge": merge, "length": length, "head_dim": head_dim}
    layer = PowerAttention(heads * head_dim, heads, s, base=args.base, **options).to(device)
    layout = layout_of(layer.blocks, length, head_dim, torch.device(device))
    batch = args.tokens // length
    q = torch.randn(batch, heads, length, head_dim, device=device, dtype=torch.bfloat16)
    kv = torch.randn(heads, batch, 2 * head_dim, length, device=device, dtype=torch.bfloat16)
    q, kv = q.requires_grad_(), kv.requires_grad_()
    mixed = torch.compile(layer.mixed, dynamic=False) if device == "cuda" else layer.mixed

    def run():
        with torch.autocast(device, torch.bfloat16):
            return mixed(q, kv, layout)

    out, first, _ = timed(run, device)
    slope, forward, backward, peaks = torch.randn_like(out), [], [], []
    for _ in range(args.repeats + 2):
        out, seconds, peak = timed(run, device)
        forward.append(seconds)
        _, seconds, more = timed(lambda out=out: out.backward(slope), device)
        backward.append(seconds)
        peaks.append(max(peak or 0, more or 0))
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        plain = layer.mixed(q[:1], kv[:, :1], layout)
        error = (out[:1] - plain).float().norm() / plain.float().norm()
    row = {"way": name, "length": length, "parameters": sum(p.numel() for p in layer.parameters())}
    row |= {"keys": len(layout.opens), "slots": int(layer.blocks.count(length))}
    row |= {
        "forward_ms": 1e3 * np.median(forward[2:]),
        "backward_ms": 1e3 * np.median(backward[2:]),
    }
    return row | {"first_seconds": first, "peak_gib": max(peaks) or None, "error": float(error)}


def one_token(way, seen, args):
    """Milliseconds of a step after so many tokens, and what its cache holds."""
    name, s, merge = way
    torch.manual_seed(0)
    options = {"window": args.window, "merge": merge, "length": seen + args.repeats + 2}
    width = args.heads * args.head_dim
    layer = PowerAttention(width, args.heads, s, base=args.base, **options)
    layer = layer.to(args.device, torch.bfloat16).requires_grad_(False)
    cache = layer.cache(1, seen, torch.bfloat16, args.device)
    x, spent = torch.randn(1, 1, width, device=args.device, dtype=torch.bfloat16), []
    scalars = cache.numel()
    for _ in range(args.repeats + 2):
        (_, cache), seconds, peak = timed(lambda c=cache: layer.step(x, c), args.device)
        spent.append(seconds)
    row = {"way": name, "seen": seen, "cache_mib": 2 * scalars / 2**20}
    return row | {"token_ms": 1e3 * np.median(spent[2:]), "peak_gib": peak}


def shown(row):
    """Print a row of the table."""
    cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
    print("  ".join(f"{cell:>18}" if i == 0 else f"{cell:>12}" for i, cell in enumerate(cells)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default=None, choices=["cpu", "cuda"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16_384, 65_536])
    parser.add_argument("--merges", nargs="+", default=["fixed", "content"])
    parser.add_argument("--seen", nargs="+", type=int, default=[2**k for k in range(10, 21, 2)])
    parser.add_argument("--tokens", type=int, default=65_536, help="a step")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--base", type=int, default=2)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.small:
        args.lengths, args.seen, args.tokens = [256, 2048], [1024, 4096], 2048
        args.heads, args.head_dim, args.repeats = 2, 16, 2
    tables = {"one_token": [], "sequences": []}
    about = {"device": device_name(args.device), "torch": torch.__version__}

    def keep(table, row):
        if not tables[table]:
            shown({name: name for name in row})
        tables[table].append(row)
        shown(row)
        if args.record:  # what is cut short is kept
            record(f"power_attention-{args.device}", about | {"settings": vars(args)} | tables)

    for seen in args.seen:
        for way in WAYS:
            if way[2] == "content" or way[0] == "full":
                keep("one_token", one_token(way, seen - args.repeats - 4, args))
    for length in args.lengths:
        for way in WAYS:
            if way[2] in args.merges:
                keep("sequences", sequences(way, length, args))


if __name__ == "__main__":
    main()
