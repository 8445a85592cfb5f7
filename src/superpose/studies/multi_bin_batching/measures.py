"""How the claims are measured: which steps run, and what is read off them."""

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_seeds, paired_difference, paired_ratio
from superpose.studies.multi_bin_batching import steps
from superpose.studies.multi_bin_batching.config import (
    HIGH,
    LAWS,
    LOW,
    OVERLOAD,
    PAPER_RATIOS,
    REAL_LAWS,
    Config,
)
from superpose.theory import batch_throughput, batching_latency, uniform_batch_time


def measure_throughput(run: Run[Config]) -> None:
    """C1: simulated throughput at saturation against the closed form."""
    c = run.config
    shared = {"requests": c.requests, "batch_size": c.batch_size, "bins": c.bins}
    runs = run.map(steps.saturated, [{"seed": seed, **shared} for seed in run.seeds])
    found = np.stack([each["throughput"] for each in runs])  # [seeds, bins]
    waste = np.stack([each["waste"] for each in runs])
    theory = np.array([batch_throughput(c.batch_size, uniform_batch_time(k, c.batch_size, LOW, HIGH)) for k in c.bins])
    limit = 2 * c.batch_size / (LOW + HIGH)
    run.measure(
        "C1",
        over_seeds("largest-error", np.abs(found / theory - 1).max(1)),
        over_seeds("smallest-step", np.diff(found, axis=1).min(1), unit="requests per unit of time"),
        over_seeds("smallest-gap-to-limit", (limit - found).min(1), unit="requests per unit of time"),
        *(over_seeds(f"throughput.k={k}", found[:, j]) for j, k in enumerate(c.bins)),
        *(over_seeds(f"waste.k={k}", waste[:, j]) for j, k in enumerate(c.bins)),
    )
    run.curve_of("throughput", "simulation", c.bins, _each(found))
    run.curve("throughput", "theory", c.bins, theory)
    run.curve("throughput", "limit", c.bins, np.full(len(c.bins), limit))
    run.curve_of("waste", "simulation", c.bins, _each(waste))
    run.curve("waste", "theory", c.bins, 1 - theory / limit)


def measure_edges(run: Run[Config]) -> None:
    """C2: no edges are better than equal bins."""
    c = run.config
    shared = {"batch_size": c.batch_size, "perturbations": c.perturbations, "seed": 0}
    found = run.map(steps.best_edges, [{"bins": k, **shared} for k in c.bins if k > 1])
    run.measure(
        "C2",
        exact("optimiser-distance", max(each["distance"] for each in found), n=5 * len(found)),
        exact("largest-gain", max(each["gain"] for each in found), n=c.perturbations * len(found)),
    )


def measure_number(run: Run[Config]) -> None:
    """C3: the rule for the number of bins."""
    found = run.step(steps.bins_needed, batch_size=run.config.batch_size, points=400)
    run.measure(
        "C3",
        exact("violations", found["violations"], n=len(found["epsilon"])),
        exact("slope", found["slope"]),
    )
    run.curve("bins-needed", "rule", np.log10(found["epsilon"]), found["bins"])


def measure_latency(run: Run[Config]) -> None:
    """C4: the latency formula, one server, and overload."""
    c = run.config
    shared = {"requests": c.requests, "batch_size": c.batch_size, "bins": c.latency_bins, "rates": c.rates}
    runs = run.map(steps.latencies, [{"seed": seed, **shared} for seed in run.seeds])
    free, one, growth = (np.stack([each[name] for each in runs]) for name in ("free", "one", "growth"))
    formula = np.array(
        [
            [
                batching_latency(uniform_batch_time(k, c.batch_size, LOW, HIGH), k, c.batch_size, rate)
                for k in c.latency_bins
            ]
            for rate in c.rates
        ]
    )
    at, low = c.rates.index(OVERLOAD), 0
    run.measure(
        "C4",
        over_seeds("largest-error", np.abs(free / formula - 1).max((1, 2))),
        over_seeds("smallest-one-server-excess", (one - free).min((1, 2))),
        paired_ratio("overload.k1-over-k2", one[:, at, 0], one[:, at, 1], over="seeds"),
        over_seeds("overload.growth-k1", growth[:, at, 0], unit="x"),
        over_seeds("overload.largest-growth-k2-up", growth[:, at, 1:].max(1), unit="x"),
        paired_difference("low-load.most-bins-minus-one", one[:, low, -1], one[:, low, 0], over="seeds"),
        over_seeds("smallest-one-server-over-formula", (one / formula).min((1, 2)), unit="x"),
    )
    for j, k in enumerate(c.latency_bins):
        run.curve_of("latency", f"k{k}", c.rates, _each(one[:, :, j]))
        run.curve("latency-free", f"k{k}", c.rates, formula[:, j])


def measure_exponential(run: Run[Config]) -> None:
    """C5: exponential lengths."""
    c = run.config
    choices = run.map(
        steps.exponential_choices, [{"bins": k, "batch_size": c.exponential_batch} for k in c.exponential_bins]
    )
    names = ("rule", "equal-mass", "optimal")
    items = [
        {
            "seed": seed,
            "requests": c.exponential_requests,
            "batch_size": c.exponential_batch,
            "edges": {name: [float(edge) for edge in each[name]] for name in names},
        }
        for each in choices
        for seed in run.seeds
    ]
    runs = run.map(steps.exponential, items)
    rows = [[each[name] for name in names] for each in runs]
    found = np.array(rows).reshape(len(choices), len(run.seeds), len(names))  # [bins, seeds, choices]
    bound = np.array([each["bound"] for each in choices])
    several = [i for i, k in enumerate(c.exponential_bins) if k > 1]
    run.measure(
        "C5", *(over_seeds(f"over-bound.k={c.exponential_bins[i]}", found[i, :, 0] / bound[i]) for i in several)
    )
    run.measure(
        "C5",
        over_seeds("over-equal-mass", (found[several, :, 0] / found[several, :, 1]).min(0), unit="x"),
        over_seeds("optimal-over-rule", (found[several, :, 2] / found[several, :, 0]).max(0), unit="x"),
        *(over_seeds(f"throughput.k={k}", found[i, :, 0]) for i, k in enumerate(c.exponential_bins)),
    )
    for at, name in enumerate(names):
        run.curve_of("exponential", name, c.exponential_bins, _each(found[:, :, at].T))
    run.curve("exponential", "bound", c.exponential_bins, bound)


def measure_errors(run: Run[Config]) -> None:
    """C6: requests in neighbouring bins by mistake."""
    c = run.config
    shared = {"requests": c.requests, "batch_size": c.batch_size, "errors": c.errors}
    items = [{"seed": seed, "bins": k, **shared} for k in c.error_bins for seed in run.seeds]
    runs = run.map(steps.with_errors, items)
    shape = (len(c.error_bins), len(run.seeds))
    found = np.stack([each["throughput"] for each in runs]).reshape(*shape, len(c.errors))
    one = np.array([float(each["one"]) for each in runs]).reshape(shape)
    ratio = found / one[:, :, None]  # [bins, seeds, errors]
    run.measure("C6", over_seeds("smallest-ratio-k4-up", ratio[1:].min((0, 2)), unit="x"))
    run.measure("C6", over_seeds("k2-ratio-at-largest-error", ratio[0, :, -1], unit="x"))
    for i, k in enumerate(c.error_bins):
        run.measure("C6", over_seeds(f"ratio.k={k}", ratio[i, :, -1], unit="x"))
        run.curve_of("errors", f"k{k}", c.errors, _each(found[i]))
    run.curve("errors", "k1", c.errors, np.full(len(c.errors), one.mean()))


def measure_laws(run: Run[Config]) -> None:
    """C7: laws of real answer lengths."""
    c = run.config
    bins = (1, *PAPER_RATIOS)
    items = [{"seed": seed, "requests": c.law_requests, "law": law, "bins": bins} for law in LAWS for seed in run.seeds]
    runs = run.map(steps.real_law, items)
    shape = (len(LAWS), len(run.seeds), len(bins))
    found = np.stack([each["throughput"] for each in runs]).reshape(shape)
    waste = np.stack([each["waste"] for each in runs]).reshape(shape)
    ratio = found / found[:, :, :1]
    paper = np.array([1.0, *PAPER_RATIOS.values()])
    real = [LAWS.index(law) for law in REAL_LAWS]
    run.measure(
        "C7",
        over_seeds("largest-distance", np.abs(ratio - paper)[real].max((0, 2)), unit="x"),
        over_seeds("smallest-waste-k1", waste[real, :, 0].min(0)),
        over_seeds("largest-distance.log-normal", np.abs(ratio - paper)[-1].max(1), unit="x"),
    )
    for i, law in enumerate(LAWS):
        for j, k in enumerate(bins):
            run.measure("C7", over_seeds(f"throughput.{_name(law)}.k={k}", found[i, :, j], unit="requests/s"))
            run.measure("C7", over_seeds(f"waste.{_name(law)}.k={k}", waste[i, :, j]))
            if j:
                run.measure("C7", over_seeds(f"ratio.{_name(law)}.k={k}", ratio[i, :, j], unit="x"))
        run.curve_of("laws", law, [str(k) for k in bins], _each(ratio[i]))
    run.curve("laws", "paper", [str(k) for k in bins], paper)


def measure_served(run: Run[Config]) -> None:
    """C8: real batched generation with an oracle."""
    from superpose.studies.multi_bin_batching import serving

    c = run.config
    shared = {"requests": c.served, "bins": c.served_bins, "layers": c.layers, "width": c.width}
    shared |= {"median": c.median, "cap": c.cap}
    runs = [run.step(serving.served_oracle, repeat=repeat, **shared) for repeat in range(c.repeats)]
    seconds = np.array([each["seconds"] for each in runs])  # [repeats, bins]
    steps_of, waste = np.array(runs[0]["steps"]), runs[0]["waste"]
    ratio = seconds[:, :1] / seconds
    run.measure("C8", over_seeds("smallest-step", np.diff(ratio, axis=1).min(1), unit="x"))
    for j, k in enumerate(c.served_bins):
        run.measure("C8", exact(f"waste.k={k}", waste[j]))
        run.measure("C8", over_seeds(f"requests-per-second.k={k}", c.served / seconds[:, j]))
        if j:
            run.measure("C8", over_seeds(f"gain.k={k}", ratio[:, j] - 1))
            run.measure("C8", exact(f"gain-in-steps.k={k}", steps_of[0] / steps_of[j] - 1))
    run.measure("C8", exact("gain-in-steps.sorted", steps_of[0] / runs[0]["sorted_steps"] - 1))
    labels = [str(k) for k in c.served_bins]
    run.curve_of("served", "wall clock", labels, _each(ratio))
    run.curve("served", "decoding steps", labels, steps_of[0] / steps_of)


def measure_predictor(run: Run[Config]) -> None:
    """C9: bins by a learned predictor."""
    from superpose.studies.multi_bin_batching import serving

    c = run.config
    shared = {"requests": c.predictor_served, "bins": c.predictor_bins, "layers": c.layers, "width": c.width}
    shared |= {"median": c.predictor_median, "cap": c.cap, "prompts": c.prompts}
    runs = [run.step(serving.served_predictor, repeat=repeat, **shared) for repeat in range(c.repeats)]
    seconds = np.array([each["seconds"] for each in runs])
    gains = seconds[:, :1] / seconds - 1  # no bins, predictor, oracle
    first = runs[0]
    run.measure(
        "C9",
        over_seeds("predictor-gain", gains[:, 1]),
        over_seeds("oracle-gain", gains[:, 2]),
        paired_difference("oracle-minus-predictor", gains[:, 2], gains[:, 1], over="seeds"),
        exact("bin-accuracy", first["right"], n=c.predictor_served),
        exact("within-one", first["near"], n=c.predictor_served),
    )
    arms = ("none", "predictor", "oracle")
    for arm, waste, count, (j, row) in zip(arms, first["waste"], first["steps"], enumerate(gains.T), strict=True):
        run.measure("C9", exact(f"waste.{arm}", waste))
        run.measure("C9", over_seeds(f"requests-per-second.{arm}", c.predictor_served / seconds[:, j]))
        if j:
            run.measure("C9", exact(f"gain-in-steps.{arm}", first["steps"][0] / count - 1))
        run.curve_of("predictor", "wall clock", [arm], [over_seeds("ratio", 1 + row)])
        run.curve("predictor", "decoding steps", [arm], [first["steps"][0] / count])


def _each(rows: np.ndarray) -> list[Measurement]:
    return [over_seeds("point", column) for column in rows.T]


def _name(law: str) -> str:
    return law.replace("_", "-")  # as measurements spell names
