"""Many commands over few devices: each sees its own, and failures are reported, not fatal."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from project import PACKAGE, alive, wait_until

from l2m.experiments.runs import run_all, visible_devices
from l2m.files import CannotWrite

WRITE = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); "


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def python(code):
    return [sys.executable, "-c", WRITE + code]


def test_every_command_runs_on_one_device_and_failures_come_back(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    commands = {f"run{i}": python("") for i in range(5)}
    commands["bad"] = python("sys.exit('no such model')")
    failures = run_all(commands, tmp_path)
    assert list(failures) == ["bad"] and "no such model" in failures["bad"]
    logs = {path.stem: path.read_text().split()[0] for path in tmp_path.glob("*.log")}
    assert logs.keys() == commands.keys()
    assert set(logs.values()) == {"3", "5"}


def test_a_device_runs_so_many_at_once(tmp_path):
    """Each command waits for the other: they finish only side by side."""
    code = (
        "import pathlib, time; d = pathlib.Path(sys.argv[1]); (d / sys.argv[2]).touch()\n"
        "while not (d / sys.argv[3]).exists(): time.sleep(0.01)"
    )
    commands = {a: [*python(code), str(tmp_path), a, b] for a, b in ("xy", "yx")}
    assert run_all(commands, tmp_path / "logs", per_device=2) == {}


def test_after_the_deadline_nothing_is_started(tmp_path):
    commands = {"first": python("import time; time.sleep(0.5)"), "second": python("")}
    failures = run_all(commands, tmp_path, deadline=0.3)
    assert list(failures) == ["second"] and "deadline" in failures["second"]


def test_a_command_that_is_not_there_is_a_failure(tmp_path):
    assert "no-such" in run_all({"x": ["no-such-program"]}, tmp_path)["x"]


def test_a_disk_that_is_full_is_said_although_the_log_cannot_be_written(tmp_path, monkeypatch):
    from l2m.experiments import runs

    @contextmanager
    def full(path):
        if path.suffix == ".log":
            raise CannotWrite(f"cannot write {path}")
        yield

    monkeypatch.setattr(runs.files, "writing", full)
    failures = run_all({"x": python("sys.exit(1)"), "y": python("")}, tmp_path)
    assert failures == {"x": f"cannot write {tmp_path / 'x.log'}"}


def test_an_interrupt_ends_the_processes(tmp_path, monkeypatch):
    def interrupted(futures):
        while not (tmp_path / "slow.log").exists() or not (tmp_path / "slow.log").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("l2m.experiments.runs.as_completed", interrupted)
    alive = tmp_path / "alive"
    code = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    with pytest.raises(KeyboardInterrupt):
        run_all({"slow": python(code)}, tmp_path)
    time.sleep(2.2)
    assert not alive.exists()


RUNS = """
import sys
from pathlib import Path
from l2m.experiments.runs import run_all
slow = (
    "import os, time; from l2m.files import leashed; leashed(); "
    "open(str(os.getpid()), 'w').close(); time.sleep(60)"
)
run_all({name: [sys.executable, "-c", slow] for name in "ab"}, Path("logs"), per_device=2)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_who_started_them(tmp_path, sent):
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def started():
        return [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]

    wait_until(lambda: len(started()) == 2)
    process.send_signal(sent)
    process.wait(60)
    wait_until(lambda: not any(map(alive, started())), 20)


def test_the_environment_names_the_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_devices() == ["2", "3"]
