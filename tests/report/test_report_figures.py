"""Figures as data: what is drawn, what cannot be, and that both renderers accept every kind."""

import json
import math

import pytest

import sample_runs
from sample_runs import MIXED, mixed_rows, row, table
from superpose.errors import InputError
from superpose.experiment import Figure
from superpose.report import StudyInfo, plotly_figure, save_png
from superpose.report.info import default_figures
from superpose.report.series import PALETTE, drawing, stacks_as_bars, wrapped

SPECS = {figure.id: figure for figure in MIXED.figures}


@pytest.fixture(scope="module")
def tables():
    return table(mixed_rows())


def plotly(name, tables):
    figure = plotly_figure(SPECS[name], tables)
    json.dumps(figure, allow_nan=False)  # a page holds it as JSON, which knows no infinities
    return figure


def test_lines_have_a_band_per_arm_and_panel(tables):
    figure = plotly("mixtures", tables)
    bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
    lines = [trace for trace in figure["data"] if trace.get("mode") == "lines+markers"]
    assert len(bands) == len(lines) == 6
    first = lines[0]
    assert first["x"] == pytest.approx([x / 10 for x in range(11)])
    assert first["y"] == pytest.approx([0.95 * x / 10 for x in range(11)])
    band = bands[0]
    assert len(band["x"]) == 22
    assert band["y"][10] == pytest.approx(0.95 - 0.06)  # forth along the lower ends
    assert band["y"][11] == pytest.approx(min(0.95 + 0.05, 1))  # and back along the upper ones


def test_panels_stand_side_by_side_with_their_printed_names_and_one_legend_entry_per_arm(tables):
    figure = plotly("mixtures", tables)
    layout = figure["layout"]
    assert layout["meta"]["panels"] == 2
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    assert layout["yaxis2"]["matches"] == "y"
    assert [note["text"] for note in layout["annotations"]] == [
        "<b>word: copy / Capitalise</b>",
        "<b>A@B=: copy A / copy B</b>",
    ]
    named = [trace["name"] for trace in figure["data"] if trace.get("showlegend")]
    assert named == ["first task", "second task", "everything else"]
    assert [arm["colour"] for arm in layout["meta"]["arms"]][:2] == list(PALETTE[:2])


def test_bars_have_asymmetric_errors_and_keep_the_order_of_categories(tables):
    figure = plotly("panels", tables)
    bar = figure["data"][0]
    assert bar["type"] == "bar"
    assert bar["x"] == ["first", "last", "upper"]
    assert bar["error_y"]["array"][0] == pytest.approx(bar["y"][0] * 0.3)
    assert bar["error_y"]["arrayminus"][0] == pytest.approx(bar["y"][0] * 0.2)
    assert figure["layout"]["xaxis"]["categoryarray"] == ["first", "last", "upper"]


def test_stack_is_areas_along_numbers_and_columns_over_categories(tables):
    assert {trace["stackgroup"] for trace in plotly("interpolation", tables)["data"]} == {"shares"}
    spec = Figure(id="s", title="s", kind="stack", curves=("c",), x_label="", y_label="")
    columns = table([row("curve", "c", arm, "only", 0.5, 0.5, 0.5, 1) for arm in "ab"])
    figure = plotly_figure(spec, columns)
    assert figure["layout"]["barmode"] == "stack"
    assert {trace["type"] for trace in figure["data"]} == {"bar"}
    assert stacks_as_bars(drawing(spec, columns).panels)


def test_scatter_draws_single_units(tables):
    figure = plotly("plane", tables)
    assert [len(trace["x"]) for trace in figure["data"]] == [25, 25, 25]
    assert {trace["mode"] for trace in figure["data"]} == {"markers"}


def test_what_an_axis_cannot_show_is_a_gap_and_is_counted(tables):
    figure = plotly("divergence", tables)
    line = next(trace for trace in figure["data"] if trace["mode"] == "lines+markers")
    assert line["y"] == [2.0, 0.7, None, 0.04, None, 0.002]
    assert drawing(SPECS["divergence"], tables).undrawn == 2
    band = next(trace for trace in figure["data"] if trace.get("fill"))
    assert band["x"] == [4, 8, 8, 4]  # points without both neighbours have no band


def test_points_come_in_the_order_of_the_axis():
    spec = Figure(id="o", title="o", curves=("c",), x_label="", y_label="")
    shuffled = table([row("curve", "c", "a", x, x, x, x, 1) for x in (3, 1, 2)])
    assert plotly_figure(spec, shuffled)["data"][0]["x"] == [1, 2, 3]


def test_beyond_the_palette_a_dash_tells_equal_colours_apart():
    spec = Figure(id="m", title="m", curves=("c",), x_label="", y_label="")
    many = table([row("curve", "c", f"arm {i}", 0, i, i, i, 1) for i in range(9)])
    looks = list(drawing(spec, many).looks.values())
    assert len({(look.colour, look.dash) for look in looks}) == 9


def test_text_of_studies_and_users_is_escaped_for_plotly():
    spec = Figure(id="e", title="e", curves=("c",), x_label="<b>x</b>", y_label="y")
    figure = plotly_figure(spec, table([row("curve", "c", sample_runs.HOSTILE, "<i>", 1, 1, 1, 1)]))
    assert "<script" not in figure["data"][0]["name"]
    assert figure["data"][0]["x"] == ["&lt;i&gt;"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "&lt;b&gt;x&lt;/b&gt;"


def test_an_unknown_study_gets_one_figure_per_curve():
    curves = table(
        [
            row("curve", "line", "a", 1, 1, 1, 1, 1),
            row("curve", "names", "a", "one", 1, 1, 1, 1),
            row("sample", "cloud", "a", 1, 1, 1, 1, 1),
        ]
    )
    assert [(f.title, f.kind) for f in default_figures(curves)] == [
        ("line", "lines"),
        ("names", "bars"),
        ("cloud", "scatter"),
    ]
    assert StudyInfo.unknown("x").figures_of(curves) == default_figures(curves)
    assert StudyInfo.from_study(MIXED).figures_of(curves) == ()


@pytest.mark.parametrize("name", [name for name in SPECS if name != "absent"])
def test_png_of_every_kind(name, tables, tmp_path):
    path = save_png(SPECS[name], tables, tmp_path / "deep" / f"{name}.png", dpi=50)
    again = save_png(SPECS[name], tables, tmp_path / "again.png", dpi=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.read_bytes() == again.read_bytes()  # so that a committed figure changes only when its data do


def test_png_takes_hostile_text_and_refuses_a_run_without_the_curves(tables, tmp_path):
    spec = Figure(id="h", title="$x_1$ <b>", curves=("c",), x_label="$", y_label="^_{")
    save_png(spec, table([row("curve", "c", sample_runs.HOSTILE, 1, 1, 1, math.inf, 1)]), tmp_path / "h.png", dpi=40)
    with pytest.raises(InputError, match="'absent' draws nowhere"):
        save_png(SPECS["absent"], tables, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_labels_are_wrapped_evenly():
    assert wrapped("short") == ["short"]
    lines = wrapped("position of the mixture on the segment (0 is first, 1 is upper)")
    assert len(lines) == 2
    assert max(map(len, lines)) < 44
    assert wrapped("") == []
