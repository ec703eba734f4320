"""Run chapters with papermill: checked before, progress while, whole or not at all after.

A chapter runs into the cache folder. Only when all its cells have run, it is cleaned of what
belongs to the machine and moved into place: a failure, Ctrl-C or a kill leaves ``book/`` alone.
"""

import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from tqdm import tqdm

from l2m.chapters.contents import ChapterError, book_dir, notebooks_dir, read_notebook, stamp
from l2m.chapters.parameters import ParameterError, declared_in, find
from l2m.chapters.publish import publish
from l2m.results import ROOT, cache_dir

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


@dataclass(frozen=True)
class Run:
    """One chapter to run: its given parameters, and the file that it makes."""

    chapter: str
    given: dict = field(default_factory=dict)
    output: Path = Path()
    record: bool = False
    threads: int | None = None


class RunError(RuntimeError):
    """A cell of a chapter failed; the message says which, how, and where the outputs are."""


def plan(
    names: list[str], given: dict[str, str], output_dir: Path | None = None, **options
) -> list[Run]:
    """Check parameters against every chapter and say where each run goes, running nothing.

    What is published, in ``book/``, ran with its default parameters; other runs go to ``_runs/``.

    Parameters
    ----------
    names : list of str
    given : dict of str
        Parameters by name, as text from a command line, which is read by their annotations.
    output_dir : Path, optional
    **options
        Of `Run`.

    Raises
    ------
    ParameterError
        Naming the parameter and what it takes.
    ChapterError
        When `output_dir` is ``book/`` and the parameters are not the published ones, or cannot be
        written to.
    """
    runs = []
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
        runs.append(Run(name, values, folder / f"{name}.ipynb", **options))
    for folder in {run.output.parent for run in runs}:  # now, and not when the chapter has run
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ChapterError(
                f"cannot write to {folder} ({error.strerror}): choose another --output-dir."
            ) from None
    return runs


def run_all(runs: list[Run], jobs: int = 1) -> list[str]:
    """Run the chapters, each in a process, `jobs` at once; return the names of those that failed.

    Ctrl-C ends the processes at once; nothing is published of a chapter that has not finished.
    """
    context = multiprocessing.get_context("spawn")
    lock = context.RLock()  # the progress bars share a terminal
    waiting, active, failures = list(runs), {}, []
    free = list(range(min(jobs, len(runs))))
    try:
        while waiting or active:
            while waiting and free:
                receiver, sender = context.Pipe(duplex=False)
                run, place = waiting.pop(0), free.pop(0)
                process = context.Process(target=_child, args=(run, lock, place, sender))
                process.start()
                sender.close()
                active[receiver] = (run, process, place)
            for receiver in wait(list(active)):
                run, process, place = active.pop(receiver)
                failed, message = _received(receiver)
                process.join()
                free.append(place)
                tqdm.write(f"{run.chapter}: {message}", file=sys.stderr if failed else sys.stdout)
                failures += [run.chapter] if failed else []
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C waits
        for run, process, _ in active.values():
            process.kill()
            process.join()
            _partial(run, process.pid).unlink(missing_ok=True)
        signal.signal(signal.SIGINT, previous)
    return failures


def _received(receiver) -> tuple[bool, str]:
    try:
        return receiver.recv()
    except EOFError:
        return True, "its process was ended from outside."


def _child(run: Run, lock, place: int, sender) -> None:
    """Run a chapter in this process, which ends with its parent, and send back how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(run,), daemon=True).start()
    tqdm.set_lock(lock)
    terminal = os.fdopen(os.dup(2), "w")
    log = cache_dir() / "runs" / f"{run.chapter}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:  # what the kernel's process writes itself
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    bar = {"desc": run.chapter, "position": place, "file": terminal, "disable": None}
    try:
        seconds = run_chapter(run, bar | {"leave": False})
        sender.send((False, f"{seconds:.0f} s → {_short(run.output)}"))
        log.unlink()
    except (RunError, ChapterError) as error:
        sender.send((True, str(error)))
    except Exception as error:
        sender.send((True, f"{type(error).__name__}: {error}"))


def _end_with_parent(run: Run) -> None:
    multiprocessing.parent_process().join()
    _partial(run, os.getpid()).unlink(missing_ok=True)
    os._exit(1)


def _partial(run: Run, pid: int) -> Path:
    return cache_dir() / "runs" / f"{run.chapter}.{pid}.ipynb"


def run_chapter(run: Run, progress_bar: bool | dict = False) -> float:
    """Run one chapter and put it in its place; return the seconds it took.

    Raises
    ------
    RunError
        When a cell fails or the kernel dies. What ran is kept in the cache folder.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    source_path = notebooks_dir() / f"{run.chapter}.ipynb"
    source = read_notebook(source_path)
    info = stamp(run.chapter, source, run.given)
    partial = _partial(run, os.getpid())
    failed = partial.with_name(f"{run.chapter}.failed.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(_environment(run))
    start = time.perf_counter()
    try:
        executed = papermill.execute_notebook(
            source_path,
            partial,
            run.given,
            cwd=notebooks_dir(),
            progress_bar=progress_bar,
        )
    except papermill.PapermillExecutionError as error:
        os.replace(partial, failed)
        message = f"{_explain(error)}\n  What ran is kept in {_short(failed)}"
        raise RunError(message) from None
    except DeadKernelError:
        raise RunError("the kernel died, most likely for lack of memory.") from None
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    info["results"] = stamp(run.chapter, source, run.given)["results"]  # recorded by this very run
    info["seconds"] = round(seconds)
    publish(executed, source, info, run.output)
    return seconds


def _environment(run: Run) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    changes = _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if run.record:
        changes["L2M_RECORD"] = "1"
    if run.threads:
        changes["OMP_NUM_THREADS"] = str(run.threads)
    return changes


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
