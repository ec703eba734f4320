"""When a model is trusted: what it says of the past does not depend on the future, and is finite.

And when a way to score it is: it agrees with whole passes through the model's own forward, on
windows spread over the run and on made-up ones that hold every token of the run.
"""

import inspect
import warnings
from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import pad

from l2m.language_models import likelihood
from l2m.language_models.likelihood import packed, prefix, whole
from l2m.language_models.packing import origin

TOLERANCE = {"float32": 1e-3, "float64": 1e-6, "bfloat16": 0.05, "float16": 0.01}  # nats per token
ROUNDING = 2  # times the error of the model's own forward in half precision, at most
NEAR = 64  # tokens before a change that are looked at
FAULTS = RuntimeError, TypeError, ValueError, AttributeError, KeyError  # of a forward that differs


class UntrustedModel(RuntimeError):
    """A model that is not causal, or whose scores are not finite; the message says why."""


def require_causal(model, window, bos) -> None:
    """UntrustedModel unless tokens of a window (1, T) cost the same whatever comes after them."""
    name, cure = type(model).__name__, "take a causal language model"
    if getattr(model.config, "is_encoder_decoder", False):
        kind = "an encoder with a decoder, which predicts an answer, not the text"
        raise UntrustedModel(f"{name} is {kind}: {cure}")
    cut = window.shape[1] - max(2, window.shape[1] // 4)  # the last token of all is never read
    if cut < 1:
        return
    ids = torch.cat([window[0], window.new_tensor([bos])]).unique()
    changed = ids.roll(1)[torch.searchsorted(ids, window[:, cut:])]
    both = torch.cat([window, torch.cat([window[:, :cut], changed], 1)])
    try:
        log_q = plain_log_q(model, both, np.arange(max(0, cut - NEAR), cut), bos)
    except torch.OutOfMemoryError:
        raise
    except FAULTS as error:
        raise UntrustedModel(f"{name} does not predict a text ({error}): {cure}") from error
    moved = largest(model, (log_q[0] - log_q[1]).abs(), log_q[0])
    if moved > TOLERANCE[_dtype(model)]:
        why = "when the end of a window changes, log q of tokens before it moves by"
        cure = "call model.eval()" if model.training else cure
        raise UntrustedModel(f"{name} is not causal ({why} {moved:.2g} nats): {cure}")


def require_finite(model, values: dict, rows, windows, partners, n: int) -> None:
    """UntrustedModel, naming window, token and cure, if any log-likelihood is not finite."""
    for name, log_q in values.items():
        if log_q.isfinite().all():
            continue
        row, at = (~log_q.isfinite()).nonzero()[0].tolist()
        split, _, which = origin(*name)
        token = [windows, *partners][which][row, split + at]
        tensors = [n for n, x in model.named_parameters() if not (x.is_meta or x.isfinite().all())]
        cure = "pass dtype='float32', or take another model"
        if tensors:
            cure = f"its weights {', '.join(tensors[:3])} are not, so fetch it anew"
        elif _dtype(model) == "float16":
            cure = "float16 ends at 65,504, so pass dtype='bfloat16'"
        window = f"window {rows[row]}" if rows[row] < n else "a window made up of all tokens"
        where = f"token {split + at} (id {token}) of {window} ({name[0]})"
        value = f"{float(log_q[row, at])} under {type(model).__name__}"
        raise UntrustedModel(f"log q of {where} is {value}, not finite: {cure}")


def made_up(windows, checked, most: int) -> np.ndarray:
    """At most so many windows (m, T) of tokens that the checked ones of (n, T) lack, rare first."""
    tokens, counts = np.unique(windows, return_counts=True)
    new = ~np.isin(tokens, windows[checked])
    tokens, length = tokens[new][np.argsort(counts[new], kind="stable")], windows.shape[1]
    size = min(most, -(-len(tokens) // length)) * length
    return np.random.default_rng(0).permutation(np.resize(tokens, size)).reshape(-1, length)


def exact_way(model, method, batch, pieces, length, bos):
    """The named way, or the first of packed, prefix, whole that agrees with whole passes.

    `batch(way, rows)` gives values, windows and partners of each of `pieces`, which are rows; with
    none nothing is checked. `length` is T.
    """
    ways = {way.__name__: way for way in (packed, prefix, whole)}
    if method not in ("auto", *ways):
        raise ValueError(f"unknown method {method!r}: 'packed', 'prefix', 'whole' or 'auto'")
    by_length = turns_by_length(model.config, length)
    if by_length and method in ("packed", "prefix"):
        problem = f"turns long sequences by other angles than short ones, which {method!r} cannot"
        raise ValueError(f"{type(model).__name__} {problem}: pass method='whole'")
    stateful = getattr(model, "_is_stateful", False) or not model._supports_attention_backend
    if method != "auto":
        ways = {method: ways[method]}
    elif by_length:
        ways = {"whole": whole}
    elif stateful:  # a recurrent state cannot be packed, nor attention that we cannot replace
        del ways["packed"]
    ways = list(ways.values())
    if not pieces:  # prefix reuse is not taken unchecked, unless it was asked for
        return ways[-1] if method == "auto" and ways[0] is prefix else ways[0]
    tolerance = TOLERANCE[_dtype(model)]
    for way in ways:
        try:
            found = compared(model, (batch(way, rows) for rows in pieces), bos)
            difference = max(largest(model, (a - b).abs(), b) for a, b in found.values())
            problem = f"differs from whole passes by {difference:.2g} nats per token"
            if difference > tolerance:
                if more := _more_than_rounding(model, way, batch, pieces, bos, found):
                    problem += f" ({more})"
                else:
                    difference = 0.0
        except (torch.OutOfMemoryError, UntrustedModel):
            raise
        except FAULTS as error:
            difference, problem = np.inf, f"failed ({error})"
        if difference <= tolerance:
            return way
        if way is not ways[-1]:
            warnings.warn(f"{way.__name__} scoring {problem}; trying another way", stacklevel=3)
    other = "" if method == "auto" else "pass method='auto' to let another way be tried, or "
    what = f"{way.__name__} scoring of {type(model).__name__} {problem}, more than {tolerance}"
    raise RuntimeError(f"{what}: {other}report this model family")


def _more_than_rounding(model, way, batch, pieces, bos, found) -> str:
    """Why half precision alone does not explain what was `found`, of `compared`; "" if it does.

    It does if in fp32 the way agrees with whole passes, and most of its values in half precision
    are about as near to these as those of the model's own forward.
    """
    if _dtype(model) in ("float32", "float64"):
        return "in full precision"
    if any(p.is_meta for p in model.parameters()):  # loaded anew in every pass, as it is
        return "not asked in fp32, since the model is not in memory"
    try:
        with in_fp32(model):
            exact = compared(model, (batch(way, rows) for rows in pieces), bos)
    except torch.OutOfMemoryError:
        return "not asked in fp32, for lack of memory"
    for kind, halves in found.items():
        in_full, truth = exact[kind]
        if (apart := float((in_full - truth).abs().max())) > TOLERANCE["float32"]:
            return f"and {kind} in fp32 by {apart:.2g}"
        off, own = (float((half - truth).abs().median()) for half in halves)
        if off > ROUNDING * own:
            return f"{kind} usually by {off:.2g}, where the model's own rounding is {own:.2g}"
    return ""


@contextmanager
def in_fp32(model):
    """Let a model compute in fp32 inside the `with`; after it the weights are what they were."""
    halves = [(p, p.dtype) for p in model.parameters() if p.dtype in (torch.bfloat16, torch.half)]
    try:
        with torch.inference_mode(False):
            for parameter, _ in halves:
                parameter.data = parameter.data.float()
        yield
    finally:
        with torch.inference_mode(False):
            for parameter, dtype in halves:
                parameter.data = parameter.data.to(dtype)


def compared(model, batches, bos) -> dict:
    """Values of a way beside those of whole passes through the model's own forward, (2, n), nats.

    By kind, joint, marginal, shuffled and warm; at positions few enough that the logits stay within
    `LOGITS_BYTES`.
    """
    found = defaultdict(list)
    for values, windows, partners in batches:
        head = model.get_output_embeddings().weight
        budget = likelihood.LOGITS_BYTES // (4 * len(windows) * head.shape[0])
        for name, got in values.items():
            m, (split, past, which) = got.shape[1], origin(*name)
            part = [windows, *partners][which][:, split : split + m]
            tokens = torch.cat([windows[:, :past], part], 1)
            first, last = tokens.shape[1] - m, tokens.shape[1] - 1
            at = np.unique(np.linspace(first, last, max(1, min(m, budget))).astype(int))
            expected = plain_log_q(model, tokens, at, bos)
            found[name[0]].append(torch.stack([got[:, at - first], expected]).flatten(1))
    return {kind: torch.cat(parts, 1) for kind, parts in found.items()}


def plain_log_q(model, tokens, at, bos):
    """log q of the tokens (b, t) at some places, (b, len(at)), by the model's own forward: nats."""
    inputs = pad(tokens[:, :-1], (1, 0), value=bos)
    at = torch.as_tensor(at, device=tokens.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(inputs, use_cache=False, logits_to_keep=at).logits
    else:
        logits = model(inputs, use_cache=False).logits[:, at]
    return logits.float().log_softmax(-1).gather(2, tokens[:, at, None])[..., 0]


def largest(model, difference, log_q) -> float:
    """The largest difference from `log_q`; in bf16 and fp16 the mean, unless a token is far off.

    Rounding alone moves single tokens there: far off is more than half of 1 + |log q|.
    """
    if _dtype(model) in ("float32", "float64"):
        return float(difference.max())
    far = difference[difference > (1 - log_q) / 2]
    return float(far.max()) if len(far) else float(difference.mean())


def turns_by_length(config, length) -> bool:
    """Whether rotary angles of a sequence of so many tokens are others than of a short one's."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    kinds = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    return any(length > kind["original_max_position_embeddings"] for kind in kinds)


def _dtype(model) -> str:
    return str(model.dtype).removeprefix("torch.")
