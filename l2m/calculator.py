"""The data of the book's calculator page: ``python -m l2m.calculator`` writes it anew.

The page runs in the browser, without a server. What it knows of the public models is generated from
`l2m.architectures`, so that page and library cannot differ; each model comes with a few values of
its history state, by which the page checks its own arithmetic.
"""

import json

from l2m.history_state import architectures, history_state
from l2m.results import ROOT, write_atomic

PATH = ROOT / "book" / "_static" / "history_state_models.js"
CHECKED = (1, 1000, 1_048_576, 10**9)  # lengths at which the page checks itself


def models() -> list[dict]:
    """Return the public models as the page reads them.

    Returns
    -------
    list of dict
        ``name, family, source, memories, dims``; memories as lists ``what, width, slots, size,
        layers``, dims as pairs of a length and the scalars kept after so many tokens.
    """
    found = []
    for fact in architectures():
        state = history_state(fact["config"])
        found.append(
            {key: fact[key] for key in ("name", "family", "source")}
            | {
                "memories": [[m.what, m.width, m.slots, m.size, m.layers] for m in state.memories],
                "dims": [[length, state.dim(length)] for length in CHECKED],
            }
        )
    return found


def script() -> str:
    """Return the JavaScript file that holds them."""
    rows = ",\n  ".join(json.dumps(model, ensure_ascii=False) for model in models())
    return (
        "/* Written by `python -m l2m.calculator` from l2m/architectures.json: do not edit. */\n"
        f'"use strict";\n\nconst HISTORY_STATE_MODELS = [\n  {rows},\n];\n\n'
        'if (typeof module !== "undefined") module.exports = HISTORY_STATE_MODELS;\n'
    )


if __name__ == "__main__":
    print(f"wrote {write_atomic(PATH, script()).relative_to(ROOT)}")
