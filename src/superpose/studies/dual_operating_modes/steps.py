"""The expensive calls on the exact predictor (DM1 to DM6): pure functions of plain data, memoised by the engine."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from superpose.experiment import step, track
from superpose.studies.dual_operating_modes.figures import DEFAULT_TASK
from superpose.studies.dual_operating_modes.prompts import posterior_path
from superpose.theory import (
    GaussianMixturePrior,
    early_ascent_expected,
    early_ascent_prior,
    learning_risk_bound,
    regular_prior,
    retrieval_scores,
)

BLOCKS = 100  # prompts are averaged in this many independent blocks, over which intervals are taken
ROUNDING = 1e-9  # relative; in one dimension the bounds are equalities
CONDITION_PAIRS = (0, 1, 4, 16, 4096)


def regular_task(prior: GaussianMixturePrior, weights: Sequence[float] = DEFAULT_TASK) -> Tensor:
    """The input mean and function of a test task: weighted first centres, normalised."""
    return normalize(torch.tensor(list(weights), dtype=torch.float64) @ prior.mu[: len(weights)], dim=0)


@step(version="1", label="exact risks, regular prior")
def regular_risks(
    delta: float, pairs: Sequence[int], prompts: int, seed: int, weights: Sequence[float] = DEFAULT_TASK
) -> dict[str, Any]:
    """Risks, weights and centres on one task, ``delta_mu = delta_w = delta``, four groups.

    Returns:
        As :func:`_path`, and how often the per-prompt bounds on either risk were violated.
    """
    spread = math.sqrt(delta)
    prior = regular_prior(4, sigma_mu=spread, sigma_w=spread)
    task = regular_task(prior, weights)
    return _path(prior, task, task, pairs, prompts, seed, bounds=True)


@step(version="1", label="exact risks, early-ascent prior")
def ascent_risks(dim: int, sigma: float, pairs: Sequence[int], prompts: int, seed: int) -> dict[str, Any]:
    """Risks on the task whose nearest group has the right inputs and the opposite function."""
    prior = early_ascent_prior(dim, sigma_mu=sigma, sigma_w=sigma)
    return _path(prior, prior.mu[0], prior.mu[0], pairs, prompts, seed, bounds=False)


def _path(
    prior: GaussianMixturePrior, mu: Tensor, w: Tensor, pairs: Sequence[int], prompts: int, seed: int, bounds: bool
) -> dict[str, Any]:
    """Block means over prompts.

    Returns:
        ``learning`` and ``retrieval`` risk, ``[blocks, pairs]``; ``weights``, ``log_weights`` and ``distance`` of each
        centre from the task's function, ``[blocks, pairs, groups]``; the ``retrieved`` group's index and the
        ``scores`` of all; ``violations`` of the bound on the learning risk and of that on the retrieved group's part
        of the retrieval risk, out of ``checked`` pairs of a prompt and a length.
    """
    scores = retrieval_scores(prior, mu, w)
    retrieved = int(scores.argmin())
    found: dict[str, list[Tensor]] = {}
    broken = [0, 0]
    for posterior, x, gram in posterior_path(prior, mu, w, pairs, prompts, [seed, prior.dim]):
        learning = (posterior.prediction - x @ w).square()
        kept = {
            "learning": learning,
            "retrieval": (posterior.prediction - x @ prior.w[retrieved]).square(),
            "weights": posterior.weights,
            "log_weights": posterior.weights.log(),
            "distance": (posterior.w - w).norm(dim=-1),
        }
        for name, value in kept.items():
            found.setdefault(name, []).append(value)
        if bounds:
            limit = learning_risk_bound(posterior.weights, gram, x, prior, w)
            broken[0] += int((learning > limit * (1 + ROUNDING)).sum())
            own = ((posterior.w[..., retrieved, :] - prior.w[retrieved]) * x).sum(-1).square()
            moved = (prior.delta_w * torch.linalg.eigvalsh(gram)[..., -1]).clamp(max=1).square()
            limit = x.square().sum(-1) * moved * (w - prior.w[retrieved]).square().sum()
            # At no pairs both sides are zero up to rounding in the centre.
            broken[1] += int((own > limit * (1 + ROUNDING) + 1e-24).sum())
    blocks = {name: _blocks(torch.cat(values)) for name, values in found.items()}
    return {
        **blocks,
        "retrieved": retrieved,
        "scores": scores.numpy(),
        "violations": broken,
        "checked": prompts * len(pairs),
    }


def _blocks(values: Tensor) -> np.ndarray:
    return values.unflatten(0, (BLOCKS, -1)).mean(1).numpy()


@step(version="1", label="re-weighting")
def reweighting(pairs: Sequence[int], prompts: int, seed: int) -> dict[str, Any]:
    """The exact limit of narrow groups (sigma_mu = sigma_w = 0), in which only the weights move."""
    prior = regular_prior(4, sigma_mu=0.0, sigma_w=0.0)
    task = regular_task(prior)
    return _path(prior, task, task, pairs, prompts, seed, bounds=False)


@step(version="1", label="condition for early ascent")
def condition(priors: int, prompts: int, seed: int) -> dict[str, np.ndarray]:
    """The condition for early ascent on random priors of narrow groups (sigma 0: three unit centres in the plane).

    The risk without examples that the condition needs comes from prompts of its own.

    Returns:
        Whether the risk was ``expected`` to rise; ``rise``, how much higher it was than without examples, and its
        standard ``error``, ``[priors, lengths]`` for the lengths of ``CONDITION_PAIRS`` after the first.
    """
    generator = torch.Generator().manual_seed(seed)
    expected, rises, errors = [], [], []
    for index in track(range(priors), "random priors"):
        drawn = normalize(torch.randn(2, 4, 2, generator=generator, dtype=torch.float64), dim=-1)
        (mu, w), (task_mu, task_w) = drawn[:, :3], drawn[:, 3]
        third = torch.full((3,), 1 / 3, dtype=torch.float64)
        prior = GaussianMixturePrior(third, mu, w, sigma_mu=0.0, sigma_w=0.0)
        alone = _risks(prior, task_mu, task_w, (0,), prompts, [seed, index, 0])[:, 0]
        expected.append(early_ascent_expected(prior, task_mu, task_w, float(alone.mean())))
        risk = _risks(prior, task_mu, task_w, CONDITION_PAIRS, prompts // 2, [seed, index, 1])
        rise = risk[:, 1:] - risk[:, :1]
        rises.append(rise.mean(0))
        errors.append(rise.std(0) / math.sqrt(len(rise)))
    return {
        "expected": np.array(expected),
        "rise": torch.stack(rises).numpy(),
        "error": torch.stack(errors).numpy(),
    }


def _risks(
    prior: GaussianMixturePrior, mu: Tensor, w: Tensor, pairs: Sequence[int], prompts: int, seed: Sequence[int]
) -> Tensor:
    path = posterior_path(prior, mu, w, pairs, prompts, seed)
    return torch.cat([(posterior.prediction - x @ w).square() for posterior, x, _ in path])


@step(version="1", label="posterior against sampling")
def posterior_check(seed: int, draws: int, pairs: int, dim: int, groups: int) -> dict[str, float]:
    """The closed form on one random prior and prompt against importance sampling and joint Gaussian conditioning.

    Returns:
        ``in_errors``: difference of the prediction from the sampled one in standard errors; ``weights`` and
        ``conditioning``: largest differences from the sampled weights, and from the conditioned weights and
        prediction; ``weight_error``: largest standard error of a sampled weight.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    pi = torch.rand(groups, generator=generator, dtype=torch.float64) + 0.2
    # Sharper evidence would leave the reference so few fitting draws that its standard error meant nothing.
    sigmas = [uniform(*bounds) for bounds in ((1.0, 1.5), (1.0, 1.5), (0.3, 0.7), (0.3, 0.7))]
    prior = GaussianMixturePrior(pi / pi.sum(), normal(groups, dim), normal(groups, dim), *sigmas)
    group = int(torch.multinomial(prior.pi, 1, generator=generator))
    mu, w = (centre[group] + s * normal(dim) for centre, s in ((prior.mu, prior.sigma_mu), (prior.w, prior.sigma_w)))
    every = mu + prior.sigma_x * normal(pairs + 1, dim)
    x, query = every[:-1], every[-1]
    y = x @ w + prior.sigma_y * normal(pairs)
    got = prior.posterior(x[None], y[None], query[None])
    weights, prediction = got.weights[0], float(got.prediction[0])
    sampled = _importance(prior, every, y, draws, generator)
    conditioned = _conditioned(prior, every, y)
    return {
        "in_errors": abs(prediction - sampled["prediction"]) / sampled["error"],
        "weights": float((weights - sampled["weights"]).abs().max()),
        "conditioning": max(
            float((weights - conditioned["weights"]).abs().max()), abs(prediction - conditioned["prediction"])
        ),
        "weight_error": sampled["weight_error"],
    }


def _importance(
    prior: GaussianMixturePrior, every: Tensor, y: Tensor, draws: int, generator: torch.Generator
) -> dict[str, Any]:
    # Tasks from each group, weighted by the likelihood of what the prompt shows. Input mean and function are
    # independent within a group, so each gets draws of its own: drawn in pairs, hardly any pair fits both.
    x, query = every[:-1], every[-1]
    inputs, labels, values = [], [], []
    for m in range(prior.groups):
        noise = torch.randn(2, draws, prior.dim, generator=generator, dtype=torch.float64)
        mu, w = prior.mu[m] + prior.sigma_mu * noise[0], prior.w[m] + prior.sigma_w * noise[1]
        # Constants of the prompt are left out; centring keeps the sums small.
        inputs.append(-len(every) * (mu - every.mean(0)).square().sum(1) / (2 * prior.sigma_x**2))
        labels.append(-(y - w @ x.T).square().sum(1) / (2 * prior.sigma_y**2))
        values.append(w @ query)
    a, b = (logs - logs.max() for logs in (torch.stack(inputs), torch.stack(labels)))
    a, b, v = prior.pi[:, None] * a.exp(), b.exp(), torch.stack(values)
    mean_a, mean_b = a.mean(1), b.mean(1)
    total = mean_a @ mean_b
    weights = mean_a * mean_b / total
    prediction = float(mean_a @ (b * v).mean(1) / total)
    # First-order error of a ratio of sums of products of independent means.
    off = b * (v - prediction)
    spread = (mean_a.square() @ off.var(1) + off.mean(1).square() @ a.var(1)) / draws
    own = (a.var(1) / mean_a.square() + b.var(1) / mean_b.square()) / draws
    of_weights = (weights * (1 - weights)).square() * own
    others = weights.square() * ((weights.square() * own).sum() - weights.square() * own)
    return {
        "prediction": prediction,
        "error": float(spread.sqrt() / total),
        "weights": weights,
        "weight_error": float((of_weights + others).sqrt().max()),
    }


def _conditioned(prior: GaussianMixturePrior, every: Tensor, y: Tensor) -> dict[str, Any]:
    # One joint Gaussian over all inputs, and one over all labels given them, per group: no formula of the predictor.
    x, query = every[:-1], every[-1]
    ones = torch.ones(len(every), len(every), dtype=torch.float64)
    inputs = torch.distributions.MultivariateNormal(
        torch.zeros(len(every), dtype=torch.float64),
        prior.sigma_x**2 * torch.eye(len(every), dtype=torch.float64) + prior.sigma_mu**2 * ones,
    )
    covariance = prior.sigma_w**2 * x @ x.T + prior.sigma_y**2 * torch.eye(len(x), dtype=torch.float64)
    labels = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    gaps = y - prior.w @ x.T  # [groups, pairs]
    logs = prior.pi.log() + labels.log_prob(gaps)
    logs = logs + inputs.log_prob((every - prior.mu.unsqueeze(1)).transpose(1, 2)).sum(-1)
    means = prior.w @ query + prior.sigma_w**2 * torch.linalg.solve(covariance, gaps.T).T @ (x @ query)
    weights = logs.softmax(0)
    return {"weights": weights, "prediction": float(weights @ means)}
