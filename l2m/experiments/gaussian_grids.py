"""Which models are trained on which Gaussian data: the grids of `l2m.experiments.gaussian`.

A grid is a list of the fields of `l2m.experiments.gaussian.Run`, the most important runs first, so
that whatever a deadline leaves is of use. All models of a grid have the same budget, save those
that are there to show what more training gives.
"""

LENGTHS = (64, 256, 1024, 4096)
GPT2, MAMBA, MAMBA2 = ({"family": family} for family in ("gpt2", "mamba", "mamba2"))
TINIEST = MAMBA | {"layers": 1, "width": 32, "state": 4}
SMALLEST = MAMBA | {"layers": 2, "width": 64, "state": 4}
SMALL = MAMBA | {"width": 64, "state": 16}
MEDIUM, LARGE = MAMBA | {"state": 16}, MAMBA | {"state": 64}
TWO = MAMBA2 | {"state": 64}
LARGEST = MAMBA2 | {"width": 512, "state": 128}
WINDOW = GPT2 | {"window": 17}
NARROW = GPT2 | {"layers": 2, "width": 64, "window": 3}


def book():
    """Return the published grid: 67 runs, some with more steps, another seed, or a higher rate."""
    others = (GPT2, SMALL, MEDIUM, LARGE, TWO)
    return [
        *(model | {"length": 4096, "steps": 32_000} for model in (GPT2, MEDIUM)),
        *(model | {"length": 1024, "steps": 32_000} for model in others),
        *_at([GPT2, MEDIUM, SMALL, TWO, SMALLEST, LARGE, LARGEST, WINDOW, NARROW]),
        *_at([TINIEST], LENGTHS[3:]),
        *_at([SMALL | {"seed": 1}, WINDOW | {"seed": 1}]),
        *_at([SMALL | {"kind": "logarithmic"}, GPT2 | {"kind": "logarithmic"}]),
        *(model | {"length": 1024, "peak_rate": 3e-3} for model in (GPT2, MEDIUM, SMALL, TWO)),
        *_at([GPT2 | {"window": 65}]),
    ]


def full():
    """Return that and what would separate state from width: much of one with little of other."""
    apart = [
        MAMBA | {"width": 64, "state": 128},
        MAMBA | {"width": 128, "state": 64},
        MAMBA | {"width": 512, "state": 4},
    ]
    small = [TINIEST, MAMBA2 | {"layers": 2, "width": 64, "state": 16}]
    seeds = [model | {"seed": 1} for model in (GPT2, MEDIUM, TWO, LARGE)]
    return [*book(), *_at([*apart, *seeds]), *_at(small, LENGTHS[:3]), *_at(small[1:], LENGTHS[3:])]


def _at(models, lengths=LENGTHS):
    """Every model at every length, without windows that are no limit there."""
    return [
        {**model, "length": length}
        for model in models
        for length in lengths
        if model.get("window", 0) < length
    ]


def smoke():
    """Return a miniature that trains on a CPU in seconds."""
    budget = {"copies": 8, "width": 32, "steps": 40, "vectors": 256, "warmup": 5}
    budget |= {"held_out": 1024, "peak_rate": 1e-2}
    models = [
        {"family": "gpt2", "layers": 2},
        {"family": "gpt2", "layers": 1, "window": 2},
        {"family": "gpt2", "layers": 2, "window": 5},
        {"family": "mamba", "layers": 1, "state": 4},
        {"family": "mamba", "layers": 1, "state": 4, "kind": "logarithmic"},
        {"family": "mamba2", "layers": 1, "state": 16},
    ]
    return [{**budget, **model, "length": length} for model in models for length in (16, 64)]


def paper():
    """Return the authors' scale: 500,000 steps of 4 sequences, in GPU weeks."""
    sizes = {
        "gpt2": [(12, 768), (24, 1024), (36, 1280)],
        "mamba": [(24, 768), (48, 1024), (48, 1536), (48, 2048)],
        "mamba2": [(24, 768), (48, 1024), (48, 1536)],
    }
    budget = {"steps": 500_000, "warmup": 2000, "peak_rate": 5e-5}
    return [
        {"family": family, "length": length, "layers": layers, "width": width}
        | {**budget, "vectors": 4 * length}
        for length in (*LENGTHS, 16_384)
        for family, known in sizes.items()
        for layers, width in known
    ]


GRIDS = {"smoke": smoke, "book": book, "full": full, "paper": paper}
