"""How the claim on language models with wrong labels is measured (DM8)."""

import numpy as np

from superpose.experiment import Run, over_items, paired_difference
from superpose.models import resolve
from superpose.studies import language_models
from superpose.studies.dual_operating_modes import label_steps
from superpose.studies.dual_operating_modes.config import Config
from superpose.studies.dual_operating_modes.figures import LABEL_KINDS
from superpose.studies.language_models import available

GATE = 0.65  # accuracy with true labels below which DM8 would be inconclusive
CHOOSE, REPORT = slice(0, None, 2), slice(1, None, 2)  # prompts


def measure_labels(run: Run[Config]) -> None:
    """DM8: accuracy on the true label over bins of demonstrations, and what the rule for judging would say."""
    c = run.config
    bins = bins_of(c.demonstrations)
    places = [float(np.mean(b)) for b in bins]
    for model in available(run, c.model, c.other_models):
        short = language_models.short(model)
        common = {"model": model, "dtype": c.dtype, "labels": list(c.labels), "demonstrations": c.demonstrations}
        common |= {"prompts": c.label_prompts, "seed": 0, "fingerprint": resolve(model).fingerprint}
        odds = run.map(label_steps.label_log_odds, [{**common, "kind": kind} for kind in LABEL_KINDS])
        right = {}
        for kind, rows in zip(LABEL_KINDS, odds, strict=True):
            # Equal odds are a coin toss, not an error.
            right[kind] = _binned(np.heaviside(rows, 0.5), bins)
            chance = _binned(1 / (1 + np.exp(-rows)), bins)
            for curve, values in (("label-accuracy", right[kind]), ("label-probability", chance)):
                points = [over_items(kind, values[:, i]) for i in range(len(bins))]
                run.curve_of(curve, f"{kind}, {short}", places, points)
        _measure_accuracy(run, short, right, bins, main=model == c.model)


def _measure_accuracy(
    run: Run[Config], short: str, right: dict[str, np.ndarray], bins: list[list[int]], main: bool
) -> None:
    suffix = "" if main else f".{short}"
    true, coin = right["true"], right["random"]
    best_true, best_coin = int(true[CHOOSE].mean(0).argmax()), int(coin[CHOOSE].mean(0).argmax())
    accuracy = over_items(f"true.best-accuracy{suffix}", true[REPORT, best_true])
    below = paired_difference(f"true-minus-random{suffix}", true[:, -1], coin[:, -1], over="items")
    later = paired_difference(
        f"random.last-minus-best{suffix}", coin[REPORT, -1], coin[REPORT, best_coin], over="items"
    )
    run.measure(
        "DM8",
        accuracy,
        below,
        later,
        *(over_items(f"{kind}.last-accuracy{suffix}", rows[:, -1]) for kind, rows in right.items()),
        over_items(f"accuracy-without-examples{suffix}", true[:, 0]),
        # Early ascent would be an error that is higher after one or two examples than without.
        paired_difference(
            f"true.early-error-rise{suffix}", true[:, 0], true[:, 1 : len(bins)][:, :2].mean(1), over="items"
        ),
    )
    where = f"{short}, true labels: accuracy {accuracy.value:.2f} at {bins[best_true][0]} to {bins[best_true][-1]}"
    if accuracy.low < GATE:
        rule = f"not shown to reach {GATE:g}, so the claim would be inconclusive"
    elif below.high <= 0 or later.low > 0:
        rule = f"reaches {GATE:g}; random labels do as well, or still improve: the claim would fail"
    elif below.low > 0 and later.high <= 0 and best_coin < len(bins) - 1:
        rule = f"reaches {GATE:g}; random labels lie below and improve no more: the claim would hold"
    else:
        # A curve that is best at its end shows no bound.
        rule = f"reaches {GATE:g}, but whether random labels lie below and stop improving is open: inconclusive"
    run.note(f"DM8 {where} demonstrations: {rule}")


def bins_of(demonstrations: int) -> list[list[int]]:
    """0; 1; 2; 3 to 4; 5 to 8; ... : numbers of demonstrations that are averaged over."""
    bins, start = [[0]], 1
    while start <= demonstrations:
        stop = min(demonstrations, max(1, 2 * (start - 1)))
        bins.append(list(range(start, stop + 1)))
        start = stop + 1
    return bins


def _binned(rows: np.ndarray, bins: list[list[int]]) -> np.ndarray:
    return np.stack([rows[:, b].mean(1) for b in bins], axis=1)
