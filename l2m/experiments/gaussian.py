"""GPT-2, Mamba and Mamba-2 on Gaussian sequences whose truth is known (Sec. 6, App. F and G).

    python -m l2m.experiments.gaussian --grid book --record     # all runs, on all GPUs there are
    python -m l2m.experiments.gaussian --grid smoke             # a miniature, on a CPU
    python -m l2m.experiments.gaussian --run '{"family": "mamba", "length": 256, "width": 64}'

A token is a vector of 64 numbers, one of each of 64 independent copies of a `GaussianFamily`. All
models see the same data and the same loss, the exact Kullback-Leibler divergence of the conditional
p(z_i | z_<i) from the model's; what differs is their history state.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from math import log

import numpy as np
import pandas as pd

from l2m.experiments import gaussian_grids
from l2m.training.tasks import GaussianTask
from l2m.results import MissingResult, cache_dir, recorded, write_atomic

TABLES = ("curves", "positions", "runs")


@dataclass(frozen=True)
class Run:
    """One training run: the model, its data, and its budget.

    `state` is d_state of a Mamba, `window` that of a sliding-window GPT-2; `vectors` are those of
    one step, `held_out` those that the trained model is evaluated on.
    """

    family: str
    length: int
    layers: int = 4
    width: int = 256
    state: int | None = None
    window: int | None = None
    seed: int = 0
    kind: str = "sub-volume"
    copies: int = 64
    steps: int = 8000
    vectors: int = 4096
    peak_rate: float = 1.5e-3
    warmup: int = 400
    held_out: int = 262_144

    def __post_init__(self):
        size = round(log(self.length, 4))
        if size < 1 or 4**size != self.length:
            raise ValueError(f"length must be a power of 4, not {self.length}.")
        if self.vectors % self.length or self.held_out % self.length:
            raise ValueError(f"vectors and held_out must be multiples of length = {self.length}.")

    @property
    def name(self):
        """What distinguishes it within a grid, legible: also the name of its folder."""
        parts = [self.family, f"{self.layers}x{self.width}"]
        parts += [f"state{self.state}"] if self.state else []
        parts += [f"window{self.window}"] if self.window else []
        parts += [self.kind] if self.kind != "sub-volume" else []
        key = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:6]
        return "-".join([*parts, f"L{self.length}", f"seed{self.seed}", key])

    @property
    def folder(self):
        """Where its tables are kept."""
        return cache_dir() / "runs" / "gaussian" / self.name

    def task(self):
        """Return the `GaussianTask` it trains on."""
        return GaussianTask(self.kind, round(log(self.length, 4)), self.copies, self.seed)

    def model(self):
        """Return the untrained model."""
        from l2m.language_models.models import build_model

        sizes = {key: getattr(self, key) for key in ("layers", "width", "state", "window", "seed")}
        return build_model(self.family, dim=self.copies, length=self.length, **sizes)

    def finished(self):
        """Whether its tables are there."""
        return (self.folder / "runs.parquet").exists()


def train_run(run, device=None, progress=True):
    """Train and evaluate one model.

    Returns
    -------
    dict of DataFrame
        ``curves`` (`run, step, loss, rate`), ``positions`` (`run, first, last, kl, stderr, entropy`
        by block of positions, counted from 1; see `blocks`) and ``runs``, one row: the fields of
        `Run`, `parameters`, `dim_z` (the history state after L/2 vectors), `mi` (I_BP of the
        vectors' halves, nats), `kl` and its `stderr` (mean over positions, nats a number),
        `entropy`, `seconds`, `vectors_per_second`, `device`, `torch` (its version).
    """
    import torch

    from l2m.memory.history_state import history_state_dim
    from l2m.training.loop import Training, evaluate_positions, train

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: changes a divergence by 1e-6 nats
    task, model = run.task(), run.model()
    config = Training(
        steps=run.steps,
        batch_size=run.vectors // run.length,
        peak_rate=run.peak_rate,
        warmup=run.warmup,
        precision="fp32",
        graph=device.type == "cuda",
    )
    curve = train(model, task, config, device=device, progress=progress)
    size = min(run.vectors, run.held_out) // run.length
    batches = [task.held_out(i, size, device) for i in range(run.held_out // (size * run.length))]
    kl = evaluate_positions(model, task, batches, precision="fp32")
    row = asdict(run) | {
        "run": run.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dim_z": history_state_dim(model.config, run.length // 2),
        "mi": run.copies * task.family.bipartite_mi(run.length // 2),
        "kl": kl.mean(),
        "stderr": kl.mean(axis=1).std(ddof=1) / len(kl) ** 0.5,
        "entropy": task.entropy().mean(),
        "seconds": curve["seconds"].sum(),
        "vectors_per_second": curve.attrs["tokens_per_second"],
        "device": curve.attrs["device"],
        "torch": torch.__version__,
    }
    tables = {
        "curves": thin_curve(curve)[["step", "loss", "rate"]],
        "positions": by_block(kl, task.entropy()),
        "runs": pd.DataFrame([row]).astype({"state": "Int64", "window": "Int64"}),
    }
    for table in tables.values():
        table.attrs = {}
        table["run"] = run.name
    return tables


def blocks(length, n=160):
    """Edges of about n blocks of positions: single ones up to 64, then wider by the logarithm.

    Wide blocks hold whole rows of sixteen numbers, since the divergence depends on the place in a
    row; L/2 is an edge.
    """
    wide = 16 * np.round(np.geomspace(64, max(length, 64), n - 64) / 16).astype(int)
    edges = np.unique(np.concatenate([np.arange(65), wide, [length // 2]]))
    return edges[edges <= length]


def window_floor(family, m):
    """Least possible divergence by position of a model that sees the last m numbers only, (L,).

    ½ log(Var(Z_i | Z_{i-m..i-1}) / Var(Z_i | Z_<i)), in nats; attention with a window of w in n
    layers sees n·(w-1) + 1.
    """
    c, deviation = family.covariance(), np.diag(family.cholesky())
    reach = min(m, family.length - 1)
    seen = np.diag(np.linalg.cholesky(c[:reach, :reach]))
    rest = [
        np.linalg.cholesky(c[i - reach : i + 1, i - reach : i + 1])[-1, -1]
        for i in range(reach, family.length)
    ]
    return np.log(np.concatenate([seen, rest]) / deviation)


def by_block(kl, entropy):
    """Mean divergence by block of positions, from its values (n, L): see `train_run`."""
    edges = blocks(kl.shape[1])
    widths = np.diff(edges)
    means = np.add.reduceat(kl, edges[:-1], axis=1) / widths
    return pd.DataFrame(
        {
            "first": edges[:-1] + 1,
            "last": edges[1:],
            "kl": means.mean(axis=0),
            "stderr": means.std(axis=0, ddof=1) / len(kl) ** 0.5,
            "entropy": np.add.reduceat(entropy, edges[:-1]) / widths,
        }
    )


def thin_curve(curve, n=80):
    """Mean of a learning curve over about n blocks of steps, wider by the logarithm."""
    block = np.floor(n * np.log1p(curve["step"]) / np.log1p(curve["step"].max()))
    return curve.groupby(block, as_index=False)[["step", "loss", "rate"]].mean()


def keep(run, tables):
    """Write the tables of a run into its folder; the one-row table last, as a seal."""
    for name in TABLES:
        write_atomic(run.folder / f"{name}.parquet", tables[name].to_parquet())


def gathered(name, grid, record=False):
    """Return table `name` (of `TABLES`) of all runs of a grid, or what is recorded of it.

    Raises
    ------
    MissingResult
        If it is neither recorded nor trained here.
    """
    runs = runs_of(grid)
    text = json.dumps([asdict(run) for run in runs])
    params = {"grid": grid, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    command = f"python -m l2m.experiments.gaussian --grid {grid} --record"

    def gather():
        missing = [run.name for run in runs if not run.finished()]
        if missing:
            raise MissingResult(
                f"The result '06_gaussian/{name}' is not recorded, and {len(missing)} of its "
                f"{len(runs)} runs are not trained here ({missing[0]}, …). "
                f"It is made by `{command}`."
            )
        table, about = tables_of(runs, name), tables_of(runs, "runs")
        table.attrs = {
            "device": ", ".join(sorted(set(about["device"]))),
            "dtype": "float32, products in TF32",
            "seconds": float(about["seconds"].sum()),
            "tokens": int((about["steps"] * about["vectors"]).sum()),
            "seeds": {"seed": sorted(set(about["seed"]))},
            "trained_with": {"torch": sorted(set(about["torch"]))},
        }
        return table

    if record:
        os.environ["L2M_RECORD"] = "1"
    return recorded(f"06_gaussian/{name}", params, gather, command=command)


def tables_of(runs, name):
    """Return table `name` of those of the runs that are finished."""
    files = [run.folder / f"{name}.parquet" for run in runs if run.finished()]
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def runs_of(grid):
    """Return the runs of a grid, the most important first (`l2m.experiments.gaussian_grids`)."""
    return [Run(**fields) for fields in gaussian_grids.GRIDS[grid]()]


def main(arguments=None):
    """Command line: train one run, or a grid of them over all GPUs, and gather their tables."""
    from l2m.experiments.runs import run_fleet

    parser = argparse.ArgumentParser(
        prog="python -m l2m.experiments.gaussian", description=__doc__.split("\n")[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--grid", choices=gaussian_grids.GRIDS, help="train all its runs")
    what.add_argument("--run", type=json.loads, help="fields of one run, JSON")
    parser.add_argument("--per-gpu", type=int, default=1, help="runs at once on a GPU")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--record", action="store_true", help="write to results/")
    options = parser.parse_args(arguments)
    # one variant of Mamba-2's kernels: choosing the best takes minutes for every shape
    os.environ.setdefault("MAMBA_DETERMINISTIC", "1")
    if options.run:
        try:
            run = Run(**options.run)
        except (TypeError, ValueError) as error:
            parser.error(f"--run: {error}")
        if not run.finished():
            keep(run, train_run(run))
        print(pd.read_parquet(run.folder / "runs.parquet").T.to_string(header=False))
        return
    runs = runs_of(options.grid)
    commands = {
        run.name: [sys.executable, "-m", "l2m.experiments.gaussian", "--run", json.dumps(asdict(run))]
        for run in runs
        if not run.finished()
    }
    start, logs = time.perf_counter(), cache_dir() / "runs" / "gaussian" / "logs"
    failures = run_fleet(commands, logs, per_device=options.per_gpu, deadline=options.deadline)
    if any(run.finished() for run in runs):
        columns = ["run", "dim_z", "mi", "kl", "seconds"]
        print(tables_of(runs, "runs")[columns].round(5).to_string(index=False))
    for name, why in failures.items():
        print(f"{name}: {why}", file=sys.stderr)
    print(f"{len(commands) - len(failures)} runs in {time.perf_counter() - start:.0f} s")
    if failures:
        sys.exit(1)
    for name in TABLES:
        gathered(name, options.grid, options.record)


if __name__ == "__main__":
    main()
