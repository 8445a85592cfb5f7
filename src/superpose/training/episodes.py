"""Episodes of a task for a learner: what the trainers need of both, drawing and moving."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from superpose.errors import InputError


@runtime_checkable
class InContextTask(Protocol):
    """What the trainer needs of a task: sampling, its loss and its error, all over the read positions."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    # A property, because tasks name different keyword arguments and all of them fit this one.
    @property
    def sample(self) -> Callable[..., Any]:
        """(batch, generator, **settings) -> episodes: ``inputs``, ``reads``, ``targets``, ``weight``."""
        ...

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """The objective that the task is trained by."""
        ...

    def error(self, outputs: Tensor, batch: Any) -> Tensor:
        """The figure that is reported, per read."""
        ...


def draw(
    task: InContextTask,
    batch: int,
    generator: torch.Generator,
    device: torch.device,
    settings: Mapping[str, Any],
) -> Any:
    """Episodes on a device, drawn on the CPU so that every device trains on the same ones."""
    episodes = task.sample(batch, generator, **settings)
    return episodes if device.type == "cpu" else episodes.to(device)


def device_of(learner: nn.Module) -> torch.device:
    """Where a learner's parameters are.

    Raises:
        InputError: it has none.
    """
    for parameter in learner.parameters():
        return parameter.device
    raise InputError(f"learner is a {type(learner).__qualname__} without parameters")


@contextmanager
def mode(learner: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; afterwards every part is in the mode that it had."""
    before = {part: part.training for part in learner.modules()}
    learner.train(training)
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


def at_least_one(name: str, value: int) -> int:
    """The value, or an InputError if it is below 1."""
    if value < 1:
        raise InputError(f"{name} is {value}; it must be >= 1")
    return value
