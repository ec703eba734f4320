"""What only a GPU can show of power attention: FlexAttention, compiled, against chunks of masks."""

import pytest

torch = pytest.importorskip("torch")

from l2m.memory.power_attention import CHUNK, PowerAttention, layout_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("merge", ["fixed", "content"])
@pytest.mark.parametrize(("s", "slots"), [(0, 1), (0.5, 2), (0.79, 1)])
@pytest.mark.parametrize("length", [300, CHUNK, CHUNK + 77, 4096])
def test_compiled_it_gives_the_same_numbers_and_gradients(length, s, slots, merge):
    torch.manual_seed(0)
    layer = PowerAttention(64, 2, s, slots, window=5, merge=merge, length=length).cuda()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    layout = layout_of(layer.blocks, length, layer.head_dim, torch.device("cuda", 0))
    assert (layout.block_mask is not None) == (length > CHUNK)
    x = torch.randn(2, length, 64, device="cuda")
    found = {}
    torch._dynamo.reset()
    for name, way in (("plain", layer), ("compiled", torch.compile(layer, dynamic=False))):
        layer.zero_grad()
        out = way(x, layout)
        out.square().mean().backward()
        found[name] = [out.detach(), *(p.grad.clone() for p in layer.parameters())]
    for plain, compiled in zip(found["plain"], found["compiled"], strict=True):
        error = (plain - compiled).norm() / plain.norm().clamp(min=1e-6)
        assert error < 2e-3  # FlexAttention may multiply in TF32


@pytest.mark.parametrize("merge", ["fixed", "content"])
def test_one_token_at_a_time_is_the_same(merge):
    torch.manual_seed(0)
    layer = PowerAttention(64, 2, 0.5, 2, window=5, merge=merge, length=300).cuda()
    x, cache, out = torch.randn(2, 300, 64, device="cuda"), None, []
    with torch.no_grad():
        for t in range(300):
            y, cache = layer.step(x[:, t : t + 1], cache)
            out.append(y)
        torch.testing.assert_close(torch.cat(out, 1), layer(x), atol=1e-5, rtol=1e-4)
