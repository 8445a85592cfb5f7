"""How the claims on trained layers are measured (I1 to I3, I6, I7, I9): which steps run, and what is read off them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from superpose.experiment import (
    Measurement,
    Run,
    exact,
    largest_of,
    over_items,
    over_seeds,
    paired_ratio,
    proportion,
    smallest_of,
)
from superpose.studies.linear_icl_landscape import steps
from superpose.studies.linear_icl_landscape.config import Config
from superpose.studies.linear_icl_landscape.figures import CENTRED, CLASSES, SHIFTED
from superpose.tasks import DriftDesign, IIDDesign
from superpose.theory import pgd_optimum, pgd_risk, sample_weights

ARRIVED = 1.03  # risk over the optimum's up to which a training counts as arrived there: the bound of I1
Design = dict[str, Any]


def iid(c: Config, n: int, noise: float = 0.0, spectrum: Sequence[float] | None = None) -> Design:
    """The design with independent examples."""
    tasks = None if spectrum is None else np.diag(spectrum).tolist()
    return {"name": "iid-linear", "dim": c.dim, "points": n, "noise": noise, "tasks": tasks}


def drift(c: Config, rho: float) -> Design:
    """The design whose task drifts."""
    return {"name": "drift-linear", "dim": c.dim, "points": c.drift_length, "correlation": rho}


def train(
    run: Run[Config],
    model: str,
    designs: Sequence[Design],
    ranks: Sequence[int | None] | None = None,
    restarts: int = 1,
) -> list[list[dict[str, Any]]]:
    """Train a layer per design (and rank) and seed: ``[designs][seeds]``."""
    c = run.config
    recipe = {"steps": c.steps, "batch": c.batch, "lr": c.lr, "prompts": c.test_prompts}
    recipe |= {"restarts": restarts, "restart_steps": c.restart_steps if restarts > 1 else 0}
    items = [
        {"model": model, "design": design, "rank": rank, "seed": seed, **recipe}
        for design, rank in zip(designs, ranks or [None] * len(designs), strict=True)
        for seed in run.seeds
    ]
    found = run.map(steps.trained, items)
    return [found[i : i + len(run.seeds)] for i in range(0, len(found), len(run.seeds))]


def restarts_of(run: Run[Config], model: str) -> int:
    """Only attention's training depends on where it starts."""
    return run.config.restarts if model == steps.ATTENTION else 1


def ratios(cells: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """Trained risk over the exact optimum, ``[cells, seeds]``."""
    return np.array([[one["risk"] / one["exact"] for one in cell] for cell in cells])


def largest_gap(name: str, cells: Sequence[Sequence[dict[str, Any]]]) -> Measurement:
    """The relative distance of the worst cell from its optimum, over seeds."""
    return over_seeds(name, np.abs(ratios(cells) - 1).max(0))


def extremes(sampled: Sequence[Measurement], prefix: str = "sampled-over-exact") -> list[Measurement]:
    """The smallest and the largest of several ratios: their intervals run from extreme to extreme."""
    return [smallest_of(f"min-{prefix}", sampled), largest_of(f"max-{prefix}", sampled)]


def over_exact(errors: np.ndarray, exact_risk: float) -> Measurement:
    """A sampled risk over the closed form."""
    return over_items("ratio", errors / exact_risk)


def points(
    run: Run[Config], curve: str, arm: str, x: Sequence[float], cells: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Draw trained risks over dim, with their range over seeds."""
    dim = run.config.dim
    run.curve_of(curve, arm, x, [over_seeds("risk", [one["risk"] / dim for one in cell]) for cell in cells])


def measure_iid(run: Run[Config], claim: str, model: str, arm: str) -> None:
    """I1 and I2: a layer on independent examples against the best gradient step, in risk and in weights."""
    c = run.config
    designs = [iid(c, n) for n in c.lengths] + [iid(c, c.noisy_length, c.noise)]
    cells = train(run, model, designs, restarts=restarts_of(run, model))
    wrong = []
    for design, cell in zip(designs, cells, strict=True):
        best = steps.design_of(design).optimal_preconditioner().numpy()
        wrong.append([np.linalg.norm(one["maps"].mean(0) - best) / np.linalg.norm(best) for one in cell])
    run.measure(
        claim,
        largest_gap("largest-risk-gap", cells),
        over_seeds("largest-map-error", np.max(wrong, 0)),
        *extremes(
            [over_exact(cell[0]["optimal_errors"], cell[0]["exact"]) for cell in cells], "sampled-over-closed-form"
        ),
    )
    if model == steps.H3:
        tilted = train(run, model, [iid(c, c.noisy_length, spectrum=c.spectrum)])
        run.measure(claim, largest_gap("unequal-tasks.risk-gap", tilted))
    # The lines belong to both claims, which may run apart: drawn once.
    if model == steps.ATTENTION or "I1" not in run.claims:
        for curve, noise in (("risk-iid", 0.0), ("risk-noisy", c.noise)):
            design = IIDDesign(c.dim, max(c.lengths), noise)
            # At the same lengths as what is trained: a line between two points shows no gap that is not there.
            exact_risks = [design.optimal_risk(n) / c.dim for n in c.lengths]
            run.curve(curve, "best gradient step (exact)", c.lengths, exact_risks)
            bayes = run.map(
                steps.bayes,
                [{"design": iid(c, n, noise), "prompts": max(200, c.test_prompts // 50), "seed": 0} for n in c.lengths],
            )
            run.curve_of(curve, "Bayes (sampled)", c.lengths, [over_items("risk", b / c.dim) for b in bayes])
    points(run, "risk-iid", arm, c.lengths, cells[:-1])
    points(run, "risk-noisy", arm, [c.noisy_length], cells[-1:])


def measure_drift(run: Run[Config]) -> None:
    """I3: both layers on a drifting task, and the sample weights read off H3."""
    c = run.config
    rhos = sorted(c.rhos)
    designs = [drift(c, rho) for rho in rhos]
    attention = train(run, steps.ATTENTION, designs, restarts=c.restarts)
    h3 = train(run, steps.H3, designs)
    over = np.array(
        [[a["risk"] / b["risk"] for a, b in zip(x, y, strict=True)] for x, y in zip(h3, attention, strict=True)]
    )
    run.measure(
        "I3",
        largest_gap("attention.risk-gap", attention),
        largest_gap("h3.risk-gap", h3),
        over_seeds("h3-over-attention", over.max(0)),
    )
    line = sorted({0.0, 0.2, 0.4, 0.6, *rhos, 1.0})
    exact_risks = [DriftDesign(c.dim, c.drift_length, correlation=rho).drift() for rho in line]
    run.curve("risk-drift", "equal weights (exact)", line, [float(one.uniform_risk) / c.dim for one in exact_risks])
    run.curve("risk-drift", "best weights (exact)", line, [float(one.risk) / c.dim for one in exact_risks])
    points(run, "risk-drift", "linear attention (trained)", rhos, attention)
    points(run, "risk-drift", "H3 (trained)", rhos, h3)
    back = list(range(c.drift_length, 0, -1))
    correlations = []
    for place, at in enumerate((0, len(rhos) - 1)):
        best = steps.design_of(designs[at]).optimal_weights().numpy()
        best = best / best.mean()
        learned = np.array([sample_weights(torch.from_numpy(one["maps"]))[1].numpy() for one in h3[at]])
        correlations.append([np.corrcoef(each, best)[0, 1] for each in learned])
        run.curve(f"weights-{place}", f"exact, rho = {rhos[at]:g}", back, best)
        run.curve_of(
            f"weights-{place}", f"H3, rho = {rhos[at]:g}", back, [over_seeds("weight", column) for column in learned.T]
        )
    run.measure("I3", over_seeds("weight-correlation", np.min(correlations, 0)))


def measure_rank(run: Run[Config]) -> None:
    """I6: the closed form against sampled prompts at every rank and against trained layers at some."""
    c = run.config
    design = iid(c, c.noisy_length, spectrum=c.spectrum)
    every = list(range(c.dim + 1))
    found = run.step(steps.sampled, design=design, ranks=every, prompts=c.sampled_prompts, seed=0)
    sampled = [over_exact(errors, known) for errors, known in zip(found["errors"], found["exact"], strict=True)]
    ranks = sorted(c.ranks)
    cells = train(run, steps.ATTENTION, [design] * len(ranks), ranks, restarts=c.rank_restarts)
    run.measure("I6", *extremes(sampled), largest_gap("largest-risk-gap", cells))
    run.curve("risk-rank", "closed form", every, np.array(found["exact"]) / c.dim)
    run.curve_of("risk-rank", "sampled", every, [over_items("risk", errors / c.dim) for errors in found["errors"]])
    points(run, "risk-rank", "trained attention", ranks, cells)


def measure_lora(run: Run[Config]) -> None:
    """I7: adapters of every rank on the optimum of the old tasks."""
    c = run.config
    ranks = list(range(1, c.dim + 1))
    recipe = {"steps": c.lora_steps, "batch": c.batch, "lr": c.lr, "prompts": c.test_prompts, "n": c.lora_length}
    recipe |= {"old": c.spectrum, "new": c.shifted_spectrum}
    outputs = run.map(steps.adapted, [{"rank": rank, "seed": seed, **recipe} for rank in ranks for seed in run.seeds])
    cells = [outputs[i : i + len(run.seeds)] for i in range(0, len(outputs), len(run.seeds))]
    identity, old, new = (
        torch.eye(c.dim),
        torch.diag(torch.tensor(c.spectrum)),
        torch.diag(torch.tensor(c.shifted_spectrum)),
    )
    start = float(pgd_risk(pgd_optimum(c.lora_length, identity, old).preconditioner, c.lora_length, identity, new))
    risks = np.array([[start] * len(run.seeds), *([one["risk"] for one in cell] for cell in cells)])
    found = run.step(steps.updated, dim=c.dim, n=c.lora_length, prompts=c.sampled_prompts, seed=0)
    sampled = [over_exact(errors, known) for errors, known in zip(found["errors"], found["exact"], strict=True)]
    run.measure(
        "I7",
        largest_gap("largest-risk-gap", cells),
        over_seeds("smallest-gain-of-a-rank", (1 - risks[1:] / risks[:-1]).min(0)),
        exact("risk-without-adapter", start),
        over_seeds("full-rank-over-new-optimum", ratios(cells)[-1]),
        *extremes(sampled),
    )
    known = [start, *(cell[0]["exact"] for cell in cells)]
    run.curve("risk-lora", "closed form", [0, *ranks], np.array(known) / c.dim)
    points(run, "risk-lora", "peft LoRA (trained)", ranks, cells)
    run.curve("risk-update", "closed form", range(c.dim + 1), np.array(found["exact"]) / c.dim)
    risks_sampled = [over_items("risk", errors / c.dim) for errors in found["errors"]]
    run.curve_of("risk-update", "sampled", range(c.dim + 1), risks_sampled)


def measure_classes(run: Run[Config]) -> None:
    """I8: how much better the best function of a layer's whole class is than the best gradient step."""
    c = run.config
    means = {CENTRED: [0.0] * c.feature_dim, SHIFTED: [1.0] + [0.0] * (c.feature_dim - 1)}
    common = {"dim": c.feature_dim, "n": c.feature_length, "prompts": c.feature_prompts, "seed": 0}
    found = run.map(steps.classes, [{"mean": mean, **common} for mean in means.values()])
    for (name, _), one in zip(means.items(), found, strict=True):
        label = "mean-zero" if name == CENTRED else "mean-not-zero"
        for layer in ("attention", "h3"):
            ratio = paired_ratio("ratio", one[layer], one["gradient-step"], over="items")
            gain = {"name": f"{label}.{layer}-gain", "value": 1 - ratio.value, "low": 1 - ratio.high}
            run.measure("I8", ratio.model_copy(update=gain | {"high": 1 - ratio.low, "unit": ""}))
        run.measure("I8", over_items(f"{label}.step-over-closed-form", one["gradient-step"] / one["exact"]))
        risks = [over_items("risk", one[layer] / c.feature_dim) for layer in CLASSES]
        run.curve_of("classes", name, list(CLASSES.values()), risks)


def measure_arrivals(run: Run[Config]) -> None:
    """I9: from how many initial weights attention and H3 arrive at the optimum."""
    c = run.config
    designs = {"equal": iid(c, c.noisy_length), "unequal": iid(c, c.noisy_length, spectrum=c.spectrum)}
    cells = [(steps.ATTENTION, "equal"), (steps.ATTENTION, "unequal"), (steps.H3, "unequal")]
    recipe = {"count": c.initial_weights, "steps": c.steps, "batch": c.batch, "lr": c.lr}
    recipe |= {"prompts": c.test_prompts, "seed": 0}
    found = run.map(steps.arrivals, [{"model": model, "design": designs[name], **recipe} for model, name in cells])
    for (model, name), one in zip(cells, found, strict=True):
        share, label = one["risks"] / one["exact"], f"{model}.{name}-tasks"
        arrived = share <= ARRIVED
        run.measure("I9", proportion(f"{label}.arrived", int(arrived.sum()), len(share)))
        # How much of a second direction the layer has learned: of the worst of those that arrived, and of the others.
        for group, which, worst in (("arrived", arrived, np.min), ("elsewhere", ~arrived, np.max)):
            if which.any():
                second = float(worst(one["second"][which]))
                run.measure("I9", exact(f"{label}.second-direction-{group}", second, n=int(which.sum())))
        arm = f"{model}, {name} task variances"
        run.curve("arrivals", arm, [str(i + 1) for i in range(len(share))], np.sort(share), n=c.test_prompts)


def log2(values: Sequence[int]) -> list[float]:
    """Where sizes stand on a figure's horizontal axis."""
    return [math.log2(v) for v in values]
