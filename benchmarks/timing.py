"""What the benchmarks share: seconds of a call, the rate of a matrix product, where results go."""

import json
import time
from pathlib import Path

import numpy as np

from l2m.files import write_atomic


def timed(function, device):
    """What a call returns, its seconds with the device's work, its peak memory in GiB on a GPU."""
    import torch

    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    out = function()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return out, seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else None


def matmul_ceiling(dtype, device):
    """TFLOP/s of a large matrix product, median of ten."""
    import torch

    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds = [timed(lambda: a @ b, device)[1] for _ in range(10)]
    return 2 * n**3 / np.median(seconds) / 1e12


def results_file(name):
    """The path of results/benchmarks/<name>.json."""
    return Path(__file__).parent.parent / "results" / "benchmarks" / f"{name}.json"


def recorded(name):
    """What that file holds; nothing, if there is none."""
    file = results_file(name)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def record(name, out):
    """Write `out` to its results file, which keeps what else it has, such as other machines'."""
    write_atomic(results_file(name), json.dumps(recorded(name) | out, indent=1) + "\n")
