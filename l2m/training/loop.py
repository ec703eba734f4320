"""One training loop for every experiment: AdamW, warm-up and cosine, checkpoints, resume.

What is trained on is a *task*, any object with

    length                            L, tokens per sequence
    batch(step, size, rows, device)   tensors of the sequences `rows` (a slice) of the `size` ones
                                      of a step; a pure function of the task's seed and the step
    loss(model, *batch)               scalar, mean over sequences and positions, in nats
    values(model, *batch)             (B, L), the same position by position
    about()                           what identifies its data, as JSON has it: kind, seed, hashes

Since a batch follows from its step, a run resumes anywhere, and processes of `torchrun` share it.
"""

import dataclasses
import json
import math
import os
import time
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from l2m.language_models.models import default_device, device_name, weights_sha256
from l2m.training import acceleration
from l2m.training.checkpoints import load_latest, save
from l2m.training.networks import require_kernels


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train; the seeds are `build_model`'s, of the weights, and the task's, of the data.

    Attributes
    ----------
    steps, batch_size : optimiser steps, and sequences per step (all processes together).
    learning_rate, warmup_steps : the rate rises linearly to the first, then falls as a cosine to 0.
    weight_decay, grad_clip, betas : of AdamW (matrices alone decay); largest norm of the gradient.
    gradient_accumulation_steps : parts that a step's batch is processed in.
    precision : "bf16" (autocast: matrix products in bf16, weights and losses in fp32) or "fp32".
    compile : compile the layers (`torch.compile`).
    graph : replay each step as one CUDA graph; for small models, whose time is launches.
    log_every, save_every : steps between rows of the table, and between checkpoints (0: the end).
    """

    steps: int
    batch_size: int
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_accumulation_steps: int = 1
    precision: str = "bf16"
    compile: bool = False
    graph: bool = False
    log_every: int = 10
    save_every: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        done = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * rise * (1 + math.cos(math.pi * done)) / 2


def train(
    model,
    task,
    config: Training,
    folder=None,
    device=None,
    progress=True,
    *,
    deadline=math.inf,
    watch=None,
    watch_every=100,
) -> pd.DataFrame:
    """Train `model` in place, from the folder's last checkpoint if there is one.

    Under `torchrun` the processes share each step's batch (DistributedDataParallel).

    Parameters
    ----------
    model, task : of `build_model`, and as the module's text says.
    folder, device : where checkpoints go, None for none; a GPU if there is one when None.
    deadline : seconds after which a single process stops at a checkpoint, to go on another time.
    watch : function of the model, asked every `watch_every` steps; a held-out loss, say.

    Returns
    -------
    DataFrame `step, tokens, loss, learning_rate, grad_norm, seconds, watched`: loss in nats, the
    mean since the row before; `watched` is NaN where nothing was asked. `attrs`: device, tokens,
    tokens_per_second, model_flops_share (None where the card's data sheet is not known).

    Raises ModuleNotFoundError if a Mamba is to train on a GPU without its kernels; RuntimeError if
    the folder holds another run's checkpoints, or the loss stops being a number; TypeError if there
    is a folder, but the task has no `about`; ValueError if the batch does not divide among
    processes and parts, or there can be no graph.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(device or default_device())
    cuda = device.type == "cuda"
    if cuda and device.index is not None:
        torch.cuda.set_device(device)
    parts = config.gradient_accumulation_steps
    share = config.batch_size // (world * parts)
    if share * world * parts != config.batch_size:
        raise ValueError(
            f"a batch of {config.batch_size} sequences does not divide among {world} process(es) × "
            f"gradient_accumulation_steps={parts}"
        )
    if config.graph and (world > 1 or not cuda):
        raise ValueError("graph=True needs one process and a GPU")
    if cuda:
        require_kernels(model)
    model.to(device).train()
    objective = _Objective(model, task)
    if world > 1:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        ids = [device.index] if cuda else None
        objective = DistributedDataParallel(objective, ids, gradient_as_bucket_view=True)
    optimiser = _optimiser(model, config, device)
    about = _identity(model, task, config) if folder else {}
    start, rows = load_latest(folder, model, optimiser, about) if folder else (0, [])

    def step_on(batches, update=True):
        total = 0.0
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last or world == 1 else objective.no_sync():
                with autocast(device, config.precision), acceleration.attention_kernels(device):
                    loss = objective(*batch) / parts
                loss.backward()
            total = total + loss.detach()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        if update:
            optimiser.step()
        return total, norm

    def batches(step):
        starts = range(rank * share * parts, (rank + 1) * share * parts, share)
        return [task.batch(step, config.batch_size, slice(i, i + share), device) for i in starts]

    def due(done, every):
        return done == config.steps or done % (every or config.steps) == 0

    def eager(step):
        optimiser.zero_grad(set_to_none=True)
        return step_on(batches(step))

    tokens = config.batch_size * task.length
    flops = acceleration.flops_per_token(model, task.length)
    peak = acceleration.peak_flops(device) * world
    losses, clock = [], time.perf_counter()
    until = clock + deadline
    shown = {"unit": "token", "unit_scale": True, "mininterval": 1}
    shown["disable"] = not (progress and rank == 0)
    bar = tqdm(total=config.steps * tokens, initial=start * tokens, **shown)
    with acceleration.prepared(model, config.compile):
        graph = config.graph and start < config.steps
        advance = acceleration.graphed(step_on, batches, optimiser, start) if graph else eager
        for step in range(start, config.steps):
            rate = config.rate_at(step)
            for group in optimiser.param_groups:
                group["lr"] = group["lr"].fill_(rate) if cuda else rate  # there a graph reads it
            loss, norm = advance(step)
            losses.append(loss.clone())
            bar.update(tokens)
            done = step + 1
            late = world == 1 and time.perf_counter() > until
            saving, logging = (late or due(done, n) for n in (config.save_every, config.log_every))
            watching = watch is not None and due(done, watch_every)
            if saving or watching or logging:
                mean = torch.stack(losses).mean()
                if world > 1:
                    dist.all_reduce(mean)
                value = float(mean / world)
                if not math.isfinite(value):
                    cure = f"lower the learning rate, {config.learning_rate}"
                    raise RuntimeError(f"the loss is {value} at step {done}: {cure}")
                seconds = time.perf_counter() - clock
                rows.append([done, done * tokens, value, rate, float(norm), seconds])
                rows[-1].append(float(watch(model)) if watching else None)
                use = len(losses) * tokens / seconds * flops / peak if peak else 0.0
                bar.set_postfix_str(f"loss {value:.4f}" + (f", {use:.0%} of peak" if peak else ""))
                if saving and folder and rank == 0:
                    save(folder, done, rows, model, optimiser, about)
                losses, clock = [], time.perf_counter()
            if late:
                break
    bar.close()
    return _table(rows, device, flops, peak)


@torch.inference_mode()
def evaluate_positions(model, task, batches, precision="bf16") -> np.ndarray:
    """The task's loss at every position, in nats: float64 (n, L) over all sequences of `batches`.

    Each of the `batches` is a tuple of tensors on the model's device, as the task's `batch` gives.
    RuntimeError if a loss is not finite.
    """
    out = []
    for batch in batches:
        device = batch[0].device
        eager = torch.compiler.set_stance("force_eager")  # compiling again would take longer
        with eager, autocast(device, precision), acceleration.attention_kernels(device):
            out.append(task.values(model, *batch).double().cpu().numpy())
    losses = np.concatenate(out)
    if not (finite := np.isfinite(losses)).all():
        row, place = np.argwhere(~finite)[0]
        value = losses[row, place]
        raise RuntimeError(f"the loss of sequence {row} at position {place} is {value}: train anew")
    return losses


def autocast(device, precision: str):
    """The context of "bf16" or "fp32" arithmetic."""
    if precision not in ("bf16", "fp32"):
        raise ValueError(f"precision is 'bf16' or 'fp32', not {precision!r}")
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


class _Objective(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model, task):
        super().__init__()
        self.model, self.loss = model, task.loss

    def forward(self, *batch):
        return self.loss(self.model, *batch)


def _identity(model, task, config) -> dict:
    """All that makes a run's numbers: settings, architecture, first weights, data."""
    if not hasattr(task, "about"):
        raise TypeError(
            f"{type(task).__name__} cannot say what identifies its data: give it a method about() "
            "that returns a dict (kind, seed, hashes), or train without a folder"
        )
    parts = {"config": dataclasses.asdict(config), "model": model.config.to_diff_dict()}
    parts |= {"task": task.about(), "first weights": {"sha256": weights_sha256(model)}}
    return json.loads(json.dumps(parts, default=str))


def _optimiser(model, config, device):
    """AdamW with its state made now, so that graphs and checkpoints find it."""
    named = dict(model.named_parameters())
    kept = [n for n, p in named.items() if p.ndim < 2 or n.endswith("A_log")]
    decaying = {"params": [p for n, p in named.items() if n not in kept]}
    groups = [decaying, {"params": [named[n] for n in kept], "weight_decay": 0.0}]
    cuda = device.type == "cuda"
    rate = torch.tensor(config.learning_rate, device=device) if cuda else config.learning_rate
    how = {"betas": config.betas, "weight_decay": config.weight_decay}
    optimiser = torch.optim.AdamW(groups, lr=rate, **how, fused=True, capturable=cuda)
    for parameter in named.values():
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {"step": torch.zeros((), device=device)} | moments
    return optimiser


def _table(rows, device, flops, peak) -> pd.DataFrame:
    """What `train` returns, from its rows."""
    columns = ["step", "tokens", "loss", "learning_rate", "grad_norm", "seconds", "watched"]
    table = pd.DataFrame(rows, columns=columns).astype({"watched": float})
    first = len(table) // 10  # without compiling and warming up
    done = table.tokens.max() - table.tokens.shift(fill_value=0).iloc[first]
    speed = float(done / table.seconds.iloc[first:].sum())
    use = speed * flops / peak if peak else None
    table.attrs = {"device": device_name(device), "tokens": int(table.tokens.max())}
    table.attrs |= {"tokens_per_second": speed, "model_flops_share": use}
    return table
