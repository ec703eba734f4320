"""Recorded results: computed once, committed with their provenance, read everywhere.

A result is a table, ``results/<chapter>/<name>.parquet``, beside a ``.json`` of the parameters that
made it, where and how it was computed, the table's sha256 and a digest of itself. A result whose
parameters are not the recorded ones is computed, and kept in the cache folder.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import metadata
from math import inf
from pathlib import Path
from subprocess import DEVNULL

import pandas as pd

from l2m import __version__, files
from l2m.files import ROOT, DamagedFile, cache_dir

MAX_BYTES = 2_000_000  # of one recorded table
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "transformers")
_RESTORE = "restore it with `git checkout -- results`, or delete it to measure anew."


class MissingResult(RuntimeError):
    """A result that is neither recorded nor computable here; the message says what makes it."""


def results_dir() -> Path:
    """Return the folder of the committed results."""
    return ROOT / "results"


def recorded(
    name: str, params: dict, compute: Callable | None = None, *, command: str | None = None
) -> pd.DataFrame:
    """Return the result `name` for `params`: the recorded one, the cached one, or a computed one.

    `name` is ``"<chapter>/<name>"``. `params` are all that it depends on, as JSON values, with
    fingerprints of data and models. `compute` makes the table; its ``attrs`` (device, dtype,
    tokens, …) go into the provenance, and so does the `command` that makes it, by default the
    runner's. The table is read back from its file, with the provenance in ``attrs``. With the
    environment variable ``L2M_RECORD=1`` what was not recorded is written to ``results/``.
    MissingResult if it is neither recorded nor cached, and there is no `compute`, or one that lacks
    a file, a network or a package. DamagedFile if the recorded parameters fit, but the table is not
    the one that was recorded, or if they cannot be read.
    """
    if not re.fullmatch(r"[\w-]{1,99}(/[\w-]{1,99})+", name):
        cure = "'<chapter>/<name>', of letters, digits, _ and -, at most 99 each"
        raise ValueError(f"A result is named {cure}, not {name!r}.")
    params = files.as_json(params, allow_nan=False)
    command = command or f"python -m l2m run {name.split('/')[0]} --record"
    target = results_dir() / name
    cached = cache_dir() / "results" / f"{name}-{files.digest(__version__, params)[:16]}"
    alone = partial(files.held, cache_dir() / "results" / name, wait=True)
    try:
        frame = _read(target, params)
    except DamagedFile:
        with alone():  # unless another process has just been at it
            frame = _read(target, params)
    if frame is not None:
        return frame
    with suppress(DamagedFile):
        frame = _read(cached, params)
    if frame is None:
        frame = _compute(name, params, compute, command)
        with alone():
            frame = _write(cached, frame)
    if os.environ.get("L2M_RECORD") == "1":
        with alone():
            frame = _write(target, frame, MAX_BYTES)
    return frame


def provenance(name: str) -> dict:
    """Return the provenance of the recorded result `name`, whatever its parameters are."""
    path = results_dir() / f"{name}.json"
    if not path.exists():
        raise MissingResult(f"No result {name!r} is recorded.")
    return files.read_json(path, _RESTORE)


def here() -> dict:
    """Return what this process computes with: its `device`, and `versions` of what it loaded."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    cpu = f"CPU, {os.cpu_count()} cores, {platform.machine()}"
    versions = {"python": platform.python_version(), "l2m": __version__}
    versions |= {name: metadata.version(name) for name in _PACKAGES if name in sys.modules}
    gpu = cuda is not None and cuda.is_available()
    return {"device": cuda.get_device_name() if gpu else cpu, "versions": versions}


def _read(stem: Path, params: dict) -> pd.DataFrame | None:
    """Read a table and its provenance, checked; None if there is none, or of other parameters."""
    table, path = Path(f"{stem}.parquet"), Path(f"{stem}.json")
    if not path.exists():
        return None
    about = files.read_json(path, _RESTORE)
    if about["params"] != params:
        return None
    if not table.exists() or files.sha256(table) != about["sha256"]:
        problem = "is not the table that was recorded (its sha256 differs, or it is missing)"
        raise DamagedFile(f"{table} {problem}: {_RESTORE}")
    frame = pd.read_parquet(table)
    frame.attrs = about
    return frame


def _write(stem: Path, frame: pd.DataFrame, max_bytes: float = inf) -> pd.DataFrame:
    """Write table and provenance, and read them back; or what another process wrote meanwhile."""
    with suppress(DamagedFile):
        if (there := _read(stem, frame.attrs["params"])) is not None:
            return there
    info, frame.attrs = frame.attrs, {}
    table = frame.to_parquet(compression="zstd")
    if len(table) > max_bytes:
        most = f"a recorded one holds what figures need, at most {max_bytes:,}"
        raise ValueError(f"{info['name']!r} has {len(table):,} bytes; {most}. Summarise it.")
    files.write_atomic(f"{stem}.parquet", table)
    files.write_json(f"{stem}.json", info | {"sha256": hashlib.sha256(table).hexdigest()})
    return _read(stem, info["params"])


def _compute(name: str, params: dict, compute, command: str) -> pd.DataFrame:
    start = time.perf_counter()
    try:
        frame = compute() if compute else None
    except (OSError, ImportError) as error:
        reason = str(error).strip().rstrip(".")
        raise MissingResult(_missing(name, params, command, reason)) from error
    if frame is None:
        raise MissingResult(_missing(name, params, command, "nothing here computes it"))
    attrs, machine = dict(frame.attrs), here()
    frame.attrs = {
        "name": name,
        "params": params,
        "command": command,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": attrs.pop("device", machine["device"]),
        "dtype": attrs.pop("dtype", params.get("dtype")),
        "seeds": attrs.pop("seeds", {k: v for k, v in params.items() if "seed" in k}),
        "seconds": round(attrs.pop("seconds", time.perf_counter() - start), 1),
        "tokens": attrs.pop("tokens", None),
        "versions": machine["versions"],
        **attrs,
    }
    return frame


def _missing(name: str, params: dict, command: str, reason: str) -> str:
    found = "is not recorded"
    if (results_dir() / f"{name}.json").exists():
        old = provenance(name)["params"]
        changed = [
            f"{key} = {old.get(key)!r}, not {params.get(key)!r}"
            for key in sorted(old.keys() | params.keys())
            if old.get(key) != params.get(key)
        ]
        found = f"is recorded for other parameters ({'; '.join(changed)})"
    made = f"It is made by `{command}`."
    reason += "" if reason.endswith("?") else "."
    return f"The result {name!r} {found}, and cannot be computed here: {reason} {made}"


def _commit() -> str | None:
    """Return the checkout's commit, with "+" where the module or a notebook differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=DEVNULL)
        changed = [*git, "diff", "--quiet", "HEAD", "--", "l2m", "notebooks"]
        return head.strip() + ("+" if subprocess.run(changed, stderr=DEVNULL).returncode else "")
    except (OSError, subprocess.CalledProcessError):
        return None
