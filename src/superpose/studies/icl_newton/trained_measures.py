"""How the claims on trained transformers are measured (D1 to D3)."""

from typing import Any

from superpose.experiment import Run, exact, over_seeds
from superpose.studies.icl_newton import trained_steps
from superpose.studies.icl_newton.config import Config

CURVES = {"": "mean", "-median": "median"}
LOGISTIC_NAMES = {
    "damped-newton-loss": "damped Newton",
    "full-newton-loss": "full Newton steps",
    "descent-loss": "gradient descent",
    "optimum-loss": "regularised optimum",
}
NORM_NAMES = {"none": "trained, no norm", "layer": "trained, layer norm"}


def measure_trained(run: Run[Config]) -> None:
    """D1 to D3: scores of trained transformers over those of as many iterates, on the same prompts."""
    c = run.config
    cells = [("linear", norm, depth) for norm in c.norms for depth in c.depths]
    cells += [("logistic", c.norms[0], depth) for depth in c.depths]
    common = {"width": c.width, "heads": c.heads, "train_steps": c.train_steps, "batch": c.train_batch}
    common |= {"rate": c.rate, "prompts": c.trained_prompts}
    items = [{"kind": k, "norm": n, "depth": d, "seed": s, **common} for k, n, d in cells for s in run.seeds]
    outputs = run.map(trained_steps.trained_linear_attention, items)
    found = {cell: outputs[i * len(run.seeds) : (i + 1) * len(run.seeds)] for i, cell in enumerate(cells)}
    most = max(c.depths)
    references = {
        kind: run.step(trained_steps.iterates, kind=kind, most=most, prompts=c.trained_prompts)
        for kind in ("linear", "logistic")
    }
    for kind, reference in references.items():
        for name, path in reference.items():
            for curve, key in CURVES.items():
                run.curve(f"trained-{kind}{curve}", name, range(1, most + 1), path[key][1:], n=c.trained_prompts)
    for kind, norm in dict.fromkeys((kind, norm) for kind, norm, _ in cells):
        for curve, key in (("", "score"), ("-median", "median")):
            points = [over_seeds(key, [one[key] for one in found[kind, norm, depth]]) for depth in c.depths]
            run.curve_of(f"trained-{kind}{curve}", NORM_NAMES.get(norm, f"trained, {norm}"), c.depths, points)
    _measure_linear(run, found, references["linear"])
    newton = references["logistic"]["damped Newton"]["mean"]
    for depth in c.depths:
        losses = _scores(found["logistic", c.norms[0], depth])
        run.measure(
            "D3",
            over_seeds(f"excess-loss.depth-{depth}", [loss - newton[depth] for loss in losses], unit="nats"),
            over_seeds(f"loss.depth-{depth}", losses, unit="nats"),
            *(
                exact(
                    f"{name}.depth-{depth}", references["logistic"][of]["mean"][depth], n=c.trained_prompts, unit="nats"
                )
                for name, of in LOGISTIC_NAMES.items()
            ),
        )
    sizes = sorted({one["parameters"] for models in found.values() for one in models})
    run.note(f"trained transformers of {sizes[0]} to {sizes[-1]} parameters")


def _measure_linear(
    run: Run[Config], found: dict[tuple[str, str, int], list[dict[str, Any]]], reference: dict[str, Any]
) -> None:
    c = run.config
    starts = {
        "general": ("D1", reference["Newton, general start"]["mean"]),
        "spd": ("D2", reference["Newton, best start"]["mean"]),
    }
    for norm in c.norms:
        # The first norm is the paper's construction, without any; others are told apart by name.
        suffix = "" if norm == c.norms[0] else f".{norm}-norm"
        for depth in c.depths:
            errors = _scores(found["linear", norm, depth])
            error = over_seeds(f"error.depth-{depth}{suffix}", errors, unit="of the labels' variance")
            medians = [one["median"] for one in found["linear", norm, depth]]
            median = over_seeds(f"median-error.depth-{depth}{suffix}", medians, unit="of the labels' variance")
            run.measure(("D1", "D2"), error, median)
            for start, (claim, path) in starts.items():
                ratio = over_seeds(f"ratio-{start}.depth-{depth}{suffix}", [e / path[depth] for e in errors], unit="x")
                run.measure(claim, ratio)


def _scores(models: list[dict[str, Any]]) -> list[float]:
    return [one["score"] for one in models]
