import math

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import (
    GaussianMixturePrior,
    axis_prior,
    early_ascent_expected,
    early_ascent_prior,
    group_risks,
    learning_risk_bound,
    regular_centres,
    regular_prior,
    retrieval_risk_limit,
    retrieval_scores,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def random_prior(seed, groups=3, dim=2):
    pi = torch.rand(groups, generator=gen(seed)) + 0.2
    return GaussianMixturePrior(
        pi / pi.sum(), normal(groups, dim, seed=seed), normal(groups, dim, seed=seed + 50), 0.8, 0.7, 0.5, 0.6
    )


def joint_reference(prior, x, y, query):
    """Condition one large Gaussian per group on inputs, then on labels: no formula of the module is used."""
    k, dim = x.shape
    every = torch.cat([x, query[None]])
    cov_x = prior.sigma_x**2 * torch.eye(k + 1).double() + prior.sigma_mu**2
    cov_y = prior.sigma_w**2 * x @ x.T + prior.sigma_y**2 * torch.eye(k).double()
    logs, means = [], []
    for m in range(prior.groups):
        log = prior.pi[m].log()
        for axis in range(dim):
            gap = every[:, axis] - prior.mu[m, axis]
            log = log - 0.5 * (gap @ torch.linalg.solve(cov_x, gap))
        gap = y - x @ prior.w[m]
        logs.append(log - 0.5 * (gap @ torch.linalg.solve(cov_y, gap)))
        means.append(prior.w[m] @ query + prior.sigma_w**2 * (query @ x.T) @ torch.linalg.solve(cov_y, gap))
    weights = torch.stack(logs).softmax(0)
    return weights, weights @ torch.stack(means)


@pytest.mark.parametrize("seed", range(5))
def test_posterior_equals_nested_gaussian_conditioning(seed):
    prior = random_prior(seed)
    x, y, query = normal(1, 6, 2, seed=seed + 1), normal(1, 6, seed=seed + 2), normal(1, 2, seed=seed + 3)
    got = prior.posterior(x, y, query)
    weights, prediction = joint_reference(prior, x[0], y[0], query[0])
    torch.testing.assert_close(got.weights[0], weights, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.prediction[0], prediction, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((got.effective_w * query).sum(-1), got.prediction)


def test_posterior_equals_importance_sampling():
    prior = random_prior(7)
    x, query = 0.5 * normal(1, 3, 2, seed=1), 0.5 * normal(1, 2, seed=2)
    y = normal(1, 3, seed=3)
    draws = 200_000
    group = torch.multinomial(prior.pi, draws, replacement=True, generator=gen(4))
    mu = prior.mu[group] + prior.sigma_mu * normal(draws, 2, seed=5)
    w = prior.w[group] + prior.sigma_w * normal(draws, 2, seed=6)
    every = torch.cat([x[0], query])
    log = -(every - mu.unsqueeze(1)).square().sum((1, 2)) / (2 * prior.sigma_x**2)
    log = log - (y[0] - w @ x[0].T).square().sum(1) / (2 * prior.sigma_y**2)
    weight = log.softmax(0)
    value = w @ query[0]
    mean = weight @ value
    error = (weight.square() @ (value - mean).square()).sqrt()
    got = prior.posterior(x, y, query)
    assert abs(float(got.prediction[0] - mean)) < 4 * float(error) < 0.1
    mass = torch.zeros(3, dtype=torch.float64).index_add_(0, group, weight)
    torch.testing.assert_close(got.weights[0], mass, atol=0.02, rtol=0)


def test_covariances_and_shifted_centres():
    prior = random_prior(3)
    x, y, query = normal(2, 5, 2, seed=8), normal(2, 5, seed=9), normal(2, 2, seed=10)
    got = prior.posterior(x, y, query)
    precision = torch.eye(2) / prior.sigma_w**2 + x.transpose(1, 2) @ x / prior.sigma_y**2
    torch.testing.assert_close(got.w_covariance, torch.linalg.inv(precision))
    right = prior.w[1] / prior.sigma_w**2 + torch.einsum("bki,bk->bi", x, y) / prior.sigma_y**2
    torch.testing.assert_close(got.w[:, 1], torch.linalg.solve(precision, right))
    variance = 1 / (1 / prior.sigma_mu**2 + 6 / prior.sigma_x**2)
    torch.testing.assert_close(got.mu_variance, torch.tensor(variance, dtype=torch.float64))
    total = x.sum(1) + query
    torch.testing.assert_close(got.mu[:, 2], variance * (prior.mu[2] / prior.sigma_mu**2 + total / prior.sigma_x**2))


def test_path_equals_one_posterior_per_length_and_float32_is_promoted():
    prior = regular_prior(6, sigma_mu=3.0, sigma_w=3.0)
    x, y, query = normal(4, 33, 3), normal(4, 33, seed=1), normal(4, 3, seed=2)
    own, common = prior.predict_path(x, y), prior.predict_path(x, y, query)
    for k in (0, 1, 7, 32):
        for path, asked in ((own, x[:, k]), (common, query)):
            one = prior.posterior(x[:, :k], y[:, :k], asked)
            torch.testing.assert_close(path.prediction[:, k], one.prediction, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(path.weights[:, k], one.weights, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(path.w[:, k], one.w, rtol=1e-10, atol=1e-12)
    assert common.prediction.shape == (4, 34) and own.prediction.shape == (4, 33)
    assert prior.predict_path(x.float(), y.float()).prediction.dtype == torch.float64


def test_one_group_is_ridge_towards_its_centre():
    prior = GaussianMixturePrior(torch.ones(1), torch.zeros(1, 3), normal(1, 3), 1.0, 0.5, 1.0, 2.0)
    x, y, query = normal(1, 9, 3, seed=4), normal(1, 9, seed=5), normal(1, 3, seed=6)
    penalty = torch.eye(3).double() / prior.delta_w
    ridge = torch.linalg.solve(x[0].T @ x[0] + penalty, x[0].T @ y[0] + penalty @ prior.w[0])
    torch.testing.assert_close(prior.posterior(x, y, query).prediction[0], ridge @ query[0])


def test_narrow_groups_are_an_exact_limit():
    exact, near = regular_prior(4, sigma_mu=0.0, sigma_w=0.0), regular_prior(4, sigma_mu=1e-7, sigma_w=1e-7)
    x, y, query = normal(3, 10, 3), normal(3, 10, seed=1), normal(3, 3, seed=2)
    one, other = exact.posterior(x, y, query), near.posterior(x, y, query)
    assert torch.equal(one.w, exact.w.expand(3, -1, -1)) and (one.w_covariance == 0).all()
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-9, atol=1e-9)


def test_extreme_evidence_stays_finite():
    prior = regular_prior(4, sigma_mu=9.0, sigma_w=9.0)
    x, y = 100 * normal(2, 127, 3), 1e4 * normal(2, 127, seed=1)
    path = prior.predict_path(x, y)
    assert torch.isfinite(path.prediction).all()
    torch.testing.assert_close(path.weights.sum(-1), torch.ones(2, 127, dtype=torch.float64))


def regular_task():
    c = regular_centres(4)
    star = torch.nn.functional.normalize(2 * c[0] + c[1] + 0.2 * c[2], dim=0)
    return star, star


def prompts(mu, w, batch, k, seed=0):
    x = mu + normal(batch, k + 1, len(mu), seed=seed)
    return x[:, 1:], x[:, 1:] @ w, x[:, 0]


def test_published_weights_and_risks_of_the_default_task():
    mu, w = regular_task()
    x, y, query = prompts(mu, w, 4000, 32)
    narrow = regular_prior(4, sigma_mu=1 / 9, sigma_w=1 / 9).predict_path(x, y, query)
    retrieved = narrow.weights[:, [0, 1, 2, 4, 8, 16], 0].mean(0)
    torch.testing.assert_close(retrieved, torch.tensor([0.43, 0.64, 0.77, 0.89, 0.98, 1.0]).double(), atol=0.02, rtol=0)
    wide = regular_prior(4, sigma_mu=3.0, sigma_w=3.0).predict_path(x, y, query)
    learning = (wide.prediction - (query @ w).unsqueeze(1)).square().mean(0)
    assert learning[4] < 0.05 and wide.weights[:, 4, 0].mean() < 0.5


def test_error_bound_is_never_violated():
    mu, w = regular_task()
    prior = regular_prior(4, sigma_mu=1 / 3, sigma_w=1 / 3)
    for k in (0, 3, 40):
        x, y, query = prompts(mu, w, 500, k, seed=k)
        got = prior.posterior(x, y, query)
        bound = learning_risk_bound(got.weights, x.transpose(1, 2) @ x, query, prior, w)
        error = (got.prediction - query @ w).square()
        assert (error <= bound * (1 + 1e-9)).all() and (error / bound).max() > 1e-4


def test_scores_are_the_reweighting_rates():
    mu, w = regular_task()
    prior = regular_prior(4, sigma_mu=1e-4, sigma_w=1e-4)
    x, y, query = prompts(mu, w, 3000, 20)
    path = prior.predict_path(x, y, query)
    scores = retrieval_scores(prior, mu, w)
    best = int(scores.argmin())
    assert best == 0
    slope = (path.weights[:, 20].log() - path.weights[:, 4].log()).mean(0) / 16
    measured = slope - slope[best]
    expected = scores[best] - scores
    torch.testing.assert_close(measured, expected, rtol=0.05, atol=0.02)
    torch.testing.assert_close(
        expected.sort(descending=True).values[1:], torch.tensor([-1.823, -3.669, -4.184]).double(), atol=2e-3, rtol=0
    )


def test_early_ascent_scores_and_condition():
    for dim, expected in ((1, [1.0, 2.0]), (3, [1.0, 2.0, 1.556])):
        prior = early_ascent_prior(dim)
        star = prior.mu[0]
        scores = retrieval_scores(prior, star, star)
        torch.testing.assert_close(scores, torch.tensor(expected).double(), atol=1e-3, rtol=0)
        risk = float(group_risks(prior, star, star)[0])
        assert early_ascent_expected(prior, star, star, 0.9 * risk)
        assert not early_ascent_expected(prior, star, star, 1.1 * risk)


def test_early_ascent_happens_as_published():
    prior = early_ascent_prior(1)
    star = prior.mu[0]
    x, y, query = prompts(star, star, 10_000, 64)
    risk = (prior.predict_path(x, y, query).prediction - (query @ star).unsqueeze(1)).square().mean(0)
    torch.testing.assert_close(risk[[0, 8, 64]], torch.tensor([7.17, 7.70, 6.83]).double(), atol=0.35, rtol=0)
    assert risk[8] > 1.03 * risk[0] and risk[64] < risk[0]


def test_biased_labels_help_only_up_to_a_number_of_examples():
    mu, w = regular_task()
    limit = retrieval_risk_limit(regular_centres(4)[0], mu, w)
    assert limit == pytest.approx(0.2547, abs=1e-4)
    prior = regular_prior(4, sigma_mu=1 / 3, sigma_w=1 / 3)
    risk = {}
    for k in (0, 8, 127, 512):
        x, y, query = prompts(mu, w, 2000, k, seed=k)
        wanted = query @ regular_centres(4)[0]
        risk[k] = float((prior.posterior(x, y, query).prediction - wanted).square().mean())
    assert risk[0] > 2 * risk[8] and risk[127] > 2 * risk[8] and risk[512] == pytest.approx(limit, rel=0.1)


@pytest.mark.parametrize("groups", [4, 6, 8, 12, 20])
def test_regular_centres_are_the_corners_of_a_regular_body(groups):
    c = regular_centres(groups)
    distance = torch.cdist(c, c) + 9 * torch.eye(groups)
    assert c.shape == (groups, 3)
    torch.testing.assert_close(c.norm(dim=1), torch.ones(groups).double())
    torch.testing.assert_close(c.sum(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    nearest = distance.min()
    edges = (distance < nearest * (1 + 1e-9)).sum(1)
    assert (edges == {4: 3, 6: 4, 8: 3, 12: 5, 20: 3}[groups]).all()
    assert math.isclose(float(regular_prior(groups).pi.sum()), 1)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="groups is 5"):
        regular_prior(5)
    with pytest.raises(InputError, match="sigma_x is 0"):
        regular_prior(4, sigma_x=0.0)
    with pytest.raises(InputError, match="sigma_w is -1"):
        axis_prior(3, sigma_w=-1.0)
    with pytest.raises(InputError, match="'sigma'"):
        axis_prior(3, sigma=1.0)
    with pytest.raises(InputError, match=r"pi sums to 0\.9"):
        GaussianMixturePrior(torch.tensor([0.5, 0.4]), torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(InputError, match="mu holds values"):
        GaussianMixturePrior(torch.ones(1), torch.full((1, 2), float("nan")), torch.zeros(1, 2))
    prior = axis_prior(3)
    with pytest.raises(InputError, match="dimension 2"):
        prior.predict_path(torch.zeros(1, 4, 2), torch.zeros(1, 4))
    with pytest.raises(InputError, match="NaN"):
        prior.predict_path(torch.full((1, 4, 3), float("nan")), torch.zeros(1, 4))
