"""Score windows of text with a language model at every split: what both estimators of I_BP need.

A window W_{1:T} is cut at each split ℓ into X = W_{1:ℓ} and Y = W_{ℓ+1:rℓ}. Three log-likelihoods
are wanted of every token of Y (Eqs. 6 and 7 of {cite:t}`chen2025l2m`): after X (`joint`), after BOS
alone (`marginal`), and, for the continuation Y' of a *partner* window, after X (`shuffled`).

`score` gets them in the fastest exact way that the model allows (`likelihood`), once it trusts the
model (`trust`), or from a server (`served`). `score_whole` is the naive twin, for any density.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np

from l2m.information.resampling import is_integer, members
from l2m.language_models.models import model_sha256
from l2m.results import Shards

COMPILE_FROM = 1 << 26  # packed tokens; compiling layers takes as long as 2^25 of them without


@dataclass
class Scores:
    """Log-likelihoods (nats, float32) of n windows of T tokens, with m = min((ratio−1)·ℓ, T−ℓ)."""

    joint: np.ndarray  # (n, T): log q(w_t | BOS, w_<t)
    marginal: dict[int, np.ndarray]  # by ℓ, (n, m): log q(w_{ℓ+j} | BOS, w_{ℓ+1} … w_{ℓ+j−1})
    shuffled: dict[int, np.ndarray]  # by ℓ, (n, m): the partner's Y' after the own first ℓ tokens
    partners: np.ndarray  # (n,): the window of Y'; of k partners (k, n), and above (k, n, m)
    ratio: int  # the largest L/ℓ; smaller ones can be read from the same numbers
    groups: np.ndarray | None = None  # (n,): the book of each window
    # by (ℓ, c), (n, m): log q(w_{ℓ+j} | BOS, c tokens of another window, w_{ℓ+1} … w_{ℓ+j−1})
    warm: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def splits(self) -> list[int]:
        return sorted(self.marginal)

    @property
    def books(self) -> np.ndarray:
        """(n,) the book of each window; each its own where there are no groups."""
        return np.arange(len(self.joint)) if self.groups is None else np.asarray(self.groups)


def powers_of_two(length: int, ratio: int = 2) -> list[int]:
    """The paper's splits: ℓ = 2, 4, 8, … as long as ratio·ℓ ≤ length."""
    return [2**k for k in range(1, length.bit_length()) if ratio * 2**k <= length]


def partner_permutation(n: int, groups=None, k: int = 1, seed: int = 0) -> np.ndarray:
    """Partners of n windows: k permutations (k, n), or (n,) for k = 1, never within a group.

    A permutation gives every continuation exactly once, so that its own marginal can be subtracted
    from both terms of vCLUB without moving the mean. ValueError if one group holds more than half
    of the windows, or there are fewer than k such permutations.
    """
    if not is_integer(k) or k < 1:
        raise ValueError(f"a window needs an integer number of partners, at least one, not {k!r}")
    rng = np.random.default_rng(seed)
    groups, _ = members(groups, n)
    order = rng.permutation(n)
    shuffled = rng.permutation(n)  # neighbours on the shelf are alike: books in random order
    order = order[np.argsort(shuffled[groups[order]], kind="stable")]
    # shifted cyclically by at least the largest group, no window stays within its own
    largest = np.unique(groups, return_counts=True)[1].max() if n else 0
    shifts = np.arange(largest, n - largest + 1)
    if len(shifts) < k:
        problem = f"do not give {k} partner(s) from other books each"
        cure = "take windows from more books, or as many from each"
        raise ValueError(f"{n} windows, {largest} of them from one book, {problem}: {cure}")
    out = np.empty((k, n), dtype=np.int64)
    for row, shift in zip(out, rng.choice(shifts, k, replace=False), strict=True):
        row[order] = np.roll(order, -shift)
    return out[0] if k == 1 else out


def score_whole(log_prob, windows, splits, ratio=2, partners=None, groups=None) -> Scores:
    """Score windows under any density, every sequence whole: the definition, and the naive twin.

    `log_prob` takes (n, t) tokens to the log-likelihood of each given those before it (and BOS, if
    the density has one), (n, t), nats. Others as in `score`.
    """
    windows, groups, splits, partners = checked_windows(
        windows, groups, splits, ratio, partners, 1, 0
    )
    marginal, shuffled = {}, {}
    for split in splits:
        end = min(ratio * split, windows.shape[1])
        marginal[split] = np.asarray(log_prob(windows[:, split:end]))
        x = windows[:, :split]
        swapped = [np.hstack([x, windows[row, split:end]]) for row in np.atleast_2d(partners)]
        values = np.stack([np.asarray(log_prob(tokens))[:, split:] for tokens in swapped])
        shuffled[split] = values.reshape(*partners.shape, -1)
    joint = np.asarray(log_prob(windows))
    for values in (joint, *marginal.values(), *shuffled.values()):
        if np.isnan(values).any():  # −∞ is what cannot be: a density may say so
            *_, window, token = np.argwhere(np.isnan(values))[0]
            raise ValueError(f"log_prob of window {window}, token {token} of a part, is no number")
    return Scores(joint, marginal, shuffled, partners, ratio, groups)


def score(
    model,
    windows,
    splits=None,
    ratio=2,
    partners=None,
    bos_token_id=None,
    *,
    groups=None,
    n_partners=1,
    warm=(),
    seed=0,
    method="auto",
    batch_size=None,
    compile_layers=None,
    check=2,
    folder=None,
    progress=True,
) -> Scores:
    """Log-likelihoods of windows under a causal language model, at every split.

    `model` is from `load_model`, or a `ServedModel`, which `method`, `batch_size` and
    `compile_layers` do not concern.

    `windows` are (n, T) token ids without BOS, T at most the model's context, with `groups`, the
    book of each (n,); or `Corpus.windows`, which has both. `splits` are the ℓ's, by default 2, 4,
    8, … with `ratio`·ℓ ≤ T; the continuation of ℓ has (`ratio`−1)·ℓ tokens, cut at the window's
    end. `partners`, (n,) or (k, n) window indices, are by default `n_partners` permutations that
    never stay within a group, drawn with `seed`. Every sequence starts with `bos_token_id`, by
    default the model's own.

    After BOS a model expects a beginning, which Y is not. So for each c of `warm`, a positive
    integer, Y is also scored after BOS and the first c tokens of another book: those of the window
    whose first partner it is, or ℓ if these are fewer. Whatever text comes before, that is a
    density of Y.

    `method` is "packed", "prefix", "whole" (see `likelihood`), or "auto": the first that is exact.
    So many windows as `check` says, 0 for none, spread over the run, and made-up ones of its other
    tokens (one for 16 windows at most) are compared with whole passes. `batch_size` is windows per
    pass, by default as many as suit the device. To compile the layers (`compile_layers`, on a GPU)
    takes a minute once, and makes passes half as fast again; by default if there is enough to
    score. In `folder` finished shards are kept: a run that was killed goes on from there, and the
    processes of `torchrun` share them.

    Raises ValueError if a window exceeds the model's context, a token the vocabulary, a split the
    window; UntrustedModel if the model is not causal, or a score is not finite; RuntimeError if no
    way agrees with whole passes, a shard is damaged, or another run uses the folder or filled it.
    """
    import torch

    from l2m.language_models import packing
    from l2m.language_models.served import SHARD, ServedModel
    from l2m.language_models.trust import exact_way, made_up, require_causal, require_finite

    windows, groups, splits, partners = checked_windows(
        windows, groups, splits, ratio, partners, n_partners, seed, model
    )
    bos = bos_token(model, bos_token_id)
    n, length = windows.shape
    partner_rows = np.atleast_2d(partners)  # (k, n)
    warm = checked_warm(warm)
    if warm and (np.sort(partner_rows[0]) != np.arange(n)).any():
        raise ValueError("warm needs partners[0] to be a permutation: every Y once")
    settings = {"windows": windows, "partners": partners, "splits": splits, "ratio": ratio}
    settings |= {"bos_token_id": bos} | ({"warm": warm} if warm else {})
    settings |= {"model": model_sha256(model)} if folder else {}
    about = splits, warm, partners, ratio, groups
    if isinstance(model, ServedModel):
        with Shards(folder, settings, SHARD) as shards:
            model.fill(shards, windows, partner_rows, splits, ratio, bos, warm, check, progress)
            return _scores(shards.merged(), *about)
    device = model.get_input_embeddings().weight.device
    shape = length, tuple(splits), ratio, len(partner_rows), warm
    packed_length = packing.layout(*shape).length
    if compile_layers is None:
        compile_layers = n * packed_length >= COMPILE_FROM
    compile_layers = compile_layers and packing.PackedAttention.takes_flex(device)
    attention = packing.packed_attention(*shape, compile_layers)
    if batch_size is None:
        batch_size = max(1, (1 << (17 if device.type == "cuda" else 13)) // packed_length)
    batch_size = min(batch_size, n)
    checked = np.linspace(0, n - 1, min(check, n)).astype(int)
    extra = made_up(windows, checked, max(1, n // 16) if check else 0)
    tokens = torch.as_tensor(np.concatenate([windows, extra]))
    beside = np.tile(n + np.roll(np.arange(len(extra)), 1), (len(partner_rows), 1))
    beside = np.concatenate([partner_rows, beside], axis=1)
    checked = np.append(checked, range(n, len(tokens))).astype(int)

    def start(way, rows):
        """Ask the device for the values of some windows, without waiting for them."""
        wanted = len(rows)
        if device.type == "cuda":  # one shape for all batches, so that layers compile once
            rows = np.resize(rows, batch_size)
        own, others = sent(tokens[rows], device), sent(tokens[beside[:, rows]], device)
        try:
            values = way(model, own, others, splits, ratio, bos, warm, attention)
        except torch.OutOfMemoryError as error:
            much = f"{len(rows)} windows of {packed_length} packed tokens exceed the GPU's memory"
            cure = f"pass batch_size={max(1, len(rows) // 2)}"
            raise torch.OutOfMemoryError(f"{much}: {cure}") from error
        values = {key: x[:wanted] for key, x in values.items()}
        return values, rows[:wanted], own[:wanted], others[:, :wanted]

    def ahead(way, piece):
        values, *its = start(way, piece[1])
        return fetched(values), *its

    def batch(way, rows):
        values, rows, own, others = start(way, rows)
        require_finite(model, values, rows, own, others, n)
        return values, own, others

    settings |= {"method": method, "batch_size": batch_size}
    settings |= {"compile_layers": compile_layers, "device": device.type}
    with torch.inference_mode(), Shards(folder, settings, 4 * batch_size) as shards:
        missing = shards.missing()
        if missing:  # nothing is left to check of a finished folder
            require_causal(model, tokens[:1].to(device), bos)
            pieces = np.split(checked, range(batch_size, len(checked), batch_size))[: len(checked)]
            way = exact_way(model, method, batch, pieces, length, bos)
        rest = [
            (number, some)
            for number, rows in missing.items()
            for some in np.split(rows, range(batch_size, len(rows), batch_size))
        ]
        parts = defaultdict(list)
        with shards.bar(progress) as bar:
            for (number, some), (arrive, *its) in one_ahead(lambda piece: ahead(way, piece), rest):
                values = arrive()
                require_finite(model, values, *its, n)
                parts[number].append({k: x.numpy() for k, x in values.items()})
                bar.update(len(some))
                if len(parts[number]) * batch_size >= len(missing[number]):
                    done = parts.pop(number)
                    shards.write(number, {k: np.concatenate([p[k] for p in done]) for k in done[0]})
        return _scores(shards.merged(), *about)


def sent(tensor, device):
    """A CPU tensor on a device, which is not waited for."""
    import torch

    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # if not pinned, it would be


def fetched(values: dict):
    """Send tensors to the CPU behind what computes them: a function that waits, and returns them.

    Asked for later, they would be waited for until all that was started meanwhile is done.
    """
    import torch

    flat = torch.cat([x.float().flatten() for x in values.values()])
    cuda = flat.is_cuda
    host = torch.empty(flat.shape, pin_memory=cuda).copy_(flat, non_blocking=cuda)
    if cuda:
        with torch.cuda.device_of(flat):
            arrived = torch.cuda.Event()
            arrived.record()

    def arrive():
        if cuda:
            arrived.synchronize()
        parts = host.split([x.numel() for x in values.values()])
        return {k: part.view(x.shape) for (k, x), part in zip(values.items(), parts, strict=True)}

    return arrive


def one_ahead(function, items):
    """Yield each item with function(item), once that of the next was called: no GPU waits."""
    waiting = deque()
    for item in items:
        waiting.append((item, function(item)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _scores(values, splits, warm, partners, ratio, groups) -> Scores:
    """Scores from the arrays of all shards."""
    rows = np.atleast_2d(partners)
    own_row = np.argsort(rows[0])  # in which a window's Y stands as the partner's
    marginal, shuffled, after = {}, {}, {}
    for split in splits:
        marginal[split] = values["marginal", split]
        every = np.stack([values["shuffled", split, k] for k in range(len(rows))])
        shuffled[split] = every.reshape(*partners.shape, -1)
        for c in warm:  # by the window whose Y it is
            name = ("warm", split, c) if c < split else ("shuffled", split, 0)
            after[split, c] = values[name][own_row]
    return Scores(values["joint",], marginal, shuffled, partners, ratio, groups, after)


def checked_windows(windows, groups, splits, ratio, partners, n_partners, seed, model=None):
    """Windows, groups, splits and partners as arrays and lists, those not given by default.

    ValueError for what does not fit together, or the model: see `score`.
    """
    if hasattr(windows, "groups"):  # of `l2m.text.sequences.Windows`, which know their books
        groups = windows.groups if groups is None else groups
        windows = windows.tokens
    windows = np.asarray(windows)
    if windows.ndim != 2 or windows.size == 0 or not np.issubdtype(windows.dtype, np.integer):
        raise ValueError(f"windows must be integers of shape (n, T), not {windows.shape}")
    n, length = windows.shape
    if model is not None:
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and 0 < context < length:
            long = f"windows of {length} tokens exceed the model's context of {context}"
            raise ValueError(f"{long}: cut them")
        if windows.min() < 0 or windows.max() >= config.vocab_size:
            ids = f"token ids run from {windows.min()} to {windows.max()}"
            known = f"the model's vocabulary from 0 to {config.vocab_size - 1}"
            raise ValueError(f"{ids}, {known}: use the model's own tokenizer")
    if not is_integer(ratio) or not 2 <= ratio <= max(2, length):
        raise ValueError(f"ratio must be an integer from 2 to the length, {length}, not {ratio!r}")
    if wrong := [s for s in (() if splits is None else splits) if not is_integer(s)]:
        raise ValueError(f"splits must be integers, not {wrong[0]!r}")
    splits = powers_of_two(length, ratio) if splits is None else sorted({int(s) for s in splits})
    if not splits:
        short = f"windows of {length} tokens are too short for ℓ = 2 and L = {2 * ratio}"
        raise ValueError(f"there is no split to score: {short}, or the largest split is below 2")
    if splits[0] < 1 or splits[-1] >= length:
        raise ValueError(f"splits must lie between 1 and {length - 1}, not {splits}")
    if groups is not None:
        members(groups, n)
    if partners is None:
        partners = partner_permutation(n, groups, n_partners, seed)
    partners = np.asarray(partners)
    whole = partners.dtype.kind in "ui" and partners.shape[-1:] == (n,) and partners.size
    if not whole or partners.min() < 0 or partners.max() >= n:
        raise ValueError(f"partners must be indices below {n} of shape ({n},) or (k, {n})")
    if (own := np.argwhere(partners == np.arange(n))).size:
        raise ValueError(f"window {own[0, -1]} is its own partner: give it one of another book")
    return windows.astype(np.int64), groups, splits, partners


def checked_warm(warm) -> tuple[int, ...]:
    """Numbers of foreign tokens, each once, in order; ValueError for what is none."""
    warm = tuple(sorted(set(warm)))
    if any(isinstance(c, bool) or c != int(c) or c < 1 for c in warm):
        raise ValueError(f"warm holds numbers of tokens, each at least 1, not {list(warm)}")
    return warm


def bos_token(model, bos_token_id) -> int:
    """The id that sequences begin with, by default the model's own; ValueError if it has none."""
    config = model.config.get_text_config()
    bos = config.bos_token_id if bos_token_id is None else bos_token_id
    if bos is None:
        cure = "give its id (--bos, bos_token_id=…), often that of its EOS token"
        raise ValueError(f"the model names no BOS token: {cure}")
    if not 0 <= bos < config.vocab_size:
        raise ValueError(f"the BOS token is from 0 to {config.vocab_size - 1}, not {bos}")
    return int(bos)
