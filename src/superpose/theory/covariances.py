"""Covariance matrices: checked, and their square roots and pseudo-inverse square roots."""

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError

# Relative; covariances that were computed in float32 pass.
SYMMETRY = 1e-6
# Relative to the largest eigenvalue; below it a direction counts as having no variance.
NO_VARIANCE = 1e-10


def covariance(argument: str, matrix: Float[Tensor, "..."]) -> Float[Tensor, "*sweep dim dim"]:
    """Return a covariance matrix (or several) in float64, exactly symmetric.

    Args:
        argument: what messages call it.
        matrix: symmetric and positive semi-definite up to rounding in float32.

    Raises:
        InputError: not square, not finite, asymmetric, or with a negative eigenvalue.
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise InputError(f"{argument} has shape {list(matrix.shape)}; allowed: square matrices, [..., dim, dim]")
    wide = matrix.double()
    if not bool(torch.isfinite(wide).all()):
        raise InputError(f"{argument} has entries that are not finite; allowed: a covariance matrix")
    # Of each matrix by itself: a large one must not excuse its neighbours in a sweep.
    scale = wide.abs().amax((-2, -1))
    gap = (wide - wide.mT).abs().amax((-2, -1))
    if bool((gap > SYMMETRY * scale).any()):
        raise InputError(f"{argument} is asymmetric by {float(gap.max()):.3g}; allowed: a symmetric matrix")
    wide = (wide + wide.mT) / 2
    lowest = torch.linalg.eigvalsh(wide).amin(-1)
    if bool((lowest < -SYMMETRY * scale).any()):
        raise InputError(
            f"{argument} has the eigenvalue {float(lowest.min()):.3g}; allowed: a positive semi-definite matrix"
        )
    return wide


def roots(
    matrix: Float[Tensor, "*sweep dim dim"],
) -> tuple[Float[Tensor, "*sweep dim dim"], Float[Tensor, "*sweep dim dim"]]:
    """Return the symmetric square root and its pseudo-inverse, which is 0 on directions without variance."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0)
    kept = values > NO_VARIANCE * values[..., -1:]
    root = torch.where(kept, values, 0.0).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, root, 1.0), 0.0)
    return (vectors * root.unsqueeze(-2)) @ vectors.mT, (vectors * inverse.unsqueeze(-2)) @ vectors.mT
