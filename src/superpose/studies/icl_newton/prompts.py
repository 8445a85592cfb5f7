"""The random problems of the study: matrices of a condition number, classification and regression prompts."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def normal(generator: torch.Generator, *shape: int) -> Float[Tensor, "..."]:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_singular_values(
    generator: torch.Generator, count: int, rows: int, values: Float[Tensor, " d"]
) -> Float[Tensor, "count rows d"]:
    """Random matrices of given singular values, ``rows`` at least as many as values."""
    left = torch.linalg.qr(normal(generator, count, rows, len(values))).Q
    right = torch.linalg.qr(normal(generator, count, len(values), len(values))).Q
    return left * values @ right.mT


def spread(kappa: float, dim: int) -> Float[Tensor, " d"]:
    """Values from 1 down to 1/kappa at equal ratios."""
    return torch.logspace(0, -math.log10(kappa), dim, dtype=torch.float64)


def classification(
    generator: torch.Generator, prompts: int, points: int, dim: int, narrow: float = 1.0, noisy: bool = False
) -> tuple[Float[Tensor, "prompts points dim"], Float[Tensor, "prompts points"]]:
    """Rows of norm at most 1 with labels -1 or 1 from one hyperplane per prompt.

    Args:
        generator: source of randomness.
        prompts, points, dim: sizes.
        narrow: standard deviation of the last feature, where the first has 1; the others lie between at equal ratios.
        noisy: draw labels from the logistic model with standard normal weights instead of taking its sign.
    """
    features, weights = normal(generator, prompts, points, dim), normal(generator, prompts, dim, 1)
    a = features * spread(1 / narrow, dim) if narrow < 1 else features
    margin = (a @ weights).squeeze(-1)
    chance = torch.rand(prompts, points, generator=generator, dtype=torch.float64)
    positive = chance < torch.sigmoid(margin) if noisy else margin > 0
    longest = torch.linalg.vector_norm(a, dim=-1).amax(-1)
    return a / longest[:, None, None], torch.where(positive, 1.0, -1.0).double()
