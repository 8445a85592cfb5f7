"""Exact risks of retrieved, aligned and drifting prompts: limits, special cases, and the approximation's error."""

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import (
    aligned_approximation,
    aligned_optimum,
    aligned_signal,
    drift_optimum,
    effective_sample_size,
    kappa,
    layer_features,
    pgd_optimum,
    rag_approximation,
    rag_optimum,
)
from superpose.theory.linear_designs import conditional_mean

EYE = torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize("optimum", [rag_optimum, aligned_optimum])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_alpha_zero_is_the_iid_design(optimum, noise):
    wanted, found = pgd_optimum(9, EYE, EYE, noise), optimum(6, 9, 0.0, noise)
    assert float(found.risk) == pytest.approx(float(wanted.risk), rel=1e-12)
    torch.testing.assert_close(found.scale * EYE, wanted.preconditioner)


def test_copies_of_the_query_are_one_example_that_knows_the_answer():
    # With alpha = 1 the prediction is c n |x|^2 <x, beta>: a scalar regression with moments of |x|^2.
    d, n = 5, 7
    m = [d, d * (d + 2), d * (d + 2) * (d + 4)]
    assert float(rag_optimum(d, n, 1.0).risk) == pytest.approx(d - m[1] ** 2 / m[2])
    assert float(rag_optimum(d, n, 1.0).scale) == pytest.approx(m[1] / m[2] / n)


def test_the_scalar_case_of_alignment_by_quadrature():
    # In one dimension everything is a polynomial in Gaussians: 40-point Gauss-Hermite quadrature is exact.
    import numpy as np

    alpha, noise, n = 0.4, 0.5, 3
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    gain = 1 / np.sqrt(alpha**2 + 1)
    cross = square = label = 0.0
    for beta, share in zip(nodes, weights, strict=True):
        x = alpha * beta + nodes
        moments = {k: float(weights @ x**k) for k in (2, 4)}
        # u = sum x_i (gain x_i beta + noise): first and second moments over independent examples.
        first = n * gain * beta * moments[2]
        second = (
            n * (gain**2 * beta**2 * moments[4] + noise**2 * moments[2]) + n * (n - 1) * (gain * beta * moments[2]) ** 2
        )
        cross += share * gain * beta * moments[2] * first
        square += share * moments[2] * second
        label += share * (gain**2 * beta**2 * moments[2] + noise**2)
    found = aligned_optimum(1, n, alpha, noise)
    assert float(found.risk) == pytest.approx(label - cross**2 / square)
    assert float(found.scale) == pytest.approx(cross / square)
    assert float(aligned_signal(1, alpha)) + noise**2 == pytest.approx(label)


@pytest.mark.parametrize(
    ("optimum", "approximation", "power"),
    [(rag_optimum, rag_approximation, 1), (aligned_optimum, aligned_approximation, 2)],
)
def test_approximations_become_exact_like_one_over_dim(optimum, approximation, power):
    dims = torch.tensor([80, 320, 1280])
    alpha = dims.double().rsqrt()
    gaps = (approximation(dims, 2 * dims, alpha, 0.4).risk / optimum(dims, 2 * dims, alpha, 0.4).risk - 1).abs()
    assert ((gaps[:-1] / gaps[1:] > 3.5) & (gaps[:-1] / gaps[1:] < 4.5)).all()
    signal = None if power == 1 else aligned_signal(1280, alpha[-1])
    worth = effective_sample_size(optimum(1280, 2560, alpha[-1], 0.4).risk, 1280, 0.4, signal) / 2560
    assert float(worth) == pytest.approx(float(kappa(1280, alpha[-1])) ** power, rel=0.02)


def test_sweeps_broadcast():
    alpha = torch.linspace(0, 1, 5)
    found = rag_optimum(20, torch.tensor([[10], [40]]), alpha, 0.3)
    assert found.risk.shape == (2, 5)
    assert float(found.risk[1, 2]) == pytest.approx(float(rag_optimum(20, 40, 0.5, 0.3).risk))
    assert (found.risk.diff(dim=1) < 0).all() and (found.risk[0] > found.risk[1])[:4].all()


def test_a_task_that_does_not_drift_is_the_iid_design():
    found = drift_optimum(torch.ones(10, 10), 6, 0.7)
    wanted = pgd_optimum(9, EYE, EYE, 0.7)
    torch.testing.assert_close(found.weights, wanted.preconditioner[0, 0].expand(9))
    assert float(found.risk) == pytest.approx(float(wanted.risk)) == pytest.approx(float(found.uniform_risk))


def test_a_task_that_is_forgotten_at_once_leaves_nothing_to_predict():
    found = drift_optimum(torch.eye(6), 4, 0.5)
    assert not found.weights.any() and not found.scale.any()
    assert float(found.risk) == pytest.approx(4.25)


def test_noisy_examples_count_less_and_weighting_helps():
    noise = torch.tensor([2.0, 0.1, 2.0, 0.1, 0.0])
    found = drift_optimum(torch.ones(5, 5), 3, noise)
    assert found.weights[1] > found.weights[0] == pytest.approx(found.weights[2])
    assert found.risk < found.uniform_risk
    # An example without a task and without noise is all zeros: it gets no weight.
    empty = torch.ones(3, 3)
    empty[0] = empty[:, 0] = 0
    assert drift_optimum(empty, 3).weights[0] == 0


def test_conditional_mean_is_the_regression_of_a_singular_gaussian():
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 4, 2, generator=g, dtype=torch.float64)
    latent = torch.randn(2, 2, generator=g, dtype=torch.float64)
    query = torch.randn(2, 2, generator=g, dtype=torch.float64)
    y = torch.einsum("bij,bj->bi", factor, latent)
    cross = torch.einsum("bij,bj->bi", factor, query)
    torch.testing.assert_close(conditional_mean(factor @ factor.mT, cross, y), (query * latent).sum(-1))


def test_features_hold_the_gradient_step_within_attention_within_h3():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 3, 2, generator=g, dtype=torch.float64), torch.randn(400, 3, generator=g).double()
    query = torch.randn(400, 2, generator=g, dtype=torch.float64)
    step, attention, h3 = (layer_features(kind, x, y, query) for kind in ("gradient-step", "attention", "h3"))
    assert step.shape[1] == 4 and attention.shape[1] == 12 and h3.shape[1] == 36
    for inner, outer in ((step, attention), (attention, h3)):
        left = inner - outer @ torch.linalg.lstsq(outer, inner).solution
        assert float(left.abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rag_optimum(5, 10, 1.2), r"alpha is 1.2; allowed: 0 to 1"),
        (lambda: rag_approximation(5, 10, -0.1), r"alpha is -0.1; allowed: 0 to 1"),
        (lambda: rag_optimum(5, 0, 0.2), r"n is 0"),
        (lambda: rag_optimum(0, 5, 0.2), r"dim is 0"),
        (lambda: aligned_optimum(5, 10, -0.3), r"alpha is -0.3"),
        (lambda: aligned_optimum(5, 10, 0.3, -1), r"noise is -1"),
        (lambda: drift_optimum(torch.ones(1, 1), 5), r"correlation has 1 place; allowed: 2 or more"),
        (lambda: drift_optimum(-torch.eye(3), 5), r"correlation has the eigenvalue -1"),
        (lambda: drift_optimum(torch.eye(3), 5, torch.ones(2)), r"noise has 2 entries; allowed: one, or 3"),
        (lambda: layer_features("mamba", torch.ones(1, 2, 3), torch.ones(1, 2), torch.ones(1, 3)), r"layer is 'mamba'"),
        (
            lambda: layer_features("h3", torch.ones(1, 2, 3), torch.ones(1, 3), torch.ones(1, 3)),
            r"y has shape \[1, 3\]",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
