"""What only a GPU can show of scoring: FlexAttention over packed windows, against whole passes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from l2m.language_models.scoring import powers_of_two, score

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("warm", [(), (4, 16, 64, 256)])
@pytest.mark.parametrize(("length", "ratio"), [(512, 4), (2048, 2), (8192, 2)])
def test_packed_scores_are_those_of_whole_passes(length, ratio, warm, dtype, compiled):
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 256, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 1000}
    config = transformers.LlamaConfig(**sizes, max_position_embeddings=length)
    model = transformers.LlamaForCausalLM(config).to("cuda", getattr(torch, dtype)).eval()
    for weight in model.parameters():
        if weight.ndim == 2:  # so that attention looks somewhere
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    windows = np.random.default_rng(0).integers(0, 1000, (4, length))
    how = {"warm": warm, "bos_token_id": 1, "check": 0, "progress": False}
    how["compile_layers"] = compiled  # as by default where there is much to score
    splits = powers_of_two(length, ratio)
    packed, whole = (
        score(model, windows, splits, ratio, method=method, **how) for method in ("packed", "whole")
    )
    kinds = [("joint", packed.joint, whole.joint)]
    for kind in ("marginal", "shuffled", "warm"):
        pairs = [(getattr(scores, kind)) for scores in (packed, whole)]
        kinds += [((kind, key), pairs[0][key], pairs[1][key]) for key in pairs[0]]
    apart = {name: float(np.abs(a - b).max()) for name, a, b in kinds}
    most = {"float32": 0.02, "bfloat16": 0.3}[dtype]  # fp32: products may be in TF32
    assert not (far := {name: x for name, x in apart.items() if x > most}), far
