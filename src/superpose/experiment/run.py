"""What a measuring function holds in its hands: config, steps, and where measurements and curves go."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Any, Generic, SupportsFloat, SupportsIndex, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from superpose.errors import InputError
from superpose.experiment.cache import StepCache
from superpose.experiment.claim import Scale
from superpose.experiment.engines import Engine, LocalEngine
from superpose.experiment.measurement import MIN_SEEDS, Measurement
from superpose.experiment.progress import Progress
from superpose.experiment.steps import StepCall
from superpose.experiment.study import Study, StudyConfig

C = TypeVar("C", bound=StudyConfig)
Axis = Sequence[SupportsFloat] | Sequence[str] | np.ndarray
"""Positions along a curve: numbers, or categories."""
_WAIT = 0.2  # seconds between looks at a step that another process is computing
_AT_ONCE = 256  # steps handed to the engine together: each holds an open lock file


class StepFailed(RuntimeError):
    """A step raised; the other steps of its map have been finished and stored."""


class Run(Generic[C]):
    """One study being measured.

    Attributes:
        config: the study's config.
        scale: the preset's name.
        device: device type for steps.
        claims: the claims that were asked for.
    """

    def __init__(
        self,
        study: Study,
        config: C,
        scale: Scale,
        claims: frozenset[str],
        *,
        cache: StepCache,
        engine: Engine,
        device: str,
        progress: Progress,
        threads: int = 1,
        fresh: bool = False,
    ) -> None:
        self.config = config
        self.scale: Scale = scale
        self.device = device
        self.claims = claims
        self.measurements: dict[str, dict[str, Measurement]] = {claim: {} for claim in sorted(claims)}
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.steps_run = self.steps_cached = 0
        self._study = study
        self._cache = cache
        self._engine = engine
        self._progress = progress
        self._threads = threads
        self._fresh = fresh
        self._refreshed: set[str] = set()

    @property
    def seeds(self) -> list[int]:
        """The independent seeds, from 0."""
        return list(range(self.config.seeds))

    def step(self, fn: Callable[..., Any], /, **arguments: Any) -> Any:
        """The output of one step, computed or read from the cache."""
        return self.map(fn, [arguments])[0]

    def map(
        self, fn: Callable[..., Any], items: Iterable[Mapping[str, Any]], *, threads: int | None = None
    ) -> list[Any]:
        """The outputs of a step over many argument sets, in order; the engine may run them side by side.

        Args:
            fn: a function marked with ``@step``.
            items: keyword arguments, one mapping per call.
            threads: intra-op threads per call; default 1.

        Raises:
            StepFailed: a call raised. The others have been finished and stored, so running again resumes.
        """
        calls = [StepCall(fn, dict(item), self.device, threads or self._threads, self._cache.work) for item in items]
        outputs: dict[str, Any] = {}
        waiting: list[StepCall] = []
        for call in {call.key: call for call in calls}.values():
            found, value = self._look(call)
            if found:
                outputs[call.key] = value
            else:
                waiting.append(call)
        self.steps_cached += len(outputs)
        if waiting:
            self._compute(waiting, outputs)
        return [outputs[call.key] for call in calls]

    def measure(self, claims: str | Sequence[str], *measurements: Measurement) -> None:
        """Record measurements under one or several claims; claims that were not asked for are passed over."""
        for claim in [claims] if isinstance(claims, str) else claims:
            self._study.claim(claim)
            for m in measurements:
                if m.over == "seeds" and m.n < MIN_SEEDS and self.scale != "smoke":
                    raise InputError(
                        f"claim {claim}: measurement {m.name!r} has {m.n} seeds; allowed at scale {self.scale}: "
                        f"{MIN_SEEDS} or more"
                    )
                if claim in self.claims:
                    if m.name in self.measurements[claim]:
                        raise ValueError(f"claim {claim}: measurement {m.name!r} was recorded twice")
                    self.measurements[claim][m.name] = m

    def curve(
        self,
        name: str,
        arm: str,
        x: Axis,
        value: ArrayLike,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        n: SupportsIndex = 1,
    ) -> None:
        """Record one arm of a curve: values (and intervals) along ``x``, numbers or categories."""
        self._rows("curve", name, arm, x, value, low, high, index(n))

    def curve_of(self, name: str, arm: str, x: Axis, points: Sequence[Measurement]) -> None:
        """Record one arm of a curve from a measurement per point."""
        for at, m in zip(x, points, strict=True):
            self._row("curve", name, arm, at, m.value, m.low, m.high, m.n)

    def samples(self, name: str, arm: str, x: Axis, value: ArrayLike) -> None:
        """Record the single units (prompts, vectors) behind a curve or for a scatter."""
        self._rows("sample", name, arm, x, value, None, None, 1)

    def say(self, text: str) -> None:
        """Tell the person who waits; nothing of it is stored."""
        self._progress.say(text)

    def note(self, text: str) -> None:
        """Say something in words that belongs beside the numbers."""
        self.notes.append(text)

    def _look(self, call: StepCall) -> tuple[bool, Any]:
        if self._fresh and call.key not in self._refreshed:
            return False, None
        return self._cache.get(call.key)

    def _compute(self, waiting: list[StepCall], outputs: dict[str, Any]) -> None:
        """Compute what is free, then wait for what other processes compute; never hold one lock while waiting."""
        failures: list[BaseException] = []
        label, told = waiting[0].info.label, False
        with self._progress.bar(label, len(waiting)) as advance:
            while waiting:
                mine, elsewhere, locks = self._take(waiting, outputs, advance)
                try:
                    if mine:
                        self._work(mine, locks, outputs, failures, advance)
                finally:
                    for lock in locks.values():
                        lock.release()
                waiting = elsewhere
                if waiting and not mine:
                    if not told:
                        self._progress.say(f"{label}: another process is computing {len(waiting)} of these; waiting")
                        told = True
                    time.sleep(_WAIT)
        if failures:
            error = failures[0]
            if isinstance(error, InputError):
                raise error
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise StepFailed(f"step {label} failed{more}: {type(error).__name__}: {error}") from error

    def _take(
        self, waiting: list[StepCall], outputs: dict[str, Any], advance: Callable[[], None]
    ) -> tuple[list[StepCall], list[StepCall], dict[str, FileLock]]:
        """The calls to compute here under their locks, and those left for later."""
        mine: list[StepCall] = []
        later: list[StepCall] = []
        locks: dict[str, FileLock] = {}
        try:
            for call in waiting:
                lock = self._cache.try_lock(call.key) if len(mine) < _AT_ONCE else None
                if lock is None:
                    later.append(call)
                    continue
                locks[call.key] = lock
                found, value = self._look(call)  # another process may have finished it meanwhile
                if found:
                    locks.pop(call.key).release()
                    outputs[call.key] = value
                    self.steps_cached += 1
                    advance()
                else:
                    mine.append(call)
        except BaseException:
            for lock in locks.values():
                lock.release()
            raise
        return mine, later, locks

    def _work(
        self,
        mine: list[StepCall],
        locks: dict[str, FileLock],
        outputs: dict[str, Any],
        failures: list[BaseException],
        advance: Callable[[], None],
    ) -> None:
        if self._fresh:
            for call in mine:
                self._cache.restart(call.key)
        # Closed at once when something goes wrong, so that no worker goes on after its lock is released.
        with contextlib.closing(self._engine_for(mine).map(mine)) as results:
            for at, value, error in results:
                call = mine[at]
                if error is None:
                    outputs[call.key] = self._cache.put(call.key, value)
                    self._refreshed.add(call.key)
                    self.steps_run += 1
                else:
                    failures.append(error)
                locks.pop(call.key).release()
                advance()

    def _engine_for(self, calls: list[StepCall]) -> Engine:
        return LocalEngine() if any(call.info.exclusive for call in calls) else self._engine

    def _rows(
        self,
        table: str,
        name: str,
        arm: str,
        x: Axis,
        value: ArrayLike,
        low: ArrayLike | None,
        high: ArrayLike | None,
        n: int,
    ) -> None:
        values = np.asarray(value, dtype=float)
        lows = values if low is None else np.asarray(low, dtype=float)
        highs = values if high is None else np.asarray(high, dtype=float)
        for at, v, lo, hi in zip(x, values, lows, highs, strict=True):
            self._row(table, name, arm, at, float(v), float(lo), float(hi), n)

    def _row(
        self, table: str, curve: str, arm: str, at: SupportsFloat | str, value: float, low: float, high: float, n: int
    ) -> None:
        self.rows.append(
            {
                "table": table,
                "curve": curve,
                "arm": arm,
                "x": None if isinstance(at, str) else float(at),
                "label": str(at) if isinstance(at, str) else None,
                "value": value,
                "low": low,
                "high": high,
                "n": n,
            }
        )
