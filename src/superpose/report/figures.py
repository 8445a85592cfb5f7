"""Figures for the site: a spec and a run's table become a plotly figure of plain dictionaries."""

import html
import math
from typing import Any

import pyarrow as pa

from superpose.experiment import Figure
from superpose.report.heatmap import heatmap
from superpose.report.numbers import short
from superpose.report.series import Drawing, Panel, Series, drawing, finite, stacks_as_bars, wrapped

_GAP = 0.08  # between panels, as a share of the width
_BAND = 0.16  # opacity of an interval


def plotly_figure(figure: Figure, tables: pa.Table) -> dict[str, Any]:
    """A plotly figure as plain data: valid JSON, every number finite or null.

    Several curves become panels side by side; ``layout.meta`` says how many there are and how the arms look, so that
    a page can arrange panels for its width and draw its own legend.

    Args:
        figure: the spec.
        tables: schema :data:`superpose.experiment.record.TABLE`; the spec's curves must be among them.
    """
    if figure.kind == "heatmap":
        return heatmap(figure, tables)
    drawn = drawing(figure, tables)
    bars = figure.kind == "bars" or (figure.kind == "stack" and stacks_as_bars(drawn.panels))
    named: set[str] = set()
    traces: list[dict[str, Any]] = []
    for number, panel in enumerate(drawn.panels, start=1):
        for trace in _traces(drawn, panel, bars):
            suffix = "" if number == 1 else str(number)
            trace |= {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            # One entry per arm in plotly's own legend, however many panels and bands it has.
            if trace.get("showlegend", True):
                trace["showlegend"] = trace["legendgroup"] not in named
                named.add(trace["legendgroup"])
            traces.append(trace)
    return {"data": traces, "layout": _layout(drawn, bars)}


def _traces(drawn: Drawing, panel: Panel, bars: bool) -> list[dict[str, Any]]:
    figure = drawn.figure
    traces = [_points(series, figure.log_y, size=6, opacity=0.55) for series in panel.samples]
    for series in panel.series:
        if bars:
            traces.append(_bars(series, figure))
        elif figure.kind == "stack":
            traces.append(_area(series))
        elif figure.kind == "scatter":
            traces.append(_points(series, figure.log_y, size=12 if panel.samples else 7, opacity=1.0))
        else:
            if series.spread and not panel.categories:
                traces.append(_band(series, figure.log_y))
            traces.append(_line(series, figure, errors=series.spread and bool(panel.categories)))
    return traces


def _base(series: Series, log: bool) -> dict[str, Any]:
    name = html.escape(series.look.name, quote=False)
    interval = " [%{customdata[0]}, %{customdata[1]}]" if series.spread else ""
    count = "<br>n = %{customdata[2]}" if any(n > 1 for n in series.n) else ""
    return {
        "name": name,
        "legendgroup": series.arm,
        "x": [html.escape(x, quote=False) if isinstance(x, str) else finite(x) for x in series.x],
        "y": [finite(value, log) for value in series.value],
        "customdata": [
            [short(low), short(high), n] for low, high, n in zip(series.low, series.high, series.n, strict=True)
        ],
        "hovertemplate": f"<b>%{{y:.3g}}</b>{interval}{count}<br>at %{{x}}<extra>{name}</extra>",
    }


def _line(series: Series, figure: Figure, *, errors: bool) -> dict[str, Any]:
    look = series.look
    trace = _base(series, figure.log_y) | {
        "type": "scatter",
        "mode": "lines+markers",
        "line": {"color": look.colour, "width": 2, "dash": look.dash},
        "marker": {"color": look.colour, "size": 6, "symbol": look.symbol},
    }
    return trace | ({"error_y": _errors(series, figure.log_y)} if errors else {})


def _band(series: Series, log: bool) -> dict[str, Any]:
    """A closed polygon per unbroken stretch of points whose interval can be drawn."""
    xs: list[Any] = []
    ys: list[Any] = []
    stretch: list[int] = []
    for at in range(len(series.x) + 1):
        if at < len(series.x) and finite(series.low[at], log) is not None and finite(series.high[at], log) is not None:
            stretch.append(at)
            continue
        if len(stretch) > 1:
            if xs:
                xs.append(None)
                ys.append(None)
            xs += [series.x[i] for i in stretch] + [series.x[i] for i in reversed(stretch)]
            ys += [series.low[i] for i in stretch] + [series.high[i] for i in reversed(stretch)]
        stretch = []
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "fill": "toself",
        "fillcolor": _rgba(series.look.colour, _BAND),
        "line": {"width": 0},
        "legendgroup": series.arm,
        "name": html.escape(series.look.name, quote=False),
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _bars(series: Series, figure: Figure) -> dict[str, Any]:
    trace = _base(series, figure.log_y) | {"type": "bar", "marker": {"color": series.look.colour}}
    if series.look.dash != "solid":
        trace["marker"]["pattern"] = {"shape": "/" if series.look.dash == "dash" else "."}
    if series.spread and figure.kind == "bars":
        trace["error_y"] = _errors(series, figure.log_y)
    return trace


def _area(series: Series) -> dict[str, Any]:
    colour = series.look.colour
    return _base(series, False) | {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "shares",
        "line": {"color": colour, "width": 1},
        "fillcolor": _rgba(colour, 0.75),
    }


def _points(series: Series, log: bool, *, size: int, opacity: float) -> dict[str, Any]:
    edge = {"width": 1.5, "color": "#ffffff"} if size > 10 else {"width": 0}
    marker = {
        "color": series.look.colour,
        "symbol": series.look.symbol,
        "size": size,
        "opacity": opacity,
        "line": edge,
    }
    trace = _base(series, log) | {"type": "scatter", "mode": "markers", "marker": marker}
    trace["hovertemplate"] = f"(%{{x:.3g}}, %{{y:.3g}})<extra>{trace['name']}</extra>"
    return trace


def _errors(series: Series, log: bool) -> dict[str, Any]:
    """Asymmetric error bars; an end that cannot be drawn is left out."""
    up, down = [], []
    for value, low, high in zip(series.value, series.low, series.high, strict=True):
        shown = finite(value, log) is not None
        up.append(high - value if shown and finite(high) is not None else None)
        down.append(value - low if shown and finite(low) is not None else None)
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1.2,
        "width": 3,
        "color": "#6B7280",
    }


def _layout(drawn: Drawing, bars: bool) -> dict[str, Any]:
    figure, count = drawn.figure, max(len(drawn.panels), 1)
    width = (1 - _GAP * (count - 1)) / count
    layout: dict[str, Any] = {
        "showlegend": len(drawn.looks) > 1,
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 60, "r": 16, "t": 36 if count > 1 else 16, "b": 56},
        "hovermode": "closest",
        "annotations": [],
        "meta": {
            "panels": count,
            "arms": [
                {"arm": arm, "name": look.name, "colour": look.colour, "dash": look.dash}
                for arm, look in drawn.looks.items()
            ],
        },
    }
    if bars:
        layout |= {"barmode": "stack" if figure.kind == "stack" else "group", "bargap": 0.25, "bargroupgap": 0.08}
    for number, panel in enumerate(drawn.panels, start=1):
        suffix = "" if number == 1 else str(number)
        start = (width + _GAP) * (number - 1)
        x_axis: dict[str, Any] = {
            "domain": [start, min(start + width, 1.0)],
            "anchor": f"y{suffix}",
            "title": {"text": _label(figure.x_label), "standoff": 10},
            "zeroline": False,
            "automargin": True,
        }
        if panel.categories:
            x_axis |= {
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [html.escape(c, quote=False) for c in panel.categories],
            }
        y_axis: dict[str, Any] = {
            "anchor": f"x{suffix}",
            "title": {"text": _label(figure.y_label) if number == 1 else "", "standoff": 10},
            "zeroline": False,
            "automargin": True,
        }
        if number > 1:
            y_axis["matches"] = "y"
        if figure.log_y:
            y_axis |= {"type": "log", "exponentformat": "power", "dtick": 1}
        if figure.y_range is not None:
            y_axis["range"] = _range(figure)
        elif bars and not figure.log_y:
            y_axis["rangemode"] = "tozero"
        layout[f"xaxis{suffix}"] = x_axis
        layout[f"yaxis{suffix}"] = y_axis
        if panel.title:
            layout["annotations"].append(
                {
                    "text": f"<b>{html.escape(panel.title, quote=False)}</b>",
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
    return layout


def _range(figure: Figure) -> list[float]:
    low, high = figure.y_range or (0.0, 1.0)
    if not figure.log_y:
        # A little air, so that points on the border are seen whole.
        air = 0.02 * (high - low)
        return [low - air, high + air]
    return [math.log10(low), math.log10(high)]


def _label(text: str) -> str:
    return "<br>".join(html.escape(line, quote=False) for line in wrapped(text))


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
