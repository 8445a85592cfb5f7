import math

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.interpret.geometry import (
    barycentric,
    fit_lda,
    kappa,
    kappa_permutation_null,
    linear_fit_residual,
    segment_coefficient,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_segment_coefficient_of_points_built_on_and_beside_the_segment(rng):
    a, b = rng.normal(size=(2, 20))
    across = rng.normal(size=20)
    across -= (across @ (b - a)) / ((b - a) @ (b - a)) * (b - a)
    across /= np.linalg.norm(across)
    t = np.array([-0.5, 0, 0.25, 1, 2])
    off = np.array([0, 0.1, 0.5, 2, 3])
    points = a + t[:, None] * (b - a) + off[:, None] * np.linalg.norm(b - a) * across
    coefficient, residual = segment_coefficient(points, a, b)
    np.testing.assert_allclose(coefficient, t, atol=1e-12)
    np.testing.assert_allclose(residual, off, atol=1e-12)
    one, rest = segment_coefficient(points[2], a, b)
    assert float(one) == pytest.approx(0.25)
    assert float(rest) == pytest.approx(0.5)
    with pytest.raises(InputError, match="two different ends"):
        segment_coefficient(points, a, a)


def test_barycentric_recovers_weights_and_ignores_what_is_orthogonal(rng):
    centroids = rng.normal(size=(3, 20))
    weights = np.array([[1, 0, 0], [0.2, 0.3, 0.5], [-0.5, 1, 0.5]])
    edges = (centroids[1:] - centroids[0]).T
    across = rng.normal(size=20)
    across -= edges @ np.linalg.lstsq(edges, across, rcond=None)[0]
    np.testing.assert_allclose(barycentric(weights @ centroids + 3 * across, centroids), weights, atol=1e-10)
    mix = rng.normal(size=20)
    two = barycentric(mix, centroids[:2])
    assert two.sum() == pytest.approx(1)
    assert two[1] == pytest.approx(float(segment_coefficient(mix, *centroids[:2])[0]))
    with pytest.raises(InputError, match="affinely dependent"):
        barycentric(mix, np.stack([centroids[0], centroids[1], centroids[:2].mean(0)]))
    with pytest.raises(InputError, match="centroids has 1 rows"):
        barycentric(mix, centroids[:1])


def test_kappa_is_one_for_linear_superposition_and_scales_with_the_way_gone(rng):
    centroids = rng.normal(size=(3, 10))
    shares = np.array([0.5, 0.5, 0.0])
    centre, predicted = centroids.mean(0), shares @ centroids
    assert kappa(predicted, centroids, shares) == pytest.approx(1)
    assert kappa(centre, centroids, shares) == pytest.approx(0, abs=1e-12)
    assert kappa(centre + 0.7 * (predicted - centre), centroids, shares) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1 / 3] * 3, "kappa is undefined"),
        ([0.5, 0.5], "2 shares for 3 centroids"),
        ([0.5, 0.6, 0.0], "with sum 1"),
        ([1.5, -0.5, 0.0], "none negative"),
    ],
)
def test_kappa_refuses(rng, shares, message):
    with pytest.raises(InputError, match=message):
        kappa(rng.normal(size=10), rng.normal(size=(3, 10)), np.array(shares))


def test_permutation_null_is_exact_for_few_mixtures(rng):
    centroids = rng.normal(size=(3, 10))
    shares = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.5, 0]])
    result = kappa_permutation_null(shares @ centroids, centroids, shares)
    assert result.exact
    assert len(result.null) == math.factorial(4) - 1
    assert result.observed == pytest.approx(1)
    # Only the true matching reaches mean kappa 1, so its p-value is the smallest there is.
    assert result.p_value == pytest.approx(1 / 24)
    swapped = kappa_permutation_null((shares @ centroids)[[1, 2, 0, 3]], centroids, shares)
    assert swapped.p_value > 0.3


def test_permutation_null_is_sampled_for_many_mixtures(rng):
    centroids = rng.normal(size=(2, 10))
    share = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    shares = np.stack([share, 1 - share], axis=1)
    mixes = shares @ centroids
    result = kappa_permutation_null(mixes, centroids, shares, np.random.default_rng(1), samples=300)
    assert not result.exact
    assert result.p_value < 0.05
    # Vectors that do not depend on the proportions: the observed matching is as good as any.
    same = kappa_permutation_null(np.repeat(mixes[:1], 9, axis=0), centroids, shares, np.random.default_rng(1))
    assert same.p_value == 1
    with pytest.raises(InputError, match="rng is None"):
        kappa_permutation_null(mixes, centroids, shares)
    with pytest.raises(InputError, match="mixes has 9 rows and proportions 8"):
        kappa_permutation_null(mixes, centroids, shares[:8])


def test_linear_fit_residual(rng):
    centroids = rng.normal(size=(2, 50))
    directions = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    mix = 3 * directions[0] + 2 * directions[1] + 0.5
    fit = linear_fit_residual(mix, centroids)
    assert fit.residual == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fit.coefficients, np.array([3, 2]) / np.linalg.norm(mix))
    assert fit.intercept == pytest.approx(0.5 / np.linalg.norm(mix))
    basis = np.linalg.qr(np.column_stack([centroids.T, np.ones(50), rng.normal(size=50)]))[0]
    assert linear_fit_residual(basis[:, 3], centroids).residual == pytest.approx(1)
    assert linear_fit_residual(10 * mix, 7 * centroids).residual == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="zero vector"):
        linear_fit_residual(np.zeros(50), centroids)


def test_lda_finds_the_axis_that_separates_and_puts_mixtures_between(rng):
    width, n = 60, 80
    noise = np.ones(width)
    noise[5] = 30  # the loudest dimension says nothing about the task; a principal component would follow it
    centres = np.zeros((3, width))
    centres[0, 0], centres[1, 1], centres[2, 2] = 8, 8, 8

    def draw(centre):
        return centre + noise * rng.normal(size=(n, width))

    pure = {"a": draw(centres[0]), "b": draw(centres[1]), "c": draw(centres[2])}
    fit = fit_lda(pure, {"ab": draw(centres[:2].mean(0))})
    assert fit.names == ("a", "b", "c", "ab")
    assert fit.components.shape == (width, 2)
    assert {name: p.shape for name, p in fit.projections.items()} == {
        "a": (40, 2),
        "b": (40, 2),
        "c": (40, 2),
        "ab": (80, 2),
    }
    assert fit.holdout_accuracy > 0.95
    np.testing.assert_allclose(fit.projections["a"], (pure["a"][40:] - fit.mean) @ fit.components)
    means = {name: p.mean(0) for name, p in fit.projections.items()}
    coefficient, residual = segment_coefficient(means["ab"], means["a"], means["b"])
    assert 0.35 < coefficient < 0.65
    assert residual < 0.15
    assert fit.subspace_distances[0, 1] == pytest.approx(np.linalg.norm(means["a"] - means["b"]))
    held = {name: vectors[40:].mean(0) for name, vectors in pure.items()}
    assert fit.full_distances[0, 2] == pytest.approx(np.linalg.norm(held["a"] - held["c"]))
    np.testing.assert_allclose(fit.full_distances, fit.full_distances.T)


def test_lda_of_two_tasks_has_one_axis_and_noise_does_not_look_separated(rng):
    fit = fit_lda({"a": rng.normal(size=(40, 200)), "b": rng.normal(size=(40, 200))})
    assert fit.components.shape == (200, 1)
    assert fit.holdout_accuracy < 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pure": {"a": np.zeros((9, 2))}}, "pure has 1 tasks"),
        ({"pure": {"a": np.ones((2, 2)), "b": np.ones((9, 2))}}, r"pure\['a'\] has 2 vectors"),
        ({"mixtures": {"a": np.zeros((9, 2))}}, "'a', which is also a pure task"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"components": 0}, "components is 0"),
    ],
)
def test_lda_refuses(change, message):
    arguments = {"pure": {"a": np.zeros((9, 2)), "b": np.ones((9, 2))}, **change}
    with pytest.raises(InputError, match=message):
        fit_lda(**arguments)
