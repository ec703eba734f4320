"""Time the scoring engine against the official procedure, in one run on one device.

    python benchmarks/scoring.py                        # 2 CPU cores: ten minutes
    python benchmarks/scoring.py --device cuda --windows 1008 --naive-windows 32 --sweep --record
    python benchmarks/scoring.py --device cuda --windows 504 --profile
    python benchmarks/scoring.py --device cuda --windows 4032 --folder shards1
    torchrun --nproc-per-node=2 benchmarks/scoring.py --device cuda --windows 4032 --folder shards2

The official procedure: for every split ℓ one full-length pass over the window with another window's
continuation, and one over BOS + that continuation, and one over the window itself: 21 passes over
2,048 tokens and 40,983 tokens a window; full logits, then a softmax in fp32. Here it is batched as
large as pays. The engine is `score`. Same windows, model and dtype; tokens are random,
which costs what text costs.
"""

import argparse
import hashlib
import json
import os

import numpy as np
import torch
from timing import matmul_ceiling, print_kernels, record, timed

from l2m.language_models.models import device_name
from l2m.language_models.packing import layout
from l2m.language_models.scoring import partner_permutation, powers_of_two, score

SIZES = {  # name: (width, layers, heads, key-value heads, feed-forward)
    "tiny": (64, 2, 4, 2, 128),
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1.7B": (2048, 24, 32, 32, 8192),
}


def build(size, vocabulary, dtype, device):
    """A random Llama of a SmolLM2 size: the time does not depend on the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, kv_heads, feed_forward = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=feed_forward,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def official(model, windows, splits, partners, batch_size):
    """The official procedure: whole passes of full length, then the wanted tokens are picked."""
    device = model.device
    length = windows.shape[1]

    def passes(tokens):
        out = []
        for i in range(0, len(tokens), batch_size):
            batch = torch.as_tensor(tokens[i : i + batch_size], device=device)
            batch = torch.cat([torch.full_like(batch[:, :1], 1), batch], 1)
            log_q = model(batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            out.append(log_q.gather(2, batch[:, 1:, None])[..., 0].cpu().numpy())
            del log_q
        return np.concatenate(out)

    joint, marginal, shuffled = passes(windows), {}, {}
    for split in splits:
        swapped = np.concatenate([windows[:, :split], windows[partners, split:]], 1)
        shuffled[split] = passes(swapped)[:, split : 2 * split]
        marginal[split] = passes(windows[:, split:])[:, :split]
    assert joint.shape[1] == length
    return joint, marginal, shuffled


def flops(model, length, splits, ratio):
    """Floating-point operations of the engine a window: matrices, the head, visible attention."""
    plan = layout(length, splits, ratio)
    config = model.config
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for p in model.parameters()) - head
    pairs = sum(
        (b.stop - b.start) * (b.seen + (b.stop - b.start) / 2) for b in plan.branches.values()
    )
    attention = 4 * pairs * config.num_attention_heads * config.head_dim
    return (
        2 * body * plan.length + 2 * head * len(plan.targets) + attention * config.num_hidden_layers
    )


def measure(model, n, length, ratio, device, naive_windows, batch_size, ceiling):
    splits = powers_of_two(length, ratio)
    rng = np.random.default_rng(0)
    windows = rng.integers(0, model.config.vocab_size, (n, length))
    partners = partner_permutation(n)
    dtype = str(model.dtype).removeprefix("torch.")
    few = partner_permutation(naive_windows)
    row = {"length": length, "ratio": ratio, "windows": n, "dtype": dtype}
    options = {"partners": partners, "progress": False, "ratio": ratio, "compile_layers": True}

    score(model, windows, splits, **options)  # compiles, and compares with whole passes
    options["check"] = 0
    _, seconds, peak = timed(lambda: score(model, windows, splits, **options), device)
    plan = layout(length, splits, ratio)
    row |= {
        "tokens_a_window": plan.length,
        "engine_windows_s": n / seconds,
        "engine_tokens_s": n / seconds * plan.length,
        "engine_peak_gib": peak,
        "engine_tflops": flops(model, length, splits, ratio) * n / seconds / 1e12,
    }
    row["share_of_ceiling"] = row["engine_tflops"] / ceiling
    if naive_windows:
        own = windows[:naive_windows]
        if device == "cuda":  # loads the kernels
            official(model, own[:batch_size], splits, few[:batch_size] % batch_size, batch_size)
        ours = score(model, own, splits, **options | {"partners": few})
        theirs, seconds, peak = timed(lambda: official(model, own, splits, few, batch_size), device)
        difference = [abs(ours.joint - theirs[0]).mean()]
        difference += [abs(ours.marginal[s] - theirs[1][s]).mean() for s in splits]
        difference += [abs(ours.shuffled[s] - theirs[2][s]).mean() for s in splits]
        row |= {
            "official_windows_s": naive_windows / seconds,
            "official_peak_gib": peak,
            "mean_difference_nats": float(max(difference)),
        }
        row["speed_up"] = row["engine_windows_s"] / row["official_windows_s"]
    return row


def scale(model, n, length, folder):
    """Score into shards, alone or under torchrun; windows per second, and a hash of the numbers."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    windows = np.random.default_rng(0).integers(0, model.config.vocab_size, (n, length))
    options = {"compile_layers": True, "progress": False}
    score(model, windows[: n // 8], **options)  # compiles
    if world > 1:
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
    scores, seconds, _ = timed(
        lambda: score(model, windows, folder=folder, check=0, method="packed", **options),
        "cuda",
    )
    if rank == 0:
        digest = hashlib.sha256(scores.joint.tobytes())
        for split in scores.splits:
            digest.update(scores.marginal[split].tobytes() + scores.shuffled[split].tobytes())
        print(f"{world} process(es): {n / seconds:.1f} windows/s, scores {digest.hexdigest()[:16]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--naive-windows", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=None, help="of the official procedure")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--size", default="135M", choices=SIZES)
    parser.add_argument("--sweep", action="store_true", help="also longer windows, larger models")
    parser.add_argument("--profile", action="store_true", help="only print where the time goes")
    parser.add_argument("--folder", help="score into shards here; under torchrun, on all GPUs")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    batch_size = args.batch_size or (16 if cuda else 1)
    if args.folder:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
        return scale(build(args.size, 49152, dtype, device), args.windows, args.length, args.folder)
    ceiling = matmul_ceiling(dtype, args.device)
    name = device_name(args.device)
    print(f"{name}: matrix product {ceiling:.1f} TFLOP/s in {dtype}")

    model = build(args.size, 49152, dtype, args.device)
    if args.profile:
        windows = np.random.default_rng(0).integers(0, 49152, (args.windows, args.length))
        options = {"compile_layers": cuda, "check": 0, "method": "packed", "progress": False}
        score(model, windows, **options)  # compiles
        return print_kernels(lambda: score(model, windows, **options), args.device)
    cases = [(args.size, args.length, 2, args.naive_windows)]
    if args.sweep:
        cases += [(args.size, args.length, 4, 0), (args.size, 512, 2, 0), (args.size, 8192, 2, 0)]
        cases += [("360M", args.length, 2, 0)]
    rows, current = [], args.size
    for size, length, ratio, naive in cases:
        if size != current:
            model, current = build(size, 49152, dtype, args.device), size
        n = max(2, min(args.windows, args.windows * 2048 // length))
        row = measure(model, n, length, ratio, args.device, naive, batch_size, ceiling)
        rows.append({"size": size, **row})
        print(
            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()})
        )
    if args.record:
        out = {"device": name, "ceiling_tflops": ceiling, "torch": torch.__version__, "rows": rows}
        record(f"scoring-{args.device}", out)


if __name__ == "__main__":
    main()
