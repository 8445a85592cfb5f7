"""A toy study with cheap steps, and a process that runs it and can be killed: ``python -m toy_study run|zygote``."""

import functools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from superpose.errors import InputError
from superpose.experiment.cache import StepCache
from superpose.experiment.claim import Claim, above, all_of, at_least, below
from superpose.experiment.driver import Options, plan, run_study
from superpose.experiment.engines import LocalEngine, engine
from superpose.experiment.measurement import exact, over_items, over_seeds, paired_difference
from superpose.experiment.progress import Progress
from superpose.experiment.run import Run
from superpose.experiment.steps import current, step, track
from superpose.experiment.store import Store
from superpose.experiment.study import Study, StudyConfig


class ToyConfig(StudyConfig):
    items: int = 5
    shift: float = 1.0
    names: tuple[str, ...] = ("a", "b")
    tally: str = ""  # a folder in which every step notes that it was started
    pause: float = 0.0
    break_item: int = -1


def note_start(tally: str, name: str) -> None:
    if tally:
        with Path(tally, name).open("a") as file:
            file.write(f"{os.getpid()}\n")


@step(version="1")
def draw(seed: int, item: int, tally: str = "", pause: float = 0.0, broken: bool = False) -> dict:
    note_start(tally, f"draw-{seed}-{item}")
    if broken:
        raise RuntimeError(f"item {item} is broken")
    time.sleep(pause)
    values = np.random.default_rng([seed, item]).normal(size=20)
    return {"name": f"draw-{seed}-{item}", "values": values, "mean": float(values.mean()), "pid": os.getpid()}


@step(version="1")
def walk(seed: int, tally: str = "", pause: float = 0.0) -> dict:
    """A long loop that keeps its place: the same sum, however often it is killed."""
    note_start(tally, f"walk-{seed}")
    place = current().folder / "place.json"
    done, total = json.loads(place.read_text()) if place.exists() else (0, 0.0)
    for i in track(range(done, 8), "walking"):
        time.sleep(pause / 4)
        total += float(np.random.default_rng([seed, i]).normal())
        note_start(tally, f"walk-{seed}-part-{i}")
        partial = place.with_suffix(".partial")
        partial.write_text(json.dumps([i + 1, total]))
        partial.replace(place)
    return {"name": f"walk-{seed}", "total": total}


@step(version="1", exclusive=True)
def clock(repeats: int) -> float:
    started = time.perf_counter()
    sum(range(repeats))
    return time.perf_counter() - started


@step(version="1")
def dies_once(marker: str) -> int:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


@step(version="1")
def dies(marker: str) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


class AwkwardError(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@step(version="1")
def raises(kind: str, tally: str = "") -> int:
    note_start(tally, f"raises-{kind}")
    if kind == "input":
        raise InputError("kind is 'input'; allowed: none")
    if kind == "awkward":
        raise AwkwardError("this", "that")
    if kind == "output":
        return object()  # type: ignore[return-value]
    raise RuntimeError("an ordinary mistake")


@step(version="1")
def where(item: int) -> dict:
    seen = current()
    return {
        "pid": os.getpid(),
        "folder": str(seen.folder),
        "threads": seen.threads,
        "omp": os.environ["OMP_NUM_THREADS"],
    }


@functools.wraps(walk)
def wrapped(*args, **kwargs):
    return walk(*args, **kwargs)


study = Study(
    slug="toy",
    title="A toy",
    room="interpret",
    paper="Nobody 2026",
    card="none",
    summary="It draws numbers. It is quick.",
    config=ToyConfig,
    presets={
        "smoke": {"items": 2, "seeds": 1},
        "laptop": {"items": 5, "seeds": 5},
    },
    claims=(
        Claim(
            id="T1",
            sentence="The mean is not far from zero.",
            paper_figure="0",
            criteria={"laptop": all_of(above("mean", -2.0), below("mean", 2.0))},
        ),
        Claim(
            id="T2",
            sentence="Walking gets far.",
            paper_figure="100",
            criteria={"laptop": at_least("distance", 100.0)},
            explanations={"laptop:fails": "Eight steps do not get that far."},
        ),
        Claim(id="T3", sentence="It is quick.", paper_figure="none", role="reported", reason="a time is a time"),
        Claim(id="T4", sentence="It scales.", paper_figure="1e9", role="unmeasurable", reason="a larger machine"),
    ),
)


@study.measured_by("T3", exclusive=True)
def measure_clock(run: Run[ToyConfig]) -> None:
    run.measure("T3", exact("seconds", run.step(clock, repeats=1000), unit="s"))


@study.measured_by("T1")
def measure_draws(run: Run[ToyConfig]) -> None:
    c = run.config
    drawn = run.map(
        draw,
        [
            {"seed": s, "item": i, "tally": c.tally, "pause": c.pause, "broken": i == c.break_item}
            for s in run.seeds
            for i in range(c.items)
        ],
    )
    means = np.array([d["mean"] for d in drawn]).reshape(len(run.seeds), c.items)
    run.measure(
        "T1",
        over_seeds("mean", means.mean(1)),
        over_items("mean_of_items", means.mean(0)),
        paired_difference("first_minus_last", means[:, 0], means[:, -1], over="seeds"),
    )
    run.curve("mean", "arm", np.arange(c.items), means.mean(0), means.min(0), means.max(0), n=len(run.seeds))
    run.samples("mean", "arm", [f"seed {s}" for s in run.seeds], means.mean(1))


@study.measured_by("T2")
def measure_walks(run: Run[ToyConfig]) -> None:
    c = run.config
    walked = run.map(walk, [{"seed": s, "tally": c.tally, "pause": c.pause} for s in run.seeds])
    run.measure("T2", over_seeds("distance", [abs(w["total"]) for w in walked]))
    run.note("walked")


def main(folder: Path, overrides: dict, how: str = "local", jobs: int = 1) -> None:
    """Run the toy in ``folder/cache`` and ``folder/store``, tallying in ``folder/tally``."""
    (folder / "tally").mkdir(parents=True, exist_ok=True)
    mapper = LocalEngine() if jobs == 1 else engine(how, jobs)
    options = Options(
        Store(folder / "store"), cache=StepCache(folder / "cache"), engine=mapper, progress=Progress(quiet=True)
    )
    request = plan(study, claims=("T1", "T2"), overrides={"tally": str(folder / "tally"), **overrides})
    try:
        run_study(request, options)
    finally:
        mapper.close()


def zygote() -> None:
    """Per line ``seconds folder overrides``: fork a run, kill it after so long, say how it ended.

    Forking from a process that has its imports behind it makes a kill cost milliseconds, so there can be many.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                main(Path(request["folder"]), request["overrides"])
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        deadline = time.monotonic() + request["seconds"]
        pid = status = 0
        while not pid and time.monotonic() < deadline:
            time.sleep(0.002)
            pid, status = os.waitpid(child, os.WNOHANG)
        if not pid:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        print("killed" if not pid else "finished" if status == 0 else "failed", flush=True)


if __name__ == "__main__":
    # Steps are named after their module, which is not __main__.
    import toy_study

    if sys.argv[1] == "zygote":
        toy_study.zygote()
    else:
        toy_study.main(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
