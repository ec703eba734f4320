"""Which models are trained on which Gaussian data: the grids of `l2m.gaussian_training`.

A grid is a list of the fields of `l2m.gaussian_training.Run`, the most important runs first, so
that whatever a deadline leaves is of use. All models of a grid have the same budget, save those
that are there to show what more training gives.
"""

LENGTHS = (64, 256, 1024, 4096)


def book():
    """Return the published grid: states from 448 to 540,000 scalars, GPU seconds a run."""
    gpt2 = {"family": "gpt2"}
    mamba, mamba2 = {"family": "mamba"}, {"family": "mamba2"}
    smallest = mamba | {"layers": 2, "width": 64, "state": 4}
    small = mamba | {"width": 64, "state": 16}
    medium, large = mamba | {"state": 16}, mamba | {"state": 64}
    first = [gpt2, medium, small, mamba2 | {"state": 64}, gpt2 | {"window": 17}]
    second = [
        large,
        smallest,
        mamba2 | {"layers": 2, "width": 64, "state": 16},
        mamba2 | {"width": 128, "state": 32},
        gpt2 | {"window": 65},
        gpt2 | {"width": 64},
    ]
    third = [
        smallest | {"seed": 1},
        large | {"seed": 1},
        mamba | {"layers": 1, "width": 32, "state": 4},
        gpt2 | {"layers": 2, "width": 64, "window": 3},
        small | {"kind": "logarithmic"},
    ]
    longer = [
        {**model, "length": length, "steps": 32_000}
        for model, length in ((gpt2, 4096), (small, 1024))
    ]
    wide = mamba2 | {"width": 512, "state": 128, "peak_rate": 7.5e-4}
    widest = [{**wide, "length": length} for length in (1024, 4096)]
    return [*longer, *_product(first), *_product(second), *widest, *_product(third)]


def _product(models):
    """Every model at every length, without windows that are no limit there."""
    return [
        {**model, "length": length}
        for model in models
        for length in LENGTHS
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


GRIDS = {"smoke": smoke, "book": book, "paper": paper}
