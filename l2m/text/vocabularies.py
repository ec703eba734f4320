"""Byte pairs of a corpus: a tokenizer by the name `bpe:<corpus>:<size>`, learnt on the first call.

It learns from half of the first thousand books: those that `split` by author, seed 0, would hold
out last. So whatever books of the other half are held out, their authors had no part in it. Where
no two authors are known, it is books that are split. That a token is bytes, and that all 256 bytes
are tokens, lets it read any text, and losses be given per byte.
"""

import re
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from l2m.files import cache_dir, digest, made, opened, seal
from l2m.text.corpora import identity, load_corpus
from l2m.text.token_files import split

PREFIX = "bpe:"
SCHEMA = "byte pairs 1"  # it and what is in a name identify the tokenizer
MOST = 1_000  # books
SEPARATOR = "<|endoftext|>"  # token 0, between documents


def parsed(name: str) -> tuple[str, int]:
    """The corpus and the size in a name such as `bpe:english-books:8192`, or ValueError."""
    corpus, _, size = name.removeprefix(PREFIX).rpartition(":")
    if not corpus or not re.fullmatch("[0-9]{3,5}", size) or not 257 <= int(size) <= 2**16:
        wanted = "'bpe:<corpus>:<size>' with a size from 257 to 65536"
        raise ValueError(f"{name!r} names no vocabulary: write {wanted}, say bpe:kjv:4096")
    return corpus, int(size)


def fingerprint(name: str) -> str:
    """What identifies a vocabulary, for corpora known by name without reading them."""
    corpus, size = parsed(name)
    return digest(SCHEMA, identity(corpus), size)


def byte_pairs(name: str) -> Path:
    """The folder of a vocabulary in the cache, as `AutoTokenizer` reads it; learnt if missing.

    Errors as of `load_corpus`; ValueError also if the half of the books has no so many pairs.
    """
    folder = cache_dir() / "tokenizers" / fingerprint(name)[:16]
    made(folder, lambda new: _learn(new, *parsed(name)))
    opened(folder, SCHEMA, f"remove {folder}, and it is made again")
    return folder


def token_bytes(tokenizer) -> np.ndarray:
    """How many bytes of text each token is, none of special ones: (M,) of a byte-level tokenizer.

    ValueError for another one, whose tokens are not bytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if "ByteLevel" not in str(getattr(backend, "pre_tokenizer", "")):
        raise ValueError(f"{type(tokenizer).__name__} is not byte-level: its tokens are no bytes")
    sizes = np.zeros(len(tokenizer), np.int64)
    for token, i in tokenizer.get_vocab().items():
        sizes[i] = 0 if i in tokenizer.all_special_ids else len(token)  # a character is a byte
    return sizes


def _learn(folder: Path, corpus: str, size: int) -> None:
    """Learn into a folder, and seal it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    table = load_corpus(corpus, MOST).table
    books = table.rename(columns={"short_book_title": "title"}).astype({"author": str})
    learnt_from, _ = split(books, len(books) // 2, by_author=books["author"].nunique() > 1)
    texts = tqdm(table["text"].iloc[learnt_from], f"reading for {size:,} tokens", unit="book")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"special_tokens": [SEPARATOR], "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **options))
    if (found := backend.get_vocab_size()) < size:
        problem = f"{corpus} has byte pairs for {found:,} tokens, not {size:,}"
        raise ValueError(f"{problem}: ask for them")
    special = {"bos_token": SEPARATOR, "eos_token": SEPARATOR}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    tokenizer.save_pretrained(folder)
    about = {"corpus": corpus, "identity": identity(corpus), "books": books["title"][learnt_from]}
    seal(folder, SCHEMA, about, [file.name for file in folder.iterdir()])
