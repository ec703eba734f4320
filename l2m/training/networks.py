"""Networks to be trained: GPT-2, Mamba, Mamba-2, power attention; for tokens or for vectors."""

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
STATE = {"mamba": 16, "mamba2": 128}  # d_state of the published models
POWER = ("s", "slots", "base", "attention_window", "merge", "heads", "head_dim")
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
    **power,
):
    """A model of one of the families with random weights, in fp32 on the CPU, without dropout.

    Raises ValueError if the name is unknown, or the sizes do not make a model.

    Parameters
    ----------
    name : a size of the paper, such as "gpt2" or "mamba-130m" (`SIZES`), or a family ("gpt2",
        "mamba", "mamba2", "power") with `layers` and `width`.
    vocab_size : M, for a model of tokens, of transformers' class.
    dim : components of a vector, for a model of vectors (`VectorModel`).
    length : the longest sequence; GPT-2 has a position more, without which it starts otherwise.
    state : d_state of a Mamba: 16, or 128 in Mamba-2, by default.
    window : positions that a GPT-2 of vectors attends to, the own one included; all by default.
    positions : of a GPT-2: "learned" (its own, the default) or "rotary" (the class is GPT-NeoX's).
    clock : give a model of vectors the digits of each position, in base 4.
    seed : of the weights.
    power : of "power", a rotary GPT-2 with `l2m.memory.power_attention.PowerAttention`: `s`; if not
        its defaults, `slots` (c), `base`, `attention_window`, `merge`, `heads`, `head_dim`.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    from l2m.training.own_layers import take_own_mixers

    if (vocab_size is None) == (dim is None):
        raise ValueError("pass vocab_size=M for a model of tokens, or dim=… for one of vectors")
    if clock and dim is None:
        raise ValueError("only a model of vectors takes clock=True")
    sizes = (name, vocab_size or 1, length, layers, width, state, window, positions)
    config = _config(*sizes, {key: value for key, value in power.items() if value is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModel if vocab_size is None else AutoModelForCausalLM
        model = made.from_config(config, dtype=torch.float32)
        if dim is not None:
            model = VectorModel(model, dim, length if clock else 0)
        take_own_mixers(body(model))
    return model


def _config(name, vocab_size, length, layers, width, state, window, positions, power):
    """Configuration of a model of `SIZES`, or of a family with own sizes."""
    from transformers import GPT2Config, GPTNeoXConfig, Mamba2Config, MambaConfig

    family, names = name.split("-")[0], {*SIZES, *STATE, "power"}
    if name not in names:
        raise ValueError(f"unknown model {name!r}: one of {', '.join(sorted(names))}")
    usual = SIZES.get(name, (None, None))
    layers, width = layers or usual[0], width or usual[1]
    if layers is None or width is None:
        raise ValueError(f"{name!r} is a family: pass layers=… and width=…")
    if window is not None and (family != "gpt2" or vocab_size > 1):
        raise ValueError("only a gpt2 of vectors takes window=…")
    if positions not in (None, "learned", "rotary") or (positions and family != "gpt2"):
        raise ValueError(f"positions is 'learned' or 'rotary', of a gpt2 alone, not {positions!r}")
    if other := power.keys() - (POWER if family == "power" else ()):
        raise ValueError(f"{name!r} takes no {', '.join(sorted(other))}")
    common = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None}
    common |= {"pad_token_id": None, "tie_word_embeddings": True, "use_cache": False}
    if family in ("gpt2", "power"):
        if state is not None:
            raise ValueError(f"a {name} has no d_state: its state is its cache")
        common |= {"num_hidden_layers": layers, "hidden_size": width}
        common["num_attention_heads"] = power.pop("heads", max(1, width // 64))
        common["max_position_embeddings"] = length + 1  # one is never read: so was all recorded
        one_kernel = "gelu_pytorch_tanh"  # GPT-2's "gelu_new" takes many
        rotary = {"intermediate_size": 4 * width, "use_parallel_residual": False}
        rotary |= {"rotary_pct": 1.0, "hidden_act": one_kernel}
        if family == "power":
            return _power_config(**common | rotary | power)
        common["sliding_window"] = window
        if positions == "rotary":
            return GPTNeoXConfig(**common | rotary)
        common |= dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
        # GPT-2 has no window of its own: `VectorModel` masks, the configuration says it
        return GPT2Config(activation_function=one_kernel, **common)
    common |= {"num_hidden_layers": layers, "hidden_size": width, "expand": 2}
    state = state or STATE[family]
    if family == "mamba":
        return MambaConfig(state_size=state, time_step_rank=-(-width // 16), **common)
    head_dim = min(64, 2 * width // 8)  # the kernels want a multiple of eight heads
    common |= {"head_dim": head_dim, "num_heads": 2 * width // head_dim, "n_groups": 1}
    return Mamba2Config(state_size=state, chunk_size=256 if length >= 256 else 64, **common)


def _power_config(s=None, **options):
    """Its configuration, once a layer could be made of it: errors are the layer's."""
    from l2m.training.own_layers import Attention, PowerConfig

    if s is None:
        raise ValueError("a power model needs its exponent: pass s=…, from 0 to 1")
    config = PowerConfig(s=s, **options)
    with torch.device("meta"):
        Attention(config)
    return config


def missing_kernels() -> list[str]:
    """Which of the packages with Mamba's compiled kernels are not installed."""
    return [name for name in ("mamba_ssm", "causal_conv1d") if not importlib.util.find_spec(name)]


def require_kernels(model) -> None:
    """ModuleNotFoundError if a Mamba lacks its compiled kernels on a GPU: it would be slow by far.

    Mamba-1 has one of ours, in Triton, which comes with torch; Mamba-2 has those of mamba-ssm.
    """
    kind = model.config.model_type
    own = kind == "mamba" and importlib.util.find_spec("triton")
    if kind in STATE and not own and (missing := missing_kernels()):
        needs = f"training {kind} on a GPU needs {' and '.join(missing)}"
        cure = "`pip install --no-build-isolation mamba-ssm causal-conv1d`"
        raise ModuleNotFoundError(f"{needs}: run {cure} (needs a CUDA toolkit)")


class VectorModel(nn.Module):
    """Predict each vector of a sequence, as independent normal components, from those before it.

    A `backbone`, a transformers model without head (GPT-2, Mamba, Mamba-2, …), between two-layer
    perceptrons (App. F of the paper); `dim` components of a vector. With a `clock`, the digits of
    its position, up to that number, are given with each vector.
    """

    def __init__(self, backbone, dim: int, clock: int = 0):
        super().__init__()
        width = backbone.config.hidden_size
        self.backbone, self.dim, self.config = backbone, dim, backbone.config
        self.digits = next(n for n in range(64) if DIGIT**n >= clock) if clock else 0
        into = dim + DIGIT * self.digits
        self.embed = nn.Sequential(nn.Linear(into, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * dim))

    def forward(self, z):
        """Mean and deviation of z_i given BOS (zeros) and z_<i: fp32, (B, L, dim) each, as z is."""
        before = nn.functional.pad(z, (0, 0, 1, -1))
        position = torch.arange(z.shape[1], device=z.device)
        if self.digits:  # of the position that is predicted
            powers = DIGIT ** torch.arange(self.digits, device=z.device)
            digits = nn.functional.one_hot(position[:, None] // powers % DIGIT, DIGIT).flatten(1)
            before = torch.cat([before, digits.to(z.dtype).expand(len(z), -1, -1)], -1)
        inputs = {"inputs_embeds": self.embed(before)}
        if (window := getattr(self.config, "sliding_window", None)) is not None:
            distance = position[:, None] - position
            inputs["attention_mask"] = ((distance >= 0) & (distance < window))[None, None]
        hidden = hidden_states(self.backbone, **inputs)
        with torch.autocast(z.device.type, enabled=False):  # σ is what the loss divides by
            mean, log_deviation = self.head(hidden.float()).chunk(2, dim=-1)
        return mean, log_deviation.exp()
