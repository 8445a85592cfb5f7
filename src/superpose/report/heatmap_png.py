"""Heat maps through matplotlib: one panel below the other, numbers in the cells."""

from typing import TYPE_CHECKING

import numpy as np

from superpose.experiment import Figure
from superpose.report.heatmap import COLOURS, Cell, Grid, limits, printed
from superpose.report.series import finite, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ROW = 0.34  # inches
REST = 1.25  # title, axis and names of a panel
PLOT_SHARE = 0.7  # of the width is left for the cells, beside names and the colour bar


def height(found: list[Grid]) -> float:
    """Inches that the panels need."""
    return 0.5 + sum(len(grid.rows) * ROW + REST for grid in found)


def draw(canvas: "Canvas", figure: Figure, found: list[Grid]) -> None:
    """Draw the panels of a heatmap on an empty canvas.

    Args:
        canvas: a matplotlib figure of the height that :func:`height` gives.
        figure: a spec of kind ``heatmap``.
        found: its panels, one or more.
    """
    bounds = limits(figure, found)
    axes = canvas.subplots(len(found), 1, squeeze=False)[:, 0]
    for ax, grid in zip(axes, found, strict=True):
        image = ax.imshow(grid.values, cmap=COLOURS, vmin=bounds[0], vmax=bounds[1], aspect="auto")
        ax.grid(visible=False)
        ax.set_xticks(range(len(grid.columns)), grid.columns, rotation=35, ha="right")
        ax.set_yticks(range(len(grid.names)), grid.names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(grid.title)
        _numbers(ax, grid, bounds, canvas.get_figwidth())
        canvas.colorbar(image, ax=ax, label="\n".join(wrapped(figure.value_label, 24)), pad=0.01)


def _numbers(ax: "Axes", grid: Grid, bounds: tuple[float, float], inches: float) -> None:
    middle = (bounds[0] + bounds[1]) / 2
    texts = [_text(c, bounds) for cells in grid.cells for c in cells if c is not None and finite(c.value) is not None]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=1)
    # The longest line fits into a cell: points of a cell's width over those of a digit, which is about half its height.
    size = min(7.0, PLOT_SHARE * inches * 72 / len(grid.columns) / (0.56 * longest))
    for row, cells in enumerate(grid.cells):
        for column, cell in enumerate(cells):
            if cell is None or finite(cell.value) is None:
                continue
            ink = "white" if cell.value < middle else "#1F2328"
            ax.text(
                column, row, _text(cell, bounds), ha="center", va="center", color=ink, fontsize=size, linespacing=1.1
            )


def _text(cell: Cell, bounds: tuple[float, float]) -> str:
    value = printed(cell.value, bounds)
    spread = np.isfinite([cell.low, cell.high]).all() and not cell.low == cell.value == cell.high
    return f"{value}\n{printed(cell.low, bounds)} to {printed(cell.high, bounds)}" if spread else value
