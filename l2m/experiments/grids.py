"""Which models are trained on what: the grids of the experiments `gaussian` and `books`.

A grid is a list of the fields of a run, the most important runs first, so that whatever a deadline
leaves is of use.
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


def gaussian_book():
    """The published grid: 67 runs, some with more steps, another seed, or a higher rate."""
    others = (GPT2, SMALL, MEDIUM, LARGE, TWO)
    return [
        *(model | {"length": 4096, "steps": 32_000} for model in (GPT2, MEDIUM)),
        *(model | {"length": 1024, "steps": 32_000} for model in others),
        *_at([GPT2, MEDIUM, SMALL, TWO, SMALLEST, LARGE, LARGEST, WINDOW, NARROW]),
        *_at([TINIEST], LENGTHS[3:]),
        *_at([SMALL | {"seed": 1}, WINDOW | {"seed": 1}]),
        *_at([SMALL | {"kind": "logarithmic"}, GPT2 | {"kind": "logarithmic"}]),
        *(model | {"length": 1024, "learning_rate": 3e-3} for model in (GPT2, MEDIUM, SMALL, TWO)),
        *_at([GPT2 | {"window": 65}]),
    ]


def gaussian_full():
    """That, and what would separate state from width: much of one with little of other."""
    apart = [
        MAMBA | {"width": 64, "state": 128},
        MAMBA | {"width": 128, "state": 64},
        MAMBA | {"width": 512, "state": 4},
    ]
    small = [TINIEST, MAMBA2 | {"layers": 2, "width": 64, "state": 16}]
    seeds = [model | {"seed": 1} for model in (GPT2, MEDIUM, TWO, LARGE)]
    return [
        *gaussian_book(),
        *_at([*apart, *seeds]),
        *_at(small, LENGTHS[:3]),
        *_at(small[1:], LENGTHS[3:]),
    ]


def gaussian_smoke():
    """A miniature that trains on a CPU in seconds."""
    budget = {"copies": 8, "width": 32, "steps": 40, "vectors": 256, "warmup_steps": 5}
    budget |= {"held_out": 1024, "learning_rate": 1e-2}
    models = [
        {"family": "gpt2", "layers": 2},
        {"family": "gpt2", "layers": 1, "window": 2},
        {"family": "gpt2", "layers": 2, "window": 5},
        {"family": "mamba", "layers": 1, "state": 4},
        {"family": "mamba", "layers": 1, "state": 4, "kind": "logarithmic"},
        {"family": "mamba2", "layers": 1, "state": 16},
    ]
    return [{**budget, **model, "length": length} for model in models for length in (16, 64)]


def gaussian_paper():
    """The authors' scale: 500,000 steps of 4 sequences, in GPU weeks."""
    sizes = {
        "gpt2": [(12, 768), (24, 1024), (36, 1280)],
        "mamba": [(24, 768), (48, 1024), (48, 1536), (48, 2048)],
        "mamba2": [(24, 768), (48, 1024), (48, 1536)],
    }
    budget = {"steps": 500_000, "warmup_steps": 2000, "learning_rate": 5e-5}
    return [
        {"family": family, "length": length, "layers": layers, "width": width}
        | {**budget, "vectors": 4 * length}
        for length in (*LENGTHS, 16_384)
        for family, known in sizes.items()
        for layers, width in known
    ]


def _at(models, lengths=LENGTHS):
    """Every model at every length, without windows that are no limit there."""
    return [
        {**model, "length": length}
        for model in models
        for length in lengths
        if model.get("window", 0) < length
    ]


GAUSSIAN = {
    "smoke": gaussian_smoke,
    "book": gaussian_book,
    "full": gaussian_full,
    "paper": gaussian_paper,
}


def _language_model(family, layers, width, length=4096, **other):
    sizes = {"family": family, "layers": layers, "width": width, "length": length}
    return sizes | other


def _pairs(lengths, sizes, **other):
    """GPT-2 and Mamba, twice as deep and so of about as many weights, at every size and length."""
    return [
        _language_model(family, layers * (1 if family == "gpt2" else 2), width, length, **other)
        for length in lengths
        for layers, width in sizes
        for family in ("gpt2", "mamba")
    ]


SMOKE = [
    _language_model(family, layers, 64, 64, tokens=4096, batch_tokens=256, learning_rate=5e-3)
    for family, layers in (("gpt2", 1), ("mamba", 2))
]
BOOK = [
    _language_model("gpt2", 12, 768, learning_rate=6e-4),
    _language_model("mamba", 24, 768, learning_rate=6e-4),
    _language_model("gpt2", 8, 512),
    _language_model("mamba", 16, 512),
    _language_model("gpt2", 6, 256),
    _language_model("gpt2", 8, 512, length=8192),
    _language_model("mamba", 16, 512, length=8192),
]
STATES = [  # a third size, and the middle one with a quarter of the usual state
    _language_model("mamba", 12, 256),
    _language_model("mamba", 16, 512, state=4),
]
FURTHER = [  # what chapter 7 lacks; it shows them, too, once they are recorded
    _language_model("mamba2", 16, 512),
    _language_model("mamba2", 24, 768, learning_rate=6e-4),
    _language_model("mamba", 16, 512, state=64),  # a quarter as fast as with the usual state
    _language_model("mamba2", 12, 256),
    _language_model("gpt2", 8, 512, seed=1),
    _language_model("mamba", 16, 512, seed=1),
]
PAPER = _pairs(
    (4096, 8192),
    ((12, 768), (24, 1024), (36, 1280)),
    tokens=15_000_000_000,  # five epochs
    batch_tokens=16_384,
    learning_rate=5e-5,
)
PG19 = {
    "corpora": ("pg19",),
    "tokenizer": "EleutherAI/gpt-neox-20b",
    "held_out": 400,
    "sequences": 25,
}
TINY = {"corpora": ("kjv",), "held_out": 8, "sequences": 2, "windows": 8, "window_length": 64}
BOOKS = {  # runs, and their books
    "smoke": (SMOKE, TINY),
    "book": (BOOK, {}),
    "states": (STATES, {}),
    "further": (FURTHER, {}),
    "paper": (PAPER, PG19),
}
