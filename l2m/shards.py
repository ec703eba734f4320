"""Scores on disk while they are made: sharded parquet that survives a kill and finds damage.

A shard is written under a temporary name and renamed to `shard-00012-<sha256>.parquet`: a file that
is there is complete, and its name says what must be in it. In it stands a digest of what it is a
shard of, which `manifest.json` says in full; other parameters, model or data are refused.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2m.files import DamagedFile, as_json, digest, held, intact, opened, seal, write_atomic

SCHEMA = "scores 2"
CURE = "remove it, and what else is there is kept"


class Shards:
    """The finished and missing shards of one scoring run; without a folder, kept in memory.

    `settings` are all that it depends on, the windows (n, T) and an identity of the model among
    them; a shard holds `size` windows.
    As a context it holds the lock beside the folder. Under `torchrun` each process takes every
    world-th shard, and all wait for the last before they merge.
    """

    def __init__(self, folder, settings: dict, size: int):
        n = len(settings["windows"])
        self.rows = np.split(np.arange(n), range(size, n, size))
        self.folder = None if folder is None else Path(folder)
        self.values = {}
        shared = {} if folder is None else os.environ
        self.rank, self.world = int(shared.get("RANK", 0)), int(shared.get("WORLD_SIZE", 1))
        if self.folder is not None:
            arrays = {k: digest(x) for k, x in settings.items() if isinstance(x, np.ndarray)}
            manifest = settings | arrays | {"shape": list(settings["windows"].shape)}
            self.manifest = as_json(manifest | {"size": size})

    def __enter__(self):
        with ExitStack() as stack:  # lets the lock go if what follows fails
            if self.folder is not None:
                stack.enter_context(held(self.folder, self.rank == 0))
                self._check()
            self.lock = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.lock.close()

    def _check(self):
        """Refuse another run's manifest or begin one; refuse shards of others, or damaged ones."""
        if (self.folder / "manifest.json").exists():
            found = opened(self.folder, SCHEMA, CURE)
            if other := [k for k, value in self.manifest.items() if found.get(k) != value]:
                made = f"{self.folder} holds shards made with another {', '.join(other)}"
                raise RuntimeError(f"{made}: name another folder, or remove this one")
        else:
            seal(self.folder, SCHEMA, self.manifest)
        for number, file in self._files().items():
            _require_intact(file)
            if self._own(number) not in (pq.read_schema(file).metadata or {}).items():
                raise RuntimeError(f"{file} is of another run: name another folder, or remove it")

    def _own(self, number: int) -> tuple[bytes, bytes]:
        """What a shard of this run says of itself."""
        return b"of", digest(self.manifest, number).encode()

    def _files(self) -> dict[int, Path]:
        """Finished shards by number; none without a folder."""
        files = sorted(self.folder.glob("shard-*-*.parquet")) if self.folder else ()
        return {int(file.name.split("-")[1]): file for file in files}

    def missing(self) -> dict[int, np.ndarray]:
        """Window indices of each shard that this process still has to score, by its number."""
        mine = set(range(self.rank, len(self.rows), self.world))
        return {number: self.rows[number] for number in sorted(mine - self._files().keys())}

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
        write_atomic(path, lambda new: pq.write_table(table, new, compression="zstd"), hashed=True)

    def merged(self) -> dict:
        """All scores in window order, once every process has written its shards."""
        if self.world > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo")
            dist.barrier()
        self.values |= {number: _read(file) for number, file in self._files().items()}
        shards = [self.values[number] for number in range(len(self.rows))]
        return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def _require_intact(file):
    if not intact(file):
        raise DamagedFile(f"{file} is damaged (its sha256 is not its name's): {CURE}")


def _read(file):
    _require_intact(file)
    table = pq.read_table(file)
    out = {}
    for name in table.column_names[1:]:
        kind, *numbers = name.split("/")
        flat = table[name].combine_chunks().flatten().to_numpy()
        out[kind, *map(int, numbers)] = flat.reshape(len(table), -1)
    return out
