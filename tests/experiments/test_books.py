"""Training on books: sequences, what is held out, runs that are killed, and what they leave."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import library, words
from l2m.experiments.book_evaluation import HeldOut, block_edges, held_out_windows, thinned
from l2m.experiments.book_runs import EXPERIMENTS, Experiment, Run

from l2m.experiments import books as book_training
from l2m.experiments.books import carry_out, finished, gathered, run_folder
from l2m.text.sequences import BookTask
from l2m.text.token_files import token_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2M_RECORD", raising=False)


@pytest.fixture
def books(tmp_path):
    library(tmp_path / "books", books=8, paragraphs=80)
    return str(tmp_path / "books"), words(tmp_path / "tokenizer")


@pytest.fixture
def file(books):
    return token_file([books[0]], books[1])


def experiment(books, *families, **options):
    runs = [Run(family, 2, 32, 16, tokens=2560, batch_tokens=128) for family in families]
    options = {"held_out": 3, "sequences": 5, "windows": 9, "window_length": 16} | options
    return Experiment(tuple(runs), (books[0],), books[1], **options)


def test_sequences_start_at_paragraphs_and_do_not_overlap(file):
    task = BookTask(file, length=64, seed=3, books=[1, 4, 6])
    starts, owner = task.cut(0)
    assert set(owner) == {1, 4, 6} and set(starts) <= set(file.paragraphs)
    for book in (1, 4, 6):
        own = starts[owner == book]
        first, end = file.books.loc[book, ["start", "end"]]
        assert own[0] >= first and own[-1] + 64 <= end and (np.diff(own) >= 64).all()
        assert np.diff(own).max() < 64 + 60  # two paragraphs on; those have 30 words at most
    read = task.read(starts[:2])
    assert read.shape == (2, 64) and read.dtype == torch.long
    assert read[1].tolist() == file.tokens[starts[1] : starts[1] + 64].tolist()


def test_nearly_every_token_comes_once_an_epoch_and_cuts_differ(file):
    task = BookTask(file, length=128)
    seen, starts = np.zeros(len(file.tokens), int), [task.cut(epoch)[0] for epoch in range(40)]
    for some in starts:
        np.add.at(seen, (some[:, None] + np.arange(128)).ravel(), 1)
    assert seen.max() <= 40  # never twice in an epoch
    # paragraphs are an eighth of a sequence here, and books ten sequences; 0.94 with real books
    assert 0.8 < seen.mean() / 40 < 1
    assert (seen > 0).mean() > 0.98  # what one cut leaves out another has
    same = np.mean([np.isin(a, b).mean() for a, b in pairwise(starts)])
    assert same < 0.3  # of ten paragraphs a sequence, nearly any may start one
    other = BookTask(file, 128, seed=1).cut(0)[0]
    assert not np.array_equal(other, starts[0])
    tight, _ = task.cut(None)
    np.testing.assert_array_equal(tight, task.cut(None)[0])
    assert len(tight) >= max(map(len, starts))


def test_an_epoch_shuffles_all_its_sequences(file):
    task, size = BookTask(file, length=32), 8
    n = len(task.cut(0)[0])
    steps = -(-2 * n // size)
    numbers = [task._start(i) for i in range(steps * size)]
    assert sorted(numbers[:n]) == sorted(task.cut(0)[0]) and numbers[:n] != sorted(numbers[:n])
    n2 = len(task.cut(1)[0])
    assert sorted(numbers[n : n + n2]) == sorted(task.cut(1)[0])[: len(numbers) - n]
    assert task.epoch(n - 1) == 0 and task.epoch(n) == 1
    assert task.epochs(n * 32) == pytest.approx(1) and task.epochs(n * 16) == pytest.approx(
        0.5, 0.1
    )


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


def test_books_that_are_too_short_are_refused(file):
    with pytest.raises(ValueError, match="no book has 100000 tokens"):
        BookTask(file, 100_000)


def test_loss_and_values_are_those_of_the_model(file):
    task, model = BookTask(file, 16), Run("gpt2", 1, 32, 16).model(file.vocabulary)
    [tokens] = task.batch(0, 4, slice(0, 4), "cpu")
    inputs = torch.cat([torch.full((4, 1), file.bos), tokens[:, :-1]], 1)
    with torch.no_grad():
        log_q = model(inputs).logits.log_softmax(-1)
        expected = -log_q.gather(2, tokens[..., None])[..., 0]
        torch.testing.assert_close(task.values(model, tokens), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(task.loss(model, tokens), expected.mean())


@pytest.mark.parametrize("length", [2, 64, 100, 4096])
def test_blocks_cover_every_position_once(length):
    edges = block_edges(length)
    assert edges[0] == 1 and edges[-1] == length + 1 and (np.diff(edges) > 0).all()
    assert np.diff(edges).max() <= max(1, 0.07 * length)


def test_thinning_is_even():
    owner = np.repeat([3, 5, 9], [10, 2, 100])
    kept = thinned(owner, 5)
    assert owner[kept].tolist() == [3] * 5 + [5] * 2 + [9] * 5
    assert kept[-5:].tolist() == [12, 37, 62, 86, 111]


def test_a_judge_sees_the_weights_as_they_are(books, file):
    plan = experiment(books, "gpt2")
    model = plan.runs[0].model(file.vocabulary)
    judge = HeldOut(plan.runs[0], plan, file, model)
    before = judge.watch()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    after = judge.watch()
    assert after != before
    starts, _ = judge._sequences()
    some = judge.held_out.read(starts)
    assert after == pytest.approx(float(judge.task.loss(model, some).detach()), abs=1e-4)
    train, held_out = plan.split(file)
    assert set(judge.task.books) == set(train) and set(judge.held_out.books) == set(held_out)


def test_positions_by_hand(books, file):
    plan = experiment(books, "gpt2")
    model = plan.runs[0].model(file.vocabulary)
    judge = HeldOut(plan.runs[0], plan, file, model)
    table = judge.positions()
    own = table[table["data"] == "held-out"]
    assert set(own["book"]) == set(plan.split(file)[1])
    book = own["book"].iloc[0]
    starts, owner = judge._sequences()
    losses = judge.task.values(model, judge.held_out.read(starts[owner == book])).detach()
    for row in own[own["book"] == book].itertuples():
        expected = losses[:, row.first - 1 : row.last].mean()
        assert row.nll == pytest.approx(float(expected), abs=1e-4)
        assert row.sequences == (owner == book).sum()
    assert table.loc[table["data"] == "seen", "book"].unique().tolist() == [-1]


def test_terms_are_those_of_whole_sequences(books, file):
    plan = experiment(books, "gpt2")
    judge = HeldOut(plan.runs[0], plan, file, plan.runs[0].model(file.vocabulary))
    windows, owner = held_out_windows(plan, file)
    assert windows.shape == (9, 16) and set(owner) == set(plan.split(file)[1])
    terms = judge.terms()
    row = terms[(terms["window"] == 4) & (terms["split"] == 4)].iloc[0]
    tokens = torch.from_numpy(windows[4:5])
    with torch.no_grad():
        whole = judge.task.values(judge.model, tokens)[0, 4:8].sum()
        alone = judge.task.values(judge.model, tokens[:, 4:8])[0].sum()
    assert row["joint"] == pytest.approx(-float(whole), abs=1e-3)
    assert row["marginal"] == pytest.approx(-float(alone), abs=1e-3)


def test_a_deadline_stops_and_the_curve_goes_on_unchanged(books, file, monkeypatch):
    plan = experiment(books, "gpt2")
    run = plan.runs[0]
    monkeypatch.setenv("L2M_CACHE", os.environ["L2M_CACHE"] + "-whole")
    assert carry_out(run, plan, file, progress=False)
    whole = pd.read_parquet(run_folder(run, plan, file.sha256) / "metrics.parquet")

    monkeypatch.setenv("L2M_CACHE", os.environ["L2M_CACHE"].removesuffix("-whole"))
    assert not carry_out(run, plan, file, until=time.time() + 1, progress=False)
    monkeypatch.setattr(book_training, "SPARE", 0)
    with monkeypatch.context() as slow:
        batch = BookTask.batch
        slow.setattr(BookTask, "batch", lambda *all: time.sleep(0.05) or batch(*all))
        assert not carry_out(run, plan, file, until=time.time() + 0.2, progress=False)
    folder = run_folder(run, plan, file.sha256)
    assert list(folder.glob("step-*")) and not finished(folder)
    assert carry_out(run, plan, file, progress=False)
    again = pd.read_parquet(folder / "metrics.parquet")
    last = again["step"] == run.steps
    steps = again["step"].isin(whole["step"])
    assert again["step"].max() == run.steps == 20 and last.sum() == 1
    np.testing.assert_array_equal(again.loc[steps, "watched"].dropna(), whole["watched"].dropna())


def test_kill_and_resume_give_the_same_tables(books, file, tmp_path, monkeypatch):
    """The process dies without a word in the middle; the second one ends as if it had not."""
    plan = experiment(books, "mamba")
    run = plan.runs[0]
    program = f"""
import os, signal
from l2m.training.loop import loop as training
from l2m.experiments.book_runs import Experiment, Run
from l2m.experiments.books import carry_out
from l2m.text.token_files import open_tokens
kept = training.save
def save(folder, step, *rest):
    kept(folder, step, *rest)
    if step == 10 and os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
training.save = save
plan = {plan!r}
assert carry_out(plan.runs[0], plan, open_tokens({str(file.folder)!r}), progress=False)
"""
    tables = {}
    for name, deaths in (("whole", ("",)), ("killed", ("1", ""))):
        cache = tmp_path / name
        monkeypatch.setenv("L2M_CACHE", str(cache))
        for die in deaths:
            env = os.environ | {"DIE": die, "OMP_NUM_THREADS": "1"}
            code = subprocess.run([sys.executable, "-c", program], env=env).returncode
            assert code == (-signal.SIGKILL if die else 0)
        folder = run_folder(run, plan, file.sha256)
        tables[name] = {t: pd.read_parquet(folder / f"{t}.parquet") for t in book_training.TABLES}
    for table in book_training.TABLES:
        whole, killed = (
            tables[name][table].drop(columns="seconds", errors="ignore") for name in tables
        )
        pd.testing.assert_frame_equal(whole, killed)


def test_tables_of_all_runs_are_gathered_and_recorded(books, monkeypatch):
    plan = experiment(books, "gpt2", "mamba")
    tables = gathered("test", plan)
    assert tables["runs"]["run"].tolist() == ["gpt2-2x32-16", "mamba-2x32-16"]
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
    monkeypatch.setattr(book_training, "_gather", None)  # so they are read
    pd.testing.assert_frame_equal(gathered("test", plan)["positions"], tables["positions"])


def test_what_needs_a_gpu_says_so(books, monkeypatch, capsys):
    from l2m.results import MissingResult

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = experiment(books, "gpt2")
    big = dataclasses.replace(plan, runs=(Run("gpt2", 2, 32, 16, tokens=10**8),))
    with pytest.raises(MissingResult, match="gpt2-2x32-16 has not been trained, and needs a GPU"):
        gathered("test", big)
    monkeypatch.setitem(EXPERIMENTS, "book", big)
    assert book_training.main(["--runs", "book"]) == 2
    assert "no GPU to train gpt2-2x32-16 on" in capsys.readouterr().err


def test_command_line(books, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "smoke", experiment(books, "gpt2"))
    assert book_training.main(["--runs", "smoke", "--only", "lstm-1x1-1"]) == 2
    assert "no run lstm-1x1-1 in 'smoke', only gpt2-2x32-16" in capsys.readouterr().err
    plan = EXPERIMENTS["smoke"]
    file = plan.file()
    assert carry_out(plan.runs[0], plan, file, progress=False)
    book_training.copy_tables(run_folder(plan.runs[0], plan, file.sha256), tmp_path / "home")
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "elsewhere"))
    assert book_training.main(["--runs", "smoke", "--tables", str(tmp_path / "home")]) == 0
    assert "gpt2-2x32-16: held-out loss" in capsys.readouterr().out


def test_every_run_of_an_experiment_divides_its_batch_and_has_a_name_of_its_own():
    for plan in EXPERIMENTS.values():
        assert len({run.name for run in plan.runs}) == len(plan.runs)
        for run in plan.runs:
            assert run.batch_tokens % (run.length * run.accumulate) == 0
            assert plan.window_length <= run.length


def test_the_largest_models_of_both_families_have_about_as_many_weights():
    weights = {}
    for run in EXPERIMENTS["book"].runs + EXPERIMENTS["states"].runs:
        if run.length == 4096 and not run.state:
            with torch.device("meta"):
                weights[run.family, run.width] = sum(
                    p.numel() for p in run.model(49_152).parameters()
                )
    for width in (256, 512, 768):
        assert weights["mamba", width] == pytest.approx(weights["gpt2", width], rel=0.1)


def test_excluded_books_are_on_neither_side(books, file):
    plan = experiment(books, "gpt2")
    title = file.books["title"][plan.split(file)[1][0]]
    without = dataclasses.replace(plan, exclude=(title,))
    assert len(np.concatenate(without.split(file))) == len(file.books) - 1
    folders = {run_folder(p.runs[0], p, file.sha256) for p in (plan, without)}
    assert len(folders) == 2
