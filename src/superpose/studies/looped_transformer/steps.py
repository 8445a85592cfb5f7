"""Training looped and standard transformers, and timing their updates."""

from collections.abc import Mapping
from typing import Any

import torch

from superpose.experiment import current, step, tracked
from superpose.models import ContinuousLearner, backbone_spec, build_backbone, count_parameters
from superpose.studies.looped_transformer.probes import probe_errors
from superpose.tasks import Batch
from superpose.tasks import task as make_task
from superpose.theory import lasso_path, least_squares_path, nearest_neighbours_path
from superpose.training import (
    Curriculum,
    KeptEvaluations,
    Optimiser,
    Ramp,
    evaluate,
    evaluate_loops,
    seeded,
    train_in_context,
)

EVALUATED_AT_ONCE = 128
LASSO_PROMPTS = 64  # it is fitted anew on every prefix of every prompt
PAPER = {"width": 256, "heads": 8, "max_positions": 203}
PAPER_DIM, PAPER_LAYERS = 20, 12


@step(version="1", label="parameters at the paper's size")
def paper_parameters() -> dict[str, int]:
    """Parameters of both models as the paper builds them, with read-in and read-out and without, and with positions."""
    counts = {}
    for name, depth in (("looped", 1), ("transformer", PAPER_LAYERS)):
        spec = backbone_spec(name, depth=depth, **PAPER)
        learner = ContinuousLearner(spec, PAPER_DIM, 1, seed=0)
        counts[name] = count_parameters(learner, positions=False)
        counts[f"{name}-backbone"] = count_parameters(build_backbone(spec), positions=False)
        counts[f"{name}-with-positions"] = count_parameters(learner)
    return counts


@step(version="1", label="models in training")
def trained(
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    recipe: Mapping[str, Any],
    train_steps: int,
    evaluate_every: int,
    prompts: int,
    seed: int,
    far: int = 0,
    look_at: int = 0,
    probe_prompts: int = 0,
    probe_steps: int = 0,
) -> dict[str, Any]:
    """Train one model, and evaluate it on the way and at the end on the same prompts, whatever the model.

    Args:
        model: architecture, width, heads and layers; for a looped one ``loops`` and ``injection``.
        task: a task's name and settings.
        recipe: ``rate``, ``batch`` and ``dims_interval``; for a looped model ``window`` and ``loop_interval`` (0: all
            loops from the start).
        train_steps: updates.
        evaluate_every: updates between two evaluations, of the looped model at its full number of loops.
        prompts: evaluated.
        seed: of everything.
        far: loops over which the looped model is followed at the end; 0: none.
        look_at: a number of updates after which it is followed too.
        probe_prompts, probe_steps: of the probes; 0: none.

    Returns:
        ``steps`` and ``errors`` ``[evaluations, points]``; ``loops``, the last query's error after every loop to
        ``far``, and ``early_loops``, the same after ``look_at`` updates; ``probes`` by target; ``parameters`` without
        positions.
    """
    drawn: Any = make_task(**task)
    learner = build(model, drawn, seed).to(current().device)
    looped = model["architecture"] == "looped"
    kept = KeptEvaluations(current().folder / "evaluations.safetensors")

    def look(done: int) -> None:
        new = {}
        if done % evaluate_every == 0 or done == train_steps:
            new[f"errors/{done}"] = evaluate(learner, drawn, seed=seed, **_chunks(prompts)).mean(0)
        if far and done in (look_at, train_steps):
            followed = evaluate_loops(learner, drawn, loops=far, seed=seed, **_chunks(prompts))
            new[f"loops/{done}"] = followed[:, :, -1].mean(1)
        if new:
            kept.add(new)

    with tracked(train_steps, f"{model['architecture']} on {task['name']}") as move:
        train_in_context(
            learner,
            drawn,
            seed=seed,
            steps=train_steps,
            batch=recipe["batch"],
            optimiser=Optimiser("adam", lr=recipe["rate"]),
            curriculum=curriculum(model, drawn, recipe),
            window=recipe["window"] if looped else None,
            checkpoint=current().folder / "training",
            checkpoint_every=evaluate_every,
            on_step=look,
            progress=move,
        )
    found: dict[str, Any] = {}
    if far:
        found["loops"] = kept.rows[f"loops/{train_steps}"].numpy()
        if look_at:
            found["early_loops"] = kept.rows[f"loops/{look_at}"].numpy()
    if probe_steps:
        found["probes"] = probe_errors(learner, drawn, prompts=probe_prompts, steps=probe_steps, seed=seed)
    errors = {int(name.partition("/")[2]): row for name, row in kept.rows.items() if name.startswith("errors/")}
    return {
        "steps": sorted(errors),
        "errors": torch.stack([errors[done] for done in sorted(errors)]).numpy(),
        "parameters": count_parameters(learner, positions=False),
        **found,
    }


@step(version="1", label="baselines")
def baselines(task: Mapping[str, Any], prompts: int, seed: int) -> dict[str, Any]:
    """Errors at every number of examples of least squares, three nearest neighbours and, if sparse, the lasso."""
    drawn: Any = make_task(**task)
    chunks = _chunks(prompts)
    batches = [
        drawn.sample(chunks["batch"], seeded(seed, "evaluate", index)) for index in range(chunks["batches"])
    ]  # what evaluate() draws
    paths = {"least squares": least_squares_path, "3 nearest neighbours": nearest_neighbours_path}
    out = {name: torch.cat([_errors(drawn, path, one) for one in batches]).mean(0) for name, path in paths.items()}
    if task["name"] == "sparse-linear":
        few = drawn.sample(LASSO_PROMPTS, seeded(seed, "evaluate"))
        out["lasso"] = _errors(drawn, lasso_path, few).mean(0)
    return {name: mean.numpy() for name, mean in out.items()}


@step(version="1", label="the exact predictor")
def optimum(task: Mapping[str, Any], prompts: int, seed: int) -> list[float] | None:
    """The exact predictor's error at every number of examples on the evaluation prompts; None where it is not known."""
    drawn: Any = make_task(**task)
    chunks = _chunks(prompts)
    known = [
        drawn.optimum(drawn.sample(chunks["batch"], seeded(seed, "evaluate", index)))
        for index in range(chunks["batches"])
    ]
    return None if known[0] is None else torch.cat(known).mean(0).tolist()


@step(version="1", exclusive=True, label="seconds per update")
def seconds_per_update(
    models: Mapping[str, Mapping[str, Any]],
    recipes: Mapping[str, Mapping[str, Any]],
    task: Mapping[str, Any],
    train_steps: Mapping[str, int],
    timing_steps: int,
) -> dict[str, Any]:
    """Time the updates of every model in every stage of its curriculum, in turns.

    Args:
        models, recipes: by arm, as in :func:`trained`.
        task: as there.
        train_steps: of each arm; stages beyond are not timed.
        timing_steps: timed updates per turn; there are three turns, of which the fastest counts.

    Returns:
        By arm, ``starts``, the update at which each stage begins, and ``seconds``, training time per update in it.
    """
    drawn: Any = make_task(**task)
    stages = {}
    for arm, model in models.items():
        plan = curriculum(model, drawn, recipes[arm])
        settings: dict[int, Any] = {}
        for index in range(train_steps[arm]):
            now = (plan.sample_at(index), plan.loops_at(index))
            if not settings or now != settings[max(settings)]:
                settings[index] = now
        stages[arm] = settings
    best = {arm: dict.fromkeys(settings, float("inf")) for arm, settings in stages.items()}
    for _ in range(3):
        for arm, settings in stages.items():
            for start, (sample, loops) in settings.items():
                spent = _timed(models[arm], drawn, recipes[arm], sample, loops, timing_steps)
                best[arm][start] = min(best[arm][start], spent)
    return {arm: {"starts": list(found), "seconds": list(found.values())} for arm, found in best.items()}


def _timed(
    model: Mapping[str, Any],
    task: Any,
    recipe: Mapping[str, Any],
    sample: Mapping[str, int],
    loops: int | None,
    timing_steps: int,
) -> float:
    """Mean seconds per update in one stage: CPU seconds on a CPU."""
    learner = build(model, task, 0).to(current().device)
    held = Curriculum(
        {name: Ramp(value, value, 0, 1) for name, value in sample.items()},
        None if loops is None else Ramp(loops, loops, 0, 1),
    )
    history = train_in_context(
        learner,
        task,
        seed=0,
        steps=timing_steps + 1,
        batch=recipe["batch"],
        curriculum=held,
        window=recipe["window"] if model["architecture"] == "looped" else None,
    )
    # The first update allocates. A mean, because on an accelerator the clock waits only at some updates.
    return float(history.seconds[-1] - history.seconds[0]) / timing_steps


def build(model: Mapping[str, Any], task: Any, seed: int) -> ContinuousLearner:
    """The learner of an arm."""
    own = {"loops": model["loops"], "injection": model["injection"]} if model["architecture"] == "looped" else {}
    spec = backbone_spec(
        model["architecture"],
        width=model["width"],
        heads=model["heads"],
        depth=model["layers"],
        max_positions=task.length,
        **own,
    )
    return ContinuousLearner(spec, task.in_dim, 1, seed=seed)


def curriculum(model: Mapping[str, Any], task: Any, recipe: Mapping[str, Any]) -> Curriculum:
    """The paper's ramps, from a quarter of the coordinates and two examples fewer for each that is missing."""
    start = max(task.least_dims, -(-task.dim // 4))
    every = recipe["dims_interval"]
    few = max(2, task.points - 2 * (task.dim - start))
    ramps = {"dims": Ramp(start, task.dim, 1, every), "points": Ramp(few, task.points, 2, every)}
    loops = None
    if model["architecture"] == "looped" and recipe["loop_interval"]:
        loops = Ramp(recipe["window"], model["loops"], 2, recipe["loop_interval"])
    return Curriculum(ramps, loops)


def _chunks(prompts: int) -> dict[str, Any]:
    batch = min(prompts, EVALUATED_AT_ONCE)
    return {"batch": batch, "batches": prompts // batch}


def _errors(task: Any, path: Any, drawn: Batch) -> torch.Tensor:
    return task.excess(path(drawn.info["x"], drawn.info["y"]), drawn)
