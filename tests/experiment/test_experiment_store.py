import json
import math
import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from superpose.errors import InputError
from superpose.experiment.claim import Judgement
from superpose.experiment.environment import Environment, Provenance
from superpose.experiment.measurement import exact
from superpose.experiment.record import NOT_ASKED, TABLE, ClaimRecord, RunRecord, utc
from superpose.experiment.store import Store, newest

NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)


def record(number=0, *, minutes=0, study="toy", scale="laptop", preset=True, because=""):
    started = NOON + timedelta(minutes=minutes)
    return RunRecord(
        id=f"{study}--{utc(started)}--{number:08x}",
        study=study,
        scale=scale,
        preset=preset,
        config={"seeds": 3},
        device="cpu",
        started=started,
        seconds=1.5,
        steps_run=1,
        steps_cached=2,
        environment=Environment(cpu="c", cores=2, memory_gib=8, system="s", python="3", packages={}),
        provenance=Provenance(source="0"),
        claims=(
            ClaimRecord(
                id="C1",
                sentence="naïve 🦜",
                paper_figure="f",
                role="judged",
                measurements=(exact("kl", math.inf), exact("minus", -math.inf)),
                judgement=Judgement(verdict="not judged" if because else "holds", because=because),
            ),
        ),
        tables_sha256="",
    )


def table(n=2):
    row = {
        "table": "curve",
        "curve": "c",
        "arm": "a",
        "x": 1.0,
        "label": None,
        "value": 1.0,
        "low": 0.0,
        "high": math.inf,
    }
    return pa.Table.from_pylist([{**row, "n": i} for i in range(n)], schema=TABLE)


def ids(store):
    return [run.record.id for run in store.runs()[0]]


def test_a_run_comes_back_as_it_was(tmp_path):
    store = Store(tmp_path / "new" / "store")
    assert store.runs() == ([], [])
    folder = store.save(record(), table())
    (run,), problems = store.runs()
    assert problems == []
    assert run.folder == folder
    assert run.record.model_copy(update={"tables_sha256": ""}) == record()
    assert run.tables().equals(table())
    assert run.record.claims[0].measurements[0].value == math.inf
    json.loads((folder / "run.json").read_text("utf-8"), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_runs_are_listed_oldest_first(tmp_path):
    store = Store(tmp_path)
    for number, minutes in enumerate((5, 1, 3)):
        store.save(record(number, minutes=minutes), table())
    assert [i[-1] for i in ids(store)] == ["1", "2", "0"]


def truncate(folder):
    path = folder / "run.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_json(folder, **fields):
    data = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**data, **fields}))


def other_table(folder):
    pq.write_table(pa.table({"x": [1]}), folder / "tables.parquet")
    from superpose.experiment.store import _sha256

    change_json(folder, tables_sha256=_sha256(folder / "tables.parquet"))


def flip(folder):
    data = bytearray((folder / "tables.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tables.parquet").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "Invalid JSON"),
        (lambda f: (f / "run.json").write_bytes(b""), "Invalid JSON"),
        (lambda f: (f / "run.json").write_bytes(b"\xff\xfe"), "JSON"),
        (lambda f: (f / "run.json").unlink(), "No such file"),
        (lambda f: (f / "tables.parquet").unlink(), "No such file"),
        (flip, "does not match its digest"),
        (other_table, "other columns"),
        (lambda f: change_json(f, scale="moon"), "scale"),
        (lambda f: change_json(f, schema_version=2), "schema_version"),
        (lambda f: change_json(f, surprise=1), "surprise"),
        (lambda f: change_json(f, id="toy--20260102T120000Z--ffffffff"), "says it is"),
        (lambda f: shutil.copytree(f, f.with_name(f.name[:-1] + "9")) and truncate(f), "Invalid JSON"),
        (lambda f: shutil.rmtree(f) or f.mkdir(), "No such file"),
    ],
)
def test_a_corrupt_run_is_named_and_skipped(tmp_path, damage, reason):
    store = Store(tmp_path)
    store.save(record(1), table())
    broken = store.save(record(2, minutes=1), table())
    damage(broken)
    assert ids(store) == [record(1).id]
    problems = store.runs()[1]
    assert any(broken.name in problem and reason in problem for problem in problems)
    assert all(problem.startswith("skipped ") and "\n" not in problem for problem in problems)
    store.save(record(3, minutes=2), table())  # and the store goes on working
    assert len(ids(store)) == 2


def test_foreign_things_are_passed_over_and_renamed_runs_named(tmp_path):
    store = Store(tmp_path)
    folder = store.save(record(1), table())
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "figures").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "my--notes").mkdir()
    shutil.copytree(folder, tmp_path / "renamed")
    runs, problems = store.runs()
    assert len(runs) == 1
    assert [p.split(":")[0] for p in problems] == ["skipped my--notes", "skipped renamed"]


def test_half_written_runs_are_never_listed_and_swept_when_old(tmp_path):
    store = Store(tmp_path)
    folder = store.save(record(1), table())
    for name in (".partial-1-young", ".partial-1-old"):
        shutil.copytree(folder, tmp_path / name)
    os.utime(tmp_path / ".partial-1-old", (0, time.time() - 2 * 24 * 3600))
    assert store.runs()[1] == []
    store.save(record(2), table())
    assert len(ids(store)) == 2
    assert (tmp_path / ".partial-1-young").exists()
    assert not (tmp_path / ".partial-1-old").exists()


def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    noise = np.random.default_rng(0).normal(size=200_000)
    big = table(len(noise)).set_column(5, "value", pa.array(noise))
    with pytest.raises(InputError, match=r"takes \d+ bytes; allowed: 1000000"):
        store.save(record(), big)
    assert list(tmp_path.iterdir()) == []


def test_saving_twice_does_not_change_a_run(tmp_path):
    store = Store(tmp_path)
    folder = store.save(record(), table())
    before = (folder / "run.json").read_bytes()
    with pytest.raises(OSError):
        store.save(record().model_copy(update={"seconds": 9.0}), table(5))
    assert (folder / "run.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_store_that_cannot_be_written_or_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--store .*file/store' is not writable"):
        Store(tmp_path / "file" / "store").check_writable()
    with pytest.raises(InputError, match="not writable"):
        Store(tmp_path / "file").check_writable()
    with pytest.raises(InputError, match="cannot be read"):
        Store(tmp_path / "file").runs()
    assert (tmp_path / "file").read_text() == ""


def shown(*records, tmp_path):
    store = Store(tmp_path)
    for r in records:
        store.save(r, table())
    return {key: int(run.record.id[-8:], 16) for key, run in newest(store.runs()[0]).items()}


C1 = ("toy", "laptop", "C1")


def with_claims(record, **asked):
    """The record with these claims: id to whether it was asked for."""
    (claim,) = record.claims
    other = Judgement(verdict="not judged", because=NOT_ASKED)
    made = [claim.model_copy(update={"id": k} | ({} if yes else {"judgement": other})) for k, yes in asked.items()]
    return record.model_copy(update={"claims": tuple(made)})


def test_the_newest_run_per_study_and_scale_is_shown(tmp_path):
    assert shown(
        record(1, minutes=0),
        record(2, minutes=5),
        record(3, minutes=2),
        record(4, minutes=9, scale="smoke"),
        record(5, minutes=1, study="other"),
        tmp_path=tmp_path,
    ) == {C1: 2, ("toy", "smoke", "C1"): 4, ("other", "laptop", "C1"): 5}


def test_a_claim_comes_from_the_newest_run_that_was_asked_for_it(tmp_path):
    first = with_claims(record(1), C1=True, C2=False, C3=False)
    second = with_claims(record(2, minutes=1), C1=False, C2=True, C3=False)
    assert shown(first, second, tmp_path=tmp_path / "a") == {C1: 1, ("toy", "laptop", "C2"): 2}
    again = with_claims(record(3, minutes=2), C1=True, C2=True, C3=False)
    assert shown(first, second, again, tmp_path=tmp_path / "b") == {C1: 3, ("toy", "laptop", "C2"): 3}


def test_a_claim_that_the_study_has_lost_is_not_shown(tmp_path):
    old = with_claims(record(1), C1=True, gone=True)
    assert shown(old, with_claims(record(2, minutes=1), C1=False), tmp_path=tmp_path) == {C1: 1}


def test_preset_runs_go_before_newer_ones(tmp_path):
    preset = record(1)
    off_preset = record(2, minutes=2, preset=False)
    assert shown(preset, off_preset, tmp_path=tmp_path / "a") == {C1: 1}
    assert shown(off_preset, tmp_path=tmp_path / "b") == {C1: 2}
    # but one that was not asked for the claim says nothing about it
    unasked = record(3, minutes=3, because=NOT_ASKED)
    assert shown(off_preset, unasked, tmp_path=tmp_path / "c") == {C1: 2}
    assert shown(unasked, tmp_path=tmp_path / "d") == {}
    # a claim without a criterion at this scale was asked for all the same
    open_ = record(4, minutes=4, because="no criterion at scale laptop")
    assert shown(preset, open_, tmp_path=tmp_path / "e") == {C1: 4}
