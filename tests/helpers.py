"""What tests of several rooms share: tiny models scored the naive way, books of made-up words."""

import numpy as np
import pandas as pd
import torch

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ROTARY = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
MAMBA = {"state_size": 4, "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": VOCABULARY}
FAMILIES = {  # model type: (sizes, the best exact way)
    "llama": ({**ROTARY, "max_position_embeddings": 64}, "packed"),
    "qwen3": (ROTARY, "packed"),
    "gpt2": ({**GPT2, "bos_token_id": 0}, "packed"),
    "mistral": ({**ROTARY, "sliding_window": 5}, "packed"),
    "gemma3_text": ({**ROTARY, "sliding_window": 5, "query_pre_attn_scalar": 8}, "packed"),
    "gemma2": ({**ROTARY, "sliding_window": 5, "query_pre_attn_scalar": 8}, "prefix"),
    "granite": ({**ROTARY, "logits_scaling": 3.0}, "packed"),
    "llama4_text": ({**ROTARY, "num_local_experts": 2, "intermediate_size_mlp": 48}, "packed"),
    "recurrent_gemma": ({**ROTARY, "num_hidden_layers": 3, "attention_window_size": 5}, "whole"),
    "bloom": ({**SMALL, "n_layer": 2, "n_head": 4}, "prefix"),  # ALiBi
    "mamba": ({**MAMBA, "bos_token_id": 0, "time_step_rank": 4}, None),
    "mamba2": (
        {
            **MAMBA,
            "num_heads": 4,
            "head_dim": 16,
            "n_groups": 1,
            "chunk_size": 8,
            "bos_token_id": 0,
        },
        None,
    ),
    "jamba": (
        {
            **ROTARY,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "num_experts": 1,
            "num_experts_per_tok": 1,
        },
        None,
    ),
}


def tiny(family):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **FAMILIES[family][0]), dtype=torch.float32
    )
    for parameter in model.parameters():  # as if trained: the default is close to uniform
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model.eval().requires_grad_(False)


def naive(model, bos=0):
    """log q(w_t | BOS, w_<t) through the model's own forward, one sequence at a time."""

    def log_prob(tokens):
        out = []
        for row in torch.as_tensor(tokens):
            logits = model(torch.cat([torch.tensor([bos]), row[:-1]])[None]).logits[0]
            out.append(logits.double().log_softmax(-1).gather(1, row[:, None])[:, 0].numpy())
        return np.stack(out)

    return log_prob


def windows(n=4, length=24, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (n, length))


def assert_same(a, b, tolerance=1e-4):
    assert a.splits == b.splits
    np.testing.assert_allclose(a.joint, b.joint, atol=tolerance, rtol=0)
    for split in a.splits:
        for ours, theirs in ((a.marginal, b.marginal), (a.shuffled, b.shuffled)):
            assert ours[split].shape == theirs[split].shape
            np.testing.assert_allclose(ours[split], theirs[split], atol=tolerance, rtol=0)


def dense_bipartite(c, split):
    """I_BP(split; L) of normal numbers with covariance c: three dense log-determinants."""
    parts = c[:split, :split], c[split:, split:], c
    return np.array([1, 1, -1]) @ [np.linalg.slogdet(part)[1] for part in parts] / 2


def flip(path, place):
    """Change one bit of a file, and return what it was."""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[place] ^= 1
    path.write_bytes(data)
    return whole


def words(folder, size=900):
    """A fast tokenizer of words, saved to a folder; line breaks belong to the word before."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": 0, "?": 1} | {f"w{i}": i + 2 for i in range(size - 2)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    tokenizer.save_pretrained(folder)
    return str(folder)


def library(folder, books=6, paragraphs=40, seed=0):
    """Books of random words, two a parquet file."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    texts = [
        "\n\n".join(
            " ".join(f"w{i}" for i in rng.integers(800, size=rng.integers(3, 30)))
            for _ in range(paragraphs)
        )
        for _ in range(books)
    ]
    for first in range(0, books, 2):
        numbers = range(first, min(first + 2, books))
        table = {"short_book_title": [f"book {i}" for i in numbers], "text": texts[first:][:2]}
        pd.DataFrame(table).to_parquet(folder / f"part-{first}.parquet")
    return texts
