"""Time the training of the Gaussian models against a plain loop, in one run on one device.

    python benchmarks/gaussian.py                             # CPU: about a minute
    python benchmarks/gaussian.py --device cuda --record      # about a minute

The plain loop is the usual one: a batch, the loss, its gradient, clipping, AdamW, the loss read off
for the log; the same model, data, batches and fp32 arithmetic. The library's is `l2m.training`, on
a GPU with each step replayed as one CUDA graph. Both losses are compared. The share of making data
(samples and exact conditionals) is timed by itself.
"""

import argparse

import torch
from timing import record, timed

from l2m.experiments.gaussian import GaussianRun
from l2m.language_models.models import device_name
from l2m.training.loop import Training, train

SIZES = {  # the models of the published grid, and for a CPU miniatures of them
    "cuda": [
        {"family": family, "width": width, "length": length}
        for family in ("gpt2", "mamba", "mamba2")
        for width in (64, 256)
        for length in (64, 1024, 4096)
    ],
    "cpu": [
        {"family": "gpt2", "layers": 2, "width": 32, "length": 64, "vectors": 256},
        {"family": "mamba", "layers": 2, "width": 32, "length": 64, "vectors": 256},
    ],
}


def plain(run, steps, device):
    """The usual loop; returns the loss of every step."""
    task, model = run.task(), run.model().to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    size, losses = run.vectors // run.length, []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = config(run, steps).rate_at(step)
        optimiser.zero_grad()
        loss = task.loss(model, *task.batch(step, size, slice(None), device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


def library(run, steps, device):
    """`train`; returns the losses of its table and its speed in vectors a second."""
    how = config(run, steps, graph=device == "cuda")
    curve = train(run.model(), run.task(), how, device=device, progress=False)
    return curve["loss"].tolist(), curve.attrs["tokens_per_second"]


def config(run, steps, graph=False):
    return Training(
        steps=steps,
        batch_size=run.vectors // run.length,
        learning_rate=run.learning_rate,
        warmup_steps=run.warmup_steps,
        precision="fp32",
        graph=graph,
        log_every=10,
    )


def measure(run, steps, device):
    """One row: steps a second of both loops, their losses, and the share of making data."""
    size, task = run.vectors // run.length, run.task()
    plain(run, 5, device)  # compiles and tunes kernels
    naive, seconds, _ = timed(lambda: plain(run, steps, device), device)
    losses, speed = library(run, steps, device)
    batches = [task.batch(0, size, slice(None), device)]
    _, making, _ = timed(
        lambda: [task.batch(i, size, slice(None), device) and None for i in range(steps)], device
    )
    ours = speed / run.vectors
    last = sum(naive[-10:]) / 10
    return {
        "model": run.title.rsplit("-", 2)[0],
        "length": run.length,
        "vectors": batches[0][0].shape[0] * run.length,
        "plain_steps_s": steps / seconds,
        "library_steps_s": ours,
        "speed_up": ours * seconds / steps,
        "data_share": making / steps * ours,
        "loss_difference": abs(losses[-1] - last) / last,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=None, help="200 on a GPU, 20 on a CPU")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    torch.set_float32_matmul_precision("high" if cuda else "highest")
    name = device_name(args.device)
    steps = args.steps or (200 if cuda else 20)
    rows = []
    print(f"{name}\n{'model':26}{'L':>6}  plain/s  library/s  speed-up  data  loss differs")
    for size in SIZES[args.device]:
        row = measure(GaussianRun(**size), steps, args.device)
        rows.append(row)
        print(
            f"{row['model']:26}{row['length']:6}{row['plain_steps_s']:9.1f}"
            f"{row['library_steps_s']:11.1f}{row['speed_up']:9.1f}x{row['data_share']:6.1%}"
            f"{row['loss_difference']:12.1e}"
        )
    if args.record:
        out = {"device": name, "torch": torch.__version__, "steps": steps, "rows": rows}
        record(f"gaussian-{args.device}", out)


if __name__ == "__main__":
    main()
