"""Language models trained on books, judged on books that were held out (Sec. 6, App. G).

Runs on the same books read one token file, those of one length the same batches in the same order.
A run keeps its learning curve (`metrics`), the loss by position and book (`positions`), the terms
of both estimators of I_BP on windows of held-out books (`terms`), and what it was (`runs`).
"""

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from math import inf

import numpy as np
import pandas as pd

from l2m.experiments.measure import byte_table
from l2m.experiments.position_losses import block_edges, block_means
from l2m.experiments.runs import Experiment, PowerRun, grids_of, main_process
from l2m.files import digest, write_atomic
from l2m.information.bipartite import window_terms
from l2m.language_models import models
from l2m.language_models.scoring import score, sent
from l2m.results import recorded
from l2m.text import archives
from l2m.text.corpora import fingerprint, load_corpus, token_file
from l2m.text.sequences import Sequences, Windows
from l2m.text.shared_passages import require_apart
from l2m.text.token_files import TokenFile

TOKENS = 1 << 15  # evaluated at once
WATCHED = 1 << 17  # held-out tokens looked at while training
SPARE = 60  # seconds of a deadline that a run keeps back for evaluating


@dataclass(frozen=True)
class Books:
    """The books of some runs, and how the models are judged on those held out."""

    corpora: tuple[str, ...] = ("english-novels-100", "eltec-eng")
    tokenizer: str = models.EMBEDDED
    limit: int | None = None  # first books of each corpus
    held_out: int = 24  # books kept from training
    split_seed: int = 0  # of their draw
    exclude: tuple[str, ...] = ()  # titles left out on both sides
    by_author: bool = False  # all books of an author on one side; then at least so many held out
    sequences: int = 32  # held-out ones of a book at most, of each run's length
    windows: int = 256  # held-out ones, for the estimate of I_BP
    window_length: int = 2048

    @cache  # noqa: B019 (there are few)
    def file(self) -> TokenFile:
        """The token file, made if there is none, with its two sides checked to be apart."""
        file = token_file(self.corpora, models.load_tokenizer(self.tokenizer), self.limit)
        sides = self.sides(file)
        checked = file.folder / f"apart-{digest(*sides)[:12]}.json"
        if not checked.exists():  # it takes as long as a minute of training
            write_atomic(checked, require_apart(file, *sides).to_json(orient="records"))
        return file

    def sides(self, file: TokenFile) -> tuple[np.ndarray, np.ndarray]:
        """The books to train on, and those held out."""
        return file.held_out(self.held_out, self.split_seed, self.exclude, self.by_author)

    def about(self) -> dict:
        """Its fields; `by_author`, which the first recorded runs had not, where it is so."""
        return {key: value for key, value in asdict(self).items() if key != "by_author" or value}

    def held_out_windows(self, file: TokenFile) -> tuple[np.ndarray, np.ndarray]:
        """Windows for `score`, evenly from all held-out books, and the book of each."""
        sequences = Sequences(file, self.window_length, books=self.sides(file)[1])
        starts, owner = evenly_cut(sequences, -(-self.windows // len(sequences.books)))
        return sequences.read(starts), owner


def book_list(corpus: str) -> pd.DataFrame:
    """The recorded list of the books of a corpus: see `archives.book_list`."""
    params, name = {"texts": fingerprint(corpus)}, f"07_books/{corpus}"
    return recorded(name, params, lambda: archives.book_list(load_corpus(corpus).table))


def evenly_cut(sequences: Sequences, most: int) -> tuple[np.ndarray, np.ndarray]:
    """First token and book of at most so many sequences of every book, spread evenly over it."""
    starts, owner = sequences.cut(None)
    of_books = [np.flatnonzero(owner == book) for book in np.unique(owner)]
    kept = np.concatenate([evenly(own, most) for own in of_books])
    return starts[kept], owner[kept]


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of some values, spread evenly over them."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]


class BookTask(Sequences):
    """Sequences of books as a task of `train`."""

    def about(self) -> dict:
        """What identifies its data."""
        books = [int(book) for book in self.books]
        about = {"task": "books", "tokens": self.file.identity, "books": digest(books)}
        return about | {"length": self.length, "seed": self.seed}

    def batch(self, step: int, size: int, rows: slice, device) -> tuple:
        """Sequences `rows` of the `size` ones of a step: ((n, L),), a function of seed and step."""
        return on_device(self.numbered(step * size + np.arange(size)[rows]), device)

    def loss(self, model, tokens):  # mean, nats
        from l2m.training.loss import token_loss

        return token_loss(model, tokens, self.file.bos_token_id)

    def values(self, model, tokens):  # of every token (n, L), nats
        from l2m.training.loss import token_values

        return token_values(model, tokens, self.file.bos_token_id)


def on_device(tokens: np.ndarray, device) -> tuple:
    """Token ids as a batch, a tuple of one LongTensor."""
    import torch

    return (sent(torch.from_numpy(tokens), device),)


@dataclass(frozen=True)
class BookRun(PowerRun):
    """One language model, how long it is trained, and on what books.

    `state` is d_state of a Mamba, `positions` are of a GPT-2 (`build_model`).
    """

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
    positions: str | None = None

    chapter = "07_books"
    later = ("positions",)

    def about(self) -> dict:
        """Its fields without its books, by the names that results are recorded under."""
        return {key: value for key, value in super().about().items() if key != "books"}

    def identity(self) -> dict:
        """All that its numbers depend on; in how many parts a batch is processed is not."""
        own = {key: value for key, value in self.about().items() if key != "accumulate"}
        return own | self.books.about() | {"tokens": self.books.file().identity}

    @property
    def title(self) -> str:
        """Such as mamba-24x768-4096, or mamba-16x512-s64-4096 with a state of its own."""
        parts = [self.family, f"{self.layers}x{self.width}"]
        parts += [f"s{self.state}"] if self.state else []
        parts += [self.positions] if self.positions else []
        parts += self.power_title()
        parts += [f"window{self.attention_window}"] if self.attention_window else []
        parts += [str(self.length)]
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    def model(self, vocab_size: int):
        """The model with its first weights."""
        from l2m.training.networks import build_model

        named = ("length", "layers", "width", "state", "positions", "seed")
        sizes = {key: getattr(self, key) for key in named} | self.power()
        return build_model(self.family, vocab_size=vocab_size, **sizes)

    def train(self, deadline=inf, progress=True):
        """Train, evaluate and score it: see `Run.train`. In bf16 and compiled on a GPU."""
        import torch

        from l2m.training.loop import Training, train

        logging.getLogger("transformers").setLevel(logging.ERROR)  # that Mamba is slow on a CPU
        file, device = self.books.file(), models.default_device()
        if cuda := device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, where it is not bf16
        model = self.model(file.vocab_size).to(device)
        judge = HeldOut(self, file, model)
        config = Training(
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
        options = {"deadline": deadline - SPARE, "watch": judge.watch}
        options["watch_every"] = max(1, self.steps // 25)
        metrics = train(model, judge.task, config, self.folder, device, progress, **options)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if metrics["step"].max() < self.steps or not main_process():
            return None
        row = self.about() | {
            "tokens_sha256": file.sha256,
            "gpus": int(os.environ.get("WORLD_SIZE", 1)) if cuda else 0,
            "weights": sum(p.numel() for p in model.parameters()),
            "config": json.dumps(model.config.to_dict(), default=str),
            "epochs": judge.task.epochs(self.tokens),
            **metrics.attrs,
            "seconds": metrics["seconds"].sum(),
            "torch": torch.__version__,
        }
        runs = pd.DataFrame([row]).astype({"state": "Int64"})
        positions, terms = judge.positions(), judge.terms()
        return {"metrics": metrics, "positions": positions, "terms": terms, "runs": runs}


class HeldOut:
    """Held-out books for one run, and a plain copy of its `model` that shares the weights.

    The copy is not compiled, so that it may be asked anything meanwhile. It stays in training mode,
    in which Mamba takes its fused kernels; there is no dropout to switch off.
    """

    def __init__(self, run: BookRun, file: TokenFile, model):
        self.run, self.file, self.device = run, file, next(model.parameters()).device
        sides = run.books.sides(file)
        self.task, self.held_out = (BookTask(file, run.length, run.seed, side) for side in sides)
        self.starts, self.owner = evenly_cut(self.held_out, run.books.sequences)
        self.model = run.model(file.vocab_size).to(self.device).train()
        self.model.load_state_dict(model.state_dict(), assign=True)

    def watch(self, _model=None) -> float:
        """Mean loss of some held-out sequences, the same each time, from all books (nats)."""
        some = evenly(self.starts, max(1, WATCHED // self.run.length))
        return float(self._losses(self.held_out, some).mean())

    def positions(self) -> pd.DataFrame:
        """Loss by position: `data, book, first, last, nll, sequences`.

        `data` is "held-out", or "seen": a third as many sequences of the first epoch, together
        (book −1). A row is the mean over positions first … last (from 1) and sequences, in nats.
        """
        seen, _ = self.task.cut(0)
        seen = seen[np.linspace(0, len(seen) - 1, max(1, len(self.starts) // 3)).astype(int)]
        held_out = self._blocks("held-out", self._losses(self.held_out, self.starts), self.owner)
        own = self._blocks("seen", self._losses(self.task, seen), np.full(len(seen), -1))
        return pd.concat([held_out, own], ignore_index=True)

    def terms(self) -> pd.DataFrame:
        """`window_terms` of the held-out windows, in fp32."""
        import torch

        windows, books = self.run.books.held_out_windows(self.file)
        options = {"groups": books, "bos_token_id": self.file.bos_token_id, "check": 0}
        with torch.compiler.set_stance("force_eager"):  # compiling would take longer
            scores = score(self.model, windows, method="whole", progress=False, **options)
        table = window_terms(scores)
        return table.astype(dict.fromkeys(table.select_dtypes("float64").columns, "float32"))

    def _losses(self, task, starts):
        """Loss of every token (n, L) of the sequences that begin there."""
        from l2m.training.loop import evaluate_positions

        size = max(1, TOKENS // self.run.length)
        parts = np.split(starts, range(size, len(starts), size))
        batches = (on_device(task.read(part), self.device) for part in parts)
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        return evaluate_positions(self.model, task, batches, precision)

    def _blocks(self, data, losses, owner):
        edges, tables = block_edges(self.run.length), []
        for book in np.unique(owner):
            own = block_means(losses[owner == book], edges)
            row = {"data": data, "book": book, "first": edges[:-1], "last": edges[1:] - 1}
            row |= {"nll": own.mean(0).astype(np.float32), "sequences": len(own)}
            tables.append(pd.DataFrame(row))
        return pd.concat(tables)


def _run(books=None, **fields) -> BookRun:
    """A run of a grid; of its books, what is not as usual."""
    books = {k: tuple(v) if isinstance(v, list) else v for k, v in (books or {}).items()}
    return BookRun(**fields, books=Books(**books))


def _params(_grid, runs) -> dict:
    """What identifies the tables of a grid, known without its texts."""
    books = runs[0].books
    params = {key: value for key, value in books.about().items() if key != "exclude" or value}
    del params["limit"]  # in what identifies the texts
    params["texts"] = {name: fingerprint(name, books.limit) for name in books.corpora}
    params["tokenizer_sha256"] = models.fingerprint(books.tokenizer)
    return params | {"runs": [run.about() for run in runs]}


EXPERIMENT = Experiment(
    name="books",
    tables=("runs", "metrics", "positions", "terms"),
    grids=grids_of("books", _run),
    params=_params,
    dtype="bf16 autocast of fp32 weights",
)


def held_out_bytes(grid: str = "book") -> pd.DataFrame:
    """How long the tokens are, in bytes, of the windows that `terms` are of: see `byte_table`."""
    runs = EXPERIMENT.runs(grid)
    params = {key: value for key, value in _params(grid, runs).items() if key != "runs"}
    books = runs[0].books

    def compute():
        tokens, owner = books.held_out_windows(books.file())
        windows = Windows(tokens, owner, np.zeros(len(owner), int))
        return byte_table(windows, models.load_tokenizer(books.tokenizer))

    return recorded(EXPERIMENT.result(grid, "bytes"), params, compute)
