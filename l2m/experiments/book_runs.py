"""The experiments of chapter 7: models, the books they are trained on, how they are judged."""

import dataclasses
import json

from l2m.language_models.models import EMBEDDED
from l2m.text.shared_passages import require_apart
from l2m.text.token_files import TokenFile, token_file


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train: `l2m.language_models.models.build_model`, and how long on what batches."""

    family: str
    layers: int
    width: int
    length: int = 4096
    state: int | None = None
    tokens: int = 100_000_000
    batch_tokens: int = 32_768
    peak_rate: float = 1e-3
    accumulate: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """Such as mamba-24x768-4096, or mamba-16x512-s64-4096 with a state of its own."""
        state = f"-s{self.state}" if self.state else ""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.family}-{self.layers}x{self.width}{state}-{self.length}{seed}"

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    def model(self, vocabulary: int):
        """The model with its first weights."""
        from l2m.language_models.models import build_model

        sizes = {"layers": self.layers, "width": self.width, "state": self.state}
        return build_model(
            self.family, vocabulary=vocabulary, length=self.length, seed=self.seed, **sizes
        )

    def training(self, device: str):
        """Configuration of `l2m.training.loop`: in bf16 and compiled on a GPU."""
        from l2m.training.loop import Training

        return Training(
            steps=self.steps,
            batch_size=self.batch_tokens // self.length,
            peak_rate=self.peak_rate,
            warmup=max(1, self.steps // 20),
            weight_decay=0.1,
            accumulate=self.accumulate,
            precision="bf16" if device == "cuda" else "fp32",
            compile=device == "cuda",
            log_every=max(1, self.steps // 150),
            save_every=max(1, self.steps // 2),
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs on the same books, and how they are compared.

    Attributes
    ----------
    runs : the most important first.
    corpora, tokenizer, limit : `l2m.text.token_files.token_file`.
    held_out : books kept from training, drawn with `split_seed`.
    exclude : titles of books to leave out on both sides.
    sequences : held-out sequences a book at most, of each run's length.
    windows, window_length : held-out windows for the estimate of I_BP.
    """

    runs: tuple[Run, ...]
    corpora: tuple[str, ...] = ("english-novels-100", "eltec-eng")
    tokenizer: str = EMBEDDED
    limit: int | None = None
    held_out: int = 24
    split_seed: int = 0
    exclude: tuple[str, ...] = ()
    sequences: int = 32
    windows: int = 256
    window_length: int = 2048

    def file(self, tokenizer: str | None = None) -> TokenFile:
        """The token file, made if there is none, with its two sides checked to be apart."""
        file = token_file(self.corpora, tokenizer or self.tokenizer, self.limit)
        require_apart(file, *self.split(file))
        return file

    def about(self) -> dict:
        """All that its numbers depend on, as JSON has it; of `exclude`, only if there is any."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return {key: value for key, value in values.items() if key != "exclude" or value}

    def split(self, file: TokenFile):
        """Training and held-out books."""
        return file.split(self.held_out, self.split_seed, self.exclude)


def _pairs(lengths, sizes, **other):
    """GPT-2 and Mamba, twice as deep and so of about as many weights, at every size and length."""
    return tuple(
        Run(family, layers * (1 if family == "gpt2" else 2), width, length, **other)
        for length in lengths
        for layers, width in sizes
        for family in ("gpt2", "mamba")
    )


BOOK = (
    Run("gpt2", 12, 768, peak_rate=6e-4),
    Run("mamba", 24, 768, peak_rate=6e-4),
    Run("gpt2", 8, 512),
    Run("mamba", 16, 512),
    Run("gpt2", 6, 256),
    Run("gpt2", 8, 512, length=8192),
    Run("mamba", 16, 512, length=8192),
)
STATES = (  # a third size, and the middle one with a quarter of the usual state
    Run("mamba", 12, 256),
    Run("mamba", 16, 512, state=4),
)
FURTHER = (  # what chapter 7 lacks; it shows them, too, once they are recorded
    Run("mamba2", 16, 512),
    Run("mamba2", 24, 768, peak_rate=6e-4),
    Run("mamba", 16, 512, state=64),  # a quarter as fast as with the usual state
    Run("mamba2", 12, 256),
    Run("gpt2", 8, 512, seed=1),
    Run("mamba", 16, 512, seed=1),
)
SMOKE = tuple(
    Run(family, layers, 64, 64, tokens=4096, batch_tokens=256, peak_rate=5e-3)
    for family, layers in (("gpt2", 1), ("mamba", 2))
)
EXPERIMENTS = {
    "smoke": Experiment(SMOKE, ("kjv",), held_out=8, sequences=2, windows=8, window_length=64),
    "book": Experiment(BOOK),
    "states": Experiment(STATES),
    "further": Experiment(FURTHER),
    "paper": Experiment(
        _pairs(
            (4096, 8192),
            ((12, 768), (24, 1024), (36, 1280)),
            tokens=15_000_000_000,  # five epochs
            batch_tokens=16_384,
            peak_rate=5e-5,
        ),
        ("pg19",),
        "EleutherAI/gpt-neox-20b",
        held_out=400,
        sequences=25,
    ),
}
