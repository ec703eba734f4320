"""The loss without logits against the one with them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.training import loss as token_loss


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 50),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    chunk_bytes=st.sampled_from([64, 4096, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_are_those_of_cross_entropy(n, width, vocabulary, chunk_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (n,), generator=generator)
    old, token_loss.CHUNK_BYTES = token_loss.CHUNK_BYTES, chunk_bytes
    try:
        loss = token_loss.LinearCrossEntropy.apply(hidden, weight, targets)
        ours = torch.autograd.grad(3 * loss, [hidden, weight])
    finally:
        token_loss.CHUNK_BYTES = old
    naive = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    theirs = torch.autograd.grad(3 * naive.mean(), [hidden, weight])
    torch.testing.assert_close(loss, naive.mean())
    torch.testing.assert_close(ours, theirs)


def test_products_follow_autocast_and_gradients_their_leaves():
    hidden = torch.randn(64, 32, requires_grad=True)
    weight = torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(100, (64,))
    exact = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = token_loss.LinearCrossEntropy.apply(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    assert 0 < abs(loss.item() - exact.item()) < 0.05
    (expected,) = torch.autograd.grad(exact, weight)
    assert (weight.grad - expected).norm() < 0.02 * expected.norm()
