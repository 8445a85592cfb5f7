"""The runs in results/ are whole, explained, and what the README says."""

import os
from pathlib import Path

import pytest

from superpose.experiment import Store
from superpose.report.verdicts import claims_rows, update_readme
from superpose.studies import all_studies

ROOT = Path(__file__).parents[1]
RUNS, PROBLEMS = Store(ROOT / "results").runs()
ROWS = claims_rows(RUNS, all_studies())


def test_every_committed_run_is_valid():
    assert PROBLEMS == []
    assert RUNS


def test_every_study_has_a_complete_laptop_run_of_its_preset():
    studies = {s.slug for s in all_studies().values()}
    whole = {r.record.study for r in RUNS if r.record.scale == "laptop" and r.record.preset and r.record.complete}
    assert studies <= whole


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['study']}-{r['claim']}-{r['scale']}" for r in ROWS])
def test_what_fails_or_stays_open_is_explained(row):
    if row["verdict"] in ("fails", "inconclusive"):
        assert len(row["explanation"]) > 40


def test_the_readme_shows_these_verdicts():
    assert not update_readme(ROOT / "README.md", ROWS, check=True), "run `make readme`"


def test_runs_name_no_host_and_no_path():
    home, node = str(Path.home()), os.uname().nodename
    for run in RUNS:
        text = (run.folder / "run.json").read_text()
        assert str(ROOT) not in text
        assert len(home) < 4 or home not in text
        assert len(node) < 4 or node not in text
