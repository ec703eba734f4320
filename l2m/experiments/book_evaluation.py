"""What a model trained on books is asked: its loss by position, and its estimate of I_BP."""

import numpy as np
import pandas as pd

from l2m.text.sequences import BookTask

BLOCKS = 12  # an octave of positions is smoothed over so many blocks
TOKENS = 1 << 15  # evaluated at once
WATCHED = 1 << 17  # held-out tokens looked at while training


def block_edges(length: int) -> np.ndarray:
    """First positions (from 1) of blocks that grow with the position, and length + 1."""
    steps = np.arange(BLOCKS * np.log2(length) + 1e-9)
    return np.unique([*np.round(2 ** (steps / BLOCKS)), length + 1]).astype(int)


def thinned(owner: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many sequences of every book, spread evenly over it."""
    kept = []
    for book in np.unique(owner):
        own = np.flatnonzero(owner == book)
        kept.append(own[np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int)])
    return np.concatenate(kept)


def held_out_windows(experiment, file) -> tuple[np.ndarray, np.ndarray]:
    """Windows for `l2m.language_models.scoring.score`, evenly from all held-out books, and the book of each."""
    _, books = experiment.split(file)
    task = BookTask(file, experiment.window_length, 0, books)
    starts, owner = task.cut(None)
    kept = thinned(owner, -(-experiment.windows // len(books)))
    return task.read(starts[kept]).numpy(), owner[kept]


class HeldOut:
    """Held-out books for one run, and a plain copy of its model that shares the weights.

    The copy is not compiled, so that it may be asked anything while the model trains. It stays in
    training mode, in which Mamba takes its fused kernels; there is no dropout to switch off.

    Parameters
    ----------
    run, experiment : of `l2m.experiments.book_runs`.
    file : token file.
    model : the one to train, already on its device.
    """

    def __init__(self, run, experiment, file, model):
        self.experiment, self.file, self.run = experiment, file, run
        self.device = next(model.parameters()).device
        training, books = experiment.split(file)
        self.task = BookTask(file, run.length, run.seed, training)
        self.held_out = BookTask(file, run.length, run.seed, books)
        self.model = run.model(file.vocabulary).to(self.device)
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
        seen, _ = self.task.cut(0)
        seen = seen[np.linspace(0, len(seen) - 1, max(1, len(starts) // 3)).astype(int)]
        nobody = np.full(len(seen), -1)
        tables.append(self._blocks("seen", self._losses(self.task, seen), nobody))
        return pd.concat(tables, ignore_index=True)

    def terms(self) -> pd.DataFrame:
        """`l2m.information.bipartite.window_terms` of the held-out windows, in fp32."""
        import torch

        from l2m.information.bipartite import window_terms
        from l2m.language_models.scoring import score

        windows, books = held_out_windows(self.experiment, self.file)
        options = {"groups": books, "bos_token_id": self.file.bos, "progress": False, "check": 0}
        with torch.compiler.set_stance("force_eager"):  # compiling would take longer
            scores = score(self.model, windows, method="whole", **options)
        table = window_terms(scores)
        values = table.select_dtypes("float64").columns
        return table.astype(dict.fromkeys(values, "float32"))

    def _sequences(self):
        starts, owner = self.held_out.cut(None)
        kept = thinned(owner, self.experiment.sequences)
        return starts[kept], owner[kept]

    def _losses(self, task, starts):
        """Loss of every token (n, L) of the sequences that begin there."""
        from l2m.training.loop import evaluate_positions

        size = max(1, TOKENS // self.run.length)
        parts = np.split(starts, range(size, len(starts), size))
        batches = ((task.read(part, self.device),) for part in parts)
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        return evaluate_positions(self.model, task, batches, precision)

    def _blocks(self, data, losses, owner):
        edges = block_edges(self.run.length)
        sums = np.add.reduceat(losses, edges[:-1] - 1, axis=1) / np.diff(edges)
        by_book = pd.DataFrame(sums).groupby(owner)
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
