"""Networks built and breaks counted, as memoised steps."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from superpose.experiment import step, track
from superpose.models import (
    Patched,
    certify_patch,
    evaluate_line,
    fewest_line_patch,
    fit_patch,
    hidden_neurons,
    line_patch,
)
from superpose.theory import (
    breakpoints,
    capacity,
    min_knots,
    min_knots_dp,
    most_breaks,
    neurons_needed,
    worst_knots,
)
from superpose.training import seeded

FROZEN_WIDTH = 32
ROWS_AT_ONCE = 2048
DP_POINTS = 400  # longest sequence on which the dynamic programme, in rationals, is run
FEWEST_POINTS = 7  # of the exhaustive networks in rationals


def frozen_network(dim: int, seed: int) -> nn.Sequential:
    """A network with random weights that stands for a pretrained one."""
    generator = seeded(seed, "frozen")
    network = nn.Sequential(nn.Linear(dim, FROZEN_WIDTH), nn.ReLU(), nn.Linear(FROZEN_WIDTH, 1)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
    return network.eval().requires_grad_(False)


def inputs(samples: int, dim: int, generator: torch.Generator) -> Tensor:
    """Gaussian points; on a line a jittered grid in random order, as no direction could separate close points there."""
    if dim > 1:
        return torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    jitter = torch.rand(samples, generator=generator, dtype=torch.float64) / 2
    grid = (torch.arange(samples) + jitter) / samples
    return grid[torch.randperm(samples, generator=generator)][:, None]


@step(version="2", label="networks with written-down weights")
def built(
    seed: int, depth: int, dim: int, tuned: Sequence[int], multiples: Sequence[int], tries: int
) -> dict[str, np.ndarray]:
    """Build a patch of a frozen network for every N and K, and evaluate the sum as an ordinary module.

    Returns:
        ``[tuned, multiples]`` each: ``neurons``; ``error``, the largest deviation on the K samples over the largest
        change; ``gap`` between projections, over their range; ``weight``, the largest in absolute value.
    """
    f = frozen_network(dim, seed)
    found = {name: np.empty((len(tuned), len(multiples))) for name in ("neurons", "error", "gap", "weight")}
    for i, n in enumerate(track(tuned, "sizes")):
        for j, multiple in enumerate(multiples):
            generator = seeded(seed, f"data {dim} {multiple}", n)
            x = inputs(n * multiple, dim, generator)
            chosen = torch.randperm(len(x), generator=generator)[:n]
            labels = torch.randn(n, 1, generator=generator, dtype=torch.float64)
            g = fit_patch(f, x, labels, chosen, depth, tries=tries, seed=seed, verify=False)
            wanted = torch.cat([f(part) for part in x.split(ROWS_AT_ONCE)])
            wanted[chosen] = labels
            patched = Patched(f, g)
            with torch.inference_mode():
                answers = torch.cat([patched(part) for part in x.split(ROWS_AT_ONCE)])
            error = float((answers - wanted).abs().max()) / g.report.largest_change
            weight = max((float(p.abs().max()) for p in g.parameters() if p.numel()), default=0.0)
            for name, value in (
                ("neurons", g.report.neurons),
                ("error", error),
                ("gap", g.report.gap),
                ("weight", weight),
            ):
                found[name][i, j] = value
    return found


@step(version="1", label="certificates in rationals")
def certified(seed: int, depth: int, tuned: Sequence[int], multiple: int) -> float:
    """The largest error of the construction in exact rationals over sizes; two outputs at once."""
    errors = []
    for n in tuned:
        generator = np.random.default_rng([seed, n, 1])
        t = np.sort(generator.normal(size=n * multiple))
        v = np.zeros((len(t), 2))
        v[generator.choice(len(t), n, replace=False)] = generator.normal(size=(n, 2))
        errors.append(certify_patch(t, v, depth))
    return float(max(errors))


@step(version="1", label="isolated tuned points")
def isolated(seed: int, tuned: Sequence[int]) -> dict[str, list[int]]:
    """The fewest breaks for N points of alternating sign with three zeros around each, at random positions.

    Returns:
        ``knots`` per N; how often the dynamic programme ``disagrees`` (on the sequences short enough), of ``checked``.
    """
    knots, disagrees, checked = [], 0, 0
    for n in tuned:
        t = np.sort(np.random.default_rng([seed, n, 2]).uniform(size=4 * n + 3))
        v = np.zeros(len(t))
        v[3 : 4 * n : 4] = (-1.0) ** np.arange(n)
        knots.append(int(min_knots(t, v)))
        if len(t) <= DP_POINTS:
            checked += 1
            disagrees += min_knots_dp(t, v) != knots[-1]
    return {"knots": knots, "disagrees": [disagrees], "checked": [checked]}


def _every(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random positions, and all labels of -1, 0 and 1."""
    t = np.sort(np.random.default_rng([seed, samples, 3]).uniform(size=samples))
    return t, np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=samples)))


@step(version="2", label="all small data sets")
def exhausted(seed: int, samples: int) -> dict[str, Any]:
    """Every set of tuned samples with every label in {-1, 0, 1}: what the worst needs, and the duality.

    Returns:
        ``worst``: breaks needed per N from 0 to K; ``capacity``: the most N per number m of breaks, up to the worst of
        all; ``formula_violations``: N where that is not min(3 N, K - 2);
        ``disagrees``: labels on which the dynamic programme, run up to six points, finds another number;
        ``duality_violations``: pairs (m, N) where the capacity of m breaks, by its definition as a maximum over N,
        and the breaks needed, as a minimum over m, do not agree.
    """
    t, labels = _every(samples, seed)
    knots = min_knots(t, labels)
    nonzero = labels != 0
    disagrees = 0
    if samples <= 6:
        disagrees = sum(min_knots_dp(t, row) != k for row, k in zip(labels, knots, strict=True))
    # Both definitions are evaluated over the sets T themselves: a label off T must be 0, one on T may be.
    sizes = range(samples + 1)
    worst_of_set = {
        chosen: int(knots[~nonzero[:, [i for i in range(samples) if i not in chosen]].any(1)].max())
        for n in sizes
        for chosen in itertools.combinations(range(samples), n)
    }
    worst = [max(need for chosen, need in worst_of_set.items() if len(chosen) == n) for n in sizes]
    served = [
        [all(need <= m for chosen, need in worst_of_set.items() if len(chosen) == n) for n in sizes]
        for m in range(max(worst) + 1)
    ]
    most = [max(n for n in sizes if row[n]) for row in served]
    violations = sum((largest >= n) != (m >= worst[n]) for m, largest in enumerate(most) for n in sizes)
    return {
        "worst": worst,
        "capacity": most,
        "formula_violations": sum(worst[n] != worst_knots(n, samples) for n in sizes),
        "disagrees": int(disagrees),
        "instances": len(labels),
        "duality_violations": violations,
    }


@step(version="1", label="the planner and its inverse")
def planned(samples: int) -> dict[str, int]:
    """How often ``capacity(m, K) >= N`` and ``m >= neurons_needed(N, K)`` disagree, for all N <= K, both bounds."""
    checked = violations = 0
    for depth in (2, 3):
        for total in sorted({1, 2, 3, samples // 4, samples // 2, samples} - {0}):
            needed = [neurons_needed(n, total, depth) for n in range(total + 1)]
            for m in range(needed[-1].upper + 2):
                can = capacity(m, total, depth)
                for n, need in enumerate(needed):
                    checked += 2
                    violations += (can.lower >= n) != (m >= need.upper)
                    violations += (can.upper >= n) != (m >= need.lower)
    return {"checked": checked, "violations": violations}


@step(version="1", label="fewest neurons of two layers")
def fewest(seed: int, samples: int) -> dict[str, Any]:
    """Two layers for all labels of -1, 0 and 1 at K random points, in exact rationals.

    Returns:
        ``worst``: neurons per N from 0 to K; ``error``: the largest.
    """
    t, labels = _every(samples, seed)
    positions = _rationals(t)
    worst, error = [0] * (samples + 1), Fraction(0)
    for row in track(labels, "labels"):
        values = _rationals(row)
        layers = fewest_line_patch(positions, values)
        error = max(error, *np.abs(evaluate_line(layers, positions)[:, 0] - values))
        n = int(np.count_nonzero(row))
        worst[n] = max(worst[n], hidden_neurons(layers))
    # Labels on N samples may be 0 too.
    return {"worst": np.maximum.accumulate(worst).tolist(), "error": float(error)}


def _rationals(values: np.ndarray) -> np.ndarray:
    exact = np.empty(len(values), dtype=object)
    exact[:] = [Fraction(x) for x in values.tolist()]
    return exact


@step(version="1", label="breaks of random networks")
def random_breaks(seed: int, nets: int, widest: int) -> dict[str, np.ndarray]:
    """Breaks of three-layer networks with random weights, and of networks made to have as many as can be.

    Returns:
        Per network: ``breaks`` and their ``bound``, for ``random`` and for ``sharp`` ones; and ``bend``: by how much
        the network, evaluated as a module, leaves the straight line between two neighbouring breaks, relative to its
        values there.
    """
    generator = np.random.default_rng([seed, 4])
    found: dict[str, list[float]] = {name: [] for name in ("random", "random_bound", "sharp", "sharp_bound", "bend")}
    for index in track(range(nets), "networks"):
        sharp = index % 4 == 0
        # A zigzag needs three units, and its levels one of each direction.
        least = (3, 2) if sharp else (1, 1)
        first, second = (int(generator.integers(low, widest + 1)) for low in least)
        weights = (_sharp if sharp else _random)(first, second, generator)
        places = breakpoints(*weights)
        kind = "sharp" if sharp else "random"
        found[kind].append(len(places))
        found[f"{kind}_bound"].append(most_breaks((first, second)))
        found["bend"].append(_bend(weights, places))
    return {name: np.array(values) for name, values in found.items()}


Weights = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _random(first: int, second: int, generator: np.random.Generator) -> Weights:
    w1, b1 = generator.normal(size=first), generator.normal(size=first)
    w2, b2 = generator.normal(size=(second, first)), generator.normal(size=second)
    return w1, b1, w2, b2, generator.normal(size=second)


def _sharp(first: int, second: int, generator: np.random.Generator) -> Weights:
    """A zigzag between -1 and 1 with a break per unit, every piece of which crosses the level of every second unit.

    All first units but the third open to the right: the third gives the slope before all breaks.
    """
    knots = np.arange(first, dtype=float)
    w1 = np.where(np.arange(first) == 2, -1.0, 1.0)
    row = 4 * (-1.0) ** np.arange(first)
    row[0] = 6.0
    constant = -1.0 - row[2] * knots[2]
    levels = np.sort(generator.uniform(-0.9, 0.9, second))
    # Units of both directions: those of one would all be off on one side of the zigzag.
    facing = (-1.0) ** np.arange(second)
    return w1, -w1 * knots, facing[:, None] * row, facing * (constant - levels), generator.uniform(0.5, 1.5, second)


def _bend(weights: Weights, places: np.ndarray) -> float:
    w1, b1, w2, b2, w3 = (torch.from_numpy(np.asarray(each)) for each in weights)
    network = nn.Sequential(nn.Linear(1, len(w1)), nn.ReLU(), nn.Linear(len(w1), len(b2)), nn.ReLU()).double()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (w1[:, None], b1, w2, b2), strict=True):
            parameter.copy_(value)
    edges = torch.from_numpy(
        np.concatenate([places[:1] - 1, places, places[-1:] + 1]) if len(places) else np.arange(2.0)
    )
    shares = torch.linspace(0, 1, 6, dtype=torch.float64)
    x = edges[:-1, None] + shares * edges.diff()[:, None]
    with torch.inference_mode():
        y = network(x[..., None]) @ w3
    straight = y[:, :1] + shares * (y[:, -1:] - y[:, :1])
    scale = y.abs().amax(1, keepdim=True).clamp_min(float(y.abs().max()) * 1e-3) + 1e-300
    return float(((y - straight).abs() / scale).max())


@step(version="3", label="a patch on a line")
def profile(seed: int, tuned: int, samples: int) -> dict[str, np.ndarray]:
    """Both networks along a line, at their corners: ``t2, y2`` of two layers and ``t3, y3`` of three."""
    generator = np.random.default_rng([seed, 5])
    t = np.linspace(0, 1, samples) + generator.uniform(-0.3, 0.3, samples) / samples
    v = np.zeros((samples, 1))
    v[generator.choice(samples, tuned, replace=False), 0] = generator.choice([-1, 1], tuned)
    first, second, last = layers = line_patch(t, v, 3)
    corners = breakpoints(first.weight[:, 0], first.bias, second.weight, second.bias, last.weight[0])
    x = np.unique(np.concatenate([t, corners[(corners > t[0]) & (corners < t[-1])]]))
    return {"t2": t, "y2": evaluate_line(line_patch(t, v, 2), t)[:, 0], "t3": x, "y3": evaluate_line(layers, x)[:, 0]}
