"""Curricula: task settings and loop counts that grow while a model trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from superpose.errors import InputError


@dataclass(frozen=True)
class Ramp:
    """A value that moves from ``start`` to ``end`` by ``inc`` every ``interval`` steps and then stays.

    Args:
        start: the value of the first ``interval`` steps.
        end: the last value, never passed.
        inc: what is added; negative when ``end`` is below ``start``.
        interval: number of steps between two additions.

    Raises:
        InputError: ``interval`` < 1, or ``inc`` does not lead from ``start`` to ``end``.
    """

    start: int | float
    end: int | float
    inc: int | float
    interval: int

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise InputError(f"interval is {self.interval}; it must be a number of steps >= 1")
        if self.start != self.end and (self.end - self.start) * self.inc <= 0:
            raise InputError(
                f"inc is {self.inc}; it must lead from start {self.start} to end {self.end}, so have that sign"
            )

    def at(self, step: int) -> int | float:
        """The value at a step (from 0); an int when start, end and inc are ints."""
        value = self.start + self.inc * (step // self.interval)
        return min(value, self.end) if self.end >= self.start else max(value, self.end)


@dataclass(frozen=True)
class Curriculum:
    """Ramps for what a task samples and for how often a looped model loops.

    The usual one for linear regression in 20 dimensions (Garg et al. 2022) is
    ``Curriculum({"dims": Ramp(5, 20, 1, 5000), "points": Ramp(11, 41, 2, 5000)})``; looped transformers
    (Yang et al. 2024) add ``loops=Ramp(window, loops, 2, 500)``.

    Args:
        sample: keyword arguments of the task's ``sample``, each with its ramp.
        loops: number of loops of the learner, for looped backbones.

    Raises:
        InputError: the loop ramp is not made of whole numbers >= 1.
    """

    sample: Mapping[str, Ramp] = field(default_factory=dict)
    loops: Ramp | None = None

    def __post_init__(self) -> None:
        ramp = self.loops
        if ramp is None:
            return
        whole = all(isinstance(value, int) for value in (ramp.start, ramp.end, ramp.inc))
        if not whole or min(ramp.start, ramp.end) < 1:
            raise InputError(f"loops is {ramp}; its start, end and inc must be whole numbers, start and end >= 1")

    def sample_at(self, step: int) -> dict[str, int | float]:
        """The keyword arguments for the task's ``sample`` at a step."""
        return {name: ramp.at(step) for name, ramp in self.sample.items()}

    def loops_at(self, step: int) -> int | None:
        """The number of loops at a step; None where the learner's own number holds."""
        return None if self.loops is None else int(self.loops.at(step))
