"""Power attention against its definition, slot by slot, and its cache against the count."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from l2m.memory.blocks import Blocks
from l2m.memory.power_attention import Layout, PowerAttention, attend, merged, rotate, turn

EXPONENTS = (0, 0.25, 0.5, 0.79, 1)
shapes = given(
    s=st.sampled_from(EXPONENTS),
    slots=st.sampled_from((0.5, 0.7, 1, 1.5, 2, 5)),
    base=st.sampled_from((2, 3, 4)),
    window=st.sampled_from((1, 2, 3, 4, 7, 16)),
    length=st.integers(1, 70) | st.sampled_from((16, 27, 32, 48, 64)),
    merge=st.sampled_from(("fixed", "content")),
)
few = settings(max_examples=40, deadline=None)


def random_layer(width=16, heads=2, length=70, **options):
    """A layer all of whose weights are random, so that no mistake hides behind an average."""
    layer = PowerAttention(width, heads, length=length, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer.requires_grad_(False)


def draw(length, width=16, batch=2):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1))


def naive(layer, x):
    """The layer from its definition: for every position the slots of its past, one by one."""
    blocks, D = layer.blocks, layer.head_dim
    c, s, b, w = blocks.slots, blocks.s, blocks.base, blocks.window
    mergers = {
        level.size: merger for level, merger in zip(layer.levels, layer.mergers, strict=True)
    }
    out = torch.empty_like(x)
    for i, row in enumerate(x):
        qkv = layer.query_key_value(row).view(len(row), layer.heads, 3 * D).transpose(0, 1)
        for head in range(layer.heads):
            q, k, v = qkv[head].split(D, -1)

            def kept(start, size, k=k, v=v, head=head):
                """Keys, values and the level whose offset they get, of a block."""
                if size == 1:
                    return k[start : start + 1], v[start : start + 1], 0
                parts = [kept(start + j * size // b, size // b) for j in range(b)]
                keys, values = (torch.cat([part[n] for part in parts]) for n in (0, 1))
                slots = min(size, max(1, round(c * size**s)))
                if slots == len(keys):
                    return keys, values, parts[0][2]
                weight = weights(mergers[size], head, keys, slots)
                return weight @ keys, weight @ values, size

            answers = []
            for t in range(len(row)):
                g = max(0, w * ((t + 1) // w - 1))
                keys, values, scores, start = [k[g : t + 1]], [v[g : t + 1]], [], 0
                places, tokens = [torch.arange(g, t + 1.0)], [torch.ones(t + 1 - g)]
                for j in reversed(range(10)):
                    while start + b**j <= g:
                        slot_keys, slot_values, size = kept(start, b**j)
                        n, wide = len(slot_keys), b**j / len(slot_keys)
                        if size:
                            level = [m.size for m in layer.levels].index(size)
                            slot_keys = slot_keys + layer.offsets[level, head, :, 0]
                        keys, values = [*keys, slot_keys], [*values, slot_values]
                        places.append(start + (torch.arange(n) + 0.5) * wide - 0.5)
                        tokens.append(torch.full((n,), wide))
                        start += b**j
                assert start == g
                rotated = rotate(torch.cat(keys), *turn(torch.cat(places), D))
                query = rotate(q[t : t + 1], *turn(torch.tensor([float(t)]), D))
                scores = query @ rotated.T / D**0.5 + torch.cat(tokens).log()
                answers.append(scores.softmax(-1) @ torch.cat(values))
            qkv[head, :, :D] = torch.cat(answers)  # in the place of the queries
        out[i] = layer.dense(qkv[:, :, :D].transpose(0, 1).flatten(1))
    return out


def weights(merger, head, keys, slots):
    """The weights that a slot is merged with, (slots, children)."""
    if hasattr(merger, "weight"):
        return merger.weight[head]
    n = len(keys)
    rows = []
    for i in range(slots):
        distance = (i + 0.5) - (torch.arange(n) + 0.5) / n * slots
        scores = keys @ merger.query[head, i] / keys.shape[1] ** 0.5
        rows.append((scores - merger.gamma[head, 0, 0] * distance**2).softmax(-1))
    return torch.stack(rows)


@few
@shapes
def test_equals_the_definition(s, slots, base, window, length, merge):
    # in fp32 random maps of maps are a few 1e-5 apart, by rounding
    layer = random_layer(s=s, slots=slots, base=base, window=window, merge=merge).double()
    x = draw(length, batch=1).double()
    torch.testing.assert_close(layer(x), naive(layer, x), atol=1e-5, rtol=1e-5)


@few
@shapes
def test_one_token_at_a_time_is_the_same_and_keeps_what_is_counted(
    s, slots, base, window, length, merge
):
    layer = random_layer(s=s, slots=slots, base=base, window=window, merge=merge).double()
    x, cache, out = draw(length).double(), None, []
    for t in range(length):
        y, cache = layer.step(x[:, t : t + 1], cache)
        out.append(y)
        assert cache.numel() == 2 * layer.blocks.count(t + 1) * layer.heads * 2 * layer.head_dim
        zeros = layer.cache(len(x), t + 1)
        assert [part.shape for part in zeros.parts] == [part.shape for part in cache.parts]
    torch.testing.assert_close(torch.cat(out, 1), layer(x), atol=1e-5, rtol=1e-5)


@few
@shapes
def test_every_token_of_the_past_is_seen_exactly_once(s, slots, base, window, length, merge):
    blocks = Blocks(s, slots, base, window)
    keys, sizes = blocks.keys(length), [(1, 1), *(m[:2] for m in blocks.levels(length))]
    seen = np.zeros((length, length))  # position, token
    row = 0
    for size, kept in sizes:
        for slot in range(length // size * kept):
            first = slot // kept * size
            seen[keys.opens[row] : keys.closes[row], first : first + size] += 1 / kept
            row += 1
    assert row == len(keys.opens)
    np.testing.assert_allclose(seen, np.tri(length), atol=1e-9)
    tokens = np.arange(length)
    assert (keys.opens[:length] == tokens).all()
    assert (keys.closes[:length] >= np.minimum(tokens + window, length)).all()


@few
@shapes
def test_the_past_does_not_depend_on_the_future(s, slots, base, window, length, merge):
    layer = random_layer(s=s, slots=slots, base=base, window=window, merge=merge)
    x = draw(length)
    at = length // 2
    changed = x.clone()
    changed[:, at:] *= -100
    assert torch.equal(layer(x)[:, :at], layer(changed)[:, :at])


@pytest.mark.parametrize("window", [1, 5, 100])
@pytest.mark.parametrize("merge", ["fixed", "content"])
def test_with_s_and_c_of_one_it_is_softmax_attention(window, merge):
    layer, x = random_layer(s=1, window=window, merge=merge), draw(50)
    assert not layer.levels
    q, k, v = layer.query_key_value(x).unflatten(-1, (2, -1)).transpose(1, 2).chunk(3, -1)
    q, k = (rotate(each, *turn(torch.arange(50), 8)) for each in (q, k))
    scores = (q @ k.mT / 8**0.5).masked_fill(~torch.ones(50, 50).tril().bool(), -torch.inf)
    expected = layer.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("merge", ["fixed", "content"])
def test_a_slot_starts_as_an_average(merge):
    """Equal values stay what they are; one slot of two tokens is their mean."""
    layer = PowerAttention(8, 1, s=0.5, base=2, window=1, merge=merge, length=64)
    for merger, level in zip(layer.mergers, layer.levels, strict=True):
        constant = torch.ones(1, 1, 16, 3 * level.children)
        torch.testing.assert_close(merger(constant), torch.ones(1, 1, 16, 3 * level.slots))
    pair = torch.arange(32.0).view(1, 1, 16, 2)
    torch.testing.assert_close(layer.mergers[0](pair), pair.mean(-1, keepdim=True))


@pytest.mark.parametrize("merge", ["fixed", "content"])
def test_gradients_are_finite_and_reach_every_weight(merge):
    layer = PowerAttention(16, 2, s=0.5, slots=2, window=2, merge=merge, length=64)
    layer(draw(64)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@few
@shapes
def test_levels_merged_at_once_are_those_merged_one_by_one(s, slots, base, window, length, merge):
    layer = random_layer(s=s, slots=slots, base=base, window=window, merge=merge, length=80)
    x = torch.randn(2, 3, 16, 80, generator=torch.Generator().manual_seed(0))[..., :length]
    levels = layer.blocks.levels(length)
    parts, expected = merged(x, levels, layer.mergers), x
    assert len(parts) == len(levels) + 1
    for level, merger, part in zip(levels, layer.mergers, parts[1:], strict=False):
        expected = merger(expected[..., : length // level.size * level.children])
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


def test_chunks_of_positions_are_the_whole(monkeypatch):
    layer, x = random_layer(s=0.5, slots=2, window=3), draw(70)
    whole = layer(x)
    monkeypatch.setattr("l2m.memory.power_attention.CHUNK", 16)
    chunked = Layout(layer.blocks, 70, layer.head_dim)
    assert len(chunked.chunks) == 5
    torch.testing.assert_close(layer(x, chunked), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("length", [64, 300])
def test_tiles_of_flex_attention_see_the_same(length):
    """Not compiled, and on the CPU: the mask that a GPU takes, tile by tile."""
    from torch.nn.attention.flex_attention import flex_attention

    from l2m.memory.power_attention import TILE, block_mask

    blocks = Blocks(0.5, 2, 2, 3)
    layout = Layout(blocks, length, 16)
    q = torch.randn(1, 2, length, 16, generator=torch.Generator().manual_seed(0))
    k, v = torch.randn(2, 1, 2, len(layout.opens), 16, generator=torch.Generator().manual_seed(1))
    mask = block_mask(layout.opens, layout.closes, length)
    score = lambda score, b, h, i, j: score + layout.weight[j]  # noqa: E731
    flexed = flex_attention(q, k, v, score_mod=score, block_mask=mask)
    torch.testing.assert_close(flexed, attend(q, k, v, layout), atol=1e-5, rtol=1e-5)
    position = torch.arange(length)[:, None]
    exact = (position >= layout.opens) & (position < layout.closes)
    spare = -length % TILE, -exact.shape[1] % TILE
    exact = torch.nn.functional.pad(exact, (0, spare[1], 0, spare[0])).float()
    tiles = exact.unfold(0, TILE, TILE).unfold(1, TILE, TILE).amax((2, 3))
    assert (mask.to_dense()[0, 0].bool() >= tiles.bool()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": -0.1}, "s is an exponent between 0 and 1, not -0.1"),
        ({"s": 1.1}, "between 0 and 1"),
        ({"s": 0.5, "slots": 0}, "positive number, not 0"),
        ({"s": 0.5, "slots": float("nan")}, "positive number"),
        ({"s": 0.5, "base": 1}, "base is a whole number, at least 2, not 1"),
        ({"s": 0.5, "window": 0}, "window is a whole number, at least 1"),
        ({"s": 0.5, "heads": 0}, "heads is a whole number, at least 1, not 0"),
        ({"s": 0.5, "heads": 3}, "3 heads do not divide a width of 16"),
        ({"s": 0.5, "head_dim": 5}, "even head_dim, not 5"),
        ({"s": 0.5, "merge": "magic"}, "one of fixed, content, not 'magic'"),
    ],
)
def test_impossible_layers_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PowerAttention(**{"width": 16, "heads": 2} | options)


def test_other_caches_and_longer_sequences_are_refused():
    layer = random_layer(s=0.5)
    _, cache = random_layer(s=0.79).step(draw(1))
    with pytest.raises(ValueError, match="another layout"):
        layer.step(draw(1), cache)
    with pytest.raises(ValueError, match="another layout"):
        layer.step(draw(1, batch=3), layer.cache(2))
    with pytest.raises(ValueError, match="71 tokens are more than the layer's length=70"):
        layer(draw(71))
    with pytest.raises(ValueError, match="71 tokens"):
        layer.step(draw(1), layer.cache(2, 70))


def test_slots_by_hand():
    half = Blocks(0.5)
    assert [half.kept(j) for j in range(9)] == [1, 1, 2, 3, 4, 6, 8, 11, 16]
    assert half.count(0b1101) == 3 + 2 + 1  # 8 + 4 + 1
    assert Blocks(0).count(1023) == 10 and Blocks(0).count(1024) == 1
    assert Blocks(0, 3).count(0b1101) == 3 + 3 + 1
    assert Blocks(1).count(12345) == 12345
    assert Blocks(0.5, base=4).count(2 * 16 + 3) == 2 * 4 + 3
    # windows of 4: the next position, the 14th, sees 5 tokens before it, and 8 in blocks
    assert Blocks(0.5, window=4).count(13) == 5 + 3
    lengths = np.arange(100)
    assert half.count(lengths).tolist() == [half.count(int(n)) for n in lengths]
