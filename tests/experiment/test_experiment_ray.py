import os
import sys

import pytest

import toy_study
from superpose.errors import InputError
from superpose.experiment.cache import StepCache
from superpose.experiment.driver import Options, plan, run_study
from superpose.experiment.engines import LocalEngine, RayEngine, WorkerError, engine
from superpose.experiment.run import StepFailed
from superpose.experiment.steps import StepCall
from superpose.experiment.store import Store


@pytest.fixture(scope="session")
def ray_engine():
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    mapper = engine("ray", 2)
    yield mapper
    mapper.close()


def calls(tmp_path, fn, arguments, threads=1):
    return [StepCall(fn, a, "cpu", threads, tmp_path / "work") for a in arguments]


def outputs(mapper, steps):
    return [output for _, output, _ in sorted(mapper.map(steps), key=lambda result: result[0])]


def test_ray_gives_the_same_bits(tmp_path, ray_engine):
    steps = calls(tmp_path, toy_study.draw, [{"seed": s, "item": i} for s in range(2) for i in range(5)])
    alone, far = outputs(LocalEngine(), steps), outputs(ray_engine, steps)
    assert os.getpid() not in {f["pid"] for f in far}
    assert [f["values"].tobytes() for f in far] == [a["values"].tobytes() for a in alone]


def test_a_study_on_ray_equals_one_at_home(tmp_path, ray_engine):
    wanted = plan(toy_study.study, claims=["T1", "T2"])
    runs = [
        run_study(wanted, Options(Store(tmp_path / name / "store"), cache=StepCache(tmp_path / name), engine=mapper))
        for name, mapper in (("home", LocalEngine()), ("ray", ray_engine))
    ]
    assert runs[0].record.claims == runs[1].record.claims
    assert runs[0].tables().equals(runs[1].tables())


def test_a_killed_workers_step_is_tried_again(tmp_path, ray_engine):
    steps = calls(tmp_path, toy_study.dies_once, [{"marker": str(tmp_path / name)} for name in "ab"])
    assert outputs(ray_engine, steps) == [7, 7]
    assert (tmp_path / "a").exists()


def test_a_step_that_always_kills_its_worker_is_given_up(tmp_path, ray_engine):
    impatient = RayEngine(None, jobs=2, retries=1)
    steps = calls(tmp_path, toy_study.dies, [{"marker": ""}]) + calls(tmp_path, toy_study.where, [{"item": 0}])
    results = {index: (output, error) for index, output, error in impatient.map(steps)}
    impatient.close()  # it did not start this Ray, so it must not end it
    assert isinstance(results[0][1], WorkerError)
    assert "2 times" in str(results[0][1])
    assert results[1][0]["threads"] == 1  # the other step was done
    assert outputs(ray_engine, steps[1:])


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("ordinary", StepFailed, "RuntimeError: an ordinary mistake"),
        ("input", InputError, "kind is 'input'"),
        ("awkward", StepFailed, "this and that"),
    ],
)
def test_an_exception_is_reported_and_not_tried_again(tmp_path, ray_engine, kind, error, message):
    from test_experiment_step import new_run

    run = new_run(tmp_path)
    run._engine = ray_engine
    with pytest.raises(error, match=message):
        run.map(toy_study.raises, [{"kind": kind, "tally": str(tmp_path)}])
    assert len((tmp_path / f"raises-{kind}").read_text().splitlines()) == 1


def test_steps_set_their_threads_and_may_ask_for_more_than_there_are(tmp_path, ray_engine):
    seen = outputs(ray_engine, calls(tmp_path, toy_study.where, [{"item": 1}], threads=4))[0]
    assert (seen["threads"], seen["omp"]) == (4, "4")
    assert seen["folder"].startswith(str(tmp_path / "work"))


def test_results_that_nobody_waits_for_are_cancelled(tmp_path, ray_engine):
    import time

    steps = calls(tmp_path, toy_study.draw, [{"seed": 0, "item": i, "pause": 20.0 * (i > 0)} for i in range(4)])
    results = ray_engine.map(steps)
    assert next(results)[0] == 0
    began = time.monotonic()
    results.close()
    assert outputs(ray_engine, calls(tmp_path, toy_study.where, [{"item": 2}]))
    assert time.monotonic() - began < 15


def test_without_ray_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'superpose\[ray\]'"):
        engine("ray", 1)
