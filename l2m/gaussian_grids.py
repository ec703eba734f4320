"""Which models are trained on which Gaussian data: the grids of `l2m.gaussian_training`.

A grid is a list of the fields of `l2m.gaussian_training.Run`, the most important runs first, so
that whatever a deadline leaves is of use. All models of a grid have the same budget, save those
that are there to show what more training gives.
"""

LENGTHS = (64, 256, 1024, 4096)


def book():
    """Return the published grid: fixed states from 128 to 138,752 scalars, a GPU minute a run."""
    gpt2, mamba2 = {"family": "gpt2"}, {"family": "mamba2"}
    mamba = {"family": "mamba"}
    smallest = mamba | {"layers": 2, "width": 64, "state": 4}
    small = mamba | {"width": 64, "state": 16}
    medium, large = mamba | {"state": 16}, mamba | {"state": 64}
    longer = [
        {**model, "length": length, "steps": 32_000}
        for model, length in ((gpt2, 4096), (small, 1024))
    ]
    first = [gpt2, medium, small, mamba2 | {"state": 64}, smallest, large, gpt2 | {"window": 17}]
    second = [mamba2 | {"layers": 2, "width": 64, "state": 16}]
    others = [
        {**model, "length": length, "seed": 1}
        for length in (4096, 256)
        for model in (smallest, large)
    ]
    tiniest = mamba | {"layers": 1, "width": 32, "state": 4}
    extremes = [
        gpt2 | {"layers": 1, "width": 64, "window": 2, "length": 1024},
        *({**tiniest, "length": length} for length in (4096, 256)),
        *({**small, "kind": "logarithmic", "length": length} for length in (4096, 256)),
    ]
    runs = [*longer, *_product(first), *others, *_product(second), *extremes]
    return [{**run, "peak_rate": _rate(run.get("width", 256))} for run in runs]


def _rate(width):
    """Peak learning rate, the same for all architectures: narrow models bear and want a larger."""
    return round(3e-3 * (256 / width) ** 0.5, 5)


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
