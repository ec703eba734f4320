"""Recorded results: computed once, committed with their provenance, read everywhere.

A result is a table, ``results/<chapter>/<name>.parquet``, beside a ``.json`` of the parameters that
made it, where and how it was computed, the table's sha256 and a digest of itself. A result whose
parameters are not the recorded ones is computed, and kept in the cache folder.
"""

import datetime
import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pandas as pd

from l2m import __version__
from l2m.files import (
    ROOT,
    DamagedFile,
    as_json,
    cache_dir,
    digest,
    read_json,
    sha256,
    write_atomic,
    write_json,
)

MAX_BYTES = 2_000_000  # of one recorded table
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "transformers")
_RESTORE = "restore it with `git checkout -- results`, or delete it to measure anew."


class MissingResult(RuntimeError):
    """A result that is neither recorded nor computable here; the message says what makes it."""


def results_dir() -> Path:
    """Return the folder of the committed results."""
    return ROOT / "results"


def recorded(
    name: str,
    params: dict,
    compute: Callable[[], pd.DataFrame] | None = None,
    *,
    command: str | None = None,
) -> pd.DataFrame:
    """Return the result `name` for `params`: the recorded one, the cached one, or a computed one.

    The table is read back from its file, with the provenance in ``attrs``. With the environment
    variable ``L2M_RECORD=1`` what had to be computed, or was only cached, is written to
    ``results/``. Delete a recorded table to have it measured anew.

    Parameters
    ----------
    name : ``"<chapter>/<name>"``, such as ``"02_two_point_mi/novels"``.
    params : all that the result depends on, as JSON values, with fingerprints of data and models.
    compute : makes the table; its ``attrs`` (device, dtype, tokens, …) go into the provenance.
    command : what makes the result, for the provenance and the error message; by default the
        runner's.

    Raises
    ------
    MissingResult : neither recorded nor cached, and not computable here: no `compute`, or it needs
        a file, a network or a package that is missing.
    DamagedFile : the recorded parameters fit, but the table is not the one that was recorded; or
        they cannot be read.
    """
    if not re.fullmatch(r"[\w-]+(/[\w-]+)+", name):
        raise ValueError(
            f"A result is named '<chapter>/<name>', of letters, digits, _ and -, not {name!r}."
        )
    params = as_json(params, allow_nan=False)
    command = command or f"python -m l2m run {name.split('/')[0]} --record"
    record = os.environ.get("L2M_RECORD") == "1"
    target = results_dir() / name
    cached = cache_dir() / "results" / f"{name}-{digest(__version__, params)[:16]}"
    frame = _read(target, params)
    if frame is not None:
        return frame
    try:
        frame = _read(cached, params)
    except DamagedFile:
        frame = None
    if frame is None:
        frame = _write(cached, _compute(name, params, compute, command))
    return _write(target, frame, MAX_BYTES) if record else frame


def provenance(name: str) -> dict:
    """Return the provenance of the recorded result `name`, or raise MissingResult.

    Whatever its parameters are.
    """
    path = results_dir() / f"{name}.json"
    if not path.exists():
        raise MissingResult(f"No result {name!r} is recorded.")
    return _read_about(path)


def _read_about(path: Path) -> dict:
    """Read the provenance of a result; older versions wrote no digest of it."""
    about = read_json(path, _RESTORE, signed=False)
    if not (isinstance(about.get("params"), dict) and isinstance(about.get("sha256"), str)):
        raise DamagedFile(f"{path} lacks its params or its sha256: {_RESTORE}")
    return about


def _read(stem: Path, params: dict) -> pd.DataFrame | None:
    """Read a table and its provenance, checked; None if there is none, or of other parameters."""
    table, path = Path(f"{stem}.parquet"), Path(f"{stem}.json")
    if not path.exists():
        return None
    about = _read_about(path)
    if about["params"] != params:
        return None
    if not table.exists() or sha256(table) != about["sha256"]:
        problem = "is not the table that was recorded (its sha256 differs, or it is missing)"
        raise DamagedFile(f"{table} {problem}: {_RESTORE}")
    frame = pd.read_parquet(table)
    frame.attrs = about
    return frame


def _write(stem: Path, frame: pd.DataFrame, max_bytes: int | None = None) -> pd.DataFrame:
    """Write table and provenance, and read them back."""
    info = dict(frame.attrs)
    bare = frame.copy(deep=False)
    bare.attrs = {}
    table = bare.to_parquet(compression="zstd")
    if max_bytes and len(table) > max_bytes:
        raise ValueError(
            f"The table {info['name']!r} has {len(table):,} bytes; a recorded one holds what "
            f"figures need, at most {max_bytes:,}. Summarise it."
        )
    info["sha256"] = hashlib.sha256(table).hexdigest()
    write_atomic(f"{stem}.parquet", table)
    write_json(f"{stem}.json", info)
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
    attrs = dict(frame.attrs)
    frame.attrs = {
        "name": name,
        "params": params,
        "command": command,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": attrs.pop("device", f"CPU, {os.cpu_count()} cores, {platform.machine()}"),
        "dtype": attrs.pop("dtype", params.get("dtype")),
        "seeds": attrs.pop("seeds", {k: v for k, v in params.items() if "seed" in k}),
        "seconds": round(attrs.pop("seconds", time.perf_counter() - start), 1),
        "tokens": attrs.pop("tokens", None),
        "versions": {
            "python": platform.python_version(),
            "l2m": __version__,
            **{name: metadata.version(name) for name in _PACKAGES if name in sys.modules},
        },
        **attrs,
    }
    return frame


def _missing(name: str, params: dict, command: str, reason: str) -> str:
    about = results_dir() / f"{name}.json"
    found = "is not recorded"
    if about.exists():
        old = _read_about(about)["params"]
        changed = [
            f"{key} = {old.get(key)!r}, not {params.get(key)!r}"
            for key in sorted(old.keys() | params.keys())
            if old.get(key) != params.get(key)
        ]
        found = f"is recorded for other parameters ({'; '.join(changed)})"
    return (
        f"The result {name!r} {found}, and cannot be computed here: {reason}. "
        f"It is made by `{command}`."
    )


def _commit() -> str | None:
    """Return the checkout's commit, with "+" where the module or a notebook differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = [*git, "diff", "--quiet", "HEAD", "--", "l2m", "notebooks"]
        dirty = subprocess.run(changed, capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty else "")
