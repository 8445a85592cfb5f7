"""Killing runs: nothing complete is lost, nothing half-written is shown, and the answer stays the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

import toy_study
from superpose.experiment.cache import StepCache
from superpose.experiment.codec import load
from superpose.experiment.store import Store

WORK = {"items": 6, "seeds": 5, "pause": 0.02}  # 35 steps of about 20 ms
SLOW = {"items": 2, "seeds": 5, "pause": 0.1}  # 15 steps of 100 and 200 ms


def start(*arguments, **options):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "error:::superpose"}
    # Background jobs of a shell ignore Ctrl-C and hand that on, but here it is what is tested.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "toy_study", *arguments], env=env, text=True, start_new_session=True, **options
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def zygote():
    process = start("zygote", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"

    def attempt(folder, seconds=60.0):
        process.stdin.write(json.dumps({"folder": str(folder), "seconds": seconds, "overrides": WORK}) + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    yield attempt
    process.stdin.close()
    assert process.wait(10) == 0


def starts(folder):
    """How often each step (or part of a walk) has been started so far."""
    return {path.name: len(path.read_text().splitlines()) for path in (folder / "tally").glob("*")}


def done_steps(folder):
    """The names of the steps in the cache, each of which must be intact."""
    return {load(path)["name"] for path in (folder / "cache" / "done").glob("*")}


def answer(folder):
    (run,), problems = Store(folder / "store").runs()
    assert problems == []
    return [claim.model_dump_json() for claim in run.record.claims], run.tables().to_pylist()


def test_killed_at_any_instant_a_run_ends_the_same(tmp_path, zygote):
    """Two dozen kills at random instants, over as many fresh starts as they leave room for."""
    chance = random.Random(20260102)
    began = time.monotonic()
    assert zygote(tmp_path / "whole") == "finished"
    whole = time.monotonic() - began
    expected = answer(tmp_path / "whole")
    assert set(starts(tmp_path / "whole").values()) == {1}
    kills = rounds = 0
    while kills < 24:
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        outcome, runs = "", []
        while not runs:
            # from a fraction of a step to most of the run, so that the last moments are hit as well
            seconds = chance.uniform(0, whole / 3) if kills < 24 else 60.0
            done, before = done_steps(folder), starts(folder)
            outcome = zygote(folder, seconds)
            assert outcome in ("killed", "finished")
            kills += outcome == "killed"
            runs, problems = Store(folder / "store").runs()
            assert problems == []
            assert runs or outcome == "killed"
            assert done <= done_steps(folder), "a finished step was lost"
            after = starts(folder)
            assert {name: after[name] for name in done} == {name: before[name] for name in done}, "computed again"
        assert answer(folder) == expected


def test_a_walk_goes_on_from_its_checkpoint(tmp_path, zygote):
    folder = tmp_path / "walks"
    chance = random.Random(7)
    began = time.monotonic()
    assert zygote(tmp_path / "whole") == "finished"
    whole = time.monotonic() - began
    while zygote(folder, chance.uniform(whole / 8, whole / 2)) == "killed":
        pass
    counted = starts(folder)
    restarts = sum(counted[f"walk-{seed}"] - 1 for seed in range(5))
    repeated = sum(count - 1 for name, count in counted.items() if "part" in name)
    # a restart may repeat the part it was killed in, never the parts before
    assert repeated <= restarts


def test_two_processes_share_one_cache_and_one_store(tmp_path):
    both = [start("run", str(tmp_path), json.dumps(WORK), "local", "1") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert set(starts(tmp_path).values()) == {1}
    runs, problems = Store(tmp_path / "store").runs()
    assert problems == []
    assert len(runs) == 2
    assert runs[0].record.claims == runs[1].record.claims
    assert sum(run.record.steps_run for run in runs) == 35


def test_workers_end_when_their_driver_is_killed(tmp_path):
    config = {"items": 6, "seeds": 5, "pause": 0.4}
    process = start("run", str(tmp_path), json.dumps(config), "local", "2")
    deadline = time.monotonic() + 30
    while not list((tmp_path / "tally").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(0.7)
    before = starts(tmp_path)
    time.sleep(1)
    assert starts(tmp_path) == before  # although more calls were in their queue


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import sys, time; from superpose.experiment.cache import StepCache; from pathlib import Path\n"
    code += "lock = StepCache(Path(sys.argv[1])).try_lock('k'); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    cache = StepCache(tmp_path)
    assert cache.try_lock("k") is None
    process.kill()
    process.wait()
    lock = cache.try_lock("k")
    assert lock is not None
    lock.release()


@pytest.mark.parametrize(("how", "jobs"), [("local", 1), ("local", 2), ("ray", 2)])
def test_interrupted_by_ctrl_c(tmp_path, how, jobs):
    if how == "ray":
        pytest.importorskip("ray", reason="the extra [ray] is not installed")
    process = start("run", str(tmp_path), json.dumps(SLOW), how, str(jobs), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "cache" / "done").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - began < 10
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said
    assert Store(tmp_path / "store").runs() == ([], [])
    kept = done_steps(tmp_path)
    assert 1 <= len(kept) < 15
    toy_study.main(tmp_path, SLOW)  # no lock was left behind
    assert kept <= done_steps(tmp_path)
    (run,), _ = Store(tmp_path / "store").runs()
    assert run.record.steps_cached == len(kept)


def test_readers_and_writers_of_one_step_never_see_half_of_it(tmp_path):
    """One process drops and rewrites an output as fast as it can; readers see all of it or nothing, unwarned."""
    code = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from superpose.experiment.cache import StepCache\n"
        "cache = StepCache(Path(sys.argv[1])); end = time.monotonic() + 2\n"
        "cache.put('k', np.arange(1000)); print('ready', flush=True)\n"
        "while time.monotonic() < end:\n"
        "    cache.drop('k'); cache.put('k', np.arange(1000))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    cache, seen = StepCache(tmp_path), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while process.poll() is None:
            found, value = cache.get("k")
            if found:
                assert value.sum() == 499_500
                seen += 1
    assert process.returncode == 0
    assert seen > 20
