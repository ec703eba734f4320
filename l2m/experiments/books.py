"""Language models trained on books, judged on books that were held out (Sec. 6, App. G).

All runs on the same books read the same token file, and those of one length the same batches in the
same order. A run keeps its learning curve (`metrics`), the loss by position, book by book
(`positions`), the terms of both estimators of I_BP on windows of held-out books (`terms`), and what
it was (`runs`).
"""

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from math import inf

import numpy as np
import pandas as pd

from l2m.experiments import grids
from l2m.experiments.position_losses import block_edges, block_means
from l2m.experiments.runs import Experiment, Run, main_process
from l2m.files import digest, write_atomic
from l2m.language_models import models
from l2m.text.corpora import fingerprint, token_file
from l2m.text.sequences import Sequences
from l2m.text.shared_passages import require_apart
from l2m.text.token_files import TokenFile

TOKENS = 1 << 15  # evaluated at once
WATCHED = 1 << 17  # held-out tokens looked at while training
SPARE = 60  # seconds of a deadline that a run keeps back for evaluating


@dataclass(frozen=True)
class Books:
    """The books of some runs, and how the models are judged on those held out.

    Attributes
    ----------
    corpora, tokenizer, limit : as `token_file` and `load_tokenizer` take them.
    held_out : books kept from training, drawn with `split_seed`.
    exclude : titles of books to leave out on both sides.
    sequences : held-out sequences of a book at most, of each run's length.
    windows, window_length : held-out windows for the estimate of I_BP.
    """

    corpora: tuple[str, ...] = ("english-novels-100", "eltec-eng")
    tokenizer: str = models.EMBEDDED
    limit: int | None = None
    held_out: int = 24
    split_seed: int = 0
    exclude: tuple[str, ...] = ()
    sequences: int = 32
    windows: int = 256
    window_length: int = 2048

    def file(self) -> TokenFile:
        """The token file, made if there is none, with its two sides checked to be apart."""
        return _file(self)

    def sides(self, file: TokenFile) -> tuple[np.ndarray, np.ndarray]:
        """The books to train on, and those held out."""
        return file.held_out(self.held_out, self.split_seed, self.exclude)

    def held_out_windows(self, file: TokenFile) -> tuple[np.ndarray, np.ndarray]:
        """Windows for `score`, evenly from all held-out books, and the book of each."""
        _, books = self.sides(file)
        sequences = Sequences(file, self.window_length, 0, books)
        starts, owner = sequences.cut(None)
        kept = thinned(owner, -(-self.windows // len(books)))
        return sequences.read(starts[kept]), owner[kept]


@cache
def _file(books: Books) -> TokenFile:
    file = token_file(books.corpora, models.load_tokenizer(books.tokenizer), books.limit)
    sides = books.sides(file)
    checked = file.folder / f"apart-{digest(*sides)[:12]}.json"
    if not checked.exists():  # it takes as long as a minute of training
        shared = require_apart(file, *sides)
        write_atomic(checked, shared.to_json(orient="records"))
    return file


class BookTask:
    """Sequences of books as a task of `train`: see `Sequences`, whose parameters it takes."""

    def __init__(self, file: TokenFile, length: int, seed: int = 0, books=None):
        self.file, self.length = file, length
        self.sequences = Sequences(file, length, seed, books)

    def about(self) -> dict:
        """What identifies its data."""
        books = [int(book) for book in self.sequences.books]
        about = {"task": "books", "tokens": self.file.identity, "books": digest(books)}
        return about | {"length": self.length, "seed": self.sequences.seed}

    def batch(self, step: int, size: int, rows: slice, device) -> tuple:
        """Sequences `rows` of the `size` ones of a step: ((n, L),), a function of seed and step."""
        numbers = step * size + np.arange(size)[rows]
        return (on_device(self.sequences.numbered(numbers), device),)

    def loss(self, model, tokens):
        """Mean loss, nats."""
        from l2m.training.loss import token_loss

        return token_loss(model, tokens, self.file.bos_token_id)

    def values(self, model, tokens):
        """Loss of every token (n, L), nats."""
        from l2m.training.loss import token_values

        return token_values(model, tokens, self.file.bos_token_id)


def on_device(tokens: np.ndarray, device):
    """Token ids as a LongTensor."""
    import torch

    tokens = torch.from_numpy(tokens)
    if torch.device(device).type == "cuda":
        return tokens.pin_memory().to(device, non_blocking=True)
    return tokens


@dataclass(frozen=True)
class BookRun(Run):
    """One language model, how long it is trained, and on what books."""

    family: str
    layers: int
    width: int
    length: int = 4096
    state: int | None = None
    tokens: int = 100_000_000
    batch_tokens: int = 32_768
    learning_rate: float = 1e-3
    gradient_accumulation_steps: int = 1
    seed: int = 0
    books: Books = field(default_factory=Books)

    chapter = "07_books"

    def about(self) -> dict:
        """Its fields without its books, by the names that results are recorded under."""
        return {key: value for key, value in super().about().items() if key != "books"}

    def identity(self) -> dict:
        """All that its numbers depend on; in how many parts a batch is processed is not."""
        own = {key: value for key, value in self.about().items() if key != "accumulate"}
        return own | asdict(self.books) | {"tokens": self.books.file().identity}

    @property
    def title(self) -> str:
        """Such as mamba-24x768-4096, or mamba-16x512-s64-4096 with a state of its own."""
        state = f"-s{self.state}" if self.state else ""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.family}-{self.layers}x{self.width}{state}-{self.length}{seed}"

    @property
    def name(self) -> str:
        """Its title: within a grid there is no other of that title."""
        return self.title

    @property
    def total_tokens(self) -> int:
        """Tokens that it is trained on."""
        return self.tokens

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return -(-self.tokens // self.batch_tokens)

    def model(self, vocab_size: int):
        """The model with its first weights."""
        from l2m.training.networks import build_model

        sizes = {"layers": self.layers, "width": self.width, "state": self.state}
        return build_model(
            self.family, vocab_size=vocab_size, length=self.length, seed=self.seed, **sizes
        )

    def training(self, device):
        """Configuration of the loop: in bf16 and compiled on a GPU."""
        from l2m.training.loop import Training

        cuda = device.type == "cuda"
        return Training(
            steps=self.steps,
            batch_size=self.batch_tokens // self.length,
            learning_rate=self.learning_rate,
            warmup_steps=max(1, self.steps // 20),
            weight_decay=0.1,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            precision="bf16" if cuda else "fp32",
            compile=cuda,
            log_every=max(1, self.steps // 150),
            save_every=max(1, self.steps // 2),
        )

    def train(self, deadline=inf, progress=True):
        """Train, evaluate and score it: see `Run.train`."""
        import torch

        from l2m.training.loop import train

        logging.getLogger("transformers").setLevel(logging.ERROR)  # that Mamba is slow on a CPU
        file, device = self.books.file(), models.default_device()
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, where it is not bf16
        model = self.model(file.vocab_size).to(device)
        judge = HeldOut(self, file, model)
        metrics = train(
            model,
            judge.task,
            self.training(device),
            self.folder,
            device,
            progress,
            deadline=deadline - SPARE,
            watch=judge.watch,
            watch_every=max(1, self.steps // 6),
        )
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if metrics["step"].max() < self.steps or not main_process():
            return None
        gpus = int(os.environ.get("WORLD_SIZE", 1)) if device.type == "cuda" else 0
        row = self.about() | {
            "tokens_sha256": file.sha256,
            "gpus": gpus,
            "weights": sum(p.numel() for p in model.parameters()),
            "config": json.dumps(model.config.to_dict(), default=str),
            "epochs": judge.task.sequences.epochs(self.tokens),
            **metrics.attrs,
            "seconds": metrics["seconds"].sum(),
            "torch": torch.__version__,
        }
        runs = pd.DataFrame([row]).astype({"state": "Int64"})
        positions, terms = judge.positions(), judge.terms()
        return {"metrics": metrics, "positions": positions, "terms": terms, "runs": runs}


class HeldOut:
    """Held-out books for one run, and a plain copy of its model that shares the weights.

    The copy is not compiled, so that it may be asked anything while the model trains. It stays in
    training mode, in which Mamba takes its fused kernels; there is no dropout to switch off.

    Parameters
    ----------
    run : the run; file : its token file; model : the one to train, already on its device.
    """

    def __init__(self, run: BookRun, file: TokenFile, model):
        self.run, self.file, self.device = run, file, next(model.parameters()).device
        training, books = run.books.sides(file)
        self.task = BookTask(file, run.length, run.seed, training)
        self.held_out = BookTask(file, run.length, run.seed, books)
        self.model = run.model(file.vocab_size).to(self.device)
        self.model.load_state_dict(model.state_dict(), assign=True)
        self.model.train()

    def watch(self, _model=None) -> float:
        """Mean loss of some held-out sequences, the same each time, from all books (nats)."""
        starts, _ = self._sequences()
        n = max(1, WATCHED // self.run.length)
        some = np.linspace(0, len(starts) - 1, min(n, len(starts))).round().astype(int)
        return float(self._losses(self.held_out, starts[some]).mean())

    def positions(self) -> pd.DataFrame:
        """Loss by position: `data, book, first, last, nll, sequences`.

        `data` is "held-out", book by book, or "seen": sequences of the first epoch, a third as
        many, all together (book −1). A row is the mean over positions first … last (from 1)
        and over `sequences` sequences, in nats.
        """
        starts, owner = self._sequences()
        tables = [self._blocks("held-out", self._losses(self.held_out, starts), owner)]
        seen, _ = self.task.sequences.cut(0)
        seen = seen[np.linspace(0, len(seen) - 1, max(1, len(starts) // 3)).astype(int)]
        nobody = np.full(len(seen), -1)
        tables.append(self._blocks("seen", self._losses(self.task, seen), nobody))
        return pd.concat(tables, ignore_index=True)

    def terms(self) -> pd.DataFrame:
        """`window_terms` of the held-out windows, in fp32."""
        import torch

        from l2m.information.bipartite import window_terms
        from l2m.language_models.scoring import score

        windows, books = self.run.books.held_out_windows(self.file)
        bos = self.file.bos_token_id
        options = {"groups": books, "bos_token_id": bos, "progress": False, "check": 0}
        with torch.compiler.set_stance("force_eager"):  # compiling would take longer
            scores = score(self.model, windows, method="whole", **options)
        table = window_terms(scores)
        return table.astype(dict.fromkeys(table.select_dtypes("float64").columns, "float32"))

    def _sequences(self):
        starts, owner = self.held_out.sequences.cut(None)
        kept = thinned(owner, self.run.books.sequences)
        return starts[kept], owner[kept]

    def _losses(self, task, starts):
        """Loss of every token (n, L) of the sequences that begin there."""
        from l2m.training.loop import evaluate_positions

        size = max(1, TOKENS // self.run.length)
        parts = np.split(starts, range(size, len(starts), size))
        batches = ((on_device(task.sequences.read(part), self.device),) for part in parts)
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        return evaluate_positions(self.model, task, batches, precision)

    def _blocks(self, data, losses, owner):
        edges = block_edges(self.run.length)
        by_book = pd.DataFrame(block_means(losses, edges)).groupby(owner)
        mean, size = by_book.mean(), by_book.size()
        n = len(edges) - 1
        return pd.DataFrame(
            {
                "data": data,
                "book": np.repeat(mean.index, n),
                "first": np.tile(edges[:-1], len(mean)),
                "last": np.tile(edges[1:] - 1, len(mean)),
                "nll": mean.to_numpy().ravel().astype(np.float32),
                "sequences": np.repeat(size.to_numpy(), n),
            }
        )


def thinned(owner: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many sequences of every book, spread evenly over it."""
    kept = []
    for book in np.unique(owner):
        own = np.flatnonzero(owner == book)
        kept.append(own[np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)])
    return np.concatenate(kept)


def _params(_grid, runs) -> dict:
    """What identifies the tables of a grid, known without its texts."""
    books = runs[0].books
    params = {key: value for key, value in asdict(books).items() if key != "exclude" or value}
    del params["limit"]  # in what identifies the texts
    params["texts"] = {name: fingerprint(name, books.limit) for name in books.corpora}
    params["tokenizer_sha256"] = models.fingerprint(books.tokenizer)
    return params | {"runs": [run.about() for run in runs]}


EXPERIMENT = Experiment(
    "books",
    "07_books",
    ("runs", "metrics", "positions", "terms"),
    {name: lambda name=name: _runs(name) for name in grids.BOOKS},
    _params,
    "bf16 autocast of fp32 weights",
)


def _runs(name) -> list[BookRun]:
    runs, books = grids.BOOKS[name]
    return [BookRun(**run, books=Books(**books)) for run in runs]
