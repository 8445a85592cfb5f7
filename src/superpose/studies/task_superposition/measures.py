"""How the claims are measured: which steps run, and what is read off them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from superpose.errors import InputError
from superpose.experiment import Measurement, Run, exact, largest_of, over_items, proportion, smallest_of
from superpose.interpret import kl_to_mixture, other_mass
from superpose.studies.task_superposition import steps
from superpose.studies.task_superposition.config import PAIRS, PANELS, SCALING_TASKS, TASK_VECTOR_FAMILY, Config
from superpose.studies.task_superposition.samples import all_models, grid, halves, main_model, short


def pair_scores(
    run: Run[Config], model: str, family: str, weights: Sequence[float], prompts: int
) -> list[dict[str, Any]]:
    """Scores of the two tasks of a family over mixture weights of the first."""
    c = run.config
    return run.map(
        steps.mixture,
        [
            {
                "model": model,
                "dtype": c.dtype,
                "family": family,
                "tasks": list(PAIRS[family]),
                "proportions": [w, round(1 - w, 6)],
                "demonstrations": c.demonstrations,
                "prompts": prompts,
                "seed": 0,
            }
            for w in weights
        ],
    )


def best_mixture(p: np.ndarray, choose: np.ndarray) -> int:
    """The interior mixture whose weaker task is likeliest; ``p`` has shape ``[mixtures, prompts, tasks]``."""
    weaker = p[:, choose].mean(1).min(1)
    return 1 + int(np.argmax(weaker[1:-1]))


def measure_pairs(run: Run[Config]) -> None:
    """TS1: two tasks over a grid of mixtures, on every model; the worst model decides."""
    c = run.config
    weights = grid(c.mixture_step)
    for family, tasks in PAIRS.items():
        weaker: dict[str, Measurement] = {}
        times: dict[str, Measurement] = {}
        for number, model in enumerate(all_models(run)):
            prompts = c.other_prompts if number else c.prompts
            choose, report = halves(prompts)
            p = np.exp(np.stack([s["logprob"] for s in pair_scores(run, model, family, weights, prompts)]))
            for k, task in enumerate(tasks):
                points = [over_items(task, p[i, :, k]) for i in range(len(weights))]
                run.curve_of(f"mixture-{family}", f"{task}, {short(model)}", weights, points)
            at = best_mixture(p, choose)
            # Columns: both tasks at the chosen mixture, then each in the pure prompts of the other task.
            rows = np.concatenate([p[at, report], p[0, report, :1], p[-1, report, 1:]], axis=1)
            weaker[model] = over_items(f"{family}.weaker-task.{short(model)}", rows, statistic=_weaker)
            times[model] = over_items(f"{family}.times-control.{short(model)}", rows, statistic=_times_control)
            # The mean over prompts may also come from prompts that each do one task; this one may not.
            both = over_items(f"{family}.both-in-one-prompt.{short(model)}", p[at, report].min(1))
            run.measure("TS1", weaker[model], times[model], both)
            run.note(f"TS1 {family} on {short(model)}: chosen weight of {tasks[0]} is {weights[at]:g}")
        run.measure(
            "TS1",
            smallest_of(f"{family}.weaker-task", weaker.values()),
            smallest_of(f"{family}.times-control", times.values()),
        )


def _weaker(rows: np.ndarray) -> float:
    return float(rows[:, :2].mean(0).min())


def _times_control(rows: np.ndarray) -> float:
    means = rows.mean(0)
    return float((means[:2] / means[2:]).min())


def measure_panels(run: Run[Config]) -> None:
    """The four panels of Figure 2 with uniform mixtures, on every model, as far as its context reaches."""
    c = run.config
    for family, tasks in PANELS.items():
        for model in all_models(run):
            shares = [round(1 / len(tasks), 9)] * len(tasks)
            scores = run.step(
                steps.mixture,
                model=model,
                dtype=c.dtype,
                family=family,
                tasks=list(tasks),
                proportions=shares,
                demonstrations=c.panel_demonstrations * len(tasks),
                prompts=c.panel_prompts,
                seed=1,
            )
            p = np.exp(scores["logprob"])
            points = [over_items(f"{family}.{task}.{short(model)}", p[:, k]) for k, task in enumerate(tasks)]
            run.curve_of(f"panel-{family}", short(model), list(tasks), points)
            run.measure("TS1panels", *points)


def measure_collapse(run: Run[Config]) -> None:
    """TS7: the expected probability of the chosen task before and after its first token, at the best mixture.

    The chosen task is drawn with the probability of its first token, so both figures are expectations over
    what the model would generate. Prompts whose answers share a first token do not choose and are left out.
    """
    weights = grid(run.config.mixture_step)
    choose, report = halves(run.config.prompts)
    before: dict[str, Measurement] = {}
    after: dict[str, Measurement] = {}
    for family in PAIRS:
        scores = pair_scores(run, main_model(run), family, weights, run.config.prompts)
        at = best_mixture(np.exp(np.stack([s["logprob"] for s in scores])), choose)
        chosen = scores[at]
        usable = [int(i) for i in report if chosen["distinct_first"][i]]
        run.note(f"TS7 {family}: {len(usable)} of {len(report)} prompts have answers with distinct first tokens")
        if not usable:
            continue
        whole = np.exp(chosen["logprob"][usable])
        first = np.exp(chosen["first_logprob"][usable])
        odds = first / first.sum(1, keepdims=True)
        before[family] = over_items(f"before.{family}", (odds * whole).sum(1))
        after[family] = over_items(f"after-first-token.{family}", (odds * whole / first).sum(1))
        run.measure("TS7", before[family], after[family])
    run.curve_of("collapse", "before the first token", list(before), list(before.values()))
    run.curve_of("collapse", "after it", list(after), list(after.values()))
    if not before:
        raise InputError(
            f"prompts is {run.config.prompts}; on none of the reported half do the answers' first tokens differ: "
            "allowed: more prompts"
        )
    run.measure("TS7", largest_of("before", before.values()), smallest_of("after-first-token", after.values()))


def measure_scaling(run: Run[Config]) -> None:
    """TS6: tasks completed and calibration of every model on the same prompts."""
    c = run.config
    for model in all_models(run):
        scores = run.step(
            steps.mixture,
            model=model,
            dtype=c.dtype,
            family=TASK_VECTOR_FAMILY,
            tasks=list(SCALING_TASKS),
            proportions=[1 / len(SCALING_TASKS)] * len(SCALING_TASKS),
            demonstrations=c.demonstrations,
            prompts=c.scaling_prompts,
            seed=2,
            search_budget=c.search_budget,
        )
        name = short(model)
        shares = scores["proportions"]
        run.measure(
            "TS6",
            over_items(f"kl.{name}", [kl_to_mixture(row, shares) for row in scores["logprob"]], unit="nats"),
            over_items(
                f"kl-conditional.{name}",
                [kl_to_mixture(row, shares, conditional=True) for row in scores["logprob"]],
                unit="nats",
            ),
            over_items(f"other.{name}", [other_mass(row) for row in scores["logprob"]]),
        )
        settled = ~np.isnan(scores["completed"]).any(1)
        run.measure("TS6", proportion(f"search-settled.{name}", int(settled.sum()), len(settled)))
        if settled.any():
            run.measure("TS6", over_items(f"r.{name}", scores["completed"][settled].sum(1), unit="tasks"))


def measure_expressivity(run: Run[Config]) -> None:
    """TS3: the explicit-weights transformer over a sweep of sizes, against the closed form."""
    c = run.config
    cells = [
        {"symbols": d, "operands": q, "tasks": k, "demonstrations": m, "seed": seed, "dtype": dtype}
        for dtype in ("float64", "float32")
        for d in c.dims
        for q in c.operands
        for k in c.tasks
        for m in c.demos
        for seed in run.seeds
        if k <= d and m >= k
    ]
    outcomes = run.map(steps.expressivity, cells)
    for dtype in ("float64", "float32"):
        mine = [o for cell, o in zip(cells, outcomes, strict=True) if cell["dtype"] == dtype]
        run.measure("TS3", exact(f"error.{dtype}", max(o["error"] for o in mine), n=len(mine)))
        run.measure("TS3", exact(f"order-effect.{dtype}", max(o["order_effect"] for o in mine), n=len(mine)))
        by_size = sorted({cell["symbols"] for cell in cells})
        errors = [
            (cell["symbols"], o["error"]) for cell, o in zip(cells, outcomes, strict=True) if cell["dtype"] == dtype
        ]
        worst = [max(error for size, error in errors if size == d) for d in by_size]
        run.curve("expressivity", dtype, by_size, worst, n=len(mine))
    run.measure(
        "TS3",
        exact("layers", max(o["layers"] for o in outcomes), n=len(outcomes)),
        exact("heads-beyond-k", max(o["heads"] - cell["tasks"] for cell, o in zip(cells, outcomes, strict=True))),
        exact("width-beyond-formula", max(o["width"] - o["formula"] for o in outcomes), n=len(outcomes)),
    )
