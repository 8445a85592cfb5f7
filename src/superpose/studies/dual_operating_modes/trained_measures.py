"""How the claim on trained transformers is measured (DM7)."""

from itertools import pairwise
from typing import Any

import numpy as np

from superpose.errors import InputError
from superpose.experiment import Run, over_seeds
from superpose.studies.dual_operating_modes import trained_steps
from superpose.studies.dual_operating_modes.config import Config
from superpose.studies.dual_operating_modes.figures import delta_name, slug

SWEEP_DELTA = 1 / 16  # of the sweeps over groups and dimensions, as in Figures 10 and 11
APART = 0.1  # the exact risks of two deltas must differ by this share of their mean to be put in order


def measure_trained(run: Run[Config]) -> None:
    """DM7: distance from the exact predictor in every cell, and the order of the risk curves over delta."""
    c = run.config
    by_delta = [("regular", 4, d) for d in sorted(c.trained_deltas)]
    sweeps = [("regular", m, SWEEP_DELTA) for m in c.trained_groups] + [
        ("axis", d, SWEEP_DELTA) for d in c.trained_dims
    ]
    cells = list(dict.fromkeys(by_delta + sweeps))
    common = {"width": c.width, "layers": c.layers, "points": c.points, "train_steps": c.train_steps}
    common |= {"batch": c.train_batch, "prompts": c.trained_prompts}
    items = [{"prior": p, "size": n, "delta": d, "seed": s, **common} for p, n, d in cells for s in run.seeds]
    outputs = run.map(trained_steps.trained, items)
    found = {cell: outputs[i * len(run.seeds) : (i + 1) * len(run.seeds)] for i, cell in enumerate(cells)}
    positions = list(range(c.points))
    shares = {}
    for (prior, size, delta), models in found.items():
        kind = "M" if prior == "regular" else "d"
        name = f"{kind} = {size}, delta = {delta_name(delta)}"
        shares[prior, size, delta] = [float(m["gap"].mean() / m["variance"].mean()) for m in models]
        gaps = [over_seeds("gap", [m["gap"][i] / m["variance"][i] for m in models]) for i in positions]
        risks = [over_seeds("risk", [m["risk"][i] for m in models]) for i in positions]
        run.curve_of("trained-gap", name, positions, gaps)
        run.curve_of("trained-risk", f"transformer, {name}", positions, risks)
        run.curve("trained-risk", f"exact, {name}", positions, models[0]["oracle_risk"], n=c.trained_prompts)
        label = f"{kind.lower()}-{size}.delta-{slug(delta)}"
        run.measure("DM7", over_seeds(f"gap.{label}", shares[prior, size, delta]))
    run.measure(
        "DM7",
        # The worst cell of every seed.
        over_seeds("largest-gap", np.max(list(shares.values()), axis=0)),
        over_seeds("order-agrees", [_order([found[cell][i] for cell in by_delta]) for i in range(len(run.seeds))]),
    )
    run.note(f"DM7: transformers of {outputs[0]['parameters']} parameters in the first cell")


def _order(models: list[dict[str, Any]]) -> float:
    """The share of positions and neighbouring deltas at which the transformers' risks are in the exact order."""
    right = total = 0
    for one, other in pairwise(models):
        known = one["oracle_risk"] - other["oracle_risk"]
        # Where the exact curves cross there is no order to preserve.
        clear = np.abs(known) > APART * (one["oracle_risk"] + other["oracle_risk"]) / 2
        right += int((np.sign(known) == np.sign(one["risk"] - other["risk"]))[clear].sum())
        total += int(clear.sum())
    if not total:
        raise InputError("trained_deltas are too close: the exact risks have no order; allowed: at least two far apart")
    return right / total
