"""The expensive calls: prompts sampled from a design, and layers trained on it. Pure functions of plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.errors import require
from superpose.experiment import current, step, track, tracked
from superpose.models import (
    H3ICL,
    PGD,
    LinearAttentionICL,
    PromptLearner,
    PromptRegressor,
    WeightedPGD,
    recover_preconditioner,
)
from superpose.tasks import DriftDesign, LinearDesign, task
from superpose.theory import layer_features, lora_optimum, pgd_optimum
from superpose.training import Schedule, seeded, train_in_context, train_many

BLOCKS = 100  # prompts are averaged in this many blocks, over which intervals are taken
AT_ONCE = 20_000  # prompts in memory
CLIP = 5.0
CHOOSING_PROMPTS = 4000  # on which restarts are compared; the test has others
ATTENTION, H3 = "attention", "h3"


def design_of(given: Mapping[str, Any]) -> LinearDesign:
    """The design of a registered name and its fields."""
    return task(**given)


def best_predictor(design: LinearDesign, weighted: bool, rank: int | None = None) -> PromptRegressor:
    """The closed-form optimum as a module; without sample weights where a layer cannot have them."""
    if isinstance(design, DriftDesign) and not weighted:
        identity = torch.eye(design.dim, dtype=torch.float64)
        return PGD(design.dim, design.drift().scale * identity)
    return WeightedPGD(design.dim, design.points, design.optimal_preconditioner(rank=rank), design.optimal_weights())


def optimal_risk(design: LinearDesign, weighted: bool, rank: int | None = None) -> float:
    """The exact risk of :func:`best_predictor`."""
    if isinstance(design, DriftDesign) and not weighted:
        return float(design.drift().uniform_risk)
    return design.optimal_risk(rank=rank)


@torch.inference_mode()
def _errors(
    models: Sequence[PromptRegressor], design: LinearDesign, prompts: int, seed: int, purpose: str
) -> np.ndarray:
    """Squared errors of several models on the same prompts, ``[models, blocks]`` block means."""
    device = torch.device(current().device)
    models = [model.to(device).eval() for model in models]
    found = []
    for part, start in enumerate(range(0, prompts, AT_ONCE)):
        drawn = design.sample(min(AT_ONCE, prompts - start), seeded(seed, purpose, part)).to(device)
        target = drawn.targets[:, 0, 0]
        found.append(torch.stack([(model(drawn.inputs) - target).square() for model in models]).cpu())
    return torch.cat(found, 1).double().unflatten(1, (BLOCKS, -1)).mean(-1).numpy()


@step(version="1", label="risks of closed forms, sampled")
def sampled(design: dict[str, Any], ranks: Sequence[int | None], prompts: int, seed: int) -> dict[str, Any]:
    """Mean squared errors of the closed-form optimum over freshly drawn prompts.

    Args:
        design: name and fields of the design.
        ranks: of the preconditioner; None for full.
        prompts: how many are drawn.
        seed: of the prompts.

    Returns:
        ``errors``, ``[ranks, blocks]``, and the ``exact`` risks.
    """
    drawn = design_of(design)
    models = [best_predictor(drawn, weighted=True, rank=rank) for rank in ranks]
    return {
        "errors": _errors(models, drawn, prompts, seed, "sampled"),
        "exact": [optimal_risk(drawn, weighted=True, rank=rank) for rank in ranks],
    }


@step(version="1", label="trained layers")
def trained(
    model: str,
    design: dict[str, Any],
    rank: int | None,
    steps: int,
    batch: int,
    lr: float,
    prompts: int,
    seed: int,
    restarts: int = 1,
    restart_steps: int = 0,
) -> dict[str, Any]:
    """Train a layer on a design and compare it, prompt by prompt, with the best predictor in closed form.

    Args:
        model: ``"attention"`` or ``"h3"``.
        design: name and fields of the design.
        rank: of attention's query and key matrices; None for full.
        steps, batch, lr: of the training (Adam, cosine decay).
        prompts: of the test.
        seed: of everything.
        restarts: initial weights; after ``restart_steps`` updates the best of them on prompts of its own is trained.

    Returns:
        ``risk``: the exact risk plus the mean difference of squared errors, which varies far less than the errors do;
        the block means ``errors`` and ``optimal_errors``, the ``exact`` risk, and the ``maps`` read off the layer.
    """
    drawn: Any = design_of(design)
    weighted = model == H3
    layer = _chosen(model, drawn, rank, restarts, restart_steps, batch, lr, seed)
    _train(layer, drawn, steps, batch, lr, seed)
    best = best_predictor(drawn, weighted, rank)
    errors, optimal = _errors([layer, best], drawn, prompts, seed, "test")
    exact = optimal_risk(drawn, weighted, rank)
    return {
        "risk": exact + float((errors - optimal).mean()),
        "exact": exact,
        "errors": errors,
        "optimal_errors": optimal,
        "maps": recover_preconditioner(layer.cpu(), drawn.points).double().numpy(),
    }


def _layer(model: str, design: LinearDesign, rank: int | None, seed: int) -> LinearAttentionICL | H3ICL:
    if model == ATTENTION:
        layer: LinearAttentionICL | H3ICL = LinearAttentionICL(design.dim, rank, normalise="positions", seed=seed)
    else:
        layer = H3ICL(design.dim, design.points, normalise="positions", seed=seed)
    return layer.to(current().device)


def _train(layer: Any, drawn: Any, steps: int, batch: int, lr: float, seed: int) -> None:
    """Train a layer on a design as all of them are trained, in a checkpoint of the step's own."""
    with tracked(steps, "layer") as progress:
        train_in_context(
            PromptLearner(layer),
            drawn,
            seed=seed,
            steps=steps,
            batch=batch,
            lr=lr,
            schedule=Schedule("cosine"),
            clip=CLIP,
            checkpoint=current().folder / "training",
            progress=progress,
        )


def _chosen(
    model: str,
    design: LinearDesign,
    rank: int | None,
    restarts: int,
    restart_steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> LinearAttentionICL | H3ICL:
    """Initial weights: the only ones, or those that are ahead after a short training."""
    # Seeds of initial weights that no two seeds of the study share.
    seeds = [seed * restarts + index for index in range(restarts)]
    if restarts == 1:
        return _layer(model, design, rank, seeds[0])
    layers = [_layer(model, design, rank, each) for each in seeds]
    _together(layers, design, restart_steps, batch, lr, seed, Schedule())
    ahead = int(_errors(layers, design, CHOOSING_PROMPTS, seed, "choose").mean(1).argmin())
    return _layer(model, design, rank, seeds[ahead])


def _together(
    layers: Sequence[PromptRegressor],
    design: Any,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    schedule: Schedule,
) -> None:
    # All see the same episodes: what differs is where they started.
    train_many(
        [PromptLearner(layer) for layer in layers],
        design,
        seeds=[seed] * len(layers),
        lrs=[lr] * len(layers),
        steps=steps,
        batch=batch,
        schedule=schedule,
        clip=CLIP,
        together=True,
    )


@step(version="1", label="Bayes' predictor")
def bayes(design: dict[str, Any], prompts: int, seed: int) -> np.ndarray:
    """Block means of the squared errors of the best predictor of any kind on fresh prompts."""
    drawn = design_of(design)
    errors = []
    for part, start in enumerate(range(0, prompts, AT_ONCE)):
        known = drawn.optimum(drawn.sample(min(AT_ONCE, prompts - start), seeded(seed, "bayes", part)))
        if known is None:
            raise TypeError(f"the design {drawn.name} has an exact predictor")
        errors.append(known[:, 0] * drawn.scale)
    return torch.cat(errors).double().unflatten(0, (BLOCKS, -1)).mean(-1).numpy()


@step(version="2", label="initial weights")
def arrivals(
    model: str, design: dict[str, Any], count: int, steps: int, batch: int, lr: float, prompts: int, seed: int
) -> dict[str, Any]:
    """Train a layer to the end from many initial weights.

    Returns:
        The ``risks`` they arrive at, as in :func:`trained`, the ``exact`` one, and for each the ratio of the ``second``
        to the first singular value of the map read off the layer.
    """
    drawn = design_of(design)
    layers = [_layer(model, drawn, None, index) for index in range(count)]
    _together(layers, drawn, steps, batch, lr, seed, Schedule("cosine"))
    best = best_predictor(drawn, model == H3)
    errors = _errors([best, *layers], drawn, prompts, seed, "test").mean(1)
    exact = optimal_risk(drawn, model == H3)
    maps = torch.stack([recover_preconditioner(layer.cpu(), drawn.points).mean(0) for layer in layers])
    values = torch.linalg.svdvals(maps.double())
    return {"risks": exact + errors[1:] - errors[0], "exact": exact, "second": (values[:, 1] / values[:, 0]).numpy()}


@step(version="1", label="LoRA adapters")
def adapted(
    old: Sequence[float],
    new: Sequence[float],
    n: int,
    rank: int,
    steps: int,
    batch: int,
    lr: float,
    prompts: int,
    seed: int,
) -> dict[str, Any]:
    """Adapt the optimum of old tasks to new ones by a LoRA adapter of ``peft``.

    Args:
        old, new: variances of the tasks' coordinates before and after the shift.
        n: examples per prompt.
        rank: of the adapter.
        steps, batch, lr: of the training.
        prompts: of the test.
        seed: of everything.

    Returns:
        The trained ``risk``, as in :func:`trained`, and the ``exact`` risk of the best adapter.
    """
    peft = require("peft", "peft")
    dim = len(old)
    identity, before, after = torch.eye(dim), torch.diag(torch.tensor(old)), torch.diag(torch.tensor(new))
    pretrained = pgd_optimum(n, identity, before).preconditioner
    drawn: Any = design_of({"name": "iid-linear", "dim": dim, "points": n, "tasks": after})
    layer = PGD(dim, pretrained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.get_peft_model(layer, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["w"]))
    layer.to(current().device)
    _train(layer, drawn, steps, batch, lr, seed)
    best = lora_optimum(pretrained, n, after, rank=rank)
    errors, optimal = _errors([layer, PGD(dim, pretrained + best.update)], drawn, prompts, seed, "test")
    exact = float(best.risk)
    return {"risk": exact + float((errors - optimal).mean()), "exact": exact}


@step(version="1", label="best updates, sampled")
def updated(dim: int, n: int, prompts: int, seed: int) -> dict[str, Any]:
    """Mean squared errors after the best update of every rank, for two task covariances that do not commute.

    Returns:
        ``errors``, ``[ranks 0..dim, blocks]``, and the ``exact`` risks.
    """
    old, new = (_covariance(dim, seed, index) for index in (0, 1))
    pretrained = pgd_optimum(n, torch.eye(dim), old).preconditioner
    drawn = design_of({"name": "iid-linear", "dim": dim, "points": n, "tasks": new})
    updates = [lora_optimum(pretrained, n, new, rank=rank) for rank in range(dim + 1)]
    models = [PGD(dim, pretrained + each.update) for each in updates]
    return {
        "errors": _errors(models, drawn, prompts, seed, "sampled"),
        "exact": [float(each.risk) for each in updates],
    }


def _covariance(dim: int, seed: int, index: int) -> Tensor:
    factor = torch.randn(dim, dim, generator=seeded(seed, "covariance", index), dtype=torch.float64)
    return factor @ factor.T / dim


@step(version="1", label="whole classes of functions")
@torch.inference_mode()
def classes(dim: int, n: int, mean: Sequence[float], prompts: int, seed: int) -> dict[str, Any]:
    """Fit the best function of every class a layer spans by least squares; test it on other prompts.

    Args:
        dim: coordinates of an input.
        n: examples per prompt.
        mean: of the task.
        prompts: for the fit, and as many for the test.
        seed: of the prompts.

    Returns:
        Block means of squared errors by class, and ``exact``: the risk of the best gradient step in closed form.
    """
    drawn = design_of({"name": "iid-linear", "dim": dim, "points": n, "task_mean": tuple(mean)})
    found: dict[str, Any] = {"exact": drawn.optimal_risk()}
    for layer in track(("gradient-step", "attention", "h3"), "classes of functions"):
        gram, moment = torch.zeros(()), torch.zeros(())
        for features, target in _features(layer, drawn, prompts, seed, "fit"):
            gram, moment = gram + features.T @ features, moment + features.T @ target
        weights = torch.linalg.lstsq(gram, moment.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
        errors = [
            (features @ weights - target).square()
            for features, target in _features(layer, drawn, prompts, seed, "test")
        ]
        found[layer] = torch.cat(errors).unflatten(0, (BLOCKS, -1)).mean(-1).numpy()
    return found


def _features(layer: str, design: LinearDesign, prompts: int, seed: int, purpose: str):
    for part, start in enumerate(range(0, prompts, AT_ONCE)):
        drawn = design.sample(min(AT_ONCE, prompts - start), seeded(seed, purpose, part))
        rows = drawn.inputs.double()
        features = layer_features(layer, rows[:, :-1, :-1], rows[:, :-1, -1], rows[:, -1, :-1])
        yield features, drawn.targets[:, 0, 0].double()
