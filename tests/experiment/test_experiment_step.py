import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toy_study
from superpose.errors import InputError
from superpose.experiment.cache import CorruptStepWarning, StepCache
from superpose.experiment.claim import Claim
from superpose.experiment.engines import LocalEngine
from superpose.experiment.progress import Progress
from superpose.experiment.run import Run, StepFailed
from superpose.experiment.steps import StepCall, current, info_of, step
from superpose.experiment.study import Study, StudyConfig


@step(version="1")
def many(a, b=2, *, c=None):
    return [a, b, c]


@step(version="2", label="counting")
def counted(folder, items):
    with Path(folder, "count").open("a") as file:
        file.write("x")
    return {"folder": str(current().folder), "items": items}


def key(fn=many, *, device="cpu", threads=1, **arguments):
    return StepCall(fn, arguments, device, threads, Path("work")).key


def test_defaults_are_bound_and_order_does_not_matter():
    same = {key(a=1), key(a=1, b=2), key(b=2, a=1), key(c=None, b=2, a=1)}
    assert len(same) == 1
    assert key(a={"x": 1, "y": 2}) == key(a={"y": 2, "x": 1})
    assert key(a=(1, 2)) == key(a=[1, 2])
    assert key(a=np.int64(3)) == key(a=3)
    assert key(a=Path("x/y")) == key(a="x/y")


def test_every_difference_changes_the_key():
    values = [
        0,
        1,
        1.0,
        True,
        False,
        None,
        "",
        "1",
        [],
        [1],
        [[1]],
        {},
        {"a": 1},
        -0.0,
        0.0,
        float("nan"),
        float("inf"),
    ]
    keys = [key(a=v) for v in values] + [key(a=1, b=3), key(a=1, c=0), key(a=2)]
    keys += [
        key(a=1, device="cuda"),
        key(a=1, threads=2),
        key(toy_study.where, item=1),
        key(toy_study.clock, repeats=1),
    ]
    assert len(set(keys)) == len(keys)
    assert key(a=0.1 + 0.2) != key(a=0.3)


def test_the_version_and_the_name_are_in_the_key(monkeypatch):
    before = key(a=1)
    info = info_of(many)
    monkeypatch.setattr(many, "step_info", type(info)(info.name, "2", info.exclusive, info.label))
    assert key(a=1) != before
    monkeypatch.setattr(many, "step_info", type(info)("elsewhere:many", "1", info.exclusive, info.label))
    assert key(a=1) != before
    monkeypatch.setattr(many, "step_info", type(info)(info.name, "1", info.exclusive, "another label"))
    assert key(a=1) == before


def test_only_exclusive_steps_are_keyed_by_machine(monkeypatch):
    timing, plain = key(toy_study.clock, repeats=5), key(a=1)
    monkeypatch.setattr("superpose.experiment.steps.machine", lambda device: "another machine")
    assert key(toy_study.clock, repeats=5) != timing
    assert key(a=1) == plain


def test_keys_are_the_same_in_another_process():
    code = (
        "from pathlib import Path; import toy_study as t; from superpose.experiment.steps import StepCall; "
        "print(StepCall(t.draw, {'seed': 1, 'item': 2, 'tally': 'é'}, 'cpu', 1, Path('w')).key)"
    )
    here = key(toy_study.draw, seed=1, item=2, tally="é")
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


@pytest.mark.parametrize("value", [object(), {1, 2}, np.arange(3), {1: 2}, b"x", [lambda: 0], StudyConfig()])
def test_arguments_that_are_not_plain_data_are_refused_by_name(value):
    with pytest.raises(TypeError, match=r"many: argument 'b'"):
        key(a=1, b=value)


def test_wrong_arguments_threads_and_functions_are_refused():
    with pytest.raises(TypeError, match=r"many: missing a required argument: 'a'"):
        key(b=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        key(a=1, d=1)
    with pytest.raises(ValueError, match="threads is 0"):
        key(a=1, threads=0)
    with pytest.raises(TypeError, match="not a step"):
        key(len)
    with pytest.raises(TypeError, match="top level"):
        step(version="1")(lambda: 0)


def test_decorators_above_and_below_a_step_are_seen_through():
    assert info_of(toy_study.wrapped) == info_of(toy_study.walk)


def test_outside_a_step_there_is_no_context():
    with pytest.raises(LookupError):
        current()
    assert many(1) == [1, 2, None]  # and called directly, a step is a function


class Config(StudyConfig):
    pass


STUDY = Study(
    slug="s",
    title="",
    room="",
    paper="",
    card="",
    summary="",
    config=Config,
    presets={"laptop": {}},
    claims=(Claim(id="C1", sentence="s", paper_figure="f", role="reported", reason="r"),),
)


def new_run(tmp_path, *, jobs=1, fresh=False):
    return Run(
        STUDY,
        Config(),
        "laptop",
        frozenset(["C1"]),
        cache=StepCache(tmp_path / "cache"),
        engine=LocalEngine(jobs),
        device="cpu",
        progress=Progress(quiet=True),
        fresh=fresh,
    )


def count(tmp_path):
    return len((tmp_path / "count").read_text())


def test_a_step_runs_once_and_fresh_runs_it_once_more(tmp_path):
    run = new_run(tmp_path)
    first = run.step(counted, folder=str(tmp_path), items=[1])
    assert run.step(counted, folder=str(tmp_path), items=[1]) == first
    assert (run.steps_run, run.steps_cached, count(tmp_path)) == (1, 1, 1)
    assert new_run(tmp_path).step(counted, folder=str(tmp_path), items=[1]) == first
    assert count(tmp_path) == 1
    fresh = new_run(tmp_path, fresh=True)
    for _ in range(3):
        fresh.step(counted, folder=str(tmp_path), items=[1])
    assert (fresh.steps_run, fresh.steps_cached, count(tmp_path)) == (1, 2, 2)


def test_map_keeps_order_and_computes_equal_calls_once(tmp_path):
    run = new_run(tmp_path)
    outputs = run.map(counted, [{"folder": str(tmp_path), "items": i} for i in (3, 1, 3, 2)])
    assert [o["items"] for o in outputs] == [3, 1, 3, 2]
    assert count(tmp_path) == 3
    assert run.map(counted, []) == []


def test_more_steps_than_may_hold_locks_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("superpose.experiment.run._AT_ONCE", 3)
    outputs = new_run(tmp_path).map(counted, [{"folder": str(tmp_path), "items": i} for i in range(10)])
    assert [o["items"] for o in outputs] == list(range(10))
    assert count(tmp_path) == 10


def test_a_checkpoint_folder_lives_until_its_step_is_done(tmp_path):
    output = new_run(tmp_path).step(counted, folder=str(tmp_path), items=0)
    assert Path(output["folder"]).parent == tmp_path / "cache" / "work"
    assert not Path(output["folder"]).exists()


def test_fresh_does_not_go_on_from_an_old_checkpoint(tmp_path):
    honest = new_run(tmp_path).step(toy_study.walk, seed=3)["total"]
    key_ = key(toy_study.walk, seed=3)
    for fresh in (False, True):
        work = tmp_path / "cache" / "work" / key_
        work.mkdir()
        (work / "place.json").write_text(json.dumps([8, 123.0]))
        StepCache(tmp_path / "cache")._retire(key_)
        assert new_run(tmp_path, fresh=fresh).step(toy_study.walk, seed=3)["total"] == (honest if fresh else 123.0)


def test_threads_are_set_inside_and_put_back_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seen = new_run(tmp_path).map(toy_study.where, [{"item": 0}], threads=2)[0]
    assert (seen["threads"], seen["omp"]) == (2, "2")
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_damaged_step_is_computed_again(tmp_path):
    first = new_run(tmp_path).step(toy_study.draw, seed=0, item=0)
    (tmp_path / "cache" / "done" / key(toy_study.draw, seed=0, item=0) / "arrays.safetensors").write_bytes(b"no")
    with pytest.warns(CorruptStepWarning, match="draw-"):
        again = new_run(tmp_path).step(toy_study.draw, seed=0, item=0)
    assert np.array_equal(again["values"], first["values"])


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("ordinary", StepFailed, "step raises failed.* RuntimeError: an ordinary mistake"),
        ("input", InputError, "kind is 'input'"),
        ("awkward", StepFailed, "this and that"),
        ("output", StepFailed, "a step returned object"),
    ],
)
def test_a_failing_step_is_reported_and_the_others_are_kept(tmp_path, jobs, kind, error, message):
    run = new_run(tmp_path, jobs=jobs)
    with pytest.raises(error, match=message):
        run.map(toy_study.raises, [{"kind": kind}, {"kind": kind, "tally": str(tmp_path)}])
    assert (tmp_path / f"raises-{kind}").exists()  # the second call was made all the same
    lock = StepCache(tmp_path / "cache").try_lock(key(toy_study.raises, kind=kind))
    assert lock is not None
    lock.release()


def test_worker_processes_give_the_same_bits(tmp_path):
    items = [{"seed": s, "item": i} for s in range(2) for i in range(4)]
    alone = new_run(tmp_path / "one").map(toy_study.draw, items)
    together = new_run(tmp_path / "two", jobs=2).map(toy_study.draw, items)
    assert {a["pid"] for a in alone} == {os.getpid()}
    assert os.getpid() not in {t["pid"] for t in together}
    for a, t in zip(alone, together, strict=True):
        assert a["values"].tobytes() == t["values"].tobytes()
        assert a["mean"] == t["mean"]


def test_a_dead_worker_process_is_reported_and_the_next_run_works(tmp_path):
    run = new_run(tmp_path, jobs=2)
    with pytest.raises(StepFailed, match="worker process died"):
        run.map(toy_study.dies_once, [{"marker": str(tmp_path / name)} for name in "ab"])
    assert run.map(toy_study.dies_once, [{"marker": str(tmp_path / name)} for name in "ab"]) == [7, 7]


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="SUPERPOSE_CACHE"):
        StepCache(tmp_path / "file" / "cache")


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path))
    assert StepCache().root == tmp_path / "steps"
    monkeypatch.chdir(tmp_path)
    assert StepCache(Path("relative")).work == tmp_path / "relative" / "work"
