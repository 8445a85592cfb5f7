import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from sklearn.neighbors import KNeighborsRegressor

from superpose.errors import InputError
from superpose.theory import (
    averaging_path,
    boosting_path,
    lasso_path,
    least_squares,
    least_squares_path,
    nearest_neighbours_path,
    ridge_path,
    sparse_bayes_path,
    tree_path,
)


@pytest.fixture
def prompts():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 14, 5, generator=g, dtype=torch.float64)
    w = torch.randn(6, 5, generator=g, dtype=torch.float64)
    noise = torch.randn(6, 14, generator=g, dtype=torch.float64)
    return x, torch.einsum("bpd,bd->bp", x, w), noise


def by_prefix(x, y, predict):
    """Reference: one prediction at a time, numpy."""
    rows = []
    for prompt, labels in zip(x.numpy(), y.numpy(), strict=True):
        rows.append([0.0] + [predict(prompt[:i], labels[:i], prompt[i]) for i in range(1, len(prompt))])
    return torch.tensor(rows, dtype=torch.float64)


def test_least_squares_path_equals_numpy_with_and_without_noise(prompts):
    x, clean, noise = prompts
    for y in (clean, clean + 0.3 * noise):
        expected = by_prefix(x, y, lambda a, b, q: q @ np.linalg.lstsq(a, b, rcond=None)[0])
        torch.testing.assert_close(least_squares_path(x, y), expected, rtol=1e-7, atol=1e-7)


def test_least_squares_recovers_the_function_once_there_are_enough_examples(prompts):
    x, y, _ = prompts
    error = (least_squares_path(x, y) - y).abs()
    assert error[:, :4].min() > 1e-6 and error[:, 5:].max() < 1e-6
    torch.testing.assert_close(torch.einsum("bpd,bd->bp", x, least_squares(x, y)), y)


def test_least_squares_is_of_minimum_norm_and_survives_repeated_inputs(prompts):
    x, y, _ = prompts
    few, labels = x[:, :3], y[:, :3]
    expected = torch.stack([torch.linalg.pinv(a) @ b for a, b in zip(few, labels, strict=True)])
    torch.testing.assert_close(least_squares(few, labels), expected)
    twice, again = x[:, :3].repeat(1, 2, 1), y[:, :3].repeat(1, 2)
    torch.testing.assert_close(least_squares_path(twice, again)[:, 3:], again[:, 3:], rtol=1e-6, atol=1e-8)
    narrow = x.clone()
    narrow[..., 2:] = 0
    assert torch.isfinite(least_squares_path(narrow, narrow[..., 0])).all()


def test_unused_pairs_do_not_matter(prompts):
    x, y, noise = prompts
    used = torch.arange(14) % 2 == 0
    spoiled = torch.where(used, y, 100 * noise)
    mask = used.expand(6, -1)
    path = least_squares_path(x, spoiled, mask)
    alone = least_squares_path(x[:, ::2], y[:, ::2])
    torch.testing.assert_close(path[:, ::2], alone)
    torch.testing.assert_close(ridge_path(x, spoiled, 0.1, mask)[:, ::2], ridge_path(x[:, ::2], y[:, ::2], 0.1))


def test_ridge_path_is_the_gaussian_posterior_mean(prompts):
    x, y, _ = prompts
    expected = by_prefix(x, y, lambda a, b, q: (q @ a.T) @ np.linalg.solve(a @ a.T + 0.25 * np.eye(len(a)), b))
    torch.testing.assert_close(ridge_path(x, y, 0.25), expected)


def _knn(a, b, q, k):
    return KNeighborsRegressor(min(k, len(a))).fit(a, b).predict(q[None])[0]


def test_averaging_and_neighbours_equal_references(prompts):
    x, y, _ = prompts
    torch.testing.assert_close(averaging_path(x, y), by_prefix(x, y, lambda a, b, q: q @ (a * b[:, None]).mean(0)))
    for k in (1, 3):
        expected = by_prefix(x, y, lambda a, b, q, k=k: _knn(a, b, q, k))
        torch.testing.assert_close(nearest_neighbours_path(x, y, k), expected)


def test_sparse_bayes_equals_the_mixture_over_supports_and_beats_least_squares():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200, 9, 4, generator=g, dtype=torch.float64)
    w = torch.zeros(200, 4, dtype=torch.float64)
    chosen = torch.rand(200, 4, generator=g).topk(2).indices
    w.scatter_(1, chosen, torch.randn(200, 2, generator=g, dtype=torch.float64))
    y = torch.einsum("bpd,bd->bp", x, w)
    noisy = y + 0.2 * torch.randn(y.shape, generator=g, dtype=torch.float64)

    def mixture(a, b, q):
        log, mean = [], []
        for s in ([0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]):
            cov = a[:, s] @ a[:, s].T + 0.04 * np.eye(len(a))
            log.append(-0.5 * (b @ np.linalg.solve(cov, b) + np.linalg.slogdet(cov)[1]))
            mean.append(q[s] @ a[:, s].T @ np.linalg.solve(cov, b))
        weight = np.exp(np.array(log) - max(log))
        return (weight / weight.sum()) @ np.array(mean)

    torch.testing.assert_close(sparse_bayes_path(x[:5], noisy[:5], 2, 0.2), by_prefix(x[:5], noisy[:5], mixture))
    sparse, dense = (sparse_bayes_path(x, y, 2) - y).square(), (least_squares_path(x, y) - y).square()
    assert sparse[:, 3].mean() < 0.3 * dense[:, 3].mean() and sparse[:, 4:].max() < 1e-3


def test_fitted_baselines(prompts):
    x, y, _ = prompts
    x, y = x[:2, :8], y[:2, :8]
    expected = by_prefix(x, y, lambda a, b, q: Lasso(0.1, fit_intercept=False).fit(a, b).predict(q[None])[0])
    torch.testing.assert_close(lasso_path(x, y, 0.1), expected, rtol=1e-2, atol=1e-2)
    steps = (x[..., 0] > 0).double() * 3
    for path in (tree_path(x, steps, depth=1), boosting_path(x, steps, trees=5), tree_path(x, steps, signs=True)):
        assert path.shape == steps.shape and (path[:, 0] == 0).all() and path.min() >= 0 and path.max() <= 3
    halves = torch.tensor([[-2.0, 1.0, 3.0, -1.0, 2.0]]).unsqueeze(-1)
    assert tree_path(halves, (halves[..., 0] > 0).float(), depth=1)[0].tolist() == [0, 0, 1, 0, 1]


def test_wrong_input_is_named(prompts):
    x, y, _ = prompts
    with pytest.raises(InputError, match="penalty is 0"):
        ridge_path(x, y, 0.0)
    with pytest.raises(InputError, match="k is 0"):
        nearest_neighbours_path(x, y, 0)
    with pytest.raises(InputError, match="sparsity is 6"):
        sparse_bayes_path(x, y, 6)
    with pytest.raises(InputError, match="alpha"):
        lasso_path(x, y, 0.0)
