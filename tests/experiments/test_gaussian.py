"""The Gaussian experiment: exact data and loss, and a miniature that really trains."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from helpers import flip
from torch.distributions import Normal, kl_divergence

from l2m.experiments import gaussian
from l2m.experiments.gaussian import (
    EXPERIMENT,
    GaussianRun,
    GaussianTask,
    conditional_kl,
    positions_table,
    thin_curve,
    window_floor,
)
from l2m.files import DamagedFile
from l2m.memory.blocks import Blocks
from l2m.memory.history_state import history_state_dim
from l2m.results import MissingResult
from l2m.sources.gaussian import GaussianFamily

TINY = {"length": 16, "copies": 8, "width": 32, "layers": 1, "vectors": 512, "warmup_steps": 5}
TINY |= {"held_out": 2048, "learning_rate": 1e-2}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path))
    monkeypatch.delenv("L2M_RECORD", raising=False)
    return tmp_path


def exact(task):
    """A model that knows the truth, from the other side: the conditionals of the family."""

    def model(z):
        flat = z.transpose(1, 2).reshape(-1, task.length).numpy()
        mean, deviation = task.family.conditionals(flat)
        mean = torch.tensor(mean, dtype=torch.float32).view(len(z), -1, task.length)
        deviation = torch.tensor(deviation, dtype=torch.float32)[:, None]
        return mean.transpose(1, 2), deviation.expand(task.length, z.shape[2])

    return model


@pytest.mark.parametrize("kind", ["sub-volume", "logarithmic"])
def test_the_data_follow_the_family_and_carry_their_conditionals(kind):
    task = GaussianTask(kind, 2, copies=32)
    z, mean = task.batch(0, 512, slice(None), "cpu")
    assert z.shape == mean.shape == (512, 16, 32) and z.dtype == torch.float32
    flat = z.transpose(1, 2).reshape(-1, 16).double().numpy()
    c = GaussianFamily(kind, 2).covariance()
    error = (flat.T @ flat / len(flat) - c) / np.sqrt((1 + c**2) / len(flat))
    assert abs(error).max() < 5
    assert abs(np.corrcoef(z[:, 0].T)[np.triu_indices(32, 1)]).max() < 0.25  # copies
    assert task.values(exact(task), z, mean).abs().max() < 1e-6


def test_a_batch_depends_on_seed_and_step_alone():
    task, other = (GaussianTask("sub-volume", 2, copies=4, seed=seed) for seed in (0, 1))
    z, mean = task.batch(3, 8, slice(None), "cpu")
    again = task.batch(3, 8, slice(2, 5), "cpu")
    torch.testing.assert_close(again, (z[2:5], mean[2:5]))
    others = [task.batch(4, 8, slice(None), "cpu"), other.batch(3, 8, slice(None), "cpu")]
    others += [task.held_out(0, 8, "cpu"), task.held_out(3, 8, "cpu")]
    assert all((z - o).abs().max() > 0.1 for o, _ in others)
    torch.testing.assert_close(task.held_out(3, 8, "cpu"), other.held_out(3, 8, "cpu"))


def test_the_divergence_is_that_of_torch():
    mean, q_mean = torch.randn(2, 5, 7, dtype=torch.float64)
    deviation, q_deviation = torch.rand(2, 5, 7, dtype=torch.float64) + 0.1
    expected = kl_divergence(Normal(mean, deviation), Normal(q_mean, q_deviation))
    torch.testing.assert_close(conditional_kl(mean, deviation, q_mean, q_deviation), expected)


def test_nll_is_divergence_plus_entropy():
    task = GaussianTask("sub-volume", 2, copies=64)
    z, mean = task.batch(0, 2000, slice(None), "cpu")
    q = torch.zeros_like(z), torch.full_like(z, 1.2)  # a model that knows nothing of the past
    nll = -Normal(*q).log_prob(z).double().mean(dim=(0, 2)).numpy()
    kl = task.values(lambda _: q, z, mean).double().mean(dim=0).numpy()
    np.testing.assert_allclose(nll, kl + task.entropy(), atol=0.01)
    np.testing.assert_allclose(task.loss(lambda _: q, z, mean), kl.mean(), rtol=1e-5)


def test_the_loss_of_a_window_is_no_less_than_its_floor():
    """What `window_floor` says of seeing m vectors is what regression on them leaves."""
    family = GaussianFamily("sub-volume", 2)
    c, deviation = family.covariance(), np.diag(family.cholesky())
    floor = window_floor(family, 3)
    for i in range(16):
        past = slice(max(0, i - 3), i)
        left = 1 - c[i, past] @ np.linalg.solve(c[past, past], c[past, i]) if i else 1.0
        assert floor[i] == pytest.approx(np.log(left) / 2 - np.log(deviation[i]))
    assert window_floor(family, 16).max() < 1e-12


def test_a_table_by_block_has_the_means_of_all_positions():
    rng = np.random.default_rng(0)
    kl, entropy = rng.random((6, 256)), rng.random(256)
    table = positions_table(kl, entropy)
    widths = table["last"] - table["first"] + 1
    assert np.average(table["kl"], weights=widths) == pytest.approx(kl.mean())
    assert np.average(table["entropy"], weights=widths) == pytest.approx(entropy.mean())
    assert table["stderr"].iloc[0] == pytest.approx(kl[:, 0].std(ddof=1) / 6**0.5)


def test_thinning_a_curve_keeps_its_ends():
    step = np.arange(10, 2510, 10)
    thin = thin_curve(pd.DataFrame({"step": step, "loss": 1 / step, "learning_rate": 0.1}))
    assert len(thin) <= 81 and thin["step"].is_monotonic_increasing
    assert thin["step"].iloc[0] == 10 and thin["step"].iloc[-1] > 2300


def test_training_lowers_the_divergence_and_is_repeatable(cache, monkeypatch):
    run = GaussianRun("gpt2", **TINY, steps=40)
    tables = run.train(progress=False, device="cpu")
    row = tables["runs"].iloc[0]
    untrained = run.task().loss(run.model(), *run.task().held_out(0, 128, "cpu")).item()
    assert row["kl"] < 0.7 * untrained
    assert row["kl"] > 0 and row["dim_z"] == 2 * 32 * 8
    monkeypatch.setenv("L2M_CACHE", str(cache / "again"))
    again = run.train(progress=False, device="cpu")
    assert again["runs"]["kl"].iloc[0] == pytest.approx(row["kl"], rel=1e-4)


def test_a_mamba_trains_here_too(cache):
    run = GaussianRun("mamba", **TINY, state=4, steps=12)
    tables = run.train(progress=False, device="cpu")
    losses = tables["curves"]["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert tables["runs"]["dim_z"].iloc[0] == 64 * 4 + 3 * 64


def test_a_larger_state_helps(cache):
    """The same GPT-2, its window of 2 or of 4: more is within reach, and training finds it."""
    small, large = (GaussianRun("gpt2", **TINY, window=w, steps=150) for w in (2, 4))
    kl = [run.train(progress=False, device="cpu")["runs"]["kl"].iloc[0] for run in (small, large)]
    floor = window_floor(small.task().family, 2).mean()
    assert kl[1] < 0.9 * kl[0]
    assert kl[0] > floor > kl[1]  # out of reach of the smaller one, whatever its training


def test_results_are_gathered_when_all_runs_are_there(cache, monkeypatch):
    grid = [{**TINY, "family": "gpt2", "steps": 2, "seed": seed} for seed in (0, 1)]
    runs = [GaussianRun(**fields) for fields in grid]
    monkeypatch.setitem(EXPERIMENT.grids, "tiny", runs)
    monkeypatch.setattr("l2m.experiments.runs.CPU_TOKENS", 0)
    assert runs[0].carry_out(progress=False)
    with pytest.raises(MissingResult, match="1 of its 2 runs .*--grid tiny --record"):
        EXPERIMENT.gather("tiny")
    monkeypatch.setattr("l2m.experiments.runs.CPU_TOKENS", 10_000)
    tables = EXPERIMENT.gather("tiny")  # what is small is trained
    assert runs[1].finished()
    for name in EXPERIMENT.tables:
        assert set(tables[name]["run"]) == {run.name for run in runs}
    about = tables["runs"].attrs
    assert about["tokens"] == 2 * 2 * 512 and about["params"]["grid"] == "tiny"


def test_what_is_recorded_is_found(monkeypatch, cache):
    monkeypatch.setattr(gaussian.GaussianRun, "carry_out", None)
    runs = EXPERIMENT.gather("book")["runs"]
    assert len(runs) == len(EXPERIMENT.runs("book"))


def test_the_book_grid_is_what_it_promises():
    runs = EXPERIMENT.runs("book")
    assert len({run.name for run in runs}) == len(runs) >= 60
    for run in runs[:1] + runs[-1:]:
        assert run.task().length == run.length
        assert EXPERIMENT.run("book", run.name) == run
    usual = [run for run in runs if run.length == 256 and run.steps == 8000]
    assert len({run.tokens for run in usual}) == 1
    told = {(run.family, run.clock) for run in usual}
    assert told >= {(family, clock) for family in ("gpt2", "mamba") for clock in (False, True)}
    states = {(r.state, r.copies) for r in usual if r.layers == 2 and r.learning_rate == 3e-3}
    assert len(states) == 18


def test_the_grid_of_just_enough_is_what_it_promises():
    runs = EXPERIMENT.runs("just_enough")
    assert len({run.name for run in runs}) == len(runs) >= 50
    usual = {"slots": 1, "steps": 6000, "width": 256, "learning_rate": 1.5e-3, "offset": None}
    alike = [r for r in runs if all(getattr(r, k) == v for k, v in usual.items()) and not r.seed]
    diagram = {(r.s, r.kind) for r in alike if r.length == 1024}
    assert diagram == {(r.s, r.kind) for r in alike if r.length == 256} and len(diagram) == 15
    assert {run.merge for run in runs} == {"fixed"} and {run.clock for run in runs} == {True}
    kept = [Blocks(r.s, r.slots).count(32) for r in runs if r.slots not in (1, 138)]
    assert set(kept) == {6} and len(kept) == 8
    assert Blocks(0, 138).count(512) == Blocks(0.79).count(512) == 138
    assert {run.merge for run in EXPERIMENT.runs("just_enough_further")} == {"content"}


def test_a_deadline_cuts_a_run_that_goes_on_to_the_same_numbers(cache):
    run = GaussianRun("gpt2", **TINY, steps=6)
    whole = run.train(progress=False, device="cpu")["runs"]
    next(run.folder.glob("step-00000006-*.safetensors")).unlink()
    assert not run.carry_out(deadline=0, progress=False) and not run.finished()
    assert run.carry_out(progress=False) and run.finished()
    assert run.table("runs")["kl"][0] == whole["kl"][0]


@pytest.mark.parametrize("name", ["positions.parquet", "runs.parquet", "manifest.json"])
def test_a_damaged_table_of_a_run_is_made_again(cache, name):
    run = GaussianRun("gpt2", **TINY, steps=2)
    assert run.carry_out(progress=False)
    whole = run.table("positions")
    file = run.folder / name
    for place in range(5, file.stat().st_size, file.stat().st_size // 3):
        flip(file, place)
        with pytest.raises(DamagedFile, match="is damaged"):
            run.table("positions")
        with pytest.warns(UserWarning, match="is made again from the last checkpoint"):
            assert run.carry_out(progress=False)
        pd.testing.assert_frame_equal(run.table("positions"), whole)


def test_tables_of_another_run_are_not_taken(cache):
    run, other = (GaussianRun("gpt2", **TINY, steps=2, seed=seed) for seed in (0, 1))
    run.carry_out(progress=False)
    run.folder.rename(other.folder)
    assert not other.finished() and not run.finished()


def test_bad_input_names_the_cure():
    with pytest.raises(ValueError, match="power of 4, not 100"):
        GaussianRun("gpt2", length=100)
    with pytest.raises(ValueError, match="multiples of length = 64"):
        GaussianRun("gpt2", length=64, vectors=100)
    with pytest.raises(ValueError, match="no grid 'bok' of gaussian: one of smoke, book"):
        EXPERIMENT.runs("bok")
    with pytest.raises(ValueError, match="no run 'lstm' in the grid 'book'.*--list"):
        EXPERIMENT.run("book", "lstm")


POWER = {"family": "power", "s": 0.5, "slots": 2, "merge": "content", "attention_window": 2}


def test_a_cut_is_drawn_with_its_exact_conditionals():
    task = GaussianTask("sub-volume", 2, copies=40, offset=21)
    z, mean = task.held_out(0, 4000, "cpu")
    family = task.family
    assert family.about()["offset"] == 21 and task.about()["offset"] == 21
    c = np.einsum("bic,bjc->ij", z, z) / (4000 * 40)
    np.testing.assert_allclose(c, family.covariance(), atol=0.02)
    exact, deviation = family.conditionals(z[:, :, 0].double().numpy())
    np.testing.assert_allclose(mean[:, :, 0], exact, atol=1e-4)
    sure = deviation[:, None]
    assert task.loss(lambda z: (mean, torch.as_tensor(sure)), z, mean).abs() < 1e-6


def test_power_attention_trains_here_too(cache):
    run = GaussianRun(**TINY | POWER | {"steps": 30, "offset": 5})
    tables = run.train(progress=False, device="cpu")
    losses, row = tables["curves"]["loss"], tables["runs"].iloc[0]
    assert losses.iloc[-1] < losses.iloc[0]
    assert row["dim_z"] == history_state_dim(run.model().config, run.length // 2)
    assert row["s"] == 0.5 and row["offset"] == 5 and row["mi"] > 0
    assert "s0.5-c2-content-cut5" in run.name


def test_a_run_is_told_apart_by_all_its_fields_and_the_recorded_are_as_they_were():
    run = GaussianRun(**TINY | POWER)
    others = {"s": 0.6, "slots": 3, "base": 4, "attention_window": 3, "merge": "fixed"}
    others |= {"heads": 2, "head_dim": 8, "offset": 3}
    names = {replace(run, **{key: value}).name for key, value in others.items()}
    assert len(names | {run.name}) == len(others) + 1
    assert not {"s", "merge", "offset"} & GaussianRun("gpt2", length=64).about().keys()
