"""Time Mamba-1's selective scan against that of mamba-ssm, and see how exact a step is with either.

    python benchmarks/scan.py --record      # one GPU: about two minutes

The scan is timed in bf16, one layer's at a time. The step is the first of a Mamba of eight layers:
how far its loss, and the gradient of all its weights, are from those of the class of transformers
in fp32, in fp32 and under bf16 autocast. Without mamba-ssm only our own is there.
"""

import argparse
import sys
from contextlib import nullcontext

import numpy as np
import torch
from timing import record, timed

from l2m.language_models.models import device_name
from l2m.training import own_layers
from l2m.training.acceleration import prepared
from l2m.training.loop import autocast
from l2m.training.loss import token_loss
from l2m.training.networks import build_model
from l2m.training.selective_scan import selective_scan

SHAPES = [  # sequences, their length, channels, states of each
    (16, 4096, 1536, 16),  # of a Mamba-130M, at 65,536 tokens a step
    (8, 4096, 1024, 64),
    (8, 4096, 512, 16),
]


def library(*inputs):
    """The scan of mamba-ssm, whose time runs fastest; the change of layout is not timed."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(*inputs)


def inputs_of(batch, length, channels, states):
    draw = torch.Generator("cuda").manual_seed(0)
    shapes = [(batch, length, n) for n in (channels, channels, states, states)]
    u, delta, B, C = (torch.randn(shape, device="cuda", generator=draw) for shape in shapes)
    delta = torch.nn.functional.softplus(delta - 4)
    A = -torch.arange(1.0, states + 1, device="cuda").repeat(channels, 1)
    u, delta, B, C = (x.bfloat16() for x in (u, delta, B, C))
    return u, delta, A, B, C


def speed(way, shape, repeats=10):
    """Median milliseconds of the forward and of the backward pass."""
    inputs = inputs_of(*shape)
    if way is library:
        inputs = [x if x.ndim == 2 else x.transpose(1, 2).contiguous() for x in inputs]
    inputs = [x.requires_grad_() for x in inputs]
    slope, seconds = torch.randn_like(inputs[0]), []
    for _ in range(repeats + 2):
        y, forward, _ = timed(lambda: way(*inputs), "cuda")
        _, backward, _ = timed(lambda y=y: torch.autograd.grad(y, inputs, slope), "cuda")
        seconds.append((forward, backward))
    return dict(zip(("forward", "backward"), 1e3 * np.median(seconds[2:], 0), strict=True))


def first_step(precision, way):
    """The loss of the first step and the gradient of all weights, in one vector."""
    tokens = torch.randint(1, 49152, (4, 2048), generator=torch.Generator().manual_seed(0))
    model = build_model("mamba", vocab_size=49152, length=4096, layers=8, width=768)
    if way == "transformers":
        plain = type(model)(model.config)
        plain.load_state_dict(model.state_dict())
        model = plain
    model.cuda().train()
    if way != "transformers":
        own_layers.MAMBA_SSM = way == "mamba-ssm"
    ours = nullcontext() if way == "transformers" else prepared(model, compile_layers=False)
    with ours, autocast("cuda", precision):
        loss = token_loss(model, tokens.cuda(), 0)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU was found, and only there is this scan of use")
    ways = {"l2m": selective_scan} | ({"mamba-ssm": library} if own_layers.MAMBA_SSM else {})
    rows, steps = [], []
    for shape in SHAPES:
        for name, way in ways.items():
            names = ("batch", "length", "channels", "states")
            rows.append(dict(zip(names, shape, strict=True)) | {"way": name} | speed(way, shape))
            print(rows[-1], flush=True)
    exact, gradient = first_step("fp32", "transformers")
    for precision in ("fp32", "bf16"):
        for way in ways:
            loss, other = first_step(precision, way)
            off = {"loss": loss - exact, "gradient": float((other - gradient).norm())}
            off["gradient"] /= float(gradient.norm())
            steps.append({"way": way, "precision": precision} | off)
            print(steps[-1], flush=True)
    if args.record:
        about = {"device": device_name("cuda"), "torch": torch.__version__}
        record("scan-cuda", about | {"rows": rows, "first_step": steps, "first_loss": exact})


if __name__ == "__main__":
    main()
