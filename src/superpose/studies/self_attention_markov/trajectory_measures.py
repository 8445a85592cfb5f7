"""How trajectories are measured (M7 to M9)."""

import math
from collections.abc import Sequence

import numpy as np

from superpose.experiment import Run, exact, over_items, paired_difference, proportion
from superpose.studies.self_attention_markov import trajectory_steps
from superpose.studies.self_attention_markov.config import CHAINS, SETTLING, Config
from superpose.studies.self_attention_markov.measures import log_slope

FITTED = 32  # exponents are fitted on lengths from the last one divided by this


def lengths(last: int) -> tuple[int, ...]:
    """Lengths that double, up to the last one."""
    return tuple(sorted({last >> shift for shift in range(last.bit_length()) if last >> shift >= 8}))


def logs(at: Sequence[int]) -> list[float]:
    """Where lengths stand on the figures' axis."""
    return [math.log10(t) for t in at]


def measure_winners(run: Run[Config]) -> None:
    """M7 on chains whose tokens dominate their rows, and M7L on chains where none does."""
    c = run.config
    at = lengths(c.steps)
    early = min(range(len(at)), key=lambda i: abs(math.log(at[i] / 100)))
    cases = (("M7", "every token dominates its row", True), ("M7L", "no token does", False))
    items = [
        {"tokens": c.tokens, "trajectories": c.trajectories, "at": at, "dominant": dominant, "seed": 10}
        for *_, dominant in cases
    ]
    for (claim, arm, _), one in zip(cases, run.map(trajectory_steps.shares, items), strict=True):
        for name, key in (("top-share", "top"), ("common-tokens", "common")):
            run.curve_of(name, arm, logs(at), [over_items(name, column) for column in one[key].T])
        run.measure(
            claim,
            over_items("top-share", one["top"][:, -1]),
            over_items("top-share-at-100", one["top"][:, early]),
            paired_difference("rise", one["top"][:, -1], one["top"][:, early], over="items"),
            over_items("common-tokens", one["common"][:, -1]),
            over_items("common-tokens-at-100", one["common"][:, early]),
        )


def measure_losers(run: Run[Config]) -> None:
    """M8: exponents of single trajectories, their median against the prediction; M8I: of the information."""
    c = run.config
    at = lengths(c.growth_steps)
    fitted = [i for i, t in enumerate(at) if t * FITTED >= at[-1]]
    spans = [at[i] for i in fitted]
    items = [{"name": name, "trajectories": c.trajectories, "at": at, "seed": 20} for name in CHAINS]
    for (name, rows), one in zip(CHAINS.items(), run.map(trajectory_steps.loser_counts, items), strict=True):
        rho = rows[0][1] / rows[0][0]
        counts = one["counts"]
        median = np.median(counts, axis=0)
        low, high = np.quantile(counts, (0.25, 0.75), axis=0)
        run.curve(
            f"losers-{name}", "measured", logs(at), np.log10(median), np.log10(low), np.log10(high), n=len(counts)
        )
        line = math.log10(median[-1]) + rho * (np.array(logs(at)) - math.log10(at[-1]))
        run.curve(f"losers-{name}", f"slope {rho:.3f}", logs(at), line)
        slopes = log_slope(spans, counts[:, fitted])
        run.measure(
            "M8",
            over_items(f"{name}.gap", slopes, statistic=lambda x, rho=rho: abs(float(np.median(x)) - rho)),
            over_items(f"{name}.exponent", slopes, statistic=lambda x: float(np.median(x))),
            exact(f"{name}.predicted", rho),
            proportion(f"{name}.first-token-won", round(one["won"] * c.trajectories), c.trajectories),
        )
    small = [{**item, "trajectories": c.information_trajectories} for item in items]
    for (name, rows), grown in zip(CHAINS.items(), run.map(trajectory_steps.information, small), strict=True):
        slopes = log_slope(spans, grown[:, fitted])
        run.measure(
            "M8I",
            over_items(f"{name}.exponent", slopes, statistic=lambda x: float(np.median(x))),
            exact(f"{name}.predicted", rows[0][1] / rows[0][0]),
        )


def measure_settling(run: Run[Config]) -> None:
    """M9: how far the mean shares end from the fixed point; M9L: the least of them where a pair takes everything."""
    c = run.config
    at = lengths(c.steps)
    items = [{"name": name, "trajectories": c.trajectories, "at": at, "seed": 30} for name in SETTLING]
    for name, one in zip(SETTLING, run.map(trajectory_steps.settling_shares, items), strict=True):
        ends, fixed = one["shares"][:, -1], one["fixed"]
        run.measure(
            "M9",
            over_items(f"{name}.gap", ends, statistic=lambda x, to=fixed: float(np.abs(x.mean(0) - to).max())),
            over_items(f"{name}.gap-of-single-trajectories", np.abs(ends - fixed).max(1)),
        )
        run.measure(
            "M9L",
            over_items(f"{name}.smallest-share", ends, statistic=lambda x: float(x.mean(0).min())),
            exact(f"{name}.smallest-fixed-share", fixed.min(), n=len(fixed)),
            exact(f"{name}.smallest-exponent", one["exponents"].min(), n=len(fixed)),
        )
        # The token that loses most, or else the rarest.
        least = one["shares"][..., int(fixed.argmin())]
        mean, (low, high) = least.mean(0), np.quantile(least, (0.25, 0.75), axis=0)
        arm = name.replace("-", " ")
        run.curve("settling", arm, logs(at), mean, np.minimum(low, mean), np.maximum(high, mean), n=len(least))
        run.curve("settling", f"{arm}, fixed point", logs(at), np.full(len(at), fixed.min()))
