"""Measure the bipartite mutual information of a corpus under a language model, from end to end.

    python -m l2m.experiments.measure mine --corpus my_books/ --model Qwen/Qwen3-0.6B-Base --windows 500
    torchrun --nproc-per-node=2 -m l2m.experiments.measure mine --corpus english-novels-100

Corpus → windows → scores (kept in the cache folder, so that a killed run goes on) → two tables:
`window_terms`, from which every estimate and interval follows, and the loss by position.
"""

import argparse
import hashlib
import inspect
import json
import os
import sys
import time

import numpy as np
import pandas as pd

from l2m.language_models import models
from l2m.information.bipartite import bipartite_mi, clustered_stderr, window_terms
from l2m.text.corpora import fingerprint, load_corpus
from l2m.results import cache_dir, recorded
from l2m.language_models.scoring import powers_of_two, score

HELP = {  # of the command lines, by parameter
    "name": "of the result, <folder>/<name> or <name>",
    "corpus": "a name, file or folder",
    "model": "a name, Hub id or folder",
    "length": "tokens a window",
    "windows": "how many",
    "ratio": "the largest L/ℓ",
    "largest_split": "the largest ℓ; 0 for half the length",
    "partners": "continuations that each window borrows for vCLUB",
    "bos": "token id that sequences start with; -1 for the model's own",
    "dtype": "of the model: float32, bfloat16 or float16",
    "seed": "of the windows and partners",
    "documents": "read that many of the corpus; 0 for all",
}


def measure(
    name: str,
    corpus: str = "english-novels-100",
    model: str = models.EMBEDDED,
    length: int = 2048,
    windows: int = 1000,
    ratio: int = 2,
    largest_split: int = 0,
    partners: int = 1,
    bos: int = -1,
    dtype: str = "bfloat16",
    seed: int = 0,
    documents: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score windows of a corpus, or read what was recorded under `name` for these parameters.

    Parameters
    ----------
    name : of the two results, "<name>" and "<name>-positions" (see `l2m.results.recorded`).
    corpus, model : names or paths (`l2m.text.corpora.load_corpus`, `l2m.language_models.models.load_model`).
    length : T, tokens a window; `windows` : how many, from as many books as possible.
    ratio : the largest r = L/ℓ; continuations are cut at the window's end.
    largest_split : the largest of the splits 2, 4, 8, …; 0 for T/2.
    partners : windows whose continuation each window borrows for vCLUB.
    bos : token id that every sequence starts with; -1 for the model's own.
    dtype : of the model's arithmetic; probabilities are fp32 always.
    documents : read that many of the corpus; 0 for all (PG19 has 28,602, 11 GB of text).

    Returns
    -------
    terms : `l2m.information.bipartite.window_terms`.
    positions : DataFrame `position, nll, stderr, marginal, marginal_stderr, shuffled,
        shuffled_stderr` (nats; standard error of books): the cost of the token at a position of the
        window; and, for the largest split, that of the continuation's token at this position after
        BOS alone, and of the partner's after a foreign past.

    Raises
    ------
    MissingResult
        If it is not recorded, and corpus, model or device are missing here.
    """
    params = {
        **identity(corpus, model, documents),
        **{"length": length, "windows": windows, "ratio": ratio, "largest_split": largest_split},
        **{"partners": partners, "bos": bos, "dtype": dtype, "seed": seed},
    }
    command = command_line("measure", measure, name, params)
    kept = {}

    def scored():
        if not kept:
            largest = largest_split or length // 2
            splits = [split for split in powers_of_two(length) if split <= largest]
            _, kept["scores"], kept["attrs"] = scored_windows(params, splits, ratio)
        return kept["scores"]

    def terms():
        table = window_terms(scored())
        table.attrs = kept["attrs"]
        return table

    def positions():
        table = position_costs(scored())
        table.attrs = kept["attrs"]
        return table

    return (
        recorded(name, params, terms, command=command),
        recorded(f"{name}-positions", params, positions, command=command),
    )


def position_costs(scores) -> pd.DataFrame:
    """Mean costs by position: `positions` of `measure`."""
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


def identity(corpus, model, documents=0) -> dict:
    """What was measured with what, as parameters of a result."""
    limit = {"documents": documents} if documents else {}
    return {
        **{"corpus": corpus, "corpus_sha256": fingerprint(corpus, documents or None), **limit},
        **{"model": model, "model_sha256": models.fingerprint(model)},
    }


def scored_windows(params, splits, ratio):
    """Windows of a corpus, their scores, and what the provenance says of the run."""
    model = models.load_model(params["model"], params["dtype"])
    tokenizer = models.load_tokenizer(params["model"])
    sample = load_corpus(params["corpus"], params.get("documents")).windows(
        tokenizer, params["length"], params["windows"], params["seed"]
    )
    key = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]
    start = time.perf_counter()
    scores = score(
        model,
        sample.tokens,
        splits,
        ratio,
        bos_token_id=None if params["bos"] < 0 else params["bos"],
        groups=sample.groups,
        n_partners=params.get("partners", 1),
        seed=params["seed"],
        folder=cache_dir() / "scores" / f"{key}-{model.device.type}",
    )
    seconds = time.perf_counter() - start
    attrs = {
        "device": models.device_name(model.device),
        "tokens": int(sample.tokens.size),
        "seconds": seconds,
    }
    return sample, scores, attrs


def command_line(module, function, name, params):
    """The command that computes `name`: of the parameters, those that are not the default."""
    flags = [
        f"--{key.replace('_', '-')} {params[key]}"
        for key, option in inspect.signature(function).parameters.items()
        if params.get(key, option.default) != option.default
    ]
    return " ".join([f"python -m l2m.{module}", name, *flags])


def run(module, function, show, arguments=None) -> int:
    """Command line of a measurement: its parameters as options, one sentence for what is wrong.

    Parameters
    ----------
    module : its name in this package; `function` : the measurement.
    show : function of what it returns, called once however many processes there are.
    arguments : list of str; those of this process when None.

    Returns
    -------
    The exit status.
    """
    options = vars(_parser(module, function).parse_args(arguments))
    if options.pop("record"):
        os.environ["L2M_RECORD"] = "1"
    if "/" not in options["name"]:
        options["name"] = f"measured/{options['name']}"
    try:
        result = function(**options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"l2m: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nl2m: stopped; what was scored is kept: run it again to go on.", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", 0)) == 0:
        show(result)
    return 0


def _parser(module, function):
    parser = argparse.ArgumentParser(
        prog=f"python -m l2m.{module}",
        description=function.__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for key, option in inspect.signature(function).parameters.items():
        if option.default is option.empty:
            parser.add_argument(key, help=HELP[key])
        else:
            flag, kind = f"--{key.replace('_', '-')}", option.annotation
            kind = _natural if kind is int and option.default >= 0 else kind
            parser.add_argument(flag, type=kind, default=option.default, help=HELP[key])
    parser.add_argument("--record", action="store_true", help="write to results/, not the cache")
    return parser


def _natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes an integer from 0, not {text!r}")
    return int(text)


def show_curves(tables):
    """Print the estimates of I_BP(L) from what `measure` returns."""
    for estimator in ("direct", "vclub"):
        curve = bipartite_mi(tables[0], estimator, ratio=2)
        print(estimator, curve.round(3).to_string(index=False), sep="\n")


if __name__ == "__main__":
    sys.exit(run("measure", measure, show_curves))
