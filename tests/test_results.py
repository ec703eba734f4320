"""Recorded results: found by their parameters, checked by their hash, written whole."""

import json
import os
import time

import numpy as np
import pandas as pd
import pytest
from helpers import flip

from l2m import results
from l2m.files import DAY, DamagedFile, digest, sha256, write_atomic
from l2m.results import MissingResult, recorded

PARAMS = {"model": "tiny", "splits": [1, 2], "seed": 3}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2M_RECORD", raising=False)


def compute(value=1.5):
    frame = pd.DataFrame({"split": [1, 2], "mi": [value, value + 1]})
    frame.attrs = {"tokens": np.int64(40), "device": "a GPU"}
    return frame


def never():
    raise AssertionError("this was to be read, not computed")


def test_a_computed_result_is_cached_with_its_provenance():
    frame = recorded("ch/mi", PARAMS, compute)
    assert frame.mi.tolist() == [1.5, 2.5]
    about = frame.attrs
    assert about["params"] == PARAMS
    assert about["seeds"] == {"seed": 3}
    assert (about["tokens"], about["device"]) == (40, "a GPU")
    assert about["command"] == "python -m l2m run ch --record"
    assert {"commit", "date", "dtype", "seconds", "versions", "sha256"} <= about.keys()
    again = recorded("ch/mi", PARAMS, never)
    assert again.equals(frame)
    assert not results.results_dir().exists()


def test_record_writes_to_results_and_promotes_what_was_cached(monkeypatch):
    recorded("ch/mi", PARAMS, compute)
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, never)
    recorded("ch/other", PARAMS, compute)
    monkeypatch.delenv("L2M_RECORD")
    names = sorted(path.name for path in (results.results_dir() / "ch").iterdir())
    assert names == ["mi.json", "mi.parquet", "other.json", "other.parquet"]
    assert recorded("ch/other", PARAMS).mi.tolist() == [1.5, 2.5]


def test_other_parameters_are_another_result(monkeypatch):
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, compute)
    monkeypatch.delenv("L2M_RECORD")
    other = PARAMS | {"seed": 4}
    assert recorded("ch/mi", other, lambda: compute(7.0)).mi[0] == 7.0
    assert recorded("ch/mi", PARAMS, never).mi[0] == 1.5
    assert recorded("ch/mi", other, never).mi[0] == 7.0


def test_parameters_are_compared_as_json():
    recorded("ch/mi", {"splits": (1, np.int64(2))}, compute)
    assert recorded("ch/mi", {"splits": [1, 2]}, never).mi[0] == 1.5


def test_a_missing_result_says_what_differs_and_what_makes_it(monkeypatch):
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, compute)
    with pytest.raises(MissingResult, match=r"seed = 3, not 4.*python -m l2m run ch --record"):
        recorded("ch/mi", PARAMS | {"seed": 4})


@pytest.mark.parametrize("error", [FileNotFoundError, ConnectionError, ImportError])
def test_what_cannot_be_computed_here_is_missing(error):
    def fails():
        raise error("No corpus here.")

    with pytest.raises(MissingResult, match=r"No corpus here\. It is made by `do this`"):
        recorded("ch/mi", PARAMS, fails, command="do this")


def test_a_fault_of_the_computation_is_not_hidden():
    with pytest.raises(AssertionError):
        recorded("ch/mi", PARAMS, never)


def test_a_damaged_recorded_table_is_refused_and_a_damaged_cached_one_made_again(monkeypatch):
    recorded("ch/mi", PARAMS, compute)
    [cached] = (results.cache_dir() / "results" / "ch").glob("*.parquet")
    cached.write_bytes(b"PAR1")
    assert recorded("ch/mi", PARAMS, lambda: compute(9.0)).mi[0] == 9.0
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, never)
    (results.results_dir() / "ch" / "mi.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedFile, match="mi.parquet is not the table that was recorded"):
        recorded("ch/mi", PARAMS, compute)


def test_damaged_provenance_is_treated_alike(monkeypatch):
    recorded("ch/mi", PARAMS, compute)
    [cached] = (results.cache_dir() / "results" / "ch").glob("*.json")
    cached.write_text('{"params": ')
    assert recorded("ch/mi", PARAMS, lambda: compute(9.0)).mi[0] == 9.0
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, never)
    (results.results_dir() / "ch" / "mi.json").write_text("<<<<<<< HEAD")
    with pytest.raises(DamagedFile, match=r"mi.json is damaged.*git checkout -- results"):
        recorded("ch/mi", PARAMS, compute)


@pytest.mark.parametrize("name", ["mi.json", "mi.parquet"])
def test_no_bit_of_a_recorded_result_may_change(monkeypatch, name):
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, compute)
    file = results.results_dir() / "ch" / name
    size, place_of_digest = file.stat().st_size, file.read_bytes().find(b'"digest"')
    for place in range(0, size, size // 40):
        whole = flip(file, place)
        if not 0 <= place - place_of_digest < 9:  # unsigned, nothing else is damaged
            with pytest.raises(DamagedFile, match="git checkout -- results"):
                recorded("ch/mi", PARAMS, never)
        file.write_bytes(whole)


def test_every_recorded_result_is_what_was_written(monkeypatch):
    monkeypatch.undo()
    files = sorted(results.results_dir().rglob("*.parquet"))
    assert len(files) > 30
    for file in files:
        about = json.loads(file.with_suffix(".json").read_text())
        assert about["digest"] == digest({k: v for k, v in about.items() if k != "digest"})
        assert sha256(file) == about["sha256"]


def test_a_large_table_is_not_recorded(monkeypatch):
    monkeypatch.setenv("L2M_RECORD", "1")
    monkeypatch.setattr(results, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100"):
        recorded("ch/mi", PARAMS, compute)
    assert not results.results_dir().exists()


@pytest.mark.parametrize("name", ["mi", "../mi", "ch/../../mi", "/ch/mi"])
def test_names_stay_inside_results(name):
    with pytest.raises(ValueError, match="named"):
        recorded(name, PARAMS, compute)


def test_params_that_json_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        recorded("ch/mi", {"x": float("nan")}, compute)


def test_the_json_is_for_reading(monkeypatch):
    monkeypatch.setenv("L2M_RECORD", "1")
    recorded("ch/mi", PARAMS, compute)
    assert results.provenance("ch/mi")["params"] == PARAMS
    text = (results.results_dir() / "ch" / "mi.json").read_text()
    assert text.startswith('{\n  "name": "ch/mi"') and json.loads(text)
    with pytest.raises(MissingResult, match="No result 'ch/none' is recorded"):
        results.provenance("ch/none")


@pytest.mark.parametrize("content", [b"new", "new", lambda path: path.write_text("new")])
def test_write_atomic(tmp_path, content):
    path = write_atomic(tmp_path / "a" / "b.txt", content)
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["b.txt"]


def test_what_a_kill_left_is_swept_up_a_day_later(tmp_path):
    old, new = tmp_path / ".tmp-1-a.bin", tmp_path / ".tmp-2-a.bin"
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (0, time.time() - DAY - 1))
    write_atomic(tmp_path / "b.txt", "whole")
    assert new.exists() and not old.exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")

    def fails(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["b.txt"]
