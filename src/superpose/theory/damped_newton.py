"""Damped Newton's method for regularised logistic regression, exactly, and with an inverse found by iteration.

The loss of weights w on rows ``b_i = y_i a_i`` (labels -1 or 1, ``||a_i|| <= 1``) is

    f(w) = (1/n) sum_i log(1 + exp(-w.b_i)) + (mu/2) ||w||^2.

It is self-concordant, ``|f'''| <= 2 M f''^(3/2)`` with ``M = 1 / (2 sqrt(mu))``, so the step ``H^{-1} g / (1 + M lam)``
with the decrement ``lam = sqrt(g^T H^{-1} g)`` always lowers it. Nothing here converges by luck: every bound is checked
by the tests on random problems.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional as F

from superpose.errors import InputError

# Rounding may push a row that was scaled to norm 1 above it.
NORM_SLACK = 1e-9
# The optimum is where the decrement cannot be told from rounding any more.
OPTIMUM_STEPS = 1000


def logistic_rows(
    a: Float[Tensor, "*batch points dim"], y: Float[Tensor, "*labels"]
) -> Float[Tensor, "*batch points dim"]:
    """Return the rows ``b_i = y_i a_i`` that the loss depends on, checked.

    Raises:
        InputError: labels other than -1 and 1, a row longer than 1, no row, or shapes that do not fit.
    """
    if a.shape[:-1] != y.shape or a.shape[-2] < 1:
        raise InputError(f"y has shape {tuple(y.shape)}; allowed: {tuple(a.shape[:-1])}, one label per row, n >= 1")
    if not bool(((y == 1) | (y == -1)).all()):
        found = sorted(set(y.flatten().tolist()))[:4]
        raise InputError(f"y holds {found}; allowed: -1 and 1 (labels 0 and 1 become 2 * y - 1)")
    longest = float(torch.linalg.vector_norm(a, dim=-1).max())
    if not longest <= 1 + NORM_SLACK:
        raise InputError(f"a has a row of norm {longest:.6g}; allowed: at most 1 (divide a by its largest row norm)")
    return y.unsqueeze(-1) * a


def logistic_loss(
    b: Float[Tensor, "*batch points dim"], w: Float[Tensor, "*batch dim"], mu: float
) -> Float[Tensor, "*batch"]:
    """Return f(w).

    Args:
        b: rows ``y_i a_i``, as of `logistic_rows`.
        w: weights.
        mu: penalty, above 0.

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    return F.softplus(-_margins(b, w)).mean(-1) + mu / 2 * w.square().sum(-1)


def logistic_derivatives(
    b: Float[Tensor, "*batch points dim"], w: Float[Tensor, "*batch dim"], mu: float
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim dim"]]:
    """Return the gradient and the Hessian of f at w, whose eigenvalues lie in [mu, mu + 1/4].

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    p = torch.sigmoid(-_margins(b, w))
    gradient = -(p.unsqueeze(-1) * b).mean(-2) + mu * w
    weighted = (p * (1 - p)).unsqueeze(-1) * b
    hessian = weighted.mT @ b / b.shape[-2] + mu * torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    return gradient, hessian


def newton_damping(decrement: Float[Tensor, "*batch"], mu: float) -> Float[Tensor, "*batch"]:
    """Return the step length ``2 sqrt(mu) / (2 sqrt(mu) + lam)``, in (0, 1].

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    return 2 * math.sqrt(mu) / (2 * math.sqrt(mu) + decrement)


def damped_newton_path(
    b: Float[Tensor, "*batch points dim"],
    mu: float,
    steps: int,
    inverse_steps: int | None = None,
    damped: bool = True,
) -> tuple[Float[Tensor, "iterate *batch dim"], Float[Tensor, " step *batch"]]:
    """Run damped Newton from zero weights.

    Args:
        b: rows ``y_i a_i``, as of `logistic_rows`.
        mu: penalty, above 0.
        steps: steps, 0 or more.
        inverse_steps: find each inverse Hessian by that many steps of Newton's iteration from
            ``2 / (2 mu + 1/4) I``, as the constructed transformer does; default: solve exactly.
        damped: shorten steps as self-concordance asks (default). Full steps are faster near the optimum, and nothing
            guarantees that they converge.

    Returns:
        The weights after 0, ..., ``steps`` steps, and the decrement before each step.

    Raises:
        InputError: ``mu`` not above 0, or negative counts.
    """
    check_mu(mu)
    for name, value in (("steps", steps), ("inverse_steps", inverse_steps or 0)):
        if value < 0:
            raise InputError(f"{name} is {value}; allowed: 0 or more")
    w = b.new_zeros(*b.shape[:-2], b.shape[-1])
    path, decrements = [w], []
    for _ in range(steps):
        g, h = logistic_derivatives(b, w, mu)
        if inverse_steps is None:
            direction = torch.linalg.solve(h, g.unsqueeze(-1)).squeeze(-1)
        else:
            x = hessian_start(mu) * torch.eye(b.shape[-1], dtype=b.dtype, device=b.device).expand_as(h)
            for _ in range(inverse_steps):
                x = 2 * x - x @ h @ x
            direction = (x @ g.unsqueeze(-1)).squeeze(-1)
        # With too few inverse steps X need not be positive; the network clamps below 0 as well.
        lam = (g * direction).sum(-1).clamp_min(0).sqrt()
        w = w - (newton_damping(lam, mu).unsqueeze(-1) * direction if damped else direction)
        path.append(w)
        decrements.append(lam)
    empty = b.new_zeros(0, *b.shape[:-2])
    return torch.stack(path), torch.stack(decrements) if decrements else empty


def logistic_descent_path(
    b: Float[Tensor, "*batch points dim"], mu: float, steps: int, rate: float | None = None
) -> Float[Tensor, "iterate *batch dim"]:
    """Run gradient descent on f from zero weights; return the weights after 0, ..., ``steps`` steps.

    Args:
        b: rows ``y_i a_i``.
        mu: penalty, above 0.
        steps: steps, 0 or more.
        rate: step size; default ``2 / (2 mu + lambda_max(B^T B) / 4n)`` of each problem, best in the worst case.

    Raises:
        InputError: ``mu`` not above 0, or negative ``steps``.
    """
    check_mu(mu)
    if steps < 0:
        raise InputError(f"steps is {steps}; allowed: 0 or more")
    curvature = torch.linalg.matrix_norm(b, 2).square() / (4 * b.shape[-2])
    eta = 2 / (2 * mu + curvature) if rate is None else torch.full_like(curvature, rate)
    path = [b.new_zeros(*b.shape[:-2], b.shape[-1])]
    for _ in range(steps):
        w = path[-1]
        p = torch.sigmoid(-_margins(b, w))
        path.append(w - eta.unsqueeze(-1) * (mu * w - (p.unsqueeze(-1) * b).mean(-2)))
    return torch.stack(path)


def logistic_optimum(b: Float[Tensor, "*batch points dim"], mu: float) -> Float[Tensor, "*batch dim"]:
    """Return the minimiser of f, by damped Newton until the step vanishes in rounding.

    Raises:
        InputError: ``mu`` is not above 0.
        ArithmeticError: 1000 steps were not enough.
    """
    check_mu(mu)
    w = b.new_zeros(*b.shape[:-2], b.shape[-1])
    tiny = 4 * torch.finfo(b.dtype).eps
    for _ in range(OPTIMUM_STEPS):
        g, h = logistic_derivatives(b, w, mu)
        direction = torch.linalg.solve(h, g.unsqueeze(-1)).squeeze(-1)
        lam = (g * direction).sum(-1).clamp_min(0).sqrt()
        w = w - newton_damping(lam, mu).unsqueeze(-1) * direction
        if bool((direction.abs().amax(-1) <= tiny * (1 + w.abs().amax(-1)) / mu).all()):
            return w
    raise ArithmeticError(f"damped Newton with mu = {mu} did not settle in {OPTIMUM_STEPS} steps")


def damped_decrease(decrement: Float[Tensor, "*batch"], mu: float) -> Float[Tensor, "*batch"]:
    """Return what one damped step lowers f by at least: ``4 mu (t - ln(1 + t))`` with ``t = lam / (2 sqrt(mu))``.

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    t = decrement / (2 * math.sqrt(mu))
    return 4 * mu * (t - torch.log1p(t))


def largest_decrement(mu: float) -> float:
    """Return a bound on every decrement that damped Newton meets from zero weights.

    f starts at ln 2 and never falls below 0, so no step can promise (by `damped_decrease`) more than ln 2.

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    promised = math.log(2) / (4 * mu)
    # t - ln(1 + t) >= t / 2 - 1, so the root lies below 2 * promised + 2.
    t = cast(float, brentq(lambda t: t - math.log1p(t) - promised, 0.0, 2 * promised + 4))
    return 2 * math.sqrt(mu) * t


def largest_margin(mu: float) -> float:
    """Return ``sqrt(2 ln 2 / mu)``, above every margin on the way: f(w) <= f(0) bounds ``||w||``, and ``||b_i|| <= 1``.

    Raises:
        InputError: ``mu`` is not above 0.
    """
    check_mu(mu)
    return math.sqrt(2 * math.log(2) / mu)


def hessian_start(mu: float) -> float:
    """Return the best alpha for ``X_0 = alpha I`` knowing only that the Hessian's eigenvalues lie in [mu, mu + 1/4]."""
    check_mu(mu)
    return 2 / (2 * mu + 0.25)


def hessian_condition(mu: float) -> float:
    """Return ``(mu + 1/4) / mu``, the largest condition number that the Hessian can have."""
    check_mu(mu)
    return (mu + 0.25) / mu


def check_mu(mu: float) -> None:
    """Refuse a penalty that is not above 0.

    Raises:
        InputError: ``mu`` is not above 0.
    """
    if not 0 < mu < math.inf:
        raise InputError(f"mu is {mu}; allowed: above 0")


def _margins(b: Float[Tensor, "*batch points dim"], w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch points"]:
    return (b @ w.unsqueeze(-1)).squeeze(-1)
