"""Token files: what is in them, how books are split, and what is refused."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers import flip, library, words

from l2m.files import DamagedFile, digest
from l2m.language_models.models import load_tokenizer
from l2m.text import token_files
from l2m.text.corpora import token_file
from l2m.text.shared_passages import overlaps, require_apart
from l2m.text.token_files import TokenFile


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(words(tmp_path / "tokenizer"))


def test_ids_books_and_paragraphs(tmp_path, tokenizer):
    texts = library(tmp_path / "books")
    file = token_file([tmp_path / "books"], tokenizer)
    assert file.tokens.dtype == np.uint16 and file.bos_token_id == 0
    assert file.vocab_size == 1024  # 900, rounded up to a multiple of 128
    assert file.books["title"].tolist() == [f"book {i}" for i in range(6)]
    for book, text in enumerate(texts):
        start, end = file.books.loc[book, ["start", "end"]]
        ids = [int(word[1:]) + 2 for word in text.split()]
        assert file.tokens[start:end].tolist() == ids
        begins = [start]
        for paragraph in text.split("\n\n")[:-1]:
            begins.append(begins[-1] + len(paragraph.split()))
        assert file.paragraphs_of(book).tolist() == begins
    assert len(file.tokens) == sum(len(text.split()) for text in texts)


def test_paragraphs_of_real_text_start_where_their_first_token_does(monkeypatch):
    monkeypatch.delenv("L2M_CACHE")  # the embedded tokenizer need not be unpacked again
    from l2m.text.corpora import load_corpus

    tokenizer = load_tokenizer()
    file = token_file(["kjv"], tokenizer, limit=3)
    for book, text in enumerate(load_corpus("kjv", 3).texts):
        chapters = text.split("\n\n")
        starts = file.paragraphs_of(book)
        assert len(starts) == len(chapters)
        for start, chapter in zip(starts[::10], chapters[::10], strict=True):
            ids = tokenizer(chapter[:200], add_special_tokens=False)["input_ids"][:20]
            assert file.tokens[start : start + 20].tolist() == ids


def test_large_vocabularies_take_four_bytes(tmp_path):
    library(tmp_path / "books", books=2, paragraphs=3)
    file = token_file([tmp_path / "books"], load_tokenizer(words(tmp_path / "many", 70_000)))
    assert file.tokens.dtype == np.uint32
    again = TokenFile(file.folder)
    np.testing.assert_array_equal(again.tokens, file.tokens)


def test_it_is_made_once_and_a_limit_makes_another(tmp_path, tokenizer, monkeypatch):
    library(tmp_path / "books")
    file = token_file([tmp_path / "books"], tokenizer)
    few = token_file([tmp_path / "books"], tokenizer, limit=2)
    assert len(few.books) == 2 and few.folder != file.folder
    monkeypatch.setattr(token_files, "_make", None)
    assert token_file([tmp_path / "books"], tokenizer).folder == file.folder


@pytest.mark.parametrize("cut", [False, True])
def test_a_stopped_run_goes_on_with_the_next_book(tmp_path, tokenizer, monkeypatch, cut):
    library(tmp_path / "books")
    whole = token_file([tmp_path / "books"], tokenizer)
    expected = {name: (whole.folder / name).read_bytes() for name in whole.manifest["sha256"]}
    whole.folder.rename(tmp_path / "aside")
    real, read = token_files._encoded, []

    def stopping(documents, tokenizer):
        for item in real(documents, tokenizer):
            if len(read) == 4:
                raise KeyboardInterrupt
            read.append(item)
            yield item

    monkeypatch.setattr(token_files, "_encoded", stopping)
    with pytest.raises(KeyboardInterrupt):
        token_file([tmp_path / "books"], tokenizer)
    assert not whole.folder.exists()
    partial = whole.folder.with_suffix(".partial")
    if cut:  # in the middle of a line, with ids of a book that is not finished
        journal = (partial / "books.jsonl").read_text()
        (partial / "books.jsonl").write_text(journal[:-9])
        with open(partial / "tokens.bin", "ab") as stream:
            stream.write(b"12345")

    def counted(documents, tokenizer):
        documents = list(documents)
        assert len(documents) == 6 - 4 + cut
        yield from real(iter(documents), tokenizer)

    monkeypatch.setattr(token_files, "_encoded", counted)
    file = token_file([tmp_path / "books"], tokenizer)
    assert {name: (file.folder / name).read_bytes() for name in expected} == expected
    assert file.manifest == whole.manifest


@pytest.mark.parametrize("name", ["tokens.bin", "paragraphs.bin", "manifest.json"])
def test_a_damaged_file_is_named(tmp_path, tokenizer, name):
    library(tmp_path / "books")
    folder = token_file([tmp_path / "books"], tokenizer).folder
    size = (folder / name).stat().st_size
    for place in range(0, size, size // 40):
        whole = flip(folder / name, place)
        with pytest.raises(DamagedFile, match=f"{re.escape(name)} is .*remove .*made again"):
            token_file([tmp_path / "books"], tokenizer)
        (folder / name).write_bytes(whole)
    token_file([tmp_path / "books"], tokenizer)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="no token file"):
        TokenFile(folder)


@pytest.mark.parametrize("name", ["books.jsonl", "tokens.bin", "paragraphs.bin"])
def test_what_a_stopped_run_left_is_checked_before_it_goes_on(tmp_path, tokenizer, name):
    library(tmp_path / "books")
    whole = token_file([tmp_path / "books"], tokenizer)
    partial = whole.folder.with_suffix(".partial")
    expected = {file: (whole.folder / file).read_bytes() for file in whole.manifest["sha256"]}
    lines = [json.dumps([book, digest(book)]) + "\n" for book in whole.manifest["books"]]
    whole.folder.rename(partial)
    (partial / "manifest.json").unlink()
    (partial / "books.jsonl").write_text("".join(lines[:5]))
    flip(partial / name, (partial / name).stat().st_size // 3)
    again = token_file([tmp_path / "books"], tokenizer)
    assert again.manifest == whole.manifest
    assert {file: (again.folder / file).read_bytes() for file in expected} == expected


def test_titles_and_authors_are_part_of_what_is_read(tmp_path, tokenizer):
    library(tmp_path / "books", books=12)
    before = token_file([tmp_path / "books"], tokenizer)
    for file in (tmp_path / "books").iterdir():
        table = pd.read_parquet(file)
        table["short_book_title"] = "new " + table["short_book_title"]
        table.to_parquet(file)
    after = token_file([tmp_path / "books"], tokenizer)
    assert after.books["title"].str.startswith("new book").all()
    assert after.sha256 == before.sha256 and after.identity != before.identity
    assert after.folder != before.folder


def test_a_changed_tokenizer_makes_another_file(tmp_path):
    """The same vocabulary, but other merges: other tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    library(tmp_path / "books", books=2)
    vocabulary = {"<|endoftext|>": 0, "?": 1} | {c: i + 2 for i, c in enumerate("w0123456789 \n")}
    vocabulary |= {"w1": 20, "w2": 21}
    files = []
    for merges in ([("w", "1"), ("w", "2")], [("w", "1")]):
        backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="?"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
        files.append(token_file([tmp_path / "books"], tokenizer))
    assert len(files[1].tokens) > len(files[0].tokens)


def test_equal_documents_are_reported(tmp_path, tokenizer):
    texts = library(tmp_path / "books")
    (tmp_path / "books" / "copy.txt").write_text(texts[3])
    with pytest.warns(
        UserWarning, match="equal documents .'copy' and 'book 3'|'book 3' and 'copy'"
    ):
        token_file([tmp_path / "books"], tokenizer)


def test_what_cannot_be_read_is_said(tmp_path, tokenizer):
    (tmp_path / "void").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .txt or .parquet"):
        token_file([tmp_path / "void"], tokenizer)
    with pytest.raises(FileNotFoundError, match="no corpus, file or folder"):
        token_file([tmp_path / "nothing"], tokenizer)


def test_hub_corpora_are_streamed(tmp_path, tokenizer, monkeypatch):
    datasets = pytest.importorskip("datasets")
    titles = [f"book {i}" for i in range(20)]
    table = pd.DataFrame({"short_book_title": titles, "publication_date": 1900, "url": ""})
    table["text"] = [f"w1 w2\nw{i}\n\nw4 w5" for i in range(20)]
    table.to_parquet(tmp_path / "pg19.parquet")
    real, taken = datasets.load_dataset, []

    def local(path, *, split, streaming, revision):
        assert path == "emozilla/pg19" and streaming and len(revision) == 40
        rows = real(
            "parquet",
            data_files=str(tmp_path / "pg19.parquet"),
            split=split,
            streaming=True,
            cache_dir=str(tmp_path / "hub"),
        )
        return (taken.append(row) or row for row in rows)

    monkeypatch.setattr(datasets, "load_dataset", local)
    file = token_file(["pg19"], tokenizer, limit=3)
    assert file.books["title"].tolist() == titles[:3]
    assert file.tokens[:5].tolist() == [3, 4, 2, 6, 7]
    assert file.paragraphs_of(1).tolist() == [5, 8]
    assert len(taken) == 3  # no more than asked for


def test_the_split_is_by_book_and_keeps_its_place_in_a_larger_library(tmp_path, tokenizer):
    library(tmp_path / "books", books=12)
    file = token_file([tmp_path / "books"], tokenizer)
    train, held = file.held_out(4, seed=1)
    assert len(train) == 8 and len(held) == 4 and not set(train) & set(held)
    assert set(file.held_out(4, seed=2)[1]) != set(held)
    np.testing.assert_array_equal(file.held_out(4, seed=1)[1], held)
    assert set(held) <= set(file.held_out(6, seed=1)[1])
    fewer = file.held_out(4, 1, exclude=[file.books["title"][held[0]]])
    assert held[0] not in np.concatenate(fewer) and set(held[1:]) < set(fewer[1])
    for wrong in (0, 12, 50):
        with pytest.raises(ValueError, match="cannot be held out of 12"):
            file.held_out(wrong)
    with pytest.raises(ValueError, match="no book to exclude is called Emma"):
        file.held_out(2, exclude=["Emma"])


def test_overlap_is_the_share_of_common_runs(tmp_path, tokenizer):
    texts = library(tmp_path / "books", books=6, paragraphs=200)
    lone = texts[1].split()
    texts[4] = texts[4] + "\n\n" + " ".join(lone[500:2000])
    table = {"short_book_title": [f"book {i}" for i in range(6)], "text": texts}
    pd.DataFrame(table).to_parquet(tmp_path / "shared.parquet")
    file = token_file([tmp_path / "shared.parquet"], tokenizer)

    def naive(a, b):
        ids = {}
        for book in (a, b):
            start, end = file.books.loc[book, ["start", "end"]]
            tokens = file.tokens[start:end].tolist()
            ids[book] = {tuple(tokens[i : i + 50]) for i in range(len(tokens) - 49)}
        return len(ids[a] & ids[b]) / len(ids[a])

    found = overlaps(file, [0, 2, 3, 4, 5], [1])
    assert found[["held_out", "training"]].values.tolist() == [["book 1", "book 4"]]
    assert found["share"][0] == pytest.approx(naive(1, 4), rel=0.2)  # one run in eight is looked at
    assert overlaps(file, [0, 2, 3], [1, 5]).empty and naive(1, 5) == 0
    with pytest.raises(ValueError, match=r"'book 1' has \d+% in 'book 4'.*exclude"):
        require_apart(file, [0, 4], [1, 5])
    assert require_apart(file, [0, 2], [1, 4])["share"].sum() == 0


def test_the_manifest_says_what_it_was_made_from(tmp_path, tokenizer):
    library(tmp_path / "books", books=2)
    folder = token_file([tmp_path / "books"], tokenizer).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["corpora"][0][0] == str(tmp_path / "books")
    assert len(manifest["corpora"][0][1]) == len(manifest["tokenizer"]) == 64
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "paragraphs.bin",
        "tokens.bin",
    ]
