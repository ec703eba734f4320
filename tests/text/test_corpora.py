"""Corpora: what is read, rebuilt, streamed, tokenised and cut into windows, and what is refused."""

import hashlib
import io
import json
import os
import shutil
import types
import zipfile

import numpy as np
import pandas as pd
import pytest

from l2m import files
from l2m.experiments.books import book_list
from l2m.text import archives, cleaning, corpora, token_files
from l2m.text.corpora import fingerprint, load_corpus

GIVEN = os.environ.get("L2M_CORPORA")  # where the tables are, if they are


class Words:
    """A slow tokenizer of words, as far as corpora use one."""

    bos_token_id = eos_token_id = None

    def __init__(self, size=1000):
        self.size = size

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {"size": self.size}

    def save_pretrained(self, folder):
        (corpora.Path(folder) / "size").write_text(str(self.size))

    def __call__(self, text, **_):
        return Encoded(self.size, text)


class Encoded(dict):
    """What a tokenizer returns for a text, or for a list of them."""

    encodings = None

    def __init__(self, size, text):
        texts = [text] if isinstance(text, str) else text
        self.spans = [[m.span() for m in cleaning.re.finditer(r"\S+", one)] for one in texts]
        ids = [
            [sum(one[a:b].encode()) % size for a, b in spans]
            for one, spans in zip(texts, self.spans, strict=True)
        ]
        self["input_ids"] = ids[0] if isinstance(text, str) else ids

    def token_to_chars(self, row, token):
        return types.SimpleNamespace(end=self.spans[row][token][1])


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2M_CORPORA", raising=False)


@pytest.fixture
def story(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for book in range(4):
        sizes = rng.integers(5, 40, 30 * (book + 1))
        paragraphs = [" ".join(f"w{rng.integers(500)}" for _ in range(n)) for n in sizes]
        (folder / f"book{book}.txt").write_text("\n\n".join(paragraphs))
    return folder


def test_king_james():
    kjv = load_corpus("kjv")
    assert len(kjv.table) == 66 and kjv.titles[0] == "Genesis" and kjv.titles[-1] == "Revelation"
    assert list(kjv.table) == archives.COLUMNS
    assert kjv.texts[0].startswith("In the beginning God created the heavens and the earth. And")
    assert kjv.texts[0].count("\n\n") == 49  # 50 chapters
    assert sum(text.count("\n\n") + 1 for text in kjv.texts) == 1189
    assert not any(cleaning.re.search(r"\d|  |\n\n\n", text) for text in kjv.texts)
    assert kjv.fingerprint == fingerprint("kjv") == archives.fingerprint_texts(kjv.texts)
    assert load_corpus("kjv", limit=2).titles == ["Genesis", "Exodus"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (
            "It was\r\na  dark\r\nnight.\r\n\r\n\r\nIt rained.\r\n",
            "It was a dark night.\n\nIt rained.",
        ),
        (
            "\ufeffOne long line" + " x" * 60 + ".\nTwo.\n",
            "One long line" + " x" * 60 + ".\n\nTwo.",
        ),
        ("a line as long as any\nends short.\n" * 20, None),
        ("", ""),
    ],
)
def test_unwrap(raw, clean):
    if clean is None:  # no blank lines: a short last line ends a paragraph
        clean = "\n\n".join(["a line as long as any ends short."] * 20)
    assert cleaning.unwrap(raw) == clean


def test_text_files(tmp_path, story):
    corpus = load_corpus(story)
    assert corpus.titles == ["book0", "book1", "book2", "book3"]
    assert corpus.fingerprint == fingerprint(story)
    one = load_corpus(story / "book1.txt")
    assert one.texts == corpus.texts[1:2]
    table = pd.DataFrame({"text": ["one\n\ntwo", "three"], "author": ["a", "b"]})
    table.to_parquet(tmp_path / "own.parquet")
    own = load_corpus(tmp_path / "own.parquet")
    assert own.texts == ["one\n\ntwo", "three"] and own.table["author"].tolist() == ["a", "b"]
    assert own.fingerprint != corpus.fingerprint


def test_bad_files(tmp_path):
    def refused(message, error=ValueError, name="x.txt", content=b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=message):
            load_corpus(tmp_path / name)

    refused("x.txt is empty")
    refused("x.txt is empty", content=b" \n\n ")
    refused("x.txt is not UTF-8", content="café".encode("latin-1"))
    refused("x.txt is not UTF-8 .it has null", content=b"one\0two")
    refused("x.txt is not UTF-8 .it has null.*iconv", content="one\n\ntwo".encode("utf-16-le"))
    refused("x.txt is not UTF-8", content="один два".encode("utf-16-be"))
    refused("x.txt is not UTF-8 .it has null or control", content=b"\x01\x02\x03 binary")
    refused("X.TXT is empty", name="X.TXT")
    refused("x.parquet is no parquet file", name="x.parquet", content=b"PAR1")
    pd.DataFrame({"body": ["a"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="no column 'text', only body"):
        load_corpus(tmp_path / "y.parquet")
    pd.DataFrame({"text": ["a", " "]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"y.parquet is empty in row 1"):
        load_corpus(tmp_path / "y.parquet")
    pd.DataFrame({"text": ["a", "b\0c"]}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"y.parquet is not UTF-8 .* in row 1: convert"):
        load_corpus(tmp_path / "y.parquet")
    with pytest.raises(FileNotFoundError, match=r"no corpus, file or folder 'kvj'.*kjv"):
        load_corpus("kvj")
    (tmp_path / "void").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .txt or .parquet"):
        load_corpus(tmp_path / "void")
    with pytest.raises(ValueError, match="at least 1"):
        load_corpus("kjv", limit=0)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n \t"])
@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_line_ends_are_those_of_paragraphs_whatever_they_were(tmp_path, story, end, kind):
    """Six Bible books with CRLF had 6 paragraphs for 211."""
    expected = load_corpus(story)
    (tmp_path / "other").mkdir()
    table = expected.table.assign(text=[text.replace("\n", end) for text in expected.texts])
    if kind == "parquet":
        table.to_parquet(tmp_path / "other" / "books.parquet")
    else:
        for title, text in zip(table["short_book_title"], table["text"], strict=True):
            (tmp_path / "other" / f"{title}.txt").write_bytes(text.encode())
    other = load_corpus(tmp_path / "other")
    plain = [text.replace("\n \t\n", "\n\n") for text in other.texts]
    assert [token_files.paragraph_starts(text).size for text in other.texts] == [30, 60, 90, 120]
    if end != "\n \t":
        assert plain == expected.texts and other.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/book1-checkpoint.txt",
        "__MACOSX/._book1.txt",
        ".git/x.txt",
        "._book1.txt",
        "~$book1.txt",
        "part/README.txt",
        "LICENSE.txt",
    ],
)
def test_what_no_person_calls_a_document_is_none(story, name):
    before = fingerprint(story)
    (story / name).parent.mkdir(exist_ok=True)
    shutil.copy(story / "book1.txt", story / name)
    assert load_corpus(story).titles == ["book0", "book1", "book2", "book3"]
    assert fingerprint(story) == before


def test_equal_documents_are_reported(story):
    shutil.copy(story / "book1.txt", story / "copy.txt")
    text = (story / "book2.txt").read_text()
    (story / "dos.txt").write_bytes(text.replace("\n", "\r\n").encode())
    with pytest.warns(UserWarning, match="equal documents .*'book1' and 'copy'.*partner") as told:
        assert len(load_corpus(story).table) == 6
    assert "'book2' and 'dos'" in str(told[0].message)


def test_archived_table(tmp_path, monkeypatch):
    monkeypatch.setenv("L2M_CORPORA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="L2M_CORPORA=.* has no english_novels_100.parquet"):
        load_corpus("english-novels-100")
    table = pd.DataFrame([["T", "A", 1900, "eng", "u", "text"]], columns=archives.COLUMNS)
    table.to_parquet(tmp_path / "english_novels_100.parquet")
    with pytest.raises(ValueError, match="its sha256 differs"):
        load_corpus("english-novels-100")
    pinned = archives.Archive(
        "a/b", "c", archives.sha256(tmp_path / "english_novels_100.parquet"), "t"
    )
    monkeypatch.setitem(archives.ARCHIVES, "english-novels-100", pinned)
    assert load_corpus("english-novels-100").texts == ["text"]
    assert fingerprint("english-novels-100", limit=3) == "t[:3]"


def test_a_table_without_an_archive(tmp_path, monkeypatch):
    absent = (
        r"'english-books' is read from english_books.parquet in the folder .*L2M_CORPORA.*'pg19'"
    )
    with pytest.raises(FileNotFoundError, match=absent):
        load_corpus("english-books")
    monkeypatch.setenv("L2M_CORPORA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no english_books.parquet.*'pg19'"):
        load_corpus("english-books")
    authors = ["Bonner, Richard", "Goldfrap, John Henry (1879-1917)", "Poe"]
    urls = ["h/pg271.txt", "h/4051_lady_bridget.txt", "h/Poe___The%20Raven%201.txt"]
    table = pd.DataFrame({"short_book_title": ["a", "b", "c"], "author": authors, "url": urls})
    table = archives.complete(table.assign(text=["one", "zwölf", "three\n\nfour"]))
    table.to_parquet(tmp_path / "english_books.parquet")
    with pytest.raises(ValueError, match="its sha256 differs.*'pg19'"):
        load_corpus("english-books")
    digest = archives.sha256(tmp_path / "english_books.parquet")
    monkeypatch.setitem(
        archives.ARCHIVES, "english-books", archives.Archive(None, None, digest, "t")
    )
    corpus = load_corpus("english-books")
    assert corpus.table["author"].tolist() == [authors[1], authors[1], "Poe"]
    listed = archives.book_list(corpus.table)
    assert listed["gutenberg"].fillna(0).tolist() == [271, 4051, 0]
    assert listed["characters"].tolist() == [3, 5, 11]
    assert listed["sha256"][1] == hashlib.sha256("zwölf".encode()).hexdigest()
    assert "text" not in listed


def test_the_list_of_english_books_is_that_of_their_table(monkeypatch):
    listed = book_list("english-books")  # recorded: it needs no table
    assert len(listed) == listed["sha256"].nunique() == 991 and "text" not in listed
    assert listed["characters"].sum() == 424_608_285 and listed["author"].nunique() == 397
    if folder := GIVEN:
        monkeypatch.setenv("L2M_CORPORA", folder)
        corpus = load_corpus("english-books")
        assert archives.fingerprint_texts(corpus.texts) == corpus.fingerprint
        pd.testing.assert_frame_equal(archives.book_list(corpus.table), listed)


TEI_BOOK = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc>
<titleStmt><title>Le Livre : édition ELTeC</title><author>Auteur, Une</author></titleStmt>
<sourceDesc><bibl><date>1887</date></bibl></sourceDesc></fileDesc></teiHeader>
<text><front><p>no</p></front><body><head>I</head><p>Un <hi>deux</hi>
 trois.</p><l>Vers</l><p> </p></body></text></TEI>"""


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_novels_are_rebuilt_from_their_archive(monkeypatch):
    files = {
        "top/corpus/Woolf_Years_1937.txt": "It was\nan uncertain\nspring.\n\nThe weather\n",
        "top/corpus/Anon_Clara_1864.txt": "Caf\xe9 au\nlait.\n\nEnd.".encode("latin-1"),
        "top/README.md": "no novel",
    }
    monkeypatch.setattr(archives, "_download", lambda name: zipped(files))
    texts = ["Café au lait.\n\nEnd.", "It was an uncertain spring.\n\nThe weather"]
    with pytest.raises(ValueError, match="other texts than the corpus.*as a corpus of its own"):
        load_corpus("english-novels-100")
    pinned = archives.Archive("a/b", "143e601", "-", archives.fingerprint_texts(texts))
    monkeypatch.setitem(archives.ARCHIVES, "english-novels-100", pinned)
    for _ in range(2):  # rebuilt, then from the cache
        novels = load_corpus("english-novels-100")
        assert novels.texts == texts
        assert novels.fingerprint == pinned.texts
        monkeypatch.setattr(archives, "_download", None)
    assert novels.table.iloc[0, :4].tolist() == ["Clara", "Anon", 1864, "eng"]
    assert novels.table["url"][0].endswith("/blob/143e601/corpus/Anon_Clara_1864.txt")


def test_eltec_is_rebuilt_and_says_when_it_has_moved(monkeypatch):
    listed = json.loads((corpora.Path(archives.__file__).parent / "eltec.json").read_text())
    assert [len(listed[f"eltec-{code}"]) for code in ("eng", "deu", "fra")] == [88, 98, 100]
    found = {f"ELTeC-fra-main/level1/{stem}.xml": TEI_BOOK for stem in listed["eltec-fra"]}
    found["ELTeC-fra-main/level1/FRA99999_New.xml"] = TEI_BOOK
    monkeypatch.setattr(archives, "_download", lambda name: zipped(found))
    with pytest.raises(ValueError, match="other texts than the corpus of the recorded results"):
        load_corpus("eltec-fra")
    texts = ["I\n\nUn deux trois.\n\nVers"] * 100
    pinned = archives.Archive("a/b", "HEAD", "-", archives.fingerprint_texts(texts))
    monkeypatch.setitem(archives.ARCHIVES, "eltec-fra", pinned)
    french = load_corpus("eltec-fra")
    assert french.texts == texts and french.fingerprint == pinned.texts
    assert french.table.iloc[0, :4].tolist() == ["Le Livre", "Auteur, Une", 1887, "fra"]
    del found["ELTeC-fra-main/level1/FRA00101_Adam.xml"]
    [kept] = (files.cache_dir() / "corpora").glob("eltec_fra-*.parquet")
    kept.write_bytes(kept.read_bytes()[:-1])  # what is damaged is made again
    with pytest.raises(ValueError, match="no longer has FRA00101_Adam"):
        load_corpus("eltec-fra")


def test_a_damaged_archive_is_named(monkeypatch):
    monkeypatch.setattr(archives, "_download", lambda name: zipped({"x": "y"})[:-9])
    with pytest.raises(files.DamagedFile, match="gave is damaged .*: remove .*downloads"):
        load_corpus("eltec-fra")


def test_no_network(monkeypatch):
    import pooch

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    with pytest.raises(ConnectionError, match="L2M_CORPORA.*no route.*Without a network.*'kjv'"):
        load_corpus("eltec-deu")
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ConnectionError, match="'pg19'.*emozilla/pg19.*Without a network.*'kjv'"):
        load_corpus("pg19", limit=1)


def test_hub_corpora_stream_with_a_pinned_revision(tmp_path, monkeypatch):
    import datasets

    for name, columns in {
        "pg19": ["short_book_title", "publication_date", "url", "text"],
        "wikipedia": ["id", "url", "title", "text"],
    }.items():
        rows = [[f"{c} {i}" for c in columns[:-1]] + [f"one\ntwo {i}\n\nend"] for i in range(5)]
        table = pd.DataFrame(rows, columns=columns)
        if name == "pg19":
            table["publication_date"] = 1900
        table.to_parquet(tmp_path / f"{name}.parquet")
    asked, real = [], datasets.load_dataset

    def local(path, name=None, *, split, streaming, revision):
        asked.append((path, name, revision))
        assert streaming and len(revision) == 40
        file = tmp_path / f"{path.split('/')[1]}.parquet"
        cache = str(tmp_path / "hub")
        return real("parquet", data_files=str(file), split=split, streaming=True, cache_dir=cache)

    monkeypatch.setattr(datasets, "load_dataset", local)
    books, articles = load_corpus("pg19", limit=3), load_corpus("wikipedia", limit=2)
    assert [path for path, *_ in asked] == ["emozilla/pg19", "wikimedia/wikipedia"]
    assert asked[1][1] == "20231101.en"
    assert books.texts == [f"one two {i}\n\nend" for i in range(3)]  # hard wraps undone
    assert books.titles[2] == "short_book_title 2"
    assert articles.texts[1] == "one\ntwo 1\n\nend" and articles.titles[1] == "title 1"
    assert books.fingerprint == fingerprint("pg19", limit=3) != fingerprint("pg19")
    assert len(load_corpus("pg19").table) == 5


@pytest.mark.parametrize(("size", "dtype"), [(1000, np.uint16), (2**17, np.uint32)])
def test_tokens_are_cached(story, size, dtype, monkeypatch):
    corpus, words = load_corpus(story), Words(size)
    tokens = corpus.tokens(words)
    assert [len(ids) for ids in tokens] == [len(text.split()) for text in corpus.texts]
    for ids, text in zip(tokens, corpus.texts, strict=True):
        assert ids.dtype == dtype and ids.tolist() == words(text)["input_ids"]
    monkeypatch.setattr(token_files, "_make", None)  # so it is not tokenised again
    for again, before in zip(corpus.tokens(words), tokens, strict=True):
        np.testing.assert_array_equal(again, before)


def test_damaged_tokens_are_refused_and_made_anew_when_removed(story):
    corpus, words = load_corpus(story), Words()
    expected = np.concatenate(corpus.tokens(words))
    (file,) = (files.cache_dir() / "tokens").glob("*/tokens.bin")
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(RuntimeError, match="tokens.bin is damaged.*remove"):
        corpus.tokens(words)
    shutil.rmtree(file.parent)
    np.testing.assert_array_equal(np.concatenate(corpus.tokens(words)), expected)


def test_other_titles_make_other_tokens(story):
    """The texts are the same, but not whose they are: held-out books are drawn by titles."""
    corpus = load_corpus(story)
    table = corpus.table.assign(author=["a", "b", "c", "d"])
    folders = set()
    for other in (corpus, corpora.Corpus("x", table, corpus.fingerprint)):
        other.tokens(Words())
        folders = set((files.cache_dir() / "tokens").glob("*/tokens.bin"))
    assert len(folders) == 2


def test_windows(story):
    corpus, words = load_corpus(story), Words()
    windows = corpus.windows(words, length=50, n=20, seed=1)
    assert windows.tokens.shape == (20, 50) and windows.tokens.dtype == np.int64
    assert np.bincount(windows.groups).tolist() == [5, 5, 5, 5]
    spans = set()
    for tokens, book, start in zip(windows.tokens, windows.groups, windows.starts, strict=True):
        text = corpus.texts[book]
        assert start == 0 or text[start - 2 : start] == "\n\n"
        assert tokens.tolist() == words(text[start:])["input_ids"][:50]
        first = len(text[:start].split())
        span = {(book, word) for word in range(first, first + 50)}
        assert not span & spans
        spans |= span
    fewer = corpus.windows(words, length=50, n=7, seed=1)
    np.testing.assert_array_equal(fewer.tokens, windows.tokens[:7])
    other = corpus.windows(words, length=50, n=7, seed=2)
    assert not np.array_equal(other.starts, fewer.starts)


def test_each_window_of_a_single_document_counts_as_a_book(story):
    corpus = load_corpus(story / "book3.txt")
    with pytest.warns(UserWarning, match="one document"):
        windows = corpus.windows(Words(), length=50, n=3)
    assert windows.groups.tolist() == [0, 1, 2]


def test_more_windows_than_there_are(story):
    corpus, words = load_corpus(story), Words()
    holds = None
    with pytest.raises(ValueError, match=r"holds (\d+) windows of 400 tokens") as caught:
        corpus.windows(words, 400, 1000)
    holds = int(cleaning.re.search(r"holds (\d+)", str(caught.value))[1])
    windows = corpus.windows(words, 400, holds)  # long books give what short ones cannot
    assert len(windows.tokens) == holds > np.ptp(windows.groups)
    with pytest.raises(ValueError, match="holds 0 windows"):
        corpus.windows(words, 10**6, 1)
