"""Gaussian sequences to train on, and the exact loss of a model on them (App. C and F).

A vector holds one number of each of several independent copies of a `GaussianFamily`. Its exact
conditional p(z_i | z_<i) is known, so that the loss is the Kullback-Leibler divergence itself.
"""

from math import e, pi

import numpy as np

from l2m.sources.gaussian import GaussianFamily


def conditional_kl(mean, deviation, q_mean, q_deviation):
    """KL(p‖q) of normal conditionals in nats, elementwise (Eq. F.37): p first, then the model's q.

    Parameters
    ----------
    mean, deviation, q_mean, q_deviation : tensors of shapes that broadcast, deviations positive
    """
    ratio = deviation / q_deviation
    return (ratio**2 + ((q_mean - mean) / q_deviation) ** 2 - 1) / 2 - ratio.log()


class GaussianTask:
    """Sequences z, (B, L, copies), with the exact conditional mean and deviation of every number.

    Parameters
    ----------
    kind : "sub-volume" or "logarithmic"
    layers : int
        L = 4^layers vectors a sequence: `length`.
    copies : int
        Independent copies of the family: the components of a vector.
    seed : int
        Of the training data. The held-out data are the same for every seed.
    """

    def __init__(self, kind, layers, copies=64, seed=0):
        self.family = GaussianFamily(kind, layers)
        self.length, self.copies, self.seed = self.family.length, copies, seed
        self._factors = {}

    def batch(self, step, size, rows, device):
        """Sequences `rows`, a slice, of the `size` ones of a step: z and mean, (B, L, copies)."""
        return self._draw((0, self.seed, step), size, rows, device)

    def held_out(self, index, size, device):
        """Batch `index` of data that no seed trains on: z and mean, (size, L, copies)."""
        return self._draw((1, index), size, slice(None), device)

    def loss(self, model, z, mean):
        """Mean divergence over sequences, positions and copies: a scalar, nats a number."""
        return self.values(model, z, mean).mean()

    def values(self, model, z, mean):
        """Divergence by sequence and position, mean over copies: (B, L), nats a number."""
        _, deviation = self._factor(z.device)
        return conditional_kl(mean, deviation[:, None], *model(z)).mean(dim=-1)

    def entropy(self):
        """H_p(i), the least possible loss in NLL by position: (L,) float64, nats a number."""
        return np.log(2 * pi * e * self._factor("cpu")[1].double().numpy() ** 2) / 2

    def _draw(self, key, size, rows, device):
        """One triangular product, Z = T ε; then E[Z_i | Z_<i] = Z_i - T_ii ε_i."""
        import torch

        seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)
        generator = torch.Generator(device).manual_seed(int(seed))
        shape = (self.length, size, self.copies)
        noise = torch.randn(shape, generator=generator, device=device)[:, rows]
        triangle, deviation = self._factor(noise.device)
        z = (triangle @ noise.flatten(1)).view_as(noise)
        mean = z - deviation[:, None, None] * noise
        return z.transpose(0, 1).contiguous(), mean.transpose(0, 1).contiguous()

    def _factor(self, device):
        """T and its diagonal, fp32, on a device: factorised there once, in fp64."""
        import torch

        device = torch.device(device)
        if device not in self._factors:
            with torch.inference_mode(False):  # the loss is differentiated with it later
                triangle = self.family.cholesky(device)
                self._factors[device] = triangle.float(), triangle.diag().float()
        return self._factors[device]
