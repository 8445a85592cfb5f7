"""How the claims are measured: which models are trained, and what of them is compared."""

from typing import Any

import numpy as np

from superpose.experiment import Run, exact, over_seeds, paired_difference, paired_ratio
from superpose.studies.mambaformer import exact_steps, steps
from superpose.studies.mambaformer.config import CROSSING, HYBRID_BUDGET, Config
from superpose.theory import parity_prior_accuracy

FACTORS = 2  # of the sparse parity
LEAST_SQUARES, BAYES, PRIOR = "least squares", "Bayes", "without examples"

Models = list[dict[str, Any]]


def sizes(c: Config, architecture: str, task: str) -> dict[str, Any]:
    """What makes a model of an architecture, and the task it is for, as arguments of a step."""
    depths = {
        "transformer": c.transformer_depth,
        "mamba": c.retrieval_mamba_blocks if task == "vector-mqar" else c.mamba_blocks,
        "standard-hybrid": c.hybrid_depth,
        "mambaformer": c.mambaformer_depth,
        "mamba-transformer": c.mambaformer_depth,
    }
    options: dict[str, dict[str, Any]] = {
        "sparse-parity": {"dim": c.parity_dim, "points": c.parity_points, "k": FACTORS},
        "vector-mqar": {"dim": c.retrieval_dim, "points": c.retrieval_pairs, "queries": c.retrieval_queries},
        "linear": {"dim": c.regression_dim, "points": c.regression_points},
        "many-outlier": {"dim": c.outlier_dim, "points": c.many_points, "probability": c.many_probability},
        "orthogonal-outlier": {"dim": c.outlier_dim, "points": c.orthogonal_points},
    }
    shape = {"width": c.width, "heads": c.heads, "state": c.state, "batch": c.batch}
    return {"architecture": architecture, "depth": depths[architecture], **shape} | {
        "task": task,
        "task_options": options[task],
    }


def models(run: Run[Config], architecture: str, task: str) -> Models:
    """One trained model per seed."""
    c = run.config
    parity = {"transformer": c.parity_transformer_steps, "standard-hybrid": HYBRID_BUDGET * c.parity_steps}
    budget, lr, solved = {
        "sparse-parity": (parity.get(architecture, c.parity_steps), c.parity_lr, c.parity_solved),
        "vector-mqar": (c.retrieval_steps, c.retrieval_lr, c.retrieval_solved),
        "linear": (c.regression_steps, c.regression_lr, None),
        "many-outlier": (c.outlier_steps, c.outlier_lr, None),
        "orthogonal-outlier": (c.outlier_steps, c.outlier_lr, None),
    }[task]
    looks = {"every": c.every, "look_prompts": c.look_prompts, "final_prompts": c.final_prompts}
    common = {**sizes(c, architecture, task), "train_steps": budget, "lr": lr, "solved": solved, **looks}
    common["curriculum"] = c.curriculum and task not in ("sparse-parity", "vector-mqar")
    return run.map(steps.trained, [{**common, "seed": seed} for seed in run.seeds])


def values(found: Models, name: str = "final") -> np.ndarray:
    """One number per seed."""
    return np.array([model[name] for model in found], dtype=float)


def accuracies(found: Models) -> np.ndarray:
    """Accuracy on the last labels, one number per seed."""
    return 1 - values(found)


def crossings(found: Models, accuracy: float = CROSSING) -> np.ndarray:
    """The first look of every model at which it was as accurate; infinite where there was none."""
    # A look counts errors: the tolerance is far below one of them.
    reached = [m["looks"][m["errors"] <= 1 - accuracy + 1e-9] for m in found]
    return np.array([float(looks[0]) if len(looks) else float("inf") for looks in reached])


def draw_learning(run: Run[Config], curve: str, arm: str, found: Models, accuracy: bool = False) -> None:
    """The mean over seeds along training; a model that stopped because it had solved its task keeps its last value."""
    longest = max(found, key=lambda model: len(model["looks"]))["looks"]
    rows = np.stack([np.pad(m["errors"], (0, len(longest) - len(m["errors"])), mode="edge") for m in found])
    rows = 1 - rows if accuracy else rows
    run.curve_of(curve, arm, longest, [over_seeds("point", column) for column in rows.T])


def draw_line(run: Run[Config], curve: str, arm: str, found: Models, value: float) -> None:
    """A level to compare learning with, as long as the longest training."""
    last = max(int(model["looks"][-1]) for model in found)
    run.curve(curve, arm, [int(found[0]["looks"][0]), last], [value, value])


def draw_reads(run: Run[Config], curve: str, arm: str, found: Models, name: str = "by_read") -> None:
    """The error over the position in the prompt, mean over seeds."""
    rows = np.stack([model[name] for model in found])
    places = np.flatnonzero(np.isfinite(rows).all(0))
    run.curve_of(curve, arm, places.tolist(), [over_seeds("point", rows[:, at]) for at in places])


def measure_regression(run: Run[Config]) -> None:
    """C1: the error at the last query of linear regression."""
    transformer, mamba = (models(run, name, "linear") for name in ("transformer", "mamba"))
    run.measure(
        "C1",
        paired_ratio("mamba-over-transformer", values(mamba), values(transformer), over="seeds"),
        over_seeds("transformer.error", values(transformer)),
        over_seeds("mamba.error", values(mamba)),
        over_seeds("least-squares.error", values(transformer, "reference")),
        exact("transformer.parameters", transformer[0]["parameters"]),
        exact("mamba.parameters", mamba[0]["parameters"]),
    )
    for arm, found in (("transformer", transformer), ("mamba", mamba)):
        draw_learning(run, "learn-linear", arm, found)
        draw_reads(run, "reads-linear", arm, found)
    draw_reads(run, "reads-linear", LEAST_SQUARES, transformer, "reference_by_read")
    draw_line(run, "learn-linear", LEAST_SQUARES, transformer, float(values(transformer, "reference").mean()))


def measure_parity(run: Run[Config]) -> None:
    """C2: accuracy on the last labels of sparse parity, and how much of it needs no examples."""
    c = run.config
    found = {name: models(run, name, "sparse-parity") for name in ("transformer", "mamba", "mambaformer")}
    prior = parity_prior_accuracy(c.parity_dim, FACTORS)
    longer = values(found["transformer"], "steps") / values(found["mamba"], "steps")
    run.measure(
        "C2",
        *(over_seeds(f"{name}.accuracy", accuracies(one)) for name, one in found.items()),
        over_seeds("transformer-minus-prior", accuracies(found["transformer"]) - prior),
        # The largest over the training too: a model that learns and forgets would be found.
        over_seeds("transformer.best", [1 - min(m["errors"]) for m in found["transformer"]]),
        exact("transformer-steps-over-mamba", longer.min(), n=len(longer)),
        exact("prior-accuracy", prior),
        over_seeds("bayes-accuracy", 1 - values(found["mamba"], "reference")),
        *(over_seeds(f"{name}.steps", values(one, "steps"), unit="updates") for name, one in found.items()),
        *(exact(f"{name}.parameters", one[0]["parameters"]) for name, one in found.items()),
    )
    for name, one in found.items():
        draw_learning(run, "learn-parity", name, one, accuracy=True)
        draw_accuracy_by_read(run, name, one)
    draw_line(run, "learn-parity", PRIOR, found["transformer"], prior)
    draw_line(run, "learn-parity", BAYES, found["transformer"], float(1 - values(found["mamba"], "reference").mean()))
    draw_accuracy_by_read(run, BAYES, found["mamba"], "reference_by_read")
    run.curve("reads-parity", PRIOR, range(c.parity_points), [prior] * c.parity_points)


def draw_accuracy_by_read(run: Run[Config], arm: str, found: Models, name: str = "by_read") -> None:
    """Accuracy over the number of labels shown before."""
    rows = 1 - np.stack([model[name] for model in found])
    run.curve_of("reads-parity", arm, range(rows.shape[1]), [over_seeds("point", column) for column in rows.T])


def measure_retrieval(run: Run[Config]) -> None:
    """C3: error and value-match accuracy of vector-valued retrieval with many queries."""
    found = {name: models(run, name, "vector-mqar") for name in ("transformer", "mamba", "mambaformer")}
    run.measure(
        "C3",
        paired_ratio("mamba-over-transformer", values(found["mamba"]), values(found["transformer"]), over="seeds"),
        *(over_seeds(f"{name}.error", values(one)) for name, one in found.items()),
        *(over_seeds(f"{name}.match", values(one, "match")) for name, one in found.items()),
        *(over_seeds(f"{name}.steps", values(one, "steps"), unit="updates") for name, one in found.items()),
        exact("match-by-chance", 1 / run.config.retrieval_pairs),
        *(exact(f"{name}.parameters", one[0]["parameters"]) for name, one in found.items()),
    )
    for name, one in found.items():
        draw_learning(run, "learn-retrieval", name, one)


def measure_both(run: Run[Config]) -> None:
    """C4: one MambaFormer shape on sparse parity and on retrieval."""
    parity, retrieval = (models(run, "mambaformer", task) for task in ("sparse-parity", "vector-mqar"))
    run.measure(
        "C4",
        over_seeds("parity.accuracy", accuracies(parity)),
        over_seeds("retrieval.error", values(retrieval)),
        over_seeds("retrieval.match", values(retrieval, "match")),
    )


def measure_first_block(run: Run[Config]) -> None:
    """C5: the step at which stacks with and without Mamba first cross an accuracy on sparse parity."""
    names = ("mambaformer", "standard-hybrid", "mamba-transformer")
    found = {name: models(run, name, "sparse-parity") for name in names}
    crossed = {name: crossings(one) for name, one in found.items()}
    # A hybrid that never crosses counts as crossing at the end of its budget: too early, so too high a ratio.
    hybrid = np.minimum(crossed["standard-hybrid"], HYBRID_BUDGET * run.config.parity_steps)
    run.measure(
        "C5",
        paired_ratio("crossing-over-hybrid", crossed["mambaformer"], hybrid, over="seeds"),
        over_seeds("mambaformer.best", [1 - min(m["errors"]) for m in found["mambaformer"]]),
        over_seeds("standard-hybrid.best", [1 - min(m["errors"]) for m in found["standard-hybrid"]]),
        *(over_seeds(f"{name}.crossing", at, unit="updates") for name, at in crossed.items()),
        *(over_seeds(f"{name}.accuracy", accuracies(one)) for name, one in found.items()),
        exact("standard-hybrid.crossed", int(np.isfinite(crossed["standard-hybrid"]).sum()), n=len(hybrid)),
        *(exact(f"{name}.parameters", one[0]["parameters"]) for name, one in found.items()),
    )
    for name in names:
        draw_learning(run, "learn-first-block", name, found[name], accuracy=True)
    prior = parity_prior_accuracy(run.config.parity_dim, FACTORS)
    draw_line(run, "learn-first-block", PRIOR, found["standard-hybrid"], prior)
    bayes = float(1 - values(found["mambaformer"], "reference").mean())
    draw_line(run, "learn-first-block", BAYES, found["standard-hybrid"], bayes)


def measure_outliers(run: Run[Config]) -> None:
    """C6: the error on clean pairs, in the last quarter of the prompt, against least squares on clean pairs."""
    for task in run.config.outlier_tasks:
        transformer, mamba = (models(run, name, task) for name in ("transformer", "mamba"))
        kind = task.removesuffix("-outlier")
        run.measure(
            "C6",
            paired_difference(f"{kind}.mamba-minus-transformer", values(mamba), values(transformer), over="seeds"),
            over_seeds(f"{kind}.transformer.error", values(transformer)),
            over_seeds(f"{kind}.mamba.error", values(mamba)),
            over_seeds(f"{kind}.clean-least-squares.error", values(transformer, "reference")),
        )
        for arm, found in (("transformer", transformer), ("mamba", mamba)):
            draw_learning(run, f"learn-{task}", arm, found)
            draw_reads(run, f"reads-{task}", arm, found)
        draw_reads(run, f"reads-{task}", LEAST_SQUARES, transformer, "reference_by_read")
        draw_line(run, f"learn-{task}", LEAST_SQUARES, transformer, float(values(transformer, "reference").mean()))


def measure_exact(run: Run[Config]) -> None:
    """EX: what must be equal to rounding."""
    c = run.config
    prompts = max(200, c.final_prompts)
    found = run.step(exact_steps.exact_checks, width=c.width, heads=c.heads, state=c.state, prompts=prompts, seed=0)
    run.measure("EX", *(exact(f"{name}-difference", value) for name, value in found.items()))


def measure_equal_seconds(run: Run[Config]) -> None:
    """Errors after equal training time, read off the learning curves at the measured time of an update."""
    c = run.config
    pairs = {"C1": ["linear"], "C2": ["sparse-parity"], "C6": list(c.outlier_tasks)}
    for claim in sorted(set(pairs) & run.claims):
        for task in pairs[claim]:
            names = ("transformer", "mamba")
            found = {name: models(run, name, task) for name in names}
            timed = run.map(
                steps.seconds_per_step,
                [{**sizes(c, name, task), "timing_steps": c.timing_steps} for name in names],
            )
            second = dict(zip(names, timed, strict=True))
            read = {name: [] for name in names}
            budgets = []
            for pair in zip(*found.values(), strict=True):
                # What both have: the training time of the one that was given less.
                budget = min(one["steps"] * second[name] for name, one in zip(names, pair, strict=True))
                budgets.append(budget)
                for name, one in zip(names, pair, strict=True):
                    read[name].append(error_at(one, budget / second[name]))
            prefix = f"{task}." if claim == "C6" else ""
            run.measure(
                claim,
                *(exact(f"{prefix}{name}.seconds-per-step", second[name], unit="s") for name in names),
                over_seeds(f"{prefix}equal-seconds", budgets, unit="s"),
                *(over_seeds(f"{prefix}{name}.error-at-equal-seconds", read[name]) for name in names),
            )


def error_at(model: dict[str, Any], steps_made: float) -> float:
    """The error at the last look within so many updates, or at the first look."""
    inside = int(np.searchsorted(model["looks"], steps_made + 1e-6, side="right"))
    return float(model["errors"][max(0, inside - 1)])
