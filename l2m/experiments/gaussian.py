"""Networks trained on Gaussian sequences whose truth is known (Sec. 6, App. C, F and G).

A token is a vector: one number of each of several independent copies of a `GaussianFamily`. All
networks see the same data and the same loss, the exact Kullback-Leibler divergence of the
conditional p(z_i | z_<i) from theirs; what differs is their history state.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from math import e, inf, log, pi

import numpy as np
import pandas as pd
from scipy.stats import sem

from l2m.experiments.position_losses import block_edges, block_means
from l2m.experiments.runs import Experiment, PowerRun, grids_of
from l2m.language_models.models import default_device
from l2m.memory.history_state import history_state_dim
from l2m.sources.gaussian import GaussianFamily
from l2m.sources.gaussian_cuts import CutFamily


def conditional_kl(mean, deviation, q_mean, q_deviation):
    """KL(p‖q) of normal conditionals, elementwise, nats (Eq. F.37): tensors of p, then of q."""
    ratio = deviation / q_deviation
    return (ratio**2 + ((q_mean - mean) / q_deviation) ** 2 - 1) / 2 - ratio.log()


class GaussianTask:
    """Sequences z, (B, L, copies), with the exact conditional mean and deviation of every number.

    `kind` and `levels` are of the family: L = 4^levels vectors a sequence, their components
    independent `copies` of it. The `seed` is of the training data; held-out data are the same. With
    an `offset`, sequences are cut out there of those of a family one level longer (`CutFamily`).
    """

    def __init__(self, kind, levels, copies=64, seed=0, offset=None):
        self.family = GaussianFamily(kind, levels)
        if offset is not None:
            self.family = CutFamily(kind, levels, offset)
        self.length, self.copies, self.seed = self.family.length, copies, seed
        self._factor = cache(self._factor)  # once on each device

    def about(self) -> dict:
        """What identifies its data."""
        return {"task": "gaussian", **self.family.about(), "copies": self.copies, "seed": self.seed}

    def batch(self, step, size, rows, device):
        """Sequences `rows`, a slice, of the `size` ones of a step: z and mean, (B, L, copies)."""
        return self._draw((0, self.seed, step), size, rows, device)

    def held_out(self, index, size, device):
        """Batch `index` of data that no seed trains on: z and mean, (size, L, copies)."""
        return self._draw((1, index), size, slice(None), device)

    def loss(self, model, z, mean):
        """Mean divergence over sequences, positions and copies: a scalar, nats per number."""
        return self.values(model, z, mean).mean()

    def values(self, model, z, mean):
        """Divergence by sequence and position, mean over copies: (B, L), nats per number."""
        _, deviation = self._factor(z.device)
        return conditional_kl(mean, deviation[:, None], *model(z)).mean(dim=-1)

    def entropy(self):
        """H_p(i), the least possible loss in NLL by position: (L,) float64, nats per number."""
        return np.log(2 * pi * e * self.family.deviations**2) / 2

    def _draw(self, key, size, rows, device):
        """One triangular product, Z = T ε; then E[Z_i | Z_<i] = Z_i - T_ii ε_i."""
        import torch

        seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)
        generator = torch.Generator(device).manual_seed(int(seed))
        shape = (self.length, size, self.copies)
        noise = torch.randn(shape, generator=generator, device=device)[:, rows]
        triangle, deviation = self._factor(noise.device)
        usual = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # also where models train with TF32
        z = (triangle @ noise.flatten(1)).view_as(noise)
        torch.set_float32_matmul_precision(usual)
        mean = z - deviation[:, None, None] * noise
        return z.transpose(0, 1).contiguous(), mean.transpose(0, 1).contiguous()

    def _factor(self, device):
        """T and its diagonal, fp32, on a device: factorised there, in fp64."""
        import torch

        with torch.inference_mode(False):  # the loss is differentiated with it later
            covariance = torch.as_tensor(self.family.covariance(), device=device)
            triangle = torch.linalg.cholesky(covariance)
            return triangle.float(), triangle.diag().float()


@dataclass(frozen=True)
class GaussianRun(PowerRun):
    """One network, its data, and its budget.

    `state` is d_state of a Mamba, `window` that of a sliding-window GPT-2; `offset` is of the data
    (`GaussianTask`). `vectors` are those of one step, `held_out` those that the trained network is
    evaluated on, in fp32.
    """

    family: str
    length: int
    layers: int = 4
    width: int = 256
    state: int | None = None
    window: int | None = None
    positions: str | None = None
    clock: bool = False
    seed: int = 0
    kind: str = "sub-volume"
    copies: int = 64
    steps: int = 8000
    vectors: int = 16_384
    learning_rate: float = 1.5e-3
    warmup_steps: int = 400
    precision: str = "fp32"
    held_out: int = 262_144
    offset: int | None = None

    chapter = "06_gaussian"
    later = ("offset",)

    def __post_init__(self):
        if self.levels < 1 or 4**self.levels != self.length:
            raise ValueError(f"length must be a power of 4, not {self.length}.")
        if self.vectors % self.length or self.held_out % self.length:
            raise ValueError(f"vectors and held_out must be multiples of length = {self.length}.")

    @property
    def levels(self) -> int:
        return round(log(self.length, 4))

    @property
    def title(self) -> str:
        parts = [self.family, f"{self.layers}x{self.width}"]
        parts += [f"state{self.state}"] if self.state else []
        parts += [f"window{self.window}"] if self.window else []
        parts += [self.positions] if self.positions else []
        parts += self.power_title()
        parts += ["clock"] if self.clock else []
        parts += [self.kind] if self.kind != "sub-volume" else []
        parts += [f"cut{self.offset}"] if self.offset is not None else []
        return "-".join([*parts, f"L{self.length}", f"seed{self.seed}"])

    @property
    def tokens(self) -> int:
        """Vectors that it is trained on."""
        return self.steps * self.vectors

    def task(self) -> GaussianTask:
        return GaussianTask(self.kind, self.levels, self.copies, self.seed, self.offset)

    def model(self):
        from l2m.training.networks import build_model

        named = ("length", "layers", "width", "state", "window", "positions", "clock", "seed")
        sizes = {key: getattr(self, key) for key in named} | self.power()
        return build_model(self.family, dim=self.copies, **sizes)

    def train(self, deadline=inf, progress=True, device=None):
        """Train and evaluate it: see `Run.train`.

        Returns ``curves``, ``positions`` (see `positions_table`) and ``runs``, one row: its fields,
        and among others `dim_z` (the history state after L/2 vectors), `mi` (I_BP of the halves),
        `kl` (mean over positions, per number) and `kl_late` (of the second half), in nats.
        """
        import torch

        from l2m.training.loop import Training, evaluate_positions, train

        # one variant of Mamba-2's kernels: choosing the best takes minutes for every shape
        os.environ.setdefault("MAMBA_DETERMINISTIC", "1")
        device = torch.device(device or default_device())
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32: changes a divergence by 1e-6 nats
        task, model = self.task(), self.model()
        named = ("steps", "learning_rate", "warmup_steps", "precision")
        how = {key: getattr(self, key) for key in named}
        how |= dict.fromkeys(("compile", "graph"), device.type == "cuda")
        config = Training(batch_size=self.vectors // self.length, **how)
        curve = train(model, task, config, self.folder, device, progress, deadline=deadline)
        if curve["step"].max() < self.steps:
            return None
        size, half = min(self.vectors, self.held_out) // self.length, self.length // 2
        n = self.held_out // (size * self.length)
        batches = [task.held_out(i, size, device) for i in range(n)]
        kl = evaluate_positions(model, task, batches, precision="fp32")
        row = self.given(asdict(self)) | {
            "parameters": sum(p.numel() for p in model.parameters()),
            "dim_z": history_state_dim(model.config, half),
            "mi": self.copies * task.family.bipartite_mi(half),
            "kl": kl.mean(),
            "stderr": sem(kl.mean(axis=1)),
            "kl_late": kl[:, half:].mean(),
            "stderr_late": sem(kl[:, half:].mean(axis=1)),
            "entropy": task.entropy().mean(),
            "tokens": self.tokens,
            "seconds": curve["seconds"].sum(),
            "vectors_per_second": curve.attrs["tokens_per_second"],
            "device": curve.attrs["device"],
            "torch": torch.__version__,
        }
        return {
            "curves": thin_curve(curve[["step", "loss", "learning_rate"]]),
            "positions": positions_table(kl, task.entropy()),
            "runs": pd.DataFrame([row]).astype({"state": "Int64", "window": "Int64"}),
        }


def window_floor(family, m):
    """Least possible divergence by position of a model that sees the last m numbers only, (L,).

    ½ log(Var(Z_i | Z_{i-m..i-1}) / Var(Z_i | Z_<i)), nats; n windows of w see n·(w-1) + 1.
    """
    c, reach = family.covariance(), [slice(max(0, i - m), i + 1) for i in range(family.length)]
    seen = [np.linalg.cholesky(c[some, some])[-1, -1] for some in reach]
    return np.log(np.array(seen) / family.deviations)


def positions_table(kl, entropy) -> pd.DataFrame:
    """Mean divergence by block of positions, from its values (n, L), and the entropy (L,).

    `first, last, kl, stderr, entropy`, positions from 1. Blocks beyond 64 hold whole rows of
    sixteen numbers, on whose place the divergence depends.
    """
    edges = block_edges(kl.shape[1], per_octave=24, multiple=16)
    means = block_means(kl, edges)
    table = {"first": edges[:-1], "last": edges[1:] - 1, "kl": means.mean(axis=0)}
    table |= {"stderr": sem(means), "entropy": block_means(entropy[None], edges)[0]}
    return pd.DataFrame(table)


def thin_curve(curve, n=80) -> pd.DataFrame:
    """Mean of a learning curve over about n blocks of steps, wider by the logarithm."""
    block = np.floor(n * np.log1p(curve["step"]) / np.log1p(curve["step"].max()))
    return curve.groupby(block, as_index=False).mean()


def _params(grid, runs) -> dict:
    """What identifies the tables of a grid."""
    text = json.dumps([run.about() for run in runs])
    return {"grid": grid, "sha256": hashlib.sha256(text.encode()).hexdigest()}


EXPERIMENT = Experiment(
    name="gaussian",
    tables=("curves", "positions", "runs"),
    grids=grids_of("gaussian", GaussianRun),
    params=_params,
    dtype="float32, products in TF32",
)
