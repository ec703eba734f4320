"""Runs of training: independent processes, the tables that each keeps, and what is gathered.

A `Run` is one model to train, with all that its numbers depend on, and a folder whose manifest says
that it is done: whatever schedules processes can carry out a grid, on one machine or many.
"""

import dataclasses
import json
import os
import queue
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from math import inf
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from l2m import files
from l2m.files import CannotWrite, DamagedFile, cache_dir, digest, meant
from l2m.language_models.models import default_device
from l2m.results import recorded

SCHEMA, CURE = "tables of a run 2", "it is made again from the last checkpoint"
CPU_TOKENS = 1_000_000  # more are not trained on without a GPU
GRACE = 5  # seconds in which a command that is stopped may end by itself
LOG_LINES = 15  # of a failed command, in its report
# What fields were called when the first results were recorded, which are found by these names.
RECORDED_AS = {
    "learning_rate": "peak_rate",
    "warmup_steps": "warmup",
    "gradient_accumulation_steps": "accumulate",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train and evaluate; its experiment's subclass has the fields, and `train`.

    It also has `title`, which tells it from others, without spaces, and `tokens`, how many, or how
    many vectors, it is trained on.
    """

    chapter = ""  # where the results of its experiment are recorded

    def about(self) -> dict:
        """Its fields, as JSON has them, by the names that results are recorded under."""
        fields = dataclasses.asdict(self)
        return {RECORDED_AS.get(key, key): value for key, value in fields.items()}

    def identity(self) -> dict:
        """All that its numbers depend on: its fields, and what its data are."""
        return self.about()

    @property
    def name(self) -> str:
        """Its title, and a digest of its fields: what it is called on a command line."""
        return f"{self.title}-{digest(self.about())[:6]}"

    @property
    def folder(self) -> Path:
        """Where its checkpoints and tables are kept."""
        return cache_dir() / "runs" / self.chapter / f"{self.title}-{digest(self.identity())[:12]}"

    def needs_gpu(self) -> bool:
        """Whether it is too large for the device that there is."""
        return self.tokens > CPU_TOKENS and default_device().type != "cuda"

    def finished(self) -> bool:
        """Whether its tables are there, and what they were."""
        try:
            return files.opened(self.folder, SCHEMA, CURE)["of"] == digest(self.identity())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except DamagedFile as error:
            warnings.warn(str(error), stacklevel=2)
            return False

    def train(self, deadline: float, progress: bool) -> dict[str, pd.DataFrame] | None:
        """Train, evaluate, and return its tables; None if the deadline (seconds) came before.

        One of them, ``runs``, has a single row: what was trained, and how it ended.
        """
        raise NotImplementedError

    def carry_out(self, deadline: float = inf, progress: bool = True) -> bool:
        """Train and evaluate unless done; whether it is. RuntimeError if another is at it."""
        if self.finished():
            return True
        with files.held(self.folder, main_process()):
            tables = self.train(deadline, progress)
            if tables and main_process():
                named = {f"{name}.parquet": table for name, table in tables.items()}
                for name, table in named.items():
                    table.attrs = {}
                    files.write_atomic(self.folder / name, table.to_parquet(compression="zstd"))
                files.seal(self.folder, SCHEMA, {"of": digest(self.identity())}, named)
        return tables is not None

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables, with a column `run`; DamagedFile if it is not what it was."""
        files.opened(self.folder, SCHEMA, CURE)
        return pd.read_parquet(self.folder / f"{name}.parquet").assign(run=self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerRun(Run):
    """A run that may be of power attention: its options, as `build_model` calls them."""

    s: float | None = None
    slots: float | None = None
    base: int | None = None
    attention_window: int | None = None
    merge: str | None = None
    heads: int | None = None
    head_dim: int | None = None

    later = ()  # further fields that the first recorded runs had not

    def power(self) -> dict:
        """The options of power attention."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(PowerRun)}

    def power_title(self) -> list[str]:
        """Their part of a title."""
        parts = [f"s{self.s:g}"] if self.s is not None else []
        parts += [f"c{self.slots:g}"] if self.slots is not None else []
        return parts + ([self.merge] if self.merge else [])

    def about(self) -> dict:
        """Its fields, of the later ones those given, by the names that results have."""
        return self.given(super().about())

    def given(self, fields: dict) -> dict:
        """Fields of the run: those that the first recorded had not come last, and only if given."""
        last = {key: fields[key] for key in (*self.later, *self.power())}
        first = {key: value for key, value in fields.items() if key not in last}
        return first | {key: value for key, value in last.items() if value is not None}


def grids_of(experiment: str, make: Callable) -> dict[str, list[Run]]:
    """By the name of a grid in `grids.json`, its runs, each made from its fields.

    These are those listed for it, and those `common` to all; every run is made once with each of
    the fields under `each`. The most important are first: what a deadline leaves is of use.
    """
    grids = json.loads(Path(__file__).with_name("grids.json").read_text(encoding="utf-8"))
    runs = {}
    for name, grid in grids[experiment].items():
        common, variants = grid.get("common", {}), grid.get("each", [{}])
        runs[name] = [make(**common | each | run) for each in variants for run in grid["runs"]]
    return runs


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Grids of runs, and how their tables are recorded."""

    name: str  # of `l2m train`, such as "gaussian"
    tables: tuple[str, ...]  # names of those that a run keeps
    grids: dict[str, list[Run]]
    params: Callable[[str, list[Run]], dict]  # (grid, runs) → what identifies the recorded tables
    dtype: str  # what the provenance says of the arithmetic

    def runs(self, grid: str) -> list[Run]:
        """The runs of a grid; ValueError if there is no such grid."""
        if grid not in self.grids:
            one = f"one of {', '.join(self.grids)}.{meant(grid, self.grids)}"
            raise ValueError(f"no grid {grid!r} of {self.name}: {one}")
        return self.grids[grid]

    def run(self, grid: str, name: str) -> Run:
        """The run of a grid that is called so; ValueError if there is none."""
        runs = {run.name: run for run in self.runs(grid)}
        if name not in runs:
            cure = f"`l2m train {self.name} --grid {grid} --list` names them"
            raise ValueError(f"no run {name!r} in the grid {grid!r}: {cure}.{meant(name, runs)}")
        return runs[name]

    def gather(self, grid: str) -> dict[str, pd.DataFrame]:
        """All tables of a grid: recorded, or of runs finished here or small; else MissingResult."""
        runs, tables = self.runs(grid), {}
        params, command = self.params(grid, runs), f"l2m train {self.name} --grid {grid} --record"
        names = {recorded_as: name for name, recorded_as in RECORDED_AS.items()}
        for name in self.tables:
            compute = partial(self._gathered, runs, name)
            table = recorded(self.result(grid, name), params, compute, command=command)
            tables[name] = table.rename(columns=names)
        return tables

    def result(self, grid: str, table: str) -> str:
        """The name that a table of a grid is recorded under."""
        return self.runs(grid)[0].chapter + ("/" if grid == "book" else f"/{grid}-") + table

    def _gathered(self, runs: list[Run], name: str) -> pd.DataFrame:
        missing = [run.name for run in runs if not run.finished() and run.needs_gpu()]
        if missing:  # `recorded` says what is missing, and what makes it
            names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            much = f"{len(missing)} of its {len(runs)} runs"
            raise FileNotFoundError(f"{much} have not been trained here and need a GPU: {names}")
        for run in runs:
            run.carry_out(progress=False)
        both = (name, "runs")
        table, about = (pd.concat([r.table(n) for r in runs], ignore_index=True) for n in both)
        table.attrs = {
            "device": ", ".join(sorted(set(about["device"]))),
            "dtype": self.dtype,
            "seconds": float(about["seconds"].sum()),
            "tokens": int(about["tokens"].sum()),
            "seeds": {"seed": sorted(map(int, set(about["seed"])))},
            "trained_with": {"torch": sorted(set(about["torch"]))},
        }
        return table


def main_process() -> bool:
    """Whether this is the process of `torchrun` that writes, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def visible_devices() -> list[str]:
    """The GPUs of this machine as `CUDA_VISIBLE_DEVICES` names them, [""] without any."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return given.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())] or [""]


def run_all(
    commands: dict[str, list[str]], logs: Path, *, per_device: int = 1, deadline: float = inf
) -> dict[str, str]:
    """Run commands in the order given, each in a process that sees one GPU, or only the CPU.

    `commands` are arguments by name, `per_device` how many run on a GPU at once; each has a log
    ``<name>.log`` in the folder `logs`. After the `deadline` (seconds) none is started; those that
    run are waited for. Returns, by name of what did not succeed, the end of its log, or that it was
    not started. A command that fails does not stop the others; Ctrl-C ends them all.
    """
    free, start, failures = queue.SimpleQueue(), time.monotonic(), {}
    processes, starting, stopped = [], threading.Lock(), threading.Event()
    for device in visible_devices() * max(1, min(per_device, len(commands))):
        free.put(device)
    threads = str(max(1, (os.cpu_count() or 1) // free.qsize()))
    with files.writing(logs):
        logs.mkdir(parents=True, exist_ok=True)

    def run(name):
        device, log = free.get(), logs / f"{name}.log"
        options = files.leash()
        env = {"OMP_NUM_THREADS": threads, **options.pop("env"), "CUDA_VISIBLE_DEVICES": device}
        try:
            if time.monotonic() - start > deadline:
                return "not started: the deadline had passed"
            with open(log, "w", encoding="utf-8") as file:
                with starting:  # so that none is missed when all are ended
                    if stopped.is_set():
                        return "not started: it was stopped"
                    options |= {"stdout": file, "stderr": file, "env": env}
                    processes.append(process := subprocess.Popen(commands[name], **options))
                code = process.wait()
            if code == 0:
                return ""
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            with files.writing(log), open(log, "a", encoding="utf-8") as file:
                file.write(f"exit status {code}\n")  # or a full disk is why it says nothing
            return "\n".join([f"exit status {code}", *lines[-LOG_LINES:]])
        except (OSError, CannotWrite) as error:
            return str(error)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(free.qsize())
    try:
        futures = {pool.submit(run, name): name for name in commands}
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            if said := future.result():
                failures[futures[future]] = said
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        with starting:
            stopped.set()
        for process in processes:
            process.terminate()  # which lets it remove what it had half written
        for process in processes:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    return failures
