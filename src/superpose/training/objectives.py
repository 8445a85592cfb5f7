"""Objectives as plug-ins: functions of the outputs at the read positions and the batch."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError

Objective = Callable[[Tensor, Any], Tensor]


@runtime_checkable
class Scored(Protocol):
    """What an objective needs of a batch: ``targets`` and a ``weight`` per read (0 = not scored)."""

    @property
    def targets(self) -> Tensor:
        """The right answers at the reads."""
        ...

    @property
    def weight(self) -> Tensor:
        """How much each read counts."""
        ...


def squared_error(outputs: Float[Tensor, "batch reads out"], batch: Scored) -> Float[Tensor, ""]:
    """Squared error at every read, averaged over output dimensions and, by weight, over reads."""
    return _weighted(((outputs - batch.targets) ** 2).mean(-1), batch.weight)


def cross_entropy(outputs: Float[Tensor, "batch reads vocab"], batch: Scored) -> Float[Tensor, ""]:
    """Cross entropy in nats of the target token at every read, averaged by weight."""
    losses = F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return _weighted(losses.view_as(batch.weight), batch.weight)


def _weighted(values: Float[Tensor, "batch reads"], weight: Float[Tensor, "batch reads"]) -> Float[Tensor, ""]:
    # Episodes without anything to score have loss 0, not NaN.
    return (values * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def total(*terms: Objective | tuple[int | float, Objective]) -> Objective:
    """The sum of objectives, each optionally with a factor: a main loss and its auxiliary losses.

    An auxiliary loss may also be a closure over the learner, for example on its hidden states.

    Raises:
        InputError: no term is given.
    """
    if not terms:
        raise InputError("terms is empty; give at least one objective")
    pairs = [term if isinstance(term, tuple) else (1.0, term) for term in terms]

    def objective(outputs: Tensor, batch: Any) -> Tensor:
        first, *rest = (factor * term(outputs, batch) for factor, term in pairs)
        return sum(rest, first)

    objective.__qualname__ = "total of " + ", ".join(f"{factor} {name_of(term)}" for factor, term in pairs)
    return objective


def loop_window(objective: Objective) -> Objective:
    """The objective averaged over the iterates of a looped model, shape [loops, batch, reads, out]."""

    def windowed(outputs: Tensor, batch: Any) -> Tensor:
        first, *rest = (objective(iterate, batch) for iterate in outputs)
        return sum(rest, first) / (len(rest) + 1)

    windowed.__qualname__ = f"loop_window of {name_of(objective)}"
    return windowed


def name_of(objective: Objective) -> str:
    """A name for an objective that is the same in every process, so a checkpoint can carry it."""
    return getattr(objective, "__qualname__", type(objective).__qualname__)
