"""From a run's long table to what is drawn: panels of arms with points. Both renderers start here."""

import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from superpose.experiment import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; the yellow is left out, it is
# unreadable on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REST = "#8A8F98"  # whatever is not an arm of its own: "other", "rest"
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


@dataclass(frozen=True)
class Look:
    """How an arm looks, the same in every panel: beyond six arms the dash tells equal colours apart."""

    name: str
    colour: str
    dash: str
    symbol: str


@dataclass
class Series:
    """One arm in one panel, in the order of its axis; ``x`` holds numbers or categories."""

    arm: str
    look: Look
    x: list[Any] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    n: list[int] = field(default_factory=list)

    @property
    def spread(self) -> bool:
        """Whether any point has an interval."""
        return any(
            low != value or high != value for low, value, high in zip(self.low, self.value, self.high, strict=True)
        )


@dataclass
class Panel:
    """One curve of a figure.

    Attributes:
        title: printed above the panel.
        categories: the categories of its axis in order of appearance; empty where the axis has numbers.
        series: the arms of the curve.
        samples: single units, drawn as small points (scatter only).
    """

    title: str
    categories: list[str]
    series: list[Series]
    samples: list[Series]


@dataclass(frozen=True)
class Drawing:
    """A figure with its data.

    Attributes:
        figure: the spec.
        panels: those with data.
        looks: how each arm looks, in the order of the legend.
        undrawn: points that a finite axis cannot show (infinite, or not positive on a logarithmic axis).
    """

    figure: Figure
    panels: list[Panel]
    looks: dict[str, Look]
    undrawn: int


def drawing(figure: Figure, tables: pa.Table) -> Drawing:
    """Collect a figure's data from a run's tables.

    Args:
        figure: the spec; curves that the run does not hold are left out.
        tables: schema :data:`superpose.experiment.record.TABLE`.
    """
    rows = [row for row in tables.to_pylist() if row["curve"] in figure.curves]
    looks = _looks(figure, list(dict.fromkeys(row["arm"] for row in rows)))
    panels = []
    for curve in figure.curves:
        own = [row for row in rows if row["curve"] == curve]
        if own:
            panels.append(_panel(figure, curve, own, looks))
    undrawn = sum(
        not _visible(value, figure.log_y)
        for panel in panels
        for series in (*panel.series, *panel.samples)
        for value in series.value
    )
    return Drawing(figure, panels, looks, undrawn)


def finite(x: float, log: bool = False) -> float | None:
    """The number where an axis can show it, else None, which both renderers leave as a gap."""
    return x if _visible(x, log) else None


def wrapped(label: str, width: int = 44) -> list[str]:
    """An axis label in lines of about equal length that fit a narrow panel."""
    lines = -(-len(label) // width)
    # Words rarely fill a line exactly, so a few characters more keep the number of lines.
    return textwrap.wrap(label, -(-len(label) // max(lines, 1)) + 6)


def stacks_as_bars(panels: list[Panel]) -> bool:
    """Whether a stack must be bars: an area needs an axis of numbers with at least two points."""
    return any(panel.categories or len({x for s in panel.series for x in s.x}) < 2 for panel in panels)


def _panel(figure: Figure, curve: str, rows: list[dict[str, Any]], looks: dict[str, Look]) -> Panel:
    curves = [row for row in rows if row["table"] == "curve"]
    samples = [row for row in rows if row["table"] == "sample"]
    if figure.kind != "scatter":
        # Single units stand in only where nothing summarises them.
        curves, samples = (curves or samples), []
    shown = curves + samples
    numbers = all(row["x"] is not None for row in shown) and figure.kind not in ("bars", "heatmap")
    categories = [] if numbers else list(dict.fromkeys(_category(row) for row in shown))
    return Panel(
        title=figure.panels.get(curve, curve if len(figure.curves) > 1 else ""),
        categories=categories,
        series=_series(curves, looks, categories, order=figure.kind != "scatter"),
        samples=_series(samples, looks, categories, order=False),
    )


def _series(rows: list[dict[str, Any]], looks: dict[str, Look], categories: list[str], *, order: bool) -> list[Series]:
    found: dict[str, Series] = {}
    if order:
        place = {name: at for at, name in enumerate(categories)}
        rows = sorted(rows, key=lambda row: place[_category(row)] if categories else row["x"])
    for row in rows:
        series = found.setdefault(row["arm"], Series(row["arm"], looks[row["arm"]]))
        series.x.append(_category(row) if categories else row["x"])
        series.value.append(_number(row["value"]))
        series.low.append(_number(row["low"], row["value"]))
        series.high.append(_number(row["high"], row["value"]))
        series.n.append(row["n"] or 1)
    return [found[arm] for arm in looks if arm in found]


def _looks(figure: Figure, arms: list[str]) -> dict[str, Look]:
    listed = [arm for arm in figure.arms if arm in arms]
    looks: dict[str, Look] = {}
    coloured = 0
    for arm in (*listed, *(arm for arm in arms if arm not in figure.arms)):
        name = figure.arms.get(arm, arm)
        if arm in ("other", "rest"):
            looks[arm] = Look(name, REST, "solid", "circle")
            continue
        turn, colour = divmod(coloured, len(PALETTE))
        looks[arm] = Look(name, PALETTE[colour], DASHES[turn % len(DASHES)], SYMBOLS[coloured % len(SYMBOLS)])
        coloured += 1
    return looks


def _category(row: dict[str, Any]) -> str:
    if row["label"] is not None:
        return row["label"]
    return "" if row["x"] is None else f"{row['x']:g}"


def _number(*candidates: float | None) -> float:
    return next((x for x in candidates if x is not None), math.nan)


def _visible(x: float, log: bool) -> bool:
    return math.isfinite(x) and (x > 0 or not log)
