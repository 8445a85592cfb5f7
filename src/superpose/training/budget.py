"""Training budgets in steps or in seconds, and the watch that counts the seconds."""

import time
from dataclasses import asdict
from typing import Any

from superpose.errors import InputError

from .schedules import Schedule


class Stopwatch:
    """Adds up the time spent inside ``with watch:``.

    Args:
        cpu: count CPU seconds of this process (all its threads), which other processes on the machine
            do not change; otherwise wall seconds.
    """

    def __init__(self, cpu: bool) -> None:
        self._now = time.process_time if cpu else time.perf_counter
        self._before = 0.0
        self._since: float | None = None

    def __enter__(self) -> "Stopwatch":
        self._since = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._before, self._since = self.elapsed, None

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._before + (0.0 if self._since is None else self._now() - self._since)

    def set(self, seconds: float) -> None:
        """Go on from a time that an earlier process had reached."""
        self._before = seconds


class Budget:
    """How long to train, and which learning-rate factor that gives.

    Raises:
        InputError: not exactly one of ``steps`` and ``seconds``, or one that is not positive, or a warm-up
            and decay that do not fit.
    """

    def __init__(self, steps: int | None, seconds: int | float | None, schedule: Schedule) -> None:
        if (steps is None) == (seconds is None):
            raise InputError(f"steps is {steps} and seconds is {seconds}; give exactly one of them")
        if steps is not None and steps < 1:
            raise InputError(f"steps is {steps}; it must be >= 1")
        if seconds is not None and not 0 < seconds < float("inf"):
            raise InputError(f"seconds is {seconds}; it must be finite and > 0")
        decaying = schedule.decay if schedule.kind == "wsd" else 0.0
        if steps is not None and schedule.warmup > steps * (1.0 - decaying):
            raise InputError(
                f"warmup is {schedule.warmup}; with steps {steps} and a {schedule.kind} schedule at most"
                f" {int(steps * (1.0 - decaying))} are left for it"
            )
        self.steps, self.seconds, self.schedule = steps, seconds, schedule
        self.warm_seconds = 0.0

    def spent(self, step: int, elapsed: float) -> bool:
        """Whether the budget is used up after ``step`` steps and ``elapsed`` seconds."""
        return step >= self.steps if self.steps is not None else elapsed >= (self.seconds or 0.0)

    def factor(self, step: int, elapsed: float) -> float:
        """The learning-rate factor of the step that begins now."""
        if self.steps is not None:
            return self.schedule.at(step, self.steps)
        seconds = self.seconds or 0.0
        if step < self.schedule.warmup:
            self.warm_seconds = elapsed
        return self.schedule.factor(step, min(1.0, elapsed / seconds), min(1.0, self.warm_seconds / seconds))

    def progress(self, step: int, elapsed: float) -> tuple[int, int]:
        """What is done and what there is, in the budget's unit."""
        if self.steps is not None:
            return step, self.steps
        total = max(1, round(self.seconds or 0.0))
        return min(total, int(elapsed)), total

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share: a constant schedule may be prolonged, others depend on the budget."""
        plain = asdict(self.schedule)
        return plain if self.schedule.kind == "constant" else {**plain, "steps": self.steps, "seconds": self.seconds}
