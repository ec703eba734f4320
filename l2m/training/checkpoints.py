"""Checkpoints of a training run: one safetensors file each, whole or not there at all.

A file holds weights and the optimiser's moments, and in its header the step, the table so far and
what the run is (settings, model, data): another run's is refused. Its name ends in its sha256: of a
damaged file nothing is read, and the one before is taken.
"""

import json
import warnings
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from l2m.files import intact, write_atomic

KEPT = 2  # the last one, and the one before in case the disk harms it


def save(folder, step: int, rows: list, model, optimiser, about: dict) -> Path:
    """Write `step-<step>-<sha256>.safetensors`; keep the newest `KEPT` intact ones."""
    header = {"step": str(step), "rows": json.dumps(rows), "about": json.dumps(about)}
    path, tensors = Path(folder) / f"step-{step:08d}.safetensors", _tensors(model, optimiser)
    path = write_atomic(path, lambda new: save_file(tensors, new, header), hashed=True)
    for old in {*_files(folder)} - {*islice(_intact(folder), KEPT)}:
        old.unlink()
    return path


def load_latest(folder, model, optimiser, about: dict) -> tuple[int, list]:
    """Load the newest intact checkpoint: step, rows, or 0, []; RuntimeError if another run's."""
    for path in _intact(folder) if folder else ():
        with safe_open(path, framework="pt") as file, torch.no_grad():
            header = file.metadata()
            found = json.loads(header["about"])
            if found != about:
                pairs = [(found.get(part, {}), wanted) for part, wanted in about.items()]
                other = [k for a, b in pairs for k in sorted(a | b) if a.get(k) != b.get(k)]
                why = f"{folder} holds checkpoints of another run (differs in {', '.join(other)})"
                raise RuntimeError(f"{why}: name another folder, or remove this one")
            for name, tensor in _tensors(model, optimiser).items():
                tensor.copy_(file.get_tensor(name))
            return int(header["step"]), json.loads(header["rows"])
    return 0, []


def _files(folder):
    return sorted(Path(folder).glob("step-*.safetensors"))


def _intact(folder):
    """Checkpoints whose bytes are what was written, newest first; a warning names the others."""
    for path in reversed(_files(folder)):
        if intact(path):
            yield path
        else:
            warnings.warn(f"{path.name} is damaged; going on without it", stacklevel=3)


def _tensors(model, optimiser):
    """All that changes, by name: tied weights appear once."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    return tensors
