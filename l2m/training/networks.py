"""Networks to be trained: GPT-2, Mambas and other recurrences of any size, for tokens or vectors."""

import importlib.util

import torch
from torch import nn

from l2m.language_models.likelihood import body, hidden_states

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
STATE = {  # its size by family, unless another is wanted: see `build_model`
    "mamba": 16,
    "mamba2": 128,
    "log_linear_mamba2": 16,
    "gated_deltanet": 64,
    "rwkv7": 64,
}
FAMILIES = ("gpt2", *STATE)
FLASH_LINEAR = ("log_linear_mamba2", "gated_deltanet", "rwkv7")  # of flash-linear-attention
DIGIT = 4  # a clock tells the position in this base


def build_model(
    name: str,
    *,
    vocab_size: int | None = None,
    dim: int | None = None,
    length: int = 1024,
    layers: int | None = None,
    width: int | None = None,
    state: int | None = None,
    window: int | None = None,
    positions: str | None = None,
    clock: bool = False,
    seed: int = 0,
):
    """A network with random weights, for tokens or for vectors.

    Parameters
    ----------
    name : a size of the paper, such as `"gpt2"` or `"mamba-130m"` (`SIZES`), or one of `FAMILIES`
        with `layers` and `width`. Those of `FLASH_LINEAR` need that package, and a GPU.
    vocab_size : M, for a network of tokens: the class of transformers.
    dim : components of a vector, for a network of vectors (`VectorModel`).
    length : the longest sequence; a GPT-2 has as many learned positions, and one for BOS.
    state : numbers of state a channel: d_state of a Mamba, the size of a key of a gated DeltaNet,
        that of a head of RWKV-7; as published by default (`STATE`).
    window : positions that the attention of a GPT-2 of vectors sees, the own one included; all by
        default.
    positions : of a GPT-2, "learned" (the default) or "rotary" (the class is then GPT-NeoX's).
    clock : give a network of vectors the digits of each position, in base 4.
    seed : of the weights.

    Returns
    -------
    The network in fp32 on the CPU, without dropout.

    Raises
    ------
    ValueError
        If the name is unknown, or the sizes do not make a network.
    ModuleNotFoundError
        If it needs flash-linear-attention, which is not there.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    if (vocab_size is None) == (dim is None):
        raise ValueError("pass vocab_size=M for a model of tokens, or dim=… for one of vectors")
    if clock and dim is None:
        raise ValueError("only a network of vectors takes clock=True: tokens have positions")
    config = _config(name, vocab_size or 1, length, layers, width, state, window, positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vocab_size:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        else:
            digits = _digits(length) if clock else 0
            model = VectorModel(AutoModel.from_config(config, dtype=torch.float32), dim, digits)
        _take_own_mixers(body(model))
    return model


def _config(name, vocab_size, length, layers, width, state, window, positions):
    """Configuration of a network of `SIZES`, or of a family with own sizes."""
    from transformers import GPT2Config, GPTNeoXConfig, Mamba2Config, MambaConfig

    family = name if name in FAMILIES else name.split("-")[0]
    if family not in FAMILIES or (name not in SIZES and name not in FAMILIES):
        raise ValueError(f"unknown model {name!r}: one of {', '.join(sorted({*SIZES, *FAMILIES}))}")
    usual = SIZES.get(name, (None, None))
    layers, width = layers or usual[0], width or usual[1]
    if layers is None or width is None:
        raise ValueError(f"{name!r} is a family: pass layers=… and width=…")
    if window is not None and (family != "gpt2" or vocab_size > 1):
        raise ValueError("only a gpt2 of vectors takes window=…")
    if positions not in (None, "learned", "rotary") or (positions and family != "gpt2"):
        raise ValueError(f"positions is 'learned' or 'rotary', of a gpt2 alone, not {positions!r}")
    common = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None}
    common |= {"pad_token_id": None, "tie_word_embeddings": True, "use_cache": False}
    common |= {"num_hidden_layers": layers, "hidden_size": width}
    if family == "gpt2":
        if state is not None:
            raise ValueError("a GPT-2 has no d_state: its state is its cache")
        common |= {"num_attention_heads": max(1, width // 64), "sliding_window": window}
        common |= {"max_position_embeddings": length + 1}
        if positions == "rotary":
            return GPTNeoXConfig(
                intermediate_size=4 * width,
                rotary_pct=1.0,
                use_parallel_residual=False,
                hidden_act="gelu_pytorch_tanh",
                **common,
            )
        dropout = dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
        # its own activation, "gelu_new", is the same function in many kernels
        return GPT2Config(activation_function="gelu_pytorch_tanh", **dropout, **common)
    state = state or STATE[family]
    if family in FLASH_LINEAR:
        return _flash_linear_config(family, width, state, length, common)
    common["expand"] = 2
    if family == "mamba":
        return MambaConfig(state_size=state, time_step_rank=-(-width // 16), **common)
    return Mamba2Config(**_mamba2_sizes(width, state, length), **common)


def _mamba2_sizes(width, state, length) -> dict:
    head_dim = min(64, 2 * width // 8)  # the kernels want a multiple of eight heads
    return {
        "state_size": state,
        "head_dim": head_dim,
        "num_heads": 2 * width // head_dim,
        "n_groups": 1,
        "chunk_size": 256 if length >= 256 else 64,
    }


def _flash_linear_config(family, width, state, length, common):
    """Configuration of an architecture of the package flash-linear-attention."""
    if not importlib.util.find_spec("fla"):
        raise ModuleNotFoundError(
            f"{family} needs flash-linear-attention: run `pip install flash-linear-attention` "
            "(its kernels are Triton's, and want a GPU)"
        )
    import fla.models as fla

    plain = {"fuse_cross_entropy": False, "use_l2warp": False}
    if family == "log_linear_mamba2":
        sizes = _mamba2_sizes(width, state, length) | {"expand": 2, "chunk_size": 64}
        return fla.LogLinearMamba2Config(**sizes, **plain, **common)
    if family == "rwkv7":
        return fla.RWKV7Config(head_dim=state, **plain, **common)
    heads = max(1, width // 64)
    values = {"num_heads": heads, "head_dim": state, "expand_v": width / (heads * state)}
    return fla.GatedDeltaNetConfig(**values, fuse_swiglu=True, **plain, **common)


def _digits(length: int) -> int:
    """How many digits in base `DIGIT` the positions 0, …, length - 1 have."""
    return max(1, next(n for n in range(64) if DIGIT**n >= length))


def _take_own_mixers(backbone) -> None:
    """Put our mixers in the place of those that transformers has built, with the same weights."""
    kind = backbone.config.model_type
    if kind == "mamba":
        from l2m.training.mamba_mixer import Mixer
    elif kind == "mamba2":
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        class Mixer(Mamba2Mixer):
            """Opaque to the compiler, which would stumble over its kernels one by one."""

            forward = torch.compiler.disable(Mamba2Mixer.forward)
    else:
        return
    for i, layer in enumerate(backbone.layers):
        with torch.device("meta"):
            mixer = Mixer(backbone.config, layer_idx=i)
        mixer.load_state_dict(layer.mixer.state_dict(), assign=True)
        layer.mixer = mixer


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


class VectorModel(nn.Module):
    """Predict each vector of a sequence, as independent normal components, from those before it.

    A backbone between two-layer perceptrons (App. F of the paper).

    Parameters
    ----------
    backbone : a network without head (GPT-2, Mamba, Mamba-2, …).
    dim : components of a vector.
    digits : digits of the position that are given with each vector, in base 4; 0 for none.
    """

    def __init__(self, backbone, dim: int, digits: int = 0):
        super().__init__()
        width = backbone.config.hidden_size
        self.backbone, self.config = backbone, backbone.config
        self.dim, self.digits, into = dim, digits, dim + DIGIT * digits
        self.embed = nn.Sequential(nn.Linear(into, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * dim))

    def forward(self, z):
        """Mean and deviation of z_i given z_<i, each (B, L, dim), fp32, for z (B, L, dim).

        An all-zero vector stands for BOS, before the first.
        """
        inputs = nn.functional.pad(z, (0, 0, 1, -1))
        if self.digits:
            clock = self._clock(z.shape[1], z.device).expand(len(z), -1, -1)
            inputs = torch.cat([inputs, clock.to(z.dtype)], -1)
        hidden = hidden_states(
            self.backbone, inputs_embeds=self.embed(inputs), **self._mask(z.shape[1], z.device)
        )
        with torch.autocast(z.device.type, enabled=False):  # σ is what the loss divides by
            mean, log_deviation = self.head(hidden.float()).chunk(2, dim=-1)
        return mean, log_deviation.exp()

    def _clock(self, length, device):
        """(L, 4·digits): which digits the position has that is to be predicted."""
        powers = DIGIT ** torch.arange(self.digits, device=device)
        digit = torch.arange(length, device=device)[:, None] // powers % DIGIT
        return nn.functional.one_hot(digit, DIGIT).flatten(1)

    def _mask(self, length, device) -> dict:
        """The window of `build_model` as an attention mask, where there is one."""
        window = getattr(self.config, "sliding_window", None)
        if window is None:
            return {}
        position = torch.arange(length, device=device)
        distance = position[:, None] - position
        return {"attention_mask": ((distance >= 0) & (distance < window))[None, None]}
