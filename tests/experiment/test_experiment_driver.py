import json
import platform
import re
import socket
from pathlib import Path

import pytest

import toy_study
from superpose.errors import InputError
from superpose.experiment.cache import StepCache
from superpose.experiment.claim import Claim, above, at_most
from superpose.experiment.driver import Options, plan, rejudge, run_study
from superpose.experiment.engines import LocalEngine, engine
from superpose.experiment.environment import environment, provenance, source_hash
from superpose.experiment.figure import Figure
from superpose.experiment.measurement import over_seeds
from superpose.experiment.run import StepFailed
from superpose.experiment.store import Store
from superpose.experiment.study import Study

STUDY = toy_study.study


def options(tmp_path, **changes):
    return Options(Store(tmp_path / "store"), cache=StepCache(tmp_path / "cache"), **changes)


def verdicts(record):
    return {claim.id: claim.judgement.verdict for claim in record.claims}


def test_a_whole_run(tmp_path):
    run = run_study(plan(STUDY), options(tmp_path))
    record = run.record
    assert verdicts(record) == {"T1": "holds", "T2": "fails", "T3": "reported", "T4": "unmeasurable"}
    assert record.preset
    assert record.complete
    assert (record.steps_run, record.steps_cached) == (5 * 5 + 5 + 1, 0)
    assert record.claims[1].judgement.explanation == "Eight steps do not get that far."
    assert record.notes == ("walked",)
    assert {m.over for m in record.claims[0].measurements} == {"seeds", "items"}
    tables = run.tables().to_pylist()
    assert [row["x"] for row in tables if row["table"] == "curve"] == [0, 1, 2, 3, 4]
    assert [row["label"] for row in tables if row["table"] == "sample"] == [f"seed {s}" for s in range(5)]
    assert all(row["low"] <= row["value"] <= row["high"] for row in tables)

    again = run_study(plan(STUDY), options(tmp_path)).record
    assert (again.steps_run, again.steps_cached) == (0, 31)
    assert again.claims == record.claims
    assert again.id != record.id
    assert len(Store(tmp_path / "store").runs()[0]) == 2


def test_two_workers_give_the_same_measurements(tmp_path):
    wanted = plan(STUDY, claims=["T1", "T2"])
    alone = run_study(wanted, options(tmp_path / "one"))
    together = run_study(wanted, options(tmp_path / "two", engine=LocalEngine(2)))
    assert alone.record.claims == together.record.claims
    assert alone.tables().equals(together.tables())


def test_only_the_claims_asked_for_are_measured(tmp_path):
    tally = tmp_path / "tally"
    tally.mkdir()
    record = run_study(plan(STUDY, claims=["T2"], overrides={"tally": str(tally)}), options(tmp_path)).record
    assert {path.name.split("-")[0] for path in tally.iterdir()} == {"walk"}
    asked = run_study(plan(STUDY, claims=["T2"]), options(tmp_path)).record
    assert verdicts(asked) == {"T1": "not judged", "T2": "fails", "T3": "not judged", "T4": "unmeasurable"}
    assert asked.claims[0].judgement.because == "not asked for in this run"
    assert not asked.complete
    assert verdicts(record)["T2"] == "not judged"  # the tally is a config field, so this run left the preset


def test_timing_comes_last(tmp_path):
    said = []

    class Listener(toy_study.Progress):
        def say(self, text, *, title=""):
            said.append(text)

    run_study(plan(STUDY), options(tmp_path, progress=Listener(quiet=True)))
    assert said == ["T1", "T2", "T3"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"scale": "moon"}, r"--scale is 'moon'; allowed: smoke, laptop"),
        ({"scale": "gpu"}, r"--scale is 'gpu'; allowed: smoke, laptop"),
        ({"claims": ["T9"]}, r"--claims \(of toy\) is 'T9'; allowed: T1, T2, T3, T4"),
        ({"overrides": {"nothing": 1}}, r"--set nothing names no config field; allowed: seeds, items"),
        ({"overrides": {"items.deep": 1}}, r"--set items.deep: items has no fields of its own"),
        ({"overrides": {"items": "many"}}, r"--set items is 'many'; allowed: a whole number"),
        ({"overrides": {"items": "2.5"}}, r"--set items is '2.5'"),
        ({"overrides": {"shift": "x"}}, r"--set shift is 'x'; allowed: a number"),
        ({"overrides": {"seeds": 0}}, r"--set seeds is 0; allowed: 1 or more"),
        ({"overrides": {"seeds": "2"}}, r"seeds is 2; allowed at scale laptop: 3 or more"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(request_, message):
    with pytest.raises(InputError, match=message):
        plan(STUDY, **request_)


def test_lists_are_written_with_commas():
    assert plan(STUDY, overrides={"names": "x, y,z"}).config.names == ("x", "y", "z")
    assert plan(STUDY, overrides={"names": ["x"], "shift": "3"}).config.shift == 3.0


def test_a_changed_config_is_not_judged(tmp_path):
    record = run_study(plan(STUDY, claims=["T1"], overrides={"items": "4"}), options(tmp_path)).record
    assert not record.preset
    assert record.changed == ("items",)
    assert verdicts(record)["T1"] == "not judged"
    assert record.claims[0].judgement.because == "the config left the preset: items"
    assert record.claims[0].measurements
    # spelling the preset out is not leaving it
    assert plan(STUDY, overrides={"items": "5"}).changed == ()


def test_more_seeds_are_still_judged_and_fewer_are_not(tmp_path):
    assert plan(STUDY, overrides={"seeds": 3}).changed == ("seeds",)
    record = run_study(plan(STUDY, claims=["T1"], overrides={"seeds": 6}), options(tmp_path)).record
    assert (record.preset, verdicts(record)["T1"]) == (True, "holds")
    assert record.claims[0].measurements[0].n == 6


def test_smoke_measures_but_does_not_judge(tmp_path):
    record = run_study(plan(STUDY, scale="smoke"), options(tmp_path)).record
    assert verdicts(record)["T1"] == "not judged"
    assert record.claims[0].judgement.because == "no criterion at scale smoke"
    assert record.claims[0].measurements[0].n == 1  # one seed is enough to check the plumbing


def small_study(measure, **claim):
    study = Study(
        slug="small",
        title="",
        room="",
        paper="",
        card="",
        summary="",
        config=toy_study.ToyConfig,
        presets={"laptop": {}},
        claims=(Claim(id="C1", sentence="s", paper_figure="f", criteria={"laptop": above("x", 0)}, **claim),),
    )
    if measure is not None:
        study.measured_by("C1")(measure)
    return study


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda run: run.measure("C1", over_seeds("x", [1, 2])), "'x' has 2 seeds; allowed at scale laptop: 3"),
        (lambda run: run.measure("C1", over_seeds("y", [1, 2, 3])), "needs the measurement 'x'; made: y"),
        (lambda run: run.measure("C2", over_seeds("x", [1, 2, 3])), "claim of small is 'C2'"),
        (lambda run: None, "measured nothing"),
    ],
)
def test_measuring_functions_that_do_not_deliver_are_named_and_nothing_is_saved(tmp_path, measure, message):
    with pytest.raises(InputError, match=message):
        run_study(plan(small_study(measure)), options(tmp_path))
    assert not (tmp_path / "store").exists()


def test_measuring_twice_is_refused(tmp_path):
    def twice(run):
        for _ in range(2):
            run.measure(["C1"], over_seeds("x", [1, 2, 3]))

    with pytest.raises(ValueError, match="recorded twice"):
        run_study(plan(small_study(twice)), options(tmp_path))


def test_a_claim_nothing_measures_is_refused_before_work():
    with pytest.raises(InputError, match="nothing measures it"):
        plan(small_study(None))


def test_studies_that_contradict_themselves_are_refused():
    claim = STUDY.claims[0]
    fields = {k: getattr(STUDY, k) for k in ("slug", "title", "room", "paper", "card", "summary", "config", "presets")}
    with pytest.raises(ValueError, match="repeat"):
        Study(**fields, claims=(claim, claim))
    figure = Figure(id="f", title="", curves=("c",), x_label="", y_label="", claims=("T9",))
    with pytest.raises(ValueError, match="T9"):
        Study(**fields, claims=(claim,), figures=(figure,))
    with pytest.raises(InputError, match="T9"):
        STUDY.measured_by("T9")


def test_a_store_that_cannot_be_written_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not writable"):
        run_study(plan(STUDY), Options(Store(tmp_path / "file" / "s"), cache=StepCache(tmp_path / "cache")))
    assert StepCache(tmp_path / "cache").size()[0] == 0


def test_after_a_failure_only_the_missing_steps_run(tmp_path, monkeypatch):
    broken = plan(STUDY, claims=["T1"], overrides={"break_item": 2})
    with pytest.raises(StepFailed, match=r"step draw failed \(and 4 more\): RuntimeError: item 2 is broken"):
        run_study(broken, options(tmp_path))
    assert not (tmp_path / "store").exists()
    assert StepCache(tmp_path / "cache").size()[0] == 20
    record = run_study(plan(STUDY, claims=["T1"]), options(tmp_path)).record
    assert (record.steps_run, record.steps_cached) == (5, 20)


def test_fresh_computes_everything_again(tmp_path):
    run_study(plan(STUDY, claims=["T1"]), options(tmp_path))
    record = run_study(plan(STUDY, claims=["T1"]), options(tmp_path, fresh=True)).record
    assert (record.steps_run, record.steps_cached) == (25, 0)


def with_claims(*claims):
    fields = {k: getattr(STUDY, k) for k in ("slug", "title", "room", "paper", "card", "summary", "config", "presets")}
    return Study(**fields, claims=claims)


def test_a_stored_run_is_judged_again_by_todays_criteria(tmp_path):
    record = run_study(plan(STUDY), options(tmp_path)).record
    assert rejudge(record, STUDY) == record
    t1, t2 = STUDY.claims[:2]
    stricter = t1.model_copy(update={"sentence": "It is tiny.", "criteria": {"laptop": at_most("mean", -1.0)}})
    judged = rejudge(record, with_claims(stricter, t2.model_copy(update={"explanations": {"laptop:fails": "new"}})))
    assert verdicts(judged) == {"T1": "fails", "T2": "fails", "T3": "reported", "T4": "unmeasurable"}
    assert judged.claims[0].sentence == "It is tiny."
    assert judged.claims[0].measurements == record.claims[0].measurements
    assert judged.claims[1].judgement.explanation == "new"
    # a criterion on something that was not measured then cannot be judged now
    impossible = t1.model_copy(update={"criteria": {"laptop": above("unheard_of", 0)}})
    assert rejudge(record, with_claims(impossible, t2)).claims[0] == record.claims[0]
    # nor is a run that left the preset
    changed = record.model_copy(update={"changed": ("items",), "preset": False})
    assert verdicts(rejudge(changed, STUDY))["T1"] == "not judged"
    reported = t1.model_copy(update={"role": "reported", "criteria": {}, "reason": "because"})
    assert verdicts(rejudge(record, with_claims(reported, t2)))["T1"] == "reported"


def test_a_run_tells_the_machine_but_not_whose_it_is(tmp_path):
    run = run_study(plan(STUDY, claims=["T1"]), options(tmp_path))
    text = (run.folder / "run.json").read_text()
    for secret in {platform.node(), socket.gethostname(), str(Path.home()), str(tmp_path), str(Path.cwd())} - {""}:
        assert not re.search(rf"(?<![\w.-]){re.escape(secret)}(?![\w.-])", text), secret
    env = environment("cpu")
    assert env.cpu
    assert env.cores >= 1
    assert env.memory_gib >= 1
    assert env.packages["torch"].startswith("2.")
    assert json.loads(text)["provenance"]["source"] == source_hash()


def test_provenance_holds_the_commit_of_a_checkout():
    origin = provenance()
    assert re.fullmatch(r"[0-9a-f]{16}", origin.source)
    checkout = (Path(toy_study.__file__).parents[1] / ".git").exists()
    assert bool(re.fullmatch(r"[0-9a-f]{40}", origin.commit)) == checkout


@pytest.mark.parametrize(
    ("name", "jobs", "message"),
    [
        ("spark", 1, "--engine is 'spark'; allowed: local, ray, ray://HOST:PORT"),
        ("ray://", 1, "--engine is 'ray://'"),
        ("ray://host", 1, "--engine is 'ray://host'"),
        ("local", 0, "--jobs is 0; allowed: 1 or more"),
    ],
)
def test_wrong_engines_are_refused(name, jobs, message):
    with pytest.raises(InputError, match=re.escape(message)):
        engine(name, jobs)
