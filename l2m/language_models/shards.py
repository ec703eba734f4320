"""Scores on disk while they are made: sharded parquet that survives a kill and finds damage.

A shard is written under a temporary name and renamed to `shard-00012-<sha256>.parquet`, so a file
that is there is complete, and its name says what must be in it. `manifest.json` says what the
shards are shards of; other parameters, model or data are refused, not mixed.
"""

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2m.files import digest, held, sha256, write_atomic


class Shards:
    """The finished and missing shards of one scoring run; without a folder, kept in memory.

    Use as a context: it holds the folder's lock, so that two runs do not mix. Under `torchrun`
    each process takes every world-th shard and all wait for the last before they merge.
    """

    def __init__(self, folder, model, settings: dict, size: int, repair: bool):
        n = len(settings["windows"])
        self.rows = np.split(np.arange(n), range(size, n, size))
        self.folder = None if folder is None else Path(folder)
        self.values, self.repair = {}, repair
        shared = {} if folder is None else os.environ
        self.rank, self.world = int(shared.get("RANK", 0)), int(shared.get("WORLD_SIZE", 1))
        if self.folder is not None:
            arrays = {k: digest(x) for k, x in settings.items() if isinstance(x, np.ndarray)}
            self.manifest = settings | arrays | {"shape": list(settings["windows"].shape)}
            self.manifest |= {"model": model_hash(model), "size": size}

    def __enter__(self):
        with ExitStack() as stack:  # lets the lock go if what follows fails
            if self.folder is not None:
                stack.enter_context(held(self.folder / f"rank-{self.rank}"))
                self._check()
            self.lock = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.lock.close()

    def _check(self):
        """Refuse or begin the manifest, refuse or remove damaged shards."""
        path = self.folder / "manifest.json"
        if path.exists():
            found = json.loads(path.read_text())
            other = [key for key in self.manifest if found.get(key) != self.manifest[key]]
            if other:
                raise RuntimeError(
                    f"{self.folder} holds shards made with another {', '.join(other)}: "
                    "name another folder, or remove this one"
                )
        else:
            write_atomic(path, json.dumps(self.manifest, indent=1))
        for number, file in self._files().items():
            if sha256(file) == file.stem.split("-")[2]:
                continue
            if not self.repair:
                raise RuntimeError(
                    f"{file} is damaged (its sha256 differs from its name): remove it or pass "
                    "repair=True, and its windows are scored again"
                )
            if number % self.world == self.rank:
                file.unlink(missing_ok=True)

    def _files(self) -> dict[int, Path]:
        """Finished shards by number; none without a folder."""
        files = sorted(self.folder.glob("shard-*.parquet")) if self.folder else ()
        return {int(file.stem.split("-")[1]): file for file in files}

    @property
    def done(self) -> int:
        """Windows already scored."""
        return sum(len(self.rows[number]) for number in self._files())

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
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        name = f"shard-{number:05d}-{hashlib.sha256(data).hexdigest()}.parquet"
        write_atomic(self.folder / name, data)

    def merged(self) -> dict:
        """All scores in window order, once every process has written its shards."""
        if self.world > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo")
            dist.barrier()
        files = self._files()
        if files and self.rank == 0:
            names = self.manifest | {"shards": [file.name for file in files.values()]}
            write_atomic(self.folder / "manifest.json", json.dumps(names, indent=1))
        self.values |= {number: _read(file) for number, file in files.items()}
        shards = [self.values[number] for number in range(len(self.rows))]
        return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def model_hash(model) -> str:
    """sha256 of a model's configuration and of 4,096 entries spread over each of its weights."""
    parts = [model.config.to_json_string()]
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 4096)].float().cpu().numpy()
        parts += [f"{name}{tuple(weight.shape)}{weight.dtype}", sample]
    return digest(*parts)


def _read(file):
    table = pq.read_table(file)
    out = {}
    for name in table.column_names[1:]:
        kind, *numbers = name.split("/")
        flat = table[name].combine_chunks().flatten().to_numpy()
        out[kind, *map(int, numbers)] = flat.reshape(len(table), -1)
    return out
