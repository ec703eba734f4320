"""Do all kinds of work, in any order, for an hour in one process: does its memory grow?

    python benchmarks/soak.py                       # an hour on two threads
    nice python benchmarks/soak.py --minutes 25 --record

Each round scores windows, counts pairs, fits and resamples laws, trains a network, tokenises books,
or keeps and reads results, of sizes drawn at random; what it keeps on the disk it removes again.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timing import record

from l2m import Training, bipartite_mi, bootstrap_power_law, build_model, score, train, two_point_mi
from l2m.experiments.gaussian import GaussianTask
from l2m.language_models.models import load_model, load_tokenizer
from l2m.results import recorded
from l2m.text.corpora import token_file

FAMILIES = {  # of networks on vectors, with their options
    "gpt2": {},
    "mamba": {"state": 4},
    "mamba2": {"state": 16},
    "power": {"s": 0.5, "slots": 1},
}


class Work:
    """Kinds of work, each a method that draws its sizes from `rng`, in a folder of their own."""

    def __init__(self, folder: Path, rng):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        self.folder, self.rng = folder, rng
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        config = LlamaConfig(vocab_size=500, num_attention_heads=4, bos_token_id=0, **sizes)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
        words = {"<|endoftext|>": 0} | {f"w{i}": i for i in range(1, 500)}
        backend = Tokenizer(models.WordLevel(words, unk_token="w1"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder / "model")

    def scoring(self):
        n, length = self.rng.integers(8, 40), int(2 ** self.rng.integers(4, 8))
        windows = self.rng.integers(0, 500, (n, length))
        model = load_model(str(self.folder / "model"), ["float32", "bfloat16"][n % 2])
        scores = score(model, windows, folder=self.folder / "scores", progress=False)
        bipartite_mi(scores, "vclub")

    def counting(self):
        sizes = self.rng.integers(1000, 200_000, self.rng.integers(2, 20))
        documents = [(self.rng.zipf(1.3, size) % 50_000).astype(np.uint16) for size in sizes]
        two_point_mi(documents, [1, 8, 64], part=int(self.rng.integers(10_000, 1_000_000)))

    def laws(self):
        lengths, books = 2 ** np.arange(3, 12), self.rng.integers(0, 12, 60)
        values = 2 * lengths**0.6 * self.rng.lognormal(0, 0.2, (60, len(lengths)))
        bootstrap_power_law(lengths, values, groups=books, n_boot=100)

    def training(self):
        family = list(FAMILIES)[self.rng.integers(len(FAMILIES))]
        task = GaussianTask("sub-volume", levels=2, copies=8, seed=int(self.rng.integers(99)))
        sizes = {"layers": 1, "width": 32, "dim": 8, "length": task.length}
        model = build_model(family, **sizes, **FAMILIES[family])
        steps = int(self.rng.integers(4, 40))
        how = Training(steps, batch_size=8, precision="fp32", save_every=10)
        train(model, task, how, self.folder / "run", progress=False)

    def books(self):
        (self.folder / "books").mkdir()
        for i in range(self.rng.integers(1, 12)):
            words = self.rng.integers(1, 500, self.rng.integers(100, 30_000))
            text = " ".join(f"w{word}" for word in words)
            (self.folder / f"books/{i}.txt").write_text(text)
        token_file([self.folder / "books"], load_tokenizer(str(self.folder / "model")))

    def results(self):
        table = pd.DataFrame({"x": self.rng.random(self.rng.integers(10, 50_000))})
        for _ in range(2):
            recorded("soak/table", {"rows": len(table)}, lambda: table.copy())

    def round(self):
        """One kind of work; its name."""
        kinds = ["scoring", "counting", "laws", "training", "books", "results"]
        kind = kinds[self.rng.integers(len(kinds))]
        getattr(self, kind)()
        for made in ("scores", "run", "books", "cache"):
            shutil.rmtree(self.folder / made, ignore_errors=True)
            (self.folder / f"{made}.lock").unlink(missing_ok=True)
        return kind


def resident():
    """MB that this process holds, once it has given back what is free."""
    with suppress(OSError, AttributeError):  # where the C library is not GNU's
        ctypes.CDLL(None).malloc_trim(0)
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def growth(rows) -> float:
    """MB per hour after the first third of the time, when all is loaded; minutes count alike."""
    seconds, mb = np.array(rows, float).T
    at = np.arange(seconds[-1] / 3, seconds[-1], 60)
    return round(3600 * np.polyfit(at, np.interp(at, seconds, mb), 1)[0], 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    rounds, rows, start = {}, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["L2M_CACHE"] = f"{folder}/cache"
        work = Work(Path(folder), np.random.default_rng(args.seed))
        while (seconds := time.monotonic() - start) < 60 * args.minutes:
            kind = work.round()
            rounds[kind] = rounds.get(kind, 0) + 1
            rows.append([round(seconds), round(resident(), 1)])
    few = rows[:: max(1, len(rows) // 150)]
    out = {
        "minutes": round((time.monotonic() - start) / 60, 1),
        "rounds": rounds,
        "seed": args.seed,
        "device": f"CPU, 2 threads of {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "mb_per_hour": growth(few),
        "most_mb": max(mb for _, mb in rows),
        "seconds_and_mb": few,
    }
    print(json.dumps(out))
    if args.record:
        record("soak-cpu", out)


if __name__ == "__main__":
    main()
