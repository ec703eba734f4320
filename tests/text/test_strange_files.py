"""Files that no corpus should be: each is refused in a sentence, at once; and very many of them."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import flip

from l2m.text import archives, corpora
from l2m.text.corpora import fingerprint, load_corpus, token_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))


def refused(path, match, error=ValueError):
    for read in (load_corpus, fingerprint):
        with pytest.raises(error, match=match) as caught:
            read(path)
        assert Path(path).name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([["a", "b"], ["c"]], "holds ndarray, not text, in row 0"),
        ([b"one", b"two"], "holds bytes, not text, in row 0"),
        ([1.5, 2.5], "holds float, not text, in row 0"),
        ([1, 2], "holds int, not text, in row 0"),
        ([{"a": 1}], "holds dict, not text, in row 0"),
        (["a", None], "is empty in row 1"),
        ([None], "is empty in row 0"),
        (pa.array([], pa.string()), "is empty"),
    ],
)
def test_a_column_that_is_no_text_is_called_what_it_is(tmp_path, column, said):
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", f"{said}: (a document needs text|make its column 'text')")


def test_two_columns_of_one_name(tmp_path):
    texts = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(texts, ["text", "text"]), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "more than one column 'text'")


def test_titles_that_are_no_text_are_made_so(tmp_path):
    table = {"text": ["a", "b"], "short_book_title": [["x"], ["y"]], "author": [b"\xff", None]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(ValueError, match="Slow is no fast tokenizer.*name a model or folder that"):
        load_corpus(tmp_path / "x.parquet").windows(slow, 1, 1)
    with pytest.raises(ValueError, match="Slow is no fast tokenizer.*name a model or folder that"):
        token_file([tmp_path / "x.parquet"], slow)
    [(one, _), _] = corpora._books("x", load_corpus(tmp_path / "x.parquet").table)
    assert one["title"] == "['x']" and one["author"] == "b'\\xff'"


def test_a_damaged_table_is_named(tmp_path):
    """Also where pandas keeps notes of its own."""
    file = tmp_path / "x.parquet"
    pd.DataFrame({"text": ["one two " * 50, "three"], "author": ["a", "b"]}).to_parquet(file)
    for place in range(0, file.stat().st_size, 23):
        whole = flip(file, place)
        try:
            assert len(load_corpus(file).texts) == 2
        except ValueError as error:
            assert str(file) in str(error)
        file.write_bytes(whole)


@pytest.mark.skipif(os.name == "nt", reason="names of files are bytes on Unix")
def test_names_that_are_not_utf8(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
            file.write("one two")
    except OSError:
        pytest.skip("this disk takes no such names")
    for read in (load_corpus, fingerprint):
        with pytest.raises(ValueError, match=r"The name '.*caf\\udce9.txt' is not UTF-8: rename"):
            read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.txt")
    refused(tmp_path / "x.txt", "neither a file nor a folder: write its text to a .txt file")
    refused(tmp_path, "holds no .txt or .parquet", FileNotFoundError)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_once_and_none_leads_nowhere(tmp_path):
    """A folder that is a link is read, as often as it is there for the first time."""
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/b.txt").write_text("two")
    (tmp_path / "books/more").mkdir(parents=True)
    (tmp_path / "books/a.txt").write_text("one")
    (tmp_path / "books/shelf").symlink_to(tmp_path / "shelf")
    (tmp_path / "shelf/again").symlink_to(tmp_path / "shelf")
    (tmp_path / "books/more/round").symlink_to(tmp_path / "books")
    assert load_corpus(tmp_path / "books").texts == ["one", "two"]
    (tmp_path / "books/c.txt").symlink_to(tmp_path / "gone.txt")
    refused(tmp_path / "books", r"books/c.txt is a link that leads nowhere: mend it")
    (tmp_path / "books/c.txt").unlink()
    (tmp_path / "books/c.txt").symlink_to(tmp_path / "books/c.txt")
    refused(tmp_path / "books", r"books/c.txt is a link that leads nowhere: mend it")


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)

    def scandir(path, real=os.scandir):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=f"{tmp_path}/b cannot be read: Permission denied"):
        load_corpus(tmp_path)


def test_a_huge_file_that_is_no_text_is_not_read(tmp_path):
    with open(tmp_path / "x.txt", "wb") as file:
        file.truncate(1 << 40)
    refused(tmp_path / "x.txt", "is not UTF-8")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.txt").write_text("one")
    monkeypatch.setattr(Path, "read_text", forbidden)
    refused(tmp_path / "x.txt", "cannot be read: Permission denied")


@pytest.mark.parametrize("kind", ["one long text", "one text many times", "a category"])
def test_what_unpacks_to_far_more_is_refused_unread(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(corpora, "UNPACKED", 1 << 20)
    text = pa.array(["one two " * 125] * 20_000)
    if kind == "one long text":
        text = pa.array(["one two " * 2_500_000])
    elif kind == "a category":
        text = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["one two " * 125])
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 50_000
    monkeypatch.setattr(corpora, "_plain", None)
    refused(tmp_path / "x.parquet", "unpacks to more than .* bytes")


def test_text_that_is_said_again_and_again_is_read(tmp_path):
    pd.DataFrame({"text": ["one two " * 500] * 50}).to_parquet(tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="equal documents"):
        assert len(load_corpus(tmp_path / "x.parquet").texts) == 50


def test_many_small_files_are_looked_for_once_and_read_together(tmp_path, monkeypatch):
    for i in range(2000):
        (tmp_path / f"f{i:04d}.txt").write_text(f"one {i}\n\ntwo")
    looked, real = [], os.walk
    monkeypatch.setattr(
        os, "walk", lambda *given, **how: looked.append(given) or real(*given, **how)
    )
    start = time.process_time()
    corpus = load_corpus(tmp_path)
    assert time.process_time() - start < 3  # a table for each took ten times as long
    assert len(looked) == 1 and corpus.titles == [f"f{i:04d}" for i in range(2000)]
    assert corpus.texts[7] == "one 7\n\ntwo"


def test_text_files_and_tables_keep_their_order(tmp_path):
    for name in ("a", "c", "d"):
        (tmp_path / f"{name}.txt").write_text(name)
    for name in ("b", "e"):
        table = {"text": [name, name + name], "short_book_title": ["", ""]}
        pd.DataFrame(table).to_parquet(tmp_path / f"{name}.parquet")
    assert load_corpus(tmp_path).texts == ["a", "b", "bb", "c", "d", "e", "ee"]


@pytest.mark.parametrize("text", [None, 5, [b"x"]])
def test_a_row_without_text_in_a_stream(monkeypatch, text):
    datasets = pytest.importorskip("datasets")
    rows = [{"short_book_title": "a", "text": "one two"}, {"short_book_title": "b", "text": text}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    with pytest.raises(ValueError, match="Document 1 of 'pg19' has no text: .*--documents 1"):
        load_corpus("pg19")
    assert next(archives.hub_documents("wikipedia"))["text"] == "one two"  # fewer can be read
