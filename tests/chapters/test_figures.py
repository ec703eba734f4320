"""The style can be applied, and its colours are colours."""

import matplotlib
import pytest

from l2m.chapters.figures import COLORS, log_axes, paper_reference, use_style

matplotlib.use("Agg")


def test_style_and_axes():
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        use_style()
        assert all(matplotlib.colors.is_color_like(color) for color in COLORS.values())
        fig, ax = plt.subplots()
        log_axes(ax, "L", "nats")
        paper_reference(ax, [1, 4], 2.0, 0.5)
        ax.set_xlim(1, 1024)
        fig.canvas.draw()
        labels = [tick.get_text() for tick in ax.get_xticklabels()]
        assert {"1", "1,024"} <= set(labels)
        assert ax.lines[0].get_ydata() == pytest.approx([2, 4])
        plt.close(fig)
