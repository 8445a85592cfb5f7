"""How the claims on task vectors are measured."""

import itertools
from typing import Any

import numpy as np

from superpose.errors import InputError
from superpose.experiment import Run, exact, over_item_means, over_items, paired_difference, proportion
from superpose.interpret import fit_lda, kappa_permutation_null, segment_coefficient
from superpose.studies.task_superposition import steps
from superpose.studies.task_superposition.config import (
    INTERPOLATION_TASKS,
    PLANE_TASKS,
    SEGMENT_TASKS,
    TASK_VECTOR_FAMILY,
    Config,
)
from superpose.studies.task_superposition.samples import grid, halves, main_model

SEGMENT_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the second task, so that coordinate 0 is the first
MIDDLE = SEGMENT_WEIGHTS.index(0.5)
VECTOR_SEED = 4  # of the prompts that give the vectors which are injected


def clouds(
    run: Run[Config], tasks: tuple[str, ...], mixtures: list[tuple[float, ...]], **more: Any
) -> list[np.ndarray]:
    """Residuals at the last token of mixed prompts, one array ``[prompts, layers, width]`` per mixture."""
    c, model = run.config, main_model(run)
    found = run.map(
        steps.residuals,
        [
            {
                "model": model,
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
    measured = over_item_means(_profile_names(rows), rows, _flat_profile)
    count_layers = rows.shape[2]
    layers = list(range(count_layers))
    for i, w in enumerate(SEGMENT_WEIGHTS):
        points = measured[2 + i * count_layers :][:count_layers]
        run.curve_of("segment", f"{w:.0%} {SEGMENT_TASKS[1]}", layers, points)
    residuals = measured[2 + len(SEGMENT_WEIGHTS) * count_layers :]
    run.curve_of("residual", "equal mixture", layers, residuals[:count_layers])
    run.curve_of("residual", "random answers", layers, residuals[count_layers:])
    run.measure("TS4", *measured[:2], exact("layers", count_layers))
    measure_plane(run)


def _profile_names(rows: np.ndarray) -> list[str]:
    layers = range(rows.shape[2])
    curves = [f"at-{w:g}" for w in SEGMENT_WEIGHTS] + ["residual", "control"]
    return ["layers-between", "residual-minus-control", *(f"{curve}.{layer}" for curve in curves for layer in layers)]


def _flat_profile(means: np.ndarray) -> np.ndarray:
    """The two judged numbers, then every coordinate per layer, then the two residuals per layer.

    Args:
        means: mean vectors: the two ends, the mixtures, the control; ``[points, layers, width]``.
    """
    found = [segment_coefficient(means[2:, layer], means[0, layer], means[1, layer]) for layer in range(means.shape[1])]
    coordinate = np.stack([c for c, _ in found], axis=1)[:-1]  # the control has no place on the segment
    residual = np.stack([r for _, r in found], axis=1)
    between = (np.diff(coordinate, axis=0) > 0).all(0) & (coordinate[MIDDLE] >= 0.3) & (coordinate[MIDDLE] <= 0.7)
    apart = (residual[MIDDLE] - residual[-1]).mean()
    return np.concatenate([[between.mean(), apart], coordinate.ravel(), residual[MIDDLE], residual[-1]])


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
    count = min(len(ends), len(report))
    # One row per pair of prompts: the pure ends first, then the mixtures of two.
    rows = np.stack(
        [*(cloud[ends[:count]] for cloud in at[:k]), *(cloud[report[:count]] for cloud in at[k : k + len(pairs)])],
        axis=1,
    )
    shares = np.array(pairs)
    held = sum(len(plane.projections[name]) for name in PLANE_TASKS)
    run.measure(
        "TS4",
        proportion("lda-holdout-accuracy", round(plane.holdout_accuracy * held), held),
        *over_item_means(
            ["kappa"], rows, lambda means: [kappa_permutation_null(means[k:], means[:k], shares).observed]
        ),
        exact("plane-layer", layer),
    )


def measure_injection(run: Run[Config]) -> None:
    """TS5: convex combinations of two task vectors in zero-shot prompts, against mixed demonstrations.

    Judged on the probability of the answers' first tokens, from which the criterion's bounds were derived (queries
    whose answers share it are left out); the same figures for whole answers are reported beside them.
    """
    c = run.config
    weights = grid(c.mixture_step)
    common = {
        "model": main_model(run),
        "dtype": c.dtype,
        "family": TASK_VECTOR_FAMILY,
        "tasks": list(INTERPOLATION_TASKS),
        "demonstrations": c.vector_demonstrations,
    }
    patched = run.step(
        steps.injection, **common, weights=weights, prompts=c.vector_prompts, queries=c.queries, seed=VECTOR_SEED
    )
    reported = steps.report_seed(VECTOR_SEED)  # the same queries, now after demonstrations
    shown = run.map(
        steps.in_context,
        [{**common, "proportions": [w, round(1 - w, 6)], "prompts": c.queries, "seed": reported} for w in weights],
    )
    usable = shown[0]["distinct_first"]
    if usable.sum() < 2:
        raise InputError(
            f"queries is {c.queries}, of which {int(usable.sum())} have answers with different first tokens; "
            "allowed: enough for two of them"
        )
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
        own = patched["own"][..., k].numpy()  # [layers, queries]
        run.curve_of("best-layer", task, list(range(len(own))), [over_items(task, row) for row in own])
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
