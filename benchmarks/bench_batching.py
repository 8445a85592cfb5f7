"""The simulator's speed and agreement with the closed forms; the gain of bins over arrival order, beside sorting.

Bars: 128,000 requests per configuration in under a second; theory and simulation within 1 %.

    python benchmarks/bench_batching.py
"""

import time

import numpy as np

from superpose.inference import (
    MultiBinBatchSampler,
    MultiBinScheduler,
    answer_lengths,
    optimal_edges,
    poisson_arrivals,
    quantile_edges,
    simulate_batching,
    uniform_edges,
)
from superpose.theory import (
    batch_throughput,
    batching_latency,
    empirical_batch_time,
    uniform_batch_time,
)

REQUESTS, LOW, HIGH = 128_000, 1.0, 20.0
BINS = (1, 2, 4, 8)


def timed(call):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def uniform():
    generator = np.random.default_rng(0)
    service = generator.uniform(LOW, HIGH, REQUESTS)
    zero, worst = np.zeros(REQUESTS), 0.0
    print(f"uniform lengths, B = 128, {REQUESTS} requests")
    print(f"{'bins':>4} {'theory':>8} {'simulated':>9} {'error':>7} {'seconds':>8}")
    for k in BINS:
        run, seconds = timed(lambda k=k: simulate_batching(zero, service, uniform_edges(k, LOW, HIGH), 128))
        theory = batch_throughput(128, uniform_batch_time(k, 128, LOW, HIGH))
        error = abs(run.throughput / theory - 1)
        worst = max(worst, error)
        print(f"{k:4} {theory:8.3f} {run.throughput:9.3f} {error:7.2%} {seconds:8.3f}")
    arrivals = poisson_arrivals(REQUESTS, 8.0, generator)
    for k in BINS:
        edges = uniform_edges(k, LOW, HIGH)
        run = simulate_batching(arrivals, service, edges, 128, servers=None, leftover="drop")
        rate = REQUESTS / arrivals[-1]
        error = abs(run.mean_latency / batching_latency(uniform_batch_time(k, 128, LOW, HIGH), k, 128, rate) - 1)
        worst = max(worst, error)
    print(f"largest error of throughput and latency: {worst:.2%} (bar 1 %)\n")


def speed():
    generator = np.random.default_rng(1)
    service, arrivals = generator.uniform(LOW, HIGH, REQUESTS), poisson_arrivals(REQUESTS, 0.7, generator)
    print(f"seconds for {REQUESTS} requests, 4 bins (bar 1 s)")
    for size in (128, 8, 2):
        for options in ({}, {"policy": "shortest"}, {"max_wait": 20.0}, {"servers": 8}):
            _, seconds = timed(
                lambda size=size, o=options: simulate_batching(
                    arrivals, service, uniform_edges(4, LOW, HIGH), size, **o
                )
            )
            print(f"  B = {size:3}, {options or 'first formed, one server'!s:28} {seconds:6.3f}")
    scheduler = MultiBinScheduler(uniform_edges(4, LOW, HIGH), 8)

    def submit():
        for i, length in enumerate(service[:20_000]):
            scheduler.submit(i, length)
        return scheduler.poll()

    _, seconds = timed(submit)
    print(f"the live scheduler: {1e6 * seconds / 20_000:.1f} us per request\n")


def real():
    lengths = answer_lengths()
    tokens = np.random.default_rng(2).choice(lengths, 64_000)
    steps = {"arrival order": sum(tokens[i : i + 8].max() for i in range(0, 64_000, 8))}
    for k in (2, 4, 8, 16, 32):
        edges = quantile_edges(lengths, k)
        steps[f"{k} bins"] = sum(tokens[batch].max() for batch in MultiBinBatchSampler(tokens, 8, edges=edges))
    edges, seconds = timed(lambda: optimal_edges(lengths, 4, 8))
    steps["4 bins, optimal edges"] = sum(tokens[b].max() for b in MultiBinBatchSampler(tokens, 8, edges=edges))
    ordered = np.sort(tokens)
    steps["sorted"] = sum(ordered[i : i + 8].max() for i in range(0, 64_000, 8))
    print("answers of Mixtral-8x7B to GSM8K, B = 8, lengths known: speed over arrival order, and padding waste")
    for name, count in steps.items():
        print(f"  {name:22} {steps['arrival order'] / count:6.3f}x {1 - tokens.sum() / (8 * count):7.1%}")
    time_ = empirical_batch_time(lengths, quantile_edges(lengths, 4), 8)
    print(f"  closed form at 4 bins  {empirical_batch_time(lengths, [0, 1e9], 8) / time_:6.3f}x")
    print(f"  optimal edges found in {seconds:.2f} s")


if __name__ == "__main__":
    uniform()
    speed()
    real()
