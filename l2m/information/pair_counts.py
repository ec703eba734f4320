"""How many pairs of tokens have each count: sorted keys, no table of pairs.

A pair becomes an integer key, the keys are sorted, the lengths of the runs are counted. Keys are
taken in parts, those of one range of first tokens at a time: every pair belongs to one part, so
nothing has to be merged, and a part of any corpus fits in memory, or goes to another machine. Its
keys take no more than a share of the memory that is free, so that memory does not grow with the
corpus: 4 bytes a key (8 where ids need more than 16 bits), 512 MB at most, 16 at least.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

import numpy as np

PART, LEAST = 2**27, 2**22  # keys sorted in one go
SHARE = 1 / 8  # of the free memory, that they may take: two threads sort at once
BLOCK = 2**20  # keys made, or looked at, in one go: small beside a part
SMALL = 2**12  # counts below are tallied in a table

Documents = Sequence[np.ndarray]


def pair_counts(
    documents: Documents,
    others: Documents,
    distance: int,
    first: np.ndarray,
    part: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of counts of the pairs (document[i], other[i + distance]).

    Returns different counts, increasing, and how many pairs have each, int64.
    `documents` are unsigned token ids, arrays (or tensors of one torch device); `others`, of the
    same lengths, are the documents themselves, or a shuffled copy. `first`, (vocab_size,), is how
    many pairs begin with each token, `part` how many keys are sorted in one go (all pairs of a
    first token stay together, so perhaps more), by default as many as the memory bears.
    """
    bits = max(1, int(len(first) - 1).bit_length())
    counts_of_range = _counts_numpy if isinstance(documents[0], np.ndarray) else _counts_torch
    before, part = np.append(0, np.cumsum(first)), part or fitting_part(bits)
    found = [
        counts_of_range(documents, others, distance, bits, low, high, before[high] - before[low])
        for low, high in _ranges(before, part)
    ]
    counts, times = map(np.concatenate, zip(*found, strict=True))
    counts, place = np.unique(counts, return_inverse=True)  # the same, whatever the parts are
    totals = np.zeros(len(counts), np.int64)
    np.add.at(totals, place, times)
    return counts, totals


def fitting_part(bits: int, free: float | None = None) -> int:
    """How many keys of ids of so many bits are sorted in one go, where so much memory is `free`."""
    most = SHARE * (free_memory() if free is None else free) / (4 if bits <= 16 else 8)
    return int(min(PART, max(LEAST, most)))


def free_memory() -> float:
    """Bytes that this process may still take, of its machine, container and limit; inf if unknown.

    Files that the system keeps in memory count as free.
    """
    status, found = Path("/proc/self/status"), [inf]
    with suppress(OSError, TypeError):  # each on Linux alone
        available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        found.append(int(available[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, now = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(most) - int(now))  # "max" is no number
    with suppress(OSError, ImportError, TypeError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(re.search(r"VmSize:\s+(\d+) kB", status.read_text())[1]) * 1024
        found += [most - taken] if most != resource.RLIM_INFINITY else []
    return max(0, min(found))


def n_pairs(documents: Documents, distance: int) -> int:
    """Number of pairs of tokens at a distance, both in one document."""
    return sum(max(len(document) - distance, 0) for document in documents)


def count_tokens(documents: Documents, size: int) -> np.ndarray:
    """How often each token id below `size` occurs."""
    counts = np.zeros(size, np.int64)
    for block, _ in _blocks(documents, documents, 0):
        counts += np.bincount(block, minlength=size)
    return counts


def run_lengths(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the runs of sorted keys, and how many runs have each."""
    small, large, last = np.zeros(SMALL, np.int64), [], -1
    for start in range(0, len(keys), BLOCK):
        block = keys[start : start + BLOCK + 1]
        ends = np.flatnonzero(block[1:] != block[:-1]) + start
        if start + BLOCK >= len(keys):
            ends = np.append(ends, len(keys) - 1)
        lengths = np.diff(ends, prepend=last)
        last = ends[-1] if len(ends) else last
        small += np.bincount(np.minimum(lengths, SMALL), minlength=SMALL + 1)[:SMALL]
        large.append(lengths[lengths >= SMALL])
    counts, times = np.unique(np.concatenate([[], *large]).astype(np.int64), return_counts=True)
    return np.append(np.flatnonzero(small), counts), np.append(small[small > 0], times)


def _ranges(before: np.ndarray, part: int) -> Iterator[tuple[int, int]]:
    """Ranges of first tokens with at most `part` pairs, or of one token that has more."""
    low = 0
    while low < len(before) - 1:
        high = max(low + 1, int(np.searchsorted(before, before[low] + part, "right")) - 1)
        if before[high] > before[low]:
            yield low, high
        low = high


def _blocks(documents: Documents, others: Documents, distance: int) -> Iterator[tuple]:
    """First and second tokens of all pairs, about `BLOCK` at a time."""
    first, second, size = [], [], 0
    for document, other in zip(documents, others, strict=True):
        end = len(document) - distance
        for start in range(0, end, BLOCK):
            stop = min(start + BLOCK, end)
            first.append(document[start:stop])
            second.append(other[start + distance : stop + distance])
            size += stop - start
            if size >= BLOCK:
                yield np.concatenate(first), np.concatenate(second)
                first, second, size = [], [], 0
    if size:
        yield np.concatenate(first), np.concatenate(second)


def _counts_numpy(documents, others, distance, bits, low, high, size):
    """Counts of counts of the `size` pairs whose first token is in [low, high)."""
    dtype = np.uint32 if bits <= 16 else np.uint64
    keys, filled = np.empty(size, dtype), 0
    everything = size == n_pairs(documents, distance)
    for first, second in _blocks(documents, others, distance):
        block = (first.astype(dtype) << dtype(bits)) | second
        if not everything:
            block = block[first - first.dtype.type(low) < high - low]  # unsigned: below low is huge
        keys[filled : filled + len(block)] = block
        filled += len(block)
    keys.sort()
    return run_lengths(keys)


def _counts_torch(documents, others, distance, bits, low, high, size):
    """The same on a torch device, all pairs at once."""
    import torch

    long = [i for i, document in enumerate(documents) if len(document) > distance]
    first = torch.cat([documents[i][:-distance] for i in long])
    second = torch.cat([others[i][distance:] for i in long])
    # 32 bits are enough for ids of 16, if less 2^15 they may be negative
    keys = (first - 2**15 << 16 if bits <= 16 else first.long() << bits) | second
    if size < len(keys):
        keys = keys[(first >= low) & (first < high)]
    del first, second
    counts = torch.unique(keys, return_counts=True)[1].int()  # half the bytes to sort once more
    counts, times = torch.unique(counts, return_counts=True)
    return counts.long().cpu().numpy(), times.cpu().numpy()
