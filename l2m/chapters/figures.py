"""One look for all figures: colours with a fixed meaning, safe for the colour-blind; legible type.

Figures are 6.4 inches wide with 12-point type: on a phone, 360 pixels across, that is still 9 px.
The colours are Okabe & Ito's; black is for exact truth, grey for the paper's own numbers. Notebooks
get SVG on white, with letters as outlines: the same on every machine. Pages invert it in the dark.
"""

import json
import sys
from math import log10
from pathlib import Path

_LOOKS = json.loads(Path(__file__).with_name("figures.json").read_text(encoding="utf-8"))
_PALETTE = _LOOKS["palette"]
# Colour names and roles → hex codes: the same quantity has the same colour in every chapter.
COLORS = _PALETTE | {role: _PALETTE[color] for role, color in _LOOKS["roles"].items()}


def use_style():
    """Set matplotlib to the book's style; in a notebook, to SVG that is the same at every run."""
    import matplotlib as mpl

    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        mpl.use("module://matplotlib_inline.backend_inline")
        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})
    cycle = mpl.cycler(color=[COLORS[name] for name in _LOOKS["cycle"]])
    mpl.rcParams.update(_LOOKS["style"] | {"axes.prop_cycle": cycle})


def log_axes(ax, xlabel, ylabel, ylog=True):
    """Give `ax` a base-2 logarithmic x axis with plain numbers (1, 2, 4, …), and a log y axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:,.10g}")
    if ylog:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_plain_or_power)
    ax.set(xlabel=xlabel, ylabel=ylabel)


def _plain_or_power(value, _):
    """0.01 and 1000 as they are, beyond that a power of ten."""
    return f"{value:g}" if 9e-4 < value < 1e5 else f"$10^{{{round(log10(value))}}}$"


def paper_reference(ax, x, amplitude, exponent, label="paper"):
    """Draw the paper's published law amplitude · x^exponent as a thin dashed grey line."""
    y = [amplitude * float(value) ** exponent for value in x]
    ax.plot(x, y, "--", color=COLORS["paper"], linewidth=1.2, zorder=1, label=label)
