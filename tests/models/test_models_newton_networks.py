"""The Newton transformers against the algorithms that they are built to run."""

import math
from typing import cast

import pytest
import torch

from superpose.errors import InputError
from superpose.models import (
    BackboneSpec,
    LogisticNewton,
    backbone_spec,
    build_backbone,
    build_inverse_newton,
    build_inverse_step,
    build_logistic_newton,
    build_regression_descent,
    build_regression_newton,
)
from superpose.theory import (
    damped_newton_path,
    descent_weights_path,
    inverse_path,
    inverse_start,
    largest_margin,
    logistic_optimum,
    newton_weights_path,
    normal_equations,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(prompts=3, points=40, dim=4, seed=0):
    a = normal(prompts, points, dim, seed=seed)
    a = a / torch.linalg.vector_norm(a, dim=-1).amax(-1)[:, None, None]
    return a, (a[..., 0] + 0.3 * normal(prompts, points, seed=seed + 1) * a[..., 1]).sign()


@pytest.mark.parametrize("dim", [2, 7, 32])
@pytest.mark.parametrize("symmetric", [False, True])
def test_layers_of_attention_do_a_step_for_any_matrix(dim, symmetric):
    a, x = normal(5, dim, dim), normal(5, dim, dim, seed=1)
    if symmetric:
        a, x = a + a.mT, x + x.mT
    network = build_inverse_step(dim, symmetric)
    ledger = network.ledger()
    assert (ledger.blocks, ledger.relu_units, ledger.blocks_per_step) == (1 if symmetric else 2, 0, ledger.blocks)
    z = network(network.encode(a, x)).detach()
    exact = 2 * x - x @ a @ x
    assert float((network.decode(z) - exact).abs().max() / exact.abs().max()) < 1e-13
    if not symmetric:
        assert torch.equal(network.network.layout.read(z, "scratch"), torch.zeros_like(a)), "the scratch is not clear"


def test_the_one_layer_form_is_wrong_for_other_matrices_and_says_so():
    a = normal(3, 3)
    with pytest.raises(InputError, match=r"a is not symmetric; allowed: symmetric, or build with symmetric=False"):
        build_inverse_step(3, symmetric=True).encode(a, a)


def test_stacked_layers_are_the_iteration():
    a = normal(4, 6, 6)
    network = build_inverse_newton(6, 12)
    path = network.path(a, inverse_start(a))
    torch.testing.assert_close(path, inverse_path(a, inverse_start(a), 12))
    torch.testing.assert_close(network.decode(network(network.encode(a, inverse_start(a)))), path[-1])
    assert (network.ledger().blocks, network.ledger().distinct_blocks) == (24, 2)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("mu", [0.5, 0.1, 0.02])
def test_the_logistic_network_is_damped_newton_up_to_its_pieces(mu, symmetric):
    a, y = labelled()
    inner = math.ceil(math.log2((mu + 0.25) / mu)) + 4
    exact, _ = damped_newton_path(y[..., None] * a, mu, 8)
    errors = []
    for pieces in (20, 80, 320):
        path = build_logistic_newton(4, mu, 8, inner, pieces, symmetric=symmetric).path(a, y)
        errors.append(float((path - exact).norm(dim=-1).max()))
    assert errors[-1] < 1e-4 and errors[0] > 8 * errors[1] > 64 * errors[2]


def test_its_inner_inverse_is_the_iteration_that_theory_runs():
    a, y = labelled()
    network = build_logistic_newton(4, 0.05, 6, 2, 800)
    exact, _ = damped_newton_path(y[..., None] * a, 0.05, 6, inverse_steps=2)
    torch.testing.assert_close(network.path(a, y), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("symmetric", "per_step"), [(False, 7 + 2 * 5), (True, 7 + 5)])
def test_its_ledger_counts_blocks_and_units(symmetric, per_step):
    network = build_logistic_newton(4, 0.1, 3, 5, 50, symmetric=symmetric)
    ledger = network.ledger()
    assert ledger.blocks == 1 + 3 * per_step + 1 == len(network.network.program)
    assert ledger.blocks_per_step == per_step <= cast(int, ledger.bound) == 11 + 2 * 5
    assert ledger.rows == 9 * 4 + 12 - (4 if symmetric else 0)
    # Per coordinate two squares with hinges at all knots but the outer two, two of them at 0, and two constants.
    squares, scalars = 2 * 4 * 50, 2 * (4 * 50 + 2 + 1)
    assert network.network.block("weigh").relu_width == squares
    assert abs(network.network.block("margins").relu_width - scalars) <= 2
    assert ledger.relu_width == max(b.relu_width for b in network.network.blocks)  # type: ignore[attr-defined,type-var]


def test_scratch_rows_end_every_step_at_exactly_zero():
    a, y = labelled()
    network = build_logistic_newton(4, 0.1, 2, 3, 20)
    kept = {"eye", "mean", "work", "data", "a", "y", "b", "w"}
    steps = 0
    for name, rows in network.network.trace(network.encode(a, y)):
        if name == "update":
            steps += 1
            assert {row for row, value in rows.items() if bool(value.detach().ne(0).any())} <= kept
    assert steps == 2


def test_rows_are_signed():
    a, y = labelled()
    network = build_logistic_newton(4, 0.1, 1, 1, 20)
    z = network.network.block("labels")(network.encode(a, y, queries=a[:, :3]))
    b = network.network.layout.read(z, "b")
    torch.testing.assert_close(b[..., 4:44], (y[..., None] * a).mT, rtol=0, atol=5e-16)
    assert not bool(b[..., :4].any()) and not bool(b[..., 44:].any())


def test_queries_are_answered_and_do_not_disturb_the_weights():
    a, y = labelled()
    queries = 7 * normal(3, 5, 4, seed=9)
    network = build_logistic_newton(4, 0.1, 5, 6, 50)
    with torch.no_grad():
        z = network(network.encode(a, y, queries))
    w = network.fit(a, y)
    torch.testing.assert_close(network.decode(z), w)
    expected = (queries @ w[..., None])[..., 0]
    torch.testing.assert_close(network.margins(z, 5), expected)
    assert torch.equal(network.predict(a, y, queries), expected.sign())
    torch.testing.assert_close(network.ask(z[..., :4], queries[:, :2]), expected[:, :2])


def test_prompts_of_unequal_length_are_padded():
    a, y = labelled()
    network = build_logistic_newton(4, 0.1, 5, 6, 50)
    lengths = torch.tensor([40, 13, 1])
    together = network.fit(a, y, lengths=lengths)
    for one, (rows, labels, length) in enumerate(zip(a, y, lengths.tolist(), strict=True)):
        alone = network.fit(rows[:length], labels[:length])
        torch.testing.assert_close(together[one], alone, rtol=1e-9, atol=1e-12)


def test_looped_until_it_settles_it_is_at_its_floor():
    a, y = labelled()
    network = build_logistic_newton(4, 0.1, 50, 6, 200)
    with torch.no_grad():
        z, taken = network.settle(network.encode(a, y), 1e-10)
        again = network(network.encode(a, y))
    assert 3 < taken < 15
    torch.testing.assert_close(network.decode(z), network.decode(again), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(network.margins(z, 3), network.margins(again, 3), rtol=1e-8, atol=1e-9)
    assert float((network.decode(z) - logistic_optimum(y[..., None] * a, 0.1)).norm(dim=-1).max()) < 1e-5
    assert build_logistic_newton(4, 0.1, 2, 6, 20).settle(network.encode(a, y), 1e-10)[1] == 2


def test_one_class_and_float32_are_fine():
    a, _ = labelled()
    ones = torch.ones(3, 40, dtype=torch.float64)
    network = build_logistic_newton(4, 0.1, 8, 6, 200)
    torch.testing.assert_close(network.fit(a, ones), logistic_optimum(a, 0.1), rtol=0, atol=1e-5)
    small = build_logistic_newton(4, 0.1, 8, 6, 200, dtype=torch.float32)
    found = small.fit(a, ones)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), network.fit(a, ones), rtol=0, atol=1e-4)


def test_margins_beyond_the_radius_are_told():
    a, y = labelled()
    network = build_logistic_newton(4, 0.01, 8, 8, 50, radius=0.5)
    with pytest.warns(RuntimeWarning, match=r"margins up to [\d.]+ were met; the sigmoid was built for 0.5 \(radius\)"):
        network.fit(a, y)
    assert build_logistic_newton(4, 0.01, 1, 1, 20).radius == largest_margin(0.01)


def test_its_weights_can_be_saved_and_its_gradient_taken():
    a, y = labelled()
    network, other = build_logistic_newton(4, 0.1, 4, 5, 20), build_logistic_newton(4, 0.9, 4, 5, 20, radius=3.0)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other.fit(a, y), network.fit(a, y))
    network.decode(network(network.encode(a, y))).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize(("symmetric", "layers"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_regression_by_newton_is_the_iterate_of_its_depth(symmetric, layers, ridge):
    x, y, queries = normal(3, 20, 4), normal(3, 20, seed=1), normal(3, 6, 4, seed=2)
    hessian, moment = normal_equations(x, y, ridge)
    values = torch.linalg.eigvalsh(hessian)
    start = 2 / (values[..., 0] + values[..., -1])
    for steps in (0, 3):
        network = build_regression_newton(4, steps, symmetric, ridge)
        w = newton_weights_path(hessian, moment, steps, "spd")[-1]
        torch.testing.assert_close(network(x, y, queries, start), (queries @ w[..., None])[..., 0])
        assert (network.ledger().blocks, network.ledger().relu_units) == (3 + layers * steps, 0)
    exact = (queries @ torch.linalg.solve(hessian, moment)[..., None])[..., 0]
    torch.testing.assert_close(build_regression_newton(4, 15, symmetric, ridge)(x, y, queries), exact)


def test_regression_by_descent_is_one_step_per_layer():
    x, y, queries = normal(3, 20, 4), normal(3, 20, seed=1), normal(3, 6, 4, seed=2)
    rate = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64)
    w = descent_weights_path(*normal_equations(x, y), 7, rate)[-1]
    network = build_regression_descent(4, 7)
    torch.testing.assert_close(network(x, y, queries, rate), (queries @ w[..., None])[..., 0])
    ledger = network.ledger()
    assert (ledger.blocks, ledger.heads, ledger.relu_units, ledger.distinct_blocks) == (7, 1, 0, 1)


A, Y = labelled()
NETWORK: LogisticNewton = build_logistic_newton(4, 0.1, 1, 1, 20)
X1, Y1 = normal(2, 3), normal(2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: build_inverse_newton(0, 1), r"dim is 0; allowed: 1 or more"),
        (lambda: build_inverse_newton(2, 0), r"steps is 0"),
        (lambda: build_inverse_newton(2, 1, dtype=torch.float16), r"dtype is torch.float16"),
        (
            lambda: build_inverse_step(2).encode(normal(3, 3), normal(3, 3)),
            r"a has shape \(3, 3\); allowed: \[..., 2, 2",
        ),
        (lambda: build_logistic_newton(4, 0.0, 1, 1), r"mu is 0.0; allowed: above 0"),
        (lambda: build_logistic_newton(0, 0.1, 1, 1), r"dim is 0"),
        (lambda: build_logistic_newton(4, 0.1, 0, 1), r"steps is 0"),
        (lambda: build_logistic_newton(4, 0.1, 1, 0), r"inverse_steps is 0"),
        (lambda: build_logistic_newton(4, 0.1, 1, 1, 21), r"pieces is 21; allowed: an even number"),
        (lambda: build_logistic_newton(4, 0.1, 1, 1, 20, scalar_pieces=0), r"scalar_pieces is 0"),
        (lambda: build_logistic_newton(4, 0.1, 1, 1, 20, radius=0.0), r"radius is 0.0; allowed: above 0"),
        (lambda: build_logistic_newton(4, 0.1, 1, 1, 20, dtype=torch.bfloat16), r"dtype is torch.bfloat16"),
        (lambda: NETWORK.encode(A, (Y + 1) / 2), r"y holds \[0.0, 1.0\]; allowed: -1 and 1 \(labels 0 and 1 become"),
        (lambda: NETWORK.encode(2 * A, Y), r"a has a row of norm 2; allowed: at most 1"),
        (lambda: NETWORK.encode(A[..., :3], Y), r"a has 3 columns; this network was built for 4"),
        (lambda: NETWORK.encode(A, Y[:, :3]), r"y has shape \(3, 3\)"),
        (lambda: NETWORK.encode(A, Y, A[..., :2]), r"queries has shape .*dim 4"),
        (lambda: NETWORK.encode(A, Y, lengths=torch.tensor([1, 0, 3])), r"lengths is \[1, 0, 3\]; allowed: 1 to 40"),
        (lambda: NETWORK.ask(NETWORK.encode(A, Y)[..., :4], A[..., :2]), r"queries has 2 columns"),
        (lambda: build_regression_newton(3, -1), r"steps is -1; allowed: 0 or more"),
        (lambda: build_regression_newton(3, 1, ridge=-1.0), r"ridge is -1.0"),
        (lambda: build_regression_descent(3, 0), r"steps is 0; allowed: 1 or more"),
        (lambda: build_regression_newton(3, 1).encode(X1, Y1, X1), r"2 rows in 3 dimensions: X\^T X is singular"),
        (
            lambda: build_regression_newton(3, 1).encode(torch.ones_like(normal(4, 3)), normal(4), X1),
            r"4 rows in 3 dimensions: X\^T X is singular; allowed: rows that span",
        ),
        (lambda: build_regression_newton(3, 1, ridge=1.0).encode(X1 * torch.nan, Y1, X1), r"x has entries .* finite"),
        (
            lambda: build_regression_newton(3, 1).encode(torch.eye(3).double(), normal(3), X1, torch.tensor(2.0)),
            r"start is 2.0; allowed: above 0 and below 2 / lambda_max = 2.0",
        ),
        (lambda: build_regression_newton(2, 1).encode(X1, Y1, X1), r"x has shape \(2, 3\); allowed: \[..., n, 2\]"),
        (lambda: build_regression_newton(3, 1).encode(X1, Y1[:1], X1), r"y has shape \(1,\)"),
        (lambda: build_regression_newton(3, 1).encode(X1, Y1, X1[:, :2]), r"queries has shape"),
        (
            lambda: build_regression_newton(3, 1, ridge=1.0).encode(X1, Y1, X1, torch.tensor(0.0)),
            r"start is 0.0; allowed: above 0",
        ),
        (lambda: build_regression_descent(3, 1)(X1, Y1, X1, torch.tensor(-1.0)), r"rate is -1.0; allowed: above 0"),
    ],
)
def test_wrong_input_is_named(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_a_backbone_without_norms_is_a_polynomial():
    spec = backbone_spec(
        "linear-transformer",
        width=8,
        heads=2,
        layout=("linear-attention",),
        norm="none",
        final_norm=False,
        positions="none",
        knobs={"linear-attention": {"bias": False}},
    )
    backbone = build_backbone(spec).double()
    x = normal(2, 5, 8)
    with torch.no_grad():
        added = backbone(x) - x
        torch.testing.assert_close(backbone(3 * x) - 3 * x, 27 * added)
    assert BackboneSpec.from_dict(spec.to_dict()) == spec
