"""Engines: they map steps to outputs, in this process, in worker processes, or on Ray. Nothing else."""

import functools
import os
import pickle
import re
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from superpose.errors import InputError, require
from superpose.experiment.steps import StepCall

Result = tuple[int, Any, BaseException | None]
"""Index of the call, its output, and the exception it raised (the output is then None)."""
Results = Generator[Result, None, None]
"""Closing it early stops the calls that are still running."""


@runtime_checkable
class Engine(Protocol):
    """Maps step calls; results arrive in any order."""

    def map(self, calls: Sequence[StepCall]) -> Results:
        """Run every call; one that raises does not stop the others."""
        ...

    def close(self) -> None:
        """Free workers."""
        ...


class WorkerError(RuntimeError):
    """A worker died, or raised an exception that cannot travel between processes."""


def _execute(index: int, call: StepCall) -> Result:
    try:
        return index, call.execute(), None
    except Exception as error:
        return index, None, error


def _execute_in_worker(index: int, call: StepCall) -> Result:
    index, output, error = _execute(index, call)
    return index, output, None if error is None else _portable(error)


def _execute_for(driver: int, index: int, call: StepCall) -> Result:
    _die_with(driver)
    return _execute_in_worker(index, call)


@functools.cache
def _die_with(driver: int) -> None:
    """End this worker soon after its driver was killed, so that it does not work on a step another run has taken."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _portable(error: BaseException) -> BaseException:
    trace = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # any error at all: exceptions are free to pickle badly
        copy = WorkerError(f"{type(error).__name__}: {error}")
    copy.add_note(trace)  # tracebacks do not travel
    return copy


def _could_not_run(error: Any) -> WorkerError:
    first, *rest = str(error.cause or error).splitlines()
    short = WorkerError(f"Ray could not run this step: {first}")
    short.add_note("\n".join(rest))
    return short


@dataclass
class LocalEngine:
    """Runs steps in this process, or in ``jobs`` worker processes through joblib's loky."""

    jobs: int = 1

    def map(self, calls: Sequence[StepCall]) -> Results:
        """Run every call; with one job, in order and in this process."""
        if self.jobs == 1 or len(calls) <= 1:
            for index, call in enumerate(calls):
                yield _execute(index, call)
            return
        from joblib import Parallel, delayed

        # One step per message: a finished step must not wait in a batch, where a kill would lose it.
        one: Any = 1  # joblib's annotation knows only "auto"
        pool = Parallel(n_jobs=self.jobs, return_as="generator_unordered", pre_dispatch="all", batch_size=one)
        left = set(range(len(calls)))
        results: Any = pool(delayed(_execute_for)(os.getpid(), i, call) for i, call in enumerate(calls))
        try:
            for result in results:
                left.discard(result[0])
                yield result
        except BrokenProcessPool as error:
            for index in sorted(left):
                yield index, None, WorkerError(f"a worker process died (out of memory?): {error}")
        finally:
            results.close()

    def close(self) -> None:
        """Nothing to free: loky's workers end by themselves."""


@dataclass
class RayEngine:
    """Runs steps as Ray tasks on a local Ray or a cluster; a step whose worker dies is tried again elsewhere.

    A cluster's machines need this package in the same version, and the same registered models. Checkpoints
    inside a step survive a lost worker only where its machine shares the cache folder with the driver.

    Attributes:
        address: ``ray://HOST:PORT`` of a cluster; None starts a Ray on this machine.
        jobs: steps side by side on a Ray started here; on any Ray, steps that share one GPU.
        retries: how often a step is tried again after its worker died. A step that raises is not tried again.

    Raises:
        InputError: Ray is not installed, or the cluster does not answer.
    """

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
            # Here, what the driver can import its workers can; a cluster's machines have their own.
            path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
            local: dict[str, Any] = {
                "num_cpus": self.jobs,
                "include_dashboard": False,
                "runtime_env": {"env_vars": {"PYTHONPATH": path}},
            }
            options = {} if self.address else local
            try:
                self._ray.init(address=self.address or "local", log_to_driver=False, logging_level="error", **options)
            except (ConnectionError, ValueError) as error:
                raise InputError(f"--engine {self.address or 'ray'}: Ray does not start or answer: {error}") from error

    def map(self, calls: Sequence[StepCall]) -> Results:
        """Run every call as a task of one CPU per thread, and a share of a GPU where the device is one."""
        ray = self._ray
        # A task that asks for more than any machine has would wait for ever.
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
        task = ray.remote(_execute_in_worker)
        pending = {}
        for index, call in enumerate(calls):
            options: dict[str, float] = {"num_cpus": min(call.threads, max(most, 1)), "max_retries": self.retries}
            if call.device.startswith("cuda"):
                options["num_gpus"] = 1 / self.jobs
            pending[task.options(**options).remote(index, call)] = index
        try:
            while pending:
                (ready,), _ = ray.wait(list(pending), num_returns=1)
                index = pending.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayTaskError as error:  # the call did not reach the step
                    result = index, None, _could_not_run(error)
                except ray.exceptions.RayError as error:
                    result = index, None, WorkerError(f"Ray lost this step's worker {self.retries + 1} times: {error}")
                yield result
        finally:
            for ref in pending:
                ray.cancel(ref, force=True)

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
    if re.fullmatch(r"ray://[^:/]+:\d+", name):
        return RayEngine(name, jobs)
    raise InputError(f"--engine is {name!r}; allowed: local, ray, ray://HOST:PORT")
