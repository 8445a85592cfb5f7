"""Simulations and closed forms of the study, as memoised steps."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from superpose.experiment import step
from superpose.inference import (
    answer_lengths,
    assign_bins,
    lognormal_lengths,
    neighbour_errors,
    poisson_arrivals,
    quantile_edges,
    simulate_batching,
    uniform_edges,
)
from superpose.studies.multi_bin_batching.config import (
    EXPONENTIAL_RATE,
    HIGH,
    LOW,
    REAL_BATCH,
    REAL_SERVERS,
    SECONDS_PER_TOKEN,
)
from superpose.theory import (
    batch_throughput,
    bins_for_throughput,
    exponential_batch_time,
    exponential_batch_time_bound,
    exponential_edges,
    uniform_batch_time,
    uniform_partition_time,
)


@step(version="1", label="saturated throughput")
def saturated(seed: int, requests: int, batch_size: int, bins: Sequence[int]) -> dict[str, np.ndarray]:
    """Throughput and waste per number of bins, uniform lengths, all requests there at once."""
    service = np.random.default_rng([seed, 1]).uniform(LOW, HIGH, requests)
    runs = [simulate_batching(np.zeros(requests), service, uniform_edges(k, LOW, HIGH), batch_size) for k in bins]
    return {
        "throughput": np.array([run.throughput for run in runs]),
        "waste": np.array([run.padding_waste for run in runs]),
    }


@step(version="1", label="best edges for uniform lengths")
def best_edges(bins: int, batch_size: int, perturbations: int, seed: int) -> dict[str, float]:
    """Minimise the mean batch time over the edges from random starts, and try random changes of the equal bins.

    Returns:
        ``distance`` of the edges found from equal bins, the largest, in units of length; ``gain``: the most that a
        random change took off the batch time.
    """
    generator = np.random.default_rng([seed, bins, 2])
    equal = uniform_edges(bins, LOW, HIGH)

    def edges(widths: np.ndarray) -> np.ndarray:
        shares = np.exp(widths - widths.max())
        return LOW + (HIGH - LOW) * np.concatenate([[0], shares.cumsum() / shares.sum()])

    distances = []
    for _ in range(5):
        found = minimize(
            lambda widths: uniform_partition_time(edges(widths), batch_size),
            generator.normal(size=bins),
            method="BFGS",
            options={"gtol": 1e-9},
        )
        distances.append(np.abs(edges(found.x) - equal).max())
    best = uniform_partition_time(equal, batch_size)
    changes = np.exp(generator.uniform(-6, 0, perturbations))[:, None] * generator.normal(size=(perturbations, bins))
    gains = [best - uniform_partition_time(edges(change), batch_size) for change in changes]
    return {"distance": float(max(distances)), "gain": float(max(gains))}


@step(version="1", label="bins for a throughput")
def bins_needed(batch_size: int, points: int) -> dict[str, Any]:
    """The rule for the number of bins over a range of what may be missing of the limit.

    Returns:
        ``epsilon`` and ``bins``; how often the rule was wrong (``violations``); the ``slope`` of log bins over log
        epsilon where epsilon is at most a hundredth of the limit.
    """
    limit = 2 * batch_size / (LOW + HIGH)
    epsilon = np.geomspace(1e-5, 0.9, points) * limit
    bins = np.array([bins_for_throughput(float(each), batch_size, LOW, HIGH) for each in epsilon])

    def reached(k: int) -> float:
        return batch_throughput(batch_size, uniform_batch_time(k, batch_size, LOW, HIGH))

    # A rounding error of the comparison is no violation of the rule.
    wrong = [
        reached(int(k)) < (limit - each) * (1 - 1e-12) or (k > 1 and reached(int(k) - 1) >= limit - each)
        for k, each in zip(bins, epsilon, strict=True)
    ]
    small = epsilon <= limit / 100
    slope = np.polyfit(np.log(epsilon[small]), np.log(bins[small]), 1)[0]
    return {"epsilon": epsilon, "bins": bins, "violations": int(sum(wrong)), "slope": float(slope)}


@step(version="1", label="latency")
def latencies(
    seed: int, requests: int, batch_size: int, bins: Sequence[int], rates: Sequence[float]
) -> dict[str, np.ndarray]:
    """Mean latency with unlimited servers and with one, ``[rates, bins]``; and how it grows on one, second half
    of the requests over the first.

    Requests left in unfilled bins at the end are left out.
    """
    generator = np.random.default_rng([seed, 3])
    service = generator.uniform(LOW, HIGH, requests)
    arrivals = poisson_arrivals(requests, 1.0, generator)
    free, one, growth = (np.empty((len(rates), len(bins))) for _ in range(3))
    for i, rate in enumerate(rates):
        for j, k in enumerate(bins):
            edges = uniform_edges(k, LOW, HIGH)
            for servers, into in ((None, free), (1, one)):
                run = simulate_batching(arrivals / rate, service, edges, batch_size, servers, leftover="drop")
                into[i, j] = run.mean_latency
                half = requests // 2
                growth[i, j] = np.nanmean(run.latency[half:]) / np.nanmean(run.latency[:half])
    return {"free": free, "one": one, "growth": growth}


@step(version="1", label="edges for exponential lengths")
def exponential_choices(bins: int, batch_size: int) -> dict[str, Any]:
    """Edges by the paper's rule, of equal mass, and with the smallest exact batch time; and the bound on it."""
    rule = exponential_edges(bins, batch_size, EXPONENTIAL_RATE)
    mass = -np.log1p(-np.arange(bins) / bins) / EXPONENTIAL_RATE
    best = rule
    if bins > 1:

        def edges(widths: np.ndarray) -> np.ndarray:
            return np.concatenate([[0.0], np.exp(widths).cumsum(), [math.inf]])

        found = minimize(
            lambda widths: exponential_batch_time(edges(widths), batch_size, EXPONENTIAL_RATE),
            np.log(np.diff(rule[:-1])),
            method="Nelder-Mead",
            options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 5000},
        )
        best = edges(found.x)
    bound = batch_size / exponential_batch_time_bound(rule, batch_size, EXPONENTIAL_RATE)
    # JSON and arrays hold infinity alike; the last edge is left out all the same.
    return {"rule": rule[:-1], "equal-mass": mass, "optimal": best[:-1], "bound": bound}


@step(version="1", label="exponential lengths")
def exponential(seed: int, requests: int, batch_size: int, edges: dict[str, Sequence[float]]) -> dict[str, float]:
    """Saturated throughput with each choice of edges (the last one, infinity, left out); full batches only."""
    service = np.random.default_rng([seed, 4]).exponential(1 / EXPONENTIAL_RATE, requests)
    return {
        name: simulate_batching(np.zeros(requests), service, [*inner, math.inf], batch_size, leftover="drop").throughput
        for name, inner in edges.items()
    }


@step(version="1", label="wrong bins")
def with_errors(seed: int, requests: int, batch_size: int, bins: int, errors: Sequence[float]) -> dict[str, np.ndarray]:
    """Saturated throughput for each probability of landing in a neighbouring bin, and of one bin."""
    generator = np.random.default_rng([seed, 5])
    service = generator.uniform(LOW, HIGH, requests)
    true = assign_bins(service, uniform_edges(bins, LOW, HIGH))
    zero = np.zeros(requests)
    found = []
    for error in errors:
        moved = neighbour_errors(true, bins, error, np.random.default_rng([seed, 6]))
        # Bins stand for themselves: the i-th is [i, i + 1).
        run = simulate_batching(zero, service, np.arange(bins + 1.0), batch_size, predicted=moved + 0.5)
        found.append(run.throughput)
    one = simulate_batching(zero, service, None, batch_size).throughput
    return {"throughput": np.array(found), "one": np.array(one)}


@step(version="1", label="real laws of lengths")
def real_law(seed: int, requests: int, law: str, bins: Sequence[int]) -> dict[str, np.ndarray]:
    """Saturated throughput in requests per second, and waste, for lengths drawn from a law of answers."""
    generator = np.random.default_rng([seed, 7])
    if law == "log-normal":
        tokens = lognormal_lengths(requests, generator, cap=1024)
        edges = [quantile_edges(tokens, k) for k in bins]
    else:
        observed = answer_lengths(law)
        tokens = generator.choice(observed, requests)
        edges = [quantile_edges(observed, k) for k in bins]
    service = SECONDS_PER_TOKEN * tokens
    runs = [
        simulate_batching(np.zeros(requests), service, each, REAL_BATCH, REAL_SERVERS, predicted=tokens)
        for each in edges
    ]
    return {
        "throughput": np.array([run.throughput for run in runs]),
        "waste": np.array([run.padding_waste for run in runs]),
    }
