"""Many small models of one architecture trained together, by stacking their parameters."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from superpose.errors import InputError

from .curriculum import Curriculum
from .episodes import InContextTask, at_least_one, device_of, draw, mode
from .history import History, TrainingDiverged
from .incontext import Calls, chosen, identity_of, train_in_context
from .objectives import Objective
from .optimise import optimise
from .optimisers import Optimiser
from .randomness import seeded
from .schedules import Schedule


class StackedModels:
    """One call for k models of equal shape: inputs [k, ...] -> outputs [k, ...].

    The models keep their own parameters; a gradient of the stacked call reaches each of them, and an optimiser
    over them trains them as if apart, because no operation mixes the models.

    Args:
        models: modules with the same parameter names and shapes and no state that a forward pass changes.

    Raises:
        InputError: no model, or two of different shape.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        if not models:
            raise InputError("models is empty; give at least one")
        first = _shapes(models[0])
        for index, model in enumerate(models):
            if _shapes(model) != first:
                raise InputError(
                    f"models[{index}] has other parameters than models[0]; stacked models share one architecture"
                )
        self.models = list(models)

    def __len__(self) -> int:
        return len(self.models)

    def groups(self, lrs: Sequence[float]) -> list[dict[str, Any]]:
        """One parameter group per model, each with its own learning rate."""
        return [
            {"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}
            for model, lr in zip(self.models, lrs, strict=True)
        ]

    def __call__(self, inputs: Tensor, **arguments: Any) -> Tensor:
        """Apply model i to ``inputs[i]``; ``arguments`` are the same for all."""
        skeleton = self.models[0]
        parameters = _stack([dict(model.named_parameters()) for model in self.models])
        buffers = _stack([dict(model.named_buffers()) for model in self.models])

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            return functional_call(skeleton, {**parameters, **buffers}, (inputs,), arguments)

        return vmap(one, randomness="different")(parameters, buffers, inputs)


def _shapes(model: nn.Module) -> list[Any]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return [type(model), getattr(model, "spec", None), *((n, t.shape, t.dtype, t.device) for n, t in named)]


def _stack(dicts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([d[name] for d in dicts]) for name in dicts[0]}


def train_many(
    learners: Sequence[nn.Module],
    task: InContextTask,
    *,
    seeds: Sequence[int],
    lrs: Sequence[float] | None = None,
    steps: int,
    together: bool | None = None,
    batch: int = 64,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    clip: int | float | None = 10.0,
    curriculum: Curriculum | None = None,
    window: int | None = None,
    objective: Objective | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[int], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[History]:
    """Train one learner per seed (and learning rate), in place, each as :func:`train_in_context` alone would.

    Together and one by one agree to rounding: stacked matrix products add in another order.

    Args:
        learners: equal architectures, each with its own initial weights.
        task: the one task of all.
        seeds: of the episodes, one per learner; learners of equal seed see equal episodes.
        lrs: one learning rate per learner; default the optimiser's for all.
        steps: updates of each learner.
        together: stack the parameters and train all in one loop, or else one after the other. Default: together on
            an accelerator, where a small model leaves most of it idle; one after the other on a CPU, where stacking
            pays only for models so small that calls cost more than arithmetic (``benchmarks/bench_many.py``).
        batch, optimiser, schedule, clip, curriculum, window, objective, checkpoint, checkpoint_every, on_step,
            progress: as in :func:`train_in_context`, for each learner.

    Returns:
        A history per learner. Together, ``seconds`` is the time of all learners.

    Raises:
        InputError: counts that differ, or wrong settings.
        TrainingDiverged: a learner's loss is not finite any more; names its seed.
    """
    rates = [chosen(optimiser, None).lr] * len(learners) if lrs is None else list(lrs)
    if not len(learners) == len(seeds) == len(rates):
        raise InputError(
            f"seeds has {len(seeds)} and lrs {len(rates)} entries for {len(learners)} learners; give one of each"
        )
    at_least_one("learners", len(learners))
    at_least_one("batch", batch)
    if together is None:
        together = device_of(learners[0]).type != "cpu"
    if not together:
        return [
            train_in_context(
                learner,
                task,
                seed=seed,
                steps=steps,
                batch=batch,
                lr=lr,
                optimiser=optimiser,
                schedule=schedule,
                clip=clip,
                curriculum=curriculum,
                window=window,
                objective=objective,
                checkpoint=None if checkpoint is None else Path(checkpoint) / f"{index:03d}",
                checkpoint_every=checkpoint_every,
                on_step=on_step,
                progress=progress,
            )
            for index, (learner, seed, lr) in enumerate(zip(learners, seeds, rates, strict=True))
        ]

    stack = StackedModels(learners)
    plan = curriculum or Curriculum()
    calls = Calls(plan, window, objective or task.loss)
    device = device_of(learners[0])
    names = [f"learner {index:03d}" for index in range(len(stack))]

    def batches(step: int) -> tuple[int, list[Any]]:
        # Each seed is drawn once however many learning rates share it.
        drawn = {s: draw(task, batch, seeded(s, "train", step), device, plan.sample_at(step)) for s in set(seeds)}
        return step, [drawn[s] for s in seeds]

    def loss(drawn: tuple[int, list[Any]]) -> tuple[Tensor, dict[str, Tensor]]:
        step, episodes = drawn
        outputs = stack(torch.stack([e.inputs for e in episodes]), reads=episodes[0].reads, **calls.arguments(step))
        losses = [calls.loss(output, e) for output, e in zip(outputs, episodes, strict=True)]
        return torch.stack(losses).sum(), dict(zip(names, losses, strict=True))

    with ExitStack() as modes:
        for learner in learners:
            modes.enter_context(mode(learner, training=True))
        try:
            whole = optimise(
                loss,
                stack.groups(rates),
                batches,
                steps=steps,
                optimiser=chosen(optimiser, None),
                schedule=schedule,
                clip=clip,
                clip_each_group=True,
                seed=seeds[0],
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
                identity={
                    **identity_of(learners[0], task, batch, plan, window, objective),
                    "seeds": list(seeds),
                },
                on_step=on_step,
                progress=progress,
            )
        except TrainingDiverged as error:
            lost = [s for s, name in zip(seeds, names, strict=True) if not _finite(error.logged.get(name, 0.0))]
            raise TrainingDiverged(
                error.step, (lost or list(seeds))[0], error.what, error.checkpoint, error.logged
            ) from error
    return [
        History(whole.steps, whole.logged[name], whole.seconds, whole.lr * (lr / rates[0]))
        for name, lr in zip(names, rates, strict=True)
    ]


def _finite(value: float) -> bool:
    return value - value == 0
