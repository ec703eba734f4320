"""Which architecture keeps what of the past: the table behind `history_state`.

Two small tables decide: families (which reader of `layer_memories` serves which model type), and
what a layer type holds (all tokens, a window, a chunk; a recurrence). A model type that is in no family
is an error, never a guess.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from l2m.memory import layer_memories as m
from l2m.memory.layer_memories import Memory, read

# Model type → what its attention layers keep, and what its other layers keep.
_FAMILIES = [
    # Attention over keys and values; local layers are told by the layer types.
    (
        m.keys_and_values,
        None,
        """afmoe apertus arcee aria_text beam biogpt bitnet bloom codegen cohere cohere2
        cohere2_moe ctrl cwm diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon
        flex_olmo flint gemma gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm
        glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj
        granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hunyuan_v1_dense
        hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama
        llama4_text mellum minimax_m2 ministral ministral3 mistral mixtral
        modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3
        phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2
        vaultgemma xglm""",
    ),
    (
        m.latent,
        None,
        """axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa hy_v4
        longcat_flash minicpm3 youtu""",
    ),
    (m.compressed, None, "deepseek_v4"),
    # State-space models, and their mixes with attention.
    (None, m.mamba, "mamba falcon_mamba"),
    (None, m.mamba2, "mamba2"),
    (None, m.log_linear_mamba2, "log_linear_mamba2"),
    (m.keys_and_values, m.mamba, "jamba zamba"),
    (m.keys_and_values, m.mamba2, "bamba falcon_h1 granitemoehybrid nemotron_h zamba2"),
    # Linear attention and other recurrences, and their mixes with attention.
    (m.keys_and_values, m.gated_delta, "olmo_hybrid qwen3_next qwen3_5_text qwen3_5_moe_text"),
    (m.latent, m.kimi_delta, "kimi_linear bailing_hybrid"),
    (m.keys_and_values, m.lightning, "minimax"),
    (m.keys_and_values, m.rg_lru, "recurrent_gemma"),
    (m.keys_and_values, m.short_conv, "lfm2 lfm2_moe"),
    (None, m.linear_attention, "retnet gla delta_net gated_deltanet"),
    (None, m.rwkv4, "rwkv"),
    (None, m.rwkv7, "rwkv7"),
    (None, m.mlstm, "xlstm"),
]
FAMILIES = {name: (reads, mixes) for reads, mixes, names in _FAMILIES for name in names.split()}

# Model types of other packages than transformers.
OUTSIDE = {"log_linear_mamba2", "retnet", "gla", "delta_net", "gated_deltanet", "rwkv7"}

# Layer type (older names among them) → which tokens its attention keeps, the last ones being as
# many as the config attribute named says; and whether it holds a recurrence or convolution.
_LAYER_TYPES = {
    "full_attention": ("all", False),
    "indexed_attention": ("all", False),
    "deepseek_sparse_attention": ("all", False),
    "global": ("all", False),
    "sliding_attention": ("sliding_window", False),
    "chunked_attention": ("attention_chunk_size", False),
    "local": ("window_size", False),
    "attention": ("attention_window_size", False),  # of RecurrentGemma; others do not have this
    "linear_attention": (None, True),
    "recurrent": (None, True),
    "conv": (None, True),
    "hybrid": ("all", True),
    "hybrid_sliding": ("sliding_window", True),
    "moe": (None, False),
    "mlp": (None, False),
}


def layer_memories(config) -> tuple[Memory, ...]:
    """Return what a decoder with this config keeps; see `history_state`."""
    reads, mixes = FAMILIES[config.model_type]
    count = Counter()
    for i, (kind, layer) in enumerate(_layers(config)):
        if reads is m.compressed:
            count.update(m.compressed(layer, kind))
            continue
        if kind not in _LAYER_TYPES:
            raise ValueError(f"A layer of type {kind!r} ({config.model_type}) is not known here.")
        tokens, recurs = _LAYER_TYPES[kind]
        if tokens == "all":
            count[Memory(*reads(layer))] += 1
        elif tokens:  # a window of w tokens ends with the next one: w − 1 of the past
            count[Memory(*reads(layer), "window", read(layer, tokens) - 1)] += 1
        if recurs:
            count.update(mixes(layer))
        if tokens and getattr(layer, "index_head_dim", None) and _selects(config, i):
            count[Memory("indexer keys", layer.index_head_dim)] += 1
    return tuple(replace(memory, layers=n) for memory, n in count.items())


def _selects(config, i) -> bool:
    """Return whether layer i of a sparse attention has an indexer of its own."""
    indexers = getattr(config, "indexer_types", None)
    return not indexers or indexers[i] == "full"


def _layers(config):
    """Yield the type and the config of every layer that keeps a memory of its own."""
    named = ("layer_types", "layers_block_type", "attention_layers")
    kinds = next((k for k in (getattr(config, name, None) for name in named) if k), None)
    if kinds is None:
        kind = "full_attention"
        if FAMILIES[config.model_type][0] is None:
            kind = "linear_attention"
        elif getattr(config, "sliding_window", None):
            kind = "sliding_attention"
        elif getattr(config, "attention_chunk_size", None):
            kind = "chunked_attention"
        kinds = [kind] * config.num_hidden_layers
    # The last layers of some models read the keys and values of earlier ones.
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    own = getattr(config, "per_layer_config", None) or [config] * len(kinds)
    return list(zip(kinds, own, strict=True))[: len(kinds) - shared]


def decoder_config(source):
    """Return the decoder's config of a transformers model or config, or of a ``config.json`` dict.

    Raises
    ------
    TypeError
        `source` is none of these.
    ValueError
        An encoder-decoder, or a model type that no family lists.
    """
    config = getattr(source, "config", source)
    if isinstance(config, Mapping):
        config = _from_dict(config)
    if not getattr(config, "model_type", None):
        raise TypeError(
            f"Give a transformers model or config, a config.json as a dict, or a HistoryState; "
            f"not {type(source).__name__}."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{config.model_type!r} is an encoder-decoder: it reads its source as a whole, so it "
            f"has no history state in the sense of Definition 5.1. Give a decoder-only model."
        )
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"What a {config.model_type!r} model keeps of the past is not known here. Describe it "
            f"yourself: HistoryState((Memory('keys and values', width, layers=n), …))."
        )
    return config


def _from_dict(config: Mapping):
    kind = config.get("model_type")
    if kind and kind not in OUTSIDE:
        from transformers import CONFIG_MAPPING

        if kind in CONFIG_MAPPING:
            return CONFIG_MAPPING[kind].from_dict(dict(config))
    return SimpleNamespace(**config)


@cache
def architectures() -> tuple[dict, ...]:
    """Return the public models whose sizes the book uses: ``name, id, source, config``, as facts.

    ``config`` holds the entries of the model's public ``config.json`` that its history state needs.
    """
    path = Path(__file__).with_name("architectures.json")
    return tuple(json.loads(path.read_text(encoding="utf-8")))
