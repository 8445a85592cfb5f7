"""What static batches by predicted length do to a stream of requests: an exact simulation, fast enough to scan plans.

    simulation = simulate_batching(arrivals, service, edges=quantile_edges(history, 4), batch_size=8)
    simulation.throughput, simulation.mean_latency, simulation.padding_waste

Batches are formed by the estimate and served by the truth. Guldogan et al., "Multi-Bin Batching" (arXiv 2412.04504).
"""

import heapq
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose
from superpose.inference.bins import assign_bins
from superpose.theory.batching import checked_edges, checked_lengths

POLICIES = ("fcfs", "shortest")
LEFTOVERS = ("flush", "drop")


class ServedBatch(NamedTuple):
    """One batch of a simulation.

    Attributes:
        bin: the bin in which its members waited.
        members: their indices, first come first.
        formed: when it entered the service queue.
        start: when a server took it.
        end: when its longest member was done.
    """

    bin: int
    members: Int[np.ndarray, " members"]
    formed: float
    start: float
    end: float


@dataclass(frozen=True)
class BatchSimulation:
    """What happened to every request and every batch; times as in the arrivals.

    Attributes:
        latency: from arrival to the end of the batch; NaN for requests left over and dropped.
        bins: the bin of each request.
        order: requests batch by batch, in order of formation.
        offsets: where each batch begins in ``order``, and the end.
        formed: when each batch entered the queue.
        start: when a server took it.
        end: when its longest member was done.
        batch_size: the size of a full batch, B.
        servers: how many served; None: as many as were needed.
        throughput: requests served, over the time from the first arrival to the end of the last batch.
        utilisation: share of the servers' time in which they were busy; NaN with unlimited servers.
        padding_waste: share of row-steps not spent on a request: ``1 - sum(length) / (B * sum(longest of a batch))``.
        mean_latency: over the requests that were served.
    """

    latency: Float[np.ndarray, " requests"]
    bins: Int[np.ndarray, " requests"]
    order: Int[np.ndarray, " served"]
    offsets: Int[np.ndarray, " ends"]
    formed: Float[np.ndarray, " batches"]
    start: Float[np.ndarray, " batches"]
    end: Float[np.ndarray, " batches"]
    batch_size: int
    servers: int | None
    throughput: float
    utilisation: float
    padding_waste: float
    mean_latency: float

    def batches(self) -> Iterator[ServedBatch]:
        """Yield the batches in the order in which servers took them."""
        for i in np.lexsort((np.arange(len(self.start)), self.start)):
            members = self.order[self.offsets[i] : self.offsets[i + 1]]
            times = float(self.formed[i]), float(self.start[i]), float(self.end[i])
            yield ServedBatch(int(self.bins[members[0]]), members, *times)


def simulate_batching(
    arrivals: ArrayLike,
    service: ArrayLike,
    edges: ArrayLike | None = None,
    batch_size: int = 8,
    servers: int | None = 1,
    policy: str = "fcfs",
    max_wait: float | None = None,
    predicted: ArrayLike | None = None,
    leftover: str = "flush",
) -> BatchSimulation:
    """Simulate batches of requests binned by predicted length on one or more servers.

    Args:
        arrivals: times of arrival, not decreasing; all zero: saturation.
        service: how long each request takes on its own, in the unit of the arrivals.
        edges: of the bins, in the unit of ``predicted``; None: one bin.
        batch_size: requests per batch, B.
        servers: how many batches run at once; None: without limit.
        policy: which waiting batch a free server takes: ``"fcfs"``, the one formed first; ``"shortest"``, the one whose
            longest prediction is smallest.
        max_wait: how long a request may wait in its bin before it leaves with what is there; None: until it is full.
        predicted: predicted length of each request; None: ``service`` itself, an oracle.
        leftover: what becomes of bins that are never filled: ``"flush"`` at the last arrival, or ``"drop"``; without
            meaning where ``max_wait`` ends every wait.

    Raises:
        InputError: nothing to simulate, times that are none, arrays of different lengths, counts below 1, edges that do
            not increase, unknown names.
    """
    choose("policy", policy, POLICIES)
    choose("leftover", leftover, LEFTOVERS)
    _check_settings(batch_size, servers, max_wait)
    arrived, truth = checked_lengths(arrivals, "arrivals"), checked_lengths(service, "service")
    estimate = truth if predicted is None else checked_lengths(predicted, "predicted")
    if not len(arrived) == len(truth) == len(estimate):
        sizes = f"{len(arrived)}, {len(truth)} and {len(estimate)}"
        raise InputError(f"arrivals, service and predicted have {sizes} entries; allowed: the same number")
    if (np.diff(arrived) < 0).any():
        raise InputError(f"arrivals[{int((np.diff(arrived) < 0).argmax()) + 1}] is before its predecessor; sort them")
    bins, count = _binned(estimate, edges)
    order, offsets, formed = _form(arrived, bins, count, batch_size, max_wait, leftover)
    if not len(formed):
        raise InputError(f"leftover is 'drop' and no bin has {batch_size} requests; allowed here: 'flush'")
    lasting = np.maximum.reduceat(truth[order], offsets[:-1])
    if servers is None:
        start = formed
    elif policy == "fcfs":
        start = _first_formed(formed, lasting, servers)
    else:
        start = _shortest(formed, lasting, np.maximum.reduceat(estimate[order], offsets[:-1]), servers)
    end = start + lasting
    latency = np.full(len(arrived), np.nan)
    latency[order] = np.repeat(end, np.diff(offsets)) - arrived[order]
    span = float(end.max() - arrived[0])
    busy = float(lasting.sum())
    return BatchSimulation(
        latency=latency,
        bins=bins,
        order=order,
        offsets=offsets,
        formed=formed,
        start=start,
        end=end,
        batch_size=batch_size,
        servers=servers,
        throughput=len(order) / span if span else math.inf,
        utilisation=math.nan if servers is None or not span else busy / (servers * span),
        padding_waste=1 - float(truth[order].sum()) / (batch_size * busy) if busy else 0.0,
        mean_latency=float(np.nanmean(latency)),
    )


def poisson_arrivals(requests: int, rate: float, generator: np.random.Generator) -> Float[np.ndarray, " requests"]:
    """Draw the times of a Poisson stream.

    Args:
        requests: how many, at least 1.
        rate: requests per unit of time.
        generator: of the draws.

    Raises:
        InputError: no request, or a rate not above 0.
    """
    if requests < 1:
        raise InputError(f"requests is {requests}; allowed: 1 or more")
    if not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: finite numbers above 0")
    return generator.exponential(1 / rate, requests).cumsum()


def _check_settings(batch_size: int, servers: int | None, max_wait: float | None) -> None:
    for name, count in (("batch_size", batch_size), ("servers", servers)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; allowed: 1 or more")
    if max_wait is not None and not max_wait >= 0:
        raise InputError(f"max_wait is {max_wait}; allowed: 0 or more, or None")


def _binned(estimate: np.ndarray, edges: ArrayLike | None) -> tuple[Int[np.ndarray, " requests"], int]:
    if edges is None:
        return np.zeros(len(estimate), dtype=int), 1
    bins, count = assign_bins(estimate, edges), len(checked_edges(edges)) - 1
    if count > 1 and len(estimate) >= count and (bins == bins[0]).all():
        warnings.warn(
            f"all {len(bins)} requests fall into one of {count} bins, which is batching without bins: are the edges "
            "in the unit of the predictions?",
            UserWarning,
            stacklevel=3,
        )
    return bins, count


def _form(
    arrived: np.ndarray, bins: np.ndarray, count: int, batch_size: int, max_wait: float | None, leftover: str
) -> tuple[Int[np.ndarray, " served"], Int[np.ndarray, " ends"], Float[np.ndarray, " batches"]]:
    parts: list[np.ndarray] = []
    times: list[float] = []
    for index in range(count):
        members = np.flatnonzero(bins == index)
        for first, end, time in _groups(arrived[members], batch_size, max_wait, float(arrived[-1])):
            if end - first == batch_size or max_wait is not None or leftover == "flush":
                parts.append(members[first:end])
                times.append(time)
    formed = np.array(times)
    # At saturation all are formed at once: then the one whose last member came first goes first.
    full = np.array([len(part) == batch_size for part in parts], dtype=bool)
    last = np.array([part[-1] for part in parts], dtype=int)
    by_time = np.lexsort((last, ~full, formed))
    sizes = np.array([len(parts[i]) for i in by_time], dtype=int)
    order = np.concatenate([parts[i] for i in by_time]) if parts else np.empty(0, dtype=int)
    return order, np.concatenate([[0], sizes.cumsum()]).astype(int), formed[by_time]


def _groups(
    arrived: np.ndarray, batch_size: int, max_wait: float | None, last: float
) -> Iterator[tuple[int, int, float]]:
    # First member, end and time of formation of every batch of one bin.
    first = 0
    while first < len(arrived):
        deadline = last if max_wait is None else float(arrived[first]) + max_wait
        full = first + batch_size
        end = full if full <= len(arrived) and arrived[full - 1] <= deadline else 0
        end = end or int(np.searchsorted(arrived[: full - 1], deadline, side="right"))
        yield first, end, float(arrived[full - 1]) if end == full else deadline
        first = end


def _first_formed(formed: np.ndarray, lasting: np.ndarray, servers: int) -> Float[np.ndarray, " batches"]:
    free = [0.0] * servers
    start = []
    for ready, duration in zip(formed.tolist(), lasting.tolist(), strict=True):
        begin = max(free[0], ready)
        heapq.heapreplace(free, begin + duration)
        start.append(begin)
    return np.array(start)


def _shortest(
    formed: np.ndarray, lasting: np.ndarray, expected: np.ndarray, servers: int
) -> Float[np.ndarray, " batches"]:
    free = [0.0] * servers
    queue: list[tuple[float, int]] = []
    # Lists, since reading single numbers out of an array is slow.
    ready, duration, keys = formed.tolist(), lasting.tolist(), expected.tolist()
    start = [0.0] * len(ready)
    coming = 0
    for _ in start:
        now = free[0] if queue else max(free[0], ready[coming])
        while coming < len(ready) and ready[coming] <= now:
            heapq.heappush(queue, (keys[coming], coming))
            coming += 1
        _, chosen = heapq.heappop(queue)
        heapq.heapreplace(free, now + duration[chosen])
        start[chosen] = now
    return np.array(start)
