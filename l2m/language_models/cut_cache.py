"""A cache with a budget: what follows a cut, scored with part of the cache for all of its past.

A window is cut at ℓ. The model reads BOS and X = w₁ … w_ℓ with all of its attention. Then the
ℓ + 1 entries of its cache are cut to K, or stored in fewer bits, and Y = w_{ℓ+1} … w_{2ℓ} is scored
with these for a past: they are the history state, and Y's own tokens are all kept. A *cut* is a
policy and a size K:

    window   the last K entries
    sink     BOS and the last K − 1 {cite}`xiao2024sinks`
    heavy    in each layer and key/value head, the K that X's queries attended to most, all together
    h2o      the last K/2, and the heaviest others {cite}`zhang2023h2o`
    snap     the last 32 (K/2 if that is less), and those they attended to most {cite}`li2024snapkv`
    bits     all entries; keys and values in K bits, from least to greatest of a token and head

The first token of Y is predicted by X's last output, which was made before the cut, as when a text
is generated; it is what the state bound counts as log M.
"""

from fractions import Fraction
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from l2m.language_models import trust
from l2m.language_models.likelihood import after, hidden_states, log_likelihood, sequences
from l2m.language_models.models import model_sha256
from l2m.language_models.packing import attending
from l2m.language_models.scoring import bos_token, checked_warm, checked_windows
from l2m.results import Shards

ATTENTION = "l2m_cut"
POLICIES = ("window", "sink", "heavy", "h2o", "snap")
OBSERVERS = 32  # the queries that `snap` asks
SCALE = torch.float16  # of a quantised row's least value and step
WATCHED = {"cpu": 1 << 24, "cuda": 1 << 28}  # attention weights at a time, in fp32
TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}  # of Y, of all windows and cuts, in one pass


def cuts_at(split: int, budgets, policies=POLICIES, bits=(2, 4, 8)) -> list[tuple[str, int]]:
    """The cuts of a split ℓ: policies at each budget, K from 1, or below 1 a share of ℓ; and bits.

    Of budgets those that are whole numbers of entries, at most ℓ. ValueError for what is no budget,
    a policy of another name, or other than 1 to 8 bits.
    """
    budgets = [Fraction(budget) for budget in budgets]
    if wrong := [str(budget) for budget in budgets if budget <= 0]:
        raise ValueError(f"a budget is a number of entries, or a share of ℓ, not {wrong[0]}")
    if wrong := set(policies) - {*POLICIES}:
        raise ValueError(f"policies are {', '.join(POLICIES)}, not {', '.join(sorted(wrong))}")
    if wrong := [b for b in bits if b not in range(1, 9)]:
        raise ValueError(f"keys and values are stored in 1 to 8 bits, not {wrong[0]}")
    sizes = {budget if budget >= 1 else budget * split for budget in budgets}
    sizes = sorted(int(k) for k in sizes if k.denominator == 1 and k <= split)
    return [(policy, k) for k in sizes for policy in policies] + [("bits", b) for b in bits]


def cut_scores(
    model,
    windows,
    budgets,
    *,
    policies=POLICIES,
    bits=(2, 4, 8),
    warm=(),
    bos_token_id=None,
    groups=None,
    seed=0,
    batch_size=None,
    folder=None,
    progress=True,
) -> dict[tuple, np.ndarray]:
    """log q of the second halves of windows after caches that were cut, at every split: nats.

    `windows` are (n, T) token ids without BOS, or `Corpus.windows`; splits are 2, 4, 8, … ≤ T/2,
    and Y has ℓ tokens. At each, all cuts of `cuts_at`. Returns arrays (n,), float32:
    `(policy, ℓ, K)`, log q(Y | X cut); `("full", ℓ)`, log q(Y | X); `("first", ℓ)`, of Y's first
    token, which is the same in all of these; and `("warm", ℓ, c)`, log q(Y | BOS, c tokens of
    another book), for c = 0 and those of `warm`, as in `score`. `folder`, and others, as there.

    Raises ValueError for budgets, policies or bits that make no sense, or a model with a layer that
    has another state than keys and values of all of its past; others as `score`.
    """
    windows, groups, splits, partners = checked_windows(
        windows, groups, None, 2, None, 1, seed, model
    )
    bos, length = bos_token(model, bos_token_id), windows.shape[1]
    warm = checked_warm(warm)
    cuts = {split: cuts_at(split, budgets, policies, bits) for split in splits}
    if large := [str(b) for b in budgets if Fraction(b) > splits[-1]]:
        raise ValueError(f"a budget of {large[0]} entries cuts nothing: X has {splits[-1]} at most")
    device = model.get_input_embeddings().weight.device
    if batch_size is None:
        batch_size = max(1, (1 << (19 if device.type == "cuda" else 13)) // length)
    foreign = np.argsort(partners)  # whose past Y stands after, when it is the partner's
    tokens = torch.as_tensor(windows)
    settings = {"windows": windows, "partners": partners, "bos_token_id": bos, "warm": list(warm)}
    settings |= {"cuts": [[s, *c] for s in cuts for c in cuts[s]], "device": device.type}
    settings |= {"model": model_sha256(model)} if folder else {}

    def batch(rows):
        own, others = tokens[rows].to(device), tokens[foreign[rows]].to(device)
        values = cut_log_q(model, own, others, cuts, (0, *warm), bos)
        for key, x in values.items():
            if not x.isfinite().all():
                raise trust.UntrustedModel(f"log q of {key} is not finite: pass dtype='float32'")
        return values

    with torch.inference_mode(), Shards(folder, settings, batch_size) as shards:
        missing = shards.missing()
        if missing:
            _require_full_attention(model, length)
            trust.require_causal(model, tokens[:1].to(device), bos)
            _require_exact(model, tokens[:1].to(device), splits, bos)
        with shards.bar(progress) as bar:
            for number, rows in missing.items():
                values = batch(rows)
                shards.write(number, {key: x.cpu().numpy()[:, None] for key, x in values.items()})
                bar.update(len(rows))
        return {key: x[:, 0] for key, x in shards.merged().items()}


def cut_log_q(model, windows, foreign, cuts, warm, bos) -> dict[tuple, torch.Tensor]:
    """The values (b,) of `cut_scores`, of windows (b, T), after foreign ones (b, T).

    `cuts` are, by split, pairs of policy and size; `warm` are numbers of foreign tokens.
    """
    attention, joint, layers = _read(model, windows, [*cuts], bos)
    together, out = TOKENS[windows.device.type], {}
    for split, wanted in cuts.items():
        y = windows[:, split : 2 * split]
        out["first", split] = joint[:, split]
        out["full", split] = joint[:, split : 2 * split].sum(1)
        for c in warm:
            log_q = after(model, foreign[:, : min(c, split)], y, bos)
            out["warm", split, c] = log_q.double().sum(1)
        for _, group in groupby(wanted, key=lambda cut: _entries(cut, split)):
            group, step = [*group], max(1, together // y.numel())
            for some in (group[i : i + step] for i in range(0, len(group), step)):
                past = _past(some, layers, attention, split)
                rest = _log_q_after(model, past, y.repeat(len(some), 1), split, attention)
                for cut, log_q in zip(some, rest.sum(1).view(len(some), -1), strict=True):
                    out[cut[0], split, cut[1]] = joint[:, split] + log_q
    return {key: x.float() for key, x in out.items()}


def _read(model, windows, splits, bos):
    """What watched the windows (b, T), log q of all their tokens (b, T), keys and values."""
    attention = CutAttention(splits)
    with attending(model, ATTENTION, attention):
        inputs = pad(windows[:, :-1], (1, 0), value=bos)
        hidden, full = hidden_states(model, input_ids=inputs, cache=True)
    joint = log_likelihood(model, hidden, windows).double()
    return attention, joint, [(layer.keys, layer.values) for layer in full.layers]


def _past(cuts, layers, attention, split):
    """A cache of what cuts of as many entries leave at a split, one below the other."""
    past = DynamicCache()
    for number, layer in enumerate(layers):
        seen = [x[:, :, : split + 1] for x in layer]
        parts = [cut_entries(*cut, *seen, *attention.watched[number, split]) for cut in cuts]
        past.update(*map(torch.cat, zip(*parts, strict=True)), number)
    return past


def _entries(cut, split) -> int:
    """How many entries of the cache of ℓ + 1 a cut leaves."""
    return split + 1 if cut[0] == "bits" else cut[1]


def _log_q_after(model, past, y, split, attention):
    """log q (b, ℓ−1) of the tokens of Y (b, ℓ) but the first, with a cache for a past: nats."""
    positions = torch.arange(split + 1, split + y.shape[1], device=y.device)[None]
    inputs = {"input_ids": y[:, :-1], "position_ids": positions}
    with attending(model, ATTENTION, attention):
        hidden, _ = hidden_states(model, cache=past, **inputs)
    return log_likelihood(model, hidden, y[:, 1:]).double()


def cut_entries(policy, size, keys, values, attended, lately):
    """Keys and values (b, heads, n, d) of the entries that a policy keeps, (b, heads, K, d).

    `attended` and `lately`, (b, heads, n), are the attention of all queries, and of the last 32.
    """
    if policy == "bits":
        return quantised(keys, size), quantised(values, size)
    index = kept(policy, size, attended, lately)[..., None]
    return tuple(x.gather(2, index.expand(-1, -1, -1, x.shape[-1])) for x in (keys, values))


def kept(policy: str, size: int, attended, lately) -> torch.Tensor:
    """Indices (b, heads, K) of the entries that a policy keeps, of n: see `cut_entries`."""
    n = attended.shape[-1]
    worth = {"heavy": attended, "h2o": attended, "snap": lately}.get(policy)
    if worth is None:
        worth = torch.arange(n, dtype=torch.float32, device=attended.device).expand_as(attended)
    worth = worth.clone()
    if policy == "sink":
        worth[..., 0] = torch.inf
    recent = {"h2o": size // 2, "snap": min(size // 2, OBSERVERS)}.get(policy, 0)
    worth[..., n - recent :] = torch.inf
    return worth.topk(size, sorted=False).indices


def quantised(x, bits: int):
    """What is left of x (…, d) in so many bits per number: the nearest of 2^bits even steps.

    They lead from the least to the greatest of each row of d, kept as two fp16 numbers.
    """
    low, high = (edge.float() for edge in x.aminmax(dim=-1, keepdim=True))
    step = ((high - low) / (2**bits - 1)).to(SCALE).float()
    low = low.to(SCALE).float()
    code = ((x.float() - low) / step.clamp(min=1e-7)).round().clamp(0, 2**bits - 1)
    return (code * step + low).to(x.dtype)


class CutAttention:
    """An attention backend of transformers: a token sees all of the cache, and those before it.

    The first pass, of a whole window, is watched: `watched[layer, ℓ]` is the attention, in all and
    of the last 32 queries, that each of the first ℓ + 1 entries gets from those same, summed over
    the queries that share a key: two of (b, key/value heads, ℓ + 1), fp32.
    """

    def __init__(self, splits):
        self.splits, self.watched = splits, {}

    def __call__(self, module, query, key, value, mask, scaling=None, **options):
        for name in ("softcap", "s_aux", "position_bias", "alibi", "sliding_window"):
            if options.get(name) is not None:
                raise ValueError(f"{FULL}, and attention with {name!r} is another: {CURE}")
        if (module.layer_idx, self.splits[-1]) not in self.watched:
            self._watch(module.layer_idx, query, key, scaling)
        gqa = query.shape[1] != key.shape[1]
        mask = lower_right(query.shape[2], key.shape[2], query.device)
        out = scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=gqa)
        return out.transpose(1, 2), None

    def _watch(self, layer, query, key, scaling):
        most, begin = WATCHED[query.device.type], 0
        total = key.new_zeros(*key.shape[:2], self.splits[-1] + 1, dtype=torch.float32)
        for split in self.splits:
            step = max(1, most // (query.shape[0] * query.shape[1] * (split + 1)))
            while begin <= split:
                end = min(begin + step, split + 1)
                total[..., :end] += received(query[:, :, begin:end], key[:, :, :end], scaling)
                begin = end
            late = slice(max(0, split + 1 - OBSERVERS), split + 1)
            lately = received(query[:, :, late], key[:, :, : split + 1], scaling)
            self.watched[layer, split] = total[..., : split + 1].clone(), lately


def received(query, key, scaling):
    """The attention (b, k, s) that keys (b, k, s, d) get from queries (b, h, q, d), the last q."""
    (b, h, q, d), (_, k, s, _) = query.shape, key.shape
    grouped = query.float().reshape(b, k, (h // k) * q, d)  # of the heads that share a key
    scores = (grouped * scaling @ key.float().mT).view(b, k, h // k, q, s)
    future = torch.ones(q, s, dtype=torch.bool, device=query.device).triu(s - q + 1)
    return scores.masked_fill_(future, -torch.inf).softmax(-1).sum((2, 3))


@lru_cache(8)
def lower_right(queries: int, keys: int, device):
    """The mask of so many queries that are the last of the keys."""
    if device.type == "cuda":  # by which FlashAttention is taken
        return causal_lower_right(queries, keys)
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


FULL = "a cut cache is for full attention"
CURE = "take a model whose layers all have it"


def _require_full_attention(model, length) -> None:
    """ValueError for a model whose past is more, or less, than keys and values of every token."""
    name = type(model).__name__
    if getattr(model, "_is_stateful", False) or not model._supports_attention_backend:
        raise ValueError(f"{FULL}, and {name} has another state, or attention of its own: {CURE}")
    layers = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if layers - {DynamicLayer}:
        raise ValueError(f"{FULL}, and {name} has layers that keep less of their past: {CURE}")
    if trust.turns_by_length(model.config, length):
        raise ValueError(f"{name} turns long sequences by other angles than short ones: {CURE}")


def _require_exact(model, window, splits, bos) -> None:
    """RuntimeError unless a cache cut to all of its entries gives what the model itself gives."""
    split, whole = splits[-1], sequences(model, window, bos).double()
    attention, joint, layers = _read(model, window, splits, bos)
    past, y = _past([("window", split + 1)], layers, attention, split), window[:, split : 2 * split]
    cut = _log_q_after(model, past, y, split, attention)
    off = torch.cat([joint - whole, cut - whole[:, split + 1 : 2 * split]], 1).abs()
    off = trust.largest(model, off, torch.cat([whole, cut], 1))
    if not off <= trust.TOLERANCE[str(model.dtype).removeprefix("torch.")]:
        problem = f"differs from a whole pass by {off:.2g} nats per token: report this model family"
        raise RuntimeError(f"{type(model).__name__} with all of its cache {problem}")
