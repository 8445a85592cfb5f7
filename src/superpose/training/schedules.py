"""The learning rate over a training budget, whether that budget is counted in steps or in seconds."""

import math
from dataclasses import dataclass

from superpose.errors import InputError, choose

KINDS = ("constant", "linear", "cosine", "wsd")


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate: linear warm-up, then one of four shapes.

    Args:
        kind: ``constant``; ``linear`` or ``cosine`` from 1 down to ``floor`` between the end of the warm-up
            and the end of the budget; ``wsd`` (warm-up, stable, decay): 1 until the last ``decay`` of the
            budget, then linear down to ``floor``.
        warmup: number of warm-up steps; step s has factor (s + 1) / warmup, so that no step is lost at 0.
        decay: share of the whole budget in which ``wsd`` decays (0.1 as in the task-superposition runs).
        floor: the factor at the end of the budget, in [0, 1].

    Raises:
        InputError: a value outside its range.
    """

    kind: str = "constant"
    warmup: int = 0
    decay: float = 0.1
    floor: float = 0.0

    def __post_init__(self) -> None:
        choose("kind", self.kind, KINDS)
        if self.warmup < 0:
            raise InputError(f"warmup is {self.warmup}; it must be a number of steps >= 0")
        if not 0 < self.decay <= 1:
            raise InputError(f"decay is {self.decay}; it must be a share of the budget in (0, 1]")
        if not 0 <= self.floor <= 1:
            raise InputError(f"floor is {self.floor}; it must be a factor in [0, 1]")

    def factor(self, step: int, done: float, warm: float = 0.0) -> float:
        """The factor for one step.

        Args:
            step: number of finished steps.
            done: share of the whole budget spent before this step, in [0, 1].
            warm: share of the whole budget that the warm-up took.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        if self.kind == "wsd":
            left = min(1.0, (1.0 - done) / self.decay)
        else:
            left = (1.0 - done) / (1.0 - warm) if warm < 1.0 else 0.0
            if self.kind == "cosine":
                left = 0.5 * (1.0 - math.cos(math.pi * min(1.0, max(0.0, left))))
        return self.floor + (1.0 - self.floor) * min(1.0, max(0.0, left))

    def at(self, step: int, steps: int) -> float:
        """The factor of step ``step`` (from 0) in a budget of ``steps`` steps."""
        return self.factor(step, step / steps, min(1.0, self.warmup / steps))
