"""Sequences of books: where they start, what an epoch holds, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import library, words

from l2m.language_models.models import load_tokenizer
from l2m.text.corpora import token_file
from l2m.text.sequences import Sequences


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    library(tmp_path / "books", books=8, paragraphs=80)
    return token_file([tmp_path / "books"], load_tokenizer(words(tmp_path / "tokenizer")))


def test_sequences_start_at_paragraphs_and_do_not_overlap(file):
    task = Sequences(file, length=64, seed=3, books=[1, 4, 6])
    starts, owner = task.cut(0)
    assert set(owner) == {1, 4, 6} and set(starts) <= set(file.paragraphs)
    for book in (1, 4, 6):
        own = starts[owner == book]
        first, end = file.books.loc[book, ["start", "end"]]
        assert own[0] >= first and own[-1] + 64 <= end and (np.diff(own) >= 64).all()
        assert np.diff(own).max() < 64 + 60  # two paragraphs on; those have 30 words at most
    read = task.read(starts[:2])
    assert read.shape == (2, 64) and read.dtype == np.int64
    assert read[1].tolist() == file.tokens[starts[1] : starts[1] + 64].tolist()


def test_nearly_every_token_comes_once_an_epoch_and_cuts_differ(file):
    task = Sequences(file, length=128)
    seen, starts = np.zeros(len(file.tokens), int), [task.cut(epoch)[0] for epoch in range(40)]
    for some in starts:
        np.add.at(seen, (some[:, None] + np.arange(128)).ravel(), 1)
    assert seen.max() <= 40  # never twice in an epoch
    # paragraphs are an eighth of a sequence here, and books ten sequences; 0.94 with real books
    assert 0.8 < seen.mean() / 40 < 1
    assert (seen > 0).mean() > 0.98  # what one cut leaves out another has
    same = np.mean([np.isin(a, b).mean() for a, b in pairwise(starts)])
    assert same < 0.3  # of ten paragraphs a sequence, nearly any may start one
    other = Sequences(file, 128, seed=1).cut(0)[0]
    assert not np.array_equal(other, starts[0])
    tight, _ = task.cut(None)
    np.testing.assert_array_equal(tight, task.cut(None)[0])
    assert len(tight) >= max(map(len, starts))


def test_an_epoch_shuffles_all_its_sequences(file, monkeypatch):
    task, size = Sequences(file, length=32), 8
    n = len(task.cut(0)[0])
    steps = -(-2 * n // size)
    monkeypatch.setattr(task, "read", list)  # where they start, not their tokens
    numbers = task.numbered(range(steps * size))
    assert sorted(numbers[:n]) == sorted(task.cut(0)[0]) and numbers[:n] != sorted(numbers[:n])
    n2 = len(task.cut(1)[0])
    assert sorted(numbers[n : n + n2]) == sorted(task.cut(1)[0])[: len(numbers) - n]
    assert task.epoch(n - 1) == 0 and task.epoch(n) == 1
    assert task.epochs(n * 32) == pytest.approx(1) and task.epochs(n * 16) == pytest.approx(
        0.5, 0.1
    )


def test_books_that_are_too_short_are_refused(file):
    with pytest.raises(ValueError, match="no book has 100000 tokens"):
        Sequences(file, 100_000)
