"""What one layer of each kind keeps of the past, read from the sizes in its config.

A layer keeps `Memory` objects, so many slots of so many scalars. A reader takes a config and
returns them; attention readers return a name and a width per token, since the layer's type decides
which tokens are kept.
"""

from dataclasses import dataclass, replace

import numpy as np

from l2m.memory.blocks import Blocks

# How many slots of a memory are filled after L tokens; n is the size of its window or block.
SLOTS = {
    "tokens": lambda L, n: L,  # one for every token
    "window": lambda L, n: np.minimum(L, n),  # the last n tokens
    "state": lambda L, n: np.ones_like(L),  # one state, rewritten at every token
    "levels": lambda L, n: np.frexp(L * 1.0)[1],  # ⌊log₂ L⌋ + 1 states, those of a Fenwick tree
    "blocks": lambda L, n: L // n,  # one for every n tokens
    "power": lambda L, n: n.count(L),  # a window, and blocks of b^j tokens with b^(s·j) slots each
}


@dataclass(frozen=True)
class Memory:
    """One kind of memory that a model keeps: so many slots, one of `SLOTS`, of so many scalars."""

    what: str  # its name, for tables
    width: int  # scalars in a slot of one layer
    slots: str = "tokens"  # how the slots grow with the length L
    size: int | Blocks = 0  # of the window or block; the `Blocks` of "power"; 0 for the others
    layers: int = 1  # that keep such a memory

    def __post_init__(self):
        if self.slots not in SLOTS:
            raise ValueError(f"slots is one of {', '.join(SLOTS)}, not {self.slots!r}.")
        if (self.slots == "power") != isinstance(self.size, Blocks):
            raise ValueError("Slots that grow like a power, and nothing else, have Blocks as size.")
        if self.slots != "power" and (self.slots in ("window", "blocks")) != (self.size > 0):
            raise ValueError("A window or block, and nothing else, has a positive size.")

    def dim(self, length):
        """Return the scalars kept after `length` tokens, an integer or an array of them."""
        slots, each = SLOTS[self.slots](length, self.size), self.layers * self.width
        return each * (np.asarray(slots, np.int64) if np.ndim(slots) else int(slots))


def read(config, *names):
    """Return the first of the named sizes that the config has."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value
    kind = getattr(config, "model_type", "this")
    raise ValueError(f"The {kind} config gives no {' or '.join(names)}: give the whole config.")


def keys_and_values(config):
    """Keys and values of the heads that are not shared between queries (MHA, GQA, MQA)."""

    def given(name):
        return getattr(config, name, None)

    def queries():
        return read(config, "num_attention_heads", "num_heads", "n_heads")

    shared = given("multi_query") and not given("new_decoder_architecture")  # Falcon
    heads = 1 if shared else given("num_key_value_heads") or given("num_kv_heads") or queries()
    key = given("head_dim") or given("kv_channels")
    key = key or read(config, "hidden_size", "d_model") // queries()
    return "keys and values", heads * (key + (given("v_head_dim") or key))


def latent(config):
    """Multi-head latent attention: the compressed keys and values, and the rotary key."""
    return "latent keys and values", config.kv_lora_rank + config.qk_rope_head_dim


def _state(width):
    """A recurrence keeps one state of so many scalars."""
    return Memory("state", width, "state")


def _conv(kernel, channels):
    """A causal convolution sees its last kernel inputs, the newest of which is yet to come."""
    return Memory("convolution inputs", channels, "window", kernel - 1)


def mamba(config):
    """Mamba: a diagonal state per channel (Gu & Dao 2023)."""
    expand = getattr(config, "mamba_expand", None)  # mixed models: intermediate_size is the MLP's
    inner = int(expand * config.hidden_size) if expand else read(config, "intermediate_size")
    state = inner * read(config, "mamba_d_state", "state_size")
    return _state(state), _conv(read(config, "mamba_d_conv", "conv_kernel"), inner)


def mamba2(config):
    """Mamba-2: a matrix per head, B and C shared in groups (Dao & Gu 2024)."""
    heads = read(config, "mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "num_heads")
    width = read(config, "mamba_d_head", "mamba_headdim", "mamba_head_dim", "head_dim")
    state = read(config, "mamba_d_state", "ssm_state_size", "state_size")
    groups = read(config, "mamba_n_groups", "mamba_ngroups", "n_groups")
    kernel = read(config, "mamba_d_conv", "conv_kernel")
    return _state(heads * width * state), _conv(kernel, heads * width + 2 * groups * state)


def log_linear_mamba2(config):
    """Log-linear attention on Mamba-2: one state for each level of a Fenwick tree of the past."""
    state, conv = mamba2(config)
    return replace(state, what="states by level", slots="levels"), conv


def gated_delta(config):
    """Gated DeltaNet as in Qwen3-Next: a key × value matrix per value head, short convolutions."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    conv = _conv(config.linear_conv_kernel_dim, 2 * keys + values)
    return _state(values * config.linear_key_head_dim), conv


def kimi_delta(config):
    """Kimi delta attention: a square matrix per head, short convolutions on q, k and v."""
    heads, width = config.linear_num_heads, config.linear_head_dim
    conv = _conv(config.linear_conv_kernel_dim, 3 * heads * width)
    return _state(heads * width**2), conv


def lightning(config):
    """Lightning attention (MiniMax): a square matrix per head."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (_state(config.num_attention_heads * width**2),)


def linear_attention(config):
    """RetNet, gated linear attention, DeltaNet: a key × value matrix per head."""
    if getattr(config, "attn", None):
        raise ValueError("A mix of linear and softmax layers given by `attn` is not known here.")
    heads, d = config.num_heads, config.hidden_size
    gated_deltanet = config.model_type == "gated_deltanet"
    key = heads * config.head_dim if gated_deltanet else int(d * config.expand_k)
    value = int((key if gated_deltanet else d) * config.expand_v)
    state = _state(key * value // heads)
    return (state, _conv(config.conv_size, 2 * key + value)) if config.use_short_conv else (state,)


def compressed(config, kind):
    """DeepSeek-V4: a short window, and one entry for each block of tokens (with its indexer)."""
    head = config.head_dim
    window = Memory("keys that are values", head, "window", config.sliding_window - 1)
    if kind == "sliding_attention":
        return (window,)
    n = config.compress_rates[kind]
    sparse = kind == "compressed_sparse_attention"
    entry = head + (config.index_head_dim if sparse else 0)
    blocks = Memory("compressed entries", entry, "blocks", n)
    # Values and gates of the unfinished block; overlapping blocks come in two series, and keep one
    # series of the block before.
    series = 2 if sparse else 1
    memories = [window, blocks, Memory("unfinished block", 2 * series * entry, "window", n - 1)]
    return (*memories, Memory("block before", 2 * n * entry, "state")) if sparse else memories


def power(config):
    """Power attention: keys and values of the window's tokens, and of the slots of all blocks."""
    named = ("s", "slots", "base", "attention_window")
    blocks = Blocks(*(read(config, name) for name in named))
    return (Memory(*keys_and_values(config), "power", blocks),)


_OF_SEVERAL_SIZES = (keys_and_values, latent, compressed, mamba, mamba2, log_linear_mamba2)
_OF_SEVERAL_SIZES += (gated_delta, kimi_delta, lightning, linear_attention, power)
READERS = {reader.__name__: reader for reader in _OF_SEVERAL_SIZES} | {
    # RecurrentGemma's gated linear recurrence: a vector, and a short convolution
    "rg_lru": lambda c: [_state(c.lru_width), _conv(c.conv1d_width, c.hidden_size)],
    # LFM2: nothing but a short convolution
    "short_conv": lambda c: [_conv(c.conv_L_cache, c.hidden_size)],
    # RWKV-4: last inputs of both mixers; numerator, denominator and their shared exponent
    "rwkv4": lambda c: [_state(2 * c.hidden_size + 3 * c.attention_hidden_size)],
    # RWKV-7: a square matrix per head, and the last inputs of both mixers
    "rwkv7": lambda c: [_state(read(c, "hidden_size") * (read(c, "head_dim") + 2))],
    # xLSTM's matrix memory: a matrix, a normaliser and an exponent per head
    "mlstm": lambda c: [_state(c.num_heads * (c.qk_head_dim * (c.v_head_dim + 1) + 1))],
}
