"""The calculator of history states, as a page of the book and as the command `l2m models`.

The page runs in the browser without a server. What it knows of the public models is generated from
`l2m.memory.architectures`, with a few values of each history state, by which the page checks its
own arithmetic. The laws are the paper's and chapter 3's. `l2m build` writes them anew.
"""

import json
from dataclasses import astuple
from pathlib import Path

from l2m.files import ROOT, meant, write_atomic
from l2m.information.bipartite import window_mi
from l2m.information.scaling import fit_power_law
from l2m.language_models.models import read_config
from l2m.memory.architectures import architectures
from l2m.memory.history_state import history_state
from l2m.memory.l2m_condition import growth, satisfies_l2m
from l2m.results import provenance, recorded

PATH = ROOT / "book" / "_static" / "history_state_models.js"
GROWTH = {  # laws in words, with their rates
    "linear": "by {:,.0f} scalars per token",
    "logarithmic": "by {:,.0f} scalars whenever the tokens double",
    "bounded": "to {:,.0f} scalars at most",
}
CHECKED = (1, 1000, 1_048_576, 10**9)  # lengths at which the page checks itself
CURVES = "03_bipartite_mi/novels-8192-bos1"  # chapter 3's result with the longest windows
SHORTEST = 32  # for smaller L the estimate depends on how the first tokens are treated
PAPER = {"The paper, direct": (2.27, 0.76), "The paper, vCLUB": (3.26, 0.71)}  # its Fig. 2b


def measured() -> dict:
    """Return chapter 3's curves of I_BP(L/2; L), by label: L (k,), nats (n, k), books (n,)."""
    terms = recorded(CURVES, provenance(CURVES)["params"])
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
        found.append([label, round(law.amplitude, 2), round(law.exponent, 2)])
    return found


def models() -> list[dict]:
    """Return the public models as the page reads them, with the scalars kept at some lengths."""
    found = []
    for fact in architectures():
        state = history_state(fact["config"])
        model = {key: fact[key] for key in ("name", "family", "source")}
        model["memories"] = list(map(astuple, state.memories))
        found.append(model | {"dims": [[length, state.dim(length)] for length in CHECKED]})
    return found


def script() -> str:
    """Return the JavaScript file that holds models and laws."""
    rows = ",\n  ".join(json.dumps(model, ensure_ascii=False) for model in models())
    return (
        "/* Written by `l2m build` from the library: do not edit. */\n"
        f'"use strict";\n\nconst HISTORY_STATE_MODELS = [\n  {rows},\n];\n\n'
        f"const INFORMATION_LAWS = {json.dumps(laws())};\n\n"
        'if (typeof module !== "undefined") module.exports = HISTORY_STATE_MODELS;\n'
    )


def write() -> Path:
    """Write the file; return its path."""
    return write_atomic(PATH, script())


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
    lines.append(f"It grows {GROWTH[law.law].format(law.rate)}.")
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
