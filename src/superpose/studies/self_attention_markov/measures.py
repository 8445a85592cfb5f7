"""How identities, coverage, sample complexity and gradient descent are measured (M1 to M6)."""

import math
from collections.abc import Sequence

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_items, over_seeds
from superpose.studies.self_attention_markov import steps
from superpose.studies.self_attention_markov.config import Config

SHOWN_UPDATES = 60


def measure_identities(run: Run[Config]) -> None:
    """M1, M2 and M3: the worst of all random layers."""
    c = run.config
    sizes = {"tokens": c.tokens, "width": c.width, "prompts": c.prompts, "length": c.length}
    found = run.map(steps.identities, [{**sizes, "seed": seed} for seed in range(c.layers)])

    def largest(name: str, key: str, n: int = c.layers * c.prompts) -> Measurement:
        return exact(name, max(one[key] for one in found), n=n)

    names = {
        "M1": {
            "largest-difference": "float64",
            "largest-difference-to-torch": "torch",
            "largest-difference-float32": "float32",
            "largest-difference-bfloat16": "bfloat16",
        },
        "M3": {"largest-difference": "positions", "largest-change-without-positions": "shuffled_plain"},
    }
    for claim, keys in names.items():
        run.measure(claim, *(largest(name, key) for name, key in keys.items()))
    run.measure(
        "M2",
        largest("chain-round-trip", "chain", c.layers),
        largest("weight-round-trip", "weight", c.layers),
        largest("outside-the-span", "outside", c.layers),
        exact("wrong-ranks", sum(one["wrong_rank"] for one in found), n=c.layers),
    )
    run.measure(
        "M3",
        exact("smallest-change-with-positions", min(one["shuffled_placed"] for one in found), n=c.layers * c.prompts),
    )
    bars = {
        "attention, float64": "float64",
        "torch's attention": "torch",
        "attention, float32": "float32",
        "chain to weights": "chain",
        "weights to chain": "weight",
        "with positions": "positions",
    }
    run.curve("exactness", "largest difference", list(bars), [max(one[key] for one in found) for key in bars.values()])


def measure_coverage(run: Run[Config]) -> None:
    """M4: ranks of random sets of prompts, and learning where half of the rows are uncovered."""
    c = run.config
    ranks = run.step(steps.ranks, tokens=c.tokens, supports=c.supports, seed=0)
    samples = tuple(c.coverage_samples // part for part in (64, 16, 4, 1))
    items = [{"tokens": c.tokens, "samples": samples, "seed": 1000 + at} for at in range(c.coverage_sets)]
    found = run.map(steps.covered_learning, items)
    errors = {name: np.stack([one[name] for one in found]) for name in ("covered", "uncovered", "within")}
    names = {"covered": "covered", "uncovered": "uncovered", "within": "uncovered, one constant per group free"}
    for name, arm in names.items():
        points = [over_items(name, np.sqrt(errors[name][:, at])) for at in range(len(samples))]
        run.curve_of("coverage", arm, [math.log10(n) for n in samples], points)
    last = {name: values[:, -1] for name, values in errors.items()}
    run.measure(
        "M4",
        exact("rank-agreement", ranks["agree"] / ranks["sets"], n=ranks["sets"]),
        exact("connected-rows", ranks["connected"], n=ranks["sets"] * c.tokens),
        over_items("uncovered-over-covered", np.stack([last["uncovered"], last["covered"]], 1), statistic=_ratio),
        over_items(
            "covered-error-at-16-times-the-samples",
            np.stack([last["covered"], errors["covered"][:, 1]], 1),
            statistic=_ratio,
        ),
        over_items(
            "uncovered-within-groups-over-covered", np.stack([last["within"], last["covered"]], 1), statistic=_ratio
        ),
        over_items("covered.squared-error", last["covered"]),
        over_items("uncovered.squared-error", last["uncovered"]),
    )


def _ratio(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean() / rows[:, 1].mean())


def measure_samples(run: Run[Config]) -> None:
    """M5 and M5W: slopes over the numbers of samples, teacher by teacher, and the constant at the largest."""
    c = run.config
    sizes = {"samples": c.samples, "teachers": c.teachers, "seed": 2000}
    found = run.map(steps.sample_complexity, [{"tokens": k, "width": k + 3, **sizes} for k in c.sizes])
    x = [math.log10(n) for n in c.samples]
    run.curve("excess-ratio", "theory", x, [1.0] * len(x))
    for tokens, one in zip(c.sizes, found, strict=True):
        arm = f"K = {tokens}"
        run.curve_of("excess-ratio", arm, x, [over_seeds("ratio", column) for column in one["excess"].T])
        middles = [over_items("error", column, statistic=_median) for column in one["weights"].T]
        run.curve_of("weight-error", arm, x, middles)
        theory = middles[-1].value * c.samples[-1] / np.array(c.samples)
        run.curve("weight-error", f"{arm}, 1/n", x, theory)
        losses = one["excess"] / np.array(c.samples)
        run.measure(
            "M5",
            over_seeds(f"slope.k-{tokens}", log_slope(c.samples, losses)),
            over_seeds(f"excess-ratio.k-{tokens}", one["excess"][:, -1]),
            over_seeds(f"excess-ratio-at-fewest.k-{tokens}", one["excess"][:, 0]),
        )
        scaled = one["weights"][:, -1] * c.samples[-1] / tokens**2
        run.measure(
            "M5W",
            # The median: a few samples leave some chains with a logit near infinity.
            over_items(f"slope.k-{tokens}", one["weights"], statistic=lambda x: _median_slope(c.samples, x)),
            over_seeds(f"mean-slope.k-{tokens}", log_slope(c.samples, one["weights"])),
            over_items(f"n-error-over-k-squared.k-{tokens}", scaled, statistic=_median),
        )


def _median(rows: np.ndarray) -> float:
    return float(np.median(rows))


def log_slope(x: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Least-squares slope of ln value on ln x along the last axis."""
    at = np.log(np.asarray(x, dtype=float))
    at = at - at.mean()
    return np.log(values) @ at / (at @ at)


def _median_slope(samples: Sequence[int], rows: np.ndarray) -> float:
    return float(log_slope(samples, np.median(rows, axis=0, keepdims=True))[0])


def measure_descent(run: Run[Config]) -> None:
    """M6: how far above the maximum-likelihood chain gradient descent ends."""
    c = run.config
    found = run.step(
        steps.gradient_descent,
        tokens=c.tokens,
        width=c.gd_width,
        samples=c.gd_samples,
        steps=c.gd_steps,
        seeds=c.seeds,
    )
    shown = np.unique(np.geomspace(1, c.gd_steps, SHOWN_UPDATES).round().astype(int))
    for seed, row in enumerate(found["losses"]):
        # What rounding has made negative has no place on a logarithmic axis.
        run.curve("gradient-descent", f"seed {seed}", np.log10(shown), np.maximum(row[shown], 1e-16))
    run.measure(
        "M6",
        exact("loss-gap", np.abs(found["losses"][:, -1]).max(), n=c.seeds, unit="nats"),
        exact("probability-gap", found["probabilities"].max(), n=c.seeds),
    )
