"""The priors of the dual-operating-modes paper, and what theory says about early ascent and biased labels."""

import itertools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose

from .groups import GaussianMixturePrior

REGULAR = (4, 6, 8, 12, 20)


def regular_centres(groups: int) -> Float[Tensor, "groups 3"]:
    """Return the unit vertices of the regular polyhedron with that many corners.

    Raises:
        InputError: no regular polyhedron has ``groups`` corners.
    """
    choose("groups", groups, REGULAR)
    golden = (1 + math.sqrt(5)) / 2
    signs = list(itertools.product((-1.0, 1.0), repeat=2))
    cube = [list(corner) for corner in itertools.product((-1.0, 1.0), repeat=3)]
    if groups == 4:
        rest, third = math.sqrt(2 / 9), 1 / 3
        corners = [
            [0.0, -1.0, 0.0],
            [math.sqrt(8 / 9), third, 0.0],
            [-rest, third, math.sqrt(2 / 3)],
            [-rest, third, -math.sqrt(2 / 3)],
        ]
    elif groups == 6:
        corners = [[s if i == axis else 0.0 for i in range(3)] for axis in range(3) for s in (-1.0, 1.0)]
    elif groups == 8:
        corners = cube
    elif groups == 12:
        corners = [_turn([0.0, a, b * golden], axis) for axis in range(3) for a, b in signs]
    else:
        corners = cube + [_turn([0.0, a / golden, b * golden], axis) for axis in range(3) for a, b in signs]
    return torch.nn.functional.normalize(torch.tensor(corners, dtype=torch.float64), dim=-1)


def regular_prior(groups: int = 4, **sigmas: Any) -> GaussianMixturePrior:
    """Return the prior with 4, 6, 8, 12 or 20 groups at the corners of a regular polyhedron, ``w_m = mu_m``."""
    centres = regular_centres(groups)
    return _uniform(centres, centres, sigmas)


def axis_prior(dim: int, **sigmas: Any) -> GaussianMixturePrior:
    """Return the prior with one group on each of the ``dim`` axes, ``w_m = mu_m``."""
    if dim < 1:
        raise InputError(f"dim is {dim}; allowed: 1 and above")
    centres = torch.eye(dim, dtype=torch.float64)
    return _uniform(centres, centres, sigmas)


def early_ascent_prior(dim: int, **sigmas: Any) -> GaussianMixturePrior:
    """Return the prior in which the group with the right inputs has the opposite function: ``w_m = -mu_m``.

    The paper's test task is ``mu* = w* = mu_1``, sigma_x = 1, sigma_y = 2, sigma_mu = sigma_w = 0.05, the defaults.
    Two groups for dim 1, three above.
    """
    if dim < 1:
        raise InputError(f"dim is {dim}; allowed: 1 and above")
    ones = torch.ones(dim, dtype=torch.float64)
    rows = [ones, -ones]
    if dim > 1:
        rows.append(torch.cat([ones[:1], -ones[1:]]))
    centres = torch.stack(rows) / math.sqrt(dim)
    return _uniform(centres, -centres, {"sigma_y": 2.0, "sigma_mu": 0.05, "sigma_w": 0.05} | sigmas)


def retrieval_scores(
    prior: GaussianMixturePrior, mu: Float[Tensor, " dim"], w: Float[Tensor, " dim"], tau: float = 1.0
) -> Float[Tensor, " groups"]:
    """Return s_m, the rate at which evidence speaks against each group when groups are narrow.

    For sigma_mu, sigma_w -> 0 the mean of ``log(weight_m / weight_a)`` changes by ``s_a - s_m`` per labelled pair. The
    group with the smallest score is the one that is retrieved.

    Args:
        prior: the groups.
        mu: input mean of the task shown.
        w: function of the task shown, labels without noise.
        tau: spread of the inputs shown.
    """
    mu, w = mu.double(), w.double()
    inputs = (prior.mu - mu).square().sum(-1) / (2 * prior.sigma_x**2)
    return inputs + group_risks(prior, mu, w, tau) / (2 * prior.sigma_y**2)


def group_risks(
    prior: GaussianMixturePrior, mu: Float[Tensor, " dim"], w: Float[Tensor, " dim"], tau: float = 1.0
) -> Float[Tensor, " groups"]:
    """Return ``E <w_m - w, x>^2`` for ``x ~ N(mu, tau^2 I)``: the risk of answering by group m's centre."""
    gap = prior.w - w.double()
    return (gap @ mu.double()).square() + tau**2 * gap.square().sum(-1)


def early_ascent_expected(
    prior: GaussianMixturePrior,
    mu: Float[Tensor, " dim"],
    w: Float[Tensor, " dim"],
    risk_without_examples: float,
    tau: float = 1.0,
) -> bool:
    """Say whether the risk must first rise: the group to be retrieved is worse than answering without examples.

    This is the paper's condition for narrow groups (sigma_mu, sigma_w -> 0); ``risk_without_examples`` is the mean of
    ``(prediction - <w, x>)^2`` at no labelled pair.
    """
    retrieved = int(retrieval_scores(prior, mu, w, tau).argmin())
    return bool(risk_without_examples < float(group_risks(prior, mu, w, tau)[retrieved]))


def learning_risk_bound(
    weights: Float[Tensor, "*lead groups"],
    gram: Float[Tensor, "*lead dim dim"],
    query: Float[Tensor, "*lead dim"],
    prior: GaussianMixturePrior,
    w: Float[Tensor, " dim"],
) -> Float[Tensor, "*lead"]:
    """Return the bound ``|x|^2 sum_m weight_m |w_m - w|^2 / lambda_min(A_w)^2`` on one prompt's squared error.

    It holds for every prompt whose labels are ``<w, x>`` without noise; ``A_w = I + delta_w gram``.
    """
    smallest = 1 + prior.delta_w * torch.linalg.eigvalsh(gram.double())[..., 0]
    distances = (prior.w - w.double()).square().sum(-1)
    return query.double().square().sum(-1) * (weights.double() * distances).sum(-1) / smallest.square()


def retrieval_risk_limit(
    w_retrieved: Float[Tensor, " dim"], mu: Float[Tensor, " dim"], w: Float[Tensor, " dim"], tau: float = 1.0
) -> float:
    """Return where the risk of predicting the retrieved group's labels ends for ever more examples of another task."""
    gap = w.double() - w_retrieved.double()
    return float((gap @ mu.double()).square() + tau**2 * gap.square().sum())


def _uniform(mu: Tensor, w: Tensor, sigmas: dict[str, Any]) -> GaussianMixturePrior:
    allowed = ("sigma_x", "sigma_y", "sigma_mu", "sigma_w")
    for key in sigmas:
        choose("argument", key, allowed)
    pi = torch.full((len(mu),), 1 / len(mu), dtype=torch.float64)
    return GaussianMixturePrior(pi=pi, mu=mu, w=w, **sigmas)


def _turn(corner: list[float], by: int) -> list[float]:
    return corner[-by:] + corner[:-by] if by else corner
