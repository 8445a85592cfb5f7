"""Figures for README and documentation: the same specs through matplotlib, as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from superpose.errors import InputError, require
from superpose.experiment import Figure
from superpose.report import heatmap_png
from superpose.report.heatmap import grids
from superpose.report.series import Drawing, Panel, Series, drawing, finite, stacks_as_bars, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMNS = 3  # panels in a row
INK, FAINT = "#1F2328", "#D9DCE1"
STYLE = {
    # Names of arms and axes come from studies and users: a dollar sign in them is a dollar sign.
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8A8F98",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_DASH = {"solid": "-", "dash": "--", "dot": ":"}
_MARK = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "X", "cross": "P"}


def save_png(figure: Figure, tables: pa.Table, path: Path, *, width: float = 8.0, dpi: int = 200) -> Path:
    """Draw a figure and write it as a PNG file.

    Args:
        figure: the spec.
        tables: schema :data:`superpose.experiment.record.TABLE`.
        path: the file to write; its folder is created.
        width: inches.
        dpi: pixels per inch; the default reads well at half its size, 800 pixels.

    Raises:
        InputError: the run holds none of the figure's curves, or matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "report")
    drawn = drawing(figure, tables)
    if not drawn.panels:
        raise InputError(f"figure {figure.id!r} draws {', '.join(figure.curves)}; the run holds none of these curves")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    grid = grids(figure, tables) if figure.kind == "heatmap" else []
    columns = min(len(drawn.panels), COLUMNS)
    rows = -(-len(drawn.panels) // columns)
    tall = heatmap_png.height(grid) if grid else 0.9 + rows * (3.4 if columns == 1 else 2.9)
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(width, tall), dpi=dpi, layout="constrained")
        FigureCanvasAgg(canvas)
        if grid:
            heatmap_png.draw(canvas, figure, grid)
        else:
            _panels(canvas, drawn, rows, columns, width)
        canvas.suptitle("\n".join(wrapped(figure.title, 90)), x=0.01, ha="left", fontsize=12, fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, metadata={"Software": None})
    return path


def _panels(canvas: "Canvas", drawn: Drawing, rows: int, columns: int, width: float) -> None:
    axes = canvas.subplots(rows, columns, sharey=True, squeeze=False)
    for number, panel in enumerate(drawn.panels):
        ax = axes[number // columns][number % columns]
        _panel(ax, drawn, panel)
        if number % columns == 0:
            ax.set_ylabel("\n".join(wrapped(drawn.figure.y_label)))
    for ax in axes.flat[len(drawn.panels) :]:
        ax.set_visible(False)
    if len(drawn.looks) > 1:
        handles, names = _legend(axes)
        # As many columns as the width holds.
        across = max(1, min(len(names), int(width * 11 / (4 + max(map(len, names))))))
        canvas.legend(handles, names, loc="outside lower center", ncols=across)


def _panel(ax: "Axes", drawn: Drawing, panel: Panel) -> None:
    figure = drawn.figure
    place = {name: float(at) for at, name in enumerate(panel.categories)}
    bars = figure.kind == "bars" or (figure.kind == "stack" and stacks_as_bars(drawn.panels))
    if bars and not place:
        # A stack of a single point on an axis of numbers is drawn as one column.
        place = {x: float(at) for at, x in enumerate(sorted({x for s in panel.series for x in s.x}))}
    if bars:
        _bars(ax, drawn, panel, place)
    elif figure.kind == "stack":
        _areas(ax, panel)
    else:
        for series in panel.samples:
            _scatter(ax, series, place, figure.log_y, size=12.0, alpha=0.5)
        for series in panel.series:
            if figure.kind == "scatter":
                _scatter(ax, series, place, figure.log_y, size=60.0 if panel.samples else 22.0, alpha=1.0)
            else:
                _line(ax, series, place, figure.log_y)
    if place:
        names = [name if isinstance(name, str) else f"{name:g}" for name in place]
        long = len(names) * max(map(len, names), default=0) > 40
        ax.set_xticks(list(place.values()), names, rotation=35 if long else 0, ha="right" if long else "center")
        ax.grid(axis="x", visible=False)
    if figure.log_y:
        from matplotlib.ticker import LogFormatter

        ax.set_yscale("log")
        # The scale's own formatters write mathematical text.
        ax.yaxis.set_major_formatter(LogFormatter())
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    if figure.y_range is not None:
        low, high = figure.y_range
        air = 0 if figure.log_y else 0.02 * (high - low)
        ax.set_ylim(low - air, high + air)
    ax.set_title(panel.title)
    ax.set_xlabel("\n".join(wrapped(figure.x_label)))


def _line(ax: "Axes", series: Series, place: dict[Any, float], log: bool) -> None:
    look = series.look
    x = _at(series, place)
    y = _array(series.value, log)
    style: dict[str, Any] = {"color": look.colour, "linestyle": _DASH[look.dash], "marker": _MARK[look.symbol]}
    ax.plot(x, y, label=look.name, linewidth=1.6, markersize=4, **style)
    if not series.spread:
        return
    low, high = _array(series.low, log), _array(series.high, log)
    if place:
        ax.errorbar(x, y, _errors(y, low, high), fmt="none", ecolor="#6B7280", elinewidth=1, capsize=2)
    else:
        ax.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)


def _bars(ax: "Axes", drawn: Drawing, panel: Panel, place: dict[Any, float]) -> None:
    stacked = drawn.figure.kind == "stack"
    bar = 0.62 if stacked else 0.78 / max(len(panel.series), 1)
    base = dict.fromkeys(place, 0.0)
    for number, series in enumerate(panel.series):
        shift = 0.0 if stacked else (number - (len(panel.series) - 1) / 2) * bar
        x = _at(series, place) + shift
        y = _array(series.value, drawn.figure.log_y)
        bottom = [base[key] for key in series.x] if stacked else None
        hatch = {"solid": "", "dash": "//", "dot": ".."}[series.look.dash]
        ax.bar(x, y, bar * 0.94, bottom=bottom, color=series.look.colour, label=series.look.name, hatch=hatch)
        if stacked:
            for key, value in zip(series.x, series.value, strict=True):
                base[key] += finite(value) or 0.0
        elif series.spread:
            errors = _errors(y, _array(series.low, False), _array(series.high, False))
            ax.errorbar(x, y, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)


def _areas(ax: "Axes", panel: Panel) -> None:
    grid = np.array(sorted({x for series in panel.series for x in series.x}))
    layers = []
    for series in panel.series:
        known = {x: finite(value) or 0.0 for x, value in zip(series.x, series.value, strict=True)}
        layers.append([known.get(x, 0.0) for x in grid])
    ax.stackplot(
        grid,
        layers,
        colors=[series.look.colour for series in panel.series],
        labels=[series.look.name for series in panel.series],
        alpha=0.85,
        linewidth=0,
    )
    ax.set_xlim(grid[0], grid[-1])


def _scatter(ax: "Axes", series: Series, place: dict[Any, float], log: bool, *, size: float, alpha: float) -> None:
    look = series.look
    ax.scatter(
        _at(series, place),
        _array(series.value, log),
        s=size,
        alpha=alpha,
        color=look.colour,
        marker=_MARK[look.symbol],
        edgecolors="white" if size > 40 else "none",
        label=look.name,
    )


def _at(series: Series, place: dict[Any, float]) -> np.ndarray:
    return np.array([place[x] if place else x for x in series.x], dtype=float)


def _array(values: list[float], log: bool) -> np.ndarray:
    return np.array([np.nan if finite(x, log) is None else x for x in values], dtype=float)


def _errors(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.stack([y - low, high - y]), nan=0.0)


def _legend(axes: np.ndarray) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for ax in axes.flat:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)
