"""Which models are trained on what: the grids of the experiments `gaussian` and `books`.

A grid is a list of the fields of a run, the most important runs first, so that whatever a deadline
leaves is of use.

Predicted before the Gaussian runs were made (November 2026): told the place, GPT-2 with rotary
positions stays flat, KL(4,096) / KL(256) < 2, and a Mamba of 16 states rises by 5 or more. The
place alone takes a third or more off a Mamba's divergence at 256. At fixed length and width the
divergence falls with the state until the state is about twice the numbers needed, then no more.
Before the second half of them: windows of 16, told the place, do as well as all of attention at 64,
and at 1,024 no better than `window_floor` allows; Mamba-2 of 64 states is between Mamba of 16 and
attention at 1,024; in the paper's own sizes (all of 16 states) ratio and length explain as much.
"""

GPT2 = {"family": "gpt2", "precision": "bf16"}
ROTARY = GPT2 | {"positions": "rotary"}
WINDOW = ROTARY | {"window": 16}
MAMBA, WIDE_STATE = ({"family": "mamba", "state": state} for state in (16, 64))
MAMBA2 = {"family": "mamba2", "state": 64}
CLOCK = {"clock": True}
RATES = [  # of each network at L = 256, the best first
    (ROTARY | CLOCK, (3e-3, 1.5e-3, 7.5e-4, 6e-3)),
    (MAMBA | CLOCK, (3e-3, 1.5e-3, 7.5e-4, 6e-3)),
    (MAMBA, (3e-3, 1.5e-3, 7.5e-4)),
    (GPT2, (1.5e-3, 3e-3)),
    (WIDE_STATE | CLOCK, (6e-3, 3e-3, 1.5e-3)),
    (MAMBA2 | CLOCK, (3e-3,)),
    (WINDOW | CLOCK, (3e-3,)),
    (ROTARY, (3e-3, 1.5e-3)),
    (GPT2 | CLOCK, (1.5e-3,)),
]


def gaussian_book():
    """The published grid: rates at one length; lengths; states; and what a smaller budget gives."""

    def run(network, rate, length=256, **other):
        return network | {"length": length, "learning_rate": rate} | other

    long, short, slow = {"steps": 30_600}, {"steps": 2000}, 7.5e-4
    small = MAMBA | CLOCK | {"layers": 2}
    lengths = [(network, rates[0]) for network, rates in RATES[:7]]
    again = [network for network in (ROTARY | CLOCK, MAMBA | CLOCK)]
    return [
        *(run(network, rate) for network, rates in RATES for rate in rates),
        *(
            run(*each, L)
            for each in lengths
            for L in (64, 1024)
            if (each[0], L) != (WIDE_STATE | CLOCK, 64)
        ),
        *(run(network, 3e-3, length, seed=1) for network in again for length in (64, 1024)),
        run(ROTARY | CLOCK, 3e-3, 4096, **long),
        *(
            run(small, 3e-3, state=state, copies=copies)
            for state in (1, 2, 4, 8, 16, 64)
            for copies in (16, 64, 256)
        ),
        # at rates that turned out too low, or with a quarter of the steps
        *(run(network, slow, length) for network in again for length in (64, 1024)),
        *(run(ROTARY, 1.5e-3, length) for length in (64, 1024)),
        run(MAMBA, slow, 1024),
        run(ROTARY | CLOCK, slow, 4096, **long),
        run(small, slow, state=1),
        *(
            run(network, slow, **short)
            for network in (GPT2, ROTARY, *again, MAMBA, WIDE_STATE | CLOCK)
        ),
        *(run(network, 1.5e-3, **short) for network in (GPT2, ROTARY)),
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
        for length in (64, 256, 1024, 4096, 16_384)
        for family, known in sizes.items()
        for layers, width in known
    ]


GAUSSIAN = {
    "smoke": gaussian_smoke,
    "book": gaussian_book,
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
