"""The history state against the caches that transformers' models really keep."""
# ruff: noqa: C408

import copy
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2m.information.scaling import PowerLaw
from l2m.memory.architectures import FAMILIES, OUTSIDE, architectures
from l2m.memory.history_state import HistoryState, history_state, history_state_dim
from l2m.memory.l2m_condition import Bound, growth, reach, required_dim, satisfies_l2m
from l2m.memory.layer_memories import Memory

LENGTH = 23  # longer than every window, and one short of a whole number of blocks
SMALL = dict(
    vocab_size=64,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    n_embd=64,
    n_layer=4,
    n_head=4,
    intermediate_size=64,
    max_position_embeddings=128,
    n_positions=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    sliding_window=6,
    attention_chunk_size=6,
    kv_lora_rank=12,
    q_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=16,
    v_head_dim=16,
    index_head_dim=16,
    index_n_heads=2,
    index_topk=4,
    num_experts=4,
    n_routed_experts=4,
    num_local_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
    n_group=1,
    topk_group=1,
    mamba_n_heads=8,
    mamba_d_head="auto",
    mamba_d_state=8,
    state_size=8,
    time_step_rank=4,
    mamba_dt_rank=4,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=12,
)
LATENT = dict(head_dim=8, num_key_value_heads=4)
LATENT_TYPES = "axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3"
MIXED = dict(layer_types=["linear_attention", "full_attention"] * 2)
CONV = dict(layer_types=["conv", "full_attention"] * 2)
SHARED = dict(
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_kv_shared_layers=2,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=64,
)
ZAMBA = ["linear_attention", "hybrid", "hybrid"]
RATES = dict(compressed_sparse_attention=4, heavily_compressed_attention=8)
SPECIAL = dict.fromkeys([*LATENT_TYPES.split(), "youtu"], LATENT) | {
    "bailing_hybrid": LATENT | MIXED | dict(num_local_experts=4, mlp_layer_types=["dense"] * 4),
    "bamba": dict(attn_layer_indices=[1]),
    "codegen": dict(rotary_dim=4),
    "deepseek_v4": dict(compress_rates=RATES),
    "deepseek_v2": LATENT | dict(num_experts_per_tok=2),
    "dots1": dict(n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2),
    "falcon_h1": dict(mamba_d_ssm=64),
    "falcon_mamba": dict(intermediate_size=96, expand=16),  # as published: not expand × hidden
    "gemma3n_text": SHARED | dict(altup_num_inputs=2, laurel_rank=4),
    "gemma4_text": SHARED | dict(global_head_dim=32),
    "gemma4_unified_text": SHARED | dict(global_head_dim=32),
    "gpt_neo": dict(
        num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=32
    ),
    "gptj": dict(rotary_dim=4),
    "granitemoehybrid": MIXED,
    "hunyuan_v1_dense": dict(head_dim=16),
    "hunyuan_v1_moe": dict(head_dim=16),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1),
    "kimi_linear": LATENT
    | MIXED
    | dict(linear_head_dim=8, linear_num_heads=4, mlp_layer_types=["dense"] * 4),
    "lfm2": CONV,
    "lfm2_moe": CONV,
    "longcat_flash": LATENT
    | dict(num_layers=2, expert_ffn_hidden_size=32, ffn_hidden_size=64, n_routed_experts=4)
    | dict(zero_expert_num=2, moe_topk=2),
    "mamba2": dict(num_heads=8, head_dim=16, n_groups=2),
    "ministral": dict(head_dim=16),
    "mpt": dict(d_model=64, n_heads=4, n_layers=2),
    "nemotron": dict(num_key_value_heads=2, head_dim=16),
    "nemotron_h": dict(mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=8, n_groups=2),
    "recurrent_gemma": dict(attention_window_size=6),
    "xglm": dict(d_model=64, attention_heads=4, num_layers=2, ffn_dim=64),
    "xlstm": dict(hidden_size=128, num_heads=2),
    "zamba": dict(layers_block_type=ZAMBA, num_hidden_layers=3),
    "zamba2": dict(layers_block_type=ZAMBA, num_hidden_layers=3),
}


def tiny(model_type):
    """Return a small config of a model type that shows each of its kinds of layers."""
    from transformers import CONFIG_MAPPING

    usual = CONFIG_MAPPING[model_type]()
    has = {name for name, value in usual.to_dict().items() if value is not None}
    sizes = {name: value for name, value in SMALL.items() if name in has | {"pad_token_id"}}
    if isinstance(usual.to_dict().get("layer_types"), list):
        sizes["layer_types"] = (sorted(set(usual.layer_types)) * 4)[:4]
    return CONFIG_MAPPING[model_type](**sizes | SPECIAL.get(model_type, {}))


def elements(value, seen):
    """Count the elements of all states in a cache, storage shared by two names once."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.ndim < 2 or value.data_ptr() in seen:
            return 0
        seen.add(value.data_ptr())
        return value.numel()
    if isinstance(value, dict):
        value = value.values()
    return sum(elements(v, seen) for v in value) if hasattr(value, "__iter__") else 0


def kept_elements(cache):
    """Count what the next step reads of a cache: all but the oldest input of each convolution."""
    seen, total = set(), 0
    if isinstance(cache, list):  # RWKV
        return elements(cache, seen)
    if hasattr(cache, "rnn_state"):  # xLSTM
        return elements(cache.rnn_state.values(), seen)
    for layer in cache.layers:
        for name, value in vars(layer).items():
            spare = 0
            if name == "conv_states":
                states = value.values() if isinstance(value, dict) else [value]
                spare = sum(s.numel() // s.shape[-1] for s in states if s is not None)
            total += elements(value, seen) - spare
    return total + elements(getattr(cache, "linear_cache", ()), seen)  # MiniMax


def run(config, length=LENGTH, **inputs):
    """Run a model of random weights on random tokens; return it and the cache it leaves."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model(torch.randint(3, 60, (1, length)), use_cache=True, **inputs)
    names = ("past_key_values", "cache_params", "state")
    return model, next((c for c in (getattr(out, n, None) for n in names) if c is not None), None)


@pytest.mark.parametrize("model_type", sorted(FAMILIES.keys() - OUTSIDE - {"recurrent_gemma"}))
def test_count_is_that_of_the_real_cache(model_type):
    transformers = pytest.importorskip("transformers")
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    config = tiny(model_type)
    model, cache = run(config)
    kept = kept_elements(cache)
    if hasattr(config, "index_head_dim") and getattr(cache.layers[0], "keys", None).shape[1] > 1:
        # This transformers caches what the latents expand to: count the latents instead.
        makers = [m for n, m in model.named_modules() if n.endswith("kv_a_proj_with_mqa")]
        kept = LENGTH * sum(m.out_features for m in makers)
        kept += elements([vars(layer).get("indexer_keys") for layer in cache.layers], set())
    assert history_state_dim(model, LENGTH) == kept
    assert history_state_dim(config.to_dict(), LENGTH) == kept


def test_count_of_recurrent_gemma_whose_recurrences_live_in_its_modules():
    transformers = pytest.importorskip("transformers")
    config = tiny("recurrent_gemma")
    cache = transformers.DynamicCache(config=config)
    model, _ = run(config, past_key_values=cache)
    seen = set()
    total = sum(elements(getattr(layer, "keys", None), seen) for layer in cache.layers)
    total += sum(elements(getattr(layer, "values", None), seen) for layer in cache.layers)
    for module in model.modules():
        for name in ("conv1d_state", "recurrent_states"):
            total += elements(getattr(module, name, None), seen)
    assert history_state_dim(config, LENGTH) == total


@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "lfm2"])
def test_next_step_reads_all_of_the_count_and_nothing_else(model_type):
    """The oldest convolution input, which is not counted, can be lost; any other cannot."""
    torch = pytest.importorskip("torch")
    model, cache = run(tiny(model_type))
    name = "cache_params" if model_type.startswith("mamba") else "past_key_values"

    def next_logits(slot=None):
        changed = copy.deepcopy(cache)
        if slot is not None:
            for layer in changed.layers:
                for state in vars(layer).get("conv_states", {}).values():
                    state[..., slot] += 1.0
        with torch.inference_mode():
            return model(torch.tensor([[5]]), use_cache=True, **{name: changed}).logits

    assert torch.equal(next_logits(0), next_logits())
    assert not torch.allclose(next_logits(1), next_logits())


@given(length=st.integers(0, 10**9), more=st.integers(0, 10**9), size=st.integers(1, 10**6))
def test_slots(length, more, size):
    assert Memory("", 3).dim(length) == 3 * length
    assert Memory("", 1, "window", size).dim(length) == min(length, size)
    assert Memory("", 1, "blocks", size).dim(length) == length // size
    assert Memory("", 1, "levels").dim(length) == length.bit_length()
    assert Memory("", 1, "state").dim(length) == 1
    for slots in ("tokens", "levels", "window", "blocks"):
        memory = Memory("", 1, slots, size if slots in ("window", "blocks") else 0)
        assert memory.dim(length + more) >= memory.dim(length)


def test_lengths_may_be_an_array():
    state = HistoryState(
        (Memory("", 2, layers=3), Memory("", 5, "window", 4), Memory("", 7, "state"))
    )
    lengths = np.array([0, 3, 10**7])
    assert state.dim(lengths).tolist() == [state.dim(int(n)) for n in lengths]
    assert history_state_dim(state, 3) == 18 + 15 + 7


LINEAR_ATTENTION = dict(num_hidden_layers=2, hidden_size=32, num_heads=4, use_short_conv=False)
RECURRENCES = [  # packages other than transformers: the shapes of the published recurrences
    (dict(model_type="retnet", expand_k=1.0, expand_v=2.0) | LINEAR_ATTENTION, 2 * 4 * 8 * 16),
    (dict(model_type="gla", expand_k=0.5, expand_v=1) | LINEAR_ATTENTION, 2 * 4 * 4 * 8),
    (
        dict(model_type="delta_net", expand_k=1, expand_v=1, conv_size=4)
        | (LINEAR_ATTENTION | dict(use_short_conv=True)),
        2 * (4 * 8 * 8 + 3 * (3 * 32)),
    ),
    (dict(model_type="gated_deltanet", head_dim=6, expand_v=2) | LINEAR_ATTENTION, 2 * 4 * 6 * 12),
    (dict(model_type="rwkv7", num_hidden_layers=2, hidden_size=32, head_dim=8), 2 * 32 * (8 + 2)),
]


@pytest.mark.parametrize(
    ("config", "dim"), RECURRENCES, ids=lambda c: getattr(c, "get", str)("model_type")
)
def test_recurrences_of_other_packages(config, dim):
    assert history_state_dim(config, LENGTH) == dim
    assert growth(config) == growth(history_state(config)) and growth(config).rate == dim


def test_log_linear_mamba2_keeps_a_state_for_each_level():
    sizes = dict(num_hidden_layers=2, num_heads=4, head_dim=8, state_size=16, n_groups=1)
    plain = dict(model_type="mamba2", conv_kernel=4, hidden_size=16, **sizes)
    leveled = plain | dict(model_type="log_linear_mamba2")
    state = 2 * 4 * 8 * 16
    for length in (1, 2, 1000):
        extra = history_state_dim(leveled, length) - history_state_dim(plain, length)
        assert extra == state * (length.bit_length() - 1)
    assert growth(leveled).law == "logarithmic" and growth(leveled).rate == state


POWER = dict(model_type="power_attention", num_hidden_layers=3, num_attention_heads=2, head_dim=8)


def power(s, slots=1.0, base=2, window=1):
    return POWER | dict(s=s, slots=slots, base=base, attention_window=window)


def test_power_attention_keeps_the_slots_of_its_blocks():
    slot = 3 * 2 * (8 + 8)
    assert history_state_dim(power(0.5), 0b1101) == slot * (3 + 2 + 1)
    assert history_state_dim(power(1), 1000) == slot * 1000
    assert history_state_dim(power(0, window=4), 13) == slot * (5 + 1)  # 13 = 8 + 5 tokens
    assert history_state_dim(power(0.5), np.array([4, 5])).tolist() == [slot * 2, slot * 3]
    assert str(growth(power(0.5)).law) == "power" and growth(power(0.5)).exponent == 0.5
    assert growth(power(1)) == growth(HistoryState((Memory("", 96),)))
    assert growth(power(0, slots=3, base=4)).rate == slot * 3 * 3 / 2
    with pytest.raises(ValueError, match="gives no s"):
        history_state_dim(POWER, 5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        history_state_dim(power(2), 5)
    with pytest.raises(ValueError, match="Blocks as size"):
        Memory("", 3, "power")


@pytest.mark.parametrize("base", [2, 3, 4])
@pytest.mark.parametrize(("s", "slots"), [(0, 1), (0, 5), (0.25, 2), (0.79, 1), (1, 0.5), (1, 1)])
def test_growth_of_power_attention_is_that_of_its_count(s, slots, base):
    config, fullest = power(s, slots, base), [base**j - 1 for j in (18, 19)]
    near, far = (history_state_dim(config, length) for length in fullest)
    found = growth(config)
    if s == 0:
        assert found.rate == pytest.approx((far - near) / np.log2(base))
    else:
        assert found.rate == pytest.approx(far / fullest[1] ** s, rel=0.02 if s > 0.5 else 0.2)
    assert bool(satisfies_l2m(config, 0.79)) == (s >= 0.79)
    if 0 < s < 0.79:
        verdict = satisfies_l2m(config, 0.79)
        assert f"L^{s:g}, slower than I_BP ~ L^0.79" in verdict.why
        assert verdict.series_exponent == pytest.approx(0.79 - s)


@pytest.mark.parametrize(("slots", "law"), [("tokens", "linear"), ("blocks", "linear"),
                                            ("levels", "logarithmic"), ("window", "bounded"),
                                            ("state", "bounded")])  # fmt: skip
def test_growth_is_that_of_the_dimension(slots, law):
    state = HistoryState((Memory("", 10, slots, 50 if slots in ("window", "blocks") else 0, 3),))
    found, (near, far) = growth(state), state.dim(np.array([10**5, 2 * 10**5]))
    assert found.law == law
    expected = {"linear": (far - near) / 10**5, "logarithmic": far - near, "bounded": far}[law]
    assert found.rate == pytest.approx(expected)


def test_verdicts():
    attention = HistoryState((Memory("", 10), Memory("", 99, "state")))
    levels = HistoryState((Memory("", 10, "levels"),))
    fixed = HistoryState((Memory("", 10, "window", 7),))
    assert satisfies_l2m(attention, 0.8) and satisfies_l2m(attention, 1.0)
    for state in (levels, fixed):
        verdict = satisfies_l2m(state, 0.8)
        assert not verdict and verdict.series_exponent == 0.8
        assert satisfies_l2m(state, 0.0).single
    assert "70 scalars" in satisfies_l2m(fixed, 0.8).why
    with pytest.raises(ValueError, match="between 0 and 1"):
        satisfies_l2m(fixed, 1.2)


def test_bounds():
    assert pytest.approx(8 * np.log(2)) == Bound.discrete(8).C
    with pytest.raises(ValueError, match="positive"):
        Bound.discrete(bits=0)


@given(nats=st.floats(20, 1e6), bits=st.floats(1, 64), vocabulary=st.integers(2, 10**6))
def test_required_dim_solves_the_theorem(nats, bits, vocabulary):
    bound = Bound.discrete(bits)
    dim = required_dim(1000, lambda L: nats + 0 * L, bound=bound, vocab_size=vocabulary)
    assert bound.C * dim + np.log(vocabulary) == pytest.approx(nats)
    assert required_dim(10, lambda L: 0.0 * L) == 0


def test_counts_are_exact_or_refused():
    mamba = FACTS["Log-linear Mamba-2 2.7B"]["config"]
    levels = history_state_dim(mamba, 2**59) - history_state_dim(mamba, 0)
    assert levels == history_state_dim(mamba, [2**59])[0] - history_state_dim(mamba, [0])[0]
    assert levels == 64 * (60 * 655_360 + 3 * 5376)  # more than 32 bits
    llama = FACTS["Llama-3.1-405B"]["config"]
    assert history_state_dim(llama, 10**18) == 258_048 * 10**18
    with pytest.raises(ValueError, match="ask for one"):
        history_state_dim(llama, [1, 10**18])


KINDS = ["tokens", "window", "state", "levels", "blocks"]


def power_law(amplitude, exponent):
    return PowerLaw(amplitude, exponent, 0.0, (), (), ())


@pytest.mark.parametrize("seed", range(8))
def test_reach_is_the_first_length_that_is_too_long(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        kinds = rng.choice(KINDS, rng.integers(1, 4))
        sizes = [int(rng.integers(1, 9)) if k in ("window", "blocks") else 0 for k in kinds]
        width = rng.integers(1, 30, len(kinds)).tolist()
        state = HistoryState(tuple(map(Memory, kinds, width, kinds, sizes)))
        law = power_law(rng.choice([0.5, 2, 20]), rng.choice([0, 0.1, 0.76, 1]))
        bound, vocabulary = Bound(rng.choice([0.06, 1, 3])), rng.choice([1, 1000])
        L = np.arange(2, 3000)
        needed = required_dim(L, law, bound=bound, vocab_size=vocabulary)
        short = state.dim(L // 2) < needed
        found = reach(state, law, bound=bound, vocab_size=vocabulary)
        assert found == L[short.argmax()] if short.any() else found > L[-1]


def test_reach_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match="required_dim"):
        reach(power(0.5), power_law(2.27, 0.76))
    with pytest.raises(ValueError, match="exponent"):
        reach(FACTS["GPT-2"]["config"], power_law(2.27, 1.1))


def test_errors_name_the_cure():
    with pytest.raises(TypeError, match=re.escape("config.json as a dict")):
        history_state_dim({"hidden_size": 4}, 5)
    with pytest.raises(TypeError, match="not int"):
        history_state_dim(3, 5)
    with pytest.raises(ValueError, match="Describe it yourself: HistoryState"):
        history_state_dim({"model_type": "hyena"}, 5)
    with pytest.raises(ValueError, match="decoder-only"):
        history_state_dim({"model_type": "t5"}, 5)
    with pytest.raises(ValueError, match="head_dim"):
        history_state_dim({"model_type": "rwkv7", "num_hidden_layers": 2, "hidden_size": 4}, 5)
    for bad in (-1, 2.5):
        with pytest.raises(ValueError, match="whole number"):
            HistoryState(()).dim(bad)
    with pytest.raises(ValueError, match="positive size"):
        Memory("", 3, "window")


def test_multimodal_configs_count_their_text_decoder():
    transformers = pytest.importorskip("transformers")
    text = tiny("llama")
    config = transformers.LlavaConfig(text_config=text)
    assert history_state_dim(config, LENGTH) == history_state_dim(text, LENGTH)


FACTS = {fact["name"]: fact for fact in architectures()}


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_whole(name):
    fact = FACTS[name]
    assert fact["source"].startswith("https://") and (fact["id"] is None or "/" in fact["id"])
    assert history_state_dim(fact["config"], 10**6) > 10**5


@pytest.mark.parametrize(
    ("name", "per_token"),
    [  # by hand: layers × heads × (key + value), as their papers give the size of the cache
        ("Llama-3.1-8B", 32 * 8 * (128 + 128)),
        ("DeepSeek-V3", 61 * (512 + 64)),
        ("Gemma-3-27B", 10 * 16 * (128 + 128)),  # its 52 other layers look back 1024 tokens
        ("Jamba-v0.1", 4 * 8 * (128 + 128)),
        ("Qwen3-Next-80B", 12 * 2 * (256 + 256)),
        ("MiniMax-M2.5", 62 * 8 * (128 + 128)),
        ("GLM-5", 78 * (512 + 64 + 128)),  # with the keys of its indexer
        ("DeepSeek-V4-Flash", 21 * (512 + 128) / 4 + 20 * 512 / 128),
        ("DeepSeek-V4-Pro", 30 * (512 + 128) / 4 + 31 * 512 / 128),
        ("Gemma-4-31B", 10 * 4 * (512 + 512)),
        ("Qwen3.5-397B", 15 * 2 * (256 + 256)),
        ("Qwen3.6-27B", 16 * 4 * (256 + 256)),
        ("Kimi-K3", 24 * (512 + 64)),
    ],
)
def test_facts_by_hand(name, per_token):
    assert growth(FACTS[name]["config"]).rate == per_token
