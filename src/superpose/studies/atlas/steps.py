"""One cell of the atlas: a backbone trained on a task, and what an update of it costs."""

import math
from typing import Any

import torch

from superpose.experiment import current, step
from superpose.models import BackboneSpec, ContinuousLearner, TokenLearner
from superpose.tasks import Task
from superpose.tasks import task as named_task
from superpose.training import (
    KeptEvaluations,
    Optimiser,
    Schedule,
    TrainingDiverged,
    evaluate,
    seeded,
    train_in_context,
)
from superpose.training import seconds_per_update as timed

EVALUATION_SEED = 1_000_000  # apart from the seeds of trainings; one for all, so that cells share their episodes
EVALUATED_AT_ONCE = 256
CURVE = "curve.safetensors"


def learner_for(spec: BackboneSpec, task: Any, seed: int) -> ContinuousLearner | TokenLearner:
    """The learner of a backbone on a task: read-in and read-out are the plainest there are."""
    if task.kind == "token":
        return TokenLearner(spec, task.vocab, seed=seed)
    return ContinuousLearner(spec, task.in_dim, task.out_dim, seed=seed)


def window_of(spec: BackboneSpec) -> int | None:
    """Loops that carry a loss: the later half of a looped backbone's, as its paper trains it."""
    return None if spec.loops == 1 else -(-spec.loops // 2)


@step(version="1", label="atlas cells")
def trained(
    spec: dict[str, Any],
    task: str,
    sizes: dict[str, Any],
    steps: int,
    batch: int,
    lr: float,
    warmup: int,
    points: tuple[int, ...],
    prompts: int,
    seed: int,
) -> dict[str, Any]:
    """Train one backbone on one task and evaluate it along the way.

    Args:
        spec: the backbone, as ``BackboneSpec.to_dict`` gives it, so that a changed architecture is another step.
        task: a registered task.
        sizes: all its fields.
        steps, batch, lr, warmup: the training.
        points: updates after which it is evaluated, ascending, from 0 to ``steps``.
        prompts: evaluation episodes.
        seed: of the initial weights and of the training episodes.

    Returns:
        ``error``: the mean error over all scored reads at each of ``points``, NaN once training has diverged;
        ``parameters``; ``diverged``: empty, or what went wrong.
    """
    drawn = named_task(task, **sizes)
    backbone = BackboneSpec.from_dict(spec)
    learner = learner_for(backbone, drawn, seed).to(current().device)
    kept = KeptEvaluations(current().folder / CURVE)

    def evaluated(done: int) -> None:
        if done in points:
            kept.add({str(done): torch.tensor(_error(learner, drawn, prompts), dtype=torch.float64)})

    if "0" not in kept.rows:
        evaluated(0)
    diverged = ""
    try:
        train_in_context(
            learner,
            drawn,
            seed=seed,
            steps=steps,
            batch=batch,
            optimiser=Optimiser("adam", lr=lr),
            schedule=Schedule("constant", warmup=warmup),
            window=window_of(backbone),
            checkpoint=current().folder / "training",
            on_step=evaluated,
        )
    except TrainingDiverged as error:
        # One lost cell is a result; the others of the map are not lost with it.
        diverged = f"{error.what} after {error.step} updates"
    errors = {int(point): float(error) for point, error in kept.rows.items()}
    return {
        "error": [errors.get(point, math.nan) if diverged else errors[point] for point in points],
        "parameters": sum(p.numel() for p in learner.parameters()),
        "diverged": diverged,
    }


@step(version="1", label="what the tasks allow")
def reference(task: str, sizes: dict[str, Any], prompts: int) -> dict[str, float | None]:
    """The error of knowing nothing and, where theory knows it, of the exact predictor on the evaluation episodes."""
    drawn: Task = named_task(task, **sizes)
    total = count = 0.0
    for index, size in enumerate(_parts(prompts)):
        # The episodes that `evaluate` draws.
        episodes = drawn.sample(size, seeded(EVALUATION_SEED + index, "evaluate", 0))
        optimum = drawn.optimum(episodes)
        if optimum is None:
            return {"chance": float(drawn.chance), "optimum": None}
        scored = episodes.weight != 0
        total += float(optimum[scored].double().sum())
        count += int(scored.sum())
    return {"chance": float(drawn.chance), "optimum": total / count}


@step(version="1", exclusive=True, label="seconds per update")
def seconds_per_update(
    spec: dict[str, Any], task: str, sizes: dict[str, Any], batch: int, lr: float, updates: int
) -> float:
    """The median training time of an update, after two that warm up: CPU seconds, or wall seconds on a GPU."""
    drawn = named_task(task, **sizes)
    backbone = BackboneSpec.from_dict(spec)
    learner = learner_for(backbone, drawn, 0).to(current().device)
    return timed(learner, drawn, updates=updates, batch=batch, lr=lr, window=window_of(backbone))


def _error(learner: Any, task: Any, prompts: int) -> float:
    total = count = 0.0
    for index, size in enumerate(_parts(prompts)):
        errors = evaluate(learner, task, batches=1, batch=size, seed=EVALUATION_SEED + index).double()
        scored = ~errors.isnan()
        total += float(errors[scored].sum())
        count += int(scored.sum())
    return total / count


def _parts(prompts: int) -> list[int]:
    whole, rest = divmod(prompts, EVALUATED_AT_ONCE)
    return [EVALUATED_AT_ONCE] * whole + ([rest] if rest else [])
