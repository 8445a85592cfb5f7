"""How the claims on the exact predictor are measured (DM1 to DM6): which steps run, and what is read off them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from superpose.experiment import (
    Measurement,
    Run,
    exact,
    largest_of,
    over_items,
    paired_difference,
    paired_ratio,
    proportion,
    smallest_of,
)
from superpose.studies.dual_operating_modes import steps
from superpose.studies.dual_operating_modes.config import Config
from superpose.studies.dual_operating_modes.figures import (
    ASCENT_PAIRS,
    DECAY_FROM,
    DECAY_PAIRS,
    DEFAULT_TASK,
    DELTAS,
    DISTANCES,
    END,
    MIDDLE,
    NARROW,
    NARROW_SIGMA,
    PAIRS,
    WIDE,
    WIDE_SIGMA,
    delta_name,
    slug,
)
from superpose.theory import regular_prior, retrieval_risk_limit

RANDOM_PRIORS = 5  # of DM1
REWEIGHTING_PAIRS = tuple(range(0, 33, 4))
CHOOSE, REPORT = slice(0, None, 2), slice(1, None, 2)  # blocks of prompts that choose a length, and that report there


def log_axis(pairs: Sequence[int]) -> list[float]:
    """Where numbers of pairs stand on the figures' horizontal axis."""
    return [math.log2(1 + k) for k in pairs]


def draw(run: Run[Config], curve: str, arm: str, pairs: Sequence[int], rows: np.ndarray, prompts: int) -> None:
    """Record the mean of block means, ``[blocks, pairs]``, with 1.96 standard errors."""
    mean, half = rows.mean(0), 1.96 * rows.std(0, ddof=1) / math.sqrt(len(rows))
    run.curve(curve, arm, log_axis(pairs), mean, mean - half, mean + half, n=prompts)


def regular(run: Run[Config], weights: Sequence[float], deltas: Sequence[float]) -> list[dict[str, Any]]:
    """Risks on one task for several deltas."""
    return run.map(
        steps.regular_risks,
        [
            {"delta": d, "pairs": PAIRS, "prompts": run.config.prompts, "seed": 0, "weights": list(weights)}
            for d in deltas
        ],
    )


def measure_posterior(run: Run[Config]) -> None:
    """DM1: the worst of five random priors."""
    common = {"draws": run.config.draws, "pairs": 4, "dim": 2, "groups": 3}
    found = run.map(steps.posterior_check, [{"seed": seed, **common} for seed in range(RANDOM_PRIORS)])

    def largest(name: str, key: str, unit: str = "") -> Measurement:
        return exact(name, max(one[key] for one in found), n=RANDOM_PRIORS, unit=unit)

    run.measure(
        "DM1",
        largest("largest-difference", "in_errors", "standard errors of the sampling"),
        largest("largest-weight-difference", "weights"),
        largest("largest-difference-from-conditioning", "conditioning"),
        largest("largest-weight-standard-error", "weight_error"),
    )


def measure_modes(run: Run[Config]) -> None:
    """DM2 over delta and pairs, with the figures on the dynamics and on the distance of the task."""
    prompts = run.config.prompts
    by_delta = dict(zip(DELTAS, regular(run, DEFAULT_TASK, DELTAS), strict=True))
    for delta, one in by_delta.items():
        arm, group = f"delta = {delta_name(delta)}", one["retrieved"]
        draw(run, "weight", arm, PAIRS, one["weights"][..., group], prompts)
        draw(run, "centre", arm, PAIRS, one["distance"][..., group], prompts)
        draw(run, "learning", arm, PAIRS, one["learning"], prompts)
    for task, first in enumerate(DISTANCES):
        deltas = DELTAS[: len(DISTANCES)]
        for i, one in enumerate(regular(run, (first, *DEFAULT_TASK[1:]), deltas)):
            name = ("farthest", "middle", "closest")[task]
            draw(run, f"task-{i}", name, PAIRS, one["learning"], prompts)
    narrow, wide = by_delta[NARROW], by_delta[WIDE]
    eight, four = PAIRS.index(8), PAIRS.index(4)
    distance = narrow["distance"][..., narrow["retrieved"]]
    run.measure(
        "DM2",
        over_items("narrow.weight", narrow["weights"][:, eight, narrow["retrieved"]]),
        over_items("narrow.shrunk", 1 - distance[:, eight] / distance[:, 0]),
        over_items("wide.risk", wide["learning"][:, four]),
        over_items("wide.weight", wide["weights"][:, four, wide["retrieved"]]),
    )


def measure_ascent(run: Run[Config]) -> None:
    """DM3: the rise over the risk without examples, at a number of pairs chosen on other prompts."""
    c = run.config
    rises, scores, peaks, wide = [], [], [], []
    for sigma in (NARROW_SIGMA, WIDE_SIGMA):
        cells = [{"dim": d, "sigma": sigma, "pairs": ASCENT_PAIRS, "prompts": c.ascent_prompts} for d in c.dims]
        for dim, one in zip(c.dims, run.map(steps.ascent_risks, [{**cell, "seed": 1} for cell in cells]), strict=True):
            risk = one["learning"]
            best = 1 + int(risk[CHOOSE, 1:].mean(0).argmax())
            higher = risk[REPORT, best] - risk[REPORT, 0]
            name = "ascent" if sigma == NARROW_SIGMA else "no-ascent"
            draw(run, name, f"d = {dim}", ASCENT_PAIRS, risk, c.ascent_prompts)
            if sigma == WIDE_SIGMA:
                wide.append(over_items(f"wide.rise.d-{dim}", higher))
                continue
            rises.append(paired_difference(f"rise.d-{dim}", risk[REPORT, best], risk[REPORT, 0], over="items"))
            # A test statistic: its own spread is what the five standard errors allow for.
            z = higher.mean() / (higher.std(ddof=1) / math.sqrt(len(higher)))
            scores.append(exact(f"rise-in-standard-errors.d-{dim}", z, n=len(higher)))
            peaks.append(over_items(f"peak.d-{dim}", risk, statistic=_peak, unit="pairs"))
    run.measure("DM3", *rises, *scores, *peaks, *wide)
    run.measure(
        "DM3",
        smallest_of("smallest-rise", rises),
        smallest_of("smallest-rise-in-standard-errors", scores),
        smallest_of("earliest-peak", peaks),
        largest_of("latest-peak", peaks),
        largest_of("wide.largest-rise", wide),
    )
    _measure_condition(run)


def _peak(rows: np.ndarray) -> float:
    return float(ASCENT_PAIRS[int(rows.mean(0).argmax())])


def _measure_condition(run: Run[Config]) -> None:
    c = run.config
    found = run.step(steps.condition, priors=c.conditions, prompts=c.condition_prompts, seed=2)
    expected, rise, error = found["expected"], found["rise"], found["error"]
    agree = int((expected == (rise[:, -1] > 0)).sum())
    run.measure("DM3", proportion("condition-agrees", agree, len(expected)))
    others = ~expected
    if others.any():
        # Three standard errors, because the best of several lengths is looked at.
        rose = int((rise[others] > 3 * error[others]).any(1).sum())
        run.measure("DM3", proportion("rises-without-condition", rose, int(others.sum())))


def measure_decay(run: Run[Config]) -> None:
    """DM4: the log-log slope per dimension, and violations of the bounds in the prompts of DM2."""
    c = run.config
    cells = [{"dim": d, "sigma": NARROW_SIGMA, "pairs": DECAY_PAIRS, "prompts": c.prompts, "seed": 3} for d in c.dims]
    slopes = []
    for dim, one in zip(c.dims, run.map(steps.ascent_risks, cells), strict=True):
        draw(run, "decay", f"d = {dim}", DECAY_PAIRS, one["learning"], c.prompts)
        far = one["learning"][:, DECAY_PAIRS.index(DECAY_FROM) :]
        slopes.append(over_items(f"slope.d-{dim}", far, statistic=_log_slope))
    by_delta = regular(run, DEFAULT_TASK, DELTAS)
    checked = sum(one["checked"] for one in by_delta)
    run.measure(
        "DM4",
        *slopes,
        smallest_of("steepest-slope", slopes),
        largest_of("shallowest-slope", slopes),
        exact("bound-violations", sum(one["violations"][0] for one in by_delta), n=checked),
    )


def _log_slope(rows: np.ndarray) -> float:
    x = np.log(DECAY_PAIRS[DECAY_PAIRS.index(DECAY_FROM) :])
    x = x - x.mean()
    return float(x @ np.log(rows.mean(0)) / (x @ x))


def measure_bias(run: Run[Config]) -> None:
    """DM5: where the retrieval risk is smallest, how far it rises again, and to what."""
    by_delta = dict(zip(DELTAS, regular(run, DEFAULT_TASK, DELTAS), strict=True))
    minima, ratios = [], []
    for delta, one in by_delta.items():
        risk = one["retrieval"]
        draw(run, "retrieval", f"delta = {delta_name(delta)}", PAIRS, risk, run.config.prompts)
        if delta in (NARROW, MIDDLE):
            minima.append(over_items(f"minimum-at.{slug(delta)}", risk, statistic=_lowest_pairs, unit="pairs"))
            best = int(risk[CHOOSE].mean(0).argmin())
            end, least = risk[REPORT, PAIRS.index(END)], risk[REPORT, best]
            ratios.append(paired_ratio(f"end-over-minimum.{slug(delta)}", end, least, over="items"))
    prior = regular_prior(4)
    task, retrieved = steps.regular_task(prior), prior.w[by_delta[MIDDLE]["retrieved"]]
    limit = retrieval_risk_limit(retrieved, task, task)
    run.measure(
        "DM5",
        *minima,
        *ratios,
        smallest_of("earliest-minimum", minima),
        largest_of("latest-minimum", minima),
        smallest_of("smallest-end-over-minimum", ratios),
        over_items("risk-over-limit", by_delta[MIDDLE]["retrieval"][:, -1] / limit),
        exact("limit", limit),
        exact(
            "bound-violations",
            sum(one["violations"][1] for one in by_delta.values()),
            n=sum(one["checked"] for one in by_delta.values()),
        ),
    )


def _lowest_pairs(rows: np.ndarray) -> float:
    return float(PAIRS[int(rows.mean(0).argmin())])


def measure_reweighting(run: Run[Config]) -> None:
    """DM6: slopes of the log-ratios of weights over their prediction, for every group but the retrieved one."""
    one = run.step(steps.reweighting, pairs=REWEIGHTING_PAIRS, prompts=run.config.prompts, seed=4)
    group, scores, logs = one["retrieved"], one["scores"], one["log_weights"]
    pairs = np.array(REWEIGHTING_PAIRS) - np.mean(REWEIGHTING_PAIRS)
    ratios = []
    for other in (m for m in range(len(scores)) if m != group):
        predicted = scores[group] - scores[other]
        slopes = (logs[..., other] - logs[..., group]) @ pairs / (pairs @ pairs)
        ratios.append(over_items(f"slope-over-prediction.group-{other + 1}", slopes / predicted))
        run.measure(
            "DM6",
            over_items(f"slope.group-{other + 1}", slopes, unit="nats per pair"),
            exact(f"prediction.group-{other + 1}", predicted, unit="nats per pair"),
        )
    run.measure("DM6", *ratios, smallest_of("smallest-ratio", ratios), largest_of("largest-ratio", ratios))
