"""Log-likelihoods of token sequences under a causal language model, three exact ways.

    packed   one pass over a packed sequence (`l2m.language_models.packing`): attention models
    prefix   the window in pieces, its cache copied at each split: recurrent and hybrid models
    whole    every sequence from its beginning: any causal model

All three turn the model's last hidden states into log-probabilities of the target tokens in chunks,
so logits of shape (b, T, M) never exist; the softmax is taken in fp32.
"""

import copy
import inspect
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import pad

from l2m.language_models.packing import PackedAttention, compiled, continuation_length

TOLERANCE = {"float32": 1e-3, "float64": 1e-6, "bfloat16": 0.05, "float16": 0.01}  # nats per token
LOGITS_BYTES = 1 << 29  # of fp32 logits at a time; a copy of them may live beside


def packed(model, windows, partners, splits, ratio, bos, attention: PackedAttention) -> dict:
    """All log-likelihoods of `windows` (b, T), with `partners` (k, b, T), in one packed pass.

    Returns float32 tensors: `("joint",)` (b, T), `("marginal", ℓ)` and `("shuffled", ℓ, k)` (b, m).
    """
    row, layout = pad(torch.cat([windows, *partners], 1), (1, 0), value=bos), attention.layout
    positions = torch.as_tensor(layout.positions, device=row.device)[None]
    with attention.installed(model):
        hidden = hidden_states(model, input_ids=row[:, layout.inputs], position_ids=positions)
    values = log_likelihood(model, hidden[:, layout.sources], row[:, layout.targets])
    return {name: values[:, run.start : run.stop] for name, run in layout.branches.items()}


def prefix(model, windows, partners, splits, ratio, bos, attention=None) -> dict:
    """The same, feeding the window piece by piece and copying the model's cache at each split."""
    row, length = pad(windows, (1, 0), value=bos), windows.shape[1]
    out, hidden, cache = {}, [], None
    edges = [0, *[split + 1 for split in splits], length]
    for (begin, end), split in zip(pairwise(edges), [*splits, None], strict=True):
        if end > begin:
            piece, cache = hidden_states(model, input_ids=row[:, begin:end], cache=cache or True)
            hidden.append(piece)
        if split is None:
            break
        m = continuation_length(length, split, ratio)
        out["marginal", split] = sequences(model, windows[:, split : split + m], bos)
        for k, partner in enumerate(partners):
            tokens, last = partner[:, split : split + m], hidden[-1][:, -1:]
            if m > 1:
                own = copy.deepcopy(cache)
                branch, _ = hidden_states(model, input_ids=tokens[:, :-1], cache=own)
                last = torch.cat([last, branch], 1)
            out["shuffled", split, k] = log_likelihood(model, last, tokens)
    out["joint",] = log_likelihood(model, torch.cat(hidden, 1), windows)
    return out


def whole(model, windows, partners, splits, ratio, bos, attention=None) -> dict:
    """The same, every sequence from its beginning (no longer than needed)."""
    length = windows.shape[1]
    out = {("joint",): sequences(model, windows, bos)}
    for split in splits:
        m = continuation_length(length, split, ratio)
        out["marginal", split] = sequences(model, windows[:, split : split + m], bos)
        for k, partner in enumerate(partners):
            swapped = torch.cat([windows[:, :split], partner[:, split : split + m]], 1)
            out["shuffled", split, k] = sequences(model, swapped, bos)[:, split:]
    return out


def sequences(model, tokens, bos):
    """log q(w_t | BOS, w_<t) of `tokens` (b, t): a float32 tensor (b, t), nats."""
    return log_likelihood(model, hidden_after_bos(model, tokens, bos), tokens)


def hidden_after_bos(model, tokens, bos):
    """Last hidden states (b, t, width) from which each of `tokens` (b, t) is predicted."""
    return hidden_states(model, input_ids=pad(tokens[:, :-1], (1, 0), value=bos))


def hidden_states(model, *, cache=None, **inputs):
    """Last hidden states (b, t, width) of the model's body; with `cache`, also the new cache.

    `cache=True` starts one; positions continue those of the cache; `inputs` are those of the body.
    """
    inner = body(model)
    if cache is None:
        return inner(**inputs, use_cache=False).last_hidden_state
    takes = inspect.signature(inner.forward).parameters
    name = "cache_params" if "cache_params" in takes else "past_key_values"
    if cache is not True:
        inputs[name] = cache
    out = inner(**inputs, use_cache=True)
    return out.last_hidden_state, getattr(out, name)


def log_likelihood(model, hidden, targets):
    """log q(target | hidden) (b, t): a float32 tensor, nats; logits in chunks, softmax in fp32."""
    head = model.get_output_embeddings()
    flat = hidden.reshape(-1, hidden.shape[-1]).to(head.weight.device)  # of a sharded model
    if head.weight.dtype in (torch.bfloat16, torch.float16, torch.float32):
        flat = flat.to(head.weight.dtype)  # a Mamba's last norm is in fp32
    wanted = targets.reshape(-1).to(flat.device)
    chunk = max(1, LOGITS_BYTES // (4 * head.weight.shape[0]))
    out = torch.empty(len(flat), dtype=torch.float32, device=flat.device)
    pick = compiled(_pick) if flat.is_cuda else _pick
    for i in range(0, len(flat), chunk):
        logits = _logits(model, head, flat[i : i + chunk])
        out[i : i + chunk] = pick(logits, wanted[i : i + chunk])
    return out.view(targets.shape)


def _pick(logits, wanted):
    return logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1)


def _logits(model, head, hidden):
    """fp32 logits (t, M), with the scalings and caps that some families put after the head."""
    reduced = hidden.dtype in (torch.bfloat16, torch.float16)
    whole = not hasattr(head.weight, "to_local")  # no tensor-parallel part
    if hidden.is_cuda and reduced and whole and head.bias is None:
        # fp32 out of the matrix units: logits rounded to bf16 would be off by up to 0.06 nats
        logits = torch.mm(hidden, head.weight.T, out_dtype=torch.float32)
    else:
        logits = head(hidden).float()
    config = model.config.get_text_config()
    for name in ("logit_scale", "lm_head_multiplier", "logits_scaling"):
        if (scale := getattr(config, name, None)) is not None:
            logits = logits / scale if name == "logits_scaling" else logits * scale
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if (cap := getattr(config, name, None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    return logits


def body(model):
    """The model without its output head; also of a `VectorModel`."""
    inner = getattr(model, "backbone", None) or model.base_model
    if inner is model:  # a class whose own name for it is not the one it was given, or a body
        inner = getattr(model, "model", model)
    return getattr(inner, "language_model", inner)


def exact_way(model, method, batch, rows, bos):
    """The named way, or the first of packed, prefix, whole that agrees with whole passes.

    `batch(way, rows)` gives the values, windows and partners of `rows`; none of these, no check.
    """
    ways = [packed, prefix, whole]
    if method != "auto":
        ways = [way for way in ways if way.__name__ == method]
        if not ways:
            raise ValueError(f"unknown method {method!r}: 'packed', 'prefix', 'whole' or 'auto'")
    elif getattr(model, "_is_stateful", False) or not model._supports_attention_backend:
        ways = ways[1:]  # a recurrent state cannot be packed, nor attention that we cannot replace
    if not len(rows):  # prefix reuse is not taken unchecked, unless it was asked for
        return ways[-1] if method == "auto" and ways[0] is prefix else ways[0]
    tolerance = TOLERANCE[str(model.dtype).removeprefix("torch.")]
    for way in ways:
        try:
            difference = disagreement(model, *batch(way, rows), bos)
            problem = f"differs from whole passes by {difference:.2g} nats per token"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            difference, problem = np.inf, f"failed ({error})"
        if difference <= tolerance:
            return way
        if way is not ways[-1]:
            warnings.warn(f"{way.__name__} scoring {problem}; trying another way", stacklevel=3)
    cure = "report this model family"
    if method != "auto":
        cure = f"pass method='auto' to let another way be tried, or {cure}"
    raise RuntimeError(
        f"{way.__name__} scoring of {type(model).__name__} {problem}, more than {tolerance}: {cure}"
    )


def disagreement(model, values: dict, windows, partners, bos) -> float:
    """Largest difference, nats per token, from whole passes through the model's own forward.

    Each value of a batch is compared with an unpacked sequence scored by `model(...)` itself, head
    and all, at positions few enough that the logits stay within `LOGITS_BYTES`. In bf16 and fp16
    single tokens differ by rounding alone; there it is the mean difference, of the kind of value
    (joint, marginal, shuffled) that has the largest.
    """
    budget = LOGITS_BYTES // (4 * len(windows) * model.get_output_embeddings().weight.shape[0])
    some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
    differences: dict[str, list] = {}
    for (kind, *which), got in values.items():
        m, split = got.shape[1], which[0] if which else 0
        tokens = windows[:, split : split + m]
        if kind == "shuffled":
            partner = partners[which[1]][:, split : split + m]
            tokens = torch.cat([windows[:, :split], partner], 1)
        first = tokens.shape[1] - m
        at = np.unique(np.linspace(first, tokens.shape[1] - 1, max(1, min(m, budget))).astype(int))
        at = torch.as_tensor(at, device=tokens.device)
        inputs = pad(tokens[:, :-1], (1, 0), value=bos)
        if some_logits:
            logits = model(inputs, use_cache=False, logits_to_keep=at).logits
        else:
            logits = model(inputs, use_cache=False).logits[:, at]
        expected = logits.float().log_softmax(-1).gather(2, tokens[:, at, None])[..., 0]
        difference = (expected - got[:, at - first]).abs().flatten()
        differences.setdefault(kind, []).append(difference)
    exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
    summary = torch.max if exact else torch.mean
    return max(float(summary(torch.cat(parts))) for parts in differences.values())
