"""How the claims on task vectors are measured."""

import itertools
from typing import Any

import numpy as np

from superpose.experiment import Run, exact, over_items, paired_difference
from superpose.interpret import fit_lda, kappa_permutation_null, segment_coefficient
from superpose.studies.task_superposition import steps
from superpose.studies.task_superposition.figures import (
    INTERPOLATION_TASKS,
    PLANE_TASKS,
    SEGMENT_TASKS,
    TASK_VECTOR_FAMILY,
)
from superpose.studies.task_superposition.measures import grid, halves
from superpose.studies.task_superposition.study import Config

SEGMENT_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the second task, so that coordinate 0 is the first
MIDDLE = SEGMENT_WEIGHTS.index(0.5)
VECTOR_SEED = 4  # of the prompts that give the vectors which are injected


def clouds(
    run: Run[Config], tasks: tuple[str, ...], mixtures: list[tuple[float, ...]], **more: Any
) -> list[np.ndarray]:
    """Residuals at the last token of mixed prompts, one array ``[prompts, layers, width]`` per mixture."""
    c = run.config
    found = run.map(
        steps.residuals,
        [
            {
                "model": c.model,
                "dtype": c.dtype,
                "family": TASK_VECTOR_FAMILY,
                "tasks": list(tasks),
                "proportions": list(shares),
                "demonstrations": c.vector_demonstrations,
                "prompts": c.vector_prompts,
                "seed": 3,
                **more,
            }
            for shares in mixtures
        ],
    )
    return [cloud.numpy() for cloud in found]


def measure_segment(run: Run[Config]) -> None:
    """TS4: where the mean residual of mixed prompts lies between the pure ones, layer by layer.

    One half of the prompts gives the ends of the segment, the other half every mixture on it, the pure ones too.
    """
    mixed = clouds(run, SEGMENT_TASKS, [(1 - w, w) for w in SEGMENT_WEIGHTS])
    (control,) = clouds(run, SEGMENT_TASKS, [(1, 0)], random_answers=True)
    ends, report = halves(len(control))
    count = min(len(ends), len(report))
    # One row per pair of prompts: first the ends, then the mixtures, then the control; resampled together.
    rows = np.stack(
        [mixed[0][ends[:count]], mixed[-1][ends[:count]], *(m[report[:count]] for m in (*mixed, control))], axis=1
    ).astype(np.float64)
    coordinate, residual = profile(rows)
    layers = list(range(coordinate.shape[1]))
    for i, w in enumerate(SEGMENT_WEIGHTS):
        run.curve("segment", f"{w:.0%} {SEGMENT_TASKS[1]}", layers, coordinate[i], n=count)
    for i, arm in ((MIDDLE, "equal mixture"), (-1, "random answers")):
        run.curve("residual", arm, layers, residual[i], n=count)
    run.measure(
        "TS4",
        over_items("layers-between", rows, statistic=_layers_between, unit="share of layers"),
        over_items("residual-minus-control", rows, statistic=_residual_minus_control, unit="segment lengths"),
        exact("layers", len(layers)),
    )
    measure_plane(run)


def profile(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinate and residual of each mixture (and the control, last), shapes ``[mixtures + 1, layers]``."""
    means = rows.mean(0)
    first, second, points = means[0], means[1], means[2:]
    found = [segment_coefficient(points[:, layer], first[layer], second[layer]) for layer in range(points.shape[1])]
    return np.stack([c for c, _ in found], axis=1), np.stack([r for _, r in found], axis=1)


def _layers_between(rows: np.ndarray) -> float:
    coordinate = profile(rows)[0][:-1]
    between = (np.diff(coordinate, axis=0) > 0).all(0) & (coordinate[MIDDLE] >= 0.3) & (coordinate[MIDDLE] <= 0.7)
    return float(between.mean())


def _residual_minus_control(rows: np.ndarray) -> float:
    residual = profile(rows)[1]
    return float((residual[MIDDLE] - residual[-1]).mean())


def measure_plane(run: Run[Config]) -> None:
    """Three tasks and their mixtures: the discriminant plane of the paper's figure, and kappa with its null."""
    k = len(PLANE_TASKS)
    pure = [tuple(float(i == j) for i in range(k)) for j in range(k)]
    pairs = [tuple(0.5 * (i in pair) for i in range(k)) for pair in itertools.combinations(range(k), 2)]
    uniform = [tuple([1 / k] * k)]
    found = clouds(run, PLANE_TASKS, pure + pairs + uniform)
    layer = round(2 / 3 * (found[0].shape[1] - 1))
    at = [cloud[:, layer].astype(np.float64) for cloud in found]
    names = [*PLANE_TASKS, *(" + ".join(pair) for pair in itertools.combinations(PLANE_TASKS, 2)), "all three"]
    plane = fit_lda(dict(zip(names[:k], at[:k], strict=True)), dict(zip(names[k:], at[k:], strict=True)))
    for name in names:
        run.samples("lda", name, plane.projections[name][:, 0], plane.projections[name][:, 1])
    ends, report = halves(len(at[0]))
    null = kappa_permutation_null(
        np.stack([cloud[report].mean(0) for cloud in at[k : 2 * k]]),
        np.stack([cloud[ends].mean(0) for cloud in at[:k]]),
        np.array(pairs),
    )
    run.measure(
        "TS4",
        exact("lda-holdout-accuracy", plane.holdout_accuracy),
        exact("kappa", null.observed),
        exact("kappa-p", null.p_value),
        exact("plane-layer", layer),
    )


def measure_injection(run: Run[Config]) -> None:
    """TS5: convex combinations of two task vectors in zero-shot prompts, against mixed demonstrations.

    Judged on the probability of the answers' first tokens, from which the criterion's bounds were derived (queries
    whose answers share it are left out); the same figures for whole answers are reported beside them.
    """
    c = run.config
    weights = grid(c.mixture_step)
    common = {"model": c.model, "dtype": c.dtype, "family": TASK_VECTOR_FAMILY, "tasks": list(INTERPOLATION_TASKS)}
    common["demonstrations"] = c.vector_demonstrations
    patched = run.step(
        steps.injection, **common, weights=weights, prompts=c.vector_prompts, queries=c.queries, seed=VECTOR_SEED
    )
    reported = steps.report_seed(VECTOR_SEED)  # the same queries, now after demonstrations
    shown = run.map(
        steps.in_context,
        [
            # The queries on which the injection is reported.
            {
                **common,
                "proportions": [w, round(1 - w, 6)],
                "prompts": c.queries,
                "seed": reported,
            }
            for w in weights
        ],
    )
    usable = shown[0]["distinct_first"]
    run.note(f"TS5: {int(usable.sum())} of {c.queries} queries have answers with distinct first tokens")
    for kind, suffix in (("first", ""), ("whole", ".whole")):
        # [queries, weights, tasks]: queries are what is resampled.
        inject = np.exp(patched[kind]).swapaxes(0, 1)[usable]
        context = np.exp(np.stack([s[kind] for s in shown], axis=1))[usable]
        choose, report = halves(len(inject))
        inside = 1 + int(np.argmax(inject[choose, 1:-1].mean(0).min(1)))
        other = [1 - p[:, 1:-1].sum(-1).mean(1) for p in (inject, context)]
        run.measure(
            "TS5",
            over_items(f"own-task-at-ends{suffix}", inject, statistic=_own_at_ends),
            over_items(f"weaker-task-inside{suffix}", inject[report, inside], statistic=_weaker),
            over_items(f"largest-step-back{suffix}", inject, statistic=_largest_step_back),
            paired_difference(f"other-patched-minus-in-context{suffix}", *other, over="items"),
            over_items(f"other-patched{suffix}", other[0]),
            over_items(f"other-in-context{suffix}", other[1]),
            exact(f"weight-inside{suffix}", weights[inside]),
        )
        for curve, p in (("patched", inject), ("in-context", context)):
            for k, task in enumerate(INTERPOLATION_TASKS):
                run.curve_of(curve + suffix, task, weights, [over_items(task, row) for row in p[..., k].T])
            run.curve_of(curve + suffix, "other", weights, [over_items("other", row) for row in 1 - p.sum(-1).T])
    for k, task in enumerate(INTERPOLATION_TASKS):
        own = patched["own"][:, k]
        run.curve("best-layer", task, list(range(len(own))), own, n=c.queries)
    run.measure("TS5", exact("best-layer", patched["layer"]))


def _own_at_ends(rows: np.ndarray) -> float:
    """The weaker of the two pure vectors on its own task: weight 1 is the first task's, weight 0 the second's."""
    return float(min(rows[:, -1, 0].mean(), rows[:, 0, 1].mean()))


def _weaker(rows: np.ndarray) -> float:
    return float(rows.mean(0).min())


def _largest_step_back(rows: np.ndarray) -> float:
    """How far a curve goes against its direction between neighbouring mixtures, at most; 0 for monotone curves."""
    mean = rows.mean(0)
    rising, falling = np.diff(mean[:, 0]), np.diff(mean[:, 1])
    return float(max(0.0, (-rising).max(), falling.max()))
