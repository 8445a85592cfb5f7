"""How the claims on models trained from scratch are measured."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from superpose.experiment import Run, over_seeds
from superpose.interpret import kl_to_mixture
from superpose.studies.task_superposition import trained_steps
from superpose.studies.task_superposition.config import Config
from superpose.studies.task_superposition.samples import grid
from superpose.studies.task_superposition.trained_steps import PAIR

HALF = np.array([0.5, 0.5])
TOLERANCE = 1e-5  # on probabilities, as in the paper's code


def measure_trained(run: Run[Config]) -> None:
    """TS2 on the widest models, TS6 over all of them."""
    c = run.config
    weights = grid(c.mixture_step)
    widths = sorted(c.widths) if "TS6" in run.claims else [max(c.widths)]
    cells = [{"width": width, "seed": seed} for width in widths for seed in run.seeds]
    common = {"train_steps": c.train_steps, "batch": c.train_batch, "prompts": c.train_prompts, "weights": weights}
    outcomes = run.map(trained_steps.trained, [{**cell, **common} for cell in cells])
    by_width = {w: [o for cell, o in zip(cells, outcomes, strict=True) if cell["width"] == w] for w in widths}
    measure_superposition(run, by_width[widths[-1]], weights)
    if "TS6" in run.claims:
        measure_width(run, by_width, weights.index(0.5))


def measure_superposition(run: Run[Config], models: list[dict[str, Any]], weights: list[float]) -> None:
    """TS2: what models trained on one task per sequence do with two."""
    p = np.stack([np.exp(m["logprob"]).mean(1)[:, list(PAIR)] for m in models])  # [seeds, weights, pair]
    half = weights.index(0.5)
    for k, task in enumerate(PAIR):
        points = [over_seeds(f"p{task}", p[:, i, k]) for i in range(len(weights))]
        run.curve_of("from-scratch", f"letter {task + 1}", weights, points)
    run.measure(
        "TS2",
        over_seeds("share-at-half", p[:, half, 0] / p[:, half].sum(1)),
        over_seeds("weaker-task-at-half", p[:, half].min(1)),
        over_seeds("rank-correlation", [_rank_correlation(weights, curve) for curve in p[..., 0]]),
        over_seeds("smallest-sum", p.sum(2).min(1)),
        over_seeds("single-task-accuracy", [m["accuracy"] for m in models]),
        # The mean over prompts may also come from prompts that each do one task; this one may not.
        over_seeds("both-in-one-prompt", [np.exp(m["logprob"][half][:, list(PAIR)]).min(1).mean() for m in models]),
    )


def measure_width(run: Run[Config], by_width: dict[int, list[dict[str, Any]]], half: int) -> None:
    """TS6: calibration and completed tasks at equal shares of two tasks, over the width of the model.

    A task is completed if its letter is among the two most probable first tokens (up to 1e-5, as in the paper); the
    newline that ends every string follows any letter with nearly the same probability.
    """
    kl, r = {}, {}
    for width, models in by_width.items():
        kl[width] = [float(np.mean(kl_to_mixture(m["logprob"][half][:, list(PAIR)], HALF))) for m in models]
        r[width] = [_completed(np.exp(m["first_logprob"][half]), np.exp(m["second"][half])) for m in models]
    widths = sorted(by_width)
    run.curve_of("width-kl", "KL", widths, [over_seeds("kl", kl[w], unit="nats") for w in widths])
    run.curve_of("width-r", "r", widths, [over_seeds("r", r[w], unit="tasks") for w in widths])
    smallest, largest = widths[0], widths[-1]
    # Different models: the seeds only share their data, so the smallest is compared with the largest seed by seed.
    run.measure(
        "TS6",
        over_seeds("kl-largest-minus-smallest", np.subtract(kl[largest], kl[smallest]), unit="nats"),
        over_seeds("r-largest-minus-smallest", np.subtract(r[largest], r[smallest]), unit="tasks"),
        *(over_seeds(f"accuracy.width-{w}", [m["accuracy"] for m in by_width[w]]) for w in widths),
        *(over_seeds(f"kl.width-{w}", kl[w], unit="nats") for w in widths),
        *(over_seeds(f"r.width-{w}", r[w], unit="tasks") for w in widths),
    )


def _completed(p: np.ndarray, second: np.ndarray) -> float:
    return float((p[:, list(PAIR)] >= second[:, None] - TOLERANCE).sum(1).mean())


def _rank_correlation(x: list[float], y: np.ndarray) -> float:
    found: Any = spearmanr(x, y)  # scipy's annotation hides the fields
    return float(found.statistic)
