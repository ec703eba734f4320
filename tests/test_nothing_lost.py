"""Every kind of stored file: damaged anywhere, on a full disk, and written by two at once."""

import functools
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import flip, library, tiny, words

from l2m import files, results
from l2m.experiments.runs import Run
from l2m.files import CannotWrite, DamagedFile, held, write_atomic
from l2m.language_models.models import load_tokenizer
from l2m.language_models.scoring import score
from l2m.results import recorded
from l2m.text.corpora import token_file
from l2m.training.loop import Training, train
from l2m.training.loss import token_loss
from l2m.training.networks import build_model

resource = pytest.importorskip("resource", reason="limits of files are those of Unix")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2M_RECORD", raising=False)


class Noise:
    """A task of random tokens."""

    length = 6

    def about(self):
        return {"task": "noise"}

    def batch(self, step, size, rows, device):
        tokens = np.random.default_rng(step).integers(1, 7, (size, self.length))
        return (torch.as_tensor(tokens[rows], device=device),)

    def loss(self, model, tokens):
        return token_loss(model, tokens, 0)


@dataclass(frozen=True)
class Tables(Run):
    """A run of which nothing but two tables is kept."""

    title: str = "tables"
    tokens: int = 1
    chapter = "tests"

    def train(self, deadline, progress):
        return {"runs": pd.DataFrame({"a": [1]}), "curves": pd.DataFrame({"b": [1.5, 2.5]})}


# What stores something below a folder, or takes it from there: it returns the same, every time.


def a_result(folder):
    table = pd.DataFrame({"split": range(50), "mi": np.arange(50) / 3})
    return recorded("ch/mi", {"seed": 3}, lambda: table.copy()).to_numpy().tolist()


def a_recorded_result(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2M_RECORD", "1")
        return a_result(folder)


def scores(folder):
    windows = np.random.default_rng(0).integers(0, 97, (5, 8))
    options = {"batch_size": 1, "check": 0, "progress": False}
    return score(_model(), windows, folder=folder / "scores", **options).joint.tolist()


def a_run(folder):
    assert Tables().carry_out(progress=False)
    return Tables().table("curves").to_numpy().tolist()


def checkpoints(folder):
    model = build_model("gpt2", vocab_size=7, length=6, layers=1, width=8)
    config = Training(4, 2, precision="fp32", save_every=2, log_every=1)
    table = train(model, Noise(), config, folder / "training", "cpu", progress=False)
    return table["loss"].tolist()


def tokens(folder):
    if not (folder / "books").exists():
        library(folder / "books", books=2, paragraphs=5)
    return token_file([folder / "books"], _tokenizer(folder)).tokens.tolist()


@functools.cache
def _model():
    return tiny("llama")


@functools.cache
def _tokenizer(folder):
    return load_tokenizer(words(folder / "tokenizer"))


KINDS = [a_result, a_recorded_result, scores, a_run, checkpoints, tokens]
STORED = ["cache", "results", "scores", "training"]


def stored(folder):
    """The files that are kept, and what is in them."""
    found = [file for name in STORED for file in (folder / name).rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in found if file.suffix != ".lock"}


def forget(folder):
    for name in STORED:
        shutil.rmtree(folder / name, ignore_errors=True)


# damage

CURES = r"restore it|remove it|remove .*made again|made again|or delete it"


def cut(path, place):
    path.write_bytes(path.read_bytes()[:place])


@pytest.mark.filterwarnings("ignore:.*damaged")
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_damage_is_taken_for_what_was_stored(tmp_path, kind, share, record_property):
    """It is said with the file's name and what to do, or what is damaged is made again."""
    expected, whole = kind(tmp_path), stored(tmp_path)
    assert len(whole) >= 2
    record_property("tried", 2 * len(whole))
    for file, content in whole.items():
        place = int(share * len(content))
        for damage in (flip, cut):
            damage(file, place)
            try:
                assert kind(tmp_path) == expected
            except DamagedFile as error:
                assert str(file) in str(error) and re.search(CURES, str(error))
                assert stored(tmp_path) == whole | {file: file.read_bytes()}
            forget(tmp_path)
            for path, before in whole.items():
                write_atomic(path, before)
    assert kind(tmp_path) == expected


# a disk that is full, or takes nothing


@contextmanager
def full_disk(most=64):
    """No file may have more bytes than these; as with a quota, what is there stays."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, kind):
    expected = kind(tmp_path)
    for keep in (0, -1):  # nothing, or all but the last file
        for file in sorted(stored(tmp_path), key=lambda file: file.stat().st_mtime_ns)[keep:]:
            file.unlink()
        before = stored(tmp_path)
        if kind is tokens:  # a folder without a manifest is none
            forget(tmp_path)
            before = {}
        with full_disk(), pytest.raises(CannotWrite) as error:
            kind(tmp_path)
        said = str(error.value)
        assert re.match(rf"cannot write {tmp_path}/\S+ \(File too large\): make room", said)
        assert before.items() <= stored(tmp_path).items()
        assert kind(tmp_path) == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_folder_that_takes_nothing_is_said(tmp_path, kind):
    for name in STORED:
        (tmp_path / name).write_text("no folder")
    with pytest.raises(CannotWrite, match=rf"cannot write {tmp_path}/\S+ \("):
        kind(tmp_path)
    for name in STORED:
        (tmp_path / name).unlink()
    kind(tmp_path)


def test_a_measurement_on_a_full_disk_does_not_ask_for_itself():
    with full_disk(), pytest.raises(CannotWrite) as error:
        recorded("ch/mi", {}, lambda: pd.DataFrame({"a": [1]}), command="the command just given")
    assert "command" not in str(error.value)


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), OSError(101, "unreachable"), KeyError()]
)
def test_what_is_no_fault_of_the_disk_stays_what_it_is(error):
    with pytest.raises(type(error)), files.writing("x"):
        raise error


# two at once


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_of_two_at_once_one_waits_or_is_refused(tmp_path, kind):
    expected = kind(tmp_path)
    locks = [file.with_suffix("") for file in tmp_path.rglob("*.lock")]
    assert len(locks) == 1
    forget(tmp_path)
    with ThreadPoolExecutor(1) as other:
        with held(locks[0]):
            there = other.submit(kind, tmp_path)
            time.sleep(0.3)
            refused = there.done()
            if refused:
                with pytest.raises(RuntimeError, match=f"another run is using {locks[0]}: wait"):
                    there.result()
        assert (kind(tmp_path) if refused else there.result(timeout=60)) == expected


def test_who_holds_a_lock_may_take_it_again(tmp_path):
    with held(tmp_path / "x"), held(tmp_path / "x"):
        pass
    with ThreadPoolExecutor(1) as other, other.submit(held, tmp_path / "x").result():
        pass  # it was let go


def test_who_reads_a_result_while_it_is_written_waits_for_all_of_it(tmp_path):
    expected = a_recorded_result(tmp_path)
    table, lock = tmp_path / "results/ch/mi.parquet", files.cache_dir() / "results/ch/mi"
    with ThreadPoolExecutor(1) as other:
        with held(lock):
            whole = flip(table, 100)  # as between two files: the table is of other parameters
            reader = other.submit(a_result, tmp_path)
            time.sleep(0.2)
            assert not reader.done()
            table.write_bytes(whole)
        assert reader.result(timeout=60) == expected
