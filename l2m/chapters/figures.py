"""One look for all figures: colours with a fixed meaning, safe for the colour-blind; legible type.

Figures are 6.4 inches wide with 12-point type: on a phone, 360 pixels across, that is still 9 px.
Notebooks get them as SVG on white, with the letters as outlines: sharp on screen and paper, and the
same on every machine. The pages of the book invert them in the dark.
"""

import sys
from math import log10

# Okabe & Ito's palette; black is left for exact truth, grey for the paper's own numbers.
_PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "grey": "#6E6E6E",
}

COLORS = _PALETTE | {
    "direct": _PALETTE["blue"],
    "vclub": _PALETTE["vermillion"],
    "bipartite": _PALETTE["blue"],
    "two_point": _PALETTE["green"],
    "plugin": _PALETTE["orange"],
    "null": _PALETTE["purple"],
    "truth": _PALETTE["black"],
    "paper": _PALETTE["grey"],
}
"""Colour names and roles → hex codes: the same quantity has the same colour in every chapter."""


def use_style():
    """Set matplotlib to the book's style; call once, after the imports of a notebook.

    In a notebook figures become SVG, shown under their cell, with the same bytes at every run.
    """
    import matplotlib as mpl

    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        mpl.use("module://matplotlib_inline.backend_inline")
        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})

    cycle = ["blue", "vermillion", "green", "purple", "orange", "sky", "black"]
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 4.0),
            "figure.dpi": 140,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.labelsize": 12,
            "axes.titlesize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "axes.prop_cycle": mpl.cycler(color=[COLORS[name] for name in cycle]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "errorbar.capsize": 2.5,
            "svg.fonttype": "path",
            "svg.hashsalt": "l2m",
        }
    )


def log_axes(ax, xlabel, ylabel, ylog=True):
    """Give `ax` a base-2 logarithmic x axis with plain numbers (1, 2, 4, …), and a log y axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if ylog:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(_plain_or_power))
    ax.set(xlabel=xlabel, ylabel=ylabel)


def _plain_or_power(value, _):
    """0.01 and 1000 as they are, beyond that a power of ten."""
    return f"{value:g}" if 9e-4 < value < 1e5 else f"$10^{{{round(log10(value))}}}$"


def paper_reference(ax, x, amplitude, exponent, label="paper"):
    """Draw the paper's published law amplitude · x^exponent as a thin dashed grey line."""
    y = [amplitude * float(value) ** exponent for value in x]
    ax.plot(x, y, "--", color=COLORS["paper"], linewidth=1.2, zorder=1, label=label)
