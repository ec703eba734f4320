"""How many numbers a model keeps of its past: its history state (Sec. 5, App. D, E).

What is counted. Definition 5.1 calls history state the *smallest* set of variables z_ℓ, computed
from x_{1:ℓ−1}, with q(y | x_{1:ℓ}) = q(y | x_ℓ, z_ℓ). Taken to the letter, that could be the tokens
themselves. Counted here, as in the paper, is what the model hands from one step to the next so that
the past need not be read again: keys and values, latents, recurrent states, inputs of short
convolutions. Of these, only what the next step reads: w − 1 tokens of a window of w, k − 1 inputs
of a convolution of k, nothing for layers that reuse another's keys. Library caches keep a slot more
here and there. The position, and what an image or a sound left behind, are not counted.
"""

from dataclasses import dataclass

import numpy as np

from l2m.memory.architectures import decoder_config, layer_memories
from l2m.memory.layer_memories import Memory


@dataclass(frozen=True)
class HistoryState:
    """All that a model keeps of its past: a few memories; also the way to describe a model by hand.

    Examples
    --------
    >>> llama = HistoryState((Memory("keys and values", 2 * 8 * 128, layers=32),))
    >>> llama.dim(1000)
    65536000
    """

    memories: tuple[Memory, ...]

    def dim(self, length):
        """Return dim(z) after `length` tokens: an int, or an array for an array of lengths.

        ValueError for a length that is no whole number, or an array whose numbers need 63 bits.
        """
        L = np.asarray(length)
        if L.dtype.kind not in "iu" or (L < 0).any():
            raise ValueError(f"A length is a whole number of tokens, at least 0, not {length!r}.")
        if L.ndim == 0:
            return sum(m.dim(int(L)) for m in self.memories)
        if L.size and self.dim(int(L.max())) >= 2**62:
            raise ValueError(f"At {L.max():,} tokens the scalars overflow an array: ask for one.")
        return sum((m.dim(L.astype(np.int64)) for m in self.memories), np.zeros_like(L, np.int64))


def history_state(config_or_model) -> HistoryState:
    """Return what a model keeps of its past, from its config alone.

    `config_or_model` is a transformers model or config (of a multimodal model: its text decoder), a
    ``config.json`` as a dict, or a `HistoryState`, which is returned as it is. ValueError for a
    model type that is not in the table, an encoder-decoder, or a config without a size that is
    needed; TypeError for anything else.
    """
    if isinstance(config_or_model, HistoryState):
        return config_or_model
    return HistoryState(layer_memories(decoder_config(config_or_model)))


def history_state_dim(config_or_model, length):
    """Return dim(z), the number of scalars kept after `length` tokens (Def. 5.1; module docstring).

    An int, or an array if `length` is one. For I_BP(L/2; L) the state is that after L/2 tokens.
    Windows, chunks and unfinished blocks count at their fullest. Others as in `history_state`.
    """
    return history_state(config_or_model).dim(length)
