"""Time the training loop against plain Hugging Face training, trick by trick, in one run.

    python benchmarks/training.py --models tiny                      # CPU: a minute or two
    python benchmarks/training.py --device cuda --record             # one GPU: a few minutes
    torchrun --nproc-per-node=2 benchmarks/training.py --device cuda --models gpt2 --scaling

"Plain" is the class of transformers as it comes, with a loss on full logits, in TF32, with AdamW.
Each further row adds one trick to those before; the last is `l2m.training.train` itself. "The
authors' way" of GPT-2, as far as their scripts tell, is the plain one with FlexAttention and
`torch.compile`. Same weights and data; tokens are random, half of them repeated. The share of the
card is model operations (`flops_per_token`) over the data sheet's bf16 rate, and over the rate of a
large matrix product measured here. Losses of the first and the last way are compared over some
steps from the same weights. Training may blow up any rounding, so what a difference means is told
by a third run: the plain way again, from weights off by a millionth.
"""

import argparse
import gc
import json
import os
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from timing import matmul_ceiling, print_kernels, record, recorded
from transformers.activations import ACT2FN

from l2m.language_models.models import device_name
from l2m.training.acceleration import attention_kernels, flops_per_token, peak_flops, prepared
from l2m.training.loop import Training, autocast, train
from l2m.training.loss import token_loss
from l2m.training.networks import build_model

TINY = {"name": "gpt2", "layers": 2, "width": 64}
TRICKS = ["bf16", "loss without logits", "kernels", "fused AdamW", "compiled layers"]


class RandomTokens:
    """Sequences whose second half repeats the first: costs what text costs, and can be learned."""

    def __init__(self, length, vocab_size):
        self.length, self.vocab_size = length, vocab_size

    def batch(self, step, size, rows, device):
        generator = torch.Generator(device).manual_seed(step)
        shape = (size, self.length // 2)
        # squared: small ids are likelier, as common words are
        uniform = torch.rand(shape, generator=generator, device=device) ** 2
        half = (uniform * (self.vocab_size - 1)).long() + 1
        return (half.repeat(1, 2)[rows],)

    def loss(self, model, tokens):
        return token_loss(model, tokens, 0)


def build(name, vocab_size, length):
    sizes = TINY if name == "tiny" else {"name": name}
    return build_model(**sizes, vocab_size=vocab_size, length=length)


def as_it_comes(model):
    """The same weights in the class of transformers, with its own mixers and activation."""
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    if model.config.model_type == "gpt2":
        for layer in plain.base_model.h:
            layer.mlp.act = ACT2FN["gelu_new"]  # the same function in several kernels
    return plain


@contextmanager
def stepper(model, task, tricks, batch_size, device, rate):
    """Inside the `with`, the step function with these tricks: step number → loss."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if "kernels" not in tricks:
        model = as_it_comes(model)
    model.to(device).train()
    ready = ExitStack()
    if "kernels" in tricks:
        ready.enter_context(prepared(model, "compiled layers" in tricks))
        ready.enter_context(attention_kernels(device))
    if "FlexAttention" in tricks:
        model.config._attn_implementation = "flex_attention"
        model.compile()
    fused = {"fused": True} if "fused AdamW" in tricks else {}
    optimiser = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.01, **fused)

    def step(number):
        (tokens,) = task.batch(number, batch_size, slice(None), device)
        optimiser.zero_grad(set_to_none=True)
        with autocast(device, "bf16" if "bf16" in tricks else "fp32"):
            if "loss without logits" in tricks:
                loss = token_loss(model, tokens, 0)
            else:
                inputs = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
                logits = model(inputs, use_cache=False).logits.float()
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return loss.detach()

    with ready:
        yield step


def nudge(model, by):
    """Multiply each weight by 1 + `by` × a normal number: by 0 leaves the model as it is."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + by * torch.randn(weight.shape, generator=generator))
    return model


def compared(name, task, vocab_size, size, steps, device):
    """How far the losses of the plain way and of all tricks together come apart, and by nudging."""
    losses = []
    for tricks, by in (([], 0), (TRICKS, 0), ([], 1e-6)):
        free()
        model = nudge(build(name, vocab_size, task.length), by)
        with stepper(model, task, tricks, size, device, 3e-4) as step:
            losses.append([float(step(i)) for i in range(steps)])
        del step
    plain, fast, nudged = map(np.array, losses)
    out = {
        "agreement_steps": steps,
        "loss_fall": float(plain[0] - plain[-5:].mean()),
        "max_difference": float(np.abs(plain - fast).max()),
        "max_noise": float(np.abs(plain - nudged).max()),
    }
    print(
        f"{name}: over {steps} steps the loss falls by {out['loss_fall']:.3f}; the ways differ by"
        f" at most {out['max_difference']:.2g}, the plain one from itself, with weights a millionth"
        f" off, by {out['max_noise']:.2g}",
        flush=True,
    )
    return out


def free():
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device):
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def timed(step, steps, device):
    """Median seconds a step, after two to warm up."""
    seconds = []
    for number in range(steps + 2):
        start = time.perf_counter()
        step(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def measure(name, length, vocab_size, tokens, plain_tokens, steps, device, ceiling, agreement):
    """Rows of one model at one length, and how far the losses of the ways are apart.

    With agreement=0 only the first and the last way are timed.
    """
    task, rows = RandomTokens(length, vocab_size), []
    peak = peak_flops(device)

    def row(way, speed):
        flops = flops_per_token(model, length) * speed
        rows.append(
            {
                **{"model": name, "length": length, "way": way, "tokens_per_second": speed},
                "data_sheet_share": flops / peak if peak else None,
                "ceiling_share": flops / ceiling,
                "peak_gib": peak_gib(device),
            }
        )
        print(
            f"{name:12} L={length} {way:28} {speed:10,.0f} tokens/s"
            f" {flops / 1e12:7.1f} TFLOP/s {peak_gib(device) or float('nan'):6.1f} GiB",
            flush=True,
        )

    ways = [("plain", [])] + [(f"+ {t}", TRICKS[: i + 1]) for i, t in enumerate(TRICKS)]
    timed_ways = ways if agreement else ways[:1]
    if name == "gpt2" and device.type == "cuda":
        timed_ways = [("the authors' way", ["FlexAttention"]), *timed_ways]
    for way, tricks in timed_ways:
        free()
        model = build(name, vocab_size, length)
        size = max(1, (plain_tokens if "loss without logits" not in tricks else tokens) // length)
        try:
            with stepper(model, task, tricks, size, device, 3e-4) as step:
                row(way, size * length / timed(step, steps, device))
        except torch.OutOfMemoryError:
            print(f"{name} L={length} {way}: out of memory at {size * length} tokens", flush=True)
        del step
    free()
    model = build(name, vocab_size, length)
    config = Training(
        steps=steps + 6,
        batch_size=max(1, tokens // length),
        compile=True,
        log_every=2,
        warmup_steps=1,
    )
    table = train(model, task, config, device=device, progress=False)
    row("l2m.training.train", float(np.median(2 * config.batch_size * length / table.seconds[2:])))
    if agreement:
        small = max(1, plain_tokens // length // 2)
        rows[-1] |= compared(name, task, vocab_size, small, agreement, device)
    return rows


def profiled(name, length, vocab_size, tokens, device):
    """Print where the time of a step with all tricks goes."""
    task, size = RandomTokens(length, vocab_size), max(1, tokens // length)
    with stepper(build(name, vocab_size, length), task, TRICKS, size, device, 3e-4) as step:
        for number in range(3):
            step(number)
        print(f"{name}, L={length}, {size * length} tokens")
        print_kernels(lambda: step(3), device.type)


def scaling(name, length, vocab_size, tokens, steps, device):
    """Speed of `train`, alone or under torchrun."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    config = Training(
        steps=steps + 6,
        batch_size=world * (tokens // length),
        compile=device.type == "cuda",
        log_every=2,
        warmup_steps=1,
    )
    model = build(name, vocab_size, length)
    table = train(model, RandomTokens(length, vocab_size), config, device=device, progress=False)
    speed = float(np.median(2 * config.batch_size * length / table.seconds[2:]))
    about = {"device": device_name(device.type), "model": name, "length": length}
    about |= {"tokens_a_step_and_gpu": tokens // length * length}
    return about | {"tokens_per_second": {str(world): speed}}


def record_scaling(name, entry):
    """Write `entry` beside those of other numbers of processes, if all else is the same."""
    old = recorded(name).get("scaling", {})
    speeds = old.pop("tokens_per_second", {})
    if old.items() <= entry.items():
        entry["tokens_per_second"] = speeds | entry["tokens_per_second"]
    record(name, {"scaling": entry})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--models", nargs="+", default=["gpt2", "mamba-130m", "mamba2-130m"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 8192])
    parser.add_argument("--vocab-size", type=int, default=49152)
    parser.add_argument("--tokens", type=int, default=65536, help="a step")
    parser.add_argument("--plain-tokens", type=int, default=16384, help="a step, with full logits")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--agreement", type=int, default=50, help="steps of both ways; 0 for none")
    parser.add_argument("--scaling", action="store_true", help="time the loop alone")
    parser.add_argument("--profile", action="store_true", help="only print where the time goes")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    if args.models == ["tiny"] and args.device == "cpu":
        args.lengths, args.vocab_size, args.tokens, args.plain_tokens = [128], 512, 512, 256
        args.steps, args.agreement = 3, 50
    device = torch.device(args.device, int(os.environ.get("LOCAL_RANK", 0)))
    if args.device == "cuda":
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    results = f"training-{args.device}"
    if args.scaling:
        for length in args.lengths:
            for name in args.models:
                entry = scaling(name, length, args.vocab_size, args.tokens, args.steps, device)
                if int(os.environ.get("RANK", 0)) == 0:
                    print(json.dumps(entry))
                    if args.record:
                        record_scaling(results, entry)
        return
    if args.profile:
        for name in args.models:
            for length in args.lengths:
                free()
                profiled(name, length, args.vocab_size, args.tokens, device)
        return
    ceiling = 1e12 * matmul_ceiling(torch.bfloat16, args.device)
    card = device_name(args.device)
    print(f"{card}: matrix product {ceiling / 1e12:.1f} TFLOP/s", flush=True)
    out = {"device": card, "ceiling_tflops": ceiling / 1e12, "torch": torch.__version__, "rows": []}
    old = recorded(results)
    if old.get("device") == card:
        done = [(name, length) for name in args.models for length in args.lengths]
        out["rows"] = [row for row in old["rows"] if (row["model"], row["length"]) not in done]
    for length in args.lengths:
        for name in args.models:
            agreement = args.agreement if length == args.lengths[0] else 0
            sizes = args.vocab_size, args.tokens, args.plain_tokens, args.steps
            out["rows"] += measure(name, length, *sizes, device, ceiling, agreement)
            if args.record:
                record(results, out)


if __name__ == "__main__":
    main()
