import math
from itertools import pairwise

import pytest
import torch
from scipy.optimize import minimize

from superpose.errors import InputError
from superpose.theory import (
    damped_decrease,
    damped_newton_path,
    hessian_condition,
    hessian_start,
    largest_decrement,
    largest_margin,
    logistic_derivatives,
    logistic_descent_path,
    logistic_loss,
    logistic_optimum,
    logistic_rows,
    newton_damping,
)

MUS = (1.0, 0.1, 0.01, 1e-3, 1e-4)


def rows(count=6, points=30, dim=4, seed=0, noisy=True):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, points, dim, generator=generator, dtype=torch.float64)
    a = a / torch.linalg.vector_norm(a, dim=-1, keepdim=True)  # the longest rows that are allowed
    y = torch.randn(count, points, generator=generator).sign().double() if noisy else a[..., 0].sign()
    return logistic_rows(a, y)


def test_loss_and_derivatives_agree_with_autograd():
    b, mu = rows(count=1)[0], 0.3
    w = torch.randn(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient, hessian = logistic_derivatives(b, w, mu)
    torch.testing.assert_close(gradient, torch.func.grad(lambda v: logistic_loss(b, v, mu))(w))
    torch.testing.assert_close(hessian, torch.func.hessian(lambda v: logistic_loss(b, v, mu))(w))
    by_hand = sum(math.log1p(math.exp(-float(row @ w))) for row in b) / len(b) + 0.15 * float(w @ w)
    assert float(logistic_loss(b, w, mu)) == pytest.approx(by_hand)


@pytest.mark.parametrize("mu", MUS)
def test_the_third_derivative_obeys_self_concordance(mu):
    b = rows(count=1)[0]
    generator = torch.Generator().manual_seed(2)
    for scale in (0.1, 3.0, 30.0):
        w, h = (scale * torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(2))
        h = h / h.norm()

        def along(t, w=w, h=h):
            return logistic_loss(b, w + t * h, mu)

        zero = torch.zeros((), dtype=torch.float64)
        second = torch.func.grad(torch.func.grad(along))
        bound = 2 * float(second(zero)) ** 1.5 / (2 * math.sqrt(mu))
        assert abs(float(torch.func.grad(second)(zero))) <= bound


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("mu", MUS)
def test_every_damped_step_lowers_the_loss_by_what_is_promised(mu, noisy):
    b = rows(noisy=noisy)
    path, decrements = damped_newton_path(b, mu, 15)
    losses = torch.stack([logistic_loss(b, w, mu) for w in path])
    fall = losses[:-1] - losses[1:]
    assert bool((fall >= damped_decrease(decrements, mu) - 1e-14).all())
    assert bool((decrements <= largest_decrement(mu)).all())
    assert bool((path.norm(dim=-1) <= largest_margin(mu)).all())


@pytest.mark.parametrize("mu", MUS)
def test_the_optimum_is_that_of_an_independent_solver(mu):
    b = rows(count=2)
    found = logistic_optimum(b, mu)
    for one, w in zip(b, found, strict=True):

        def f(v, one=one):
            return float(logistic_loss(one, torch.from_numpy(v), mu))

        def g(v, one=one):
            return logistic_derivatives(one, torch.from_numpy(v), mu)[0].numpy()

        other = minimize(f, w.numpy() * 0, jac=g, method="BFGS", options={"gtol": 1e-9})
        assert f(w.numpy()) <= other.fun + 1e-12
        torch.testing.assert_close(w, torch.from_numpy(other.x), rtol=1e-3, atol=1e-4)
        assert float(logistic_derivatives(one, w, mu)[0].norm()) < 1e-14


def test_newton_and_descent_reach_the_optimum_and_newton_does_so_quadratically():
    b, mu = rows(), 0.1
    optimum = logistic_optimum(b, mu)
    newton = (damped_newton_path(b, mu, 8)[0] - optimum).norm(dim=-1).amax(1)
    assert newton[-1] < 1e-14
    small = [float(e) for e in newton if 1e-7 < e < 1e-1]
    assert all(after < 10 * before**2 for before, after in pairwise(small))
    assert (logistic_descent_path(b, mu, 100)[-1] - optimum).norm(dim=-1).max() < 1e-12


def test_enough_inverse_steps_are_exact_newton_and_too_few_are_not():
    b, mu = rows(), 0.01
    exact, decrements = damped_newton_path(b, mu, 12)
    inner = math.ceil(math.log2(hessian_condition(mu))) + 5
    close, others = damped_newton_path(b, mu, 12, inner)
    torch.testing.assert_close(close, exact, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(others[:6], decrements[:6], rtol=1e-4, atol=1e-8)
    assert (damped_newton_path(b, mu, 12, 1)[0] - exact).norm(dim=-1).max() > 0.1
    assert damped_newton_path(b, mu, 0)[1].shape == (0, 6)


def test_full_steps_solve_the_normal_equations_of_the_moment():
    b = rows(count=2)
    path, _ = damped_newton_path(b, 0.1, 6, damped=False)
    eye = torch.eye(4, dtype=torch.float64)
    first = torch.linalg.solve(b.mT @ b / (4 * 30) + 0.1 * eye, b.mean(1, keepdim=True).mT / 2)[..., 0]
    torch.testing.assert_close(path[1], first)
    torch.testing.assert_close(path[-1], logistic_optimum(b, 0.1))


def test_bounds_are_their_definitions():
    for mu in MUS:
        lam = torch.tensor(largest_decrement(mu), dtype=torch.float64)
        assert float(damped_decrease(lam, mu)) == pytest.approx(math.log(2))
        assert mu / 2 * largest_margin(mu) ** 2 == pytest.approx(math.log(2))
        start = hessian_start(mu)
        assert 1 - start * mu == pytest.approx(start * (mu + 0.25) - 1)
        assert float(newton_damping(torch.zeros(()), mu)) == 1
    assert hessian_condition(0.25) == 2


A = torch.eye(2, dtype=torch.float64)
Y = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: logistic_rows(A, 0 * Y), r"y holds \[0.0\]; allowed: -1 and 1 \(labels 0 and 1 become 2 \* y - 1\)"),
        (lambda: logistic_rows(2 * A, Y), r"a has a row of norm 2; allowed: at most 1 \(divide"),
        (lambda: logistic_rows(A, Y[:1]), r"y has shape \(1,\); allowed: \(2,\)"),
        (lambda: logistic_rows(A[:0], Y[:0]), r"n >= 1"),
        (lambda: logistic_rows(A * torch.nan, Y), r"norm nan"),
        (lambda: logistic_loss(A, Y, 0.0), r"mu is 0.0; allowed: above 0"),
        (lambda: logistic_derivatives(A, Y, -1.0), r"mu is -1.0"),
        (lambda: newton_damping(Y, math.nan), r"mu is nan"),
        (lambda: damped_newton_path(A, -1.0, 0), r"mu is -1.0"),
        (lambda: damped_newton_path(A, 0.1, -1), r"steps is -1; allowed: 0 or more"),
        (lambda: damped_newton_path(A, 0.1, 1, -2), r"inverse_steps is -2"),
        (lambda: logistic_descent_path(A, 0.1, -1), r"steps is -1"),
        (lambda: logistic_optimum(A, 0.0), r"mu is 0.0"),
        (lambda: damped_decrease(Y, 0.0), r"mu is 0.0"),
        (lambda: largest_decrement(0.0), r"mu is 0.0"),
        (lambda: largest_margin(math.inf), r"mu is inf"),
        (lambda: hessian_start(0.0), r"mu is 0.0"),
    ],
)
def test_wrong_input_is_named(call, match):
    with pytest.raises(InputError, match=match):
        call()
