"""Time the commands of the chapter "Measurements of your own" on this machine.

    python benchmarks/your_own.py --record      # 2 CPU cores: a few minutes

Each is a process of its own with an empty cache but for the embedded model, and is run twice, with
few windows and with more: the difference is what a window costs, the rest is the start.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from timing import record, timed

from l2m.files import cache_dir
from l2m.language_models.models import device_name, load_model

LENGTH, FEW, MORE = 512, 2, 6
COMMANDS = {  # as the chapter has them, and whether windows are scored
    "l2m measure mine --corpus kjv": True,
    "l2m measure mine --corpus kjv --what past": True,
    "l2m measure mine --corpus kjv --what missed": True,
    "l2m models Llama-3.1-8B": False,
}


def seconds(command, windows):
    """Seconds of a command with so many windows, or as it is, in an empty cache."""
    words = shlex.split(command)[1:]
    words += ["--windows", str(windows), "--length", str(LENGTH)] if windows else []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "models").symlink_to(cache_dir() / "models")
        how = {"env": os.environ | {"L2M_CACHE": folder}, "stdout": subprocess.DEVNULL}
        start = [sys.executable, "-m", "l2m", *words]
        return timed(lambda: subprocess.run(start, check=True, **how), "cpu")[1]


def measure(command, scores):
    """One row: seconds of the start and of each window."""
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
    device, rows = "cuda" if torch.cuda.is_available() else "cpu", []
    for command, scores in COMMANDS.items():
        rows.append(measure(command, scores))
        print(rows[-1], flush=True)
    if args.record:
        about = {"device": device_name(device), "torch": torch.__version__, "length": LENGTH}
        record(f"your_own-{device}", about | {"rows": rows})


if __name__ == "__main__":
    main()
