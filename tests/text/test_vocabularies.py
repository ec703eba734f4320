"""Byte pairs of a corpus: what they learn from, that they read any text, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import flip, words

from l2m.experiments.books import Books
from l2m.files import DamagedFile
from l2m.language_models import models
from l2m.text import vocabularies
from l2m.text.corpora import load_corpus, token_file
from l2m.text.token_files import split

STRANGE = "Ünïcode — “naïve” 中文 🙂\r\n\n\n \t\x7f<|x|> e\u0301"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shelf(tmp_path):
    """Twelve books of six authors, each of whom has a word of his own, often."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        common = [f"word{w}" for w in rng.integers(60, size=4000)]
        text = " ".join(
            w + (f" {'ABCDEF'[i % 6] * 5}" if j % 3 else "\n\n") for j, w in enumerate(common)
        )
        rows.append(
            {"short_book_title": f"book {i}", "author": f"author {'ABCDEF'[i % 6]}", "text": text}
        )
    pd.DataFrame(rows).to_parquet(tmp_path / "shelf.parquet")
    return tmp_path / "shelf.parquet"


def test_any_text_is_read_and_its_bytes_are_counted(shelf):
    tokenizer = models.load_tokenizer(f"bpe:{shelf}:300")
    assert len(tokenizer) == 300 and tokenizer.bos_token_id == 0
    sizes = vocabularies.token_bytes(tokenizer)
    assert sizes[0] == 0 and (sizes[1:257] == 1).all() and sizes[257:].min() > 1
    for text in (STRANGE, "word1 word2\n\nword3"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text and sizes[ids].sum() == len(text.encode())
        assert 0 not in ids


def test_no_author_who_may_be_held_out_has_a_part_in_it(shelf):
    vocabulary = models.load_tokenizer(f"bpe:{shelf}:290").get_vocab()
    table = pd.read_parquet(shelf).rename(columns={"short_book_title": "title"})
    train, held_out = split(table, 6, by_author=True)
    seen = {
        author: any(2 * author[-1] in token for token in vocabulary) for author in table["author"]
    }
    assert {seen[a] for a in table["author"][train]} == {True}
    assert {seen[a] for a in table["author"][held_out]} == {False}
    for fewer in range(1, 6):  # whatever part of that is held out
        assert set(split(table, fewer, by_author=True)[1]) <= set(held_out)


def test_of_one_author_it_is_books_that_are_split():
    folder = vocabularies.byte_pairs("bpe:kjv:400")
    table = load_corpus("kjv").table.rename(columns={"short_book_title": "title"})
    train, _ = split(table, 33)
    assert json.loads((folder / "manifest.json").read_text())["books"] == list(
        table["title"][train]
    )


def test_it_is_learnt_once_and_the_same_again(shelf, tmp_path, monkeypatch):
    name = f"bpe:{shelf}:300"
    folder = vocabularies.byte_pairs(name)
    first = (folder / "tokenizer.json").read_bytes()
    about = json.loads((folder / "manifest.json").read_text())
    assert len(about["books"]) == 6
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "other"))
    partial = (tmp_path / "other" / "tokenizers" / folder.name).with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "tokenizer.json").write_text("of a run that was killed")
    assert (vocabularies.byte_pairs(name) / "tokenizer.json").read_bytes() == first
    monkeypatch.setattr(vocabularies, "_learn", None)
    again = vocabularies.byte_pairs(name)
    flip(again / "tokenizer.json", 99)
    with pytest.raises(DamagedFile, match="tokenizer.json is damaged.*remove .*made again"):
        models.load_tokenizer(name)


def test_it_goes_by_the_corpus_and_its_size(shelf):
    marks = {models.fingerprint(f"bpe:{shelf}:{size}") for size in (300, 400)}
    marks |= {models.fingerprint(f"bpe:{name}:300") for name in ("kjv", "english-books")}
    assert len(marks) == 4  # the last one without its table
    flip(shelf, 2000)
    assert models.fingerprint(f"bpe:{shelf}:300") not in marks


@pytest.mark.parametrize(
    "name", ["bpe:", "bpe:kjv", "bpe:kjv:", "bpe::300", "bpe:kjv:256", "bpe:kjv:1e3"]
)
def test_names_that_say_too_little(name):
    with pytest.raises(ValueError, match="names no vocabulary: write 'bpe:<corpus>:<size>'"):
        models.load_tokenizer(name)


def test_corpora_that_cannot_teach(shelf):
    with pytest.raises(ValueError, match=r"byte pairs for [\d,]+ tokens, not 60,000"):
        models.load_tokenizer(f"bpe:{shelf}:60000")
    table = pd.read_parquet(shelf)
    table.head(1).to_parquet(shelf)
    with pytest.raises(ValueError, match="0 books cannot be held out of 1"):
        models.load_tokenizer(f"bpe:{shelf}:300")
    with pytest.raises(FileNotFoundError, match="no corpus, file or folder 'kjw'"):
        models.load_tokenizer("bpe:kjw:300")


def test_tokens_that_are_no_bytes(tmp_path):
    with pytest.raises(ValueError, match="is not byte-level"):
        vocabularies.token_bytes(models.load_tokenizer(words(tmp_path / "words")))


def test_books_of_an_author_are_on_one_side(shelf):
    table = pd.read_parquet(shelf)
    table.loc[[0, 1], "author"] = ["Anonymous", "Various"]
    table.to_parquet(shelf)
    books = Books((str(shelf),), f"bpe:{shelf}:300", held_out=3, by_author=True)
    file = books.file()
    train, held_out = books.sides(file)
    authors = file.books["author"]
    assert not set(authors[train]) & set(authors[held_out])
    assert len(held_out) >= 3 and len(train) + len(held_out) == 10  # neither of the unknown ones
    assert not {"Anonymous", "Various"} & set(authors[[*train, *held_out]])
    [checked] = file.folder.glob("apart-*.json")
    assert isinstance(json.loads(checked.read_text()), list)
    text = pd.read_parquet(shelf)["text"]
    sizes = vocabularies.token_bytes(models.load_tokenizer(books.tokenizer))
    per_book = [sizes[ids].sum() for ids in file.documents()]
    assert per_book == [len(one.encode()) for one in text]
    again = token_file([shelf], models.load_tokenizer(books.tokenizer))
    assert again.folder == file.folder
    for n in (10, 11):
        with pytest.raises(ValueError, match="cannot be held out of 10 with all of their authors"):
            file.held_out(n, by_author=True)


def test_runs_that_are_not_split_by_author_keep_their_name():
    assert "by_author" not in Books().about() and Books(by_author=True).about()["by_author"]
