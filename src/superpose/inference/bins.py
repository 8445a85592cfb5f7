"""Bins of requests by predicted length: where their edges lie, and which request goes where.

A bin is half open, ``[edges[i], edges[i + 1])``; what lies outside all of them goes to the nearest edge bin, so that no
request is lost. Guldogan et al., "Multi-Bin Batching" (arXiv 2412.04504); :func:`optimal_edges` goes beyond it.
"""

import math
import warnings
from collections import deque

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from superpose.errors import InputError
from superpose.theory.batching import checked_edges, checked_lengths
from superpose.theory.batching import exponential_edges as exponential_edges

_CANDIDATES = 2000  # distinct lengths between which the dynamic programme looks for edges; its cost is quadratic


def assign_bins(lengths: ArrayLike, edges: ArrayLike) -> Int[np.ndarray, " requests"]:
    """Return the bin of each length, 0 to ``len(edges) - 2``.

    Args:
        lengths: predicted lengths, in the unit of the edges.
        edges: strictly increasing.

    Raises:
        InputError: edges that do not increase; no request; lengths that are NaN, infinite or negative.
    """
    inner = checked_edges(edges)[1:-1]
    return np.searchsorted(inner, checked_lengths(lengths), side="right")


def uniform_edges(bins: int, low: float, high: float) -> Float[np.ndarray, " edges"]:
    """Return equal bins between ``low`` and ``high``: the best ones for lengths that are uniform there (Lemma 4.1).

    Raises:
        InputError: fewer than one bin, or not ``0 <= low < high``.
    """
    _check_bins(bins)
    if not 0 <= low < high < math.inf:
        raise InputError(f"low and high are {low} and {high}; allowed: 0 <= low < high, both finite")
    return np.linspace(low, high, bins + 1)


def quantile_edges(lengths: ArrayLike, bins: int) -> Float[np.ndarray, " edges"]:
    """Return edges that put about the same number of observed lengths into every bin.

    Inner edges lie midway between two neighbouring distinct lengths, so that a value that is frequent is never cut.
    Where too few distinct lengths leave two edges in the same place, they are merged and a warning says how many bins
    there are: ``len(edges) - 1``.

    Args:
        lengths: observed lengths, at least one.
        bins: number of bins wanted.

    Raises:
        InputError: fewer than one bin, or lengths that are none.
    """
    _check_bins(bins)
    values, counts = np.unique(checked_lengths(lengths), return_counts=True)
    if len(values) == 1:
        _merged(bins, 1, 1)
        return np.array([values[0], np.nextafter(values[0], math.inf)])
    below = counts.cumsum()[:-1] / counts.sum()
    wanted = np.arange(1, bins) / bins
    after = np.clip(np.searchsorted(below, wanted), 1, max(1, len(below) - 1))
    before = after - 1
    after = np.minimum(after, len(below) - 1)
    nearest = np.where(wanted - below[before] <= below[after] - wanted, before, after)
    cuts = np.unique(nearest)
    if len(cuts) + 1 < bins:
        _merged(bins, len(cuts) + 1, len(values))
    return np.concatenate([values[:1], (values[cuts] + values[cuts + 1]) / 2, values[-1:]])


def optimal_edges(lengths: ArrayLike, bins: int, batch_size: int) -> Float[np.ndarray, " edges"]:
    """Return the edges with the smallest mean batch time for an observed law of lengths, whatever its shape.

    This is beyond the paper, which has the best edges for uniform lengths only. A dynamic programme over the distinct
    lengths (beyond 2000 of them: over as many quantiles) minimises ``sum_i p_i E[max of B | bin i]``. Heavy tails get
    narrow bins at the top, where equal-mass bins waste most.

    Args:
        lengths: observed lengths, at least one.
        bins: number of bins; merged with a warning where there are fewer distinct lengths.
        batch_size: requests per batch, B.

    Raises:
        InputError: counts below 1, or lengths that are none.
    """
    _check_bins(bins)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; allowed: 1 or more")
    observed = np.sort(checked_lengths(lengths))
    if len(np.unique(observed)) > _CANDIDATES:
        # Midpoints of equal shares: as many representatives of the same mass.
        observed = observed[((np.arange(_CANDIDATES) + 0.5) / _CANDIDATES * len(observed)).astype(int)]
    values, counts = np.unique(observed, return_counts=True)
    if len(values) == 1:
        _merged(bins, 1, 1)
        return np.array([values[0], np.nextafter(values[0], math.inf)])
    if bins > len(values):
        _merged(bins, len(values), len(values))
    cuts = _cheapest_cuts(_interval_costs(values, counts, batch_size), min(bins, len(values)))
    return np.concatenate([values[:1], (values[cuts - 1] + values[cuts]) / 2, values[-1:]])


def neighbour_errors(
    bins: Int[np.ndarray, " requests"], count: int, probability: float, generator: np.random.Generator
) -> Int[np.ndarray, " requests"]:
    """Move each request to either neighbouring bin with the given probability (section 6.2).

    An inner bin is kept with probability ``1 - 2 p``; the two edge bins have one neighbour and are kept with ``1 - p``.

    Args:
        bins: true bins, 0 to ``count - 1``.
        count: number of bins.
        probability: of moving to one neighbour, 0 to 0.5.
        generator: of the errors.

    Raises:
        InputError: a probability outside 0 to 0.5.
    """
    _check_bins(count)
    if not 0 <= probability <= 0.5:
        raise InputError(f"probability is {probability}; allowed: 0 to 0.5")
    drawn = generator.random(len(bins))
    moved = bins + np.where(drawn < probability, -1, np.where(drawn < 2 * probability, 1, 0))
    # A request cannot leave by the side where there is no neighbour: it stays.
    return np.where((moved < 0) | (moved >= count), bins, moved)


class SlidingEdges:
    """Quantile edges of the last answers, for a load whose lengths drift.

    Args:
        bins: number of bins wanted.
        window: answers remembered.
        every: answers between two estimates; the first estimate needs as many.

    Raises:
        InputError: a count below 1.
    """

    def __init__(self, bins: int, window: int = 1000, every: int = 100) -> None:
        _check_bins(bins)
        for name, count in (("window", window), ("every", every)):
            if count < 1:
                raise InputError(f"{name} is {count}; allowed: 1 or more")
        self.bins = bins
        self._every = every
        self._seen = 0
        self._lengths: deque[float] = deque(maxlen=window)

    def observe(self, length: float) -> Float[np.ndarray, " edges"] | None:
        """Remember one answer's true length; return new edges whenever it is time for an estimate, else None.

        Duplicate edges are merged here without a warning: ``len(edges) - 1`` says how many bins are left.

        Raises:
            InputError: a length that is none.
        """
        self._lengths.append(float(checked_lengths([length])[0]))
        self._seen += 1
        if self._seen % self._every:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MergedBinsWarning)
            return quantile_edges(np.array(self._lengths), self.bins)


class MergedBinsWarning(UserWarning):
    """Fewer bins than asked for: the lengths have too few distinct values."""


def _merged(wanted: int, left: int, distinct: int) -> None:
    if left < wanted:
        warnings.warn(
            f"bins is {wanted}, but lengths with {distinct} distinct values fill only {left}: duplicate edges are "
            f"merged, and there are {left} bins",
            MergedBinsWarning,
            stacklevel=3,
        )


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise InputError(f"bins is {bins}; allowed: 1 or more")


def _interval_costs(
    values: Float[np.ndarray, " values"], counts: Int[np.ndarray, " values"], batch_size: int
) -> Float[np.ndarray, "starts ends"]:
    # costs[i, j] = mass of values[i:j+1] times the mean of the longest of B drawn among them. The mean falls short of
    # values[j] by a sum that a recursion over j carries along; written as powers of masses it would underflow.
    total = np.concatenate([[0.0], counts.cumsum() / counts.sum()])
    size = len(values)
    costs = np.full((size, size), np.inf)
    short = np.zeros(size)
    for end in range(size):
        mass = total[end + 1] - total[: end + 1]
        if end:
            before = total[end] - total[:end]
            short[:end] = (short[:end] + values[end] - values[end - 1]) * (before / mass[:end]) ** batch_size
        costs[: end + 1, end] = mass * (values[end] - short[: end + 1])
    return costs


def _cheapest_cuts(costs: Float[np.ndarray, "starts ends"], bins: int) -> Int[np.ndarray, " cuts"]:
    size = len(costs)
    best = costs[0]
    choices = []
    for _ in range(bins - 1):
        # through[i, j]: the last bin is values[i:j+1], the others are as good as they can be.
        through = np.full((size, size), np.inf)
        through[1:] = best[:-1, None] + costs[1:]
        choices.append(through.argmin(0))
        best = through.min(0)
    cuts, end = [], size - 1
    for choice in reversed(choices):
        start = int(choice[end])
        cuts.append(start)
        end = start - 1
    return np.array(cuts[::-1], dtype=int)
