"""Checkpoints of a training run: one safetensors file each, whole or not there at all.

A file holds weights and the optimiser's moments, and in its header the step, the metrics so far and
what the run is (settings, model, data), so that another run's checkpoint is refused.
"""

import json
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from l2m.files import write_atomic

KEPT = 2  # the last one, and the one before in case the disk harms it


def save(folder, step: int, rows: list, model, optimiser, about: dict) -> Path:
    """Write `step-<step>.safetensors` atomically and remove all but the newest `KEPT`."""
    header = {"step": str(step), "rows": json.dumps(rows), "about": json.dumps(about)}
    path, tensors = Path(folder) / f"step-{step:08d}.safetensors", _tensors(model, optimiser)
    write_atomic(path, lambda temporary: save_file(tensors, temporary, header))
    for old in _files(folder)[:-KEPT]:
        old.unlink()
    return path


def load_latest(folder, model, optimiser, about: dict) -> tuple[int, list]:
    """Load the newest readable checkpoint: step, rows, or 0, []; RuntimeError if another run's."""
    for path in reversed(_files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata()
                found = json.loads(header["about"])
                if found != about:
                    differing = ", ".join(_differences(found, about))
                    raise RuntimeError(
                        f"{folder} holds checkpoints of another run (differs in {differing}): "
                        "name another folder, or remove this one"
                    )
                with torch.no_grad():
                    for name, tensor in _tensors(model, optimiser).items():
                        tensor.copy_(file.get_tensor(name))
                return int(header["step"]), json.loads(header["rows"])
        except SafetensorError as error:
            warnings.warn(f"{path.name} is damaged ({error}); going on without it", stacklevel=2)
    return 0, []


def _files(folder):
    return sorted(Path(folder).glob("step-*.safetensors"))


def _tensors(model, optimiser):
    """All that changes, by name: tied weights appear once."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    return tensors


def _differences(found, about):
    """Names of what differs, inside settings, model, task and weights."""
    names = []
    for part, wanted in about.items():
        old = found.get(part, {})
        names += [key for key in sorted(old | wanted) if old.get(key) != wanted.get(key)]
    return names
