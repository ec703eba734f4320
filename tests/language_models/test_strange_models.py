"""Folders that no model should be: one sentence names the file, and the field if there is one."""

import functools
import json
import os
import re
import shutil

import pytest
import torch
from helpers import tiny, words

from l2m.chapters import calculator
from l2m.language_models.models import fingerprint, load_model, load_tokenizer


@functools.cache
def whole(base):
    """A model and its tokenizer, made once."""
    tiny("llama").save_pretrained(base / "whole")
    words(base / "whole", 97)
    return base / "whole"


@pytest.fixture
def folder(tmp_path, tmp_path_factory):
    return shutil.copytree(whole(tmp_path_factory.getbasetemp()), tmp_path / "model")


def refused(load, match, error=ValueError):
    with pytest.raises(error) as caught:
        load()
    said = str(caught.value)
    assert re.search(match, said) and "\n" not in said and len(said) < 700, said
    for advice in ("no such folder", "weights_only", "trust_remote_code", "allow_pickle"):
        assert advice not in said
    return said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "32"}, "'hidden_size' expected int.*its config.json"),
        ({"hidden_size": 48}, "its config.json gives other sizes than its weights have"),
        ({"hidden_size": -1}, "config.json: hidden_size is from 1 to"),
        ({"num_attention_heads": 0}, "config.json: num_attention_heads is from 1 to"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' expected int.*its config.json"),
        ({"num_hidden_layers": 10_000_000}, "config.json: num_hidden_layers is from 1 to 10,000"),
        ({"vocab_size": 10**12}, "config.json: vocab_size is from 1 to"),
        ({"hidden_act": "relu7"}, "config.json: hidden_act is 'relu7', which is not known"),
        ({"rope_parameters": {"rope_type": "x"}}, "config.json: rope_parameters.rope_type is 'x'"),
        ({"model_type": "new"}, "model type `new`"),
        ({"auto_map": {"AutoModelForCausalLM": "a.py--B"}, "model_type": "b"}, "model type `b`"),
    ],
)
@pytest.mark.timeout(60)
def test_a_config_with_a_field_that_is_wrong(folder, change, said):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(lambda: load_model(str(folder)), said)


@pytest.mark.parametrize("content", ['{"model_type": "lla', "[]", "", b"\xff\xfe", "[" * 10**5])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(folder, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
    load = load_model if name == "config.json" else load_tokenizer
    refused(lambda: load(str(folder)), f"{name} is damaged, no JSON.*fetch it anew")
    if name == "config.json":
        refused(lambda: calculator.described(str(folder), 0.5, 10), "config.json is damaged")


def test_a_tokenizer_of_an_unknown_kind(folder):
    (folder / "tokenizer.json").write_text("{}")
    refused(lambda: load_tokenizer(str(folder)), "see its tokenizer.json and tokenizer_config.json")


class Evil:
    """What a pickle may hold."""

    def __reduce__(self):
        return os.mkdir, ("a folder that code in a model has made",)


@pytest.mark.parametrize("evil", [False, True])
def test_weights_that_may_run_code_are_not_read(folder, monkeypatch, evil):
    monkeypatch.chdir(folder)
    weights = {"lm_head.weight": Evil()} if evil else load_model(str(folder)).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(lambda: load_model(str(folder)), "has no weights in safetensors: name a model that has")
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_no_weights_and_no_config(folder):
    (folder / "model.safetensors").unlink()
    refused(lambda: load_model(str(folder)), "has no weights in safetensors")
    (folder / "config.json").unlink()
    refused(lambda: load_model(str(folder)), "model_type.*config.json")


def test_a_folder_of_something_else_is_not_read_through(tmp_path, monkeypatch):
    (tmp_path / "large.bin").write_bytes(b"x")
    monkeypatch.setattr("l2m.language_models.models.tree_digest", None)
    refused(lambda: fingerprint(str(tmp_path)), "holds no model: name a folder that has a config")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_instead_of_its_folder(folder, name):
    refused(lambda: load_model(str(folder / name)), f"{name} is a file: name the folder")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("../outside.safetensors", "leads outside of its folder, to ../outside.safetensors"),
        ("{parent}/outside.safetensors", "leads outside of its folder"),
        ("none.safetensors", "names none.safetensors, which is not there"),
        (5, "has no weight_map of names of files"),
        (None, "has no weight_map of names of files"),
    ],
)
def test_an_index_leads_to_files_of_its_folder_alone(folder, parts, said):
    names = list(load_model(str(folder)).state_dict())
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    parts = parts.format(parent=folder.parent) if isinstance(parts, str) else parts
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, parts)} if parts else {}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: load_model(str(folder)), f"model.safetensors.index.json {said}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10_000_000}, "num_hidden_layers is from 1 to 10,000"),
        ({"num_attention_heads": 0}, "num_attention_heads is from 1 to"),
        ({"hidden_size": "32"}, "'hidden_size' expected int"),
        ({"sliding_window": "wide", "model_type": "mistral"}, "no model's .*: take its own"),
    ],
)
@pytest.mark.timeout(60)
def test_the_calculator_names_the_field_as_well(folder, change, said):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(lambda: calculator.described(str(folder), 0.5, 10), said)
