"""How the claims on built networks are measured (N1 to N6): which steps run, and what is read off them."""

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_items, proportion
from superpose.studies.icl_newton import steps
from superpose.studies.icl_newton.config import Config
from superpose.studies.icl_newton.figures import DEPTH, DRAWN_EPS, EPS, FROM, GAPS, SHOWN, TO, power
from superpose.theory import inverse_rate, inverse_steps, inverse_steps_paper

JUDGED_MU = 0.05  # N3's bound on the distance is for penalties from here on
JUDGED_PIECES = 200
JUDGED_KAPPA = 100  # N6's, and from 1000 on the depth must grow with kappa
DRAWN_KAPPAS = (10, 100, 1000)
SMALLEST = 1e-17  # of what is drawn as a logarithm: below rounding
CANCER = {"points": 200, "features": 10, "mu": 0.05, "pieces": 200}


def measure_inverse(run: Run[Config]) -> None:
    """N1 on random matrices of every size; N2 over condition numbers and residuals."""
    c = run.config
    ones = run.map(steps.one_step, [{"dim": d, "matrices": c.matrices, "seed": 0} for d in c.inverse_dims])
    forms = ("general", "symmetric")
    worst = {form: max(one["error"][form] for one in ones) for form in forms}
    run.measure(
        "N1",
        exact("largest-relative-error", max(worst.values()), n=3 * c.matrices * len(ones)),
        *(exact(f"largest-relative-error.{form}", worst[form], n=c.matrices * len(ones)) for form in forms),
        exact("layers", max(one["layers"]["general"] for one in ones)),
        exact("layers.symmetric-form", max(one["layers"]["symmetric"] for one in ones)),
        exact("relu-units", max(one["relu"] for one in ones)),
    )
    residuals = run.map(steps.inverse_residuals, [{"kappa": k, "matrices": c.matrices, "seed": 1} for k in c.kappas])
    by_kappa = dict(zip(c.kappas, residuals, strict=True))
    off, off_paper = [], []
    for eps in EPS:
        needed = []
        for kappa, rows in by_kappa.items():
            met = rows <= eps
            first = np.where(met.any(1), met.argmax(1), np.inf)
            needed.append(first.max())
            off += list(np.abs(first - inverse_steps(kappa, eps)))
            off_paper += list(np.abs(first - inverse_steps_paper(kappa, eps)))
        if eps in DRAWN_EPS:
            x = [math.log10(kappa) for kappa in c.kappas]
            run.curve("inverse-steps", f"network, eps = {power(eps)}", x, needed, n=c.matrices)
            run.curve("inverse-steps", f"formula, eps = {power(eps)}", x, [inverse_steps(k, eps) for k in c.kappas])
    for kappa in (c.kappas[0], c.kappas[-1]):
        rows = by_kappa[kappa].max(0)
        formula = inverse_rate(kappa) ** (2.0 ** np.arange(len(rows)))
        seen = formula > 1e-30
        run.curve("residual", f"network, kappa = {kappa:g}", np.arange(len(rows)), np.log10(np.maximum(rows, 1e-30)))
        run.curve("residual", f"formula, kappa = {kappa:g}", np.arange(len(rows))[seen], np.log10(formula[seen]))
    run.measure(
        "N2",
        exact("largest-difference-in-steps", max(off), n=len(off), unit="steps"),
        exact("largest-difference-from-paper-form", max(off_paper), n=len(off), unit="steps"),
        exact("smallest-residual", max(rows.min(1).max() for rows in residuals), n=len(residuals)),
    )


def measure_logistic(run: Run[Config]) -> None:
    """N3 and N5 over dimensions, lengths, penalties and numbers of pieces."""
    c = run.config
    cells = list(product(c.dims, c.points, c.mus, c.pieces))
    found = run.map(
        steps.logistic_cell,
        [{"dim": d, "points": n, "mu": m, "pieces": j, "prompts": c.prompts, "seed": 2} for d, n, m, j in cells],
    )
    by_cell = dict(zip(cells, found, strict=True))
    _draw_cells(run, by_cell)
    judged = [one for (_, _, mu, j), one in by_cell.items() if mu >= JUDGED_MU and j == JUDGED_PIECES]
    floors = {cell: _root_mean_square(one["distance"][:, -1]) for cell, one in by_cell.items()}
    falls = [
        floors[d, n, m, coarse] / floors[d, n, m, fine]
        for d, n, m in product(c.dims, c.points, c.mus)
        for coarse, fine in pairwise(c.pieces)
    ]
    slopes = [
        _slope([(1 / floors[d, n, m, j], by_cell[d, n, m, j]["width"]) for j in c.pieces])
        for d, n, m in product(c.dims, c.points, c.mus)
    ]
    prompts = len(judged) * c.prompts
    run.measure(
        "N3",
        exact("largest-distance", max(one["distance"][:, -1].max() for one in judged), n=prompts),
        exact("largest-step-difference", max(one["difference"].max() for one in judged), n=prompts),
        exact("smallest-fall", min(falls), n=len(falls), unit="x"),
        exact("largest-fall", max(falls), n=len(falls), unit="x"),
        exact("scikit-learn-from-exact-newton", max(one["peer_gap"] for one in found), n=len(cells) * c.prompts),
        *(
            exact(
                f"distance.mu-{power(m)}.pieces-{j}",
                max(by_cell[d, n, m, j]["distance"][:, -1].max() for d in c.dims for n in c.points),
                n=len(c.dims) * len(c.points) * c.prompts,
            )
            for m, j in product(c.mus, c.pieces)
        ),
    )
    _measure_cancer(run)
    run.measure(
        "N5",
        exact("blocks-above-bound", max(one["per_step"] - one["bound"] for one in found), n=len(found), unit="blocks"),
        *(
            exact(f"blocks-per-step.mu-{power(m)}", by_cell[c.dims[0], c.points[0], m, c.pieces[0]]["per_step"])
            for m in c.mus
        ),
        *(
            exact(f"width.d-{d}.pieces-{j}", by_cell[d, c.points[0], c.mus[0], j]["width"], unit="ReLU units")
            for d, j in product(c.dims, c.pieces)
        ),
        exact("smallest-slope", min(slopes), n=len(slopes)),
        exact("largest-slope", max(slopes), n=len(slopes)),
    )


def _measure_cancer(run: Run[Config]) -> None:
    one = run.step(steps.breast_cancer, **CANCER, seed=3)
    run.measure(
        "N3",
        exact("breast-cancer.distance", one["distance"]),
        proportion("breast-cancer.accuracy", one["correct"], one["asked"]),
        proportion("breast-cancer.scikit-learn-accuracy", one["peer_correct"], one["asked"]),
    )


def _draw_cells(run: Run[Config], by_cell: dict[tuple[int, int, float, int], dict[str, Any]]) -> None:
    c = run.config
    for (d, n, mu, pieces), one in by_cell.items():
        if (d, n) == SHOWN and mu in (0.1, 0.01):
            x = np.arange(one["distance"].shape[1])
            run.curve(f"distance-{power(mu)}", f"network, J = {pieces}", x, _over_prompts(one["distance"]), n=c.prompts)
            if pieces == c.pieces[-1]:
                run.curve(f"distance-{power(mu)}", "exact", x, _over_prompts(one["exact_distance"]), n=c.prompts)
    for d, mu in product(c.dims, c.mus):
        floors = [
            _root_mean_square(np.concatenate([by_cell[d, n, mu, j]["distance"][:, -1] for n in c.points]))
            for j in c.pieces
        ]
        widths = [math.log10(by_cell[d, c.points[0], mu, j]["width"]) for j in c.pieces]
        run.curve("floor", f"d = {d}, mu = {power(mu)}", widths, floors, n=c.prompts * len(c.points))


def measure_depth(run: Run[Config]) -> None:
    """N4: blocks and gradient steps from a suboptimality of 1e-4 to one of 1e-12."""
    c = run.config
    common = {"prompts": c.prompts, "seed": 4}
    items = [{"mu": m, "noisy": False, "descent_steps": c.depth_steps, **common} for m in c.depth_mus]
    items += [{"mu": m, "noisy": True, "descent_steps": 0, **common} for m in c.noisy_mus]
    found = run.map(steps.blocks_needed, items)
    found, noisy = found[: len(c.depth_mus)], found[len(c.depth_mus) :]
    x = [-math.log10(gap) for gap in GAPS]
    growths = []
    for mu, one in zip(c.depth_mus, found, strict=True):
        name, arm = f"mu-{power(mu)}", f"mu = {power(mu)}"
        grown = _growth(f"growth.{name}", one["blocks"])
        growths.append(grown)
        run.measure(
            "N4",
            grown,
            _growth(f"growth-exact-newton-steps.{name}", one["exact"]),
            _growth(f"descent-growth.{name}", one["descent"]),
            *(
                over_items(f"{kind}-over-descent.{name}", one[key][:, -1] / (2 * one["descent"][:, -1]), unit="x")
                for kind, key in (("blocks", "blocks"), ("symmetric-blocks", "symmetric_blocks"))
            ),
            *(over_items(f"blocks.{name}.gap-{power(gap)}", one["blocks"][:, at]) for at, gap in enumerate(GAPS)),
            *(over_items(f"descent.{name}.gap-{power(gap)}", one["descent"][:, at]) for at, gap in enumerate(GAPS)),
        )
        for curve in ("blocks", "descent"):
            points = [over_items("number", one[curve][:, at]) for at in range(len(GAPS))]
            run.curve_of(curve, arm, x, points)
    for mu, one in zip(c.noisy_mus, noisy, strict=True):
        run.measure("N4", _growth(f"growth-noisy-labels.mu-{power(mu)}", one["blocks"]))
    worst = max(growths, key=lambda m: m.value)
    run.measure("N4", worst.model_copy(update={"name": "largest-growth", "high": max(m.high for m in growths)}))
    _check_network(run, found)


def _check_network(run: Run[Config], found: Sequence[dict[str, Any]]) -> None:
    # Where the floor is low enough, a built network of the depth that was counted gets there.
    c = run.config
    mu, one = c.depth_mus[0], found[0]
    taken, inner = int(one["steps"][-1]), int(one["inner"][-1])
    gap = run.step(steps.network_gap, mu=mu, steps=taken, inner=inner, pieces=max(c.pieces), prompts=c.prompts, seed=4)
    run.measure(
        "N4",
        exact(f"built-network.suboptimality.mu-{power(mu)}", gap),
        exact(f"built-network.blocks.mu-{power(mu)}", taken * (7 + 2 * inner), unit="blocks"),
    )


def _growth(name: str, counts: np.ndarray) -> Measurement:
    """How many times larger the number for the smallest gap is than for 1e-4, the mean over prompts."""
    # A prompt whose optimum is that near to 0 needs no step at all.
    return over_items(name, counts[:, GAPS.index(TO)] / np.maximum(counts[:, GAPS.index(FROM)], 1), unit="x")


def measure_regression(run: Run[Config]) -> None:
    """N6: root mean square errors of Newton and gradient descent at equal depth."""
    c = run.config
    found = run.map(
        steps.regression_errors,
        [
            {"kappa": k, "prompts": 4 * c.prompts, "depths": steps.regression_depths(k), "seed": 5}
            for k in c.regression_kappas
        ],
    )
    ratios = []
    for kappa, one in zip(c.regression_kappas, found, strict=True):
        depths = steps.regression_depths(kappa)
        if kappa in DRAWN_KAPPAS:
            _draw_regression(run, kappa, depths, one)
        at = depths.index(DEPTH)
        ratio = _error_ratio(f"ratio.kappa-{kappa:g}", one["newton"][:, at], one["descent"][:, at])
        run.measure("N6", ratio)
        if kappa <= JUDGED_KAPPA:
            ratios.append(ratio)
        else:
            pair = (one[name][:, depths.index(steps.deep(kappa))] for name in ("newton", "descent"))
            run.measure("N6", _error_ratio(f"ratio-deep.kappa-{kappa:g}", *pair))
    worst = max(ratios, key=lambda m: m.value)
    run.measure("N6", worst.model_copy(update={"name": "largest-ratio", "high": max(m.high for m in ratios)}))
    # Nine layers are four steps of the two-layer form and one layer over.
    at = steps.regression_depths(JUDGED_KAPPA).index(DEPTH - 1)
    two = dict(zip(c.regression_kappas, found, strict=True)).get(float(JUDGED_KAPPA))
    if two is not None:
        run.measure("N6", _error_ratio("ratio-two-layer-form.kappa-100", two["newton2"][:, at], two["descent"][:, at]))


def _draw_regression(run: Run[Config], kappa: float, depths: Sequence[int], one: dict[str, np.ndarray]) -> None:
    arms = {"newton": "Newton, 1 layer per step", "newton2": "Newton, 2 layers per step", "descent": "gradient descent"}
    for name, arm in arms.items():
        known = np.isfinite(one[name]).all(0)
        points = [_log_root(over_items("error", rows)) for rows in one[name].T[known]]
        run.curve_of(f"regression-{kappa:g}", arm, np.asarray(depths)[known], points)


def _error_ratio(name: str, newton: np.ndarray, descent: np.ndarray) -> Measurement:
    return over_items(
        name, np.stack([newton, descent], 1), statistic=lambda r: math.sqrt(r[:, 0].mean() / r[:, 1].mean()), unit="x"
    )


def _log_root(mean: Measurement) -> Measurement:
    """log10 of the root of a mean of squares; it keeps the order of the resamples, so their quantiles too."""
    ends = {field: math.log10(max(math.sqrt(getattr(mean, field)), SMALLEST)) for field in ("value", "low", "high")}
    return mean.model_copy(update=ends)


def _root_mean_square(values: np.ndarray) -> float:
    return math.sqrt(np.square(values).mean())


def _over_prompts(rows: np.ndarray) -> np.ndarray:
    """log10 of the root mean square over prompts."""
    return np.log10(np.maximum(np.sqrt(np.square(rows).mean(0)), SMALLEST))


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of y over x on logarithmic axes."""
    x, y = np.log(points).T
    return float(np.polyfit(x, y, 1)[0])
