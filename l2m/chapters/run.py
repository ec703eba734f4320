"""Run chapters with papermill: checked before, progress while, whole or not at all after.

A chapter runs into the cache folder, where its time is noted, too. The numbers in its text are
computed where they stand, and those above its first code when all has run. Only then is it cleaned
of what belongs to the machine, stamped with when it ran, and moved into place: a failure, Ctrl-C or
a kill leaves ``book/`` alone.
"""

import ast
import functools
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from l2m.chapters.contents import ChapterError, book_dir, notebooks_dir, read_notebook
from l2m.chapters.parameters import ParameterError, declared_in, find
from l2m.chapters.publish import as_text, expressions, other_roles, publish
from l2m.chapters.staleness import stamp
from l2m.files import ROOT, cache_dir, held, write_atomic

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
_HERE = "__import__('l2m.results').results.here()"  # asked of a kernel that has run its chapter
_clients = []  # of all chapters that run or ran in this process


@dataclass(frozen=True)
class Job:
    """One chapter to run: the parameters that are not its defaults, and the file that it makes."""

    chapter: str
    given: dict = field(default_factory=dict)
    output: Path = Path()


class RunError(RuntimeError):
    """A cell of a chapter failed; the message says which, how, and where the outputs are."""


def plan(names: list[str], given: dict[str, str], output_dir: Path | None = None) -> list[Job]:
    """Check parameters against every chapter and say where each goes, running nothing.

    What is published, in ``book/``, ran with its default parameters; all else goes to ``_runs/``,
    or everything to `output_dir`. `given` are parameters by name, as text from a command line.
    ParameterError, naming the parameter and what it takes; ChapterError when `output_dir` cannot be
    written to, or is ``book/`` and the parameters are not the published ones.
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
            why = f"book/ holds {name} with its default {', '.join(values)}"
            raise ChapterError(f"{why}: choose another --output-dir.")
        jobs.append(Job(name, values, folder / f"{name}.ipynb"))
    for folder in {job.output.parent for job in jobs}:  # now, and not when the chapter has run
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            why = f"cannot write to {folder} ({error.strerror})"
            raise ChapterError(f"{why}: choose another --output-dir.") from None
    return jobs


def run_all(jobs: list[Job], at_once: int = 1, record: bool = False) -> list[str]:
    """Run the chapters, `at_once` of them side by side; return the names of those that failed.

    With `record` new results are written to ``results/``. Ctrl-C and SIGTERM end the kernels at
    once; nothing is published of a chapter that has not finished.
    """
    at_once = max(1, min(at_once, len(jobs)))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": path}
    if record:
        environment["L2M_RECORD"] = "1"
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
    futures, failures = {}, []
    with ThreadPoolExecutor(at_once) as pool:  # the work is done by kernels, which are processes
        try:
            for job in jobs:
                futures[pool.submit(run_chapter, job, environment)] = job
            for future in as_completed(futures):
                job, error = futures[future], future.exception()
                if error is None:
                    tqdm.write(f"{job.chapter}: {future.result():.0f} s → {_short(job.output)}")
                else:
                    foreseen = isinstance(error, RuntimeError | ChapterError)
                    kind = "" if foreseen else f"{type(error).__name__}: "
                    tqdm.write(f"{job.chapter}: {kind}{error}", file=sys.stderr)
                    failures.append(job.chapter)
        except BaseException:
            ends = signal.SIGINT, signal.SIGTERM
            handlers = [signal.signal(end, signal.SIG_IGN) for end in ends]  # a second one waits
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for client in _clients:  # also one whose kernel has just begun
                    with suppress(AttributeError):
                        client.km.provisioner.process.kill()
                time.sleep(0.1)
            for end, handler in zip(ends, handlers, strict=True):
                signal.signal(end, handler)
            raise
    return failures


def run_chapter(job: Job, environment: dict) -> float:
    """Run one chapter and put it in its place; return the seconds it took, or raise RunError."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what fails is said below
    path = notebooks_dir() / f"{job.chapter}.ipynb"
    source, kept = read_notebook(path), cache_dir() / "runs" / path.name
    info, log = stamp(job.chapter, source, job.given), kept.with_suffix(".log")
    kept.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    bar = {"desc": job.chapter, "disable": None, "leave": False}
    try:
        with held(kept), open(log, "w") as said:  # by the kernel's process, and not by a cell
            kernel = {"cwd": path.parent, "env": environment, "stdout": said, "stderr": said}
            options = {"connection": str(kept.with_suffix(".kernel.json"))}  # one, if it is left
            options |= {"engine_name": _engine(), "progress_bar": bar, "kernel": kernel}
            executed = papermill.execute_notebook(path, kept, job.given, **options)
    except (papermill.PapermillExecutionError, RunError) as error:
        why = str(error) if isinstance(error, RunError) else _explain(error)
        raise RunError(f"{why}\n  What ran is kept in {_short(kept)}") from None
    except DeadKernelError:
        raise RunError("the kernel died, most likely for lack of memory.") from None
    seconds = time.perf_counter() - start
    info["results"] = stamp(job.chapter, source, job.given)["results"]  # recorded by this very run
    info["ran"] = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "seconds": round(seconds)}
    info["ran"] |= executed.metadata["l2m"]
    publish(executed, source, info, job.output)
    for file in (kept, log):
        file.unlink(missing_ok=True)
    write_atomic(kept.with_suffix(".json"), json.dumps({"seconds": round(seconds, 1)}) + "\n")
    return seconds


@functools.cache
def _engine() -> str:
    """Register the engine that also computes the expressions in prose; return its name."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Client(PapermillNotebookClient):
        def execute_cell(self, cell, cell_index, **options):
            cells = self.nb.cells
            first = next((i for i, c in enumerate(cells) if c.cell_type == "code"), 0)
            if cell.cell_type == "code":
                super().execute_cell(cell, cell_index, **options)
            elif cell_index >= first:
                self.compute(cell_index)
            if cell_index == len(cells) - 1:
                for index in range(first):  # what stands above all code is about the results
                    self.compute(index)
                self.nb.metadata["l2m"] = ast.literal_eval(_asked(self, _HERE))
            return cells[cell_index]

        def compute(self, cell_index):
            cell = self.nb.cells[cell_index]
            if cell.cell_type != "markdown":
                return
            try:
                if other := other_roles(cell.source):
                    raise ValueError(f"{other[0]} in its text has another role than `eval`")
                if wanted := expressions(cell.source):
                    cell.metadata["eval"] = [[asked, _value(self, asked)] for asked in wanted]
            except ValueError as error:
                raise RunError(f"cell {cell_index} failed: {error}") from None

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, kernel, connection, **_):
            options = {"kernel_name": kernel_name, "timeout": None, "startup_timeout": 60}
            client = Client(nb_man, **options, log=logging.getLogger("papermill"))
            client.create_kernel_manager().connection_file = connection
            _clients.append(client)
            return client.execute(**kernel)

    papermill_engines.register("l2m", Engine)
    return "l2m"


def _value(client, expression: str) -> str:
    """Return the value of an expression in prose, as text; ValueError when it has none."""
    try:
        return as_text(_asked(client, expression))
    except ValueError as error:
        raise ValueError(f"{{eval}}`{expression}` in its text: {error}") from None


def _asked(client, expression: str) -> str:
    """Return the value of an expression, as the kernel shows it; ValueError when it has none."""
    message = client.kc.execute("", store_history=False, user_expressions={"value": expression})
    reply = client.wait_for_reply(message)["content"]["user_expressions"]["value"]
    if reply["status"] != "ok":
        raise ValueError(f"{reply['ename']}: {reply['evalue']}")
    return reply["data"]["text/plain"]


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
