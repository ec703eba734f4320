"""Log-likelihoods of token sequences under a causal language model, three exact ways.

    packed   one pass over a packed sequence (`l2m.language_models.packing`): attention models
    prefix   the window in pieces, its cache copied at each split: recurrent and hybrid models
    whole    every sequence from its beginning: any causal model

All three turn last hidden states into log-probabilities of the targets without logits of shape
(b, T, M): in chunks, or by one kernel where a GPU and the model's head allow. The softmax is taken
in fp32.
"""

import copy
import importlib.util
import inspect
from itertools import pairwise

import torch
from torch.nn.functional import pad

from l2m.language_models.packing import PackedAttention, compiled, continuations

LOGITS_BYTES = 1 << 29  # of fp32 logits at a time; a copy of them may live beside
ROWS, COLUMNS, INNER, STAGES = 128, 256, 64, 3  # of the kernel's tiles, the fastest of 18 tried
SCALES = "logit_scale", "lm_head_multiplier", "logits_scaling"  # what a config may call them
CAPS = "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"

if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    @triton.jit
    def _log_softmax(
        hidden, weight, targets, out, n, M,
        D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
    ):  # fmt: skip
        """A program has some rows, and goes through the vocabulary with a running logsumexp."""
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inner = tl.arange(0, INNER)
        target = tl.load(targets + row % n)[:, None]
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        total, picked = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        rows = hidden + (row % n)[:, None].to(tl.int64) * D + inner[None, :]
        for first in range(0, M, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            columns = weight + (column % M)[None, :].to(tl.int64) * D + inner[:, None]
            logits = tl.zeros((ROWS, COLUMNS), tl.float32)
            for d in range(0, D, INNER):
                logits = tl.dot(tl.load(rows + d), tl.load(columns + d), logits)
            logits = tl.where((column < M)[None, :], logits, float("-inf"))
            picked += tl.sum(tl.where(column[None, :] == target, logits, 0.0), 1)
            higher = tl.maximum(top, tl.max(logits, 1))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
            top = higher
        tl.store(out + row, picked - top - tl.log(total), mask=row < n)


def packed(model, windows, partners, splits, ratio, bos, warm, attention: PackedAttention) -> dict:
    """All log-likelihoods of `windows` (b, T), with `partners` (k, b, T), in one packed pass.

    Returns float32 tensors: `("joint",)` (b, T), and of (b, m) `("marginal", ℓ)`, of the own
    continuation, `("shuffled", ℓ, k)`, of partner k's after ℓ own tokens, and `("warm", ℓ, c)`, of
    the first partner's after the first c of them, for each c < ℓ of `warm`.
    """
    row = pad(torch.cat([windows, *partners], 1), (1, 0), value=bos)
    layout, last = attention.on(row.device), windows.shape[1] - 1
    positions = layout.positions[None].clamp(max=last)  # the place after it need not be there
    with attention.installed(model):
        hidden = hidden_states(model, input_ids=row[:, layout.inputs], position_ids=positions)
    sources = attention.on(hidden.device).sources  # of a sharded model the last GPU
    values = log_likelihood(model, hidden[:, sources], row[:, layout.targets])
    return {name: values[:, run.start : run.stop] for name, run in layout.branches.items()}


def prefix(model, windows, partners, splits, ratio, bos, warm=(), attention=None) -> dict:
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
        for k, partner in enumerate(partners):
            tokens, last = partner[:, split : ratio * split], hidden[-1][:, -1:]
            if tokens.shape[1] > 1:
                own = copy.deepcopy(cache)
                branch, _ = hidden_states(model, input_ids=tokens[:, :-1], cache=own)
                last = torch.cat([last, branch], 1)
            out["shuffled", split, k] = log_likelihood(model, last, tokens)
    out["joint",] = log_likelihood(model, torch.cat(hidden, 1), windows)
    rows = [windows, *partners]
    for name, part, past, which in continuations(length, splits, ratio, len(partners), warm):
        if name not in out:
            out[name] = after(model, windows[:, :past], rows[which][:, part], bos)
    return out


def whole(model, windows, partners, splits, ratio, bos, warm=(), attention=None) -> dict:
    """The same, every sequence from its beginning (no longer than needed)."""
    length, rows = windows.shape[1], [windows, *partners]
    out = {("joint",): sequences(model, windows, bos)}
    for name, part, past, which in continuations(length, splits, ratio, len(partners), warm):
        out[name] = after(model, windows[:, :past], rows[which][:, part], bos)
    return out


def after(model, past, tokens, bos):
    """log q of tokens (b, m) after BOS and a past (b, c) of the same or other windows: nats."""
    return sequences(model, torch.cat([past, tokens], 1), bos)[:, past.shape[1] :]


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
    if _fits_kernel(model, head, flat):
        return kernel_log_likelihood(flat, head.weight, wanted).view(targets.shape)
    chunk = max(1, LOGITS_BYTES // (4 * head.weight.shape[0]))
    out = torch.empty(len(flat), dtype=torch.float32, device=flat.device)
    for i in range(0, len(flat), chunk):
        logits = _logits(model, head, flat[i : i + chunk])
        pick = compiled(_pick) if flat.is_cuda and len(logits) == chunk else _pick  # for one shape
        out[i : i + chunk] = pick(logits, wanted[i : i + chunk])
    return out.view(targets.shape)


def _pick(logits, wanted):
    return logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1)


def _plain_half(head, hidden) -> bool:
    """Whether a head is one matrix on a GPU, in half precision."""
    reduced = hidden.dtype in (torch.bfloat16, torch.float16)
    whole = not hasattr(head.weight, "to_local")  # no tensor-parallel part
    return hidden.is_cuda and reduced and whole and head.bias is None


def _fits_kernel(model, head, hidden) -> bool:
    """Whether `kernel_log_likelihood` can have its place."""
    config, fits = model.config.get_text_config(), hidden.shape[-1] % INNER == 0
    fits &= all(getattr(config, name, None) is None for name in (*SCALES, *CAPS))
    if not (fits and _plain_half(head, hidden) and importlib.util.find_spec("triton")):
        return False
    about = torch.cuda.get_device_properties(hidden.device)
    memory = getattr(about, "shared_memory_per_block_optin", 0)
    return memory >= 2 * STAGES * INNER * (ROWS + COLUMNS)


def kernel_log_likelihood(hidden, weight, targets):
    """log softmax(hidden (n, d) · weight (M, d)ᵀ)[targets (n,)], (n,) in fp32; d a multiple of 64.

    The logits stay in a program's registers: to write them out and read them takes longer than the
    product. On an H200 half the time of chunks of logits, and of `cut-cross-entropy` 25.1.
    """
    out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    sizes = len(hidden), *weight.shape, ROWS, COLUMNS, INNER
    tensors = hidden.contiguous(), weight.contiguous(), targets, out
    grid = (triton.cdiv(len(hidden), ROWS),)
    with torch.cuda.device_of(hidden):  # of a sharded model the last GPU, which is not the current
        _log_softmax[grid](*tensors, *sizes, num_warps=8, num_stages=STAGES)
    return out


def _logits(model, head, hidden):
    """fp32 logits (t, M), with the scalings and caps that some families put after the head."""
    if _plain_half(head, hidden):
        # fp32 out of the matrix units: logits rounded to bf16 would be off by up to 0.06 nats
        logits = torch.mm(hidden, head.weight.T, out_dtype=torch.float32)
    else:
        logits = head(hidden).float()
    config = model.config.get_text_config()
    for name in SCALES:
        if (scale := getattr(config, name, None)) is not None:
            logits = logits / scale if name == "logits_scaling" else logits * scale
    for name in CAPS:
        if (cap := getattr(config, name, None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    return logits


def body(model):
    """The model without its output head; also of a `VectorModel`."""
    inner = getattr(model, "backbone", None) or model.base_model
    if inner is model:  # a class whose own name for it is not the one it was given, or a body
        inner = getattr(model, "model", model)
    return getattr(inner, "language_model", inner)
