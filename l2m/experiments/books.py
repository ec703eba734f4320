"""Models trained on books, and their loss by position on books that were held out (Sec. 6, App. G).

    python -m l2m.experiments.books --runs smoke
    python -m l2m.experiments.books --runs book --deadline 560

Every run is a process, on a GPU of its own if there is one, and goes on from its last checkpoint
when the command is given again. A finished run leaves three tables in the cache folder: `metrics`
(the learning curve), `positions` (loss by position, book by book) and `terms` (`l2m.information.bipartite`, of
windows of held-out books). All runs of an experiment read the same token file, and those of one
length the same batches in the same order.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from l2m.experiments.book_runs import EXPERIMENTS, Experiment, Run
from l2m.experiments.position_losses import book_losses
from l2m.language_models.models import default_device
from l2m.language_models.models import fingerprint as model_fingerprint
from l2m.results import MissingResult, cache_dir, recorded, write_atomic
from l2m.text.token_files import TokenFile, open_tokens

__all__ = ["carry_out", "finished", "gathered", "run_folder"]

TABLES = ("metrics", "positions", "terms")
UNFINISHED = 75  # exit status of a run that stopped for its deadline
SPARE = 60  # seconds that a run keeps back for evaluating
CPU_TOKENS = 1_000_000  # more are not trained on without a GPU


def run_folder(run: Run, experiment: Experiment, tokens_sha256: str) -> Path:
    """Where checkpoints and tables of a run are: named by all that its numbers depend on."""
    about = dataclasses.asdict(run) | experiment.about()
    for name in ("runs", "corpora", "tokenizer", "limit", "accumulate"):
        about.pop(name)
    about["tokens_sha256"] = tokens_sha256
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    return cache_dir() / "runs" / "07_books" / f"{run.name}-{key}"


def finished(folder: Path) -> bool:
    """Whether a run has all its tables; `about.json` is written last."""
    return (folder / "about.json").exists()


def carry_out(run: Run, experiment: Experiment, file: TokenFile, until=np.inf, progress=True):
    """Train, evaluate and score one run in this process, unless its tables are there.

    Parameters
    ----------
    until : `time.time()` at which it should be over; training then stops at a checkpoint.

    Returns
    -------
    bool : whether it is finished.
    """
    import torch

    from l2m.experiments.book_evaluation import HeldOut
    from l2m.training.loop import train

    folder = run_folder(run, experiment, file.sha256)
    if finished(folder):
        return True
    if until - time.time() < SPARE:
        return False
    device = default_device()
    logging.getLogger("transformers").setLevel(logging.ERROR)  # that Mamba is slow on a CPU
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, where it is not bf16
    model = run.model(file.vocabulary).to(device)
    judge = HeldOut(run, experiment, file, model)
    metrics = train(
        model,
        judge.task,
        run.training(device.type),
        folder,
        device,
        progress,
        deadline=until - SPARE - time.time(),
        watch=judge.watch,
        watch_every=max(1, run.steps // 6),
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", 0)) > 0:  # the first process evaluates
        return True
    if metrics["step"].max() < run.steps:
        return False
    about = dataclasses.asdict(run) | {"tokens_sha256": file.sha256}
    about |= {"gpus": int(os.environ.get("WORLD_SIZE", 1)) if device.type == "cuda" else 0}
    about |= {"weights": sum(p.numel() for p in model.parameters())}
    about |= {"config": model.config.to_dict(), "epochs": judge.task.epochs(run.tokens)}
    about |= metrics.attrs | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    metrics.attrs = {}
    made = {"metrics": lambda: metrics, "positions": judge.positions, "terms": judge.terms}
    for name in TABLES:
        write_atomic(folder / f"{name}.parquet", made[name]().to_parquet(compression="zstd"))
    write_atomic(folder / "about.json", json.dumps(about, indent=1, default=str))
    return True


def gathered(name: str, experiment: Experiment | None = None) -> dict[str, pd.DataFrame]:
    """The tables of all runs of an experiment: recorded, or made here if a CPU can.

    Parameters
    ----------
    name : of `l2m.experiments.book_runs.EXPERIMENTS`, unless another experiment is given.

    Returns
    -------
    dict of `runs` (one row a run: its sizes, `weights`, `config` as json, speed, device),
    `metrics`, `positions` and `terms`, each with a column `run`.

    Raises
    ------
    MissingResult
        If runs are neither recorded nor in the cache folder, and there is no GPU for them.
    """
    from l2m.text import corpora

    experiment = experiment or EXPERIMENTS[name]
    params = experiment.about()
    params["texts"] = {c: corpora.fingerprint(c, experiment.limit) for c in experiment.corpora}
    params["tokenizer_sha256"] = model_fingerprint(experiment.tokenizer)
    params.pop("limit")
    command = f"python -m l2m.experiments.books --runs {name} --record"
    prefix = "" if name == "book" else f"{name}-"
    kept: dict[str, pd.DataFrame] = {}

    def table(which):
        if not kept:
            kept.update(_gather(experiment))
        return kept[which]

    tables = {}
    for which in ("runs", *TABLES):
        compute = functools.partial(table, which)
        tables[which] = recorded(f"07_books/{prefix}{which}", params, compute, command=command)
    return tables


def _gather(experiment: Experiment) -> dict[str, pd.DataFrame]:
    """Tables of all runs, which are carried out here if they are small enough for a CPU."""
    file = experiment.file()
    parts: dict[str, list] = {key: [] for key in ("runs", *TABLES)}
    for run in experiment.runs:
        folder = run_folder(run, experiment, file.sha256)
        if not finished(folder):
            if _needs_gpu(run):
                raise MissingResult(f"{run.name} has not been trained, and needs a GPU")
            carry_out(run, experiment, file, progress=False)
        about = json.loads((folder / "about.json").read_text())
        about["config"] = json.dumps(about["config"])
        parts["runs"].append(pd.DataFrame([{"run": run.name, **about}]))
        for key in TABLES:
            table = pd.read_parquet(folder / f"{key}.parquet")
            parts[key].append(table.assign(run=run.name))
    tables = {key: pd.concat(part, ignore_index=True) for key, part in parts.items()}
    for table in tables.values():
        table["run"] = table["run"].astype("category")
        table.attrs = {
            "device": ", ".join(sorted(set(tables["runs"]["device"]))),
            "tokens": int(tables["runs"]["tokens"].sum()),
            "seconds": float(tables["metrics"]["seconds"].sum()),
            "dtype": "bf16 autocast of fp32 weights",
            "versions": {"torch": ", ".join(sorted(set(tables["runs"]["torch"])))},
            "tokens_sha256": file.sha256,
            "books": file.books["title"].tolist(),
        }
    return tables


def main(arguments=None) -> int:
    """Command line; the exit status is 1 if a run failed."""
    from l2m.experiments.runs import run_fleet

    options = _parser().parse_args(arguments)
    experiment = EXPERIMENTS[options.runs]
    runs = {run.name: run for run in experiment.runs if run.name in (options.only or [run.name])}
    if unknown := set(options.only or ()) - set(runs):
        names = ", ".join(run.name for run in experiment.runs)
        print(f"no run {', '.join(unknown)} in {options.runs!r}, only {names}", file=sys.stderr)
        return 2
    if options.accumulate:
        runs = {n: dataclasses.replace(r, accumulate=options.accumulate) for n, r in runs.items()}
    if options.here:
        [run] = runs.values()
        file = open_tokens(options.here)
        done = carry_out(run, experiment, file, options.until)
        if done and options.out:
            copy_tables(run_folder(run, experiment, file.sha256), options.out)
        return 0 if done else UNFINISHED
    until = time.time() + options.deadline
    file = experiment.file(options.tokenizer)
    folders = {name: run_folder(run, experiment, file.sha256) for name, run in runs.items()}
    if options.tables:
        for name in runs:
            copy_tables(options.tables / folders[name].name, folders[name].parent)
    if large := [n for n in runs if _needs_gpu(runs[n]) and not finished(folders[n])]:
        print(f"no GPU to train {', '.join(large)} on; 'smoke' needs none", file=sys.stderr)
        return 2
    print(f"{len(file.tokens):,} tokens of {len(file.books)} books in {file.folder}", flush=True)
    again = ["--runs", options.runs, "--here", str(file.folder), "--until", str(until)]
    again += ["--out", str(options.out)] if options.out else []
    again += ["--accumulate", str(options.accumulate)] if options.accumulate else []
    commands = {
        name: [sys.executable, "-m", "l2m.experiments.books", *again, "--only", name]
        for name in runs
        if not finished(folders[name])
    }
    failures = run_fleet(commands, cache_dir() / "runs" / "logs", deadline=options.deadline - SPARE)
    for name, run in runs.items():
        if name in failures and not failures[name].startswith(("not started", "exit status 75")):
            print(f"{name}: failed: {failures[name]}", file=sys.stderr)
        print(f"{name}: {_state(run, folders[name])}")
    failures = {name for name in failures if not finished(folders[name])}
    if not failures and options.record:
        os.environ["L2M_RECORD"] = "1"
        gathered(options.runs)
    return 1 if failures else 0


def _needs_gpu(run):
    """Whether it is too large for the device that there is."""
    return run.tokens > CPU_TOKENS and default_device().type != "cuda"


def copy_tables(folder: Path, target: Path) -> None:
    """Copy the tables of a finished run, without its weights, to `target/<its name>`."""
    for name in (*(f"{table}.parquet" for table in TABLES), "about.json"):
        if (folder / name).exists():
            write_atomic(target / folder.name / name, (folder / name).read_bytes())


def _state(run, folder):
    if not finished(folder):
        steps = sorted(folder.glob("step-*.safetensors"))
        done = int(steps[-1].stem.split("-")[1]) if steps else 0
        return f"{done} of {run.steps} steps; goes on when run again"
    about = json.loads((folder / "about.json").read_text())
    positions = pd.read_parquet(folder / "positions.parquet")
    [loss] = book_losses(positions.assign(run=run.name), run.name).overall().mean
    return f"held-out loss {loss:.3f} nats, {about['tokens_per_second']:,.0f} tokens/s"


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m l2m.experiments.books",
        description="Train and evaluate the models of chapter 7.",
    )
    add = parser.add_argument
    add("--runs", choices=EXPERIMENTS, required=True, help="the experiment")
    add("--only", nargs="+", metavar="RUN", help="some of its runs, by name")
    add("--tokenizer", help="a local copy of the experiment's tokenizer")
    add(
        "--deadline", type=float, default=1e9, metavar="SECONDS", help="stop in good time, to go on"
    )
    add("--out", type=Path, metavar="FOLDER", help="copy the tables of finished runs there")
    add("--tables", type=Path, metavar="FOLDER", help="tables of runs that were made elsewhere")
    add("--accumulate", type=int, metavar="N", help="parts of a batch, if memory is short")
    add("--record", action="store_true", help="write the tables of all runs to results/")
    add("--here", type=Path, help=argparse.SUPPRESS)  # token file: carry out one run right here
    add("--until", type=float, default=np.inf, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
