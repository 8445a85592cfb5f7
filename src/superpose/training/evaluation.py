"""The error of a trained learner at every read of fresh episodes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .episodes import InContextTask, at_least_one, device_of, draw, mode
from .randomness import seeded


def evaluate(
    learner: nn.Module,
    task: InContextTask,
    *,
    batches: int = 10,
    batch: int = 128,
    seed: int = 0,
    loops: int | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Float[Tensor, "episodes reads"]:
    """The task's error at every read of fresh episodes, with the learner in evaluation mode.

    Args:
        learner: as in :func:`train_in_context`.
        task: may differ from the one the learner was trained on.
        batches: how many batches of ``batch`` episodes; the default gives the 1280 prompts of the papers.
        batch: episodes per batch.
        seed: of the episodes, apart from the training episodes of the same seed.
        loops: number of loops of a looped learner; default its own.
        sample: settings for the task's ``sample``, for example ``{"points": 41}``.

    Returns:
        Errors on the CPU; NaN at reads that an episode does not score.

    Raises:
        InputError: ``batches``, ``batch`` or ``loops`` < 1.
    """
    arguments = {} if loops is None else {"loops": at_least_one("loops", loops)}
    errors = []
    with torch.no_grad(), mode(learner, training=False):
        for episodes in _episodes(learner, task, batches, batch, seed, sample):
            outputs = learner(episodes.inputs, reads=episodes.reads, **arguments)
            errors.append(_errors(task, outputs, episodes))
    return torch.cat(errors)


def evaluate_loops(
    learner: nn.Module,
    task: InContextTask,
    *,
    loops: int,
    batches: int = 10,
    batch: int = 128,
    seed: int = 0,
    sample: Mapping[str, Any] | None = None,
) -> Float[Tensor, "loops episodes reads"]:
    """The error after every loop 1..``loops`` of a looped learner, all from one pass.

    All iterates of a batch are in memory at once: ``loops`` times those of one forward pass.

    Args:
        learner, task, batches, batch, seed, sample: as in :func:`evaluate`; equal seeds give equal episodes.
        loops: how far to loop, for example 4 times the number trained.

    Raises:
        InputError: ``loops``, ``batches`` or ``batch`` < 1.
    """
    arguments = {"loops": at_least_one("loops", loops), "grad_loops": loops, "return_all": True}
    errors = []
    with torch.no_grad(), mode(learner, training=False):
        for episodes in _episodes(learner, task, batches, batch, seed, sample):
            iterates = learner(episodes.inputs, reads=episodes.reads, **arguments)
            errors.append(torch.stack([_errors(task, iterate, episodes) for iterate in iterates]))
    return torch.cat(errors, 1)


def _episodes(
    learner: nn.Module,
    task: InContextTask,
    batches: int,
    batch: int,
    seed: int,
    sample: Mapping[str, Any] | None,
) -> Iterator[Any]:
    at_least_one("batches", batches)
    at_least_one("batch", batch)
    device = device_of(learner)
    for index in range(batches):
        yield draw(task, batch, seeded(seed, "evaluate", index), device, sample or {})


def _errors(task: InContextTask, outputs: Tensor, episodes: Any) -> Tensor:
    errors = task.error(outputs, episodes).float()
    return errors.masked_fill(episodes.weight == 0, float("nan")).cpu()
