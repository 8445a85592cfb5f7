"""Least squares of least norm through the small Gram matrix, batched."""

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose

SOLVERS = ("auto", "gram", "svd")
# Smallest squared ratio of the Cholesky factor's diagonal at which the Gram matrix, whose condition number is the
# square of the inputs', still leaves six digits after one refinement.
_SINGULAR = 1e-11


def min_norm_fit(
    inputs: Float[Tensor, "*sets samples features"],
    labels: Float[Tensor, "*sets labelled outputs"],
    solver: str = "auto",
) -> Float[Tensor, "*sets features outputs"]:
    """Return the least-squares coefficients, those of least norm where they are not unique, in float64.

    With fewer samples than features the ``samples x samples`` Gram matrix is factorised, otherwise the normal
    equations, and the solution refined once; an SVD of the inputs (LAPACK's ``gelsd``) costs several times more
    (``benchmarks/bench_ridgeless.py``).

    Args:
        inputs: one design per set.
        labels: as many as samples; several columns share one factorisation.
        solver: "gram"; "svd", for singular or nearly singular inputs; "auto": the first where it is accurate, else
            the second (for all sets, if one of them needs it).

    Raises:
        InputError: nothing to fit, unequal numbers of samples, NaN or infinite entries, or ``solver="gram"`` with
            singular inputs.
    """
    choose("solver", solver, SOLVERS)
    if not inputs.shape[-1] or not inputs.shape[-2]:
        raise InputError(f"inputs has shape {tuple(inputs.shape)}; allowed: at least one sample and one feature")
    if labels.shape[:-1] != inputs.shape[:-1]:
        raise InputError(f"labels has shape {tuple(labels.shape)}; allowed: {tuple(inputs.shape[:-1])} and outputs")
    x, y = inputs.double(), labels.double()
    _check_finite("labels", y)
    if solver != "svd":
        fit = _gram_fit(x, y)
        if fit is not None:
            return fit
        if solver == "gram":
            raise InputError(
                f"inputs has (nearly) dependent {'rows' if x.shape[-2] < x.shape[-1] else 'columns'}, so that its Gram "
                "matrix is singular; allowed for solver 'gram': independent ones (solver 'svd' takes any)"
            )
    _check_finite("inputs", x)
    # Only LAPACK's gelsd knows rank deficiency, and it is on the CPU.
    return torch.linalg.lstsq(x.cpu(), y.cpu(), driver="gelsd").solution.to(x.device)


def _gram_fit(x: Tensor, y: Tensor) -> Tensor | None:
    """None where the Gram matrix is numerically singular."""
    wide = x.shape[-2] < x.shape[-1]
    gram = _gram(x if wide else x.mT)
    # One entry that is not finite spoils the diagonal, which is far smaller than the inputs.
    if not bool(torch.isfinite(gram.diagonal(dim1=-2, dim2=-1)).all()):
        _check_finite("inputs", x)
    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    if bool(failed.any()) or bool((diagonal.amin(-1) ** 2 < _SINGULAR * diagonal.amax(-1) ** 2).any()):
        return None

    def solve(residual: Tensor) -> Tensor:
        if wide:
            return x.mT @ torch.cholesky_solve(residual, factor)
        return torch.cholesky_solve(x.mT @ residual, factor)

    fit = solve(y)
    return fit + solve(y - x @ fit)


def _gram(x: Tensor) -> Tensor:
    """``x x^T``; on the CPU by numpy, which computes half of a symmetric product (BLAS syrk) and torch all of it."""
    if x.device.type != "cpu" or x.requires_grad:
        return x @ x.mT
    rows = x.numpy()
    return torch.from_numpy(rows @ rows.swapaxes(-1, -2))


def _check_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name} holds NaN or infinite entries; allowed: finite numbers")
