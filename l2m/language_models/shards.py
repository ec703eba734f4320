"""Scores on disk while they are made: sharded parquet that survives a kill and finds damage.

A shard is written under a temporary name and renamed to `shard-00012-<sha256>.parquet`, so a file
that is there is complete, and its name says what must be in it. `manifest.json` says what the
shards are shards of; other parameters, model or data are refused, not mixed.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from l2m.results import sha256, write_atomic


class Shards:
    """The finished and missing shards of one scoring run; without a folder, kept in memory.

    Use as a context: it holds the folder's lock, so that two runs do not mix. Under `torchrun`
    each process takes every world-th shard and all wait for the last before they merge.
    """

    def __init__(self, folder, model, settings: dict, size: int, repair: bool):
        n = len(settings["windows"])
        self.rows = [np.arange(i, min(i + size, n)) for i in range(0, n, size)]
        self.folder = None if folder is None else Path(folder)
        self.values, self.repair = {}, repair
        self.rank, self.world = 0, 1
        if self.folder is not None:
            self.rank = int(os.environ.get("RANK", 0))
            self.world = int(os.environ.get("WORLD_SIZE", 1))
            self.manifest = _manifest(model, settings, size)

    def __enter__(self):
        if self.folder is None:
            return self
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / f"rank-{self.rank}.lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"another run is using {self.folder}: wait, or name another"
            ) from None
        try:
            self._open()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *_):
        if self.folder is not None:
            self.lock.release()

    def _open(self):
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
            write_atomic(path, json.dumps(self.manifest, indent=1).encode())
        for number, file in self._files().items():
            if sha256(file) != file.stem.split("-")[2]:
                if not self.repair:
                    raise RuntimeError(
                        f"{file} is damaged (its sha256 differs from its name): remove it or pass "
                        "repair=True, and its windows are scored again"
                    )
                if number % self.world == self.rank:
                    file.unlink(missing_ok=True)

    def _files(self) -> dict[int, Path]:
        return {int(f.stem.split("-")[1]): f for f in sorted(self.folder.glob("shard-*.parquet"))}

    @property
    def done(self) -> int:
        """Windows already scored."""
        return 0 if self.folder is None else sum(len(self.rows[i]) for i in self._files())

    def missing(self) -> dict[int, np.ndarray]:
        """Window indices of each shard that this process still has to score, by its number."""
        found = {} if self.folder is None else self._files()
        mine = {i: r for i, r in enumerate(self.rows) if i % self.world == self.rank}
        return {number: rows for number, rows in mine.items() if number not in found}

    def write(self, number: int, values: dict):
        """Keep the scores of one shard: {key: (windows, tokens) float32}."""
        if self.folder is None:
            self.values[number] = values
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

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
        if self.folder is not None:
            if self.world > 1:
                _barrier()
            files = self._files()
            if self.rank == 0:
                names = {**self.manifest, "shards": [files[i].name for i in sorted(files)]}
                write_atomic(self.folder / "manifest.json", json.dumps(names, indent=1).encode())
            self.values = {number: _read(file) for number, file in files.items()}
        shards = [self.values[number] for number in range(len(self.rows))]
        return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def model_hash(model) -> str:
    """sha256 of a model's configuration and of 4,096 entries spread over each of its weights."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 4096)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()


def _manifest(model, settings, size):
    out = {
        key: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        if isinstance(value, np.ndarray)
        else value
        for key, value in settings.items()
    }
    return {
        **out,
        "shape": list(settings["windows"].shape),
        "model": model_hash(model),
        "size": size,
    }


def _read(file):
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    out = {}
    for name in table.column_names[1:]:
        kind, *numbers = name.split("/")
        column = table[name].combine_chunks()
        flat = column.flatten().to_numpy()
        out[kind, *map(int, numbers)] = flat.reshape(len(column), -1)
    return out


def _barrier():
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    dist.barrier()
