"""Predictors of the next label from the labelled pairs before it, for all prefixes of a prompt at once.

Every ``*_path`` function takes inputs and labels of whole prompts and returns one prediction per position: the one at
position i uses the pairs before i and the input i, never the label i. Without a pair the prediction is 0.
"""

import itertools
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from superpose.errors import InputError

# Between the squared rounding of float64 and the squared smallest singular value of any usable design.
NULL_SPACE = 1e-12
# What a noise-free label may miss by when supports are compared; small beside any label, large beside rounding.
NOISE_FLOOR = 1e-3


def least_squares(
    x: Float[Tensor, "*batch points dim"], y: Float[Tensor, "*batch points"]
) -> Float[Tensor, "*batch dim"]:
    """Return the least-squares weights, of minimum norm where they are not unique (``gelsd``, in float64 on the CPU).

    Returns:
        Weights in the type and on the device of ``x``.
    """
    solution = torch.linalg.lstsq(x.double().cpu(), y.double().cpu().unsqueeze(-1), driver="gelsd").solution
    return solution.squeeze(-1).to(x)


def least_squares_path(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    used: Bool[Tensor, "batch points"] | None = None,
) -> Float[Tensor, "batch points"]:
    """Predict each label by minimum-norm least squares on the pairs before it.

    For noise-free labels ``<w, x>`` with w from any prior that is symmetric under rotations, this is Bayes' predictor.

    Args:
        x: inputs.
        y: labels.
        used: True for the pairs to learn from (for example the clean ones); all of them by default.
    """
    gram, moment = _statistics(x, y, used)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > NULL_SPACE * values[..., -1:].clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    rotated = torch.einsum("bnij,bni->bnj", vectors, moment)
    weights = torch.einsum("bnij,bnj->bni", vectors, inverse * rotated)
    return torch.einsum("bni,bni->bn", weights, x.double()).to(x)


def ridge_path(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    penalty: float,
    used: Bool[Tensor, "batch points"] | None = None,
) -> Float[Tensor, "batch points"]:
    """Predict each label by ridge regression: Bayes' predictor for ``w ~ N(0, I)`` and label noise of that variance.

    Args:
        x: inputs.
        y: labels.
        penalty: what is added to the diagonal of ``X^T X``; above 0 (use `least_squares_path` for 0).
        used: True for the pairs to learn from; all of them by default.

    Raises:
        InputError: ``penalty`` is not above 0.
    """
    if not penalty > 0:
        raise InputError(f"penalty is {penalty!r}; it must be above 0 (least_squares_path is the limit 0)")
    gram, moment = _statistics(x, y, used)
    regular = gram + penalty * torch.eye(x.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(regular, moment.unsqueeze(-1)).squeeze(-1)
    return torch.einsum("bni,bni->bn", weights, x.double()).to(x)


def averaging_path(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"]
) -> Float[Tensor, "batch points"]:
    """Predict each label with the weights ``mean(y x)`` over the pairs before it: one step of gradient descent."""
    _, moment = _statistics(x, y, None)
    count = torch.arange(x.shape[1], dtype=moment.dtype, device=moment.device).clamp_min(1)
    return (torch.einsum("bni,bni->bn", moment, x.double()) / count).to(x)


def nearest_neighbours_path(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"], k: int = 3
) -> Float[Tensor, "batch points"]:
    """Predict each label by the mean label of the k nearest inputs before it (of all of them while fewer than k).

    Args:
        x: inputs.
        y: labels.
        k: neighbours; 3 as in Garg et al. (2022).

    Raises:
        InputError: ``k`` is below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; allowed: 1 and above")
    points = x.shape[1]
    distance = torch.cdist(x.double(), x.double())
    earlier = torch.ones(points, points, dtype=torch.bool, device=x.device).tril(-1)
    distance = distance.masked_fill(~earlier, math.inf)
    near, index = distance.topk(min(k, points), dim=-1, largest=False)
    labels = torch.gather(y.unsqueeze(1).expand(-1, points, -1), 2, index)
    found = torch.isfinite(near)
    return (torch.where(found, labels, 0.0).sum(-1) / found.sum(-1).clamp_min(1)).to(x)


def sparse_bayes_path(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    sparsity: int,
    noise: float = 0.0,
) -> Float[Tensor, "batch points"]:
    """Predict each label exactly when w has ``sparsity`` nonzeros ``N(0, 1)`` on a uniformly drawn support.

    The posterior is a mixture over all supports, each with its marginal likelihood; time and memory grow with
    ``batch * points * C(dim, sparsity)``.

    Args:
        x: inputs.
        y: labels.
        sparsity: nonzeros of w.
        noise: standard deviation of the label noise; values below 1e-3 are treated as 1e-3.

    Raises:
        InputError: ``sparsity`` outside 1..dim.
    """
    dim = x.shape[-1]
    if not 1 <= sparsity <= dim:
        raise InputError(f"sparsity is {sparsity}; allowed: 1 to the dimension {dim}")
    variance = max(noise, NOISE_FLOOR) ** 2
    supports = torch.tensor(list(itertools.combinations(range(dim), sparsity)), device=x.device)
    gram, moment = _statistics(x, y, None)
    # [batch, points, support, sparsity(, sparsity)]
    regular = gram[:, :, supports.unsqueeze(2), supports.unsqueeze(1)]
    regular = regular + variance * torch.eye(sparsity, dtype=gram.dtype, device=x.device)
    correlation = moment[:, :, supports]
    factor = torch.linalg.cholesky(regular)
    weights = torch.cholesky_solve(correlation.unsqueeze(-1), factor).squeeze(-1)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # log N(y; 0, X X^T + v I) up to what all supports share, by the determinant and inversion lemmas
    evidence = (correlation * weights).sum(-1) / (2 * variance) - log_determinant / 2
    prediction = (weights * x.double()[:, :, supports]).sum(-1)
    return (evidence.softmax(-1) * prediction).sum(-1).to(x)


def _statistics(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    used: Bool[Tensor, "batch points"] | None,
) -> tuple[Float[Tensor, "batch points dim dim"], Float[Tensor, "batch points dim"]]:
    """Return ``sum x x^T`` and ``sum x y`` over the pairs strictly before each position, in float64."""
    if x.shape[:2] != y.shape:
        raise InputError(f"y has shape {tuple(y.shape)}; allowed: {tuple(x.shape[:2])}, one label per input")
    inputs, labels = x.double(), y.double()
    weighted = inputs if used is None else inputs * used.unsqueeze(-1)
    outer = weighted.unsqueeze(-1) * inputs.unsqueeze(-2)
    product = weighted * labels.unsqueeze(-1)
    # Shifting before summing (not subtracting after) keeps a prefix free of what comes later
    gram = torch.zeros_like(outer)
    moment = torch.zeros_like(product)
    gram[:, 1:] = outer[:, :-1].cumsum(1)
    moment[:, 1:] = product[:, :-1].cumsum(1)
    return gram, moment
