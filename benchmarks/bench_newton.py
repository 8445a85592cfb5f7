"""The compiled logistic Newton transformer against a naive run of its own layers, and against plain damped Newton.

    python benchmarks/bench_newton.py [--threads 1]

*Naive* is the paper's formula in loops: dense matrices, one prompt, one layer, one head after another, the attention
matrix of all pairs of tokens first, all ReLU units of a layer at once. *Plain Newton* does the same arithmetic without
a network (damped steps, the inverse by as many inner steps), so its ratio is what being a transformer costs. All on the
same prompts in this process, CPU time, best of several calls.
"""

import argparse
import math
import time

import torch

from superpose.models import build_logistic_newton
from superpose.theory import damped_newton_path, hessian_condition, logistic_optimum, logistic_rows

CASES = ((5, 40, 0.1, 50), (5, 40, 0.1, 200), (10, 100, 0.05, 200), (10, 100, 0.05, 800))
PROMPTS, STEPS = 4, 6
BUILD_BAR, NAIVE_BAR = 1.0, 5.0  # seconds for a network; times faster than the loop on the largest case


def best(call, repeats=3):
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def naive(dense, program, z):
    for name in program:
        heads, units = dense[name]
        after = z.clone()
        for value, key, query in heads:
            after += (value @ z) @ ((key @ z).mT @ (query @ z))
        z = after
        if units is not None:
            z = z + units.down @ torch.relu(units.up @ z)
    return z


def prompts(dim, points):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(PROMPTS, points, dim, generator=generator, dtype=torch.float64)
    a = a / torch.linalg.vector_norm(a, dim=-1).amax(-1)[:, None, None]
    return a, (a @ torch.randn(PROMPTS, dim, 1, generator=generator, dtype=torch.float64)).sign().squeeze(-1)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(f"{PROMPTS} prompts, {STEPS} Newton steps; times in ms")
    print(f"{'d':>3} {'n':>4} {'J':>4} {'depth':>6} {'width':>6} {'build':>7} {'forward':>8} {'naive':>8} ", end="")
    print(f"{'naive/forward':>14} {'Newton':>7} {'forward/Newton':>15} {'difference':>11} {'error':>8}")
    builds, ratio = [], math.nan
    for dim, points, mu, pieces in CASES:
        inner = math.ceil(math.log2(hessian_condition(mu)) + 4)
        a, y = prompts(dim, points)
        b = logistic_rows(a, y)
        build = best(lambda: build_logistic_newton(dim, mu, STEPS, inner, pieces))  # noqa: B023
        model = build_logistic_newton(dim, mu, STEPS, inner, pieces)
        z = model.encode(a, y)
        dense = {name: model.network.block(name).dense() for name in model.network.names}
        program = model.network.program
        forward = best(lambda: model(z))  # noqa: B023
        loop = best(lambda: [naive(dense, program, one) for one in z], repeats=1)  # noqa: B023
        plain = best(lambda: damped_newton_path(b, mu, STEPS, inner))  # noqa: B023
        after = model(z)
        difference = max(
            float((naive(dense, program, one) - other).abs().max()) for one, other in zip(z, after, strict=True)
        )
        error = float((model.decode(after) - logistic_optimum(b, mu)).norm(dim=-1).max())
        ledger = model.ledger()
        builds.append(build)
        ratio = loop / forward
        print(f"{dim:3} {points:4} {pieces:4} {ledger.blocks:6} {ledger.relu_width:6} {1e3 * build:7.1f} ", end="")
        print(f"{1e3 * forward:8.1f} {1e3 * loop:8.1f} {ratio:14.1f} {1e3 * plain:7.1f} ", end="")
        print(f"{forward / plain:15.1f} {difference:11.1e} {error:8.1e}")
    met = "met" if ratio >= NAIVE_BAR else "missed"
    print(f"\nnaive over forward on the last case: {ratio:.1f}x (bar {NAIVE_BAR:g}x: {met})")
    met = "met" if max(builds) < BUILD_BAR else "missed"
    print(f"slowest build: {max(builds):.2f} s (bar {BUILD_BAR:g} s: {met})")


if __name__ == "__main__":
    main()
