"""Sparse parity: what guessing from the prior gives, and what Bayes' predictor gives.

The label of x in {-1, 1}^d is the product of k coordinates, all C(d, k) choices being equally likely.
"""

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError


def parity_subsets(dim: int, k: int, device: torch.device | None = None) -> Int[Tensor, "subsets k"]:
    """Return all sets of k of ``dim`` coordinates.

    Raises:
        InputError: ``k`` outside 1..dim.
    """
    if not 1 <= k <= dim:
        raise InputError(f"k is {k}; allowed: 1 to the dimension {dim}")
    return torch.tensor(list(itertools.combinations(range(dim), k)), device=device)


def parity_prior_accuracy(dim: int, k: int) -> float:
    """Return the accuracy of the best answer that sees the query only: the sign of the sum of all parities.

    It is above one half (0.625 for d=4, k=2): a model at this level has learned nothing from its context. Exact,
    through the distribution of the number of minus ones; ties count one half.

    Raises:
        InputError: ``k`` outside 1..dim.
    """
    if not 1 <= k <= dim:
        raise InputError(f"k is {k}; allowed: 1 to the dimension {dim}")
    total = 0
    for minus in range(dim + 1):
        odd_minus_even = sum((-1) ** j * math.comb(minus, j) * math.comb(dim - minus, k - j) for j in range(k + 1))
        total += math.comb(dim, minus) * abs(odd_minus_even)
    return 0.5 + total / (2 * 2**dim * math.comb(dim, k))


def parity_bayes_path(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"], k: int
) -> Float[Tensor, "batch points"]:
    """Return the posterior mean of each label given the labelled points before it; its sign is Bayes' answer.

    Args:
        x: points with coordinates -1 and 1.
        y: their labels, -1 or 1.
        k: coordinates in the product.
    """
    values = _parities(x, k)
    agrees = values == y.unsqueeze(-1)
    possible = torch.ones_like(agrees)
    possible[:, 1:] = agrees[:, :-1].cumprod(1).bool()
    left = possible.sum(-1)
    return torch.where(left > 0, (possible * values).sum(-1) / left.clamp_min(1), 0.0).to(x)


def parity_bayes_accuracy(x: Float[Tensor, "batch points dim"], k: int) -> Float[Tensor, "batch points"]:
    """Return the exact accuracy of Bayes' predictor at each point, averaged over all parities, for these points.

    Averaged over random points this is the Bayes curve; it needs no draw of the hidden parity, so it has far less
    variance than scoring predictions. Memory grows with ``points * C(d, k)**2`` per prompt. Ties count one half.
    """
    rows = []
    for values in _parities(x, k):
        same = values.unsqueeze(2) == values.unsqueeze(1)
        possible = torch.ones_like(same)
        possible[1:] = same[:-1].cumprod(0).bool()
        margin = torch.einsum("nst,nt->ns", possible.to(values.dtype), values)
        rows.append((0.5 + (margin * values).sign() / 2).mean(-1))
    return torch.stack(rows).to(x)


def _parities(x: Float[Tensor, "batch points dim"], k: int) -> Float[Tensor, "batch points subsets"]:
    if not bool((x.abs() == 1).all()):
        raise InputError("x has coordinates other than -1 and 1; parities are defined on these only")
    return x[..., parity_subsets(x.shape[-1], k, x.device)].prod(-1)
