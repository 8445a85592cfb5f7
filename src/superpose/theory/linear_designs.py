"""One step of preconditioned gradient descent on prompts that are not i.i.d.: retrieved, aligned, drifting examples.

Predictor, risk and label noise are those of `superpose.theory.linear_icl`; inputs are white. Each design has its exact
risk for finite n and dim and, where arXiv 2407.10005 gives one, the paper's approximation, which drops lower orders.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError

from .covariances import covariance
from .linear_icl import Number, amount, count


@dataclass(frozen=True)
class ScaledOptimum:
    """The best preconditioner where it is a multiple of the identity.

    Attributes:
        scale: c of ``W = c I``.
        risk: mean squared error on the noisy label.
    """

    scale: Float[Tensor, "*sweep"]
    risk: Float[Tensor, "*sweep"]


@dataclass(frozen=True)
class DriftOptimum:
    """The best predictor with and without sample weights where the task drifts along the prompt.

    Attributes:
        weights: of ``x^T X^T (weights * y)``, oldest example first; the preconditioner is in them.
        risk: mean squared error with them: what H3 can reach.
        scale: c of the best predictor ``c x^T X^T y``, with equal weights.
        uniform_risk: mean squared error of that one: what linear attention can reach.
    """

    weights: Float[Tensor, "*sweep context"]
    risk: Float[Tensor, "*sweep"]
    scale: Float[Tensor, "*sweep"]
    uniform_risk: Float[Tensor, "*sweep"]


def kappa(dim: Number, alpha: Number) -> Float[Tensor, "*sweep"]:
    """Return ``alpha^2 dim + 1``, by which retrieval (and, squared, alignment) multiplies the number of examples."""
    return amount("alpha", alpha).square() * count("dim", dim) + 1


def rag_optimum(dim: Number, n: Number, alpha: Number, noise: Number = 0.0) -> ScaledOptimum:
    """Return the exact optimum for retrieved examples: ``x_i | x ~ N(alpha x, (1 - alpha^2) I)``.

    Assumes beta ~ N(0, I) and x ~ N(0, I), independent, and x_i independent given x. All arguments broadcast.

    Args:
        dim: coordinates of an input.
        n: retrieved examples.
        alpha: correlation of an example with the query, 0 (random examples) to 1 (copies of the query).
        noise: standard deviation of the label noise.

    Raises:
        InputError: alpha outside 0..1, n or dim below 1, noise below 0.
    """
    dim, n = count("dim", dim), count("n", n)
    square, variance = amount("alpha", alpha, 0, 1).square(), amount("noise", noise).square()
    rest = 1 - square
    m1, m2, m3 = _moments(dim)
    linear = n * (square * m2 + rest * m1)
    alone = square.square() * m3 + 6 * square * rest * m2 + 3 * rest.square() * m1
    alone = alone + rest * (dim - 1) * (square * m2 + rest * m1)
    pairs = square.square() * m3 + 2 * square * rest * m2 + rest.square() * m1
    quadratic = n * alone + n * (n - 1) * pairs + variance * linear
    return ScaledOptimum(linear / quadratic, dim + variance - linear.square() / quadratic)


def rag_approximation(dim: Number, n: Number, alpha: Number, noise: Number = 0.0) -> ScaledOptimum:
    """Return the paper's approximation of `rag_optimum`, for large dim, alpha of order ``1/sqrt(dim)``, bounded n/dim.

    ``dim + noise^2 - kappa n dim / (kappa n + dim + noise^2)``: the arguments and errors of `rag_optimum`.
    """
    dim, n = count("dim", dim), count("n", n)
    variance = amount("noise", noise).square()
    effective = kappa(dim, amount("alpha", alpha, 0, 1)) * n
    below = effective + dim + variance
    return ScaledOptimum(1 / below, dim + variance - effective * dim / below)


def aligned_signal(dim: Number, alpha: Number) -> Float[Tensor, "*sweep"]:
    """Return the variance of an aligned design's label without noise: ``(dim + alpha^2 dim (dim + 2)) / kappa``."""
    dim, square = count("dim", dim), amount("alpha", alpha).square()
    return (dim + square * dim * (dim + 2)) / kappa(dim, alpha)


def aligned_optimum(dim: Number, n: Number, alpha: Number, noise: Number = 0.0) -> ScaledOptimum:
    """Return the exact optimum for task-aligned features: the query and all x_i ~ N(alpha beta, I).

    Assumes beta ~ N(0, I) and labels ``x^T beta / sqrt(kappa) + noise``. All arguments broadcast.

    Args:
        dim: coordinates of an input.
        n: labelled examples.
        alpha: how far the inputs' mean lies along the task, 0 or more.
        noise: standard deviation of the label noise.

    Raises:
        InputError: alpha below 0, n or dim below 1, noise below 0.
    """
    dim, n = count("dim", dim), count("n", n)
    square, variance = amount("alpha", alpha).square(), amount("noise", noise).square()
    m1, m2, m3, m4 = _moments(dim, 4)
    gain = 1 / kappa(dim, alpha)
    # Powers of |beta|^2 become its moments: [1, b, b^2] times b^j is [m_j, m_j+1, m_j+2].
    own = (3.0, 6 * square, square.square())
    other = (1.0, 2 * square, square.square())

    def mean(coefficients: tuple[Number, ...], *moments: Tensor) -> Tensor:
        terms = [c * m for c, m in zip(coefficients, moments, strict=True)]
        return sum(terms[1:], terms[0])

    linear = n * mean(other, m1, m2, m3)
    signal = n * mean(own, m1, m2, m3) + n * (dim - 1) * mean((1.0, square), m1, m2)
    signal = signal + n * (n - 1) * mean(other, m1, m2, m3)
    along = n * mean(own, m2, m3, m4) + n * (n - 1) * mean(other, m2, m3, m4)
    scatter = n * (dim + 2 * square * m1 + square.square() * m2)
    quadratic = gain * (square * along + signal) + variance * scatter
    linear = gain * linear
    return ScaledOptimum(linear / quadratic, aligned_signal(dim, alpha) + variance - linear.square() / quadratic)


def aligned_approximation(dim: Number, n: Number, alpha: Number, noise: Number = 0.0) -> ScaledOptimum:
    """Return the paper's approximation of `aligned_optimum`, for large dim and alpha of order ``1/sqrt(dim)``.

    ``dim + noise^2 - kappa n dim / (kappa n + (dim + noise^2) / kappa)``: the arguments and errors of
    `aligned_optimum`.
    """
    dim, n = count("dim", dim), count("n", n)
    variance, factor = amount("noise", noise).square(), kappa(dim, alpha)
    below = factor * n + (dim + variance) / factor
    return ScaledOptimum(1 / below, dim + variance - factor * n * dim / below)


def drift_optimum(
    correlation: Float[Tensor, "*sweep places places"],
    dim: int,
    noise: float | Float[Tensor, "..."] = 0.0,
) -> DriftOptimum:
    """Return the exact optimum with and without sample weights for a task that drifts, or noise that varies.

    Assumes white inputs and Gaussian beta_1, ..., beta_{n+1} (the last one the query's), whose coordinates are
    independent of each other.

    Args:
        correlation: covariance R of the n + 1 values of each coordinate of beta, oldest first and the query last.
        dim: coordinates of an input.
        noise: standard deviation of the label noise, one for all or one per place.

    Raises:
        InputError: R is no covariance or has no example in it, dim below 1, noise below 0 or of another length.
    """
    wide, size = covariance("correlation", correlation), count("dim", dim)
    places = wide.shape[-1]
    if places < 2:
        raise InputError(f"correlation has {places} place; allowed: 2 or more, the last one the query's")
    sigma = amount("noise", noise)
    if sigma.ndim and sigma.shape[-1] != places:
        raise InputError(f"noise has {sigma.shape[-1]} entries; allowed: one, or {places}, the query's last")
    variance = sigma.square().to(wide.device).expand(*wide.shape[:-1])
    own = wide.diagonal(dim1=-2, dim2=-1)
    context, query = wide[..., :-1, :-1], wide[..., :-1, -1]
    below = context + torch.diag_embed((size + 1) * own[..., :-1] + variance[..., :-1])
    # The pseudo-inverse gives no weight to an example without task and without noise.
    weights = (torch.linalg.pinv(below, hermitian=True) @ query.unsqueeze(-1)).squeeze(-1)
    label = size * own[..., -1] + variance[..., -1]
    whole = below.sum((-2, -1))
    scale = torch.where(whole > 0, query.sum(-1) / torch.where(whole > 0, whole, 1.0), 0.0)
    return DriftOptimum(
        weights=weights,
        risk=label - size * (weights * query).sum(-1),
        scale=scale,
        uniform_risk=label - size * scale * query.sum(-1),
    )


def conditional_mean(
    covariance: Float[Tensor, "batch context context"],
    cross: Float[Tensor, "batch context"],
    y: Float[Tensor, "batch context"],
) -> Float[Tensor, " batch"]:
    """Return the mean of a Gaussian given others of mean zero: Bayes' predictor of a label from the labels shown.

    Args:
        covariance: of the labels shown; may be singular, as it is without noise.
        cross: covariance of each with the one that is wanted.
        y: the labels shown.
    """
    inverse = torch.linalg.pinv(covariance.double(), hermitian=True, rtol=1e-12)
    return torch.einsum("bi,bij,bj->b", cross.double(), inverse, y.double())


def _moments(dim: Tensor, most: int = 3) -> list[Tensor]:
    """Return ``E |g|^2, E |g|^4, ...`` of a standard normal vector: d, d (d + 2), d (d + 2) (d + 4), ..."""
    moments = [dim]
    for power in range(1, most):
        moments.append(moments[-1] * (dim + 2 * power))
    return moments
