"""Runs as SQL tables in memory, for questions; no SQL can reach a file, a network or a setting."""

import json
from datetime import UTC
from typing import Any

import pyarrow as pa

from superpose.errors import InputError, require
from superpose.experiment import ClaimRecord, RunRecord, Store, StoredRun, newest
from superpose.experiment.record import TABLE
from superpose.report.info import Studies, by_slug
from superpose.report.verdicts import rejudged

_ABOUT = [("run", pa.string()), ("study", pa.string()), ("scale", pa.string()), ("newest", pa.bool_())]

RUNS = pa.schema(
    [
        *_ABOUT,
        ("preset", pa.bool_()),
        ("complete", pa.bool_()),
        ("changed", pa.list_(pa.string())),
        ("config", pa.string()),
        ("device", pa.string()),
        ("started", pa.timestamp("ms")),
        ("seconds", pa.float64()),
        ("steps_run", pa.int64()),
        ("steps_cached", pa.int64()),
        ("cpu", pa.string()),
        ("cores", pa.int64()),
        ("memory_gib", pa.int64()),
        ("gpu", pa.string()),
        ("system", pa.string()),
        ("python", pa.string()),
        ("packages", pa.string()),
        ("commit", pa.string()),
        ("dirty", pa.bool_()),
        ("source", pa.string()),
        ("notes", pa.list_(pa.string())),
    ]
)
CLAIMS = pa.schema(
    [
        *_ABOUT,
        *[
            (name, pa.string())
            for name in (
                "claim",
                "sentence",
                "paper_figure",
                "role",
                "criterion",
                "verdict",
                "because",
                "explanation",
            )
        ],
    ]
)
MEASUREMENTS = pa.schema(
    [
        *_ABOUT,
        ("claim", pa.string()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("unit", pa.string()),
        ("over", pa.string()),
        ("interval", pa.string()),
    ]
)
CURVES = pa.schema([*_ABOUT, ("kind", pa.string()), *list(TABLE)[1:]])

# Before the data are in: no extension is fetched or loaded, nothing spills to disk, no Python variable is a table.
_START = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}


def query(store: Store, sql: str, studies: Studies = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The answer to one SQL statement over a store's valid runs.

    Every table begins with ``run, study, scale, newest``. ``newest`` marks what reports show: a claim and its
    measurements in the newest run that was asked for it (a run of the preset first), a run that gives such a claim,
    and a curve in the newest such run that holds it. Then come:

    - ``runs``: ``preset, complete, changed, config`` (JSON text), ``device, started`` (UTC), ``seconds, steps_run,
      steps_cached, cpu, cores, memory_gib, gpu, system, python, packages`` (JSON text), ``commit, dirty, source,
      notes``.
    - ``claims``: ``claim, sentence, paper_figure, role, criterion, verdict, because, explanation``; judged by today's
      criteria where the study is given.
    - ``measurements``: ``claim, name, value, low, high, n, unit, over, interval``.
    - ``curves``: ``kind`` (``curve`` or ``sample``), ``curve, arm, x, label, value, low, high, n``.
    - ``problems``, alone: ``problem``, one sentence for each folder of the store that was skipped.

    Args:
        store: where the runs are.
        sql: one statement in DuckDB's dialect.
        studies: the studies of today's code.

    Returns:
        Names of the columns, and the rows.

    Raises:
        InputError: the SQL is wrong, is not one statement, or reaches for files, extensions or settings; or duckdb is
            not installed.
    """
    duckdb = require("duckdb", "report")
    runs, problems = store.runs()
    connection = duckdb.connect(":memory:", config=_START)
    try:
        for name, table in _tables(runs, problems, studies).items():
            connection.register("loading", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM loading")
            connection.unregister("loading")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise InputError(f"the SQL holds {len(statements)} statements; allowed: one")
        connection.execute(statements[0])
        columns = [column[0] for column in connection.description or []]
        return columns, connection.fetchall() if columns else []
    except duckdb.Error as error:
        raise InputError(f"the SQL was refused: {_first_line(error)}") from error
    finally:
        connection.close()


def _tables(runs: list[StoredRun], problems: list[str], studies: Studies) -> dict[str, pa.Table]:
    known = by_slug(studies)
    shown = {(run.record.id, key[2]) for key, run in newest(runs).items()}
    current = {name for name, _ in shown}
    drawn = _newest_curves([run for run in runs if run.record.id in current])
    rows: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    measurements: list[dict[str, Any]] = []
    curves: list[pa.Table] = []
    for run in runs:
        record = rejudged(run.record, known)
        about = {
            "run": record.id,
            "study": record.study,
            "scale": record.scale,
            "newest": record.id in current,
        }
        rows.append(about | _run(record))
        for claim in record.claims:
            here = about | {"newest": (record.id, claim.id) in shown}
            claims.append(here | _claim(claim))
            measurements += [here | {"claim": claim.id} | m.model_dump() for m in claim.measurements]
        long = run.tables()
        front = [pa.array([value] * len(long), kind) for value, (_, kind) in zip(about.values(), _ABOUT, strict=True)]
        here = [drawn.get((record.study, record.scale, name)) == record.id for name in long.column("curve").to_pylist()]
        front[-1] = pa.array(here, pa.bool_())
        curves.append(pa.Table.from_arrays([*front, *long.columns], schema=CURVES))
    return {
        "runs": pa.Table.from_pylist(rows, schema=RUNS),
        "claims": pa.Table.from_pylist(claims, schema=CLAIMS),
        "measurements": pa.Table.from_pylist(measurements, schema=MEASUREMENTS),
        "curves": pa.concat_tables(curves) if curves else CURVES.empty_table(),
        "problems": pa.table({"problem": pa.array(problems, pa.string())}),
    }


def _newest_curves(runs: list[StoredRun]) -> dict[tuple[str, str, str], str]:
    found = {}
    for run in sorted(runs, key=lambda run: (run.record.preset, run.record.started, run.record.id)):
        for name in run.tables().column("curve").unique().to_pylist():
            found[run.record.study, run.record.scale, name] = run.record.id
    return found


def _run(record: RunRecord) -> dict[str, Any]:
    machine, code = record.environment, record.provenance
    return {
        "preset": record.preset,
        "complete": record.complete,
        "changed": list(record.changed),
        "config": json.dumps(record.config),
        "device": record.device,
        "started": record.started.astimezone(UTC).replace(tzinfo=None),
        "seconds": record.seconds,
        "steps_run": record.steps_run,
        "steps_cached": record.steps_cached,
        **machine.model_dump(exclude={"packages"}),
        "packages": json.dumps(machine.packages),
        **code.model_dump(),
        "notes": list(record.notes),
    }


def _claim(claim: ClaimRecord) -> dict[str, Any]:
    judgement = claim.judgement
    return {
        "claim": claim.id,
        "sentence": claim.sentence,
        "paper_figure": claim.paper_figure,
        "role": claim.role,
        **judgement.model_dump(include={"criterion", "verdict", "because", "explanation"}),
    }


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
