"""Recurrent models whose whole memory is d scalars of b bits: Theorem 5.2, put to the test.

A model reads token x_t with the state z_t, both of which it may use to predict x_{t+1}, and writes
the next state; z_ℓ is thus a function of x_{1:ℓ−1} (Definition 5.1). Its scalars take one of 2^b
values each: with the last token I_BP^q ≤ d·b·log 2 + log M. The position is given for free. What of
the mutual information a model captures is I_BP minus its Kullback-Leibler divergence from a source
that is known exactly: data processing keeps it below I(z_ℓ, x_ℓ ; Y), and so below the bound.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn


class Bottlenecks(nn.Module):
    """One gated recurrent model per entry of `dims`, the d's, run side by side as one batch.

    `length` is L, the number of positions, `bits` b of each scalar, `seed` that of the weights.
    """

    def __init__(self, vocab_size, length, dims, bits=1, seed=0):
        super().__init__()
        self.vocab_size, self.bits = vocab_size, bits
        generator = torch.Generator().manual_seed(seed)
        d = max(*dims, 1)

        def weight(rows, columns, scale):
            return nn.Parameter(torch.randn(len(dims), rows, columns, generator=generator) * scale)

        # What a token at its position asks to be written and says of the next; how the state acts
        # on both. Positions have weights of their own.
        self.token_write = weight(length * vocab_size, 2 * d, 1.0)
        self.state_write = weight(d, 2 * d, 0.1)
        self.token_read = weight(length * vocab_size, vocab_size, 0.1)
        self.state_read = weight(length * d, vocab_size, d**-0.5)
        self.register_buffer("own", torch.arange(d) < torch.tensor(dims)[:, None, None])

    def forward(self, tokens, start=0):
        """log q(x_{t+1} | x_{1:t}) of tokens (n, T) for t >= start: (models, n, T − start, M)."""
        models, _, d = self.own.shape
        z = torch.zeros(models, len(tokens), d)
        log_q = []
        for t in range(tokens.shape[1]):
            at = t * self.vocab_size + tokens[:, t]
            if t >= start:
                seen = self.token_read[:, at] + z @ self.state_read[:, t * d : (t + 1) * d]
                log_q.append(torch.log_softmax(seen, dim=-1))
            gate, value = (self.token_write[:, at] + z @ self.state_write).chunk(2, dim=-1)
            gate = torch.sigmoid(gate)
            z = quantise((1 - gate) * z + gate * torch.tanh(value), self.bits) * self.own
        return torch.stack(log_q, dim=2)


def quantise(z, bits):
    """Round values in [−1, 1] to 2^bits evenly spaced ones; gradients pass straight through."""
    steps = 2**bits - 1
    rounded = ((z.clamp(-1, 1) + 1) / 2 * steps).round() / steps * 2 - 1
    return z + (rounded - z).detach()


def captured_mi(model, source, split, length, n, rng):
    """I_BP − E[log p(Y|X) − log q(Y|X)] over n windows, nats, and its error: (models,) each."""
    windows = source.sample(n, length, rng)
    with torch.inference_mode():
        log_q = _log_prob(model, torch.as_tensor(windows), split).numpy().astype(float)
    gap = source.log_prob(windows)[:, split:].sum(axis=1) - log_q
    return source.bipartite_mi(split, length) - gap.mean(axis=1), gap.std(axis=1) / np.sqrt(n)


def train_bottlenecks(
    source, split, length, dims, bits=1, *, steps=1500, batch=128, lr=3e-2, seed=0
):
    """Train models with states of `dims` scalars to predict Y from X; measure what they capture.

    `source` is one of `l2m.sources`; X is the first ℓ = `split` tokens, Y the other L − ℓ. The seed
    also makes the training windows, fresh ones every step of Adam, whose rate falls as a cosine.
    DataFrame ``dim, bits, captured, stderr, mi, bound``, in nats; one row per model.
    """
    rng = np.random.default_rng(seed)
    model = Bottlenecks(source.vocab_size, length, dims, bits, seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        tokens = torch.as_tensor(source.sample(batch, length, rng))
        loss = -_log_prob(model, tokens, split).mean(dim=1).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(len(dims)))
        optimiser.step()
        schedule.step()
    fresh = np.random.default_rng(~seed % 2**32)
    captured, stderr = captured_mi(model, source, split, length, 4096, fresh)
    bound = np.array(dims) * bits * np.log(2) + np.log(source.vocab_size)
    table = {"dim": dims, "bits": bits, "captured": captured, "stderr": stderr}
    return pd.DataFrame(table | {"mi": source.bipartite_mi(split, length), "bound": bound})


def _log_prob(model, tokens, split):
    """log q(Y|X) of every window and model, (models, n)."""
    log_q = model(tokens[:, :-1], start=split - 1)
    target = tokens[None, :, split:, None].expand(len(log_q), -1, -1, -1)
    return log_q.gather(-1, target).squeeze(-1).sum(dim=-1)
