"""Static batches of requests binned by length: exact batch times, throughput, latency and the best bins.

A batch of B requests occupies the server until its longest request is done. Requests wait in k bins by length, and
every batch is formed inside one bin. Guldogan, Kunde, Lee and Pedarsani, "Multi-Bin Batching for Increasing LLM
Inference Throughput" (arXiv 2412.04504). Lengths, edges and times share one unit; a rate is requests per such unit.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import hyp2f1

from superpose.errors import InputError


def checked_lengths(lengths: ArrayLike, argument: str = "lengths") -> Float[np.ndarray, " requests"]:
    """Return lengths as float64, having refused what no length can be.

    Raises:
        InputError: nothing there, more than one axis, or a value that is NaN, infinite or negative.
    """
    values = np.asarray(lengths, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError(f"{argument} has shape {values.shape}; allowed: one axis with at least one request")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"{argument}[{at}] is {values[at]}; allowed: finite numbers >= 0")
    return values


def checked_edges(edges: ArrayLike) -> Float[np.ndarray, " edges"]:
    """Return the edges of the bins ``[edges[i], edges[i + 1])`` as float64.

    Raises:
        InputError: fewer than two edges, NaN, or edges that do not increase.
    """
    values = np.asarray(edges, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise InputError(f"edges has shape {values.shape}; allowed: one axis with at least two edges")
    # NaN compares false with everything.
    if not (values[1:] > values[:-1]).all():
        raise InputError(f"edges is {_listed(values)}; allowed: strictly increasing numbers")
    return values


def expected_max(lengths: ArrayLike, batch_size: int) -> float:
    """Return the exact mean of the longest of ``batch_size`` independent draws from an empirical law.

    The i-th of n sorted lengths is the longest with probability ``(i/n)^B - ((i-1)/n)^B``.

    Args:
        lengths: the law: every entry is equally likely.
        batch_size: draws per batch, B.

    Raises:
        InputError: ``batch_size`` below 1, or lengths that are none.
    """
    _check_counts(batch_size=batch_size)
    values = np.sort(checked_lengths(lengths))
    return float(np.diff(np.linspace(0, 1, len(values) + 1) ** batch_size) @ values)


def empirical_batch_time(lengths: ArrayLike, edges: ArrayLike, batch_size: int) -> float:
    """Return the mean time of a batch when requests of an empirical law wait in bins.

    A share p_i of the batches comes from bin i; lengths outside the edges belong to the nearest edge bin.

    Raises:
        InputError: as :func:`expected_max`, or edges that do not increase.
    """
    values, inner = checked_lengths(lengths), checked_edges(edges)[1:-1]
    bins = np.searchsorted(inner, values, side="right")
    parts = (values[bins == i] for i in range(len(inner) + 1))
    return sum(len(part) / len(values) * expected_max(part, batch_size) for part in parts if len(part))


def padding_waste(mean_length: float, batch_time: float) -> float:
    """Return the share of a batch's row-steps that is spent on finished rows: ``1 - E[length] / E[batch time]``."""
    return 1 - mean_length / batch_time


def batch_throughput(batch_size: int, batch_time: float, servers: int = 1) -> float:
    """Return the saturated throughput ``B / E[batch time]`` of ``servers`` servers, in requests per unit of time."""
    _check_counts(batch_size=batch_size, servers=servers)
    return servers * batch_size / batch_time


def uniform_batch_time(bins: int, batch_size: int, low: float, high: float) -> float:
    """Return the mean batch time for lengths uniform on ``[low, high]`` in ``bins`` equal bins (Theorem 4.2).

    Raises:
        InputError: counts below 1, or not ``0 <= low < high``.
    """
    _check_counts(bins=bins, batch_size=batch_size)
    _check_range(low, high)
    return (low + high) / 2 + _uniform_excess(batch_size, low, high) / bins


def uniform_partition_time(edges: ArrayLike, batch_size: int) -> float:
    """Return the mean batch time for lengths uniform between the first and last edge, in bins of any edges.

    Equal bins minimise it (Lemma 4.1): it is a convex quadratic in the inner edges.
    """
    _check_counts(batch_size=batch_size)
    values = checked_edges(edges)
    share = np.diff(values) / (values[-1] - values[0])
    return float(share @ (batch_size * values[1:] + values[:-1]) / (batch_size + 1))


def bins_for_throughput(epsilon: float, batch_size: int, low: float, high: float) -> int:
    """Return the smallest number of bins whose throughput is within ``epsilon`` of the limit (Theorem 4.3).

    Args:
        epsilon: what may be missing, in requests per unit of time, above 0.
        batch_size: requests per batch, B.
        low: shortest length of the uniform law.
        high: its longest length.

    Raises:
        InputError: ``epsilon`` not above 0, or as :func:`uniform_batch_time`.
    """
    _check_counts(batch_size=batch_size)
    _check_range(low, high)
    if not epsilon > 0:
        raise InputError(f"epsilon is {epsilon}; allowed: requests per unit of time above 0")
    mean = (low + high) / 2
    wanted = batch_size / mean - epsilon
    return max(1, math.ceil(wanted * _uniform_excess(batch_size, low, high) / (epsilon * mean)))


def batching_latency(batch_time: float, bins: int, batch_size: int, rate: float) -> float:
    """Return the mean latency with unlimited servers: ``E[t] + (B - 1) k / (2 rate)`` (Lemma 5.1).

    The second term is the wait until the batch is full; it is the same for bins of any mass. With finitely many
    servers this is a lower bound, tight when they are seldom busy.

    Raises:
        InputError: counts below 1, or a rate not above 0.
    """
    _check_counts(bins=bins, batch_size=batch_size)
    if not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: finite numbers of requests per unit of time above 0")
    return batch_time + (batch_size - 1) * bins / (2 * rate)


def exponential_edges(bins: int, batch_size: int, rate: float) -> Float[np.ndarray, " edges"]:
    """Return the edges that minimise the bound on the batch time of an exponential law (Lemma A.1).

    ``l_i = (1 / rate) * sum_{j <= i} log L_{k - j}`` with ``L_1 = H_B`` and ``L_m = 1 + log L_{m - 1}``; the last edge
    is infinite. They are far from equal-mass.

    Args:
        bins: number of bins, k.
        batch_size: requests per batch, B, at least 2: with one request per batch bins are of no use.
        rate: of the exponential law, one over its mean.

    Raises:
        InputError: a count below its minimum, or a rate not above 0.
    """
    _check_counts(bins=bins, batch_size=batch_size)
    _check_law(rate)
    if bins == 1:
        return np.array([0.0, math.inf])
    if batch_size == 1:
        raise InputError("batch_size is 1; allowed: 2 or more, since a batch of one is never padded")
    factors = [harmonic(batch_size)]
    for _ in range(bins - 2):
        factors.append(1 + math.log(factors[-1]))
    inner = np.cumsum(np.log(factors[::-1])) / rate
    return np.concatenate([[0.0], inner, [math.inf]])


def exponential_batch_time_bound(edges: ArrayLike, batch_size: int, rate: float) -> float:
    """Return the upper bound of Lemma A.1 on the mean batch time of an exponential law.

    Every bin but the last costs its upper edge, the last its lower edge and ``H_B / rate``.

    Args:
        edges: from 0 to infinity.
        batch_size: requests per batch, B.
        rate: of the exponential law.
    """
    values, share = _exponential_shares(edges, batch_size, rate)
    return float(share[:-1] @ values[1:-1] + share[-1] * (values[-2] + harmonic(batch_size) / rate))


def exponential_batch_time(edges: ArrayLike, batch_size: int, rate: float) -> float:
    """Return the exact mean batch time of an exponential law in bins of any edges from 0 to infinity.

    With q the law's mass below the width of a bin, the longest of B in it lies on average
    ``(1 / rate) * sum_{m >= 1} q^m / (B + m)`` below its upper edge.
    """
    values, share = _exponential_shares(edges, batch_size, rate)
    mass = -np.expm1(-rate * np.diff(values)[:-1])
    below = mass / (batch_size + 1) * hyp2f1(1, batch_size + 1, batch_size + 2, mass) / rate
    return float(share[:-1] @ (values[1:-1] - below) + share[-1] * (values[-2] + harmonic(batch_size) / rate))


def exponential_throughput_bound(bins: int, batch_size: int, rate: float) -> float:
    """Return the lower bound on the throughput at the edges of :func:`exponential_edges` (Corollary A.1.1)."""
    edges = exponential_edges(bins, batch_size, rate)
    return batch_size / exponential_batch_time_bound(edges, batch_size, rate)


def harmonic(n: int) -> float:
    """Return the n-th harmonic number: the mean of the longest of n exponential draws of mean 1."""
    return float((1 / np.arange(1, n + 1)).sum())


def _uniform_excess(batch_size: int, low: float, high: float) -> float:
    return (batch_size * high + low) / (batch_size + 1) - (low + high) / 2


def _exponential_shares(
    edges: ArrayLike, batch_size: int, rate: float
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " bins"]]:
    _check_counts(batch_size=batch_size)
    _check_law(rate)
    values = checked_edges(edges)
    if values[0] != 0 or values[-1] != math.inf:
        raise InputError(f"edges is {_listed(values)}; allowed for an exponential law: from 0 to infinity")
    return values, -np.diff(np.exp(-rate * values))


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}; allowed: 1 or more")


def _check_range(low: float, high: float) -> None:
    if not 0 <= low < high < math.inf:
        raise InputError(f"low and high are {low} and {high}; allowed: 0 <= low < high, both finite")


def _check_law(rate: float) -> None:
    if not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: finite numbers above 0")


def _listed(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
