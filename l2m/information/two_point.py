"""Mutual information of tokens a distance d apart, I_TP(d) (Def. 4.2, App. B.VI).

The entropy of pairs is biased in any corpus that one can have, by more than I_TP(d) at large d
{cite}`paninski2003`. A null measures what the estimator says where there is nothing to find: the
second token of each pair is taken from a shuffled copy of the corpus.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from l2m.information.entropy import METHODS, entropy
from l2m.information.pair_counts import Documents, count_tokens, n_pairs, pair_counts

MAX_ID = 2**24  # of a token: single tokens are counted in a table
WORKERS = 2  # threads, each of which sorts a part


def two_point_mi(
    documents, distances, method="grassberger", null="across", seed=0, *, device=None, part=None
) -> pd.DataFrame:
    """Two-point mutual information at each distance, beside that of a shuffled corpus.

    I = H(first) + H(second) − H(pair), each entropy estimated by `method` from the pairs at that
    distance, both tokens in one document. (The paper takes twice the entropy of all single tokens,
    which is the same where distances are next to nothing beside the documents.) Returns a DataFrame
    `distance, pairs, mi, null, mi_corrected` in nats; the last is `mi − null`, NaN without a null.

    `documents` are token ids, one integer array each; memory-mapped ones are read in pieces.
    `null` says where its second tokens come from, with as many pairs as the measurement has:
    "across", all tokens shuffled: what is left is the estimator's bias; "within", each document's
    tokens shuffled: the bias and what the documents' own vocabularies explain; "shift", each
    document turned by a random quarter to three quarters of its length; or None. One document has
    no others to shuffle with: "across" warns and takes "shift" instead. `seed` is of the shuffle.

    `device` is None for NumPy, or a torch device such as "cuda", which then holds all tokens;
    `part` is how many keys each of two threads sorts in one go, by default so many that all keys
    take a quarter of the free memory at most, and 1 GB (see `pair_counts`); results do not depend
    on it. Beside them stand the shuffled tokens of a null, 2 or 4 bytes each.
    ValueError for ids that are negative or above 2^24, a distance that no document is longer than,
    an unknown method or null; TypeError for ids or distances that are no integers.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, not {method!r}.")
    documents, distances = check_documents(documents), list(distances)
    longest = max(map(len, documents), default=0)
    for distance in distances:
        if isinstance(distance, bool) or not isinstance(distance, (int, np.integer)):
            raise TypeError(f"A distance is an integer, not {distance!r}.")
        if not 1 <= distance < longest:
            known = f"a distance is at least 1, and the longest has {longest:,} tokens"
            raise ValueError(f"No document has a pair of tokens at distance {distance}: {known}.")
    distances = [int(distance) for distance in distances]  # an unsigned one has no negative
    shuffled = None if null is None else shuffle(documents, null, seed)
    how = distances, method, device, part
    mi = paired_mi(documents, documents, *how)
    of_null = paired_mi(documents, shuffled, *how) if shuffled else np.nan
    counts = [n_pairs(documents, distance) for distance in distances]
    table = pd.DataFrame({"distance": distances, "pairs": counts, "mi": mi, "null": of_null})
    return table.assign(mi_corrected=table["mi"] - table["null"])


def two_point_curves(
    documents: Documents, distances: Sequence[int], groups: int = 0, seed: int = 0
) -> pd.DataFrame:
    """I_TP(d) beside both nulls, of a corpus and of what is left of it without some documents.

    Leaving out one of `groups` runs of neighbouring documents at a time tells how much a curve
    depends on which books there are (the delete-a-group jackknife). DataFrame `left_out, distance,
    pairs, mi, across, within`, in nats; `left_out` is −1 for the whole corpus, else the group.
    """
    documents = check_documents(documents)
    if not (groups == 0 or 2 <= groups <= len(documents)):
        raise ValueError(f"groups is 0, or from 2 to {len(documents)} documents, not {groups}.")
    everything = range(len(documents))
    left_out = [[], *(np.array_split(everything, groups) if groups else [])]
    tables = []
    for group, without in enumerate(left_out, -1):
        part = [documents[index] for index in everything if index not in without]
        table = two_point_mi(part, distances, seed=seed).rename(columns={"null": "across"})
        within = paired_mi(part, shuffle(part, "within", seed), table["distance"].tolist())
        tables.append(table.assign(within=within, left_out=group))
    columns = ["left_out", "distance", "pairs", "mi", "across", "within"]
    return pd.concat(tables, ignore_index=True)[columns]


def paired_mi(
    documents, others, distances, method="grassberger", device=None, part=None
) -> list[float]:
    """Mutual information of (document[i], other[i + d]) over all i, for every d.

    `others` are the documents themselves for I_TP(d), a shuffled copy for a null; both as
    `check_documents` returns them.
    """
    size = 1 + max(int(document.max()) for document in documents if len(document))
    singles = count_tokens(documents, size)
    ahead, behind = (_to_device(side, device) for side in (documents, others))

    def mutual_information(distance: int) -> float:
        # all tokens of a document begin a pair but its last ones, and end a pair but its first ones
        first = singles - count_tokens([document[-distance:] for document in documents], size)
        second = singles - count_tokens([other[:distance] for other in others], size)
        joint, times = pair_counts(ahead, behind, distance, first, part)
        return entropy(first, method) + entropy(second, method) - entropy(joint, method, times)

    with ThreadPoolExecutor(1 if device else WORKERS) as pool:
        return list(pool.map(mutual_information, distances))


def shuffle(documents: Documents, null: str, seed: int = 0) -> list[np.ndarray]:
    """A copy of the documents, with the tokens that a null pairs with (see `two_point_mi`)."""
    if null not in ("across", "within", "shift"):
        raise ValueError(f"null is 'across', 'within', 'shift' or None, not {null!r}.")
    rng = np.random.default_rng(seed)
    if null == "across" and sum(len(document) > 0 for document in documents) == 1:
        warnings.warn(
            "A single document has no others to be shuffled with: the null pairs its tokens with "
            "those far away in it instead (null='shift').",
            stacklevel=3,
        )
        null = "shift"
    if null == "across":
        ends = np.cumsum([len(document) for document in documents])
        return np.split(rng.permutation(np.concatenate(documents)), ends[:-1])
    if null == "within":
        return [rng.permutation(document) for document in documents]
    turns = [int(len(document) * rng.uniform(0.25, 0.75)) for document in documents]
    return [np.roll(document, turn) for document, turn in zip(documents, turns, strict=True)]


def check_documents(documents: Documents) -> list[np.ndarray]:
    """Documents as arrays of unsigned integers, 16 bits wide where the ids allow."""
    arrays, largest = [np.asarray(document) for document in documents], 0
    for index, ids in enumerate(arrays):
        if ids.ndim != 1:
            raise ValueError(f"Document {index} has {ids.ndim} dimensions: give a list of arrays.")
        if not len(ids) or ids.dtype == np.uint16:
            continue  # nothing to look at: a memory-mapped file need not be read
        if ids.dtype.kind not in "ui":
            raise TypeError(f"Document {index} holds {ids.dtype}, not integer token ids.")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high > MAX_ID:
            wrong = low if low < 0 else high
            raise ValueError(f"Document {index} has the token id {wrong}, not one up to {MAX_ID}.")
        largest = max(largest, high)
    dtype = np.uint32 if largest >= 2**16 else np.uint16
    return [ids.astype(dtype, copy=False) for ids in arrays]


def _to_device(documents: list[np.ndarray], device: str | None) -> Documents:
    """The documents themselves, or their pieces of one tensor on a torch device."""
    if device is None:
        return documents
    import torch

    flat = torch.from_numpy(np.concatenate(documents).astype(np.int32)).to(device)
    return flat.split([len(document) for document in documents])
