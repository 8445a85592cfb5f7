"""Engines: they map steps to outputs, in this process, in worker processes, or on Ray. Nothing else."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from superpose.errors import InputError, require
from superpose.experiment.step import StepCall

Result = tuple[int, Any, BaseException | None]
"""Index of the call, its output, and the exception it raised (the output is then None)."""


class Engine(Protocol):
    """Maps step calls; results arrive in any order."""

    def map(self, calls: Sequence[StepCall]) -> Iterator[Result]:
        """Run every call; one that raises does not stop the others."""
        ...

    def close(self) -> None:
        """Free workers."""
        ...


def _execute(index: int, call: StepCall) -> Result:
    try:
        return index, call.execute(), None
    except Exception as error:
        return index, None, error


@dataclass
class LocalEngine:
    """Runs steps in this process, or in ``jobs`` worker processes through joblib's loky."""

    jobs: int = 1

    def map(self, calls: Sequence[StepCall]) -> Iterator[Result]:
        """Run every call; with one job, in order and in this process."""
        if self.jobs == 1 or len(calls) <= 1:
            for index, call in enumerate(calls):
                yield _execute(index, call)
            return
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=self.jobs, return_as="generator_unordered", pre_dispatch="all")
        results: Any = pool(delayed(_execute)(i, call) for i, call in enumerate(calls))
        yield from results

    def close(self) -> None:
        """Nothing to free: loky's workers end by themselves."""


@dataclass
class RayEngine:
    """Runs steps as Ray tasks on a local Ray or a cluster; a step whose worker dies is tried again elsewhere."""

    address: str | None
    jobs: int = 1
    retries: int = 3

    def __post_init__(self) -> None:
        # Ray's own hooks would otherwise rebuild the caller's virtual environment on every worker.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray: Any = require("ray", "ray")
        self._owned = not self._ray.is_initialized()
        if self._owned:
            local = {} if self.address else {"num_cpus": self.jobs, "include_dashboard": False}
            self._ray.init(address=self.address, log_to_driver=False, logging_level="error", **local)

    def map(self, calls: Sequence[StepCall]) -> Iterator[Result]:
        """Run every call as a task of one CPU per thread."""
        ray = self._ray
        pending = {}
        for index, call in enumerate(calls):
            remote: Callable[..., Any] = ray.remote(num_cpus=call.threads, max_retries=self.retries)(_execute)
            pending[remote.remote(index, call)] = index  # type: ignore[attr-defined]
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:  # every retry lost its worker
                yield (
                    index,
                    None,
                    RuntimeError(f"Ray lost this step's worker {self.retries + 1} times: {error}"),
                )

    def close(self) -> None:
        """Shut down the Ray that this engine started."""
        if self._owned:
            self._ray.shutdown()


def engine(name: str, jobs: int) -> Engine:
    """The engine of that name.

    Args:
        name: ``local``, ``ray`` (a Ray on this machine), or ``ray://HOST:PORT`` (a cluster).
        jobs: worker processes.

    Raises:
        InputError: unknown engine, fewer than one job, or Ray is not installed.
    """
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; allowed: 1 or more")
    if name == "local":
        return LocalEngine(jobs)
    if name == "ray":
        return RayEngine(None, jobs)
    if name.startswith("ray://"):
        return RayEngine(name, jobs)
    raise InputError(f"--engine is {name!r}; allowed: local, ray, ray://HOST:PORT")
