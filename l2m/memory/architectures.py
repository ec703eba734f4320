"""Which architecture keeps what of the past: the table behind `history_state`.

Two small tables in `families.json` decide. Families: which readers of `layer_memories` serve the
attention layers and the other layers of a model type. Layer types: whether attention keeps all
tokens, or the last ones, as many as the config attribute named says; and whether they hold a
recurrence or convolution (`recurs`). A model type in no family is an error, never a guess.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from l2m.memory.layer_memories import READERS, Memory, compressed, read

_TABLES = json.loads(Path(__file__).with_name("families.json").read_text(encoding="utf-8"))
_LAYER_TYPES = _TABLES["layer_types"]
OUTSIDE = set(_TABLES["outside_transformers"])  # model types of other packages
FAMILIES = {  # model type → readers of its attention layers and of its other layers, or None
    model_type: tuple(name and READERS[name] for name in (family["attention"], family["other"]))
    for family in _TABLES["families"]
    for model_type in family["model_types"]
}


def layer_memories(config) -> tuple[Memory, ...]:
    """Return what a decoder with this config keeps; see `history_state`."""
    attention, other = FAMILIES[config.model_type]
    indexers = getattr(config, "indexer_types", None)  # sparse attention: layers with one, or all
    count = Counter()
    for i, (kind, layer) in enumerate(_layers(config)):
        if attention is compressed:
            count.update(compressed(layer, kind))
            continue
        if kind not in _LAYER_TYPES:
            raise ValueError(f"A layer of type {kind!r} ({config.model_type}) is not known here.")
        tokens, recurs = map(_LAYER_TYPES[kind].get, ("tokens", "recurs"))
        if tokens == "all":
            count[Memory(*attention(layer))] += 1
        elif tokens:  # a window of w tokens ends with the next one: w − 1 of the past
            count[Memory(*attention(layer), "window", read(layer, tokens) - 1)] += 1
        if recurs:
            count.update(other(layer))
        index = tokens and getattr(layer, "index_head_dim", None)
        if index and (not indexers or indexers[i] == "full"):
            count[Memory("indexer keys", index)] += 1
    return tuple(replace(memory, layers=n) for memory, n in count.items())


def _layers(config):
    """Yield the type and the config of every layer that keeps a memory of its own."""
    named = ("layer_types", "layers_block_type", "attention_layers")
    kinds = next(filter(None, (getattr(config, name, None) for name in named)), None)
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

    TypeError if `source` is none of these, ValueError for an encoder-decoder, or a model type that
    no family lists.
    """
    config = getattr(source, "config", source)
    if isinstance(config, Mapping):
        kind, known = config.get("model_type"), {}
        if kind and kind not in OUTSIDE:
            from transformers import CONFIG_MAPPING as known
        given = dict(config)
        config = known[kind].from_dict(given) if kind in known else SimpleNamespace(**given)
    if not getattr(config, "model_type", None):
        wanted = "a transformers model or config, a config.json as a dict, or a HistoryState"
        raise TypeError(f"Give {wanted}; not {type(source).__name__}.")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{config.model_type!r} is an encoder-decoder: it reads its source as a whole, so it "
            f"has no history state in the sense of Definition 5.1. Give a decoder-only model."
        )
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    if config.model_type not in FAMILIES:
        problem = f"What a {config.model_type!r} model keeps of the past is not known here"
        cure = "HistoryState((Memory('keys and values', width, layers=n), …))"
        raise ValueError(f"{problem}. Describe it yourself: {cure}.")
    return config


@cache
def architectures() -> tuple[dict, ...]:
    """Return ``name, id, source`` of public models, and what is needed of their ``config``.

    `read_in`, where a source was not read itself, names what quotes it.
    """
    path = Path(__file__).with_name("architectures.json")
    return tuple(json.loads(path.read_text(encoding="utf-8")))
