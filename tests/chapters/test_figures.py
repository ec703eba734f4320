"""The style can be applied, and its colours are colours."""

import textwrap

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


@pytest.mark.slow
def test_a_kernel_gives_the_same_svg_twice(monkeypatch):
    """Outlines, no font that a reader may lack, neither date nor random names, in any shell."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    code = """
    import matplotlib.pyplot as plt
    from l2m.chapters.figures import use_style
    use_style()
    plt.plot([1, 2], [3, 4], marker="o", label="a law")
    plt.legend()
    plt.show()
    """
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = []
    for _ in range(2):
        notebook = new_notebook(cells=[new_code_cell(textwrap.dedent(code))])
        NotebookClient(notebook, timeout=120).execute()
        (output,) = notebook.cells[0].outputs
        found.append(output.data["image/svg+xml"])
    assert found[0] == found[1]
    assert "image/png" not in output.data
    assert "<text" not in found[0] and "dc:date" not in found[0]
