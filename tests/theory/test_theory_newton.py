import math

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import (
    descent_weights_path,
    inverse_path,
    inverse_rate,
    inverse_start,
    inverse_step,
    inverse_steps,
    inverse_steps_paper,
    newton_weights_path,
    normal_equations,
    spd_start_scale,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conditioned(kappa, count=5, dim=6, symmetric=False):
    left, right = (torch.linalg.qr(normal(count, dim, dim, seed=s)).Q for s in (1, 2))
    values = torch.logspace(0, -math.log10(kappa), dim, dtype=torch.float64)
    return left * values @ (left if symmetric else right).mT


def residual(a, x):
    return torch.linalg.matrix_norm(torch.eye(a.shape[-1], dtype=a.dtype) - a @ x, 2)


def test_a_step_squares_the_residual_of_any_matrix():
    a, x = normal(4, 5, 5), normal(4, 5, 5, seed=1)
    eye = torch.eye(5, dtype=torch.float64)
    after = eye - a @ inverse_step(a, x)
    torch.testing.assert_close(after, (eye - a @ x) @ (eye - a @ x))


@pytest.mark.parametrize("kappa", [1.5, 10.0, 300.0])
@pytest.mark.parametrize(("kind", "start"), [("best", "general"), ("spd", "spd")])
def test_the_residual_is_rho_to_the_power_of_two_to_the_t(kappa, kind, start):
    a = conditioned(kappa, symmetric=kind == "spd")
    steps = inverse_steps(kappa, 1e-4, start)
    path = inverse_path(a, inverse_start(a, kind), steps)
    for t, x in enumerate(path):
        expected = torch.full((5,), inverse_rate(kappa, start) ** 2**t, dtype=torch.float64)
        torch.testing.assert_close(residual(a, x), expected, rtol=1e-6, atol=1e-12)
    assert bool((residual(a, path[-1]) <= 1e-4 * (1 + 1e-9)).all())
    assert steps == 0 or bool((residual(a, path[-2]) > 1e-4).all()), "one step fewer would have been enough"


def test_iteration_converges_to_the_inverse_from_every_start():
    a = conditioned(20.0)
    for start in (inverse_start(a), inverse_start(a, "frobenius"), inverse_start(a, alpha=0.5)):
        torch.testing.assert_close(inverse_path(a, start, 30)[-1], torch.linalg.inv(a), rtol=1e-9, atol=1e-9)


def test_the_papers_form_is_the_exact_count_up_to_a_constant():
    gaps = [inverse_steps_paper(k, e) - inverse_steps(k, e) for k in (10, 1e3, 1e6) for e in (1e-2, 1e-8)]
    # 2 / kappa^2 is the rate's expansion, whose 2 is the one step that the paper's form is above; rounding up hides it.
    assert min(gaps) > -0.01 and max(gaps) < 1.01


def test_no_step_is_needed_where_the_start_is_good_enough():
    assert inverse_steps(1.0, 0.5) == 0
    assert inverse_steps(1.1, 0.5) == 0


def test_both_paths_to_the_regression_weights_end_at_least_squares():
    x, y = normal(3, 12, 4), normal(3, 12, seed=1)
    hessian, moment = normal_equations(x, y, ridge=0.5)
    exact = torch.linalg.solve(x.mT @ x + 0.5 * torch.eye(4), x.mT @ y[..., None])[..., 0]
    for start in ("general", "spd"):
        torch.testing.assert_close(newton_weights_path(hessian, moment, 20, start)[-1], exact)
    torch.testing.assert_close(descent_weights_path(hessian, moment, 2000)[-1], exact)


def test_newton_from_a_multiple_of_the_identity_is_two_to_the_t_gradient_steps():
    x, y = normal(3, 12, 4), normal(3, 12, seed=1)
    hessian, moment = normal_equations(x, y)
    newton, descent = newton_weights_path(hessian, moment, 4, "spd"), descent_weights_path(hessian, moment, 16)
    for t in range(5):
        torch.testing.assert_close(newton[t], descent[2**t], rtol=1e-9, atol=1e-12)


def test_a_given_rate_is_the_gradient_step_of_autograd():
    x, y = normal(2, 8, 3), normal(2, 8, seed=1)
    rate = torch.tensor([0.01, 0.02], dtype=torch.float64)
    w = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss = ((x @ w[..., None])[..., 0] - y).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(
        descent_weights_path(*normal_equations(x, y), 1, rate)[1], (w - rate[:, None] * gradient).detach()
    )


def test_symmetry_is_asked_for_up_to_the_rounding_of_the_type():
    a = torch.eye(2) + torch.tensor([[0.0, 3e-7], [0.0, 0.0]])
    torch.testing.assert_close(inverse_start(a, "spd"), torch.eye(2), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="differs from its transpose"):
        inverse_start(a.double(), "spd")


SINGULAR = torch.ones(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: inverse_start(SINGULAR), r"a is singular.*allowed: invertible"),
        (lambda: inverse_start(SINGULAR, alpha=0.1), r"a is singular"),
        (lambda: inverse_start(torch.eye(2).double(), alpha=2.0), r"alpha is 2.0; allowed: between 0 and .* = 2"),
        (lambda: inverse_start(torch.eye(2).double(), alpha=0.0), r"alpha is 0.0"),
        (lambda: inverse_start(torch.eye(2).double(), "worst"), r"kind is 'worst'; allowed: best, frobenius, spd"),
        (lambda: inverse_start(torch.eye(2).double(), "spd", alpha=0.1), r"alpha is 0.1 with kind 'spd'"),
        (lambda: inverse_start(torch.full((2, 2), torch.nan), "spd"), r"a has entries that are not finite"),
        (lambda: inverse_start(torch.full((2, 2), torch.nan)), r"a has entries that are not finite"),
        (lambda: inverse_start(normal(2, 2), "spd"), r"differs from its transpose.*symmetric"),
        (lambda: inverse_start(-torch.eye(2).double(), "spd"), r"has the eigenvalue -1.*positive definite"),
        (lambda: inverse_path(SINGULAR, SINGULAR, -1), r"steps is -1; allowed: 0 or more"),
        (lambda: inverse_rate(0.5), r"kappa is 0.5; allowed: a finite number of 1 or more"),
        (lambda: inverse_steps(10.0, 1.0), r"eps is 1.0; allowed: between 0 and 1"),
        (lambda: inverse_steps_paper(10.0, 0.0), r"eps is 0.0"),
        (lambda: spd_start_scale(torch.zeros(1), torch.ones(1)), r"low is 0.*allowed: 0 < low <= high.*singular"),
        (lambda: normal_equations(normal(3, 2), normal(2)), r"y has shape \(2,\); allowed: \(3,\)"),
        (lambda: normal_equations(normal(3, 2), normal(3), -1.0), r"ridge is -1.0; allowed: 0 or more"),
        (lambda: newton_weights_path(SINGULAR, normal(2), 1), r"positive definite"),
        (lambda: descent_weights_path(SINGULAR, normal(2), 1), r"positive definite"),
        (lambda: descent_weights_path(SINGULAR, normal(2), -1), r"steps is -1"),
    ],
)
def test_wrong_input_is_named(call, match):
    with pytest.raises(InputError, match=match):
        call()
