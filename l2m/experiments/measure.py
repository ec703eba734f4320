"""Measurements of a corpus under a language model, from end to end: what `l2m measure` does.

Corpus → windows → scores (kept in the cache, so that a killed run goes on) → tables: `measure`, the
terms of both estimators of I_BP, and the loss by position; `past_terms`, what the second half of a
window costs after ever less of the first; `missed_terms`, what a cache of words adds to the model;
`cache_terms`, what the second half costs after the model's own cache, cut to a budget; and
`window_bytes`, how long the tokens are.
"""

import inspect
import re
import time
from functools import cache, partial
from itertools import pairwise
from math import inf

import numpy as np
import pandas as pd

from l2m.experiments.word_cache import missed_table
from l2m.files import cache_dir, digest
from l2m.information.bipartite import bipartite_mi, window_terms
from l2m.information.budgets import kept_nats, kept_shares
from l2m.information.resampling import clustered_stderr
from l2m.language_models import models
from l2m.language_models.models import EMBEDDED
from l2m.language_models.scoring import powers_of_two, score
from l2m.results import recorded
from l2m.text.corpora import fingerprint, load_corpus
from l2m.text.sequences import byte_lengths, require_faithful

NOVELS = "english-novels-100"


def measure(
    name: str,
    corpus: str = NOVELS,
    model: str = EMBEDDED,
    length: int = 2048,
    windows: int = 1000,
    ratio: int = 2,
    largest_split: int = 0,
    partners: int = 1,
    bos: int = -1,
    dtype: str = "bfloat16",
    seed: int = 0,
    documents: int = 0,
    warm: str = "",
    server: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score windows of a corpus, or read what was recorded under `name` for these parameters.

    Returns `l2m.information.bipartite.window_terms` and `position_costs`, the results "<name>" and
    "<name>-positions" (see `l2m.results.recorded`), or raises its MissingResult.

    `corpus` and `model` are as in `load_corpus` and `load_model`. `windows` of `length` = T tokens
    come from as many books as possible. Splits are 2, 4, 8, … up to `largest_split`, 0 for T/2;
    `ratio` is the largest r = L/ℓ: continuations are cut at the window's end. For vCLUB each window
    borrows the continuations of so many `partners`. `bos` is the token id that every sequence
    starts with, -1 for the model's own; `dtype` is of the model's arithmetic, probabilities are
    fp32 always. So many `documents` are read, 0 for all (PG19 has 28,602, 11 GB of text). Y is also
    scored after so many tokens of another book as `warm` says, "4,16,64" (see `score`). If the
    URL of a `server` is given, the model is the one it knows by the name `model`, in its own
    arithmetic (see `ServedModel`), and only the tokenizer is loaded here.
    """
    given, half = locals(), length // 2
    _require("length", length, 4, inf)
    _require("ratio", ratio, 2, half)
    if largest_split:
        _require("largest-split", largest_split, 2, half, ": half the length")
    splits = [split for split in powers_of_two(length) if split <= (largest_split or half)]
    tables = {"": lambda scores, _: window_terms(scores)}
    tables["-positions"] = lambda scores, _: position_costs(scores)
    run = partial(score, splits=splits, ratio=ratio, n_partners=partners, warm=_counts(warm))
    return tuple(_tables("information", measure, given, run, tables))


def past_terms(
    name,
    corpus=NOVELS,
    model=EMBEDDED,
    length=4096,
    windows=200,
    bos=-1,
    dtype="bfloat16",
    seed=0,
    server="",
) -> pd.DataFrame:
    """Cost of the second half of windows after the last c tokens of the first.

    The model sees BOS and the last c tokens of X, for c = 0, 1, 4, 16, … and all of them. What the
    cost of Y loses with c is what the model has made of so much past. Parameters as in `measure`.
    DataFrame `window, book, context, first, tokens, cost`: c, and of Y the tokens from `first` (1,
    2, 4, 8, …) to before the next, their number, and what they cost together (nats).
    """
    given, half = locals(), length // 2
    _require("length", length, 2, inf)
    contexts = [0, *(4**k for k in range(half.bit_length()) if 4**k < half)]
    tables = {"": lambda scores, _: past_table(scores, half)}
    run = partial(score, splits=[half - context for context in contexts], ratio=length)
    return _tables("past", past_terms, given, run, tables)[0]


def past_table(scores, half: int) -> pd.DataFrame:
    """`past_terms`, from scores with a split half − c for every context c."""
    n, length = scores.joint.shape
    costs = {half - split: -scores.marginal[split][:, half - split :] for split in scores.splits}
    costs[half] = -scores.joint[:, half:]
    edges = [*(2**k for k in range((length - half).bit_length())), length - half + 1]
    rows = []
    for context, cost in sorted(costs.items()):
        for first, end in pairwise(edges):
            some = cost[:, first - 1 : end - 1]
            row = {"window": np.arange(n), "book": scores.books, "context": context, "first": first}
            row |= {"tokens": some.shape[1], "cost": some.sum(1, dtype=np.float64)}
            rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


def missed_terms(
    name,
    corpus=NOVELS,
    model=EMBEDDED,
    length=2048,
    windows=1000,
    bos=-1,
    dtype="bfloat16",
    seed=0,
    server="",
) -> pd.DataFrame:
    """Nats that a cache adds to log q(y|x) and to log q(y): `missed_table` of `word_cache`.

    Parameters as in `measure`, whose scores of r = 2 are used if they are kept.
    """
    given = locals() | {"ratio": 2, "largest_split": 0, "partners": 1}
    _require("length", length, 4, inf)
    return _tables("missed", missed_terms, given, score, {"": missed_table})[0]


def cache_terms(
    name,
    corpus=NOVELS,
    model=EMBEDDED,
    length=2048,
    windows=200,
    bos=-1,
    dtype="bfloat16",
    seed=0,
    budgets="1/2,1/4,1/8,1/16,1/32,1/64",
    warm="64",
) -> pd.DataFrame:
    """log q of the ℓ tokens of Y after a cache of X that was cut: see `cut_scores`.

    `budgets` are numbers of entries, or shares of ℓ. Others as in `measure`. DataFrame `window,
    book, split, policy, size, log_q` (nats): the policies of `l2m.language_models.cut_cache` with
    their sizes; "full", the whole cache; "first", only the first token of Y, which no cut concerns;
    and "warm", no X at all, but `size` tokens of another book.
    """
    given = locals()
    _require("length", length, 4, inf)
    number = r"0*[1-9][0-9]{0,8}"
    if not all(re.fullmatch(f"{number}(/{number})?", b) for b in budgets.split(",")):
        said = "numbers of entries, or shares of the past, such as 16,64,1/2"
        raise ValueError(f"--budgets is {said}, not {budgets[:40]!r}.")
    cut = partial(cut_table, budgets=budgets.split(","), warm=_counts(warm))
    return _tables("cache", cache_terms, given, cut, {"": lambda table, _: table})[0]


def cut_table(model, tokens, *, groups, **options) -> pd.DataFrame:
    """`cache_terms`, of windows of tokens (n, T) of the books `groups` (n,); see `cut_scores`."""
    from l2m.language_models.cut_cache import cut_scores  # brings torch

    scores = cut_scores(model, tokens, groups=groups, **options)
    about = {"window": np.arange(len(tokens)), "book": groups}
    rows = []
    for (policy, split, *size), log_q in scores.items():
        cut = {"split": split, "policy": policy, "size": size[0] if size else 0}
        rows.append(pd.DataFrame(about | cut | {"log_q": log_q}))
    table = pd.concat(rows, ignore_index=True)
    return table.astype({"window": "int32", "book": "int32", "split": "int32", "size": "int32"})


def window_bytes(
    name, corpus=NOVELS, model=EMBEDDED, length=2048, windows=1000, seed=0, documents=0
) -> pd.DataFrame:
    """Where the windows of `measure` start, and how long their tokens are, in bytes.

    DataFrame `window, book, start, tokens, bytes`: the character of the book at which a window
    starts, and the UTF-8 bytes of its first 2, 4, 8, …, `length` tokens. Only the tokenizer of the
    `model` is loaded. Books and paragraphs are drawn by `seed` alone, so windows of two tokenizers
    start at the same places, but where one would overlap another, or leave its book.
    """
    given = {key: value for key, value in locals().items() if key not in ("name", "documents")}
    params = given | identity(corpus, model, documents)

    def compute():
        tokenizer = models.load_tokenizer(model)
        texts = load_corpus(corpus, documents or None)
        drawn = texts.windows(tokenizer, length, windows, seed)
        require_faithful(tokenizer, drawn, texts.texts)
        return byte_table(drawn, tokenizer)

    command = command_line("bytes", window_bytes, name, params)
    return recorded(name, params, compute, command=command)


def byte_table(windows, tokenizer) -> pd.DataFrame:
    """`window_bytes`, of `l2m.text.sequences.Windows`."""
    n, length = windows.tokens.shape
    first = [*(2**k for k in range(1, (length - 1).bit_length())), length]
    bytes_ = byte_lengths(tokenizer, windows.tokens, first)
    row = {"window": np.arange(n), "book": windows.groups, "start": windows.starts}
    tables = [
        pd.DataFrame(row | {"tokens": k, "bytes": some})
        for k, some in zip(first, bytes_.T, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def position_costs(scores) -> pd.DataFrame:
    """Mean costs by position, from `Scores`.

    DataFrame `position, nll, stderr, marginal, marginal_stderr, shuffled, shuffled_stderr` (nats;
    errors over books): the cost of the token at a position of the window; and, for the largest
    split, of the continuation's there after BOS alone, and of the partner's after a foreign past.
    """
    length, last = scores.joint.shape[1], scores.splits[-1]
    shuffled = np.reshape(scores.shuffled[last], (-1, *scores.marginal[last].shape)).mean(0)
    costs = {"nll": scores.joint, "marginal": scores.marginal[last], "shuffled": shuffled}
    table = pd.DataFrame({"position": np.arange(1, length + 1)})
    for kind, x in costs.items():
        at, x = slice(0, x.shape[1] - 1), -x.astype(np.float64)  # .loc holds its last row
        table.loc[at, kind] = x.mean(0)
        stderr = "stderr" if kind == "nll" else f"{kind}_stderr"
        table.loc[at, stderr] = clustered_stderr(x, scores.groups)
    return table


def _require(option: str, value: int, least: int, most: float, why="") -> None:
    """ValueError, by the name of the option, for a value that makes no sense."""
    if not least <= value <= most:
        limits = f"at least {least}" if most == inf else f"from {least} to {most}"
        raise ValueError(f"--{option} is {limits}{why}, not {value}.")


def _counts(warm: str) -> list[int]:
    """The numbers of tokens of ``"4,16,64"``, none of ``""``."""
    if warm and not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", warm):
        raise ValueError(f"--warm is numbers of tokens, such as 4,16,64, not {warm[:40]!r}.")
    return [int(c) for c in warm.split(",")] if warm else []


def identity(corpus, model, documents=0) -> dict:
    """What was measured with what, as parameters of a result."""
    texts = {"corpus": corpus, "corpus_sha256": fingerprint(corpus, documents or None)}
    texts |= {"documents": documents} if documents else {}
    return texts | {"model": model, "model_sha256": models.fingerprint(model)}


def _tables(what, function, given, run, tables) -> list[pd.DataFrame]:
    """The results of a measurement, recorded or made now, all from the same scores.

    `given` are the arguments of `function`, which measures `what`; `run` scores windows, and
    `tables` are, by the end of their names, functions of the scores and of the windows' tokens.
    """
    name, documents, server = given.pop("name"), given.pop("documents", 0), given.pop("server", "")
    if not given.get("warm"):  # recorded parameters do not know it
        given.pop("warm", None)
    params = given | identity(given["corpus"], given["model"], documents)
    command, model = command_line(what, function, name, params | {"server": server and "URL"}), None
    if server:
        from l2m.language_models.served import ServedModel  # brings torch

        if params.pop("dtype") != inspect.signature(function).parameters["dtype"].default:
            raise ValueError("a served model computes in its server's dtype: leave --dtype out")
        model = ServedModel(server, given["model"], models.load_tokenizer(given["model"]))
        params["model_sha256"], params["served"] = models.model_sha256(model), model.identity
    scored = cache(lambda: scored_windows(params, run, model))

    def compute(make):
        scores, tokens, attrs = scored()
        table = make(scores, tokens)
        table.attrs = attrs
        return table

    return [
        recorded(name + end, params, partial(compute, make), command=command)
        for end, make in tables.items()
    ]


def scored_windows(params, run, served=None):
    """What `run` makes of windows of a corpus, their tokens, and what the provenance says of it."""
    model = served or models.load_model(params["model"], params["dtype"])
    place = "server" if served else model.device.type
    tokenizer = models.load_tokenizer(params["model"])
    corpus = load_corpus(params["corpus"], params.get("documents"))
    sample = corpus.windows(tokenizer, params["length"], params["windows"], params["seed"])
    options = {
        "bos_token_id": None if params["bos"] < 0 else params["bos"],
        "groups": sample.groups,
        "seed": params["seed"],
        "folder": cache_dir() / "scores" / f"{digest(params)[:16]}-{place}",
    }
    start = time.perf_counter()
    scores = run(model, sample.tokens, **options)
    device = place if served else models.device_name(model.device)
    attrs = {"device": device, "tokens": int(sample.tokens.size)}
    if served:  # of this process: what it found on the disk, it did not ask for
        attrs |= {"tokens_asked": served.asked, "tokens_computed": served.asked - served.cached}
    return scores, sample.tokens, attrs | {"seconds": time.perf_counter() - start}


def command_line(what, function, name, params) -> str:
    """The command that computes `name`: of the parameters, those that are not the default."""
    flags = [
        f"--{key.replace('_', '-')} {params[key]}"
        for key, option in inspect.signature(function).parameters.items()
        if params.get(key, option.default) != option.default
    ]
    asked = [] if what == "information" else [f"--what {what}"]
    return " ".join(["l2m measure", name, *asked, *flags])


def show_curves(tables) -> str:
    """The estimates of I_BP(L), in nats, from what `measure` returns."""
    how = {"direct": ("direct", 0), "vclub": ("vclub", 0)}
    warm = [int(name[5:]) for name in tables[0] if name.startswith("warm_")]
    how |= {f"direct, after {c} tokens of another book": ("direct", c) for c in warm}
    curves = {n: bipartite_mi(tables[0], e, ratio=2, warm=c).round(3) for n, (e, c) in how.items()}
    return "\n".join(f"{name}\n{curve.to_string(index=False)}" for name, curve in curves.items())


def show_costs(table) -> str:
    """The mean cost of a token by context, from what `past_terms` returns."""
    total = table.groupby("context")[["cost", "tokens"]].sum()
    return (total["cost"] / total["tokens"]).rename("nats per token").round(4).to_string()


def show_gains(table) -> str:
    """What the cache adds, in nats, by split, from what `missed_terms` returns."""
    return table.groupby("split")[["joint", "marginal"]].mean().round(2).to_string()


def show_kept(table) -> str:
    """The share of the information that each cut keeps, by split, from what `cache_terms` returns.

    log q(Y) is after the most foreign tokens that were scored.
    """
    warm = table.loc[table["policy"] == "warm", "size"].max()
    shares = kept_shares(kept_nats(table, warm, n=1))[0].unstack("split")
    return f"share kept, by split\n{shares.round(3).to_string(na_rep='')}"


def show_bytes(table) -> str:
    """The mean number of bytes of a token, from what `window_bytes` returns."""
    mean = table.groupby("tokens")["bytes"].mean()
    return (mean / mean.index).rename("bytes per token").round(3).to_string()
