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
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from l2m.files import held
from l2m.information.resampling import is_integer
from l2m.language_models.models import default_device, device_name, weights_sha256
from l2m.training import acceleration
from l2m.training.checkpoints import load_latest, save
from l2m.training.networks import require_kernels


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train; the seeds are `build_model`'s, of the weights, and the task's, of the data."""

    steps: int  # of the optimiser
    batch_size: int  # sequences per step, all processes together
    learning_rate: float = 6e-4  # to which the rate rises, linearly; then it falls as a cosine to 0
    warmup_steps: int = 100
    weight_decay: float = 0.01  # of AdamW; matrices alone decay
    grad_clip: float = 1.0  # largest norm of the gradient
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_accumulation_steps: int = 1  # parts that a step's batch is processed in
    precision: str = "bf16"  # autocast: products in bf16, weights and losses in fp32; or "fp32"
    compile: bool = False  # the layers, by `torch.compile`
    graph: bool = False  # replay each step as one CUDA graph; for small models, all launches
    log_every: int = 10  # steps between rows of the table
    save_every: int = 0  # steps between checkpoints; 0: the end alone

    def __post_init__(self):
        least = {"steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1}
        for name in (*least, "warmup_steps", "log_every", "save_every"):
            value, at_least = getattr(self, name), least.get(name, 0)
            if not is_integer(value) or value < at_least:
                raise ValueError(f"{name} is a whole number, at least {at_least}, not {value!r}")
        for name in ("learning_rate", "weight_decay", "grad_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number, at least 0, not {getattr(self, name)!r}")

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
    """Train a `model` of `build_model` in place, from the last checkpoint in `folder`, if any.

    Without a `folder` nothing is kept; without a `device` it is a GPU if there is one. Under
    `torchrun` the processes share each step's batch; a single one stops at a checkpoint after
    `deadline` seconds, to go on another time. `watch`, a function of the model such as a held-out
    loss, is asked every `watch_every` steps.

    Returns a DataFrame `step, tokens, loss, learning_rate, grad_norm, seconds, watched`: loss in
    nats, the mean since the row before; `watched` is NaN where nothing was asked. Its `attrs` are
    device, tokens, tokens_per_second and model_flops_share (None for a card that is not known).

    Raises ModuleNotFoundError if a Mamba is to train on a GPU without its kernels; RuntimeError if
    the folder holds another run's checkpoints, or is used by one, compiled layers give other
    numbers than plain ones, or the loss stops being a number; CannotWrite if the disk takes no
    checkpoint; TypeError if there is a folder, but the task has no `about`; ValueError if the batch
    does not divide among processes and parts, or there can be no graph.
    """
    device = torch.device(device or default_device())
    run = _Run(model, task, config, device)
    about = _identity(model, task, config) if folder else {}
    tokens = config.batch_size * task.length
    flops = acceleration.flops_per_token(model, task.length)
    peak = acceleration.peak_flops(device) * run.world
    shown = {"unit": "token", "unit_scale": True, "mininterval": 1}
    shown["disable"] = not (progress and run.rank == 0)
    losses, clock = [], time.perf_counter()
    until = clock + deadline

    def due(done, every):
        return done == config.steps or done % (every or config.steps) == 0

    with (
        held(folder, folder and run.rank == 0),
        nullcontext(load_latest(folder, model, run.optimiser, about)) as (start, rows),
        tqdm(total=config.steps * tokens, initial=start * tokens, **shown) as bar,
        acceleration.prepared(model, config.compile),
    ):
        graph = config.graph and start < config.steps
        if config.compile and start < config.steps:
            run.require_same(start)
        advance = acceleration.graphed(run, start) if graph else run.advance
        for done in range(start + 1, config.steps + 1):
            rate = run.set_rate(done - 1)
            loss, norm = advance(done - 1)
            losses.append(loss.clone())
            bar.update(tokens)
            late = run.world == 1 and time.perf_counter() > until
            saving, logging = (late or due(done, n) for n in (config.save_every, config.log_every))
            watching = watch is not None and due(done, watch_every)
            if saving or watching or logging:
                value, seconds = run.mean(losses, done), time.perf_counter() - clock
                watched = float(watch(model)) if watching else None
                rows.append([done, done * tokens, value, rate, float(norm), seconds, watched])
                use = len(losses) * tokens / seconds * flops / peak if peak else 0.0
                bar.set_postfix_str(f"loss {value:.4f}" + (f", {use:.0%} of peak" if peak else ""))
                if saving and folder and run.rank == 0:
                    save(folder, done, rows, model, run.optimiser, about)
                losses, clock = [], time.perf_counter()
            if late:
                break
    return _table(rows, device, flops, peak)


class _Run:
    """A model on its device, its optimiser, and this process's share of every batch."""

    def __init__(self, model, task, config, device):
        self.model, self.task, self.config, self.device = model, task, config, device
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        parts, cuda = config.gradient_accumulation_steps, device.type == "cuda"
        self.share, left = divmod(config.batch_size, self.world * parts)
        if left:
            among = f"among {self.world} process(es) × gradient_accumulation_steps={parts}"
            raise ValueError(f"a batch of {config.batch_size} sequences does not divide {among}")
        if config.graph and (self.world > 1 or not cuda):
            raise ValueError("graph=True needs one process and a GPU")
        if cuda:
            if device.index is not None:
                torch.cuda.set_device(device)
            require_kernels(model)
        model.to(device).train()
        self.objective = _Objective(model, task)
        if self.world > 1:
            if not dist.is_initialized():
                dist.init_process_group("nccl" if cuda else "gloo")
            how = {"device_ids": [device.index] if cuda else None, "gradient_as_bucket_view": True}
            self.objective = DistributedDataParallel(self.objective, **how)
        self.optimiser = _optimiser(model, config, device)

    def batches(self, step):
        """The batches of this process at a step: one for each part, tuples of tensors."""
        share, size = self.share, self.config.batch_size
        own = size // self.world
        starts = range(self.rank * own, (self.rank + 1) * own, share)
        return [self.task.batch(step, size, slice(i, i + share), self.device) for i in starts]

    def advance(self, step):
        return self.step_on(self.batches(step))

    def step_on(self, batches, update=True):
        """Take one step on the batches; returns the loss and the gradient's norm, tensors ()."""
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for i, batch in enumerate(batches, 1):
            alone = i == len(batches) or self.world == 1
            with nullcontext() if alone else self.objective.no_sync():
                with _arithmetic(self.device, self.config.precision):
                    loss = self.objective(*batch) / len(batches)
                loss.backward()
            total = total + loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if update:
            self.optimiser.step()
        return total, norm

    def require_same(self, step):
        """RuntimeError if a step's loss or gradient is another with compiled layers than without.

        Compilers err (see `ContentMerge`). Without, the batch is done in parts, in little memory.
        """
        batches, found = self.batches(step), []
        parts = math.gcd(self.share, 8)
        plain = [p for batch in batches for p in zip(*(t.chunk(parts) for t in batch), strict=True)]
        for stance, some in (("force_eager", plain), ("default", batches)):
            with torch.compiler.set_stance(stance):
                found.append([float(x) for x in self.step_on(some, update=False)])
        error = {"fp32": (0.001, 0.02), "bf16": (0.01, 0.1)}[self.config.precision]  # fp32: TF32
        for what, a, b, most in zip(("loss", "gradient's norm"), *found, error, strict=True):
            if math.isfinite(a) and not abs(a - b) <= most * abs(a):  # else `mean` says it
                said = f"compiled layers give a {what} of {b:.4g}, plain ones {a:.4g}"
                cure = "train with compile=False, or another torch"
                raise RuntimeError(f"{said}: the compiler errs; {cure}")

    def set_rate(self, step) -> float:
        rate = self.config.rate_at(step)
        for group in self.optimiser.param_groups:  # on a GPU a tensor, which a graph reads
            group["lr"] = group["lr"].fill_(rate) if torch.is_tensor(group["lr"]) else rate
        return rate

    def mean(self, losses, done) -> float:
        """Mean of the losses over steps and processes; RuntimeError if it is not finite."""
        mean = torch.stack(losses).mean()
        if self.world > 1:
            dist.all_reduce(mean)
        value = float(mean / self.world)
        if not math.isfinite(value):
            cure = f"lower the learning rate, {self.config.learning_rate}"
            raise RuntimeError(f"the loss is {value} at step {done}: {cure}")
        return value


@torch.inference_mode()
def evaluate_positions(model, task, batches, precision="bf16") -> np.ndarray:
    """The task's loss at every position of `batches`, float64 (n, L), nats; or RuntimeError."""
    out = []
    with torch.compiler.set_stance("force_eager"):  # compiling again would take longer
        for batch in batches:
            with _arithmetic(batch[0].device, precision):
                out.append(task.values(model, *batch).double().cpu().numpy())
    losses = np.concatenate(out)
    for row, place in np.argwhere(~np.isfinite(losses)):
        value = losses[row, place]
        raise RuntimeError(f"the loss of sequence {row} at position {place} is {value}: train anew")
    return losses


@contextmanager
def _arithmetic(device, precision: str):
    with autocast(device, precision), acceleration.attention_kernels(device):
        yield


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
