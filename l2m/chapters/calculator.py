"""What the pages' scripts compute with, as files of the book; and the command `l2m models`.

The calculator and the figures to move run in the browser without a server. What they know is
generated here: the public models, with a few values of each history state, by which the calculator
checks its own arithmetic; the laws, the paper's and chapter 3's; chapter 3's curves; and the runs
of chapter 8. `l2m build` writes the files anew.
"""

import json
from dataclasses import astuple
from pathlib import Path

import numpy as np

from l2m.files import ROOT, meant, write_atomic
from l2m.information.bipartite import window_mi
from l2m.information.resampling import clustered_covariance
from l2m.information.scaling import fit_power_law
from l2m.language_models.models import read_config
from l2m.memory.architectures import architectures
from l2m.memory.history_state import history_state
from l2m.memory.l2m_condition import growth, satisfies_l2m
from l2m.results import provenance, recorded

PATH = ROOT / "book" / "_static" / "history_state_models.js"
DATA = ROOT / "book" / "_static" / "widgets" / "data.js"
GROWTH = {  # laws in words, with their rates
    "linear": "by {:,.0f} scalars per token",
    "power": "to {:,.0f} × L^{:g} scalars at most",
    "logarithmic": "by {:,.0f} scalars whenever the tokens double",
    "bounded": "to {:,.0f} scalars at most",
}
CHECKED = (1, 1000, 1_048_576, 10**9)  # lengths at which the page checks itself
CURVES = {  # chapter 3's results, by the number of their windows; the second has the longest
    1000: "03_bipartite_mi/novels-bos1",
    400: "03_bipartite_mi/novels-8192-bos1",
}
RUNS = "06_gaussian/just_enough-runs"  # those of chapter 8
ALIKE = ["slots", "steps", "seed", "width", "learning_rate", "offset"]  # in all but a few of them
SHORTEST = 32  # for smaller L the estimate depends on how the first tokens are treated
PAPER = {"Paper, direct": (2.27, 0.76), "Paper, vCLUB": (3.26, 0.71)}  # its Fig. 2b


def measured() -> dict:
    """Return chapter 3's curves of I_BP(L/2; L), by label: L (k,), nats (n, k), books (n,)."""
    terms = _table(CURVES[400])
    books = terms.groupby("window")["book"].first()
    curves = {}
    for label, estimator in (("Chapter 3, direct", "direct"), ("Chapter 3, vCLUB", "vclub")):
        values = window_mi(terms, estimator, ratio=2).loc[:, SHORTEST // 2 :]
        curves[label] = 2 * values.columns.to_numpy(), values, books
    return curves


def laws() -> list[list]:
    """Return the laws that the page offers: label, amplitude A in nats, exponent β of each."""
    found = [[label, *law] for label, law in PAPER.items()]
    for label, (lengths, values, _) in measured().items():
        law = fit_power_law(lengths, values.mean())
        found.append([label, _short(law.amplitude), _short(law.exponent)])
    return found


def curves() -> dict:
    """Return chapter 3's curves for its figure to move: by windows, L and what each point is.

    The direct estimate at L is ``mi + w·shift`` if w of the cost of the first two tokens is the
    entropy of 2-grams; its variance over books is that of this sum. nats, and nats².
    """
    bigram = float(_table("03_bipartite_mi/ngrams")["entropy"].iloc[-1])
    found = {}
    for windows, name in CURVES.items():
        terms = _table(name)
        books = terms.groupby("window")["book"].first()
        plain = window_mi(terms, ratio=2)
        full = window_mi(terms, ratio=2, bigram_entropy=bigram, bigram_weight=1.0)
        vclub = window_mi(terms, "vclub", ratio=2)
        parts = np.hstack([plain, full - plain, vclub])
        mean, k = parts.mean(axis=0), plain.shape[1]
        covariance = clustered_covariance(parts, books.loc[plain.index])
        found[windows] = [
            {
                "length": int(2 * split),
                "mi": _short(mean[i]),
                "shift": _short(mean[i + k]),
                "variance": _short(covariance[i, i]),
                "covariance": _short(covariance[i, i + k]),
                "shift_variance": _short(covariance[i + k, i + k]),
                "vclub": _short(mean[i + 2 * k]),
                "vclub_variance": _short(covariance[i + 2 * k, i + 2 * k]),
            }
            for i, split in enumerate(plain.columns)
        ]
    return found


def runs() -> list[dict]:
    """Return the runs of chapter 8 that differ in kind of data, length and exponent s alone."""
    table = _table(RUNS)
    table["offset"] = table["offset"].fillna(-1)  # -1: not cut out of longer sequences
    table = table[(table[ALIKE] == table[ALIKE].mode().iloc[0]).all(axis=1)]
    table = table.sort_values(["kind", "length", "s"])
    named = ["kind", "length", "s", "kl", "dim_z", "copies"]
    return [
        {key: _short(value) if key in ("s", "kl") else value for key, value in row.items()}
        for row in table[named].to_dict("records")
    ]


def _table(name: str):
    """A recorded result, whatever its parameters are."""
    return recorded(name, provenance(name)["params"])


def _short(x: float) -> float:
    """A number to eight digits: enough for any figure, and the same on every machine."""
    return float(f"{x:.8g}")


def models() -> list[dict]:
    """Return the public models as the page reads them, with the scalars kept at some lengths."""
    found = []
    for fact in architectures():
        state = history_state(fact["config"])
        model = {key: fact[key] for key in ("name", "family", "source", "read_in") if key in fact}
        model["memories"] = list(map(astuple, state.memories))
        found.append(model | {"dims": [[length, state.dim(length)] for length in CHECKED]})
    return found


def scripts() -> dict[Path, str]:
    """Return the JavaScript files that hold models, laws, curves and runs: text by path."""
    known = {
        PATH: {"HISTORY_STATE_MODELS": models(), "INFORMATION_LAWS": laws()},
        DATA: {"LAW_CURVES": curves(), "JUST_ENOUGH_RUNS": runs()},
    }
    return {path: _script(constants) for path, constants in known.items()}


def _script(constants: dict) -> str:
    """JavaScript that says these constants, a line for each item of a list."""
    said = [f"const {name} = {_lines(value)};" for name, value in constants.items()]
    names = ", ".join(constants)
    return (
        '/* Written by `l2m build` from the library: do not edit. */\n"use strict";\n\n'
        + "\n\n".join(said)
        + f'\n\nif (typeof module !== "undefined") module.exports = {{ {names} }};\n'
    )


def _lines(value) -> str:
    if isinstance(value, dict):
        return "{" + ",\n".join(f'"{key}": {_lines(some)}' for key, some in value.items()) + "}"
    return "[\n  " + ",\n  ".join(json.dumps(some, ensure_ascii=False) for some in value) + ",\n]"


def write() -> list[Path]:
    """Write the files; return their paths."""
    return [write_atomic(path, text) for path, text in scripts().items()]


def table(beta: float, length: int) -> str:
    """Return in text what public models keep of `length` / 2 tokens, its growth, and verdicts."""
    rows = [("model", "scalars kept", "growth", "L²M condition")]
    for fact in architectures():
        config = fact["config"]
        met = "met" if satisfies_l2m(config, beta) else "not met"
        dim = history_state(config).dim(length // 2)
        rows.append((fact["name"], f"{dim:,}", growth(config).law, met))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:{widths[2]}}  {d}" for a, b, c, d in rows]
    asked = f"After {length // 2:,} tokens, and the L²M condition for I_BP ~ L^{beta:g}:"
    return "\n".join([asked, "", *lines])


def described(model: str, beta: float, length: int) -> str:
    """Return in text what one model keeps, memory by memory, and the verdict on it.

    `model` is a name or id of the table, a folder, a ``config.json``, or a Hub id. OSError or
    ValueError when there is no such config, or what such a model keeps is not known.
    """
    config, read = _config(model), length // 2
    try:
        state, law, verdict = history_state(config), growth(config), satisfies_l2m(config, beta)
    except (OSError, ValueError):
        raise
    except Exception as error:  # fields may hold anything, and fail anywhere
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the config of {model} is no model's ({why}): take its own.") from error
    lines = [f"{model} keeps {state.dim(read):,} scalars after {read:,} tokens:"]
    lines += [f"  {m.dim(read):>20,}  {m.what}, in {m.layers} layers" for m in state.memories]
    lines.append(f"It grows {GROWTH[law.law].format(law.rate, law.exponent)}.")
    met = "met" if verdict else "not met"
    lines.append(f"The L²M condition for I_BP ~ L^{beta:g} is {met}: {verdict.why}.")
    return "\n".join(lines)


def _config(model: str) -> dict:
    for fact in architectures():
        if model.casefold() in (fact["name"].casefold(), str(fact["id"]).casefold()):
            return fact["config"]
    path = Path(model).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if path.suffix == ".json":
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}: name one, or a model of the table.")
        config = read_config(path)
    else:
        from transformers import PreTrainedConfig

        try:
            config, _ = PreTrainedConfig.get_config_dict(model)
        except OSError as error:
            names = [name for fact in architectures() for name in (fact["name"], str(fact["id"]))]
            why = f"no model of the table, no folder here, and not reachable on the Hub ({error})"
            raise FileNotFoundError(f"{model!r} is {why}.{meant(model, names)}") from error
    if "model_type" not in config:
        raise ValueError(f"{path} is no config of a model: it names no model_type.")
    return config
