"""The built networks at work (N1 to N6): pure functions of plain data, memoised by the engine."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.errors import require
from superpose.experiment import step, track
from superpose.models import (
    build_inverse_newton,
    build_inverse_step,
    build_logistic_newton,
    build_regression_descent,
    build_regression_newton,
)
from superpose.studies.icl_newton.figures import DEPTH, GAPS, NARROW
from superpose.studies.icl_newton.prompts import classification, normal, spread, with_singular_values
from superpose.theory import (
    damped_newton_path,
    descent_weights_path,
    hessian_condition,
    inverse_start,
    largest_margin,
    logistic_descent_path,
    logistic_loss,
    logistic_optimum,
    logistic_rows,
    normal_equations,
    spd_start_scale,
)

INVERSE_DIM = 8
INVERSE_STEPS = 40  # more than kappa = 1e4 needs
SETTLED = 1e-10  # exact Newton's distance at which the network is given two more steps to reach its floor
MOST_STEPS = 100
ITERATES_AT_ONCE = 100
RATES = 400  # step sizes among which gradient descent gets its best


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@step(version="1", label="one inverse step")
@torch.no_grad()
def one_step(dim: int, matrices: int, seed: int) -> dict[str, Any]:
    """One step of the two-layer network, and of the one-layer form, against ``2X - XAX`` on random matrices.

    Half of the matrices for two layers are symmetric; X is random, so that nothing is close to converged.
    """
    generator = _generator(seed)
    square = normal(generator, matrices, dim, dim)
    x = normal(generator, matrices, dim, dim)
    errors, sizes = {}, {}
    for symmetric in (False, True):
        a, start = square, x
        if symmetric:
            a, start = square + square.mT, x + x.mT
        else:
            a = torch.cat([square, square + square.mT])
            start = torch.cat([x, x])
        network = build_inverse_step(dim, symmetric)
        found = network.decode(network(network.encode(a, start)))
        # In extended precision: the reference's own rounding is no error of the network.
        exact = _long_step(a, start)
        gap = np.abs(found.numpy().astype(np.longdouble) - exact).max((1, 2)) / np.abs(exact).max((1, 2))
        name = "symmetric" if symmetric else "general"
        errors[name], sizes[name] = float(gap.max()), network.ledger()
    return {
        "error": errors,
        "layers": {name: ledger.blocks for name, ledger in sizes.items()},
        "relu": max(ledger.relu_units for ledger in sizes.values()),
    }


def _long_step(a: Tensor, x: Tensor) -> np.ndarray:
    a_, x_ = a.numpy().astype(np.longdouble), x.numpy().astype(np.longdouble)
    return 2 * x_ - np.matmul(np.matmul(x_, a_), x_)


@step(version="1", label="inverse iterations")
@torch.no_grad()
def inverse_residuals(kappa: float, matrices: int, seed: int) -> np.ndarray:
    """Residuals ``||I - A X||`` of the stacked two-layer network, ``[matrices, steps + 1]``."""
    a = with_singular_values(_generator(seed), matrices, INVERSE_DIM, spread(kappa, INVERSE_DIM))
    path = build_inverse_newton(INVERSE_DIM, INVERSE_STEPS).path(a, inverse_start(a))
    eye = torch.eye(INVERSE_DIM, dtype=torch.float64)
    return torch.linalg.matrix_norm(eye - a @ path, 2).mT.numpy()


def inner_steps(mu: float) -> int:
    """Inverse steps per Newton step: the Hessian's condition number squared away, and four more."""
    return math.ceil(math.log2(hessian_condition(mu)) + 4)


@step(version="1", label="logistic networks")
@torch.no_grad()
def logistic_cell(dim: int, points: int, mu: float, pieces: int, prompts: int, seed: int) -> dict[str, Any]:
    """The built network beside exact damped Newton and scikit-learn's solution.

    Returns:
        ``distance`` and ``exact_distance`` ``[prompts, steps + 1]`` to scikit-learn's weights, ``difference`` of the
        two iterations, the gap between scikit-learn and exact Newton, and the network's sizes.
    """
    a, y = classification(_generator(seed), prompts, points, dim)
    b = logistic_rows(a, y)
    optimum = logistic_optimum(b, mu)
    exact, _ = damped_newton_path(b, mu, MOST_STEPS)
    settled = (exact - optimum).norm(dim=-1).amax(1) < SETTLED
    steps = int(settled.nonzero()[0]) + 2
    exact = exact[: steps + 1]
    network = build_logistic_newton(dim, mu, steps, inner_steps(mu), pieces)
    path = network.path(a, y)
    peer = torch.stack([_scikit_learn(one, label, mu) for one, label in zip(a, y, strict=True)])
    ledger = network.ledger()
    return {
        "distance": (path - peer).norm(dim=-1).mT.numpy(),
        "exact_distance": (exact - peer).norm(dim=-1).mT.numpy(),
        "difference": (path - exact).norm(dim=-1).mT.numpy(),
        "peer_gap": float((peer - optimum).norm(dim=-1).max()),
        "width": ledger.relu_width,
        "per_step": ledger.blocks_per_step,
        "bound": ledger.bound,
        "radius": largest_margin(mu),
    }


def _scikit_learn(a: Tensor, y: Tensor, mu: float) -> Tensor:
    linear = require("sklearn.linear_model", "lab")
    model = linear.LogisticRegression(
        C=1 / (len(a) * mu), fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=200
    )
    return torch.from_numpy(model.fit(a.numpy(), y.numpy()).coef_[0])


@step(version="1", label="breast cancer")
@torch.no_grad()
def breast_cancer(points: int, features: int, mu: float, pieces: int, seed: int) -> dict[str, Any]:
    """Real data in the prompt: the distance from scikit-learn's weights, and both accuracies on the other rows."""
    data = require("sklearn.datasets", "lab").load_breast_cancer()
    x = torch.from_numpy(data.data[:, :features])
    y = torch.from_numpy(np.where(data.target == 1, 1.0, -1.0))
    x = (x - x.mean(0)) / x.std(0)
    x = x / torch.linalg.vector_norm(x, dim=-1).max()
    order = torch.randperm(len(x), generator=_generator(seed))
    shown, asked = order[:points], order[points:]
    network = build_logistic_newton(features, mu, 12, inner_steps(mu), pieces)
    stream = network(network.encode(x[shown], y[shown], x[asked]))
    margins = network.margins(stream, len(asked))
    peer = _scikit_learn(x[shown], y[shown], mu)
    return {
        "distance": float((network.decode(stream) - peer).norm()),
        "correct": int(((margins > 0) == (y[asked] > 0)).sum()),
        "peer_correct": int(((x[asked] @ peer > 0) == (y[asked] > 0)).sum()),
        "asked": len(asked),
    }


@step(version="1", label="blocks for an accuracy")
@torch.no_grad()
def blocks_needed(mu: float, prompts: int, descent_steps: int, noisy: bool, seed: int) -> dict[str, Any]:
    """The fewest blocks for every suboptimality, over Newton steps and inner steps, with exact scalar functions.

    Returns:
        ``blocks``, ``symmetric_blocks`` (one layer per inner step), ``descent`` and ``exact`` (gradient steps, exact
        damped Newton steps) ``[prompts, gaps]``, and of the first prompt the ``steps`` and ``inner`` that were best.
        Infinite where the budget did not suffice.
    """
    a, y = classification(_generator(seed), prompts, 200, 8, narrow=NARROW, noisy=noisy)
    b = logistic_rows(a, y)
    least = logistic_loss(b, logistic_optimum(b, mu), mu)

    def reached(path: Tensor) -> Tensor:
        losses = [logistic_loss(b.expand(len(part), *b.shape), part, mu) for part in path.split(ITERATES_AT_ONCE)]
        gaps = torch.cat(losses) - least
        met = gaps[..., None] <= torch.tensor(GAPS, dtype=torch.float64)
        first = met.double().argmax(0).double()
        return torch.where(met.any(0), first, torch.inf)

    exact = reached(damped_newton_path(b, mu, MOST_STEPS)[0])
    best, one_layer = torch.full_like(exact, torch.inf), torch.full_like(exact, torch.inf)
    chosen = torch.zeros(2, len(GAPS))
    # Inexact directions need some more steps than exact ones.
    most = int(2 * exact.max()) + 10
    for inner in track(range(1, math.ceil(math.log2(hessian_condition(mu))) + 6), "inner steps"):
        steps = reached(damped_newton_path(b, mu, most, inner)[0])
        blocks = steps * (7 + 2 * inner)
        better = blocks < best
        chosen = torch.where(better[0], torch.stack([steps[0], torch.full_like(steps[0], inner)]), chosen)
        best = torch.where(better, blocks, best)
        one_layer = torch.minimum(one_layer, steps * (7 + inner))
    return {
        "blocks": best.numpy(),
        "symmetric_blocks": one_layer.numpy(),
        "exact": exact.numpy(),
        "descent": reached(logistic_descent_path(b, mu, descent_steps)).numpy(),
        "steps": chosen[0].numpy(),
        "inner": chosen[1].numpy(),
    }


@step(version="1", label="a network of that depth")
@torch.no_grad()
def network_gap(mu: float, steps: int, inner: int, pieces: int, prompts: int, seed: int) -> float:
    """The suboptimality on the first prompt of `blocks_needed` of a built network with these steps."""
    a, y = (t[:1] for t in classification(_generator(seed), prompts, 200, 8, narrow=NARROW))
    b = logistic_rows(a, y)
    w = build_logistic_newton(8, mu, steps, inner, pieces).fit(a, y)
    return float(logistic_loss(b, w, mu) - logistic_loss(b, logistic_optimum(b, mu), mu))


@step(version="1", label="regression networks")
@torch.no_grad()
def regression_errors(kappa: float, prompts: int, depths: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Errors at one query per prompt of networks of equal depth, against the normal equations' predictions.

    Newton starts from the known range of eigenvalues; gradient descent has the constant rate that is best on these
    very prompts, which favours it.

    Returns:
        Squared errors ``[prompts, depths]`` of ``newton`` (one layer per step), ``newton2`` (two), ``descent``; NaN
        where a network of that depth does not exist.
    """
    dim, points, generator = 5, 40, _generator(seed)
    # kappa is that of A^T A.
    x = with_singular_values(generator, prompts, points, spread(math.sqrt(kappa), dim))
    y = (x @ normal(generator, prompts, dim, 1)).squeeze(-1) + 0.1 * normal(generator, prompts, points)
    query = normal(generator, prompts, 1, dim)
    hessian, moment = normal_equations(x, y)
    truth = (query @ torch.linalg.solve(hessian, moment.unsqueeze(-1)))[:, 0, 0]
    range_ = torch.full((prompts,), 1 / kappa, dtype=torch.float64), torch.ones(prompts, dtype=torch.float64)
    start = spd_start_scale(*range_)
    errors = {name: np.full((prompts, len(depths)), np.nan) for name in ("newton", "newton2", "descent")}
    for at, depth in enumerate(depths):
        for name, symmetric, layers in (("newton", True, 1), ("newton2", False, 2)):
            # Three layers form the sums, solve, and predict.
            if depth >= 3 and (depth - 3) % layers == 0:
                network = build_regression_newton(dim, (depth - 3) // layers, symmetric)
                errors[name][:, at] = (network(x, y, query, start)[:, 0] - truth).square().numpy()
        rate = _best_rate(hessian, moment, query, truth, depth)
        found = build_regression_descent(dim, depth)(x, y, query, rate.expand(prompts))[:, 0]
        errors["descent"][:, at] = (found - truth).square().numpy()
    return errors


def _best_rate(hessian: Tensor, moment: Tensor, query: Tensor, truth: Tensor, depth: int) -> Tensor:
    rates = 2 * torch.arange(1, RATES + 1, dtype=torch.float64) / RATES  # the largest eigenvalue is 1
    many = (RATES, *moment.shape)
    every = hessian.expand(*many, -1), moment.expand(many), depth, rates[:, None].expand(many[:-1])
    weights = descent_weights_path(*every)[-1]
    return rates[((query[:, 0] * weights).sum(-1) - truth).square().mean(1).argmin()]


def regression_depths(kappa: float) -> tuple[int, ...]:
    """Depths at which N6 is drawn and compared: 3 to 16, and one that suits the condition number."""
    return tuple(sorted({*range(3, 17), DEPTH, deep(kappa)}))


def deep(kappa: float) -> int:
    """A depth at which Newton has converged: ``ceil(log2(kappa)) + 8``."""
    return math.ceil(math.log2(kappa)) + 8
