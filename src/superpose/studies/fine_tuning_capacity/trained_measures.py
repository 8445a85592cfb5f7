"""How the claims about training and about real images are measured."""

import math

import numpy as np

from superpose.experiment import Run, exact, over_seeds, proportion
from superpose.studies.fine_tuning_capacity import trained_steps
from superpose.studies.fine_tuning_capacity.config import DEPTHS, SUCCESS, Config

NAMES = {2: "two", 3: "three"}


def measure_trained(run: Run[Config]) -> None:
    """F7: the share of trained side networks that learn their data, over their width."""
    c = run.config
    for depth in DEPTHS:
        thresholds: dict[int, int] = {}
        for n in c.train_tuned:
            sizes = trained_steps.widths(depth, n, c.widest)
            shared = {"depth": depth, "tuned": n, "restarts": c.restarts, "train_steps": c.train_steps}
            worst = run.map(trained_steps.trained, [{**shared, "width": width} for width in sizes])
            learned = [int((each <= SUCCESS).sum()) for each in worst]
            shares = [proportion("share", count, c.restarts) for count in learned]
            scale = n if depth == 2 else math.sqrt(n)
            run.curve_of(f"trained-{NAMES[depth]}", f"N = {n}", [width / scale for width in sizes], shares)
            reached = [width for width, count in zip(sizes, learned, strict=True) if 2 * count >= c.restarts]
            if reached:
                thresholds[n] = reached[0]
                run.measure("F7", exact(f"{NAMES[depth]}-layer.threshold.n={n}", reached[0], unit="neurons"))
            else:
                run.note(
                    f"F7: no width up to {sizes[-1]} of {depth} layers brought half of the networks with N = {n} to "
                    f"their targets in {c.train_steps} updates; at {sizes[-1]} it was {learned[-1]} of {c.restarts}"
                )
            run.measure("F7", proportion(f"{NAMES[depth]}-layer.share-at-widest.n={n}", learned[-1], c.restarts))
        found = sorted(thresholds)
        run.measure("F7", exact(f"{NAMES[depth]}-layer.thresholds-found", len(found), n=len(c.train_tuned)))
        if len(found) > 1:
            low, high = found[0], found[-1]
            slope = math.log(thresholds[high] / thresholds[low]) / math.log(high / low)
            run.measure("F7", exact(f"{NAMES[depth]}-layer.slope", slope, n=len(found)))
            run.curve("thresholds", f"{NAMES[depth]} layers", np.log2(found), [thresholds[n] for n in found])


def measure_digits(run: Run[Config]) -> None:
    """F8: a classifier of scanned digits."""
    c = run.config
    items = [
        {
            "seed": seed,
            "fixed": c.digits_fixed,
            "trained_on": c.digits_trained,
            "train_steps": c.digits_steps,
            "tries": c.tries,
        }
        for seed in run.seeds
    ]
    found = run.map(trained_steps.digits, items)
    run.measure("F8", over_seeds("classifier.accuracy", [each["accuracy"] for each in found]))
    run.measure("F8", exact("fewest-images-fixed", min(each["fixed"] for each in found), n=len(found)))
    run.measure("F8", exact("fewest-images-kept", min(each["kept"] for each in found), n=len(found)))
    edges = np.linspace(-6, 2, 33)
    for name in ("two", "three"):
        own = [each[name] for each in found]
        images = sum(each["fixed"] for each in found)
        kept = sum(each["kept"] for each in found)
        run.measure(
            "F8",
            exact(f"{name}-layer.accuracy-on-fixed", min(each["accuracy_on_fixed"] for each in own), n=images),
            exact(f"{name}-layer.largest-move-of-kept", max(each["move_of_kept"] for each in own), n=kept),
            exact(f"{name}-layer.neurons", max(each["neurons"] for each in own), n=len(own)),
            over_seeds(f"{name}-layer.predictions-flipped-elsewhere", [each["flips"] for each in own]),
            over_seeds(f"{name}-layer.median-move-elsewhere", [each["median_move"] for each in own]),
        )
        moves = np.log10(np.maximum(np.concatenate([each["moves_of_unknown"] for each in own]), 1e-30))
        run.curve("elsewhere", f"{name} layers", edges, [(moves > edge).mean() for edge in edges])
