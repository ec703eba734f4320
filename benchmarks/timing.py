"""What the benchmarks share: time of a call and of its kernels, a matrix product's rate, files."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

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


KINDS = {  # of kernels, by what their names hold; the first that fits
    "attention": r"flex_attention|flash|fmha|cudnn.*sdpa|cudnn_generated",
    "scan, convolution": r"scan|conv1d|^_chunk_|_state_passing|_bmm_chunk",
    "matrix products": r"gemm|cutlass|nvjet|addmm|aten::mm|aten::bmm|splitK|sm90_xmma",
    "softmax of the head": r"logsumexp|_pick|cross_entropy|lse_forward|softmax",
    "optimiser": r"multi_tensor|adam|l2norm",
    "copies": r"^Mem(cpy|set)|aten::copy_",  # a compiled kernel, too, may have _to_copy_ in it
}


def print_kernels(function, device, most=25):
    """Print where the time of a call goes: by kind of kernel, then the longest kernels.

    On a GPU "idle" is the time in which no kernel runs; on a CPU the operators of torch count.
    """
    from torch.profiler import ProfilerActivity, profile

    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        _, seconds, _ = timed(function, device)
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [(event.key, getattr(event, field) / 1e3, event.count) for event in seen.key_averages()]
    table = pd.DataFrame(rows, columns=["kernel", "ms", "calls"]).query("ms > 0")
    table["kind"] = [
        next((kind for kind, names in KINDS.items() if re.search(names, name)), "elementwise")
        for name in table["kernel"]
    ]
    idle = max(0.0, 1e3 * seconds - table["ms"].sum())
    table.loc[len(rows)] = ["", idle, 0, "idle"]
    table["share"] = table["ms"] / (1e3 * seconds)
    table["kernel"] = table["kernel"].str[:90]
    kinds = table.groupby("kind")[["ms", "share"]].sum().sort_values("ms", ascending=False)
    print(f"{seconds:.3f} s", kinds.round(3), sep="\n")
    columns = ["ms", "share", "calls", "kernel"]
    print(table.nlargest(most, "ms")[columns].round(3).to_string(index=False), flush=True)


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
