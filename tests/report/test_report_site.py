"""The site as files: what is built, what is replaced, what is refused, and that text stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sample_runs
from sample_runs import MIXED, STUDIES, mixed_measurements, mixed_rows, record, table
from superpose.errors import InputError
from superpose.experiment import Store
from superpose.report import build_site


class Page(HTMLParser):
    """The ids, the links, the scripts and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.words = ""
        self._script: dict | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        if tag == "script":
            self._script = found

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts.append((self._script, data))
        else:
            self.words += data


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    filled = sample_runs.fill(tmp_path_factory.mktemp("site") / "store")
    sample_runs.corrupt(filled)
    return filled


@pytest.fixture(scope="module")
def site(store, tmp_path_factory):
    return build_site(store, tmp_path_factory.mktemp("built") / "site", STUDIES).parent


def pages(site: Path) -> list[Path]:
    return [site / "index.html", *sorted((site / "studies").glob("*.html"))]


def test_a_page_per_study_and_one_shared_script(site):
    names = [str(page.relative_to(site)) for page in pages(site)]
    assert names == [
        "index.html",
        "studies/mixed-tasks.html",
        "studies/my-own-model.html",
        "studies/tiny-cache.html",
    ]
    assert {path.name for path in (site / "assets").iterdir()} == {"plotly.min.js", "site.js", "style.css"}


def test_every_link_leads_to_a_file_or_an_anchor_of_the_site(site):
    for path in pages(site):
        page = Page(path)
        assert len(set(page.ids)) == len(page.ids)
        for link in page.links:
            if link.startswith("data:"):
                continue
            assert not re.match(r"[a-z]+:|//", link), link
            target, _, anchor = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            assert there.is_file(), link
            if anchor:
                assert anchor in Page(there).ids, link


def test_figure_data_are_valid_json_with_the_runs_numbers(site):
    page = Page(site / "studies" / "mixed-tasks.html")
    figures = [json.loads(text) for attrs, text in page.scripts if attrs.get("type") == "application/json"]
    assert len(figures) == 5 + 1  # laptop; smoke has one curve of the mixtures and some panels
    assert figures[0]["layout"]["meta"]["panels"] == 2


def test_hostile_text_stays_text(site):
    for path in pages(site):
        page = Page(path)
        assert not any("pwned" in text for attrs, text in page.scripts if attrs.get("type") != "application/json")
        assert "<script>window.pwned" not in path.read_text(encoding="utf-8")
    assert sample_runs.HOSTILE in Page(site / "studies" / "my-own-model.html").words
    assert sample_runs.HOSTILE in Page(site / "studies" / "mixed-tasks.html").words  # a note


def test_the_study_page_says_what_a_reader_needs(site):
    words = " ".join(Page(site / "studies" / "mixed-tasks.html").words.split())
    for needed in (
        "superpose run mixed-tasks --scale laptop",
        "superpose run mixed-tasks --scale smoke --claims MT4,MT5",
        "this package's source has changed since",
        "One answer underflows",
        "word.weaker-task ≥ 0.15 and (times-control > 5 or alt > 2)",
        "An Ordinary Processor",
        "gemma3-270m-q4_k_m is not in the cache",
        "bootstrap 95 %, over prompts or episodes",
        "1 other run of this study in the store is not shown",
        "2 points cannot be drawn",
    ):
        assert needed in words, needed
    assert "Nobody has explained" not in words


def test_the_front_page_names_skipped_runs_and_counts(site):
    words = " ".join(Page(site / "index.html").words.split())
    assert "my-own-model--20260314T120600Z--00000006: run.json" in words
    assert "11 rows" in words
    assert "holds 2" in words


def test_a_changed_config_gives_the_command_that_repeats_it(tmp_path):
    store = Store(tmp_path / "store")
    changed = {"prompts": "7", "tasks": "copy,first letter"}
    store.save(record(MIXED, "mixed-tasks", "laptop", mixed_measurements(), changed=changed), table(mixed_rows()[:3]))
    page = Page(build_site(store, tmp_path / "site", STUDIES).parent / "studies" / "mixed-tasks.html")
    assert "--scale laptop --set prompts=7 --set 'tasks=copy,first letter'" in page.words
    assert "The config left the preset (prompts, tasks)" in page.words


def test_runs_that_left_the_preset_are_shown_beside_the_presets_once_per_config(tmp_path):
    store = Store(tmp_path / "store")
    rows = table(mixed_rows()[:3])
    for minutes, changed in enumerate([None, {"model": "one"}, {"model": "two"}, {"model": "one"}]):
        made = record(MIXED, "mixed-tasks", "laptop", mixed_measurements(), changed=changed, minutes=minutes)
        store.save(made, rows)
    site = build_site(store, tmp_path / "site", STUDIES).parent
    page = Page(site / "studies" / "mixed-tasks.html")
    runs = [name for name in page.ids if name.startswith("run-")]
    assert runs == ["run-laptop", "run-00000003", "run-00000002"]
    assert "one · 14 Mar 2026 12:03" in page.words
    assert "1 other run" in page.words
    assert "6 rows" in Page(site / "index.html").words


def test_the_front_page_takes_each_claim_from_the_newest_run_that_was_asked_for_it(tmp_path):
    store = Store(tmp_path / "store")
    for minutes, asked in enumerate([("MT1", "MT2", "MT4"), ("MT3",), ("MT2",)]):
        made = record(MIXED, "mixed-tasks", "laptop", mixed_measurements(), asked=asked, minutes=minutes)
        store.save(made, table(mixed_rows()))
    site = build_site(store, tmp_path / "site", STUDIES).parent
    front, page = Page(site / "index.html"), Page(site / "studies" / "mixed-tasks.html")
    wanted = ["laptop-MT1", "00000002-MT2", "00000001-MT3", "laptop-MT4", "00000002-MT5"]
    anchors = [link.partition("#")[2] for link in front.links if "-MT" in link]
    assert list(dict.fromkeys(anchors)) == wanted
    assert "5 rows" in front.words
    assert {"laptop-MT1", "00000001-MT3", "00000002-MT2"} <= set(page.ids)
    assert "laptop: MT3" in page.words
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link


def test_a_config_that_no_command_line_can_say_gets_no_false_command(tmp_path):
    store = Store(tmp_path / "store")
    odd = record(MIXED, "mixed-tasks", "laptop", mixed_measurements(), changed={"model": "other"})
    odd = odd.model_copy(update={"changed": ("tasks",), "config": odd.config | {"tasks": [[1, 0], [0.5, 0.5]]}})
    store.save(odd, table(mixed_rows()[:3]))
    words = Page(build_site(store, tmp_path / "site", STUDIES).parent / "studies" / "mixed-tasks.html").words
    assert "superpose run" not in words
    assert "[[1, 0], [0.5, 0.5]]" in words


def test_an_empty_store_says_how_to_begin(tmp_path):
    front = build_site(Store(tmp_path / "none"), tmp_path / "site", STUDIES)
    words = Page(front).words
    assert "No runs yet" in words
    assert "superpose run mixed-tasks --scale smoke" in words
    assert not (tmp_path / "none").exists()


def test_runs_are_shown_without_any_known_study(store, tmp_path):
    site = build_site(store, tmp_path / "site").parent
    assert len(pages(site)) == 4
    assert "These runs belong to no study" in Page(site / "studies" / "mixed-tasks.html").words


def test_an_old_site_is_replaced_and_nothing_else_is_left(store, tmp_path):
    out = tmp_path / "site"
    build_site(store, out, STUDIES)
    (out / "studies" / "gone.html").write_text("from an older site")
    build_site(store, out, STUDIES)
    assert not (out / "studies" / "gone.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_an_empty_folder_may_become_a_site(store, tmp_path):
    (tmp_path / "site").mkdir()
    assert build_site(store, tmp_path / "site", STUDIES).exists()


def test_foreign_folders_and_files_are_refused_untouched(store, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"--out .*precious.* not a site"):
        build_site(store, precious, STUDIES)
    with pytest.raises(InputError, match=r"--out .*thesis.tex.* is a file"):
        build_site(store, precious / "thesis.tex", STUDIES)
    with pytest.raises(InputError, match=r"--out .* cannot be written"):
        build_site(store, precious / "thesis.tex" / "site", STUDIES)
    assert [(path.name, path.read_text()) for path in precious.iterdir()] == [("thesis.tex", "years of work")]


def test_a_failed_build_leaves_the_old_site(store, tmp_path, monkeypatch):
    out = tmp_path / "site"
    build_site(store, out, STUDIES)
    before = (out / "index.html").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("superpose.report.site._assets", full)
    with pytest.raises(InputError, match="No space left"):
        build_site(store, out, STUDIES)
    assert (out / "index.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_study_name_never_becomes_a_path(tmp_path):
    store = Store(tmp_path / "store")
    honest = record(None, "odd", "laptop", {"P": []})
    store.save(honest.model_copy(update={"study": "../../odd"}), table([]))
    site = build_site(store, tmp_path / "site").parent
    assert [path.name for path in (site / "studies").iterdir()] == ["study-0-odd.html"]
