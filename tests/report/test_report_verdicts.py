"""Verdict rows, the README's table, and numbers in print."""

import json
import math
from dataclasses import replace

import pytest

import sample_runs
from sample_runs import MIXED, STUDIES
from superpose.errors import InputError
from superpose.experiment import Measurement, Store, at_least, exact
from superpose.report import claims_rows, jsonable, main_measurements, markdown_table, update_readme
from superpose.report.numbers import interval, short

FIELDS = {"study", "claim", "sentence", "paper_figure", "role", "criterion", "measurements", "scale", "verdict"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found, problems = sample_runs.fill(tmp_path_factory.mktemp("store")).runs()
    assert problems == []
    return found


def test_one_row_per_claim_asked_for_per_study_and_scale(runs):
    rows = claims_rows(runs, STUDIES)
    keys = [(row["study"], row["scale"], row["claim"]) for row in rows]
    assert len(set(keys)) == len(keys) == 6 + 2 + 2 + 1
    assert keys[0] == ("mixed-tasks", "laptop", "MT1")
    assert keys[-1] == ("my-own-model", "laptop", "P")
    newer = {row["run"] for row in rows if (row["study"], row["scale"]) == ("mixed-tasks", "laptop")}
    assert newer == {"mixed-tasks--20260314T120200Z--00000002"}


def test_runs_of_single_claims_do_not_hide_each_other(tmp_path):
    store = Store(tmp_path)
    for minutes, asked in enumerate([("MT1", "MT2"), ("MT3",), ("MT2",)]):
        made = sample_runs.record(
            MIXED, "mixed-tasks", "laptop", sample_runs.mixed_measurements(), asked=asked, minutes=minutes
        )
        store.save(made, sample_runs.table([]))
    rows = {row["claim"]: int(row["run"][-8:], 16) for row in claims_rows(store.runs()[0], STUDIES)}
    assert rows == {"MT1": 0, "MT2": 2, "MT3": 1, "MT5": 2}


def test_rows_hold_what_the_command_line_promises(runs):
    for row in claims_rows(runs, {study.slug: study for study in STUDIES}):
        assert row.keys() >= FIELDS | {"explanation", "run", "because"}
        for m in row["measurements"]:
            assert m.keys() >= {"name", "value", "low", "high", "n", "unit", "over"}


def test_every_verdict_occurs_with_its_explanation(runs):
    rows = {(row["claim"], row["scale"]): row for row in claims_rows(runs, STUDIES)}
    assert rows["MT1", "laptop"]["verdict"] == "holds"
    assert rows["MT2", "laptop"]["verdict"] == "fails"
    assert "underflows" in rows["MT2", "laptop"]["explanation"]
    assert rows["MT3", "laptop"]["verdict"] == "inconclusive"
    assert rows["MT4", "laptop"]["verdict"] == "reported"
    assert rows["MT5", "laptop"]["verdict"] == "unmeasurable"
    assert rows["MT6", "laptop"]["verdict"] == "not judged"
    assert [claim for claim, scale in rows if scale == "smoke"] == ["MT4", "MT5"]  # no other was asked for


def test_rows_are_valid_json_and_infinities_read_back(runs):
    rows = claims_rows(runs, STUDIES)
    text = json.dumps(rows, allow_nan=False)
    kl = next(row for row in json.loads(text) if row["claim"] == "MT2" and row["scale"] == "laptop")["measurements"][0]
    assert kl["value"] == "Infinity"
    assert float(kl["value"]) == math.inf
    assert Measurement.model_validate(kl).value == math.inf


def test_todays_criteria_judge_known_studies_only(runs):
    stricter = [c.model_copy(update={"criteria": {"laptop": at_least("alt", 2)}}) for c in MIXED.claims[:1]]
    study = replace(MIXED, claims=(*stricter, *MIXED.claims[1:]), measures=[])
    verdicts = [
        next(r["verdict"] for r in claims_rows(runs, s) if (r["claim"], r["scale"]) == ("MT1", "laptop"))
        for s in ([study], [])
    ]
    assert verdicts == ["fails", "holds"]


def test_main_measurements_are_those_of_the_criterion_in_its_order(runs):
    record = next(run.record for run in runs if run.record.scale == "laptop" and run.record.study == "mixed-tasks")
    claims = {claim.id: claim for claim in record.claims}
    assert [m.name for m in main_measurements(claims["MT1"])] == ["word.weaker-task", "times-control", "alt"]
    assert [m.name for m in main_measurements(claims["MT4"])] == ["word.first", "country.capital"]


def test_the_markdown_table_escapes_and_shortens(runs):
    rows = claims_rows(runs, STUDIES)
    lines = markdown_table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    own = lines[-1]
    assert "<script" not in own
    assert own.replace("\\|", "").count("|") == 7
    assert " …" in lines[2]
    assert "| **holds** |" in lines[2]
    assert "[0.291, 0.32]" in lines[2]
    assert all(len(line) < 600 for line in lines)


def test_readme_is_updated_between_its_markers_and_checked(runs, tmp_path):
    rows = claims_rows(runs, STUDIES)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- verdicts:begin -->\nstale words\n<!-- verdicts:end -->\nafter\n")
    assert update_readme(readme, rows, check=True)
    assert "stale words" in readme.read_text()
    assert update_readme(readme, rows)
    text = readme.read_text()
    assert text.startswith("before\n<!-- verdicts:begin -->\n| study |")
    assert text.endswith("<!-- verdicts:end -->\nafter\n")
    assert "stale words" not in text
    assert not update_readme(readme, rows, check=True)
    assert update_readme(readme, rows[:-1], check=True)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- verdicts:begin -->",
        "<!-- verdicts:end --><!-- verdicts:begin -->",
        "<!-- verdicts:begin -->" * 2 + "<!-- verdicts:end -->",
    ],
)
def test_a_readme_without_its_markers_is_refused(text, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(InputError, match="verdicts:begin"):
        update_readme(readme, [])
    assert readme.read_text() == text


def test_a_missing_readme_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        update_readme(tmp_path / "README.md", [])


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.30561, "0.306"),
        (0.0, "0"),
        (-1.5, "\N{MINUS SIGN}1.5"),
        (12345.0, "12,345"),
        (3.1e-12, "3.1\N{MULTIPLICATION SIGN}10⁻¹²"),
        (1e-7, "10⁻⁷"),
        (2e9, "2\N{MULTIPLICATION SIGN}10⁹"),
        (math.inf, "∞"),
        (-math.inf, "\N{MINUS SIGN}∞"),
        (math.nan, "NaN"),
        (999.6, "1,000"),
    ],
)
def test_numbers_in_print(x, text):
    assert short(x) == text


def test_an_exact_number_has_no_interval():
    assert interval(exact("m", 3.0)) == ""


def test_jsonable_reaches_into_nested_data():
    assert jsonable({"a": [math.inf, (-math.inf, math.nan)], "b": 1}) == {
        "a": ["Infinity", ["-Infinity", "NaN"]],
        "b": 1,
    }
