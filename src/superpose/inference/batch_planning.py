"""How many bins: throughput, padding waste and latency of each number of bins, from the closed forms.

plans = plan_bins(lengths, batch_size=8, bins=(1, 2, 4, 8), rate=20, servers=8)
recommended_plan(plans, within=0.1)
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose
from superpose.inference.bins import optimal_edges, quantile_edges
from superpose.theory.batching import (
    batch_throughput,
    batching_latency,
    checked_lengths,
    empirical_batch_time,
    padding_waste,
)

DEFAULT_BINS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class BinPlan:
    """One number of bins.

    Attributes:
        bins: how many there are, after merging of duplicate edges.
        wanted: how many were asked for.
        edges: where they lie, in the unit of the lengths.
        batch_time: mean time of a batch.
        throughput: requests per unit of time at saturation, over all servers.
        limit: what it would be if no batch were padded.
        waste: share of row-steps spent on padding.
        latency: mean latency with unlimited servers, a lower bound for a finite number; infinite where the arrivals
            outrun the servers; None without a rate.
    """

    bins: int
    wanted: int
    edges: Float[np.ndarray, " edges"]
    batch_time: float
    throughput: float
    limit: float
    waste: float
    latency: float | None


class UnstableWarning(UserWarning):
    """Requests come faster than they can be served: latency grows without bound."""


def plan_bins(
    lengths: ArrayLike,
    batch_size: int,
    bins: Sequence[int] = DEFAULT_BINS,
    *,
    rate: float | None = None,
    servers: int = 1,
    edges: str = "quantile",
) -> list[BinPlan]:
    """Return throughput, waste and latency for each number of bins, exactly for this empirical law of lengths.

    Args:
        lengths: observed service times; times come out in their unit (tokens: one decoding step each).
        batch_size: requests per batch, B.
        bins: numbers of bins.
        rate: arrivals per unit of time, for the latency; None: no latency.
        servers: how many batches run at once.
        edges: ``"quantile"`` (equal mass, as in the paper) or ``"optimal"`` (smallest batch time).

    Raises:
        InputError: nothing to plan for, counts below 1, a rate not above 0, unknown edges, lengths that are all 0.
    """
    choose("edges", edges, ("quantile", "optimal"))
    values = checked_lengths(lengths)
    if not bins:
        raise InputError("bins is empty; allowed: one or more numbers of bins")
    if not values.any():
        raise InputError("lengths are all 0; allowed: some above 0")
    plans = []
    for wanted in bins:
        found = quantile_edges(values, wanted) if edges == "quantile" else optimal_edges(values, wanted, batch_size)
        time = empirical_batch_time(values, found, batch_size)
        throughput = batch_throughput(batch_size, time, servers)
        latency = None if rate is None else batching_latency(time, len(found) - 1, batch_size, rate)
        if rate is not None and rate >= throughput:
            latency = math.inf
        limit = servers * batch_size / float(values.mean())
        waste = padding_waste(float(values.mean()), time)
        plans.append(BinPlan(len(found) - 1, wanted, found, time, throughput, limit, waste, latency))
    slow = [plan for plan in plans if plan.latency == math.inf]
    if slow:
        listed = ", ".join(f"{plan.bins} bins serve {plan.throughput:.4g}" for plan in slow)
        warnings.warn(
            f"{rate:g} requests arrive per unit of time, but {listed}: latency grows without bound",
            UnstableWarning,
            stacklevel=2,
        )
    return plans


def recommended_plan(plans: Sequence[BinPlan], within: float = 0.1) -> BinPlan | None:
    """Return the plan with the fewest bins that is stable and whose throughput is within a share of the limit.

    Args:
        plans: from :func:`plan_bins`.
        within: what may be missing, as a share of the limit (the epsilon of Theorem 4.3 over c_max), 0 to 1.

    Returns:
        None if no plan reaches that.

    Raises:
        InputError: no plans, or a share outside 0 to 1.
    """
    if not plans:
        raise InputError("plans is empty; allowed: one or more plans")
    if not 0 <= within <= 1:
        raise InputError(f"within is {within}; allowed: 0 to 1")
    good = [plan for plan in plans if plan.latency != math.inf and plan.throughput >= (1 - within) * plan.limit]
    return min(good, key=lambda plan: plan.bins, default=None)
