"""Commands killed at random moments, again and again: what they make in the end is the same.

    L2M_KILLS=60 pytest -m slow tests/test_kills.py    # so many of each command; L2M_SEED=0 draws

A kill is SIGKILL, SIGTERM or a terminal's Ctrl-C, twice, at any moment of an undisturbed run, or of
what is left of it once something has been written. After it no process may be left, nothing in
`book/` and `results/` be in part of a run; where it is no SIGKILL, one sentence says what is kept.
The same command then goes on, and is killed again, or ends: as if nothing had been, and without a
leftover.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import library, tiny, words
from project import Project, wait_until
from stub_server import serving

from l2m.files import DamagedFile, cache_dir, digest, read_json
from l2m.results import ROOT

KILLS, SEED = int(os.environ.get("L2M_KILLS", 2)), int(os.environ.get("L2M_SEED", 0))
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
SENTENCE = r"\nl2m: stopped; what (was (scored|trained) is kept|was there before is untouched)"
CLOCK = ["seconds", "vectors_per_second", "tokens_per_second", "model_flops_share"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]


# what is killed: each prepares a project, and returns the arguments of a command


def model_and_text(project):
    tiny("llama").save_pretrained(project.root / "model")
    words(project.root / "model", size=97)
    library(project.root / "books", books=8, paragraphs=200)
    return ["--corpus", "books", "--model", "model", "--length", 64, "--windows", 250]


def l2m_measure(project):
    given = model_and_text(project)
    return ["measure", "m", *given, "--dtype", "float32", "--partners", 2, "--record"]


def l2m_measure_warm(project):
    return ["measure", "m", *model_and_text(project), "--dtype", "float32", "--warm", "4,16"]


def l2m_measure_server(project):
    def answer(path, body, usual=project.server.answer):
        found = usual(path, body)
        if path == "/v1/models":
            found["data"][0]["root"] = "model"
        return 404 if path == "/tokenize" else found

    project.server.answer = answer
    given = [*model_and_text(project)[:-1], 100, "--bos", 0]
    return ["measure", "m", *given, "--warm", "4", "--server", project.server.url]


def of_grid(project, experiment, runs):
    """A grid of these runs, trained for a moment."""
    file = project.root / "l2m" / "experiments" / "grids.json"
    grids = json.loads(file.read_text(encoding="utf-8"))
    grids[experiment]["smoke"] |= {"each": [{}], "runs": runs}
    file.write_text(json.dumps(grids), encoding="utf-8")
    return ["train", experiment, "--grid", "smoke", "--record"]


def l2m_train_gaussian(project):
    power = {"family": "power", "layers": 1, "s": 0.5, "slots": 1, "length": 16}
    return of_grid(project, "gaussian", [{"family": "gpt2", "layers": 1, "length": 16}, power])


def l2m_train_books(project):
    (project.root / ".cache").mkdir()
    (project.root / ".cache/models").symlink_to(cache_dir() / "models")
    return of_grid(project, "books", [{"family": "gpt2", "layers": 1}])


def the_embedded_model(project):
    library(project.root / "books", books=4, paragraphs=20)
    given = ["--corpus", "books", "--length", 8, "--windows", 4, "--dtype", "float32"]
    return ["measure", "m", *given]


RESULT = """
import numpy as np, pandas as pd, time
from l2m.chapters.publish import claim
from l2m.results import recorded

def compute(seed):
    time.sleep(0.2)
    return pd.DataFrame({"x": np.random.default_rng(seed).random(20_000)})

tables = [recorded(f"{name}/t{i}", {"seed": i}, lambda i=i: compute(i)) for i in range(8)]
total = sum(table.x.sum() for table in tables)
claim("C1", paper="0.7", ours=f"{total}", condition="n", verdict="open", reason="None.")
"""


def l2m_run_record(project):
    for name in ("01_a", "02_b", "03_c"):
        cells = [f"name = {name!r}{RESULT}", "print(list(tables[0].x[:2000]))"]
        project.chapter(name, *cells, text="In all {eval}`float(total)`.")
    return ["run", "--record", "--jobs", 2]


def l2m_build(project):
    """The book itself, with two of its chapters to run."""
    listed = ["git", "ls-files", "_config.yml", "_toc.yml", "book", "results", "notebooks"]
    tracked = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if not name.startswith("notebooks/0") or name[10:12] in ("01", "08"):
            (project.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.root / name)
    return ["build", "--jobs", 2]


COMMANDS = {function.__name__.replace("_", " "): function for function in (
    l2m_measure, l2m_measure_warm, l2m_measure_server, l2m_train_gaussian, l2m_train_books,
    the_embedded_model, l2m_run_record, l2m_build,
)}  # fmt: skip


# what is looked at


def content(path):
    """What a file holds, without what a clock or a random name has put there."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        return digest(table.drop(columns=[c for c in CLOCK if c in table]).to_csv())
    if path.suffix == ".safetensors":
        return digest(data[8 + int.from_bytes(data[:8], "little") :])
    if path.suffix == ".html":
        return data.endswith((b"</html>", b"</html>\n"))  # what else is in it Sphinx changes
    if path.suffix == ".ipynb":
        notebook = json.loads(data)
        for dated in ("ran", "results"):  # the latter are digests of files with dates
            notebook["metadata"].get("l2m", {}).pop(dated, None)
        return digest(notebook)
    if path.suffix == ".json" and path.with_suffix(".parquet").exists():
        about = read_json(path, "")
        return digest([about["name"], about["params"]])
    return digest(data)


def files_below(folder):
    """Files by their place, in which a sha256 is none."""
    found = {}
    for path in folder.rglob("*"):
        place = re.sub(r"-[0-9a-f]{64}\b", "", path.relative_to(folder).as_posix())
        if path.is_file() and "__pycache__" not in place:
            found[place] = path
    return found


MADE = re.compile(r"book/|results/|_build/html/.*html|\.cache/(results/.*parquet|scores/.*parquet|"
                  r"runs/.*/(runs|curves|positions|metrics|terms)\.parquet|"
                  r"runs/.*safetensors|tokens/.*(bin|manifest.json)|models/)")  # fmt: skip


def made(project):
    return {k: content(p) for k, p in files_below(project.root).items() if MADE.match(k)}


def listing(project):
    """All files that there are, and those that the system keeps for a while."""
    return set(files_below(project.root)) | {f"tmp: {x.name}" for x in project.temporary.iterdir()}


def published(project):
    """What is in book/ and results/; of a file that is not whole, its bytes."""
    found = {}
    for folder in ("book", "results"):
        for place, path in files_below(project.root / folder).items():
            try:
                found[f"{folder}/{place}"] = content(path)
            except (DamagedFile, ValueError, OSError) as error:
                found[f"{folder}/{place}"] = str(error)
    return found


def processes(project):
    """Ids of all that were started with the project's environment and live."""
    mark, found = f"PYTHONPATH={project.root}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            pass  # it has ended
    return found


# killing


def begun(pid):
    """Whether a process answers signals: before, it is Python that has not come to l2m."""
    try:
        caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return False
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def ended(project, arguments, number=None, after=0.0, written=False):
    """Run a command, or kill it after some seconds, counted from when it has `written`, if so.

    Returns its status and what it said, and whether it was killed.
    """
    log, there = project.root.parent / "log", set(files_below(project.root))
    with open(log, "wb") as said:
        process = project.start(*arguments, stdout=said, stderr=said)
    while process.poll() is None and number and not begun(process.pid):
        time.sleep(0.002)
    start = time.monotonic()
    while process.poll() is None and number:
        if written and set(files_below(project.root)) - there:
            start, written = time.monotonic(), False
        if not written and time.monotonic() - start >= after:
            if number == signal.SIGINT:  # of a terminal, and of somebody impatient
                for _ in range(2):
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                    time.sleep(0.02)
            else:
                process.send_signal(number)
            break
        time.sleep(0.005)
    else:
        number = None
    status = process.wait(600)
    killed = number is not None and status != 0  # all may have been done before it came
    return status, log.read_text(encoding="utf-8", errors="replace"), killed


def faults(project, status, said, number, before, expected):
    """What one kill has broken: sentences."""
    found, left = [], []
    try:
        wait_until(lambda: not processes(project), 30)
    except AssertionError:
        left = processes(project)
        found += [f"processes are left: {left}"]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if number != signal.SIGKILL and (status != 128 + number or not re.search(SENTENCE, said)):
        found += [f"status {status}, and it said: {said[-2000:]}"]
    if "Traceback" in said:
        found += [f"a traceback: {said[-3000:]}"]
    for place, now in published(project).items():
        if now not in (before.get(place), expected.get(place)):
            found += [f"{place} is neither what it was nor what it will be: {now}"]
    temporary = [place for place in files_below(project.root) if ".tmp-" in place]
    temporary += [path.name for path in project.temporary.iterdir()]
    if temporary and number != signal.SIGKILL:
        found += [f"left: {temporary}"]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_goes_on_and_makes_the_same(tmp_path, command, record_property):
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.temporary = tmp_path / "tmp"
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    project.environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(project.temporary)}
    project.environment |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    with serving(scale_out=True) if "server" in command else nullcontext() as project.server:
        arguments, seed = COMMANDS[command](project), tmp_path / "seed"
        shutil.copytree(project.root, seed, symlinks=True)
        rng, problems, tried, survived = np.random.default_rng(SEED), [], 0, 0

        def afresh():
            shutil.rmtree(project.root)
            shutil.copytree(seed, project.root, symlinks=True)
            for left in project.temporary.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()

        def other(status, said):
            """What is not as in the first run: sentences."""
            now, names = made(project), listing(project)
            found = {
                "other than made at once": {k for k in now | whole if now.get(k) != whole.get(k)},
                "left over": names - listed,
                "missing": listed - names,
            }
            said = [f"status {status}: {said[-2000:]}"] if status else []
            return said + [f"{what}: {sorted(some)[:5]}" for what, some in found.items() if some]

        start = time.monotonic()
        status, said, _ = ended(project, arguments)
        seconds = time.monotonic() - start
        assert status == 0, said
        whole, expected, listed = made(project), published(project), listing(project)
        afresh()
        assert not other(*ended(project, arguments)[:2])  # a clock alone changes nothing
        afresh()
        while tried < KILLS:
            number, written = SIGNALS[tried % 3], bool(rng.integers(2))
            after = rng.random() * seconds * (0.5 if written else 1)
            before, start = published(project), time.monotonic()
            status, said, killed = ended(project, arguments, number, after, written)
            new = []
            if killed:
                tried += 1
                new = faults(project, status, said, number, before, expected)
                print(f"kill {tried}, {number.name} at {after:.2f} s: {new or 'kept'}", flush=True)
            else:
                seconds = min(seconds, time.monotonic() - start)
            if not killed or tried == KILLS or rng.integers(3) == 0:
                done = ended(project, arguments) if killed else (status, said)
                new += other(*done[:2])
                print(f"in the end: {new or 'the same'}", flush=True)
                afresh()
            problems += [f"kill {tried}, signal {number} at {after:.2f} s: {x}" for x in new]
            survived += killed and not new
        record_property("tried", tried)
        record_property("survived", survived)
        print(f"{command}: seed {SEED}, {tried} kills, {survived} survived")
        assert not problems, "\n".join(problems)
