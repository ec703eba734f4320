"""Bipartite mutual information from log-likelihoods: the direct estimator and vCLUB.

    direct   E_p[log q(Y|X) − log q(Y)]                          Eq. 6 of {cite:t}`chen2025l2m`
    vCLUB    E_p(x,y)[log q(y|x)] − E_p(x)p(y)[log q(y|x)]       Eq. 7

Both are means of one number per window, `window_mi`. For vCLUB the partner's own marginal log q(y')
is subtracted from the second term and the window's own from the first: partners are permutations,
so the mean stays where it was, while most of the variance, how hard y is by itself, cancels.
"""

import numpy as np
import pandas as pd

from l2m.information.resampling import clustered_stderr
from l2m.information.scaling import bootstrap_power_law

HEAD = 2  # tokens at the start of Y whose marginal a model cannot know after BOS


def window_mi(
    scores,
    estimator="direct",
    ratio=None,
    *,
    control_variate=True,
    bigram_entropy=None,
    bigram_weight=0.8,
    warm=0,
) -> pd.DataFrame:
    """I_BP's estimate of every window (row) at every split with ratio·ℓ ≤ T (column), in nats.

    `scores` are `l2m.language_models.scoring.Scores`, or their table from `window_terms`; the
    `estimator` is "direct" or "vclub". `ratio` is L/ℓ, by default that of the scores; any smaller
    one is read from the same scores. ValueError for one that they do not hold, or an estimate that
    is not a number.

    Y starts in mid-sentence, and the model's BOS does not (App. B.IV). Given a `bigram_entropy`,
    that of two successive tokens of the corpus in nats, the first two tokens of the direct
    estimator's marginal term cost (1−w)·(what the model says) + w·bigram_entropy, w being the
    `bigram_weight`. And Y is priced not as after BOS alone, but after `warm` tokens of another book
    too, if it was scored so, or as the columns of `chosen_warm` say for "chosen". With
    `control_variate` own marginals are subtracted in vCLUB (above).
    """
    terms, _ = _terms(scores, ratio)
    if estimator == "direct":
        start = f"warm_{warm}" if warm else "marginal"
        if start not in terms:
            scored = [c for c in terms if c.startswith("warm_")]
            raise ValueError(f"Y was not scored after {warm} tokens, only as {scored}: score so")
        if bigram_entropy is not None and _head(start) not in terms:
            raise ValueError(f"of {start!r} the first tokens were not kept: measure it anew")
        values = terms["joint"] - terms[start]
        if bigram_entropy is not None:
            values = values + bigram_weight * (terms[_head(start)] + bigram_entropy)
    elif estimator == "vclub":
        if warm or bigram_entropy is not None:
            raise ValueError("vCLUB has no q(Y): warm and bigram_entropy are of 'direct' alone")
        values = terms["joint"] - terms["shuffled"]
        if control_variate:
            values = values - terms["marginal"] + terms["partner_marginal"]
    else:
        raise ValueError(f"unknown estimator {estimator!r}: 'direct' or 'vclub'")
    values = values.set_axis([terms["window"], terms["split"]]).unstack("split")
    if (missing := values.isna()).any(axis=None):
        window, split = missing.stack().idxmax()
        which = f"one of {missing.any(axis=1).sum()} such windows of {len(values)}"
        where = f"window {window} at split {split}"
        raise ValueError(f"the estimate of {where} is not a number, {which}: score them anew")
    return values


def bipartite_mi(scores, estimator="direct", *, groups=None, ratio=None, **how) -> pd.DataFrame:
    """Estimate I_BP(ℓ; L) with L = ratio·ℓ: DataFrame `split, length, mi, stderr` (nats).

    `groups`, (n,), is the book of each window; by default that of the scores. Windows of a book are
    not independent, so the standard error is one of books (clusters). `range(n)`, and scores that
    know of no books, give the authors' std/√n. Others, and errors, as of `window_mi`, whose
    `clustered_covariance` says how the estimates at different lengths go together.
    """
    terms, ratio = _terms(scores, ratio)
    values = window_mi(terms, estimator, ratio=ratio, **how)
    if groups is None:
        groups = terms.drop_duplicates("window").set_index("window")["book"].loc[values.index]
    table = values.mean().rename("mi").reset_index()
    table.insert(1, "length", ratio * table["split"])
    return table.assign(stderr=clustered_stderr(values, groups))


def window_terms(scores) -> pd.DataFrame:
    """Sums over Y of each window's log-likelihoods: all that the estimators need, in a small table.

    `window, book, split, ratio, joint, marginal, marginal_head, shuffled, partner_marginal` (nats):
    one row per window, split ℓ and ratio r ≥ 2 with r·ℓ ≤ T. `joint` is log q(y|x), `marginal`
    log q(y|BOS), `marginal_head` its first two tokens, `shuffled` the mean over partners of
    log q(y'|x), `partner_marginal` that of log q(y'|BOS); `warm_c`, for each c that was scored, is
    log q(y|BOS, c tokens of another window), `head_c` its first two tokens. ValueError if there is
    no such split.
    """
    n, length = scores.joint.shape
    partners = np.atleast_2d(scores.partners)
    cases = [(s, r) for s in scores.splits for r in range(2, scores.ratio + 1) if r * s <= length]
    if not cases:
        raise ValueError(f"no split fits: windows have {length} tokens, splits are {scores.splits}")
    tables = []
    for split, ratio in cases:
        m = (ratio - 1) * split  # tokens of Y
        marginal = scores.marginal[split][:, :m]
        shuffled = np.asarray(scores.shuffled[split], np.float64).reshape(len(partners), n, -1)
        columns = {
            "window": np.arange(n),
            "book": scores.books,
            "split": split,
            "ratio": ratio,
            "joint": scores.joint[:, split : split + m].sum(1, dtype=np.float64),
            "marginal": marginal.sum(1, dtype=np.float64),
            "marginal_head": marginal[:, :HEAD].sum(1, dtype=np.float64),
            "shuffled": shuffled[:, :, :m].sum(2).mean(0),
        }
        columns["partner_marginal"] = columns["marginal"][partners].mean(0)
        for of, c in scores.warm:
            if of == split:
                after = scores.warm[of, c][:, :m]
                columns[f"warm_{c}"] = after.sum(1, dtype=np.float64)
                columns[f"head_{c}"] = after[:, :HEAD].sum(1, dtype=np.float64)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def chosen_warm(terms, seed=0, bigram_weight=0.0) -> pd.DataFrame:
    """log q(Y) after the start that suits Y best, chosen in other books: nats, by rows of `terms`.

    A start is BOS alone, or BOS and c tokens of another book, for each `warm_c` that `terms`, of
    `window_terms`, has. At each split and ratio the one that makes the Y of one half of the books
    likeliest (halves drawn with `seed`) prices those of the other. After any start q is a density
    of Y, so the mean gain over `marginal` is by how much D_KL(p_Y ‖ q_Y) of BOS alone is larger:
    no hindsight is in it. If `window_mi` is to correct the first two tokens with a `bigram_weight`,
    so much less do these count in the choice.

    DataFrame `warm_chosen`, and `head_chosen`, of the first two tokens, if `terms` has them.
    ValueError without a warm start, or for a single book.
    """
    starts = [name for name in terms if name == "marginal" or name.startswith("warm_")]
    heads, books = list(map(_head, starts)), np.unique(terms["book"])
    if len(starts) < 2 or len(books) < 2:
        raise ValueError("to choose a start takes two books or more, scored with warm=(c, …)")
    half = np.random.default_rng(seed).permutation(books)[: len(books) // 2]
    half, cell = terms["book"].isin(half), [terms["split"], terms["ratio"]]
    price = terms[starts]
    if bigram_weight:
        price = price - bigram_weight * terms[heads].to_numpy()
    likeliest = price.groupby([half, *cell]).mean().idxmax(axis=1)
    name = likeliest.reindex(pd.MultiIndex.from_arrays([~half, *cell]))
    chosen, out = terms[starts].columns.get_indexer(name), {}
    for label, columns in (("warm_chosen", starts), ("head_chosen", heads)):
        if set(columns) <= set(terms):
            out[label] = terms[columns].to_numpy(dtype=float)[np.arange(len(terms)), chosen]
    return pd.DataFrame(out, terms.index)


def _head(start: str) -> str:
    """The column of the first two tokens of a start, `marginal` or `warm_c`."""
    return start.replace("warm", "head") if start.startswith("warm") else f"{start}_head"


def _terms(scores, ratio):
    """The table of one ratio (the largest if None), and that ratio."""
    terms = scores if isinstance(scores, pd.DataFrame) else window_terms(scores)
    ratio = int(terms["ratio"].max()) if ratio is None else ratio
    if ratio not in terms["ratio"].to_numpy():
        raise ValueError(f"the scores hold no complete split with L/ℓ = {ratio}: score with it")
    return terms[terms["ratio"] == ratio], ratio


def per_byte(terms, sizes, at=4096, shortest=100, seed=0) -> dict:
    """A model's quality and its laws of I_BP, by bytes: what models of other tokenizers share.

    `terms` is of `window_terms`; `sizes` has the bytes of the first k tokens of the same windows,
    `window, tokens, bytes` (`l2m.experiments.measure.window_bytes`). Returns `bits`, what a byte of
    the second halves of windows costs after the first, and its standard `error` over books; and by
    "direct" and "vclub" the `PowerLaw` of I_BP in the bytes of X and Y together, from a length of
    `shortest` bytes on, with intervals over books: its amplitude is the value `at` bytes.
    ValueError if `sizes` lacks some, else as `bootstrap_power_law`.
    """
    last = _terms(terms, 2)[0].query("split == split.max()").set_index("window")
    split = int(last["split"].iloc[0])
    size = _sizes(sizes, [split, 2 * split], last.index)
    cost, many = -last["joint"] / np.log(2), size[2 * split] - size[split]
    out = {"bits": cost.sum() / many.sum()}
    off = (cost - out["bits"] * many).to_frame() / many.mean()
    out["error"] = clustered_stderr(off, last["book"])[0]
    for name in ("direct", "vclub"):
        values = window_mi(terms, name, ratio=2)
        length = _sizes(sizes, 2 * values.columns, values.index).mean().to_numpy()
        far, owner = length >= shortest, last["book"].loc[values.index]
        values = values.loc[:, far].to_numpy()
        out[name] = bootstrap_power_law(length[far] / at, values, owner, seed=seed)
    return out


def _sizes(sizes, tokens, windows) -> pd.DataFrame:
    """Bytes of the first so many tokens (columns) of some windows (rows)."""
    table = sizes.pivot(index="window", columns="tokens", values="bytes")
    if missing := [*set(tokens) - set(table), *set(windows) - set(table.index)]:
        raise ValueError(f"the sizes lack lengths or windows ({missing[:3]}): take those of these")
    return table.loc[windows, list(tokens)]
