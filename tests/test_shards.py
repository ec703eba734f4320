"""Scores on disk: killed, damaged, mixed up, and shared among processes."""

import os
import subprocess
import sys

import helpers
import numpy as np
import pytest
from filelock import FileLock
from helpers import assert_same, flip, tiny

from l2m.files import DamagedFile
from l2m.language_models.scoring import score

WORKER = """
import os, signal, sys
import numpy as np, torch
sys.path.insert(0, {tests!r})
from helpers import tiny
from l2m import files
from l2m.language_models.scoring import score
torch.set_num_threads(1)
after = {after}
if after is not None:
    write, count = files.write_atomic, []
    def dying(path, content, **options):
        if "shard-" in str(path):
            count.append(path)
            if len(count) == after:
                os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content, **options)
    files.write_atomic = dying
windows = np.random.default_rng(0).integers(0, 97, (10, 16))
score(tiny("llama"), windows, folder={folder!r}, batch_size=1, progress=False)
"""


@pytest.fixture
def windows():
    return np.random.default_rng(0).integers(0, 97, (10, 16))


def scored(windows, folder=None, **options):
    options = {"batch_size": 1, "progress": False} | options
    return score(tiny("llama"), windows, folder=folder, **options)


def work(folder, after=None, launcher=()):
    code = WORKER.format(tests=os.path.dirname(helpers.__file__), folder=str(folder), after=after)
    script = folder.parent / "work.py"
    script.write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, str(script)], env=environment, capture_output=True, text=True
    )


def names(folder):
    return sorted(file.name for file in folder.glob("shard-*"))


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bits(windows, tmp_path):
    folder = tmp_path / "killed"
    assert work(folder, after=2).returncode == -9  # before its second shard of three is in place
    assert len(names(folder)) == 1
    before = (folder / names(folder)[0]).stat().st_mtime_ns
    resumed = scored(windows, folder)
    assert (folder / names(folder)[0]).stat().st_mtime_ns == before
    assert len(names(folder)) == 3
    whole = scored(windows)
    np.testing.assert_array_equal(resumed.joint, whole.joint)
    for split in whole.splits:
        np.testing.assert_array_equal(resumed.marginal[split], whole.marginal[split])
        np.testing.assert_array_equal(resumed.shuffled[split], whole.shuffled[split])


@pytest.mark.slow
def test_processes_share_the_work(windows, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = work(tmp_path / "shared", launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(names(tmp_path / "shared")) == 3
    merged = scored(windows, tmp_path / "shared")  # computes nothing more
    assert_same(merged, scored(windows), tolerance=0)


def test_a_finished_folder_asks_nothing_of_the_model(windows, tmp_path, monkeypatch):
    expected = scored(windows, tmp_path)
    monkeypatch.setattr("l2m.language_models.likelihood.hidden_states", None)
    assert_same(scored(windows, tmp_path), expected, tolerance=0)
    with pytest.raises(TypeError):
        scored(windows, check=0)


def test_a_damaged_shard_is_named_and_recomputed_once_removed(windows, tmp_path):
    expected = scored(windows, tmp_path)
    shard = tmp_path / names(tmp_path)[1]
    flip(shard, 100)
    with pytest.raises(RuntimeError, match=f"{shard.name} is damaged.*: remove it"):
        scored(windows, tmp_path)
    shard.unlink()
    assert_same(scored(windows, tmp_path), expected, tolerance=0)
    shard.write_bytes(shard.read_bytes()[:100])  # truncated
    with pytest.raises(RuntimeError, match="damaged"):
        scored(windows, tmp_path)


@pytest.mark.parametrize("change", [{"ratio": 3}, {"bos_token_id": 5}, {"splits": [2, 4]}])
def test_other_parameters_do_not_reuse_shards(windows, tmp_path, change):
    scored(windows, tmp_path)
    with pytest.raises(RuntimeError, match=f"made with another .*{next(iter(change))}"):
        scored(windows, tmp_path, **change)


def test_other_data_or_model_do_not_reuse_shards(windows, tmp_path):
    scored(windows, tmp_path)
    with pytest.raises(RuntimeError, match="made with another windows"):
        scored((windows + 1) % 97, tmp_path)
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj.weight[:, 1::2] = 0
    with pytest.raises(RuntimeError, match="made with another model"):
        score(model, windows, folder=tmp_path, batch_size=1, progress=False)


def test_a_shard_of_another_run_is_refused(windows, tmp_path):
    """Of the same shape, put into the folder by hand."""
    scored(windows, tmp_path / "one")
    scored((windows + 1) % 97, tmp_path / "other")
    name = names(tmp_path / "one")[0]
    (tmp_path / "one" / name).unlink()
    foreign = names(tmp_path / "other")[0]
    (tmp_path / "other" / foreign).rename(tmp_path / "one" / foreign)
    with pytest.raises(RuntimeError, match="is of another run"):
        scored(windows, tmp_path / "one")


def test_a_damaged_manifest_is_named(windows, tmp_path):
    expected = scored(windows, tmp_path)
    file = tmp_path / "manifest.json"
    for place in range(0, file.stat().st_size, 97):
        whole = flip(file, place)
        with pytest.raises(DamagedFile, match="manifest.json is damaged.*: remove it"):
            scored(windows, tmp_path)
        file.write_bytes(whole)
    file.unlink()
    assert_same(scored(windows, tmp_path), expected, tolerance=0)


def test_two_runs_do_not_mix(windows, tmp_path):
    with (
        FileLock(f"{tmp_path}.lock"),
        pytest.raises(RuntimeError, match="another run is using"),
    ):
        scored(windows, tmp_path)
    scored(windows, tmp_path)  # the lock is free again
