"""Heat maps: a row per arm, a column per category, and what a chosen cell opens."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from superpose.experiment import Figure
from superpose.report.numbers import short
from superpose.report.series import Panel, drawing, finite

# Matplotlib's cividis, which people with any colour vision read as going from low to high.
COLOURS = "cividis"
_SCALE = ("#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a69d75", "#d2c060", "#fee838")
_TIGHT = 10.0  # ranges up to here are printed with two decimals


@dataclass(frozen=True)
class Cell:
    """One cell: numbers, NaN where nothing was measured, and the numbers printed beside."""

    value: float
    low: float
    high: float
    n: int
    beside: str


@dataclass(frozen=True)
class Grid:
    """One panel of a heatmap.

    Attributes:
        title: printed above the panel.
        rows: arm ids, from the top.
        names: the rows' printed names.
        columns: categories, from the left.
        cells: by row, then column; None where the run holds nothing.
    """

    title: str
    rows: list[str]
    names: list[str]
    columns: list[str]
    cells: list[list[Cell | None]]

    @property
    def values(self) -> np.ndarray:
        """Values [rows, columns]; NaN where there is none that a colour can show."""
        kept = [[finite(cell.value) if cell else None for cell in row] for row in self.cells]
        return np.array([[np.nan if x is None else x for x in row] for row in kept], dtype=float)


def grids(figure: Figure, tables: pa.Table) -> list[Grid]:
    """The panels of a heatmap, all with the same rows and columns so that they can be compared.

    Args:
        figure: a spec of kind ``heatmap``.
        tables: schema :data:`superpose.experiment.record.TABLE`.
    """
    drawn = drawing(figure, tables)
    panels, looks = drawn.panels, drawn.looks
    beside = _beside(figure, tables)
    rows = list(looks)
    columns = list(dict.fromkeys(name for panel in panels for name in panel.categories))
    present = [curve for curve in figure.curves if curve in set(tables.column("curve").to_pylist())]
    return [
        Grid(
            title=panel.title,
            rows=rows,
            names=[looks[arm].name for arm in rows],
            columns=columns,
            cells=_cells(panel, rows, columns, beside.get(curve, {})),
        )
        for curve, panel in zip(present, panels, strict=True)
    ]


def limits(figure: Figure, found: list[Grid]) -> tuple[float, float]:
    """The range of the colours: the figure's, or that of the values."""
    if figure.y_range is not None:
        return figure.y_range
    every = np.concatenate([grid.values.ravel() for grid in found])
    every = every[np.isfinite(every)]
    return (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)


def printed(x: float, bounds: tuple[float, float]) -> str:
    """A number as it stands in a cell."""
    if finite(x) is None or bounds[1] - bounds[0] > _TIGHT:
        return short(x)
    # No cell shows a negative zero.
    return f"{round(x, 2) + 0.0:.2f}".replace("-", "\u2212")


def heatmap(figure: Figure, tables: pa.Table) -> dict[str, Any]:
    """A heatmap as a plotly figure of plain data.

    Args:
        figure: a spec of kind ``heatmap``.
        tables: schema :data:`superpose.experiment.record.TABLE`.
    """
    found = grids(figure, tables)
    bounds = limits(figure, found)
    layout: dict[str, Any] = {
        "showlegend": False,
        "margin": {"l": 60, "r": 16, "t": 36, "b": 56},
        "hovermode": "closest",
        "annotations": [],
        "coloraxis": {
            "cmin": bounds[0],
            "cmax": bounds[1],
            "colorscale": [[at / (len(_SCALE) - 1), colour] for at, colour in enumerate(_SCALE)],
            "colorbar": {"thickness": 10, "title": {"text": _plain(figure.value_label), "side": "right"}},
        },
        "meta": {"panels": len(found), "arms": [], "rows": len(found[0].rows) if found else 0},
    }
    traces = []
    for number, grid in enumerate(found, start=1):
        suffix = "" if number == 1 else str(number)
        traces.append(_trace(figure, grid, bounds) | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        share = 1 / len(found)
        layout[f"xaxis{suffix}"] = _axis(figure.x_label, grid.columns, f"y{suffix}")
        layout[f"yaxis{suffix}"] = _axis(figure.y_label, grid.names, f"x{suffix}") | {
            "domain": [max(0.0, 1 - number * share), 1 - (number - 1) * share],
            "autorange": "reversed",
        }
        if grid.title:
            layout["annotations"].append(
                {
                    "text": f"<b>{_plain(grid.title)}</b>",
                    "xref": f"x{suffix} domain",
                    "yref": f"y{suffix} domain",
                    "x": 0,
                    "y": 1,
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "yshift": 6,
                    "showarrow": False,
                }
            )
    return {"data": traces, "layout": layout}


def choices(figure: Figure, tables: pa.Table) -> dict[str, Any] | None:
    """Which details the cells of a heatmap open, as plain data; None where it opens none.

    Returns:
        ``rows`` (id and printed name) and ``columns`` of the grid, the ``title`` with its placeholders, the specs of
        the different details, and, by row and column, which of them a cell opens (None: the run holds no such curve).
    """
    if figure.kind != "heatmap" or figure.detail is None:
        return None
    found = grids(figure, tables)
    if not found:
        return None
    present = set(tables.column("curve").to_pylist())
    specs: dict[tuple[str, ...], Figure] = {}
    opens: list[list[int | None]] = []
    for row in found[0].rows:
        opens.append([])
        for column in found[0].columns:
            detail = figure.detail_of(row, column)
            if detail is None or not present & set(detail.curves):
                opens[-1].append(None)
                continue
            specs.setdefault(detail.curves, detail)
            opens[-1].append(list(specs).index(detail.curves))
    return {
        "rows": list(zip(found[0].rows, found[0].names, strict=True)),
        "columns": found[0].columns,
        "row_label": figure.y_label,
        "column_label": figure.x_label,
        "title": figure.detail.title,
        "opens": opens,
        "specs": list(specs.values()),
    }


def _trace(figure: Figure, grid: Grid, bounds: tuple[float, float]) -> dict[str, Any]:
    beside = f"{_plain(figure.beside_label)}: %{{customdata[2]}}<br>" if figure.beside else ""
    return {
        "type": "heatmap",
        "x": [_plain(name) for name in grid.columns],
        "y": [_plain(name) for name in grid.names],
        "z": [[finite(cell.value) if cell else None for cell in row] for row in grid.cells],
        # The interval stands on a line of its own, which a page leaves out where cells are narrow.
        "text": [[_text(cell, bounds) for cell in row] for row in grid.cells],
        "texttemplate": "%{text}",
        # Plotly's own choice of size counts the characters of the markup.
        "textfont": {"size": 12},
        "customdata": [[_told(cell) for cell in row] for row in grid.cells],
        "hovertemplate": (
            f"<b>%{{y}}, %{{x}}</b><br>{_plain(figure.value_label)}: <b>%{{customdata[0]}}</b><br>"
            f"{beside}n = %{{customdata[1]}}<extra></extra>"
        ),
        "hoverongaps": False,
        "coloraxis": "coloraxis",
        "xgap": 2,
        "ygap": 2,
    }


def _text(cell: Cell | None, bounds: tuple[float, float]) -> str:
    if cell is None or finite(cell.value) is None:
        return ""
    value = printed(cell.value, bounds)
    if cell.low == cell.value == cell.high:
        return value
    small = f"{printed(cell.low, bounds)} to {printed(cell.high, bounds)}"
    return f'{value}<br><span style="font-size:9px">{small}</span>'


def _told(cell: Cell | None) -> list[Any]:
    if cell is None:
        return ["", 0, ""]
    return [_with_interval(cell.value, cell.low, cell.high), cell.n, cell.beside]


def _with_interval(value: float, low: float, high: float) -> str:
    return short(value) if low == value == high else f"{short(value)} [{short(low)}, {short(high)}]"


def _axis(label: str, names: list[str], anchor: str) -> dict[str, Any]:
    return {
        "anchor": anchor,
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [_plain(name) for name in names],
        "title": {"text": _plain(label), "standoff": 10},
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def _cells(panel: Panel, rows: list[str], columns: list[str], beside: Mapping[Any, str]) -> list[list[Cell | None]]:
    known = {}
    for series in panel.series:
        for at, column in enumerate(series.x):
            key = series.arm, column
            numbers = series.value[at], series.low[at], series.high[at]
            known[key] = Cell(*numbers, series.n[at], beside.get(key, ""))
    return [[known.get((row, column)) for column in columns] for row in rows]


def _beside(figure: Figure, tables: pa.Table) -> dict[str, dict[tuple[str, str], str]]:
    """By curve, then (arm, category): the numbers of the curve beside it, in words."""
    told: dict[str, dict[tuple[str, str], str]] = {}
    for curve, other in figure.beside.items():
        spec = Figure(id=figure.id, title="", kind="heatmap", curves=(other,), x_label="", y_label="")
        told[curve] = {
            (series.arm, column): _with_interval(series.value[at], series.low[at], series.high[at])
            for panel in drawing(spec, tables).panels
            for series in panel.series
            for at, column in enumerate(series.x)
        }
    return told


def _plain(text: str) -> str:
    return html.escape(text, quote=False)
