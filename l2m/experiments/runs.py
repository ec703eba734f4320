"""Runs of training: independent processes, the tables that each keeps, and what is gathered.

A `Run` is one model to train, with all that its numbers depend on. It has a folder of its own, in
the cache, whose manifest is written last and so says that it is done: whatever schedules
processes can carry out a grid of runs, on one machine (`run_all`) or many.
"""

import dataclasses
import os
import queue
import subprocess
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from l2m.files import DamagedFile, cache_dir, digest, held, opened, seal, write_atomic
from l2m.language_models.models import default_device
from l2m.results import MissingResult, recorded

SCHEMA, CURE = "tables of a run 2", "it is made again from the last checkpoint"
CPU_TOKENS = 1_000_000  # more are not trained on without a GPU
LOG_LINES = 15  # of a failed command, in its report
# What fields were called when the first results were recorded, which are found by these names.
RECORDED_AS = {
    "learning_rate": "peak_rate",
    "warmup_steps": "warmup",
    "gradient_accumulation_steps": "accumulate",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train and evaluate; its experiment's subclass has the fields, and `train`."""

    chapter = ""  # where the results of its experiment are recorded

    def about(self) -> dict:
        """Its fields, as JSON has them, by the names that results are recorded under."""
        fields = dataclasses.asdict(self)
        return {RECORDED_AS.get(key, key): value for key, value in fields.items()}

    def identity(self) -> dict:
        """All that its numbers depend on: its fields, and what its data are."""
        return self.about()

    @property
    def title(self) -> str:
        """What tells it from others to a reader, without spaces."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Its title, and a digest of its fields: what it is called on a command line."""
        return f"{self.title}-{digest(self.about())[:6]}"

    @property
    def folder(self) -> Path:
        """Where its checkpoints and tables are kept."""
        return cache_dir() / "runs" / self.chapter / f"{self.title}-{digest(self.identity())[:12]}"

    @property
    def total_tokens(self) -> int:
        """Tokens, or vectors, that it is trained on."""
        raise NotImplementedError

    def needs_gpu(self) -> bool:
        """Whether it is too large for the device that there is."""
        return self.total_tokens > CPU_TOKENS and default_device().type != "cuda"

    def finished(self) -> bool:
        """Whether its tables are there, and what they were."""
        try:
            return opened(self.folder, SCHEMA, CURE)["of"] == digest(self.identity())
        except FileNotFoundError:
            return False
        except DamagedFile as error:
            warnings.warn(str(error), stacklevel=2)
            return False

    def train(self, deadline: float, progress: bool) -> dict[str, pd.DataFrame] | None:
        """Train, evaluate, and return its tables; None if the deadline (seconds) came before.

        One of them, ``runs``, has a single row: what was trained, and how it ended.
        """
        raise NotImplementedError

    def carry_out(self, deadline: float = float("inf"), progress: bool = True) -> bool:
        """Train and evaluate in this process, unless its tables are there; whether it is finished.

        Raises
        ------
        RuntimeError
            If another process is at it.
        """
        if self.finished():
            return True
        with held(self.folder, main_process()):
            tables = self.train(deadline, progress)
            if tables and main_process():
                for name, table in tables.items():
                    table = table.assign(run=self.name)
                    table.attrs = {}
                    content = table.to_parquet(compression="zstd")
                    write_atomic(self.folder / f"{name}.parquet", content)
                names = [f"{name}.parquet" for name in tables]
                seal(self.folder, SCHEMA, {"of": digest(self.identity())}, names)
        return tables is not None

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables, with a column `run`; DamagedFile if it is not what it was."""
        opened(self.folder, SCHEMA, CURE)
        return pd.read_parquet(self.folder / f"{name}.parquet").assign(run=self.name)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Grids of runs, and how their tables are recorded.

    Attributes
    ----------
    name : of `l2m train`, such as "gaussian".
    chapter : where its results are recorded.
    tables : names of the tables that a run keeps.
    grids : name → function that returns the runs, the most important first.
    params : (grid, runs) → what identifies the recorded tables.
    dtype : what the provenance says of the arithmetic.
    """

    name: str
    chapter: str
    tables: tuple[str, ...]
    grids: dict[str, Callable[[], list[Run]]]
    params: Callable[[str, list[Run]], dict]
    dtype: str

    def runs(self, grid: str) -> list[Run]:
        """The runs of a grid.

        Raises
        ------
        ValueError
            If there is no such grid.
        """
        if grid not in self.grids:
            raise ValueError(f"no grid {grid!r} of {self.name}: one of {', '.join(self.grids)}")
        return list(self.grids[grid]())

    def run(self, grid: str, name: str) -> Run:
        """The run of a grid that is called so.

        Raises
        ------
        ValueError
            If there is none.
        """
        for run in self.runs(grid):
            if run.name == name:
                return run
        raise ValueError(
            f"no run {name!r} in the grid {grid!r}: "
            f"`l2m train {self.name} --grid {grid} --list` names them"
        )

    def command(self, grid: str, run: Run) -> list[str]:
        """What carries out one run, as arguments of `l2m`."""
        return ["train", self.name, "--grid", grid, "--run", run.name]

    def gather(self, grid: str) -> dict[str, pd.DataFrame]:
        """All tables of a grid: recorded, or of runs that are finished here or small enough to be.

        Raises
        ------
        MissingResult
            If runs are neither, and there is no GPU for them.
        """
        runs = self.runs(grid)
        params, command = self.params(grid, runs), f"l2m train {self.name} --grid {grid} --record"
        prefix = "" if grid == "book" else f"{grid}-"
        tables = {}
        for name in self.tables:
            whole = f"{self.chapter}/{prefix}{name}"
            compute = partial(self._gathered, runs, name, command)
            table = recorded(whole, params, compute, command=command)
            new = {old: new for new, old in RECORDED_AS.items() if old in table}
            tables[name] = table.rename(columns=new)
            tables[name].attrs = table.attrs
        return tables

    def _gathered(self, runs: list[Run], name: str, command: str) -> pd.DataFrame:
        missing = [run.name for run in runs if not run.finished() and run.needs_gpu()]
        if missing:
            names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise MissingResult(
                f"The result {self.chapter}/{name} is not recorded, and {len(missing)} of its "
                f"{len(runs)} runs have not been trained here and need a GPU: {names}. "
                f"It is made by `{command}`."
            )
        for run in runs:
            run.carry_out(progress=False)
        table, about = (
            pd.concat([run.table(each) for run in runs], ignore_index=True)
            for each in (name, "runs")
        )
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
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())] or [""]


def run_all(
    commands: dict[str, list[str]],
    logs: str | Path,
    *,
    devices: list[str] | None = None,
    per_device: int = 1,
    deadline: float = float("inf"),
) -> dict[str, str]:
    """Run commands in the order given, each in a process that sees one GPU, `per_device` on each.

    A command that fails does not stop the others; Ctrl-C ends them all.

    Parameters
    ----------
    commands : name → arguments.
    logs : folder of one log a command, ``<name>.log``.
    devices : all GPUs by default, or the CPU.
    deadline : seconds after which no command is started; those that run are waited for.

    Returns
    -------
    dict of str : by name of what did not succeed, the end of its log, or that it was not started.
    """
    devices = visible_devices() if devices is None else devices
    free, start, processes, failures = queue.SimpleQueue(), time.monotonic(), set(), {}
    for device in devices * per_device:
        free.put(device)
    threads = str(max(1, (os.cpu_count() or 1) // free.qsize()))

    def run(name):
        device = free.get()
        try:
            if time.monotonic() - start > deadline:
                return "not started: the deadline had passed"
            log = Path(logs) / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            env = {"OMP_NUM_THREADS": threads, **os.environ, "CUDA_VISIBLE_DEVICES": device}
            with open(log, "w", encoding="utf-8") as file:
                process = subprocess.Popen(commands[name], stdout=file, stderr=file, env=env)
                processes.add(process)
                code = process.wait()
            lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
            end = "\n".join(lines.splitlines()[-LOG_LINES:])
            return code and f"exit status {code}\n{end}"
        except OSError as error:
            return str(error)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(free.qsize())
    try:
        futures = {pool.submit(run, name): name for name in commands}
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            if future.result():
                failures[futures[future]] = future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return failures
