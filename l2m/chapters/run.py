"""Run chapters with papermill: checked before, progress while, whole or not at all after.

A chapter runs into the cache folder, where its time is noted, too. The numbers in its text are
computed where they stand. Only when all its cells have run is it cleaned of what belongs to the
machine, and moved into place: a failure, Ctrl-C or a kill leaves ``book/`` alone.
"""

import functools
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from l2m.chapters.contents import ChapterError, book_dir, notebooks_dir, read_notebook
from l2m.chapters.parameters import ParameterError, declared_in, find
from l2m.chapters.publish import as_text, expressions, other_roles, publish
from l2m.chapters.staleness import stamp
from l2m.files import ROOT, cache_dir, write_atomic

# What a run sets for its kernels: no progress bars in the outputs, the same l2m as the runner's.
_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
}
_bar: dict = {}  # of a worker: the terminal and the line of its progress bar


@dataclass(frozen=True)
class Job:
    """One chapter to run: the parameters that are not its defaults, and the file that it makes."""

    chapter: str
    given: dict = field(default_factory=dict)
    output: Path = Path()


class RunError(RuntimeError):
    """A cell of a chapter failed; the message says which, how, and where the outputs are."""


class _NoValue(RuntimeError):
    """An expression in a chapter's text has no value; the message says which, where and why."""


def plan(names: list[str], given: dict[str, str], output_dir: Path | None = None) -> list[Job]:
    """Check parameters against every chapter and say where each goes, running nothing.

    What is published, in ``book/``, ran with its default parameters; all else goes to ``_runs/``.

    Parameters
    ----------
    names : of chapters.
    given : parameters by name, as text from a command line, read by their annotations.
    output_dir : instead of these folders.

    Raises
    ------
    ParameterError
        Naming the parameter and what it takes.
    ChapterError
        When `output_dir` is ``book/`` and the parameters are not the published ones, or cannot be
        written to.
    """
    jobs = []
    for name in names:
        known = declared_in(read_notebook(notebooks_dir() / f"{name}.ipynb"))
        try:
            values = {key: find(known, key).parse(text) for key, text in given.items()}
        except ParameterError as error:
            raise ParameterError(f"{name}: {error}") from None
        values = {k: v for k, v in values.items() if v != known[k].default}
        folder = output_dir or (ROOT / "_runs" if values else book_dir())
        if values and folder.resolve() == book_dir().resolve():
            raise ChapterError(
                f"book/ holds chapters that ran with their default parameters, and {name} would "
                f"run with {', '.join(f'{k}={v!r}' for k, v in values.items())}: "
                f"choose another --output-dir."
            )
        jobs.append(Job(name, values, folder / f"{name}.ipynb"))
    for folder in {job.output.parent for job in jobs}:  # now, and not when the chapter has run
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ChapterError(
                f"cannot write to {folder} ({error.strerror}): choose another --output-dir."
            ) from None
    return jobs


def run_all(jobs: list[Job], at_once: int = 1, record: bool = False) -> list[str]:
    """Run the chapters in `at_once` processes; return the names of those that failed.

    With `record` new results are written to ``results/``. Ctrl-C ends the processes at once;
    nothing is published of a chapter that has not finished.
    """
    at_once = max(1, min(at_once, len(jobs)))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = _ENVIRONMENT | {"PYTHONPATH": path} | ({"L2M_RECORD": "1"} if record else {})
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
    context, failures = multiprocessing.get_context("spawn"), []
    lock, places = context.RLock(), context.SimpleQueue()  # the progress bars share a terminal
    tqdm.set_lock(lock)
    for place in range(at_once):
        places.put(place)
    with ProcessPoolExecutor(at_once, context, _start_worker, (lock, places, environment)) as pool:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the workers inherit it
        futures = {pool.submit(_work, job): job.chapter for job in jobs}
        try:
            signal.signal(signal.SIGINT, handler)
            for future in as_completed(futures):
                said, failed = _outcome(future), future.exception()
                tqdm.write(f"{futures[future]}: {said}", file=sys.stderr if failed else sys.stdout)
                failures += [futures[future]] if failed else []
        except BaseException:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C waits
            for worker in multiprocessing.active_children():
                worker.kill()  # and its kernel ends with it
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGINT, handler)
            raise
    return failures


def _outcome(future) -> str:
    try:
        return future.result()
    except BrokenProcessPool:
        return "its process was ended from outside."
    except RunError as error:
        return str(error)


def _start_worker(lock, places, environment: dict[str, str]) -> None:
    """Prepare a process of the pool: it shares the terminal, and ends when its parent does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(lock)
    os.environ.update(environment)
    _bar.update(file=os.fdopen(os.dup(2), "w"), position=places.get())


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(job: Job) -> str:
    """Run a chapter in this process of the pool, and say how long it took."""
    log = cache_dir() / "runs" / f"{job.chapter}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:  # what the kernel's process writes itself
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        seconds = run_chapter(job, {"desc": job.chapter, "disable": None, "leave": False} | _bar)
    except Exception as error:  # not every kind survives the way to the parent
        known = isinstance(error, RunError | ChapterError)
        raise RunError(f"{'' if known else f'{type(error).__name__}: '}{error}") from None
    log.unlink(missing_ok=True)
    return f"{seconds:.0f} s → {_short(job.output)}"


def run_chapter(job: Job, progress_bar: bool | dict = False) -> float:
    """Run one chapter and put it in its place; return the seconds it took.

    RunError when a cell fails or the kernel dies; what ran is kept in the cache folder.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    path = notebooks_dir() / f"{job.chapter}.ipynb"
    source, kept = read_notebook(path), cache_dir() / "runs" / path.name
    info = stamp(job.chapter, source, job.given)
    kept.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        executed = papermill.execute_notebook(
            path,
            kept,
            job.given,
            engine_name=_engine(),
            cwd=path.parent,
            progress_bar=progress_bar,
        )
    except (papermill.PapermillExecutionError, _NoValue) as error:
        said = str(error) if isinstance(error, _NoValue) else _explain(error)
        raise RunError(f"{said}\n  What ran is kept in {_short(kept)}") from None
    except DeadKernelError:
        raise RunError("the kernel died, most likely for lack of memory.") from None
    seconds = time.perf_counter() - start
    info["results"] = stamp(job.chapter, source, job.given)["results"]  # recorded by this very run
    publish(executed, source, info, job.output)
    kept.unlink(missing_ok=True)
    write_atomic(kept.with_suffix(".json"), json.dumps({"seconds": round(seconds, 1)}) + "\n")
    return seconds


@functools.cache
def _engine() -> str:
    """Register the engine that also computes the expressions in prose; return its name."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Client(PapermillNotebookClient):
        def execute_cell(self, cell, cell_index, **options):
            if cell.cell_type != "markdown":
                return super().execute_cell(cell, cell_index, **options)
            try:
                if other := other_roles(cell.source):
                    raise ValueError(f"{other[0]} in its text has another role than `eval`")
                if wanted := expressions(cell.source):
                    values = [_value(self, expression) for expression in wanted]
                    cell.metadata["eval"] = [[*pair] for pair in zip(wanted, values, strict=True)]
            except ValueError as error:
                raise _NoValue(f"cell {cell_index} failed: {error}") from None
            return cell

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **_):
            options = {"kernel_name": kernel_name, "timeout": None, "startup_timeout": 60}
            return Client(nb_man, **options, log=logging.getLogger("papermill")).execute()

    papermill_engines.register("l2m", Engine)
    return "l2m"


def _value(client, expression: str) -> str:
    """Return the value of an expression in prose, as text; ValueError when it has none."""
    message = client.kc.execute("", store_history=False, user_expressions={"value": expression})
    reply = client.wait_for_reply(message)["content"]["user_expressions"]["value"]
    try:
        if reply["status"] == "ok":
            return as_text(reply["data"]["text/plain"])
        why = f"{reply['ename']}: {reply['evalue']}"
    except ValueError as error:
        why = str(error)
    raise ValueError(f"{{eval}}`{expression}` in its text: {why}")


def _explain(error) -> str:
    """Say in a few lines which cell failed, on which line, and why."""
    value = str(error.evalue).strip()
    value = value if len(value) < 1200 else value[:1200] + " …"
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    # IPython marks the failing line with an arrow; the first frame of the cell is the one to show.
    frame = r"^Cell In\[\d+\], line \d+.*?^-+> *(\d+) (.*?)$"
    arrow = re.search(frame, trace, flags=re.MULTILINE | re.DOTALL)
    line = f"\n  line {arrow[1]}: {arrow[2].strip()}" if arrow else ""
    return f"cell {error.cell_index} failed with {error.ename}: {value}{line}"


def _short(path: Path) -> str:
    """Return the path relative to the working directory where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
