"""Time the commands of chapter 9, "Measurements of your own", on one CPU core.

    python benchmarks/your_own.py --record      # some minutes

Each is a process of its own with one thread and an empty cache but for the embedded model, and runs
twice, with few windows and with more: the difference is what a window costs, the rest is the start.
What counts is processor time, so that other work on the machine hardly matters.
"""

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from timing import record

from l2m.files import cache_dir
from l2m.language_models.models import device_name, load_model

LENGTH, FEW, MORE = 256, 2, 6
COMMANDS = {  # as the chapter has them, and whether they score windows
    "l2m measure mine": True,
    "l2m measure mine --what past": True,
    "l2m measure mine --what missed": True,
    "l2m models Llama-3.1-8B": False,
}


def seconds(command, windows):
    """Processor seconds of a command, of so many windows if any, in an empty cache."""
    words = shlex.split(command)[1:]
    if windows:
        words += ["--corpus", "kjv", "--dtype", "float32", "--windows", str(windows)]
        words += ["--length", str(LENGTH)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "models").symlink_to(cache_dir() / "models")
        own = {"L2M_CACHE": folder, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        how = {"env": os.environ | own, "stdout": subprocess.DEVNULL, "check": True}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "l2m", *words], **how)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(command, scores):
    """One row: seconds of the start, and of each window."""
    if not scores:
        return {"command": command, "start": seconds(command, 0), "window": None}
    few, more = (seconds(command, windows) for windows in (FEW, MORE))
    window = (more - few) / (MORE - FEW)
    return {"command": command, "start": few - FEW * window, "window": window}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    load_model()  # makes the embedded model, once for all
    rows = []
    for command, scores in COMMANDS.items():
        rows.append(measure(command, scores))
        print(rows[-1], flush=True)
    if args.record:
        about = {"device": device_name("cpu"), "torch": torch.__version__, "length": LENGTH}
        record("your_own-cpu", about | {"rows": rows})


if __name__ == "__main__":
    main()
