"""The site as a reader meets it: real pages from disk in a headless browser."""

import os
import re
from pathlib import Path

import pytest

import sample_runs
from sample_runs import STUDIES
from superpose.report import build_site

CHROMIUM = Path("/usr/bin/chromium")
PAGES = ["index.html", "studies/mixed-tasks.html", "studies/tiny-cache.html", "studies/my-own-model.html"]
MIXED_PAGE = "studies/mixed-tasks.html"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists() and not os.environ.get("SUPERPOSE_REQUIRE_BROWSER"),
        reason=f"needs {CHROMIUM} (apt-get install chromium)",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    store = sample_runs.fill(root / "store")
    return build_site(store, root / "site", STUDIES).parent


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; at the end, nothing must have gone wrong and nothing left the disk."""
    contexts, troubles = [], []

    def call(page, *, width=1200, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(15_000)
        tab.on("console", lambda m: troubles.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        tab.on("request", lambda r: troubles.append(r.url) if not re.match("(file|data|blob):", r.url) else None)
        tab.goto(f"{site.as_uri()}/{page}")
        return tab

    yield call
    for context in contexts:
        context.close()
    assert troubles == []


def rows(tab):
    return tab.locator(".verdicts tbody tr:visible")


def draw_all(tab):
    """Scroll every visible figure into view and wait until it is drawn."""
    plots = tab.locator(".plot:visible")
    for number in range(plots.count()):
        plots.nth(number).scroll_into_view_if_needed()
        plots.nth(number).locator("svg.main-svg").first.wait_for()
    return plots


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_draws_and_fits_a_desk_and_a_phone(visit, page):
    tab = visit(page)
    draw_all(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1200
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.emulate_media(color_scheme="dark")
    for plot in draw_all(tab).all():
        assert plot.evaluate("plot => plot.querySelector('.main-svg').clientWidth") <= 390
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("h1").count() == 1


def test_figures_are_drawn_when_they_come_into_view_with_their_data(visit):
    tab = visit(MIXED_PAGE)
    last = tab.locator(".plot:visible").last
    assert last.locator("svg").count() == 0
    plots = draw_all(tab)
    assert plots.count() == 5
    bars = tab.locator("#laptop-figure-panels .plot")
    assert bars.locator(".bars .point").count() == 2 * (3 + 2 + 3)
    assert bars.locator(".errorbar").count() == 16
    assert tab.locator("#laptop-figure-mixtures .js-fill").count() == 6  # a band per arm and panel


def test_panels_stand_side_by_side_on_a_desk_and_below_each_other_on_a_phone(visit):
    tab = visit(MIXED_PAGE)
    draw_all(tab)
    place = "document.querySelector('#laptop-figure-mixtures .plot')._fullLayout"
    assert tab.evaluate(f"{place}.xaxis2.domain[0]") > 0.4
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function(f"{place}.xaxis2.domain[0] === 0 && {place}.yaxis.domain[0] > 0.4")


def test_the_legend_hides_and_shows_an_arm_in_every_panel(visit):
    tab = visit(MIXED_PAGE)
    draw_all(tab)
    figure = tab.locator("#laptop-figure-mixtures")
    lines = figure.locator(".scatterlayer .trace path.js-line")  # of a line and the edge of its band
    assert lines.count() == 12
    button = figure.get_by_role("button", name="first task")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert lines.count() == 8
    button.press("Enter")
    assert lines.count() == 12


def test_filter_by_study_verdict_scale_and_text(visit):
    tab = visit("index.html")
    assert rows(tab).count() == 11
    tab.get_by_label("Study").select_option("tiny-cache")
    assert rows(tab).count() == 2
    assert tab.get_by_role("status").text_content() == "2 of 11 rows"
    tab.locator(".chip", has_text="fails").click()
    assert rows(tab).locator(".claim").all_text_contents() == ["C2"]
    tab.get_by_label("Study").select_option("")
    assert rows(tab).locator(".claim").all_text_contents() == ["MT2", "C2"]
    tab.locator(".chip", has_text="holds").click()
    assert rows(tab).count() == 4
    tab.get_by_label("Scale").select_option("gpu")
    assert rows(tab).count() == 2
    tab.get_by_role("button", name="Clear", exact=True).click()
    assert rows(tab).count() == 11
    tab.get_by_label("Search").fill("kl NATS")
    assert rows(tab).locator(".claim").all_text_contents() == ["MT2", "P"]


def test_the_address_restores_the_filters(visit):
    tab = visit("index.html")
    tab.locator(".chip", has_text="fails").click()
    tab.locator(".chip", has_text="holds").click()
    tab.get_by_label("Study").select_option("mixed-tasks")
    tab.get_by_label("Search").fill("prompt & 100%")
    tab.get_by_label("Search").fill("one")
    address = tab.evaluate("location.href")
    assert "study=mixed-tasks" in address
    again = visit("index.html#" + address.partition("#")[2])
    assert rows(again).locator(".claim").all_text_contents() == ["MT1", "MT2"]
    assert again.get_by_label("Search").input_value() == "one"
    assert again.locator('.chip[aria-pressed="true"]').count() == 2
    again.evaluate("location.hash = '#study=nonsense&verdict=unmeasurable'")
    again.wait_for_function("document.querySelector('[name=q]').value === ''")
    assert rows(again).count() == 2  # a study that does not exist filters nothing


def test_no_rows_match_is_said_and_can_be_undone_by_keyboard(visit):
    tab = visit("index.html")
    tab.get_by_label("Search").fill("zebra")
    assert rows(tab).count() == 0
    assert tab.locator("#nothing").is_visible()
    assert tab.get_by_role("status").text_content() == "0 of 11 rows"
    tab.locator("#reset").press("Enter")
    assert rows(tab).count() == 11
    chip = tab.locator(".chip", has_text="inconclusive")
    chip.focus()
    tab.keyboard.press("Space")
    assert rows(tab).locator(".claim").all_text_contents() == ["MT3"]


def test_a_row_leads_to_its_claim_in_the_right_tab(visit):
    tab = visit("index.html")
    tab.locator('tr[data-scale="smoke"] .claim a', has_text="MT4").click()
    tab.wait_for_url("**/mixed-tasks.html#smoke-MT4")
    assert tab.locator("#smoke-MT4").is_visible()
    assert tab.locator("#laptop-MT4").is_hidden()
    assert tab.get_by_role("tab", name="smoke").get_attribute("aria-selected") == "true"
    tab.get_by_role("tab", name="smoke").press("ArrowLeft")
    assert tab.locator("#laptop-MT4").is_visible()
    assert tab.get_by_role("tab", name="laptop").evaluate("tab => tab === document.activeElement")


def test_dark_follows_the_system_and_the_button(visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(251, 250, 247)", "rgb(20, 23, 27)"
    assert visit("index.html", scheme="dark").evaluate(ground) == dark
    tab = visit(MIXED_PAGE)
    assert tab.evaluate(ground) == light
    draw_all(tab)
    line = "document.querySelector('#laptop-figure-mixtures .plot')._fullData.find(t => t.mode !== 'lines').line.color"
    grid = "document.querySelector('#laptop-figure-mixtures .plot')._fullLayout.xaxis.gridcolor"
    before = tab.evaluate(line), tab.evaluate(grid)
    tab.get_by_role("button", name="dark theme").click()
    assert tab.evaluate(ground) == dark
    assert tab.evaluate(line) != before[0]
    assert tab.evaluate(grid) != before[1]
    tab.reload()
    assert tab.evaluate(ground) == dark  # the choice is kept
    tab.get_by_role("button", name="light theme").click()
    assert tab.evaluate(ground) == light


def test_the_command_can_be_copied(visit):
    tab = visit(MIXED_PAGE, permissions=["clipboard-read", "clipboard-write"])
    button = tab.locator(".copy:visible").first
    button.click()
    tab.wait_for_function("document.querySelector('.copy').textContent === 'Copied'")
    tab.evaluate("document.body.append(document.createElement('textarea'))")
    area = tab.locator("body > textarea")
    area.focus()
    tab.keyboard.press("Control+V")
    assert area.input_value() == "superpose run mixed-tasks --scale laptop"


def test_without_scripts_every_run_and_row_can_be_read(visit):
    tab = visit(MIXED_PAGE, java_script_enabled=False)
    assert tab.locator("#laptop-MT1").is_visible()
    assert tab.locator("#smoke-MT4").is_visible()
    assert visit("index.html", java_script_enabled=False).locator(".verdicts tbody tr").count() == 11
