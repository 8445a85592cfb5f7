"""How each claim is measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_items, over_seeds, proportion
from superpose.studies.next_token_mechanics import steps
from superpose.studies.next_token_mechanics.config import (
    FINITE_AT,
    GROWTH_AT,
    LOSSES,
    NORMALISED_AT,
    PLAIN_AT,
    TIED,
    Config,
)

SHOWN_PAIRS = 600  # points of a scatter


def measure_descent(run: Run[Config]) -> None:
    """N1, N2, N4, N9: normalised gradient descent on cyclic and acyclic sets, and the text."""
    c = run.config
    at = _points(c.steps, NORMALISED_AT)
    items = [
        {
            "seeds": run.seeds[: c.trained_sets],
            "shape": list(c.trained_shape),
            "cyclic": kind == "cyclic",
            "judged": c.steps,
            "lr": c.lr,
            "at": at,
            "unseen": c.unseen,
        }
        for kind in c.trained_kinds
    ]
    found: dict[str, dict[str, Any]] = dict(zip(c.trained_kinds, run.map(steps.normalised_descent, items), strict=True))
    _retrieval(run, found, at)
    _direction(run, found, at)
    _ties(run, found["cyclic"])
    _automaton(run, found["cyclic"])
    if {"N1", "N9"} & run.claims:
        text = run.step(steps.text_descent, window=c.text_window, steps=c.text_steps, lr=c.text_lr)
        run.measure(
            "N1",
            over_items("text.mean-mass", text["mass"]),
            exact("text.worst-prompt", text["mass"].min(), n=text["prompts"]),
        )
        run.measure("N9", over_items("text.distance", text["distance"]))
        run.note(
            f"text: {text['prompts']} prompts over {len(text['alphabet'])} characters, {text['components']} components "
            f"of several characters, the largest of {text['largest_component']}"
        )


def _retrieval(run: Run[Config], found: dict[str, dict[str, Any]], at: list[int]) -> None:
    mass, here = found["cyclic"]["mass"], at.index(run.config.steps)
    worst = mass[here].min(1)
    run.measure(
        "N1",
        over_seeds("mean-mass", mass[here].mean(1)),
        exact("worst-prompt", worst.min(), n=mass[here].size),
        exact("prompts-below-.98", (mass[here] < 0.98).sum(), n=mass[here].size),
        exact("twice-the-updates.worst-prompt", mass[-1].min(), n=mass[-1].size),
        over_seeds("norm-of-w-svm", found["cyclic"]["hard"][0]),
        exact("norm-of-w-svm.worst-set", found["cyclic"]["hard"][0][worst.argmin()]),
    )
    for kind, each in found.items():
        if kind != "cyclic":
            run.measure("N1", over_seeds(f"{kind}.mean-mass", each["mass"][here].mean(1)))
        run.curve_of("mass", kind, at, [over_seeds("mass", row.mean(1)) for row in each["mass"]])
        run.curve("mass", f"{kind}, worst prompt", at, each["mass"].min((1, 2)), n=mass[0].size)


def _direction(run: Run[Config], found: dict[str, dict[str, Any]], at: list[int]) -> None:
    here = at.index(run.config.steps)
    for kind, each in found.items():
        for name in ("corr", "proj_corr"):
            label = name.replace("_", "-")
            run.measure(
                "N2",
                over_seeds(f"{kind}.{label}", each[name][here]),
                exact(f"{kind}.smallest-{label}", each[name][here].min(), n=each[name].shape[1]),
                exact(f"{kind}.twice-the-updates.smallest-{label}", each[name][-1].min(), n=each[name].shape[1]),
            )
            if name == "corr" or kind == "cyclic":
                arm = kind if name == "corr" else f"{kind}, without the cyclic subspace"
                run.curve_of("direction", arm, at[1:], [over_seeds("corr", row) for row in each[name][1:]])
        run.measure(
            "N2",
            over_seeds(f"{kind}.norm", each["norm"][here]),
            exact(f"{kind}.norm-of-w-svm.worst-set", each["hard"][0][each["corr"][here].argmin()]),
        )


def _ties(run: Run[Config], found: dict[str, Any]) -> None:
    equal, gap = found["equal"].astype(bool), found["gap"]
    # A gap the wrong way round is no order either, so higher tokens are asked for the sign too.
    right = np.where(equal, np.abs(gap) < TIED, gap >= TIED)
    share = [right[found["pair_set"] == at].mean() for at in np.unique(found["pair_set"])]
    run.measure(
        "N4",
        over_seeds("pairs-right", share),
        exact("pairs-wrong", (~right).sum(), n=len(right)),
        exact("largest-gap-of-equals", np.abs(gap[equal]).max(), n=equal.sum()),
        exact("smallest-gap-of-others", gap[~equal].min(), n=(~equal).sum()),
    )
    for name, chosen in (("equal in the graph", equal), ("one higher than the other", ~equal)):
        picked = np.linspace(0, chosen.sum() - 1, min(chosen.sum(), SHOWN_PAIRS)).astype(int)
        run.samples("gaps", name, found["wanted"][chosen][picked], gap[chosen][picked])


def _automaton(run: Run[Config], found: dict[str, Any]) -> None:
    for kind in ("training", "unseen"):
        distance, owner = found[f"distance_{kind}"], found[f"owner_{kind}"]
        means = [distance[owner == one].mean() for one in np.unique(owner)]
        run.measure(
            "N9",
            over_seeds(f"{kind}-distance", means),
            exact(f"{kind}.largest-distance", distance.max(), n=len(distance)),
        )
    points = found["probabilities"]
    for name, chosen in (("training prompts", points[:, 0] == 0), ("unseen prompts", points[:, 0] == 1)):
        run.samples("probabilities", name, points[chosen, 1], points[chosen, 2])


def measure_plain(run: Run[Config]) -> None:
    """N3, N5, N5b, N5c: plain gradient descent, and the end of the regularisation path."""
    c = run.config
    at = _points(c.plain_steps, PLAIN_AT)
    crowded = [*c.shape[:2], c.crowded_prompts, c.shape[3]]
    common = {"seeds": run.seeds, "steps": c.plain_steps, "lr": c.plain_lr, "at": at}
    found, full = run.map(steps.plain_descent, [{"shape": list(c.shape), **common}, {"shape": crowded, **common}])
    _finite(run, found, full, at, crowded)
    _growth(run, found, at)


def _finite(run: Run[Config], found: dict[str, Any], full: dict[str, Any], at: list[int], crowded: list[int]) -> None:
    c = run.config
    here = at.index(round(c.plain_steps * FINITE_AT))
    for prefix, each, shape in (("", found, list(c.shape)), ("crowded.", full, crowded)):
        paths = run.map(
            steps.penalised, [{"seed": seed, "shape": shape, "penalties": list(c.penalties)} for seed in run.seeds]
        )
        ends = [path["finite"][-1] for path in paths]
        # Over the last decade of updates.
        begin = at.index(round(c.plain_steps * GROWTH_AT[-2]))
        decay = np.log(each["finite"][-1] / each["finite"][begin]) / np.log(at[-1] / at[begin])
        run.measure(
            "N3",
            over_seeds(f"{prefix}plain.distance", each["finite"][here]),
            exact(f"{prefix}plain.largest-distance", each["finite"][here].max(), n=len(run.seeds)),
            over_seeds(f"{prefix}plain.power-of-t", decay),
            exact(f"{prefix}plain.largest-distance-at-the-end", each["finite"][-1].max(), n=len(run.seeds)),
            exact(f"{prefix}path.largest-distance", max(ends), n=len(run.seeds)),
            proportion(f"{prefix}sets-with-a-soft-component", int((each["soft"][0] > 1e-6).sum()), len(run.seeds)),
        )
        arm = "crowded sets" if prefix else "the paper's sets"
        run.curve_of("finite", arm, np.log10(at), _means(each["finite"]))
        places = [-np.log10(penalty) for penalty in c.penalties]
        run.curve_of("finite-path", arm, places, _means(np.stack([path["finite"] for path in paths], 1)))


def _growth(run: Run[Config], found: dict[str, Any], at: list[int]) -> None:
    c = run.config
    rows = [at.index(round(c.plain_steps * share)) for share in GROWTH_AT]
    logs = np.log([at[row] for row in rows])
    slopes = np.polyfit(logs, found["multiple"][rows], 1)[0]
    run.measure(
        "N5",
        over_seeds("slope", slopes),
        exact("smallest-slope", slopes.min(), n=len(slopes)),
        exact("largest-slope", slopes.max(), n=len(slopes)),
    )
    share = found["rest"] / found["norm"]
    run.measure(
        "N5b", over_seeds("rest", found["rest"][-1]), exact("smallest-rest", found["rest"][-1].min(), n=len(slopes))
    )
    run.measure(
        "N5c",
        exact("largest-step-of-the-share", np.diff(share[rows], axis=0).max(), n=share[rows[1:]].size),
        over_seeds("share-at-the-end", share[-1]),
        over_seeds("growth-of-the-rest.first-decade", found["rest"][rows[1]] - found["rest"][rows[0]]),
        over_seeds("growth-of-the-rest.last-decade", found["rest"][rows[2]] - found["rest"][rows[1]]),
    )
    run.curve_of("growth", "C(t)", np.log(at), _means(found["multiple"]))
    last = found["multiple"][-1].mean()
    run.curve("growth", "slope 1", np.log(at), last + np.log(at) - np.log(at[-1]))
    for name, arm in (("norm", "W"), ("rest", "W - C(t) W_svm - W_fin"), ("finite", "cyclic part of W minus W_fin")):
        run.curve_of("remainder", arm, np.log(at), _means(found[name]))


def measure_paths(run: Run[Config]) -> None:
    """N6: the regularisation path."""
    c = run.config
    paths = run.map(
        steps.penalised, [{"seed": seed, "shape": list(c.shape), "penalties": list(c.penalties)} for seed in run.seeds]
    )
    stacked = {name: np.stack([path[name] for path in paths], 1) for name in ("corr", "proj_corr", "norm")}
    smallest = {name: np.diff(values, axis=0).min() for name, values in stacked.items()}
    checks = stacked["corr"][1:].size
    run.measure(
        "N6",
        over_seeds("proj-corr", stacked["proj_corr"][-1]),
        exact("smallest-proj-corr", stacked["proj_corr"][-1].min(), n=len(paths)),
        over_seeds("corr", stacked["corr"][-1]),
        over_seeds("norm", stacked["norm"][-1]),
        exact("smallest-proj-corr-step", smallest["proj_corr"], n=checks),
        exact("smallest-corr-step", smallest["corr"], n=checks),
        exact("smallest-norm-step", smallest["norm"], n=checks),
    )
    places = stacked["norm"].mean(1)
    for name, arm in (("corr", "W"), ("proj_corr", "W without the cyclic subspace")):
        run.curve_of("path", arm, places, _means(1 - stacked[name]))


def measure_losses(run: Run[Config]) -> None:
    """N7: three losses on acyclic sets."""
    c = run.config
    found = np.stack(
        run.map(
            steps.on_spheres,
            [
                {"seed": seed, "shape": list(c.shape), "losses": list(LOSSES), "radii": list(c.radii)}
                for seed in run.seeds
            ],
        )
    )
    for at, loss in enumerate(LOSSES):
        corr = found[:, at]
        run.measure(
            "N7",
            over_seeds(f"{loss}.corr", corr[:, -1]),
            exact(f"{loss}.smallest-corr", corr[:, -1].min(), n=len(corr)),
            exact(f"{loss}.smallest-step", np.diff(corr, axis=1).min(), n=corr[:, 1:].size),
        )
        run.curve_of("losses", loss, list(c.radii), _means(1 - corr.T))


def measure_local(run: Run[Config]) -> None:
    """N8: selections of another loss and classifier."""
    c = run.config
    found = run.step(steps.local_descent, seeds=run.seeds, shape=list(c.shape), steps=c.local_steps, lr=c.local_lr)
    local, wide = found["local"], found["global"]
    run.measure(
        "N8",
        proportion("local-above-global", int((local > wide).sum()), len(local)),
        over_seeds("local-corr", local),
        exact("smallest-local-corr", local.min(), n=len(local)),
        over_seeds("global-corr", wide),
        exact("sets-that-select-the-labels", found["same"].sum(), n=len(local)),
    )
    order = np.argsort(wide)
    places = np.arange(1, len(order) + 1)
    run.samples("local", "graph of what W selects", places, local[order])
    run.samples("local", "graph of the labels", places, wide[order])


def _points(total: int, shares: Sequence[float]) -> list[int]:
    return sorted({round(total * share) for share in shares})


def _means(rows: np.ndarray) -> list[Measurement]:
    """A measurement over sets per row."""
    return [over_seeds("value", row) for row in rows]
