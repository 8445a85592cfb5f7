"""Linear-attention transformers trained in context, and the iterates they are compared with (D1 to D3)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from superpose.experiment import current, step, tracked
from superpose.models import ContinuousLearner, backbone_spec
from superpose.studies.icl_newton.figures import SCALES
from superpose.tasks import Batch, LinearRegression, LogisticRegression, PairedPrompts
from superpose.theory import (
    damped_newton_path,
    descent_weights_path,
    logistic_descent_path,
    newton_weights_path,
    normal_equations,
)
from superpose.training import Optimiser, Schedule, seeded, train_in_context

DIM, POINTS = 5, 20
WARMUP = 100
EVALUATED_AT_ONCE = 500


def task_of(kind: str) -> PairedPrompts:
    """The prompts: ``linear`` or ``logistic`` functions of five features of unequal size, twenty labelled rows."""
    base = LinearRegression(DIM, POINTS) if kind == "linear" else LogisticRegression(DIM, POINTS)
    return PairedPrompts(base, SCALES)


def test_prompts(kind: str, prompts: int) -> Batch:
    """The prompts on which everything is compared: the same for every model."""
    return task_of(kind).sample(prompts, seeded(0, "test"))


@step(version="1", label="trained transformers")
def trained_linear_attention(
    kind: str,
    depth: int,
    norm: str,
    width: int,
    heads: int,
    train_steps: int,
    batch: int,
    rate: float,
    prompts: int,
    seed: int,
) -> dict[str, Any]:
    """Train one stack of linear attention and score it on the test prompts.

    It has no MLP and no positions, and every token sees all others.

    Returns:
        ``score``, the mean over prompts of the squared error over the variance of labels, or of the loss in nats; its
        ``median``; the share of ``wrong`` signs; the number of ``parameters``.
    """
    task = task_of(kind)
    spec = backbone_spec(
        "linear-transformer",
        width=width,
        heads=heads,
        layout=("linear-attention",) * depth,
        norm=norm,
        final_norm=False,
        positions="none",
        read="prefix",
        init="torch",
        knobs={"linear-attention": {"bias": False}},
    )
    learner = ContinuousLearner(spec, task.in_dim, 1, seed=seed).to(current().device)
    with tracked(train_steps, "training") as progress:
        train_in_context(
            learner,
            task,
            seed=seed,
            steps=train_steps,
            batch=batch,
            optimiser=Optimiser("adam", rate),
            schedule=Schedule("cosine", warmup=min(WARMUP, train_steps // 10)),
            clip=1.0,
            checkpoint=current().folder / "training",
            progress=progress,
        )
    drawn = test_prompts(kind, prompts)
    learner.eval()
    with torch.inference_mode():
        parts = [
            learner(inputs.to(current().device), reads=drawn.reads.to(current().device)).cpu()
            for inputs in drawn.inputs.split(EVALUATED_AT_ONCE)
        ]
    answers = torch.cat(parts)[:, 0, 0].double()
    found = scores(kind, answers, drawn)
    return {
        "score": float(found.mean()),
        "median": float(found.median()),
        "wrong": float((answers.sign() != drawn.targets[:, 0, 0]).double().mean()),
        "parameters": sum(p.numel() for p in learner.parameters()),
    }


def scores(kind: str, answers: Tensor, drawn: Batch) -> Tensor:
    """The score of every prompt."""
    target = drawn.targets[:, 0, 0].double()
    if kind == "linear":
        return (answers - target).square() / sum(s * s for s in SCALES)
    return F.softplus(-answers * target)


@step(version="1", label="iterates")
@torch.no_grad()
def iterates(kind: str, most: int, prompts: int) -> dict[str, Any]:
    """Mean and median scores of algorithms after 0 to ``most`` iterations, on the same prompts, by algorithm.

    ``linear``: Newton's iterates for the inverse from either start, and gradient descent at each prompt's best rate.
    ``logistic``: Newton, damped and not, and gradient descent, with the penalty that the functions' prior asks for.
    """
    drawn = test_prompts(kind, prompts)
    x, y = drawn.info["x"].double(), drawn.info["y"].double()
    rows, labels, query = x[:, :-1], y[:, :-1], x[:, -1]
    if kind == "linear":
        hessian, moment = normal_equations(rows, labels)
        paths = {
            "Newton, general start": newton_weights_path(hessian, moment, most, "general"),
            "Newton, best start": newton_weights_path(hessian, moment, most, "spd"),
            "gradient descent": descent_weights_path(hessian, moment, most),
        }
    else:
        # One scale for all prompts brings every row to norm 1 or less, as the method asks.
        scale = float(torch.linalg.vector_norm(rows, dim=-1).max())
        b, mu = labels[..., None] * rows / scale, 1 / (POINTS * scale**2)
        paths = {
            "damped Newton": damped_newton_path(b, mu, most)[0] / scale,
            "full Newton steps": damped_newton_path(b, mu, most, damped=False)[0] / scale,
            "gradient descent": logistic_descent_path(b, mu, most) / scale,
            "regularised optimum": damped_newton_path(b, mu, 60)[0][-1:].expand(most + 1, -1, -1) / scale,
        }
    found = {
        name: torch.stack([scores(kind, (w * query).sum(-1), drawn) for w in path]) for name, path in paths.items()
    }
    return {
        name: {"mean": each.mean(1).numpy(), "median": each.median(1).values.numpy()} for name, each in found.items()
    }
