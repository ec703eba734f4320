"""Time the counting of token pairs against a Python Counter, in one run on one machine.

    python benchmarks/pair_counting.py                          # 2 CPU cores: about 5 minutes
    python benchmarks/pair_counting.py --device cuda --record   # one GPU: about 3 minutes

The tokens are those of the 100 novels if they are here (`L2M_CORPORA`), else as many that are drawn
from a Zipf law over as many types. What is timed, at distance 16 unless all distances are:

1. `pair_counts` against `Counter(zip(tokens[:-d], tokens[d:]))`, on the same tokens;
2. `two_point_mi` for d = 1, 2, 4, …, 4096 with the null, shuffling included;
3. 25 to 200 million tokens, on a CPU in a process that may address 4 GiB only: all keys in one part
   and the most of them once more in parts a quarter of the size, which saves memory for scans;
4. on a GPU, the bytes that the steps of the count move, against a plain copy on the same card.

PG19 on paper: 3.0 G tokens below 2^16 are 6 GB of disk, read through a memory map, and 6 GB of
memory for the shuffled copy. A part of 2^27 keys is 0.5 GB; there are 23 of them, each of which
reads all tokens once, so a machine with 16 GB to spare takes fewer and larger parts. A distance
costs what is printed below a token, times 3.0 G: minutes on two cores, seconds on a GPU; 13
distances with the null are 26 of these. Parts, distances and nulls are independent of each other,
and the answer of each is a few thousand numbers, so any engine that maps a function over a list
(an array job, Ray, Spark, `multiprocessing`) spreads `pair_counts` over ranges of first tokens;
what the parts return is concatenated.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from timing import record

from l2m.information.pair_counts import count_tokens, n_pairs, pair_counts
from l2m.information.two_point import check_documents, two_point_mi

DISTANCE = 16
DISTANCES = [2**k for k in range(13)]
NOVELS = 18_773_245  # tokens of the 100 novels


def zipf_tokens(n, vocabulary=49_152, seed=0):
    """`n` independent tokens; that of rank r comes with a frequency like log((r + 4) / (r + 3))."""
    rng = np.random.default_rng(seed)
    tokens = np.empty(n, np.uint16)
    for start in range(0, n, 2**22):
        piece = tokens[start : start + 2**22]
        piece[:] = 3 * ((vocabulary + 3) / 3) ** rng.random(len(piece)) - 3
    return tokens


def documents_of(tokens, count=100):
    return check_documents(np.array_split(tokens, count))


def novels():
    """Documents of the novels, or of made-up tokens, and which of the two."""
    from l2m.language_models.models import load_tokenizer
    from l2m.text.corpora import load_corpus

    try:
        tokens = load_corpus("english-novels-100").tokens(load_tokenizer())
        return check_documents(tokens), "100 novels"
    except OSError:
        return documents_of(zipf_tokens(NOVELS)), "Zipf tokens"


def first_counts(documents, distance):
    size = 1 + max(int(document.max()) for document in documents)
    return count_tokens([document[:-distance] for document in documents], size)


def best_of(function, repeats, synchronise=lambda: None):
    """Shortest seconds of a call, and what it returned."""
    seconds = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        result = function()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def counter_loop(documents, distance):
    counts = Counter()
    for document in documents:
        tokens = document.tolist()
        counts.update(zip(tokens[:-distance], tokens[distance:], strict=True))
    return counts


def against_counter(documents, corpus):
    first, pairs = first_counts(documents, DISTANCE), n_pairs(documents, DISTANCE)
    seconds, found = best_of(lambda: pair_counts(documents, documents, DISTANCE, first), 3)
    naive_seconds, naive = best_of(lambda: counter_loop(documents, DISTANCE), 1)
    values, times = np.unique(np.fromiter(naive.values(), np.int64), return_counts=True)
    assert dict(zip(*found, strict=True)) == dict(zip(values, times, strict=True))
    total, _ = best_of(lambda: two_point_mi(documents, DISTANCES), 1)
    return {
        "tokens_of": corpus,
        "pairs": pairs,
        "different_pairs": len(naive),
        "pairs_per_second": pairs / seconds,
        "counter_pairs_per_second": pairs / naive_seconds,
        "speed_up": naive_seconds / seconds,
        "all_distances_with_null_seconds": total,
    }


def one_size(n, part):
    """Seconds and peak memory of one count of `n` made-up tokens, in this process."""
    documents = documents_of(zipf_tokens(n))
    first = first_counts(documents, DISTANCE)
    seconds, _ = best_of(lambda: pair_counts(documents, documents, DISTANCE, first, part), 1)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    peak = int(peak[1]) / 2**20 if peak else None
    return {"tokens": n, "part": part, "seconds": seconds, "peak_gib": peak}


def limited(n, part, gib):
    """`one_size` in a process of its own with a limit on its address space."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({int(gib * 2**30)},) * 2)\n"
        f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import pair_counting; print(json.dumps(pair_counting.one_size({n}, {part})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if out.returncode:
        return {"tokens": n, "part": part, "failed": out.stderr.strip().splitlines()[-1]}
    return json.loads(out.stdout) | {"address_limit_gib": gib}


def on_gpu(documents, corpus, sizes, bandwidth):
    """Rates of the count alone, the tokens on the card already."""
    import torch

    rows = []
    for n in [None, *sizes]:
        if n:
            documents, corpus = documents_of(zipf_tokens(n)), "Zipf tokens"
        first, pairs = first_counts(documents, DISTANCE), n_pairs(documents, DISTANCE)
        flat = torch.from_numpy(np.concatenate(documents).astype(np.int32)).cuda()
        held = flat.split([len(document) for document in documents])
        pair_counts(held, held, DISTANCE, first)  # loads the kernels
        torch.cuda.reset_peak_memory_stats()
        seconds, found = best_of(
            lambda h=held, f=first: pair_counts(h, h, DISTANCE, f), 5, torch.cuda.synchronize
        )
        expected = pair_counts(documents, documents, DISTANCE, first)
        assert dict(zip(*found, strict=True)) == dict(zip(*expected, strict=True))
        moved = bytes_moved(pairs, int(found[1].sum()))
        rows.append(
            {
                "tokens_of": corpus,
                "tokens": sum(map(len, documents)),
                "giga_pairs_per_second": pairs / seconds / 1e9,
                "bytes_a_pair": moved / pairs,
                "gb_per_second": moved / seconds / 1e9,
                "share_of_copy_bandwidth": moved / seconds / bandwidth,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            }
        )
    return rows


def bytes_moved(pairs, different):
    """Bytes read and written by the steps of `pair_counts._counts_torch` for 32-bit keys.

    Gather first and second tokens (8 read, 8 written), subtract (4 + 4), shift (4 + 4), combine
    (8 + 4); copy and radix-sort the keys, one histogram and four passes of 8 bits (8 + 4 + 4 · 8);
    find the runs (4 read, 12 written a run).
    """
    return pairs * (16 + 8 + 8 + 12 + 44 + 4) + different * 12


def copy_bandwidth():
    """Bytes a second, read and written, of a plain copy of 1 GiB on the card."""
    import torch

    block = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    other.copy_(block)
    seconds, _ = best_of(lambda: other.copy_(block), 10, torch.cuda.synchronize)
    return 2 * 2**30 / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=int, nargs="*", default=[25, 50, 100, 200], help="10^6")
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--part", type=int, default=2**28, help="keys in one go, with the limit")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    sizes = [size * 1_000_000 for size in args.sizes]
    documents, corpus = novels()
    out = {"numpy": np.__version__, "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}"}
    if args.device == "cuda":
        import torch

        bandwidth = copy_bandwidth()
        out |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        out |= {"copy_gb_per_second": bandwidth / 1e9}
        out["gpu"] = on_gpu(documents, corpus, sizes, bandwidth)
    else:
        out["cpu"] = against_counter(documents, corpus)
        cases = [(size, args.part) for size in sizes] + [(max(sizes), args.part // 4)]
        out["sizes"] = [limited(size, part, args.limit_gib) for size, part in cases]
        for row in out["sizes"]:
            if "seconds" in row:
                row["nanoseconds_a_token"] = row["seconds"] / row["tokens"] * 1e9
    print(json.dumps(out, indent=1))
    if args.record:
        record(f"pair_counting-{args.device}", out)


if __name__ == "__main__":
    main()
