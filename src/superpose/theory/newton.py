"""Newton's iteration for matrix inversion, and least squares by it and by gradient descent.

``X <- X (2I - A X)`` squares the residual ``I - A X`` in every step, so the number of steps to a given residual is
known beforehand from the condition number alone.
"""

import math
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose

Start = Literal["general", "spd"]
# Relative to the largest entry: rounding may part a matrix from its transpose, but not by more than this in float64, or
# so many units in the last place of a narrower type.
ASYMMETRY, ULPS = 1e-9, 64


def inverse_step(a: Float[Tensor, "*batch d d"], x: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """Return ``2X - X A X``, one step of Newton's iteration towards the inverse of A."""
    return 2 * x - x @ a @ x


def inverse_path(
    a: Float[Tensor, "*batch d d"], start: Float[Tensor, "*batch d d"], steps: int
) -> Float[Tensor, "iterate *batch d d"]:
    """Return the iterates X_0, ..., X_steps of Newton's iteration.

    Args:
        a: square matrices.
        start: X_0; `inverse_start` gives ones from which the iteration converges.
        steps: steps, 0 or more.

    Raises:
        InputError: ``steps`` is negative.
    """
    _count("steps", steps, 0)
    path = [start]
    for _ in range(steps):
        path.append(inverse_step(a, path[-1]))
    return torch.stack(path)


def inverse_start(
    a: Float[Tensor, "*batch d d"], kind: str = "best", alpha: float | None = None
) -> Float[Tensor, "*batch d d"]:
    """Return an X_0 from which Newton's iteration converges to the inverse.

    Args:
        a: invertible matrices.
        kind: ``"best"`` is ``A^T 2 / (sigma_max^2 + sigma_min^2)``, with the smallest residual among multiples of
            A^T; ``"frobenius"`` is ``A^T / ||A||_F^2``, which needs no singular values; ``"spd"`` is
            ``I 2 / (lambda_max + lambda_min)``, for symmetric positive definite A, whose residual has the square root
            of the condition number where the others have all of it.
        alpha: use ``alpha A^T`` instead; not with ``"spd"``.

    Raises:
        InputError: another kind, a singular A or one that is not finite, ``"spd"`` for another kind of matrix or with
            an alpha, or an alpha outside ``0 < alpha < 2 / sigma_max^2``, where the iteration diverges.
    """
    choose("kind", kind, ("best", "frobenius", "spd"))
    if kind == "spd":
        if alpha is not None:
            raise InputError(f"alpha is {alpha} with kind 'spd', which chooses its own; allowed: another kind")
        low, high = _eigenvalue_range(a)
        return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) * (2 / (low + high))[..., None, None]
    _check_finite(a)
    values = torch.linalg.svdvals(a)
    largest, smallest = values[..., 0], values[..., -1]
    if alpha is not None:
        bound = float((2 / largest.square()).min())
        if not 0 < alpha < bound:
            raise InputError(f"alpha is {alpha}; allowed: between 0 and 2 / sigma_max^2 = {bound:.6g}, both excluded")
    if bool((smallest <= torch.finfo(a.dtype).eps * a.shape[-1] * largest).any()):
        raise InputError("a is singular to working precision; allowed: invertible matrices")
    if alpha is not None:
        return alpha * a.mT
    scale = 2 / (largest.square() + smallest.square()) if kind == "best" else 1 / values.square().sum(-1)
    return scale[..., None, None] * a.mT


def inverse_rate(kappa: float, start: Start = "general") -> float:
    """Return the residual ``||I - A X_0||`` of the best start for matrices of a condition number.

    It is ``(kappa^2 - 1) / (kappa^2 + 1)`` for a multiple of A^T (``"general"``) and ``(kappa - 1) / (kappa + 1)`` for
    a multiple of I where A is symmetric positive definite (``"spd"``).

    Raises:
        InputError: ``kappa`` is below 1 or infinite, or another start.
    """
    choose("start", start, ("general", "spd"))
    if not 1 <= kappa < math.inf:
        raise InputError(f"kappa is {kappa}; allowed: a finite number of 1 or more")
    power = kappa**2 if start == "general" else kappa
    return (power - 1) / (power + 1)


def inverse_steps(kappa: float, eps: float, start: Start = "general") -> int:
    """Return the fewest steps after which ``||I - A X|| <= eps`` from the best start.

    The residual after t steps is exactly ``rho^(2^t)`` with rho of `inverse_rate`, so this is
    ``ceil(log2(ln(1/eps) / ln(1/rho)))``, and 0 where the start is good enough.

    Args:
        kappa: condition number of A, 1 or more.
        eps: residual in the spectral norm, between 0 and 1.
        start: as in `inverse_rate`.

    Raises:
        InputError: ``kappa`` or ``eps`` outside their ranges.
    """
    rho = inverse_rate(kappa, start)
    _between_0_and_1("eps", eps)
    if rho <= eps:
        return 0
    # log1p keeps the digits of a rho that is nearly 1.
    power = kappa**2 if start == "general" else kappa
    return max(0, math.ceil(math.log2(math.log(1 / eps) / -math.log1p(-2 / (power + 1)))))


def inverse_steps_paper(kappa: float, eps: float) -> float:
    """Return ``2 log2(kappa) + log2(ln(1/eps))``, the paper's form of `inverse_steps` without its constant.

    Raises:
        InputError: ``kappa`` or ``eps`` outside their ranges.
    """
    inverse_rate(kappa)
    _between_0_and_1("eps", eps)
    return 2 * math.log2(kappa) + math.log2(math.log(1 / eps))


def spd_start_scale(low: Float[Tensor, "*batch"], high: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the best alpha for ``X_0 = alpha I`` where all eigenvalues lie in [low, high]: ``2 / (low + high)``.

    Raises:
        InputError: not ``0 < low <= high``.
    """
    if not bool(((low > 0) & (low <= high) & high.isfinite()).all()):
        raise InputError(
            f"low is {low.min():.6g} and high {high.max():.6g}; allowed: 0 < low <= high, finite (A is singular where "
            "its smallest eigenvalue is 0)"
        )
    return 2 / (low + high)


def normal_equations(
    x: Float[Tensor, "*batch points dim"], y: Float[Tensor, "*labels"], ridge: float = 0.0
) -> tuple[Float[Tensor, "*batch dim dim"], Float[Tensor, "*batch dim"]]:
    """Return ``X^T X + ridge I`` and ``X^T y``.

    Raises:
        InputError: as many labels as inputs are needed, and a ridge of 0 or more.
    """
    if x.shape[:-1] != y.shape:
        raise InputError(f"y has shape {tuple(y.shape)}; allowed: {tuple(x.shape[:-1])}, one label per input")
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge}; allowed: 0 or more")
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return x.mT @ x + ridge * eye, (x.mT @ y.unsqueeze(-1)).squeeze(-1)


def newton_weights_path(
    hessian: Float[Tensor, "*batch dim dim"],
    moment: Float[Tensor, "*batch dim"],
    steps: int,
    start: Start = "general",
) -> Float[Tensor, "iterate *batch dim"]:
    """Return the weights ``X_t moment`` of t = 0, ..., steps Newton steps for the inverse of the Hessian.

    Args:
        hessian: symmetric positive definite, as of `normal_equations`.
        moment: the right-hand side.
        steps: steps, 0 or more.
        start: the best multiple of the Hessian (``"general"``) or of I (``"spd"``).

    Raises:
        InputError: a Hessian that is not positive definite, negative ``steps``, or another start.
    """
    choose("start", start, ("general", "spd"))
    low, high = _eigenvalue_range(hessian)
    if start == "spd":
        first = inverse_start(hessian, "spd")
    else:
        first = hessian * (2 / (low.square() + high.square()))[..., None, None]
    return (inverse_path(hessian, first, steps) @ moment.unsqueeze(-1)).squeeze(-1)


def descent_weights_path(
    hessian: Float[Tensor, "*batch dim dim"],
    moment: Float[Tensor, "*batch dim"],
    steps: int,
    rate: Float[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "iterate *batch dim"]:
    """Return the weights of t = 0, ..., steps gradient steps on least squares, from zero.

    Args:
        hessian: symmetric positive definite, as of `normal_equations`.
        moment: the right-hand side.
        steps: steps, 0 or more.
        rate: step size per problem; default ``2 / (lambda_min + lambda_max)``, best in the worst case.

    Raises:
        InputError: a Hessian that is not positive definite (where no rate is given), or negative ``steps``.
    """
    _count("steps", steps, 0)
    if rate is None:
        rate = spd_start_scale(*_eigenvalue_range(hessian))
    path = [torch.zeros_like(moment)]
    for _ in range(steps):
        gradient = (hessian @ path[-1].unsqueeze(-1)).squeeze(-1) - moment
        path.append(path[-1] - rate.unsqueeze(-1) * gradient)
    return torch.stack(path)


def _eigenvalue_range(a: Float[Tensor, "*batch d d"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The smallest and the largest eigenvalue of matrices that must be symmetric positive definite."""
    _check_finite(a)
    gap = (a - a.mT).abs().amax((-2, -1))
    slack = max(ASYMMETRY, ULPS * torch.finfo(a.dtype).eps)
    if bool((gap > slack * a.abs().amax((-2, -1))).any()):
        raise InputError(f"a differs from its transpose by {float(gap.max()):.3g}; allowed: symmetric matrices")
    values = cast(Tensor, torch.linalg.eigvalsh(a))
    low, high = values[..., 0], values[..., -1]
    if bool((low <= torch.finfo(a.dtype).eps * a.shape[-1] * high.abs()).any()):
        raise InputError(
            f"a has the eigenvalue {float(low.min()):.3g}; allowed: positive definite matrices (a singular one has no "
            "inverse)"
        )
    return low, high


def _check_finite(a: Tensor) -> None:
    if not bool(a.isfinite().all()):
        raise InputError("a has entries that are not finite; allowed: finite numbers")


def _count(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}; allowed: {least} or more")


def _between_0_and_1(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value}; allowed: between 0 and 1, both excluded")
