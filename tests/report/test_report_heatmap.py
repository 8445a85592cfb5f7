"""Heat maps: cells, colours, what a page prints in them, and the figure that a chosen cell opens."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from sample_runs import row, table
from superpose.errors import InputError
from superpose.experiment import Figure
from superpose.report import plotly_figure, save_png
from superpose.report.heatmap import choices, grids, limits, printed
from superpose.report.pages import Drawn, _detail
from superpose.report.site import _assets

CHROMIUM = Path("/usr/bin/chromium")

SPEC = Figure(
    id="map",
    title="Everybody on everything",
    kind="heatmap",
    curves=("score", "score-late"),
    panels={"score": "early", "score-late": "late"},
    x_label="task",
    y_label="model",
    value_label="score",
    y_range=(0, 1),
    arms={"b": "model <b>"},
    beside={"score": "raw"},
    beside_label="raw error",
    detail=Figure(
        id="curve",
        title="{row} on {column}",
        curves=("curve-{column}",),
        panels={"curve-{column}": "over steps"},
        x_label="steps",
        y_label="error",
    ),
)


@pytest.fixture
def tables():
    return table(
        [
            row("curve", "score", "a", "one", 0.5, 0.4, 0.61, 3),
            row("curve", "score", "a", "{two}", 0.999, 0.999, 0.999, 3),
            row("curve", "score", "b", "one", -0.004, -0.1, 0.1, 3),
            row("curve", "score-late", "a", "one", math.nan, math.nan, math.nan, 3),
            row("curve", "score-late", "b", "{two}", 1.5, 1.4, 1.6, 3),
            row("curve", "raw", "a", "one", 12.5, 12.0, 13.0, 3),
            *(row("curve", "curve-one", arm, x, x, x, x, 3) for arm in "ab" for x in (1, 2)),
        ]
    )


def test_rows_are_arms_and_columns_categories_in_every_panel(tables):
    early, late = grids(SPEC, tables)
    # Arms that the spec names come first, as in every figure.
    assert early.rows == late.rows == ["b", "a"]
    assert early.columns == late.columns == ["one", "{two}"]
    assert early.values.tolist()[1] == [0.5, 0.999]
    assert math.isnan(early.values[0, 1])
    assert math.isnan(late.values[1, 0])


def test_plotly_cells_hold_value_interval_and_what_stands_beside(tables):
    figure = plotly_figure(SPEC, tables)
    json.dumps(figure, allow_nan=False)
    early, late = figure["data"]
    assert early["z"] == [[-0.004, None], [0.5, 0.999]]
    assert late["z"] == [[None, 1.5], [None, None]]
    assert early["text"][1][0].startswith("0.50<br>")
    assert "0.40 to 0.61" in early["text"][1][0]
    assert early["text"][1][1] == "1.00"
    assert early["text"][0][1] == ""
    assert early["customdata"][1][0] == ["0.5 [0.4, 0.61]", 3, "12.5 [12, 13]"]
    assert "raw error: %{customdata[2]}" in early["hovertemplate"]
    assert early["y"][0] == "model &lt;b&gt;"
    assert (figure["layout"]["coloraxis"]["cmin"], figure["layout"]["coloraxis"]["cmax"]) == (0, 1)
    assert figure["layout"]["yaxis2"]["autorange"] == "reversed"
    assert figure["layout"]["yaxis2"]["domain"][1] <= figure["layout"]["yaxis"]["domain"][0]


def test_without_a_range_colours_span_the_values(tables):
    free = SPEC.model_copy(update={"y_range": None})
    assert limits(free, grids(free, tables)) == (-0.004, 1.5)


@pytest.mark.parametrize(
    ("x", "bounds", "text"),
    [(-0.004, (0, 1), "0.00"), (-0.25, (0, 1), "\u22120.25"), (1234.5, (0, 5000), "1,234"), (math.inf, (0, 1), "∞")],
)
def test_numbers_in_cells(x, bounds, text):
    assert printed(x, bounds) == text


def test_a_cell_opens_the_detail_of_its_column_and_only_where_there_is_one(tables):
    found = choices(SPEC, tables)
    assert found is not None
    assert found["opens"] == [[0, None], [0, None]]
    (spec,) = found["specs"]
    assert spec.curves == ("curve-one",)
    assert spec.panels == {"curve-one": "over steps"}
    assert found["rows"] == [("b", "model <b>"), ("a", "a")]
    assert choices(SPEC.model_copy(update={"detail": None}), tables) is None


def test_details_may_differ_by_row_too(tables):
    assert SPEC.detail is not None
    by_row = SPEC.model_copy(update={"detail": SPEC.detail.model_copy(update={"curves": ("{row}:{column}",)})})
    more = table([row("curve", "score", arm, "one", 1, 1, 1, 1) for arm in "ab"])
    found = choices(by_row, more)
    assert found is not None
    assert found["opens"] == [[None], [None]]
    opened = by_row.detail_of("a", "one")
    assert opened is not None
    assert opened.curves == ("a:one",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lines"}, "are for kind 'heatmap', not 'lines'"),
        ({"log_y": True}, "no logarithmic axis"),
        ({"beside": {"other": "raw"}}, "beside names"),
        ({"detail": Figure(id="x", title="", kind="heatmap", curves=("c",), x_label="", y_label="")}, "any other kind"),
    ],
)
def test_a_spec_that_does_not_fit_its_kind_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Figure(**{**SPEC.model_dump(), **changes})


def test_png(tables, tmp_path):
    path = save_png(SPEC, tables, tmp_path / "map.png", dpi=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.read_bytes() == save_png(SPEC, tables, tmp_path / "again.png", dpi=50).read_bytes()
    with pytest.raises(InputError, match="draws score"):
        save_png(SPEC, table([row("curve", "x", "a", "one", 1, 1, 1, 1)]), tmp_path / "no.png")


@pytest.mark.browser
@pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("SUPERPOSE_REQUIRE_BROWSER"),
    reason=f"needs {CHROMIUM} (apt-get install chromium)",
)
def test_in_a_browser_a_click_and_the_menus_choose_the_cell_whose_curves_are_shown(tables, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    page = _page(tables, tmp_path)
    troubles = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1000, "height": 1400})
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
        tab.goto(page.as_uri())
        tab.locator(".plot").first.locator(".hm").first.wait_for()
        title = tab.locator(".detail-title")
        # The first cell is open from the start.
        assert title.text_content() == "model <b> on one"
        tab.locator(".detail svg.main-svg").first.wait_for()
        area = tab.locator(".plot").first.locator(".nsewdrag").first.bounding_box()
        tab.mouse.click(area["x"] + area["width"] * 0.25, area["y"] + area["height"] * 0.75)
        tab.wait_for_function("document.querySelector('.detail-title').textContent === 'a on one'")
        faint = "document.querySelector('.detail .plot').data.filter((t) => t.opacity < 1).map((t) => t.legendgroup)"
        assert set(tab.evaluate(faint)) == {"b"}
        shapes = tab.evaluate("document.querySelector('.plot').layout.shapes.map((s) => [s.x0, s.y0])")
        assert shapes == [[-0.5, 0.5], [-0.5, 0.5]]
        tab.get_by_role("combobox", name="task").select_option("{two}")
        assert title.text_content() == "a on {two}"
        assert tab.get_by_text("holds nothing for this cell").is_visible()
        assert not tab.locator(".detail .plot").is_visible()
        tab.get_by_role("combobox", name="task").select_option("one")
        tab.set_viewport_size({"width": 260, "height": 1400})
        tab.wait_for_function("!document.querySelector('.plot').data[0].text[1][0].includes('<br>')")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 260
        browser.close()
    assert troubles == []


def _page(tables, folder):
    """One figure on a page, with the site's own templates, style and script."""
    import jinja2

    _assets(folder / "assets")
    drawn = Drawn("f", SPEC.title, "", (), 0, plotly_figure(SPEC, tables), _detail(SPEC, tables))
    environment = jinja2.Environment(loader=jinja2.PackageLoader("superpose.report"), autoescape=True)
    text = (
        "{% extends 'base.html' %}{% import 'macros.html' as ui with context %}"
        "{% block scripts %}<script defer src='assets/plotly.min.js'></script>{% endblock %}"
        "{% block main %}{{ ui.figure(f, 'smoke') }}{% endblock %}"
    )
    environment.globals["badge"] = re.escape
    page = folder / "page.html"
    page.write_text(environment.from_string(text).render(root="", f=drawn), encoding="utf-8")
    return page
