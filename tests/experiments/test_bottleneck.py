"""Theorem 5.2's experiment: its quantised states, and the bound itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2m.experiments.bottleneck import Bottlenecks, captured_mi, quantise, train_bottlenecks
from l2m.sources import EchoSource, MarkovSource


@given(bits=st.integers(1, 6))
def test_quantise_has_so_many_levels(bits):
    z = torch.linspace(-1.5, 1.5, 1001, requires_grad=True)
    rounded = quantise(z, bits)
    assert len(rounded.detach().unique()) == 2**bits
    rounded.sum().backward()
    assert (z.grad[(z > -1) & (z < 1)] == 1).all()


def test_a_model_is_normalised_and_its_state_is_what_it_may_be():
    model = Bottlenecks(3, 6, [0, 2], bits=1, seed=0)
    tokens = torch.randint(3, (5, 6), generator=torch.Generator().manual_seed(0))
    log_q = model(tokens)
    assert log_q.shape == (2, 5, 6, 3)
    assert torch.allclose(log_q.exp().sum(-1), torch.ones(2, 5, 6))
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 3
    same = torch.isclose(model(changed)[0, :, 1:], log_q[0, :, 1:]).all()
    assert same  # without a state, only the last token matters


def test_captured_information_is_below_the_bound():
    source = EchoSource(4, 3)
    found = train_bottlenecks(source, 3, 6, [0, 1, 2, 5], steps=150, batch=64, seed=1)
    assert (found.captured < np.minimum(found.bound, found.mi) + 3 * found.stderr).all()
    assert found.captured.iloc[-1] > 2 * np.log(2)  # and training gets somewhere
    assert found.mi.iloc[0] == pytest.approx(3 * np.log(4))


def test_the_truth_is_captured_whole():
    """A model that is the source itself captures all of I_BP, to rounding."""
    source = MarkovSource(np.array([[0.9, 0.1], [0.3, 0.7]]))

    def model(tokens, start=0):
        rows = torch.log(torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
        return rows[tokens][None, :, start:]

    captured, stderr = captured_mi(model, source, 3, 6, 200, np.random.default_rng(0))
    assert captured == pytest.approx(source.bipartite_mi(3, 6), abs=1e-5)
    assert stderr < 1e-5
