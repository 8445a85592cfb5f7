"""Forming batches of requests of similar predicted length, for any server that runs static batches.

    scheduler = MultiBinScheduler(edges, batch_size=8, max_wait=0.5)
    future = scheduler.submit("a prompt", predicted_length=120)
    for batch in scheduler.poll():
        for future, text in zip(batch.futures, generate(batch.requests)):
            future.set_result(text)

Requests wait in bins by predicted length; a bin that holds ``batch_size`` of them becomes a batch at once, and batches
are served in the order in which they were formed. Guldogan et al., "Multi-Bin Batching" (arXiv 2412.04504).
"""

import math
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numpy.typing import ArrayLike

from superpose.errors import InputError
from superpose.theory.batching import checked_edges

R = TypeVar("R")


@dataclass(frozen=True)
class Batch(Generic[R]):
    """Requests to be run together.

    Attributes:
        requests: what was submitted, first come first.
        futures: where each answer goes.
        bin: index of the bin they waited in.
        formed_at: when the batch was formed, on the scheduler's clock.
    """

    requests: tuple[R, ...]
    futures: tuple[Future[Any], ...]
    bin: int
    formed_at: float

    def start(self) -> "Batch[R]":
        """Mark the requests as running and return those that nobody has cancelled: after this they cannot be."""
        kept = [i for i, future in enumerate(self.futures) if future.set_running_or_notify_cancel()]
        return self._only(kept)

    def pending(self) -> "Batch[R]":
        """Return the requests that nobody has cancelled so far."""
        return self._only([i for i, future in enumerate(self.futures) if not future.cancelled()])

    def _only(self, kept: Sequence[int]) -> "Batch[R]":
        if len(kept) == len(self.requests):
            return self
        requests = tuple(self.requests[i] for i in kept)
        return Batch(requests, tuple(self.futures[i] for i in kept), self.bin, self.formed_at)

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class _Waiting(Generic[R]):
    request: R
    length: float
    since: float


class MultiBinScheduler(Generic[R]):
    """Waiting requests in bins by predicted length, and the queue of batches formed of them. Thread-safe.

    Args:
        edges: strictly increasing edges of the bins, in the unit of the predictions; None or two edges: one bin, which
            is first come, first served. Predictions outside them go to the nearest edge bin.
        batch_size: requests per batch, B.
        max_wait: a request that has waited so long (in the clock's unit, seconds by default) leaves with whatever its
            bin holds; None (as in the paper): only full batches, and :meth:`flush`. It takes effect in :meth:`poll`.
        clock: what time it is; monotonic.
        on_batch: given every batch as soon as it is formed, in order, by the thread that formed it; it may call the
            scheduler again, and it should be quick. What it raises becomes the outcome of that batch's futures. Such
            batches are not queued for :meth:`poll`, which then returns
            none. Default: batches wait for :meth:`poll`.

    Raises:
        InputError: edges that do not increase, ``batch_size`` below 1, a negative or NaN ``max_wait``.
    """

    def __init__(
        self,
        edges: ArrayLike | None = None,
        batch_size: int = 8,
        max_wait: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_batch: Callable[[Batch[R]], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; allowed: 1 or more")
        if max_wait is not None and not max_wait >= 0:
            raise InputError(f"max_wait is {max_wait}; allowed: 0 or more, or None")
        self.batch_size = batch_size
        self.max_wait = max_wait
        self._inner = _inner(edges)
        self._clock = clock
        self._on_batch = on_batch
        self._bins: list[dict[Future[Any], _Waiting[R]]] = [{} for _ in range(len(self._inner) + 1)]
        self._where: dict[Future[Any], int] = {}
        self._formed: deque[Batch[R]] = deque()
        self._lock = threading.Lock()
        self._delivery = threading.RLock()

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return len(self._bins)

    def waiting(self) -> tuple[int, ...]:
        """How many requests wait in each bin."""
        with self._lock:
            return tuple(len(each) for each in self._bins)

    def submit(self, request: R, predicted_length: float) -> Future[Any]:
        """Put a request into its bin.

        Args:
            request: anything; the scheduler does not look at it.
            predicted_length: in the unit of the edges.

        Returns:
            The future to which whoever runs the batch gives the answer. ``future.cancel()`` takes the request out.

        Raises:
            InputError: a prediction that is NaN, infinite or negative.
        """
        length = float(predicted_length)
        if not 0 <= length < math.inf:
            raise InputError(f"predicted_length is {length}; allowed: finite numbers >= 0")
        future: Future[Any] = Future()
        with self._lock:
            self._put(future, _Waiting(request, length, self._clock()))
        # Whoever cancels the future, here or through the future itself, takes the request out of its bin.
        future.add_done_callback(self._forget)
        self._deliver()
        return future

    def cancel(self, future: Future[Any]) -> bool:
        """Take a request out, unless it is running or done; return whether that succeeded."""
        return future.cancel()

    def poll(self, now: float | None = None) -> list[Batch[R]]:
        """Return the batches formed since the last call, in order of formation; those whose wait is over included.

        Args:
            now: the time on the scheduler's clock; default: what the clock says.
        """
        with self._lock:
            self._expire(self._clock() if now is None else now)
        return self._take()

    def flush(self) -> list[Batch[R]]:
        """Form batches of everything that waits, full or not, and return them with those formed before."""
        with self._lock:
            now = self._clock()
            for index in self._oldest_first():
                self._form(index, now)
        return self._take()

    def next_deadline(self) -> float | None:
        """Return when :meth:`poll` is next needed: now or earlier if a batch is ready; None if nothing will happen."""
        with self._lock:
            if self._formed:
                return self._formed[0].formed_at
            if self.max_wait is None:
                return None
            starts = [self._since(index) for index in self._oldest_first()]
            return starts[0] + self.max_wait if starts else None

    def rebin(self, edges: ArrayLike | None) -> None:
        """Change the edges; waiting requests move to their new bins in order of arrival, keeping their deadlines.

        Raises:
            InputError: edges that do not increase.
        """
        inner = _inner(edges)
        with self._lock:
            waiting = sorted(
                ((future, each) for bin_ in self._bins for future, each in bin_.items()), key=lambda pair: pair[1].since
            )
            self._inner = inner
            self._bins = [{} for _ in range(len(inner) + 1)]
            for future, each in waiting:
                self._put(future, each)
        self._deliver()

    def _put(self, future: Future[Any], waiting: _Waiting[R]) -> None:
        index = bisect_right(self._inner, waiting.length)
        self._bins[index][future] = waiting
        self._where[future] = index
        if len(self._bins[index]) >= self.batch_size:
            self._form(index, self._clock())

    def _form(self, index: int, now: float) -> None:
        members, self._bins[index] = self._bins[index], {}
        for future in members:
            del self._where[future]
        self._formed.append(Batch(tuple(each.request for each in members.values()), tuple(members), index, now))

    def _expire(self, now: float) -> None:
        if self.max_wait is None:
            return
        for index in self._oldest_first():
            # The same sum as in next_deadline: a poll at exactly that time must not find it a rounding error away.
            if self._since(index) + self.max_wait <= now:
                self._form(index, now)

    def _oldest_first(self) -> list[int]:
        return sorted((index for index, each in enumerate(self._bins) if each), key=self._since)

    def _since(self, index: int) -> float:
        return next(iter(self._bins[index].values())).since

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            index = self._where.pop(future, None)
            if index is not None:
                del self._bins[index][future]

    def _take(self) -> list[Batch[R]]:
        if self._on_batch is not None:
            self._deliver()
            return []
        with self._lock:
            formed, self._formed = self._formed, deque()
        return [live for live in (batch.pending() for batch in formed) if len(live)]

    def _deliver(self) -> None:
        if self._on_batch is None:
            return
        # Its own lock: batches reach the callback in order of formation, and the callback may call the scheduler.
        with self._delivery:
            while (batch := self._next_formed()) is not None:
                live = batch.pending()
                if not len(live):
                    continue
                try:
                    self._on_batch(live)
                except Exception as error:
                    # The batch is in nobody's hands any more: without this its callers would wait for ever. Raised here
                    # it would hit whoever happened to submit last.
                    for future in live.futures:
                        with suppress(InvalidStateError):
                            future.set_exception(error)

    def _next_formed(self) -> Batch[R] | None:
        with self._lock:
            return self._formed.popleft() if self._formed else None


def _inner(edges: ArrayLike | None) -> list[float]:
    return [] if edges is None else checked_edges(edges)[1:-1].tolist()
