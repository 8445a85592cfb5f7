"""How the claims are measured: which steps run, and what is read off their outputs."""

import math
from collections.abc import Sequence

import numpy as np

from superpose.errors import require
from superpose.experiment import (
    Measurement,
    Run,
    exact,
    largest_of,
    over_items,
    over_seeds,
    paired_difference,
    smallest_of,
)
from superpose.studies.distillation_high_dim import steps
from superpose.studies.distillation_high_dim.config import Config
from superpose.studies.distillation_high_dim.spectra import (
    BEST_SHIFT,
    FIGURE_LAW,
    KINDS,
    SCALING_LAWS,
    SHIFTS,
    SIMULATED_LAW,
    SPECTRA,
    spectrum,
)
from superpose.theory import kept_features, power_law, scaling_exponent, spectral_stats, surrogate_gain, target_risk

ERRORS = 4.0  # standard errors within which theory and simulation agree
SHARE, SHIFT_SHARE = 0.05, 0.06  # or else this share of the theory
GRID = 40  # points of a curve that is computed, not simulated
PERCENT = "share of the risk of true labels"


def excess(simulated: np.ndarray, theory: float, share: float) -> float:
    """How far a mean lies from the theory, in units of what is allowed; at most 1 if it agrees."""
    error = float(simulated.std(ddof=1)) / math.sqrt(len(simulated))
    return abs(float(simulated.mean()) - theory) / max(ERRORS * error, share * theory)


def improvement(name: str, better: np.ndarray, true: np.ndarray) -> Measurement:
    """What labels gain over true ones on the same inputs and noise."""
    return over_items(name, np.stack([better, true], 1), statistic=_improvement, unit=PERCENT)


def _improvement(rows: np.ndarray) -> float:
    return float(1 - rows[:, 0].mean() / rows[:, 1].mean())


def standard_errors(name: str, differences: np.ndarray) -> Measurement:
    """A mean over its standard error: a test statistic, whose own spread the asked size allows for."""
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return exact(name, differences.mean() / error, n=len(differences), unit="standard errors")


def grid(first: int, last: int) -> list[int]:
    """Whole numbers from the first to the last, evenly on a logarithmic scale."""
    return sorted({round(x) for x in np.geomspace(first, last, GRID)})


def students(run: Run[Config], samples: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Simulated and predicted risks in the setting of the paper's figure 1."""
    c = run.config
    alpha, beta = FIGURE_LAW
    common = {"features": c.features, "alpha": alpha, "beta": beta, "noises": [0.0, c.noise], "runs": c.runs}
    return run.map(steps.label_risks, [{**common, "samples": n, "seed": 0} for n in samples])


def measure_labels(run: Run[Config]) -> None:
    """K1 and K5: students of three kinds of labels on the paper's spectrum."""
    c = run.config
    found = students(run, c.samples)
    worst = [
        excess(one["risks"][noise, kind], one["theory"][noise, kind], SHARE)
        for one in found
        for noise in (0, 1)
        for kind in range(len(KINDS))
    ]
    apart = [np.abs(one["risks"].mean(-1) / one["theory"] - 1).max() for one in found]
    run.measure(
        "K1",
        exact("largest-distance-over-allowed", max(worst), n=len(worst)),
        exact("largest-relative-distance", max(apart), n=len(worst)),
    )
    draw_labels(run, found)
    at = found[c.samples.index(c.figure_samples)]["risks"]
    true, optimal, mask = at[0]
    run.measure(
        "K5",
        improvement("improvement.optimal", optimal, true),
        improvement("improvement.mask", mask, true),
        improvement("improvement.optimal.noisy", at[1][1], at[1][0]),
        improvement("improvement.mask.noisy", at[1][2], at[1][0]),
        # Labels computed by a model carry no noise; then the surrogate has that advantage too.
        improvement("improvement.optimal.noiseless-surrogate", optimal, at[1][0]),
        improvement("improvement.mask.noiseless-surrogate", mask, at[1][0]),
    )


def draw_labels(run: Run[Config], found: list[dict[str, np.ndarray]]) -> None:
    """The closed form over all numbers of samples, and the simulations on it."""
    c = run.config
    lam, truth = power_law(c.features, *FIGURE_LAW)
    dense = grid(min(c.samples), max(c.samples))
    for noise, arm in enumerate(("no noise", "noise")):
        variance = (0.0, c.noise)[noise]
        theory = np.stack([target_risk(lam, truth, steps.labellers(lam, truth, n), n, variance) for n in dense], axis=1)
        for kind, name in enumerate(KINDS):
            run.curve(f"risk-{name}", f"{arm}, theory", dense, theory[kind])
            drawn = [over_items("risk", one["risks"][noise, kind]) for one in found]
            run.curve_of(f"risk-{name}", f"{arm}, simulated", c.samples, drawn)
            if name == "true":
                continue
            run.curve(f"improvement-{name}", f"{arm}, theory", dense, 1 - theory[kind] / theory[0])
            gains = [improvement("gain", one["risks"][noise, kind], one["risks"][noise, 0]) for one in found]
            run.curve_of(f"improvement-{name}", f"{arm}, simulated", c.samples, gains)


def measure_concentration(run: Run[Config]) -> None:
    """K2: the spread of the risk over data sets, against the number of features."""
    c = run.config
    sizes = c.concentration_features
    cells = [{"features": p, "runs": c.concentration_runs, "seed": 0} for p in sizes]
    found = run.map(steps.deviations, cells)
    log_sizes = np.log(sizes)

    def slope(rows: np.ndarray) -> float:
        return float(np.polyfit(log_sizes, np.log(rows.std(0, ddof=1)), 1)[0])

    for kind in (0, 1):
        risks = np.stack([one["risks"][kind] for one in found], axis=1)
        theory = np.array([one["theory"][kind] for one in found])
        spread = [over_items("spread", column, statistic=_spread) for column in risks.T]
        run.curve_of("spread", f"{KINDS[kind]} labels", np.log2(sizes), spread)
        largest = np.abs(risks - theory).max(0)
        run.curve("largest-deviation", f"{KINDS[kind]} labels", np.log2(sizes), largest, n=c.concentration_runs)
        run.measure("K2", over_items(f"slope.{KINDS[kind]}", risks, statistic=slope))
    true = found[0]["risks"][0].std(ddof=1)
    run.curve("spread", "p^(-1/2)", np.log2(sizes), [true * (p / sizes[0]) ** -0.5 for p in sizes])


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1))


def measure_form(run: Run[Config]) -> None:
    """K3: the formula of the best surrogate against a minimiser that does not know it."""
    c = run.config
    fractions = [n / c.features for n in c.samples]
    cells = [
        {"name": name, "features": c.features, "samples": round(f * c.features)} for name in SPECTRA for f in fractions
    ]
    found = run.map(steps.minimised, cells)
    agree, checked = (sum(one[key] for one in found) for key in ("agree", "checked"))
    run.measure(
        "K3",
        exact("largest-difference", max(one["difference"] for one in found), n=len(found)),
        exact("criterion-agrees", agree / checked, n=checked),
    )
    lam, _ = spectrum(SPECTRA[0], c.features)
    index = np.array([i - 1 for i in grid(1, c.features)])
    axis = np.log10(index + 1)
    numerical = found[c.samples.index(c.figure_samples)]
    run.curve("gain", "optimal, formula", axis, surrogate_gain(lam, c.figure_samples)[index])
    run.curve("gain", "optimal, numerical minimum", axis, numerical["gain"][index])
    run.curve("gain", "mask", axis, surrogate_gain(lam, c.figure_samples, "mask")[index])
    stats = spectral_stats(lam, c.figure_samples)
    run.curve("criterion", "1 - zeta", axis, stats.learned[index])
    run.curve("criterion", "omega", axis, np.full(len(index), float(stats.omega)))
    run.measure(
        "K3",
        exact("figure.amplified", numerical["amplified"], unit="features"),
        exact("figure.largest-gain", float(numerical["gain"].max())),
    )


def measure_masks(run: Run[Config]) -> None:
    """K4: the criterion against all masks, and how many features it keeps."""
    c = run.config
    small = [
        {"name": name, "features": c.brute_features, "samples": n}
        for name in SPECTRA
        for n in range(2, c.brute_features - 1, 3)
    ]
    tried = run.map(steps.masks, small)
    large = [{"name": name, "features": c.features, "samples": n} for name in SPECTRA for n in c.samples]
    changed = run.map(steps.mask_changes, large)
    run.measure(
        "K4",
        exact("coordinates-unlike-the-best-mask", sum(one["differs"] for one in tried), n=len(tried)),
        exact("smallest-change-by-one-feature", min(one["smallest"] for one in changed), n=len(changed)),
        exact(
            "figure.kept",
            changed[c.samples.index(c.figure_samples)]["kept"],
            unit="features",
        ),
        exact("equal-eigenvalues.dropped", int((~kept_features(np.ones(c.features), c.figure_samples)).sum())),
    )
    (at_figure,) = students(run, [c.figure_samples])
    true, _, mask = at_figure["risks"][0]
    run.measure(
        "K4",
        standard_errors("gap-in-standard-errors", true - mask),
        paired_difference("gap", true, mask, over="items", unit="risk"),
    )
    dense = grid(5, c.features - 5)
    for name in (*SPECTRA, "equal eigenvalues"):
        lam = np.ones(c.features) if name == "equal eigenvalues" else spectrum(name, c.features)[0]
        run.curve("kept", name, np.array(dense) / c.features, kept_features(lam, dense).mean(-1))


def measure_scaling(run: Run[Config]) -> None:
    """K6: exponents of the risk in the number of samples, in closed form and simulated."""
    c = run.config
    laws = [
        {"features": c.scaling_features, "alpha": a, "beta": b, "samples": c.scaling_samples} for a, b in SCALING_LAWS
    ]
    logs = np.log(c.scaling_samples)
    from_exponent, between = [], []
    for at, (law, risks) in enumerate(zip(SCALING_LAWS, run.map(steps.scaling, laws), strict=True)):
        slopes = np.polyfit(logs, np.log(risks).T, 1)[0]
        rate = scaling_exponent(*law)
        from_exponent.append(np.abs(slopes + rate).max())
        between.append(np.ptp(slopes))
        for kind, name in enumerate(KINDS):
            run.measure("K6", exact(f"slope.{law[0]:g}-{law[1]:g}.{name}", slopes[kind]))
            # Freed of the claimed rate, so that a better one would show as a falling line.
            level = risks[kind] / risks[0, 0] * (np.array(c.scaling_samples) / c.scaling_samples[0]) ** rate
            run.curve(f"scaling-{at}", f"{name} labels", np.log2(c.scaling_samples), level)
    alpha, beta = SIMULATED_LAW
    cell = {"features": c.simulated_features, "alpha": alpha, "beta": beta, "noises": [0.0], "runs": c.runs, "seed": 1}
    found = run.map(steps.label_risks, [{**cell, "samples": n} for n in c.simulated_samples])
    simulated_logs, wanted = np.log(c.simulated_samples), scaling_exponent(alpha, beta)

    def gap(rows: np.ndarray) -> float:
        return float(abs(np.polyfit(simulated_logs, np.log(rows.mean(0)), 1)[0] + wanted))

    gaps = []
    for kind, name in enumerate(KINDS):
        rows = np.stack([one["risks"][0, kind] for one in found], axis=1)
        gaps.append(over_items(f"simulated.gap.{name}", rows, statistic=gap))
        run.curve_of(
            "scaling-simulated",
            f"{name}, simulated",
            simulated_logs / math.log(2),
            [over_items("risk", r) for r in rows.T],
        )
        theory = [float(one["theory"][0, kind]) for one in found]
        run.curve("scaling-simulated", f"{name}, theory", simulated_logs / math.log(2), theory)
    run.measure(
        "K6",
        exact("largest-gap-to-exponent", max(from_exponent), n=len(laws) * len(KINDS)),
        exact("largest-gap-between-labels", max(between), n=len(laws)),
        largest_of("simulated.largest-gap-to-exponent", gaps),
    )


def measure_shift(run: Run[Config]) -> None:
    """K7: surrogates that are themselves fitted, on other inputs."""
    c = run.config
    cells = [{"setting": s, "features": c.shift_features, "runs": c.runs, "seed": 0} for s in SHIFTS]
    found = dict(zip(SHIFTS, run.map(steps.two_stages, cells), strict=True))
    names = list(SHIFTS)
    run.measure(
        "K7",
        exact(
            "largest-distance-over-allowed",
            max(excess(one["risks"], one["theory"], SHIFT_SHARE) for one in found.values()),
            n=len(found),
        ),
        exact(
            "largest-relative-distance",
            max(abs(one["risks"].mean() / one["theory"] - 1) for one in found.values()),
            n=len(found),
        ),
        improvement("best-shift.improvement", found[BEST_SHIFT]["risks"], found[BEST_SHIFT]["true_risks"]),
        # Of the settings whose surrogate saw the same distribution: the least harm of not asking the truth.
        smallest_of(
            "same-distribution.smallest-loss",
            [
                paired_difference("loss", one["risks"], one["true_risks"], over="items", unit="risk")
                for name, one in found.items()
                if name.startswith("same")
            ],
        ),
    )
    run.curve("two-stage", "theory", names, [found[s]["theory"] for s in names])
    run.curve_of("two-stage", "simulated", names, [over_items("risk", found[s]["risks"]) for s in names])
    run.curve("two-stage", "true labels, theory", names, [found[s]["true_theory"] for s in names])
    run.curve("two-stage", "best surrogate, theory", names, [found[s]["optimal_theory"] for s in names])


def measure_classical(run: Run[Config]) -> None:
    """K8: with more samples than features the truth is the best surrogate."""
    c = run.config
    found = run.step(steps.classical, features=c.classical_features, samples=c.classical_samples, runs=c.runs, seed=0)
    by_scale = dict(zip(steps.SCALES, found["risks"], strict=True))
    for scale in (0.9, 1.1):
        run.measure("K8", paired_difference(f"more-risk-at-{scale:g}", by_scale[scale], by_scale[1.0], over="items"))
    worst = [excess(r, t, SHARE) for r, t in zip(found["risks"], found["theory"], strict=True)]
    run.measure("K8", exact("largest-distance-over-allowed", max(worst), n=len(worst)))
    run.curve_of("classical", "simulated", steps.SCALES, [over_items("risk", r) for r in found["risks"]])
    run.curve("classical", "theory", steps.SCALES, found["theory"])


def measure_networks(run: Run[Config]) -> None:
    """K9: a large network taught by small ones."""
    require("sklearn", "lab")
    # It needs scikit-learn, and the other claims do not.
    from superpose.studies.distillation_high_dim import digit_steps

    c = run.config
    common = {
        "widths": c.surrogate_widths,
        "target_width": c.target_width,
        "surrogate_images": c.surrogate_images,
        "target_images": c.target_images,
        "train_steps": c.train_steps,
    }
    found = run.map(digit_steps.networks, [{**common, "seed": seed} for seed in run.seeds])
    accuracy = {kind: np.array([one[kind] for one in found]) for kind in ("surrogate", "hard", "soft")}
    true = np.array([one["true"] for one in found])
    gains, losses, soft = [], [], []
    names = [f"width {w}" for w in c.surrogate_widths]
    for i, width in enumerate(c.surrogate_widths):
        small, hard, gentle = (accuracy[kind][:, i] for kind in ("surrogate", "hard", "soft"))
        gains.append(paired_difference(f"gain.width-{width}", hard, small, over="seeds", unit="accuracy"))
        losses.append(paired_difference(f"below-true.width-{width}", true, hard, over="seeds", unit="accuracy"))
        soft.append(paired_difference(f"soft-gain.width-{width}", gentle, small, over="seeds", unit="accuracy"))
    run.measure("K9", *gains, *losses, *soft)
    run.measure("K9", smallest_of("smallest-gain", gains), smallest_of("smallest-below-true", losses))
    for kind, arm in (("surrogate", "surrogate"), ("hard", "its labels"), ("soft", "its probabilities")):
        run.curve_of("networks", arm, names, [over_seeds("accuracy", column) for column in accuracy[kind].T])
    run.curve_of("networks", "true labels", names, [over_seeds("accuracy", true)] * len(names))


def measure_digits(run: Run[Config]) -> None:
    """K10: the theory on features that are not Gaussian."""
    require("sklearn", "lab")
    # It needs scikit-learn, and the other claims do not.
    from superpose.studies.distillation_high_dim import digit_steps

    c = run.config
    cells = [{"features": c.random_features, "samples": n, "runs": c.runs, "seed": 0} for n in c.digit_samples]
    found = run.map(digit_steps.digit_risks, cells)
    apart, gains = [], []
    kinds = {"true": ("optimal", "true_"), "optimal": ("optimal", ""), "mask": ("mask", "")}
    for name, (mode, prefix) in kinds.items():
        risks = [one[mode][f"{prefix}risks"] for one in found]
        theory = [one[mode][f"{prefix}theory"] for one in found]
        run.curve("digits", f"{name}, theory", c.digit_samples, theory)
        run.curve_of("digits", f"{name}, measured", c.digit_samples, [over_items("risk", r) for r in risks])
        for n, simulated, predicted in zip(c.digit_samples, risks, theory, strict=True):
            relative = simulated / predicted
            apart.append(over_items(f"apart.{name}.{n}", relative, statistic=_distance_from_one))
    for n, one in zip(c.digit_samples, found, strict=True):
        for mode, told in one.items():
            gains.append(improvement(f"improvement.{mode}.{n}", told["risks"], told["true_risks"]))
    run.measure("K10", *apart, *gains)
    run.measure("K10", largest_of("largest-distance", apart), smallest_of("smallest-improvement", gains))


def _distance_from_one(values: np.ndarray) -> float:
    return float(abs(values.mean() - 1))
