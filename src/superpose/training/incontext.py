"""The in-context trainer: a learner, a task and a curriculum on the one training loop."""

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .curriculum import Curriculum
from .episodes import InContextTask, at_least_one, device_of, draw, mode
from .history import History
from .objectives import Objective, loop_window, name_of
from .optimise import optimise
from .optimisers import Optimiser
from .randomness import seeded
from .schedules import Schedule


def train_in_context(
    learner: nn.Module,
    task: InContextTask,
    *,
    seed: int,
    steps: int | None = None,
    seconds: int | float | None = None,
    batch: int = 64,
    lr: float | None = None,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    clip: int | float | None = 10.0,
    curriculum: Curriculum | None = None,
    window: int | None = None,
    objective: Objective | None = None,
    accumulate: int = 1,
    precision: str = "float32",
    compile: bool | str = False,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[int], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> History:
    """Train a learner, in place, on fresh episodes of a task at every step.

    Args:
        learner: (inputs [batch, pos, ...], reads [reads]) -> outputs [batch, reads, out], as the learners of
            ``superpose.models``; a looped one also takes ``loops``, ``grad_loops`` and ``return_all``.
        task: draws the episodes and scores the outputs at its read positions.
        seed: of the episodes and of dropout; the learner's initial weights are the caller's.
        steps: the budget in updates, or
        seconds: the budget in CPU seconds (wall seconds on an accelerator).
        batch: episodes per micro-batch (64 in Garg et al. 2022 and its descendants).
        lr: replaces the optimiser's learning rate.
        optimiser: default Adam, learning rate 1e-3, no weight decay, as in those papers.
        schedule: default constant.
        clip: gradient norm (10 in the MambaFormer runs); None for none.
        curriculum: ramps of task settings and loops by update; default none.
        window: for looped learners, how many of the last loops carry a gradient and a loss (T of the looped
            transformer); at most the number of loops counts. Default: no window, loss on the last output only.
        objective: replaces the task's own loss.
        accumulate, precision, compile, checkpoint, checkpoint_every, on_step, progress: as in
            :func:`superpose.training.optimise`.

    Returns:
        The history.

    Raises:
        InputError: wrong settings, or a checkpoint of another learner, task or setting.
        TrainingDiverged: the loss or a parameter is not finite any more.
    """
    at_least_one("batch", batch)
    plan = curriculum or Curriculum()
    calls = Calls(plan, window, objective or task.loss)
    device = device_of(learner)

    def batches(index: int) -> tuple[int, Any]:
        step = index // accumulate
        return step, draw(task, batch, seeded(seed, "train", index), device, plan.sample_at(step))

    def loss(drawn: tuple[int, Any]) -> Tensor:
        step, episodes = drawn
        return calls.loss(learner(episodes.inputs, reads=episodes.reads, **calls.arguments(step)), episodes)

    with mode(learner, training=True):
        return optimise(
            loss,
            [p for p in learner.parameters() if p.requires_grad],
            batches,
            steps=steps,
            seconds=seconds,
            optimiser=chosen(optimiser, lr),
            schedule=schedule,
            clip=clip,
            accumulate=accumulate,
            precision=precision,
            compile=compile,
            seed=seed,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            identity=identity_of(learner, task, batch, plan, window, objective),
            on_step=on_step,
            progress=progress,
        )


class Calls:
    """How a learner is called at a step, and the loss of what it returns."""

    def __init__(self, curriculum: Curriculum, window: int | None, objective: Objective) -> None:
        if window is not None:
            at_least_one("window", window)
        self._curriculum, self._window = curriculum, window
        self._objective = objective if window is None else loop_window(objective)

    def arguments(self, step: int) -> dict[str, Any]:
        """Keyword arguments for the learner."""
        loops = self._curriculum.loops_at(step)
        arguments: dict[str, Any] = {} if loops is None else {"loops": loops}
        if self._window is not None:
            arguments |= {"grad_loops": self._window, "return_all": True}
        return arguments

    def loss(self, outputs: Tensor, episodes: Any) -> Tensor:
        """The objective of what the learner returned at the reads."""
        return self._objective(outputs, episodes)


def chosen(optimiser: Optimiser | None, lr: float | None) -> Optimiser:
    """The optimiser with a learning rate put over it."""
    base = optimiser or Optimiser("adam")
    return base if lr is None else replace(base, lr=lr)


def identity_of(
    learner: nn.Module,
    task: InContextTask,
    batch: int,
    curriculum: Curriculum,
    window: int | None,
    objective: Objective | None,
) -> dict[str, Any]:
    """What must agree for an in-context run to be resumed."""
    return {
        "learner": f"{type(learner).__qualname__} {_stated(getattr(learner, 'spec', None))}",
        "task": f"{task.name} {_stated(task)}",
        "batch": batch,
        "curriculum": repr(curriculum),
        "window": window,
        "objective": "the task's" if objective is None else name_of(objective),
    }


def _stated(thing: Any) -> str:
    # The repr of anything else may hold a memory address, which differs in the next process.
    return repr(thing) if is_dataclass(thing) else ""
