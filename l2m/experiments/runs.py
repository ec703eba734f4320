"""Run many commands over the GPUs of one machine, each in a process of its own.

Each process sees one GPU (``CUDA_VISIBLE_DEVICES``). Without a GPU they run on the CPU, one after
another. A command that fails does not stop the others.
"""

import os
import queue
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

LOG_LINES = 15  # of a failed command, in its report


def visible_devices() -> list[str]:
    """Return the GPUs of this machine as `CUDA_VISIBLE_DEVICES` names them, [""] without any."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())] or [""]


def run_fleet(
    commands: dict[str, list[str]],
    logs: str | Path,
    *,
    devices: list[str] | None = None,
    per_device: int = 1,
    deadline: float = float("inf"),
) -> dict[str, str]:
    """Run commands in the order given, `per_device` at once on every device.

    Parameters
    ----------
    commands : dict of name → arguments
        Longest first keeps all devices busy to the end; most important first suits a deadline.
    logs : folder of one log a command, ``<name>.log``.
    devices : list of str, optional
        All GPUs by default, or the CPU.
    deadline : float
        Seconds after which no command is started; those that run are waited for.

    Returns
    -------
    dict of str
        By name of what did not succeed: the end of its log, or that it was not started.
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
            return code and f"exit status {code}\n" + _end(log)
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
    finally:  # Ctrl-C ends them all
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return failures


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(lines[-LOG_LINES:])
