"""What was measured, cell by cell: curves of errors, their readings at equal steps and at equal compute."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from superpose.errors import InputError, choose
from superpose.experiment import Run
from superpose.models import BACKBONES, backbone_spec
from superpose.studies.atlas import steps
from superpose.studies.atlas.config import ALL, Config
from superpose.tasks import TASKS
from superpose.tasks import task as named_task

DENSER = 1.5  # evaluations stand at this power of even spacing


@dataclass(frozen=True)
class Cell:
    """One backbone on one task.

    Attributes:
        points: updates at which it was evaluated.
        errors: the error there [seeds, points]; NaN after a training diverged.
        chance: the error of knowing nothing.
        floor: the exact predictor's error, or 0 where theory does not know it.
        parameters: of the learner.
    """

    points: tuple[int, ...]
    errors: np.ndarray
    chance: float
    floor: float
    parameters: int

    @property
    def whole(self) -> bool:
        """Whether every training of the cell stayed finite."""
        return bool(np.isfinite(self.errors).all())

    def error_at(self, updates: float) -> np.ndarray:
        """The error after a number of updates [seeds], between evaluations on the straight line."""
        return np.array([np.interp(updates, self.points, row) for row in self.errors])

    def skill(self, error: np.ndarray) -> np.ndarray:
        """How far errors are on the way from chance (0) to the floor (1)."""
        return (self.chance - error) / (self.chance - self.floor)


@dataclass(frozen=True)
class Atlas:
    """Some cells.

    Attributes:
        models, tasks: in the order of the map.
        cells: by (task, backbone).
        known: of each task, whether its floor is the exact predictor's error.
        troubles: trainings that diverged, in words.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    known: Mapping[str, bool]
    troubles: tuple[str, ...] = ()

    def at_equal_steps(self, task: str, model: str) -> np.ndarray:
        """The error after all updates [seeds]."""
        cell = self.cells[task, model]
        return cell.error_at(cell.points[-1])

    def at_equal_compute(self, task: str, model: str, cost: Mapping[tuple[str, str], float]) -> np.ndarray:
        """The error when the cheapest backbone of the task has made all its updates [seeds].

        Args:
            task, model: the cell.
            cost: seconds per update of every cell of the task.
        """
        cell = self.cells[task, model]
        cheapest = min(cost[task, other] for other in self.models)
        return cell.error_at(cell.points[-1] * cheapest / cost[task, model])

    def skills(self, tasks: Sequence[str], models: Sequence[str]) -> np.ndarray:
        """How far the cells got at equal steps [tasks, models, seeds]."""
        return np.array(
            [[self.cells[t, m].skill(self.at_equal_steps(t, m)) for m in models] for t in tasks], dtype=float
        )

    def finite(self) -> "Atlas":
        """The atlas without the backbones that diverged on some task."""
        kept = tuple(m for m in self.models if all(self.cells[t, m].whole for t in self.tasks))
        return replace(self, models=kept)


def named(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The backbones and tasks of a config, ``all`` being whatever is registered.

    Raises:
        InputError: a name that nobody has registered.
    """
    models = tuple(BACKBONES) if config.models == (ALL,) else config.models
    tasks = tuple(TASKS) if config.tasks == (ALL,) else config.tasks
    for name in models:
        choose("models", name, (ALL, *BACKBONES))
    for name in tasks:
        choose("tasks", name, (ALL, *TASKS))
    for name in config.recipes:
        choose("recipes", name, TASKS)
    return models, tasks


def measure_cells(run: Run[Config], models: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> Atlas:
    """Train the cells of the config, or those of them that are among the given names."""
    every_model, every_task = named(run.config)
    chosen = tuple(m for m in every_model if models is None or m in models)
    wanted = tuple(t for t in every_task if tasks is None or t in tasks)
    items = {(t, m): _cell_arguments(run.config, t, m) for t in wanted for m in chosen}
    told = {t: _reference(run, t) for t in wanted}  # first: it refuses what training could not show
    outputs = iter(run.map(steps.trained, [{**item, "seed": s} for item in items.values() for s in run.seeds]))
    cells: dict[tuple[str, str], Cell] = {}
    troubles: list[str] = []
    for task, model in items:
        trained = [next(outputs) for _ in run.seeds]
        for seed, each in zip(run.seeds, trained, strict=True):
            if each["diverged"]:
                troubles.append(f"{model} on {task}, seed {seed}: {each['diverged']}")
        cells[task, model] = Cell(
            points=items[task, model]["points"],
            errors=np.array([each["error"] for each in trained], dtype=float),
            chance=told[task]["chance"],
            floor=told[task]["optimum"] or 0.0,
            parameters=trained[0]["parameters"],
        )
    known = {task: told[task]["optimum"] is not None for task in wanted}
    return Atlas(chosen, wanted, cells, known, tuple(troubles))


def measure_costs(run: Run[Config], atlas: Atlas) -> dict[tuple[str, str], float]:
    """Seconds per update of every cell, each timed alone."""
    items = []
    for task in atlas.tasks:
        for model in atlas.models:
            whole = _cell_arguments(run.config, task, model)
            items.append(
                {k: whole[k] for k in ("spec", "task", "sizes", "batch", "lr")} | {"updates": run.config.timing}
            )
    costs = iter(run.map(steps.seconds_per_update, items))
    return {(task, model): next(costs) for task in atlas.tasks for model in atlas.models}


def _reference(run: Run[Config], task: str) -> dict[str, Any]:
    sizes = _sizes(run.config, task)
    told = run.step(steps.reference, task=task, sizes=sizes, prompts=run.config.prompts)
    if not told["chance"] > (told["optimum"] or 0.0):
        raise InputError(
            f"tasks names {task!r} with sizes {sizes}, where knowing nothing has the error {told['chance']:g} of "
            "the exact predictor; allowed: sizes that leave something to learn"
        )
    return told


def _cell_arguments(config: Config, task: str, model: str) -> dict[str, Any]:
    sizes = _sizes(config, task)
    recipe = config.recipes.get(task)
    total = (recipe and recipe.steps) or config.steps
    spec = backbone_spec(
        model,
        width=config.width,
        heads=config.heads,
        depth=config.depth,
        max_positions=named_task(task, **sizes).length,
        **({} if config.init == "own" else {"init": config.init}),
    )
    return {
        "spec": spec.to_dict(),
        "task": task,
        "sizes": sizes,
        "steps": total,
        "batch": config.batch,
        "lr": (recipe and recipe.lr) or config.lr,
        "warmup": config.warmup,
        "points": tuple(sorted({round(total * (at / config.points) ** DENSER) for at in range(config.points + 1)})),
        "prompts": config.prompts,
    }


def _sizes(config: Config, task: str) -> dict[str, Any]:
    """Every field of the task, so that a changed default is another step."""
    recipe = config.recipes.get(task)
    return asdict(named_task(task, preset=config.task_preset, **(recipe.sizes if recipe else {})))
