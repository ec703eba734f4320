"""Training on books: sequences, what is held out, runs that are killed, and what they leave."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import library, words

from l2m.experiments import books as module
from l2m.experiments.books import (
    EXPERIMENT,
    BookRun,
    Books,
    BookTask,
    HeldOut,
    evenly_cut,
    held_out_bytes,
)
from l2m.results import MissingResult
from l2m.text.vocabularies import token_bytes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2M_RECORD", raising=False)


@pytest.fixture
def books(tmp_path):
    library(tmp_path / "books", books=8, paragraphs=80)
    tokenizer = words(tmp_path / "tokenizer")
    sizes = {"held_out": 3, "sequences": 5, "windows": 9, "window_length": 16}
    return Books((str(tmp_path / "books"),), tokenizer, **sizes)


@pytest.fixture
def file(books):
    return books.file()


def small(family, books, **other):
    return BookRun(family, 2, 32, 16, tokens=2560, batch_tokens=128, books=books, **other)


def judge_of(run, file):
    return HeldOut(run, file, run.model(file.vocab_size))


def test_a_batch_is_a_function_of_seed_and_step(file):
    task = BookTask(file, length=32, seed=5)
    late = [task.batch(step, 6, slice(0, 6), "cpu")[0] for step in (40, 3, 41, 0)]
    fresh = BookTask(file, length=32, seed=5)
    for step, batch in zip((0, 3, 40, 41), (late[3], late[1], late[0], late[2]), strict=True):
        assert torch.equal(fresh.batch(step, 6, slice(0, 6), "cpu")[0], batch)
        parts = [fresh.batch(step, 6, slice(i, i + 2), "cpu")[0] for i in (0, 2, 4)]
        assert torch.equal(torch.cat(parts), batch)
    other = BookTask(file, length=32, seed=6).batch(0, 6, slice(0, 6), "cpu")[0]
    assert not torch.equal(other, late[3])


def test_loss_and_values_are_those_of_the_model(file):
    task, model = BookTask(file, 16), BookRun("gpt2", 1, 32, 16).model(file.vocab_size)
    [tokens] = task.batch(0, 4, slice(0, 4), "cpu")
    inputs = torch.cat([torch.full((4, 1), file.bos_token_id), tokens[:, :-1]], 1)
    with torch.no_grad():
        log_q = model(inputs).logits.log_softmax(-1)
        expected = -log_q.gather(2, tokens[..., None])[..., 0]
        torch.testing.assert_close(task.values(model, tokens), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(task.loss(model, tokens), expected.mean())


def test_books_are_cut_evenly():
    class Cut:
        def cut(self, epoch):
            assert epoch is None
            return np.arange(112), np.repeat([3, 5, 9], [10, 2, 100])

    starts, owner = evenly_cut(Cut(), 5)
    assert owner.tolist() == [3] * 5 + [5] * 2 + [9] * 5
    assert starts[-5:].tolist() == [12, 37, 62, 86, 111]


def test_a_judge_sees_the_weights_as_they_are(books, file):
    run = small("gpt2", books)
    model = run.model(file.vocab_size)
    judge = HeldOut(run, file, model)
    before = judge.watch()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    after = judge.watch()
    assert after != before
    some = torch.from_numpy(judge.held_out.read(judge.starts))
    assert after == pytest.approx(float(judge.task.loss(model, some).detach()), abs=1e-4)
    train, held_out = books.sides(file)
    assert set(judge.task.books) == set(train)
    assert set(judge.held_out.books) == set(held_out)


def test_positions_by_hand(books, file):
    judge = judge_of(small("gpt2", books), file)
    table = judge.positions()
    own = table[table["data"] == "held-out"]
    assert set(own["book"]) == set(books.sides(file)[1])
    book = own["book"].iloc[0]
    starts, owner = judge.starts, judge.owner
    read = torch.from_numpy(judge.held_out.read(starts[owner == book]))
    losses = judge.task.values(judge.model, read)
    for row in own[own["book"] == book].itertuples():
        expected = losses[:, row.first - 1 : row.last].mean()
        assert row.nll == pytest.approx(float(expected), abs=1e-4)
        assert row.sequences == (owner == book).sum()
    assert table.loc[table["data"] == "seen", "book"].unique().tolist() == [-1]


def test_terms_are_those_of_whole_sequences(books, file):
    judge = judge_of(small("gpt2", books), file)
    windows, owner = books.held_out_windows(file)
    assert windows.shape == (9, 16) and set(owner) == set(books.sides(file)[1])
    terms = judge.terms()
    row = terms[(terms["window"] == 4) & (terms["split"] == 4)].iloc[0]
    tokens = torch.from_numpy(windows[4:5])
    whole = judge.task.values(judge.model, tokens)[0, 4:8].sum()
    alone = judge.task.values(judge.model, tokens[:, 4:8])[0].sum()
    assert row["joint"] == pytest.approx(-float(whole), abs=1e-3)
    assert row["marginal"] == pytest.approx(-float(alone), abs=1e-3)


def test_a_deadline_stops_and_the_curve_goes_on_unchanged(books, monkeypatch):
    run = small("gpt2", books)
    whole = run.train(progress=False)["metrics"]
    monkeypatch.setenv("L2M_CACHE", os.environ["L2M_CACHE"] + "-again")
    assert not run.carry_out(deadline=1, progress=False)  # less than it keeps for evaluating
    monkeypatch.setattr(module, "SPARE", 0)
    with monkeypatch.context() as slow:
        batch = BookTask.batch
        slow.setattr(BookTask, "batch", lambda *all: time.sleep(0.05) or batch(*all))
        assert not run.carry_out(deadline=0.2, progress=False)
    assert list(run.folder.glob("step-*")) and not run.finished()
    assert run.carry_out(progress=False) and run.finished()
    again = run.table("metrics")
    last = again["step"] == run.steps
    steps = again["step"].isin(whole["step"])
    assert again["step"].max() == run.steps == 20 and last.sum() == 1
    np.testing.assert_array_equal(again.loc[steps, "watched"].dropna(), whole["watched"].dropna())


@pytest.mark.slow
def test_kill_and_resume_give_the_same_tables(books, file, tmp_path, monkeypatch):
    """The process dies without a word in the middle; the second one ends as if it had not."""
    run = small("mamba", books)
    program = f"""
import os, signal
from l2m.training import loop
from l2m.experiments.books import Books, BookRun
kept = loop.save
def save(folder, step, *rest):
    kept(folder, step, *rest)
    if step == 10 and os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
loop.save = save
assert {run!r}.carry_out(progress=False)
"""
    tables = {}
    for name, deaths in (("whole", ("",)), ("killed", ("1", ""))):
        monkeypatch.setenv("L2M_CACHE", str(tmp_path / name))
        for die in deaths:
            env = os.environ | {"DIE": die, "OMP_NUM_THREADS": "1"}
            code = subprocess.run([sys.executable, "-c", program], env=env).returncode
            assert code == (-signal.SIGKILL if die else 0)
        tables[name] = {table: run.table(table) for table in EXPERIMENT.tables[1:]}
    for table in EXPERIMENT.tables[1:]:
        whole, killed = (
            tables[name][table].drop(columns="seconds", errors="ignore") for name in tables
        )
        pd.testing.assert_frame_equal(whole, killed)


def test_tables_of_all_runs_are_gathered_and_recorded(books, monkeypatch):
    runs = [small(family, books) for family in ("gpt2", "mamba")]
    monkeypatch.setitem(EXPERIMENT.grids, "test", runs)
    tables = EXPERIMENT.gather("test")
    assert tables["runs"]["run"].tolist() == [run.name for run in runs]
    config = json.loads(tables["runs"]["config"][1])
    assert config["model_type"] == "mamba" and tables["runs"]["weights"][1] > 1024 * 32
    for name in ("metrics", "positions", "terms"):
        assert set(tables[name]["run"]) == set(tables["runs"]["run"])
    assert tables["metrics"].groupby("run", observed=True)["tokens"].max().eq(2560).all()
    learned = tables["metrics"].dropna(subset="watched").groupby("run", observed=True)["watched"]
    assert (learned.last() < learned.first() - 0.01).all()  # what is judged is what was trained
    for run, seen in learned.last().items():
        own = tables["positions"]
        own = own[(own["run"] == run) & (own["data"] == "held-out")]
        weight = own["sequences"] * (own["last"] - own["first"] + 1)
        assert np.average(own["nll"], weights=weight) == pytest.approx(seen, abs=1e-4)
    monkeypatch.setattr(BookRun, "carry_out", None)  # so they are read
    again = EXPERIMENT.gather("test")
    pd.testing.assert_frame_equal(again["positions"], tables["positions"])


@pytest.mark.parametrize(
    ("grid", "called"), [("book", "title"), ("states", "title"), ("just_enough", "name")]
)
def test_what_is_recorded_is_found(monkeypatch, grid, called):
    monkeypatch.setattr(BookRun, "carry_out", None)
    tables = EXPERIMENT.gather(grid)
    names = {getattr(run, called) for run in EXPERIMENT.runs(grid)}  # the first had no digests
    assert set(tables["positions"]["run"]) == names
    assert "learning_rate" in tables["runs"]


def test_what_needs_a_gpu_says_so(books, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    big = dataclasses.replace(small("gpt2", books), tokens=10**8)
    monkeypatch.setitem(EXPERIMENT.grids, "test", [big])
    with pytest.raises(MissingResult, match="not been trained here and need a GPU: gpt2-2x32-16"):
        EXPERIMENT.gather("test")


def test_every_run_of_an_experiment_divides_its_batch_and_has_a_name_of_its_own():
    for grid in EXPERIMENT.grids:
        runs = EXPERIMENT.runs(grid)
        assert len({run.name for run in runs}) == len(runs)
        for run in runs:
            assert run.batch_tokens % (run.length * run.gradient_accumulation_steps) == 0
            assert run.books.window_length <= run.length
            assert run.books == runs[0].books


def test_the_largest_models_of_both_families_have_about_as_many_weights():
    weights = {}
    for run in EXPERIMENT.runs("book") + EXPERIMENT.runs("states"):
        if run.length == 4096 and not run.state:
            with torch.device("meta"):
                weights[run.family, run.width] = sum(
                    p.numel() for p in run.model(49_152).parameters()
                )
    for width in (256, 512, 768):
        assert weights["mamba", width] == pytest.approx(weights["gpt2", width], rel=0.1)


def test_excluded_books_are_on_neither_side(books, file):
    title = file.books["title"][books.sides(file)[1][0]]
    without = dataclasses.replace(books, exclude=(title,))
    assert len(np.concatenate(without.sides(file))) == len(file.books) - 1
    assert small("gpt2", books).folder != small("gpt2", without).folder


def test_in_how_many_parts_a_batch_is_processed_is_no_other_run(books):
    run = small("gpt2", books)
    assert run.folder == small("gpt2", books, gradient_accumulation_steps=2).folder
    assert run.folder != small("gpt2", books, seed=1).folder


def test_bytes_of_the_windows_that_models_are_scored_on(tmp_path, monkeypatch):
    library(tmp_path / "books", books=8, paragraphs=80)
    name, sizes = f"bpe:{tmp_path / 'books'}:300", {"windows": 9, "window_length": 16}
    books = Books((str(tmp_path / "books"),), name, held_out=3, **sizes)
    monkeypatch.setitem(EXPERIMENT.grids, "test", [small("gpt2", books)])
    windows, owner = books.held_out_windows(books.file())
    each = token_bytes(module.models.load_tokenizer(name))[windows]
    for k, some in held_out_bytes("test").groupby("tokens"):
        assert some["bytes"].tolist() == each[:, :k].sum(1).tolist()
        assert some["book"].tolist() == owner.tolist()
