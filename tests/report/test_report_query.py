"""SQL over runs: it answers questions, and reaches nothing else."""

import math
import os

import pytest

import sample_runs
from sample_runs import MIXED, STUDIES
from superpose.errors import InputError
from superpose.experiment import Store
from superpose.report import query


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    filled = sample_runs.fill(tmp_path_factory.mktemp("query") / "store")
    sample_runs.corrupt(filled)
    return filled


def test_claims_can_be_counted(store):
    columns, rows = query(
        store, "SELECT verdict, count(*) AS n FROM claims WHERE newest GROUP BY ALL ORDER BY ALL", STUDIES
    )
    assert columns == ["verdict", "n"]
    assert dict(rows) == {"fails": 2, "holds": 2, "inconclusive": 1, "not judged": 1, "reported": 3, "unmeasurable": 2}


def test_measurements_keep_infinities_and_join_runs(store):
    _, rows = query(
        store,
        """SELECT m.value, m.over, r.config->>'$.model' FROM measurements m JOIN runs r USING (run)
           WHERE m.newest AND m.name = 'kl' AND m.study = 'mixed-tasks' AND m.scale = 'laptop'""",
    )
    assert rows == [(math.inf, "seeds", "a-small-model")]


def test_curves_are_long_and_say_curve_or_sample(store):
    _, rows = query(
        store,
        "SELECT kind, count(*) FROM curves WHERE newest AND scale = 'laptop' AND study = $$mixed-tasks$$ "
        "GROUP BY kind ORDER BY kind",
    )
    made = [row["table"] for row in sample_runs.mixed_rows()]
    assert rows == [("curve", made.count("curve")), ("sample", made.count("sample"))]


def test_runs_know_which_one_is_shown(store):
    _, rows = query(store, "SELECT newest FROM runs WHERE study = 'mixed-tasks' AND scale = 'laptop' ORDER BY started")
    assert rows == [(False,), (True,)]


def test_newest_marks_the_run_that_was_asked_for_a_claim(tmp_path):
    store = Store(tmp_path)
    rows = sample_runs.mixed_rows()
    for minutes, (asked, kept) in enumerate([(("MT1", "MT2"), rows), (("MT3",), rows[:1])]):
        made = sample_runs.record(
            MIXED, "mixed-tasks", "laptop", sample_runs.mixed_measurements(), asked=asked, minutes=minutes
        )
        store.save(made, sample_runs.table(kept))
    end = "right(run, 1)::int AS r"
    found = query(store, f"SELECT claim, {end} FROM claims WHERE newest ORDER BY claim", STUDIES)[1]
    assert found == [("MT1", 0), ("MT2", 0), ("MT3", 1), ("MT5", 1)]
    assert query(store, f"SELECT DISTINCT {end} FROM measurements WHERE newest ORDER BY r")[1] == [(0,), (1,)]
    curves = query(store, f"SELECT DISTINCT curve, {end} FROM curves WHERE newest")[1]
    assert dict(curves)["mixture-word"] == 1
    assert dict(curves)["kl"] == 0
    assert len(dict(curves)) == len(curves)


def test_a_corrupt_run_is_named_in_a_table_of_problems(store):
    _, rows = query(store, "FROM problems")
    assert len(rows) == 1
    assert "my-own-model--20260314T120600Z" in rows[0][0]


def test_claims_are_judged_by_todays_criteria(store):
    sql = "SELECT verdict FROM claims WHERE newest AND claim = 'MT2' AND scale = 'laptop'"
    assert query(store, sql)[1] == [("fails",)]
    lenient = MIXED.claim("MT2").model_copy(update={"criteria": {}, "role": "reported", "reason": "r"})
    study = MIXED.__class__(**{**vars(MIXED), "claims": (MIXED.claims[0], lenient, *MIXED.claims[2:])})
    assert query(store, sql, [study])[1] == [("reported",)]


def test_an_empty_store_has_empty_tables_and_is_not_created(tmp_path):
    empty = Store(tmp_path / "none")
    for name in ("runs", "claims", "measurements", "curves", "problems"):
        assert query(empty, f"SELECT count(*) FROM {name}")[1] == [(0,)]
    assert not empty.root.exists()


REFUSED = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM glob('{folder}/*')",
    "COPY (SELECT 1) TO '{folder}/leak.csv'",
    "COPY claims TO '{folder}/leak.parquet' (FORMAT parquet)",
    "COPY claims FROM '{secret}'",
    "EXPORT DATABASE '{folder}/leak'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/leak.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{folder}/leak.duckdb_extension'",
    "SET enable_external_access=true",
    "SET lock_configuration=false",
    "RESET lock_configuration",
    "SET temp_directory='{folder}'",
    "PRAGMA enable_profiling='json'",
    "SET python_enable_replacements=true",
    "SELECT * FROM runs_python_variable",
    "SELECT 1; COPY (SELECT 1) TO '{folder}/leak.csv'",
    "SELECT 1; SELECT 2",
    "",
    "-- nothing but a comment",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_sql_that_leaves_the_tables_is_refused_and_nothing_is_written(sql, store, tmp_path, monkeypatch):
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.walk(tmp_path))
    with pytest.raises(InputError, match=r"^the SQL (was refused: \w+|holds \d+ statements)"):
        query(store, sql.format(secret=secret, folder=tmp_path))
    assert sorted(os.walk(tmp_path)) == before
    assert secret.read_text() == "a,b\n1,2\n"


def test_a_python_variable_is_no_table(store):
    import pyarrow as pa

    leak = pa.table({"x": [1]})
    assert leak.num_rows == 1
    with pytest.raises(InputError, match="leak"):
        query(store, "SELECT * FROM leak")


def test_a_syntax_error_is_one_line(store):
    with pytest.raises(InputError, match="SELEKT") as caught:
        query(store, "SELEKT 1")
    assert "\n" not in str(caught.value)


def test_changes_stay_in_memory(store):
    query(store, "DROP TABLE claims")
    assert query(store, "SELECT count(*) > 0 FROM claims")[1] == [(True,)]
