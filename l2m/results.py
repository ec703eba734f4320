"""Results: computed once, committed with their provenance, read everywhere; and scores, in shards.

A recorded result is a table, ``results/<chapter>/<name>.parquet``, beside a ``.json`` of the
parameters that made it, where and how it was computed, the table's sha256 and a digest of itself. A
result whose parameters are not the recorded ones is computed, and kept in the cache folder.

Scores are kept in shards while they are made, parquet files that survive a kill and tell damage. A
shard is written under a temporary name and renamed to `shard-00012-<sha256>.parquet`: a file that
is there is complete, and its name says what must be in it. In it stands a digest of what it is a
shard of, which `manifest.json` says in full; other parameters, model or data are refused.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib import metadata
from math import inf
from pathlib import Path
from subprocess import DEVNULL

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from l2m import __version__, files
from l2m.files import ROOT, DamagedFile, cache_dir

MAX_BYTES = 2_000_000  # of one recorded table
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "transformers")
_RESTORE = "restore it with `git checkout -- results`, or delete it to measure anew."
_SCHEMA, _CURE = "scores 2", "remove it, and what else is there is kept"  # of shards


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


class Shards:
    """The finished and missing shards of one scoring run; without a folder, kept in memory.

    `settings` are all that it depends on, the windows (n, T) and an identity of the model among
    them; a shard holds `size` windows. As a context it holds the lock beside the folder. Under
    `torchrun` each process takes every world-th shard, and all wait for the last before they merge.
    """

    def __init__(self, folder, settings: dict, size: int):
        n = len(settings["windows"])
        self.rows = np.split(np.arange(n), range(size, n, size))
        self.folder = None if folder is None else Path(folder)
        self.values = {}
        shared = {} if folder is None else os.environ
        self.rank, self.world = int(shared.get("RANK", 0)), int(shared.get("WORLD_SIZE", 1))
        if self.folder is not None:
            arrays = {k: files.digest(x) for k, x in settings.items() if isinstance(x, np.ndarray)}
            manifest = settings | arrays | {"shape": list(settings["windows"].shape)}
            self.manifest = files.as_json(manifest | {"size": size})

    def __enter__(self):
        with ExitStack() as stack:  # lets the lock go if what follows fails
            if self.folder is not None:
                stack.enter_context(files.held(self.folder, self.rank == 0))
                self._check()
            self.lock = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.lock.close()

    def _check(self):
        """Refuse another run's manifest or begin one; refuse shards of others, or damaged ones."""
        if (self.folder / "manifest.json").exists():
            found = files.opened(self.folder, _SCHEMA, _CURE)
            if other := [k for k, value in self.manifest.items() if found.get(k) != value]:
                made = f"{self.folder} holds shards made with another {', '.join(other)}"
                raise RuntimeError(f"{made}: name another folder, or remove this one")
        else:
            files.seal(self.folder, _SCHEMA, self.manifest)
        for number, file in self._files().items():
            _require_intact(file)
            if self._own(number) not in (pq.read_schema(file).metadata or {}).items():
                raise RuntimeError(f"{file} is of another run: name another folder, or remove it")

    def _own(self, number: int) -> tuple[bytes, bytes]:
        """What a shard of this run says of itself."""
        return b"of", files.digest(self.manifest, number).encode()

    def _files(self) -> dict[int, Path]:
        """Finished shards by number; none without a folder."""
        found = sorted(self.folder.glob("shard-*-*.parquet")) if self.folder else ()
        return {int(file.name.split("-")[1]): file for file in found}

    def missing(self) -> dict[int, np.ndarray]:
        """Window indices of each shard that this process still has to score, by its number."""
        mine = set(range(self.rank, len(self.rows), self.world))
        return {number: self.rows[number] for number in sorted(mine - self._files().keys())}

    def bar(self, progress: bool) -> tqdm:
        """A bar of the windows, at those that are finished; shown if `progress`."""
        left, n = sum(map(len, self.missing().values())), sum(map(len, self.rows))
        return tqdm(total=n, initial=n - left, unit="window", disable=not progress)

    def write(self, number: int, values: dict):
        """Keep the scores of one shard: {key: (windows, tokens) float32}."""
        if self.folder is None:
            self.values[number] = values
            return
        columns = {"window": pa.array(self.rows[number])}
        for key, x in values.items():
            flat = pa.array(np.ascontiguousarray(x, dtype=np.float32).ravel())
            columns["/".join(map(str, key))] = pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
        table = pa.table(columns).replace_schema_metadata(dict([self._own(number)]))
        path = self.folder / f"shard-{number:05d}.parquet"
        write = partial(pq.write_table, table, compression="zstd")
        files.write_atomic(path, write, hashed=True)

    def merged(self) -> dict:
        """All scores in window order, once every process has written its shards."""
        if self.world > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo")
            dist.barrier()
        self.values |= {number: _read_shard(file) for number, file in self._files().items()}
        shards = [self.values[number] for number in range(len(self.rows))]
        return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def _require_intact(file):
    if not files.intact(file):
        raise DamagedFile(f"{file} is damaged (its sha256 is not its name's): {_CURE}")


def _read_shard(file):
    _require_intact(file)
    table = pq.read_table(file)
    out = {}
    for name in table.column_names[1:]:
        kind, *numbers = name.split("/")
        flat = table[name].combine_chunks().flatten().to_numpy()
        out[kind, *map(int, numbers)] = flat.reshape(len(table), -1)
    return out
