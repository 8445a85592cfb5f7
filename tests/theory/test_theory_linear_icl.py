"""Closed forms of one gradient step against brute-force moments, an optimiser, and each other."""

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import effective_sample_size, lora_optimum, pgd_optimum, pgd_risk, sample_weights
from superpose.theory.covariances import covariance, roots

IDENTITY = torch.eye(4, dtype=torch.float64)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def spd(dim, generator):
    factor = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return factor @ factor.T / dim + 0.1 * torch.eye(dim, dtype=torch.float64)


def sampled_risk(preconditioner, n, inputs, tasks, noise, generator, prompts=30_000):
    """Mean squared error over prompts written out, and its standard error."""
    dim = len(inputs)
    x = torch.randn(prompts, n + 1, dim, generator=generator, dtype=torch.float64)
    x = x @ torch.linalg.cholesky(inputs).T
    beta = torch.randn(prompts, dim, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(tasks).T
    y = torch.einsum("bpd,bd->bp", x, beta)
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    moment = torch.einsum("bpd,bp->bd", x[:, :-1], y[:, :-1])
    errors = (y[:, -1] - torch.einsum("bd,de,be->b", x[:, -1], preconditioner, moment)).square()
    return float(errors.mean()), float(errors.std()) / prompts**0.5


def test_isotropic_optimum_is_the_formula_everybody_knows():
    n, d, noise = 12, 4, 0.5
    found = pgd_optimum(n, IDENTITY, IDENTITY, noise)
    torch.testing.assert_close(found.preconditioner, IDENTITY / (n + d + 1 + noise**2))
    assert float(found.risk) == pytest.approx(d + noise**2 - n * d / (n + d + 1 + noise**2), abs=1e-12)


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_risks_are_those_of_sampled_prompts(rank, generator):
    inputs, tasks, n, noise = spd(4, generator), spd(4, generator), 9, 0.6
    found = pgd_optimum(n, inputs, tasks, noise, rank)
    mean, error = sampled_risk(found.preconditioner, n, inputs, tasks, noise, generator)
    assert abs(mean - float(found.risk)) < 4 * error
    assert float(pgd_risk(found.preconditioner, n, inputs, tasks, noise)) == pytest.approx(float(found.risk), rel=1e-12)
    other = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 20
    mean, error = sampled_risk(other, n, inputs, tasks, noise, generator)
    assert abs(mean - float(pgd_risk(other, n, inputs, tasks, noise))) < 4 * error


def test_no_matrix_near_the_optimum_is_better_and_its_gradient_is_zero(generator):
    inputs, tasks, n = spd(4, generator), spd(4, generator), 6
    found = pgd_optimum(n, inputs, tasks, 0.3)
    weight = found.preconditioner.clone().requires_grad_()
    pgd_risk(weight, n, inputs, tasks, 0.3).backward()
    assert weight.grad is not None and float(weight.grad.abs().max()) < 1e-10
    for _ in range(20):
        step = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 100
        assert pgd_risk(found.preconditioner + step, n, inputs, tasks, 0.3) > found.risk


def best_of_rank(risk_of, left, right, steps=25):
    """Reference for low ranks: minimise over factors with L-BFGS."""
    left, right = left.clone().requires_grad_(), right.clone().requires_grad_()
    solver = torch.optim.LBFGS([left, right], max_iter=20, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        solver.zero_grad()
        risk = risk_of(left @ right.T)
        risk.backward()
        return risk

    for _ in range(steps):
        solver.step(closure)
    return float(closure().detach())


@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank_optimum_is_what_optimising_factors_finds(rank, generator):
    inputs, tasks, n = spd(4, generator), spd(4, generator), 10
    found = pgd_optimum(n, inputs, tasks, 0.2, rank)
    assert int(torch.linalg.matrix_rank(found.preconditioner)) == rank
    starts = [torch.randn(2, 4, rank, generator=generator, dtype=torch.float64) / 3 for _ in range(4)]
    reached = min(best_of_rank(lambda w: pgd_risk(w, n, inputs, tasks, 0.2), *start) for start in starts)
    assert float(found.risk) == pytest.approx(reached, rel=1e-6)


def test_a_full_rank_is_no_restriction_and_rank_zero_predicts_nothing(generator):
    inputs, tasks = spd(4, generator), spd(4, generator)
    free, full = pgd_optimum(7, inputs, tasks), pgd_optimum(7, inputs, tasks, rank=4)
    torch.testing.assert_close(free.preconditioner, full.preconditioner)
    nothing = pgd_optimum(7, inputs, tasks, 0.5, rank=0)
    assert float(nothing.risk) == pytest.approx(float((inputs * tasks).sum()) + 0.25)
    assert not nothing.preconditioner.any()


def test_directions_without_variance_are_the_limit_of_little_variance():
    for zero in ("inputs", "tasks"):

        def at(small, zero=zero):
            thin = torch.diag(torch.tensor([1.0, 2.0, small], dtype=torch.float64))
            wide = torch.eye(3, dtype=torch.float64)
            return pgd_optimum(5, *((thin, wide) if zero == "inputs" else (wide, thin)), 0.1)

        assert float(at(0.0).risk) == pytest.approx(float(at(1e-9).risk), abs=1e-6)
        assert torch.isfinite(at(0.0).preconditioner).all()
    none = pgd_optimum(5, torch.eye(3), torch.zeros(3, 3))
    assert float(none.risk) == 0 and not none.preconditioner.any()


def test_sweeps_are_broadcast_and_equal_single_calls(generator):
    tasks = torch.stack([spd(3, generator), spd(3, generator)])
    inputs = torch.eye(3).expand(2, 3, 3)
    found = pgd_optimum(torch.tensor([4, 8]), inputs, tasks, torch.tensor([0.0, 0.5]))
    for i, (n, noise) in enumerate(((4, 0.0), (8, 0.5))):
        one = pgd_optimum(n, inputs[i], tasks[i], noise)
        torch.testing.assert_close(found.preconditioner[i], one.preconditioner)
        assert float(found.risk[i]) == pytest.approx(float(one.risk))


@pytest.mark.parametrize("white", [True, False])
def test_lora_risk_is_that_of_its_update_and_of_optimised_factors(white, generator):
    inputs = IDENTITY if white else spd(4, generator)
    old, new, n = spd(4, generator), spd(4, generator), 8
    pretrained = pgd_optimum(n, inputs, old, 0.1).preconditioner
    risks = []
    for rank in range(5):
        found = lora_optimum(pretrained, n, new, 0.1, rank, inputs)
        assert int(torch.linalg.matrix_rank(found.update, rtol=1e-9)) == rank
        after = pgd_risk(pretrained + found.update, n, inputs, new, 0.1)
        assert float(found.risk) == pytest.approx(float(after), rel=1e-10)
        risks.append(float(found.risk))
    assert risks == sorted(risks, reverse=True)
    assert risks[0] == pytest.approx(float(pgd_risk(pretrained, n, inputs, new, 0.1)))
    assert risks[-1] == pytest.approx(float(pgd_optimum(n, inputs, new, 0.1).risk))
    starts = [torch.randn(2, 4, 1, generator=generator, dtype=torch.float64) / 3 for _ in range(4)]
    reached = min(best_of_rank(lambda w: pgd_risk(pretrained + w, n, inputs, new, 0.1), *s) for s in starts)
    assert risks[1] == pytest.approx(reached, rel=1e-6)


def test_lora_on_common_eigenvectors_is_the_papers_sum():
    n, noise, rank = 12, 0.3, 2
    old = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    new = torch.tensor([0.2, 2.0, 0.5, 1.0], dtype=torch.float64)
    before, after = (v / ((n + 1) * v + v.sum() + noise**2) for v in (old, new))
    cost = (n * (n + 1) * new + n * (new.sum() + noise**2)) * (before - after).square()
    wanted = pgd_optimum(n, IDENTITY, new.diag(), noise).risk + cost.sort(descending=True).values[rank:].sum()
    assert float(lora_optimum(before.diag(), n, new.diag(), noise, rank).risk) == pytest.approx(float(wanted))


def test_effective_sample_size_inverts_the_risk_of_independent_examples():
    n = torch.tensor([1, 7, 300])
    risk = torch.stack([pgd_optimum(int(k), IDENTITY, IDENTITY, 0.7).risk for k in n])
    torch.testing.assert_close(effective_sample_size(risk, 4, 0.7), n.double())
    assert float(effective_sample_size(4.49, 4, 0.7)) == pytest.approx(0, abs=1e-9)
    assert float(effective_sample_size(0.49, 4, 0.7)) > 1e9


def test_sample_weights_take_a_weighted_step_apart(generator):
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.7, 1.1, 2.0], dtype=torch.float64)
    found, shares = sample_weights(weights[:, None, None] * matrix)
    torch.testing.assert_close(shares, weights / weights.mean())
    torch.testing.assert_close(found, matrix * weights.mean())
    with pytest.raises(InputError, match="add up to 0"):
        sample_weights(torch.tensor([1.0, -1.0])[:, None, None] * matrix)


def test_roots_of_a_singular_covariance():
    matrix = torch.tensor([[2.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    root, inverse = roots(matrix)
    torch.testing.assert_close(root @ root, matrix)
    torch.testing.assert_close(inverse @ inverse, torch.linalg.pinv(matrix))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pgd_optimum(0, IDENTITY, IDENTITY), r"n is 0; allowed: whole numbers, 1 or more"),
        (lambda: pgd_optimum(2.5, IDENTITY, IDENTITY), r"n is 2.5"),
        (lambda: pgd_optimum(5, IDENTITY, IDENTITY, -1.0), r"noise is -1.0"),
        (lambda: pgd_optimum(5, IDENTITY, IDENTITY, rank=5), r"rank is 5; allowed: a whole number from 0 to .* 4"),
        (lambda: pgd_optimum(5, IDENTITY, torch.eye(3)), r"tasks has 3 dimensions; allowed: 4"),
        (
            lambda: pgd_optimum(5, -IDENTITY, IDENTITY),
            r"inputs has the eigenvalue -1; allowed: a positive semi-definite",
        ),
        (lambda: pgd_optimum(5, IDENTITY, IDENTITY + torch.eye(4).roll(1, 0)), r"tasks is asymmetric by 1"),
        (lambda: pgd_risk(IDENTITY, 5, IDENTITY * float("nan"), IDENTITY), r"inputs has entries that are not finite"),
        (
            lambda: covariance("inputs", torch.stack([1e9 * IDENTITY, -IDENTITY])),
            r"inputs has the eigenvalue -1; allowed: a positive",
        ),
        (
            lambda: covariance("inputs", torch.stack([1e9 * IDENTITY, IDENTITY + torch.eye(4).roll(1, 0)])),
            r"inputs is asymmetric by 1",
        ),
        (lambda: pgd_risk(torch.eye(3), 5, IDENTITY, IDENTITY), r"preconditioner has shape \[3, 3\]; allowed: .*4, 4"),
        (lambda: pgd_risk(IDENTITY * float("nan"), 5, IDENTITY, IDENTITY), r"preconditioner .*finite"),
        (lambda: covariance("inputs", torch.ones(2, 3)), r"inputs has shape \[2, 3\]; allowed: square"),
        (lambda: lora_optimum(torch.eye(3), 5, IDENTITY), r"pretrained has shape \[3, 3\]; allowed: \[4, 4\]"),
        (lambda: lora_optimum(IDENTITY, 5, IDENTITY, rank=-1), r"rank is -1"),
        (lambda: effective_sample_size(0.1, 4, 0.7), r"risk is 0.1; allowed: from the noise's variance"),
        (lambda: effective_sample_size(9.0, 4), r"risk is"),
        (lambda: effective_sample_size(1.0, 0), r"dim is 0"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
