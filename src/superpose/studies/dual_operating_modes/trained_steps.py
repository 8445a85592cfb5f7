"""Transformers trained on the prior, beside the exact predictor of that prior (DM7)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from superpose.experiment import current, step
from superpose.models import ContinuousLearner, backbone_spec
from superpose.studies.dual_operating_modes.figures import DEFAULT_TASK
from superpose.tasks import Batch, TaskGroups
from superpose.training import Schedule, seeded, train_in_context

# The paper's 1e-5 needs 30,000 steps of a model 1024 wide; this trains a model 64 wide in 2000.
LR = 1e-3
WARMUP = 200
OTHER_TASK = (3.0, 1.0)  # the test task of every prior but the one with four groups
EVALUATED_AT_ONCE = 500


def test_task(task: TaskGroups) -> Tensor:
    """The input mean and function of the fixed task on which risks are drawn."""
    weights = DEFAULT_TASK if task.mixture.groups == 4 else OTHER_TASK
    return normalize(torch.tensor(weights, dtype=torch.float64) @ task.mixture.mu[: len(weights)], dim=0)


@step(version="1", label="transformers on the prior")
def trained(
    prior: str,
    size: int,
    delta: float,
    width: int,
    layers: int,
    points: int,
    train_steps: int,
    batch: int,
    prompts: int,
    seed: int,
) -> dict[str, Any]:
    """Train one transformer on noisy labels of the prior; compare it with the exact predictor on fresh prompts.

    Args:
        prior: "regular" (``size`` groups in three dimensions) or "axis" (``size`` dimensions).
        size: groups or dimensions.
        delta: ``delta_mu = delta_w``.
        width, layers: of the transformer.
        points: examples per prompt; the last has ``points - 1`` labelled pairs before it.
        train_steps, batch: of the training.
        prompts: evaluated, both of the prior and of the fixed task.
        seed: of everything.

    Returns:
        Over positions: ``gap``, the mean of ``(T - F*)^2`` on prompts of the prior, and ``variance``, that of F*;
        ``risk`` and ``oracle_risk`` on the fixed task with noiseless labels; the number of ``parameters``.
    """
    spread = math.sqrt(delta)
    shape = {"groups": size} if prior == "regular" else {"dim": size}
    task = TaskGroups(prior=prior, points=points, sigma_mu=spread, sigma_w=spread, **shape)
    # Each head is 16 wide at every width of the presets.
    spec = backbone_spec("transformer", width=width, heads=max(1, width // 16), depth=layers, max_positions=task.length)
    learner = ContinuousLearner(spec, task.in_dim, 1, seed=seed).to(current().device)
    train_in_context(
        learner,
        task,
        seed=seed,
        steps=train_steps,
        batch=batch,
        lr=LR,
        schedule=Schedule("cosine", warmup=min(WARMUP, train_steps // 10)),
        clip=1.0,
        checkpoint=current().folder / "training",
    )
    own = task.sample(prompts, seeded(seed, "prior"))
    exact = task.mixture.predict_path(own.info["x"], own.info["y"]).prediction
    star = test_task(task).float().expand(prompts, -1)
    # One stream for every prior and model, so that risks are compared on the same inputs.
    fixed = task.sample_at(star, star, seeded(0, "fixed"))
    known = task.mixture.predict_path(fixed.info["x"], fixed.info["y"]).prediction
    return {
        "gap": (_predict(learner, own) - exact).square().mean(0).numpy(),
        "variance": exact.var(0).numpy(),
        "risk": (_predict(learner, fixed) - fixed.info["y"]).square().mean(0).numpy(),
        "oracle_risk": (known - fixed.info["y"]).square().mean(0).numpy(),
        "parameters": sum(p.numel() for p in learner.parameters()),
    }


def _predict(learner: ContinuousLearner, drawn: Batch) -> Tensor:
    learner.eval()
    device = next(learner.parameters()).device
    with torch.inference_mode():
        parts = [
            learner(inputs.to(device), reads=drawn.reads.to(device)).squeeze(-1).cpu()
            for inputs in drawn.inputs.split(EVALUATED_AT_ONCE)
        ]
    return torch.cat(parts).double()
