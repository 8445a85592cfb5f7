"""How the claims are measured: which models are trained, and what is read off them."""

import bisect
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from superpose.experiment import Measurement, Run, exact, over_seeds, paired_ratio
from superpose.studies.looped_transformer import steps
from superpose.studies.looped_transformer.arms import (
    ABLATIONS,
    BEYOND,
    FAR,
    LAST_LOOP,
    LINEAR,
    LOOPED,
    NETWORK,
    NO_INJECTION,
    SPARSE,
    TRANSFORMER,
    ablation,
    arm,
    task,
    training,
)
from superpose.studies.looped_transformer.config import Config

ARMS = (LOOPED, TRANSFORMER)
SHORT = {NO_INJECTION: "no-injection", LAST_LOOP: "last-loop"}
Models = list[dict[str, Any]]


def measure_parameters(run: Run[Config]) -> None:
    """L1: both models at the paper's size."""
    found = run.step(steps.paper_parameters)
    run.measure("L1", *(exact(name, count, unit="parameters") for name, count in found.items()))
    for suffix in ("", "-backbone", "-with-positions"):
        ratio = found[f"{LOOPED}{suffix}"] / found[f"{TRANSFORMER}{suffix}"]
        run.measure("L1", exact(f"parameter-ratio{suffix}", ratio))


def measure_linear(run: Run[Config]) -> None:
    """L2: linear regression at equal time and at equal updates."""
    c = run.config
    models = both(run, LINEAR)
    run.measure("L2", exact("parameter-ratio", models[LOOPED][0]["parameters"] / models[TRANSFORMER][0]["parameters"]))
    _compare(run, "L2", LINEAR, models, _clock(run))
    final = {name: [m["errors"][-1] for m in models[name]] for name in ARMS}
    for name in ARMS:
        _draw_prefixes(run, "examples", name, np.stack(final[name]))
        run.measure("L2", over_seeds(f"{name}.error-at-the-end", [e[-1] for e in final[name]]))
    others = run.map(steps.baselines, [{"task": task(c, LINEAR), "prompts": c.prompts, "seed": s} for s in run.seeds])
    for name in others[0]:
        _draw_prefixes(run, "examples", name, np.stack([one[name] for one in others]))
    run.note(
        f"L2: {models[LOOPED][0]['parameters']} parameters looped, {models[TRANSFORMER][0]['parameters']} in "
        f"{c.layers} layers; {c.looped_steps} and {c.transformer_steps} updates"
    )


def measure_tasks(run: Run[Config]) -> None:
    """L3: sparse regression and 2-layer networks."""
    c = run.config
    clock = _clock(run)
    for name in (SPARSE, NETWORK):
        models = both(run, name)
        at = _compare(run, "L3", name, models, clock)
        others = run.map(steps.baselines, [{"task": task(c, name), "prompts": c.prompts, "seed": s} for s in run.seeds])
        for one in ARMS:
            _draw_prefixes(run, f"examples-{name}", one, at[one])
        for other in others[0]:
            rows = np.stack([found[other] for found in others])
            _draw_prefixes(run, f"examples-{name}", other, rows)
            run.measure("L3", over_seeds(f"{name}.{other.replace(' ', '-')}", rows[:, -1]))
        if name == SPARSE:
            # Position n comes after n examples.
            few = c.sparse_dim // 2
            run.measure(
                "L3",
                paired_ratio(
                    f"{name}.error-ratio-at-half-dim", at[LOOPED][:, few], at[TRANSFORMER][:, few], over="seeds"
                ),
            )


def measure_loops(run: Run[Config]) -> None:
    """L4: the error over loops, far beyond those of training."""
    b = run.config.loops
    loops = np.stack([m["loops"] for m in _looped(run)])
    _draw_loops(run, "loops", "looped", loops[:, : BEYOND * b])
    places = {"quarter": b // 4, "b": b, f"{BEYOND}b": BEYOND * b, f"{FAR}b": FAR * b}
    at = {name: loops[:, count - 1] for name, count in places.items()}
    run.measure(
        "L4",
        *(over_seeds(f"error.{name}", errors) for name, errors in at.items()),
        paired_ratio("error-b-over-quarter", at["b"], at["quarter"], over="seeds"),
        paired_ratio("error-4b-over-b", at["4b"], at["b"], over="seeds"),
        paired_ratio("error-10b-over-b", at["10b"], at["b"], over="seeds"),
    )


def measure_ablations(run: Run[Config]) -> None:
    """L5: without injection, without a window, without the loop curriculum, at equal updates."""
    c = run.config
    b = c.loops
    items = [ablation(c, name, seed) for name in ABLATIONS for seed in run.seeds]
    outputs = run.map(steps.trained, items)
    complete = np.stack([m["early_loops"] for m in _looped(run)])
    _draw_loops(run, "ablations", "complete recipe", complete[:, : BEYOND * b])
    run.measure("L5", *_stability("complete", complete, b))
    for i, name in enumerate(ABLATIONS):
        loops = np.stack([m["loops"] for m in outputs[i * len(run.seeds) : (i + 1) * len(run.seeds)]])
        _draw_loops(run, "ablations", name, loops[:, : BEYOND * b])
        short = SHORT.get(name, "no-loop-curriculum")
        run.measure("L5", *_stability(short, loops, b))
        run.measure(
            "L5", paired_ratio(f"{short}.error-b-over-complete", loops[:, b - 1], complete[:, b - 1], over="seeds")
        )


def measure_probes(run: Run[Config]) -> None:
    """L6: what can be read off the states after every loop or layer."""
    models = both(run, LINEAR)
    for target in ("w-ols", "moment"):
        for name in ARMS:
            halves = np.stack([m["probes"][target] for m in models[name]])  # [seeds, half, pass]
            errors = halves.mean(1)
            passes = list(range(errors.shape[1]))
            run.curve_of(f"probe-{target}", name, passes, [over_seeds("error", errors[:, i]) for i in passes])
            best = halves[:, 0].argmin(1)
            least = halves[np.arange(len(best)), 1, best]
            run.measure(
                "L6",
                over_seeds(f"{name}.{target}.correlation", [_correlation(one) for one in errors]),
                paired_ratio(f"{name}.{target}.last-over-least", halves[:, 1, -1], least, over="seeds"),
                over_seeds(f"{name}.{target}.error-last", errors[:, -1]),
                over_seeds(f"{name}.{target}.best-pass", best),
            )


def both(run: Run[Config], task_name: str) -> dict[str, Models]:
    """The models of both arms on a task, one per seed."""
    items = [training(run.config, name, task_name, seed) for name in ARMS for seed in run.seeds]
    outputs = run.map(steps.trained, items)
    n = len(run.seeds)
    return {name: outputs[i * n : (i + 1) * n] for i, name in enumerate(ARMS)}


def _looped(run: Run[Config]) -> Models:
    return run.map(steps.trained, [training(run.config, LOOPED, LINEAR, seed) for seed in run.seeds])


def _clock(run: Run[Config]) -> dict[str, Any]:
    c = run.config
    arms = {name: arm(c, name) for name in ARMS}
    return run.step(
        steps.seconds_per_update,
        models={name: one["model"] for name, one in arms.items()},
        recipes={name: one["recipe"] for name, one in arms.items()},
        # The other tasks have as many tokens, so their updates take as long.
        task=task(c, LINEAR),
        train_steps={LOOPED: c.looped_steps, TRANSFORMER: c.transformer_steps},
        timing_steps=c.timing_steps,
    )


def _compare(
    run: Run[Config], claim: str, task_name: str, models: dict[str, Models], clock: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Errors of both arms at equal training time and at equal updates; returns those at equal time."""
    done = {name: models[name][0]["steps"] for name in ARMS}
    spent = {name: [training_time(clock[name], count) for count in done[name]] for name in ARMS}
    rows = {name: np.stack([m["errors"] for m in models[name]]) for name in ARMS}  # [seeds, evaluations, points]
    seconds = min(spent[name][-1] for name in ARMS)
    updates = min(done[name][-1] for name in ARMS)
    prefix = "" if task_name == LINEAR else f"{task_name}."
    at_time = {name: interpolate(spent[name], rows[name], seconds) for name in ARMS}
    at_updates = {name: interpolate(done[name], rows[name], updates) for name in ARMS}
    run.measure(
        claim,
        paired_ratio(f"{prefix}error-ratio", at_time[LOOPED][:, -1], at_time[TRANSFORMER][:, -1], over="seeds"),
        paired_ratio(
            f"{prefix}error-ratio-at-equal-updates",
            at_updates[LOOPED][:, -1],
            at_updates[TRANSFORMER][:, -1],
            over="seeds",
        ),
        *(over_seeds(f"{prefix}{name}.error", at_time[name][:, -1]) for name in ARMS),
        *(over_seeds(f"{prefix}{name}.error-at-equal-updates", at_updates[name][:, -1]) for name in ARMS),
        exact(f"{prefix}training-seconds", seconds, unit="s"),
    )
    for name in ARMS:
        points = [over_seeds("error", rows[name][:, i, -1]) for i in range(len(done[name]))]
        run.curve_of(f"training-{task_name}", name, spent[name], points)
    known = run.map(
        steps.optimum,
        [{"task": task(run.config, task_name), "prompts": run.config.prompts, "seed": s} for s in run.seeds],
    )
    if known[0] is not None:
        level, last = over_seeds("error", [one[-1] for one in known]), max(spent[name][-1] for name in ARMS)
        run.curve_of(f"training-{task_name}", "exact predictor", [0, last], [level, level])
    run.note(f"{claim}, {task_name}: equal time is {seconds:.0f} training seconds, equal updates are {updates}")
    return at_time


def training_time(clock: dict[str, list[float]], updates: int) -> float:
    """Seconds of that many updates, each as long as its stage of the curriculum takes."""
    edges = [*(start for start in clock["starts"] if start < updates), updates]
    return sum(
        (end - start) * seconds for (start, end), seconds in zip(pairwise(edges), clock["seconds"], strict=False)
    )


def interpolate(places: list[Any], rows: np.ndarray, at: float) -> np.ndarray:
    """``rows`` ``[seeds, places, points]`` at a place between two of theirs (or at one of the ends)."""
    right = min(max(bisect.bisect_left(places, at), 1), len(places) - 1) if len(places) > 1 else 0
    if right == 0:
        return rows[:, 0]
    left = right - 1
    share = float(np.clip((at - places[left]) / (places[right] - places[left]), 0, 1))
    return (1 - share) * rows[:, left] + share * rows[:, right]


def _stability(name: str, loops: np.ndarray, b: int) -> tuple[Measurement, ...]:
    return (
        over_seeds(f"{name}.error-b", loops[:, b - 1]),
        paired_ratio(f"{name}.error-4b-over-b", loops[:, BEYOND * b - 1], loops[:, b - 1], over="seeds"),
    )


def _draw_prefixes(run: Run[Config], curve: str, name: str, rows: np.ndarray) -> None:
    points = [over_seeds("error", rows[:, i]) for i in range(rows.shape[1])]
    run.curve_of(curve, name, list(range(rows.shape[1])), points)


def _draw_loops(run: Run[Config], curve: str, name: str, rows: np.ndarray) -> None:
    points = [over_seeds("error", rows[:, i]) for i in range(rows.shape[1])]
    run.curve_of(curve, name, list(range(1, 1 + rows.shape[1])), points)
    if curve == "loops":
        # A mark at b.
        b = run.config.loops
        run.curve_of(curve, f"b = {b}", [b, b], [over_seeds("error", rows.min(1)), over_seeds("error", rows.max(1))])


def _correlation(errors: np.ndarray) -> float:
    found: Any = spearmanr(np.arange(len(errors)), errors)  # scipy's annotation hides the fields
    return float(found.statistic)
