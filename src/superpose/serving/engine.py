"""The thread that owns the model, and the queue of jobs in front of it."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from superpose.errors import InputError
from superpose.inference import Batch, MultiBinScheduler
from superpose.serving.codec import Codec
from superpose.serving.errors import model_failed, queue_full, shutting_down, worker_gone
from superpose.serving.jobs import Failed, Job
from superpose.serving.metrics import Metrics

logger = logging.getLogger(__name__)

# The oldest job whose wait is over lets so many full batches pass, for every bin there is, and at least:
FULL_BATCHES_PER_BIN, FULL_BATCHES_AT_LEAST = 2, 8


@dataclass(frozen=True)
class EngineState:
    """What an engine is doing.

    Attributes:
        alive: whether its thread runs.
        draining: whether it takes no more jobs.
        waiting: jobs that wait.
        running: jobs that are being answered.
    """

    alive: bool
    draining: bool
    waiting: int
    running: int


@runtime_checkable
class Engine(Protocol):
    """What the HTTP application needs: somebody who answers jobs. All methods may be called from any thread.

    Attributes:
        codec: between text and tokens.
        context: the longest prompt and answer together, in tokens; None: no limit.
        vocabulary: tokens are below this.
        metrics: what the application and the engine count.
    """

    codec: Codec
    context: int | None
    vocabulary: int
    metrics: Metrics

    def start(self) -> None:
        """Start answering."""
        ...

    def check(self, job: Job) -> None:
        """Refuse a job that this engine cannot honour."""
        ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept all of the jobs, or none."""
        ...

    def cancel(self, job: Job) -> None:
        """Forget a job; its place is free at once, or after the current token."""
        ...

    def drain(self) -> None:
        """Take no more jobs, and answer those that wait without waiting for more."""
        ...

    def stop(self, timeout: float) -> None:
        """Drain, wait for the last answer at most so many seconds, and end."""
        ...

    def state(self) -> EngineState:
        """Say what is going on."""
        ...


@runtime_checkable
class Runner(Protocol):
    """Answers a batch of jobs: `BatchDecoder`, or anything that calls their `finish`."""

    codec: Codec
    context: int | None
    vocabulary: int

    def run(self, jobs: Sequence[Job]) -> None:
        """Answer all of them; what it raises fails those that are not over."""
        ...


class BatchEngine:
    """Answers jobs in batches that a `MultiBinScheduler` forms; one bin is first come, first served.

    A full batch runs as soon as the model is free. An incomplete one runs when its oldest job has waited for the
    scheduler's ``max_wait`` and no full batch is ready, or many of them have passed it: so a busy server runs full
    batches, and a quiet one answers soon.

    Args:
        runner: runs a batch.
        scheduler: forms batches; its ``max_wait`` must be set, else a lone job would wait for ever.
        predict: the length by which jobs are binned; default: the job's ``max_tokens``.
        queue: most jobs that may wait; more are refused with status 429.
        metrics: counts; default: its own.

    Raises:
        InputError: a queue below 1, or a scheduler without ``max_wait``.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: MultiBinScheduler[Job],
        *,
        predict: Callable[[Job], float] | None = None,
        queue: int = 256,
        metrics: Metrics | None = None,
    ) -> None:
        if queue < 1:
            raise InputError(f"queue is {queue}; allowed: 1 or more")
        if scheduler.max_wait is None:
            raise InputError("scheduler has max_wait None; allowed: a number of seconds")
        self.codec, self.context, self.vocabulary = runner.codec, runner.context, runner.vocabulary
        self.metrics = metrics or Metrics()
        self._runner, self._scheduler, self._limit = runner, scheduler, queue
        self._predict = predict or (lambda job: float(job.sampling.max_tokens))
        self._changed = threading.Condition()
        self._waiting: dict[Job, Future[Any]] = {}
        self._ready: deque[Batch[Job]] = deque()
        self._running: tuple[Job, ...] = ()
        self._patience = max(FULL_BATCHES_AT_LEAST, FULL_BATCHES_PER_BIN * scheduler.bins)
        self._oldest: float | None = None
        self._passed = 0
        self._batches, self._seconds = 0, 0.0
        self._draining = True
        self._thread: threading.Thread | None = None
        self.metrics.waiting.set_function(lambda: len(self._waiting))
        self.metrics.running.set_function(lambda: sum(not job.over for job in self._running))

    def start(self) -> None:
        """Start the thread that owns the model."""
        with self._changed:
            if self._thread is not None and self._thread.is_alive():
                raise RuntimeError("the engine runs already")
            self._draining = False
            self._thread = threading.Thread(target=self._work, name="superpose-engine", daemon=True)
            self._thread.start()

    def check(self, job: Job) -> None:
        """Every job can be honoured."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept all of the jobs, or none.

        Raises:
            ServingError: the queue is full, or the engine is shutting down or has ended.
        """
        predicted = [self._predict(job) for job in jobs]
        with self._changed:
            if self._draining:
                raise shutting_down()
            if self._thread is None or not self._thread.is_alive():
                raise worker_gone()
            if len(self._waiting) + len(jobs) > self._limit:
                raise queue_full(self._limit, self._retry_after())
            for job, length in zip(jobs, predicted, strict=True):
                self._waiting[job] = self._scheduler.submit(job, length)
                self.metrics.prompt_tokens.inc(len(job.prompt))
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forget a job: one that waits leaves the queue, one that runs leaves its batch after the current token."""
        job.cancel()
        with self._changed:
            future = self._waiting.pop(job, None)
        if future is not None:
            future.cancel()

    def drain(self) -> None:
        """Take no more jobs; incomplete batches run at once."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Drain, wait for the last answer at most ``timeout`` seconds, and fail what is left then."""
        self.drain()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                self._fail_all()
                thread.join(timeout=1)

    def state(self) -> EngineState:
        """Say what is going on."""
        with self._changed:
            alive = self._thread is not None and self._thread.is_alive()
            running = sum(not job.over for job in self._running)
            return EngineState(alive, self._draining, len(self._waiting), running)

    def _retry_after(self) -> int:
        """About the time until a place is free: one batch, as long as they took so far."""
        return max(1, math.ceil(self._seconds / self._batches)) if self._batches else 1

    def _work(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._run(batch)
        finally:
            # Also when something that nobody expected ends this thread: whoever waits must hear of it.
            with self._changed:
                self._draining = True
            self._fail_all()

    def _next(self) -> Batch[Job] | None:
        with self._changed:
            while True:
                self._collect()
                while self._ready:
                    batch = self._ready.popleft().start()
                    for job in batch.requests:
                        self._waiting.pop(job, None)
                    if len(batch):
                        self._running = batch.requests
                        return batch
                if self._draining and not self._waiting:
                    return None
                deadline = self._scheduler.next_deadline()
                self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _collect(self) -> None:
        if self._draining:
            self._ready.extend(self._scheduler.flush())
            return
        # Before the beginning of time no wait is over: these are the full batches.
        self._ready.extend(self._scheduler.poll(-math.inf))
        deadline = self._scheduler.next_deadline()
        if deadline is None or deadline > time.monotonic():
            return
        if deadline != self._oldest:
            self._oldest, self._passed = deadline, 0
        if not self._ready or self._passed >= self._patience:
            # Only the bin that has waited longest: the others may still fill up while its batch runs.
            self._ready.extendleft(self._scheduler.poll(deadline))
        else:
            self._passed += 1

    def _run(self, batch: Batch[Job]) -> None:
        start = time.monotonic()
        self.metrics.batch_size.observe(len(batch))
        try:
            self._runner.run(batch.requests)
        # The model may raise anything; it is this batch's misfortune, and the next one's is its own.
        except Exception as error:
            logger.exception("a batch of %d requests failed", len(batch))
            self.metrics.failed_batches.inc()
            for job in batch.requests:
                job.finish(Failed(model_failed(error)))
        for job, future in zip(batch.requests, batch.futures, strict=True):
            if not job.over:
                job.finish(Failed(model_failed(RuntimeError("it gave no answer"))))
            future.set_result(None)
        seconds = time.monotonic() - start
        self.metrics.batch_seconds.observe(seconds)
        self._batches, self._seconds = self._batches + 1, self._seconds + seconds
        with self._changed:
            self._running = ()

    def _fail_all(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            left = [*waiting, *self._running]
        for future in waiting.values():
            future.cancel()
        for job in left:
            job.finish(Failed(shutting_down()))
