"""How the claims about construction and counting are measured: which steps run, and what is read off them."""

import numpy as np

from superpose.experiment import Run, exact
from superpose.studies.fine_tuning_capacity import steps
from superpose.studies.fine_tuning_capacity.config import DEPTHS, SMALL, Config
from superpose.theory import neurons_lower_bound, neurons_needed, worst_knots

WIDEST_RANDOM = 12  # units per layer of the networks whose breaks are counted


def measure_built(run: Run[Config]) -> None:
    """F1, F3 and F5: networks built for all sizes, dimensions and seeds."""
    c = run.config
    shared = {"tuned": c.tuned, "multiples": c.multiples, "tries": c.tries}
    items = [
        {"seed": seed, "depth": depth, "dim": dim, **shared} for depth in DEPTHS for dim in c.dims for seed in run.seeds
    ]
    runs = run.map(steps.built, items)
    shape = (len(DEPTHS), len(c.dims) * len(run.seeds), len(c.tuned), len(c.multiples))
    neurons, error, gap, weight = (
        np.stack([each[name] for each in runs]).reshape(shape) for name in ("neurons", "error", "gap", "weight")
    )
    tuned = np.array(c.tuned)
    count = neurons[0].size
    rational = run.map(
        steps.certified,
        [{"seed": seed, "depth": depth, "tuned": c.certified, "multiple": 4} for depth in DEPTHS for seed in run.seeds],
    )
    certificates = np.array(rational).reshape(len(DEPTHS), -1)
    bound = np.array([[neurons_needed(n, n * k, 2).upper for k in c.multiples] for n in c.tuned])
    # One sample that is all there is takes no neuron: 0 of 0.
    over = np.divide(neurons[0], bound, out=np.ones_like(neurons[0]), where=bound > 0)
    small = tuned <= SMALL
    run.measure(
        "F1",
        exact("largest-error.small", error[0][:, small].max(), n=error[0][:, small].size),
        exact("largest-error", error[0].max(), n=count),
        exact("largest-neurons-over-bound", over.max(), n=count),
        exact("largest-error.rational", certificates[0].max(), n=len(c.certified) * len(run.seeds)),
        exact("largest-weight", weight[0].max(), n=count),
        *(
            exact(f"neurons.n={tuned[-1]}.k={k}n", neurons[0, :, -1, j].max(), n=neurons.shape[1])
            for j, k in enumerate(c.multiples)
        ),
    )
    three = neurons[1]
    per_size = three.reshape(three.shape[0], len(tuned), -1)
    widths = three.max((0, 2))
    run.measure(
        "F3",
        exact("largest-error", error[1].max(), n=count),
        exact("largest-excess-over-5.8-sqrt", (three - 5.8 * np.sqrt(tuned)[:, None]).max(), n=count),
        exact("slope", _slope(tuned, widths), n=len(tuned)),
        exact("largest-difference-over-samples", np.ptp(per_size, axis=(0, 2)).max(), n=count),
        exact("largest-error.rational", certificates[1].max(), n=len(c.certified) * len(run.seeds)),
        exact("largest-weight", weight[1].max(), n=count),
        *(exact(f"neurons.n={n}", m) for n, m in zip(tuned, widths, strict=True)),
    )
    for j, k in enumerate(c.multiples):
        name = "N" if k == 1 else f"{k} N"
        drawn = bound[:, j] > 0  # one sample that is all there is takes no neuron, which a logarithm cannot show
        two = neurons[0][:, drawn, j]
        sizes = np.log2(tuned[drawn])
        run.curve("neurons-two", f"K = {name}", sizes, two.mean(0), two.min(0), two.max(0), n=len(two))
        for depth, curve in enumerate(("error-two", "error-three")):
            errors = error[depth, :, :, j]
            shown = np.exp(np.log(np.maximum(errors, 1e-17)).mean(0))
            run.curve(curve, f"K = {name}", np.log2(tuned), shown, errors.min(0), errors.max(0), n=len(errors))
    run.curve("neurons-three", "built", np.log2(tuned), widths)
    run.curve("neurons-three", "lower", np.log2(tuned), [neurons_lower_bound(n, None, 3) for n in c.tuned])
    run.curve("neurons-three", "two layers", np.log2(tuned), [neurons_needed(n, None, 2).lower for n in c.tuned])
    for depth, arm in enumerate(("two layers", "three layers")):
        seen = error[depth] > 0
        run.samples("conditioning", arm, np.log10(gap[depth][seen]), np.log10(error[depth][seen]))
    line = run.step(steps.profile, seed=0, tuned=4, samples=16)
    run.curve("profile", "two layers", line["t2"], line["y2"])
    run.curve("profile", "three layers", line["t3"], line["y3"])
    if 1 not in c.multiples:
        run.note("F5 needs K = N among the multiples; it was not measured")
        return
    at = c.multiples.index(1)
    whole = neurons[:, :, :, at]
    root = whole[1] / np.sqrt(tuned)
    # Below sixteen points rounding up to whole groups is a large part of the number.
    enough = tuned >= 16
    run.measure(
        "F5",
        exact("two-layer.largest-distance-from-k-minus-1", np.abs(whole[0] - (tuned - 1)).max(), n=whole[0].size),
        exact("three-layer.smallest-over-sqrt", root[:, enough].min(), n=root[:, enough].size),
        exact("three-layer.largest-over-sqrt", root[:, enough].max(), n=root[:, enough].size),
        exact("largest-error", error[..., at].max(), n=error[..., at].size),
    )


def measure_counted(run: Run[Config]) -> None:
    """F2 and F6: the fewest breaks, and the duality."""
    c = run.config
    longest = run.map(steps.isolated, [{"seed": seed, "tuned": c.tuned} for seed in run.seeds])
    knots = np.array([each["knots"] for each in longest])
    tuned = np.array(c.tuned)
    sizes = range(2, c.exhausted + 1)
    small = run.map(steps.exhausted, [{"seed": 0, "samples": k} for k in sizes])
    instances = sum(each["instances"] for each in small)
    slopes = [_slope(tuned, row) for row in knots]
    run.measure(
        "F2",
        exact("smallest-knots-over-tuned", (knots / tuned).min(), n=knots.size),
        exact("largest-knots-over-tuned", (knots / tuned).max(), n=knots.size),
        exact("slope", slopes[int(np.abs(np.array(slopes) - 1).argmax())], n=knots.size),
        exact("formula-violations", sum(each["formula_violations"] for each in small), n=instances),
        exact(
            "dynamic-programming-disagrees",
            sum(each["disagrees"] for each in small) + sum(each["disagrees"][0] for each in longest),
            n=sum(each["instances"] for k, each in zip(sizes, small, strict=True) if k <= 6)
            + sum(each["checked"][0] for each in longest),
        ),
    )
    run.curve("neurons-two", "lower", np.log2(tuned), knots.min(0))
    last = small[-1]["worst"]
    counts = range(c.exhausted + 1)
    run.curve("worst", "exhaustive", counts, last)
    run.curve("worst", "formula", counts, [worst_knots(n, c.exhausted) for n in counts])
    run.curve("worst", "simple", counts, [min(1.5 * n, c.exhausted - 2) for n in counts])
    planned = run.step(steps.planned, samples=c.planned)
    run.measure(
        "F6",
        exact(
            "exhaustive-violations",
            sum(each["duality_violations"] for each in small),
            n=sum((k + 1) ** 2 for k in sizes),
        ),
        exact("planner-violations", planned["violations"], n=planned["checked"]),
    )
    neurons = range(max(last) + 1)
    most = small[-1]["capacity"]
    run.curve("duality-m", "own definition", counts, last)
    run.curve("duality-m", "from the other", counts, [min(m for m in neurons if most[m] >= n) for n in counts])
    run.curve("duality-n", "own definition", neurons, most)
    run.curve("duality-n", "from the other", neurons, [max(n for n in counts if last[n] <= m) for m in neurons])


def measure_breaks(run: Run[Config]) -> None:
    """F4: breaks of random networks, and what the bound leaves for the construction."""
    c = run.config
    share = -(-c.nets // len(run.seeds))
    found = run.map(steps.random_breaks, [{"seed": seed, "nets": share, "widest": WIDEST_RANDOM} for seed in run.seeds])
    breaks, bounds = (
        {kind: np.concatenate([each[f"{kind}{end}"] for each in found]) for kind in ("random", "sharp")}
        for end in ("", "_bound")
    )
    bend = np.concatenate([each["bend"] for each in found])
    most, limit = np.concatenate(list(breaks.values())), np.concatenate(list(bounds.values()))
    needed = [neurons_needed(n, None, 3) for n in c.tuned]
    run.measure(
        "F4",
        exact("nets", len(most)),
        exact("violations", int((most > limit).sum()), n=len(most)),
        exact("largest-bend-between-breaks", bend.max(), n=len(bend)),
        exact("largest-lower-over-built", max(each.lower / each.upper for each in needed), n=len(needed)),
        exact("random.mean-breaks-over-bound", (breaks["random"] / bounds["random"]).mean(), n=len(breaks["random"])),
        exact("sharp.smallest-breaks-over-bound", (breaks["sharp"] / bounds["sharp"]).min(), n=len(breaks["sharp"])),
        *(exact(f"lower.n={n}", each.lower) for n, each in zip(c.tuned, needed, strict=True)),
    )
    for kind in breaks:
        run.samples("breaks", kind, bounds[kind][:300], (breaks[kind] / bounds[kind])[:300])


def measure_fewest(run: Run[Config]) -> None:
    """F2exact: two layers with no neuron more than the worst case needs."""
    sizes = range(5, min(run.config.exhausted, steps.FEWEST_POINTS) + 1)
    items = [{"seed": 0, "samples": k} for k in sizes]
    found, counted = run.map(steps.fewest, items), run.map(steps.exhausted, items)
    instances = sum(3**k for k in sizes)
    built = [
        max(m - worst_knots(n, k) for n, m in enumerate(each["worst"])) for k, each in zip(sizes, found, strict=True)
    ]
    run.measure(
        "F2exact",
        exact("largest-built-minus-formula", max(built), n=instances),
        exact("formula-violations", sum(each["formula_violations"] for each in counted), n=instances),
        exact("largest-error.rational", max(each["error"] for each in found), n=instances),
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of log y over log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
