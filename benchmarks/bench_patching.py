"""Patches with written-down weights: seconds to build and to verify, beside SciPy's interpolant and beside training.

    python benchmarks/bench_patching.py [--seconds 60] [--threads 1] [--json FILE]

Three parts. The construction, its verification on all K samples included, for growing N and K: the bar is one second to
build three layers, and two, for N = 1024 of K = 20480. The two-layer network against SciPy's piecewise-linear
interpolant of the same points: equal to 1e-9 at the data for N = 64, and the times to evaluate both. And a side network
of as many layers trained by Adam on the same labels, with ten times the neurons of the construction, until its
residuals are within 0.3, 0.01 and 0.0001 of the largest change, or for --seconds. Wall time, one process, ratios.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import nn

from superpose.models import Patched, evaluate_line, fit_patch, line_patch
from superpose.training import Optimiser, Schedule, optimise, seeded

SIZES = ((64, 2560), (256, 10_240), (1024, 1024), (1024, 20_480))
BAR_SIZE, BAR_SECONDS = (1024, 20_480), 1.0
PEER_SIZE, PEER_AGREES = (64, 2560), 1e-9
TRAINED = (64, 256)
DIM = 8
LEVELS = (0.3, 1e-2, 1e-4)
WIDER = 10


def problem(n: int, k: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = seeded(0, "patching", n + k)
    f = nn.Sequential(nn.Linear(DIM, 64), nn.ReLU(), nn.Linear(64, 1)).double().requires_grad_(False)
    x = torch.randn(k, DIM, generator=generator, dtype=torch.float64)
    chosen = torch.randperm(k, generator=generator)[:n]
    return f, x, torch.randn(n, 1, generator=generator, dtype=torch.float64), chosen


def seconds(call: Callable[[], Any], repeats: int = 3) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def construction() -> list[dict[str, Any]]:
    print(f"{'N':>6} {'K':>7} {'layers':>7} {'neurons':>8}", end=" ")
    print(f"{'build s':>9} {'verify s':>9} {'error':>9} {'largest weight':>15}")
    rows = []
    for n, k in SIZES:
        f, x, labels, chosen = problem(n, k)
        for depth in (2, 3):
            build = seconds(lambda: fit_patch(f, x, labels, chosen, depth, verify=False))  # noqa: B023
            both = seconds(lambda: fit_patch(f, x, labels, chosen, depth))  # noqa: B023
            g = fit_patch(f, x, labels, chosen, depth)
            weight = max(float(p.abs().max()) for p in g.parameters())
            rows.append(
                {
                    "n": n,
                    "k": k,
                    "depth": depth,
                    "neurons": g.report.neurons,
                    "build": build,
                    "verify": max(both - build, 0.0),
                    "error": g.report.error,
                    "weight": weight,
                }
            )
            print(
                f"{n:6} {k:7} {depth:7} {g.report.neurons:8} {build:9.4f} {max(both - build, 0.0):9.4f}"
                f" {g.report.error:9.1e} {weight:15.1e}"
            )
    slowest = max(row["build"] for row in rows if (row["n"], row["k"]) == BAR_SIZE)
    met = "met" if slowest < BAR_SECONDS else "MISSED"
    print(f"bar: build N = {BAR_SIZE[0]} of K = {BAR_SIZE[1]} in {BAR_SECONDS:g} s: {slowest:.3f} s, {met}")
    return rows


def interpolant() -> list[dict[str, Any]]:
    print(f"\n{'N':>6} {'K':>7} {'difference at the data':>23} {'network ms':>11} {'SciPy ms':>9} {'ratio':>7}")
    rows = []
    for n, k in SIZES:
        generator = np.random.default_rng([n, k])
        t = np.sort(generator.uniform(size=k))
        v = np.zeros(k)
        v[generator.choice(k, n, replace=False)] = generator.normal(size=n)
        layers, spline = line_patch(t, v[:, None], 2), make_interp_spline(t, v, k=1)
        difference = float(np.abs(evaluate_line(layers, t)[:, 0] - spline(t)).max())
        ours = seconds(lambda: evaluate_line(layers, t))  # noqa: B023
        theirs = seconds(lambda: spline(t))  # noqa: B023
        rows.append({"n": n, "k": k, "difference": difference, "ours": ours, "scipy": theirs})
        print(f"{n:6} {k:7} {difference:23.1e} {1e3 * ours:11.2f} {1e3 * theirs:9.2f} {ours / theirs:6.0f}x")
    found = next(row["difference"] for row in rows if (row["n"], row["k"]) == PEER_SIZE)
    met = "met" if found <= PEER_AGREES else "MISSED"
    print(f"bar: equal to {PEER_AGREES:g} at the data for N = {PEER_SIZE[0]}: {found:.1e}, {met}")
    print("(a network computes all its neurons for every sample; an interpolant looks its segment up)")
    return rows


class _Enough(Exception):
    """The last level is reached, or the time is up."""


def training(limit: float) -> list[dict[str, Any]]:
    n, k = TRAINED
    f, x, labels, chosen = problem(n, k)
    wanted = torch.zeros(k, 1, dtype=torch.float64)
    wanted[chosen] = labels - f(x[chosen])
    largest = float(wanted.abs().max())
    print(f"\nN = {n} of K = {k}: seconds to residuals below a share of the largest change")
    print(f"{'layers':>7} {'neurons':>8} {'method':>14} " + " ".join(f"{level:>9g}" for level in LEVELS))
    rows = []
    for depth in (2, 3):
        built = seconds(lambda: fit_patch(f, x, labels, chosen, depth))  # noqa: B023
        g = fit_patch(f, x, labels, chosen, depth)
        print(f"{depth:7} {g.report.neurons:8} {'written down':>14} " + " ".join([f"{built:9.4f}"] * len(LEVELS)))
        assert_exact(f, g, x, wanted, largest)
        width = WIDER * g.report.neurons
        reached = trained(depth, width, x.float(), wanted.float(), largest, limit)
        shown = [f"{s:9.1f}" if s is not None else f">{limit:7.0f}s" for s in reached]
        print(f"{depth:7} {width:8} {'Adam':>14} " + " ".join(shown))
        ratios = [f"{(limit if s is None else s) / built:8.0f}x" for s in reached]
        print(
            f"{'':16} {'ratio':>14} "
            + " ".join(r if s is not None else f">{r.strip()}".rjust(9) for r, s in zip(ratios, reached, strict=True))
        )
        rows.append({"depth": depth, "neurons": g.report.neurons, "seconds": built, "width": width, "reached": reached})
    return rows


def assert_exact(f: nn.Module, g: nn.Module, x: torch.Tensor, wanted: torch.Tensor, largest: float) -> None:
    """What is timed must be what it says: the sum of both modules answers as wanted."""
    off = float((Patched(f, g)(x) - f(x) - wanted).abs().max()) / largest
    if off > LEVELS[-1]:
        raise SystemExit(f"the written-down network is off by {off}")


def trained(
    depth: int, width: int, x: torch.Tensor, wanted: torch.Tensor, largest: float, limit: float
) -> list[float | None]:
    torch.manual_seed(0)
    sizes = [width] if depth == 2 else [width // 2, width - width // 2]
    layers: list[nn.Module] = []
    before = DIM
    for size in sizes:
        layers += [nn.Linear(before, size), nn.ReLU()]
        before = size
    network = nn.Sequential(*layers, nn.Linear(before, 1))
    reached: list[float | None] = [None] * len(LEVELS)
    began = time.perf_counter()

    def look(step: int) -> None:
        if step % 20:
            return
        passed = time.perf_counter() - began
        with torch.no_grad():
            worst = float((network(x) - wanted).abs().max()) / largest
        for at, level in enumerate(LEVELS):
            if reached[at] is None and worst < level:
                reached[at] = passed
        if reached[-1] is not None:
            raise _Enough

    with contextlib.suppress(_Enough):
        optimise(
            lambda _: (network(x) - wanted).square().mean(),
            network.parameters(),
            lambda index: None,
            seconds=limit,
            optimiser=Optimiser("adam", lr=3e-3),
            schedule=Schedule("cosine"),
            on_step=look,
        )
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of each training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    report = {"construction": construction(), "interpolant": interpolant(), "training": training(options.seconds)}
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
