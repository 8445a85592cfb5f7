"""Closed-form risks against simulated students, independent solvers and limits that are known otherwise."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from superpose.errors import InputError
from superpose.theory import (
    eigen_coordinates,
    kept_features,
    mask_surrogate,
    min_norm_fit,
    min_norm_law,
    optimal_risk,
    optimal_surrogate,
    power_law,
    scaling_exponent,
    scaling_limits,
    spectral_stats,
    surrogate_gain,
    target_risk,
    two_stage_risk,
    underparametrised_risk,
)

SPECTRA = {
    "power": np.arange(1, 81.0) ** -2,
    "steep": np.arange(1, 81.0) ** -6,
    "equal": np.ones(40),
    "spiked": np.r_[np.full(5, 1e6), np.full(60, 1e-3)],
    "wide": np.geomspace(1, 1e-13, 50),
}


@pytest.mark.parametrize("lam", SPECTRA.values(), ids=SPECTRA)
def test_tau_solves_its_equation_for_every_number_of_samples(lam):
    for n in (1, 2, len(lam) // 2, len(lam) - 1):
        stats = spectral_stats(lam, n)
        by_bracketing = np.exp(brentq(lambda u, n=n: (lam / (lam + np.exp(u))).sum() - n, -80, 40, xtol=1e-13))
        assert stats.tau == pytest.approx(by_bracketing, rel=1e-9)
        np.testing.assert_allclose(stats.learned + stats.zeta, 1, rtol=1e-12)
        assert stats.learned.sum() == pytest.approx(n, rel=1e-10)
        assert 0 < stats.omega < 1
        assert stats.inflation == pytest.approx(stats.omega / (1 - stats.omega), rel=1e-6)


def test_equal_eigenvalues_leave_nothing_to_gain():
    truth = np.random.default_rng(0).standard_normal(50)
    stats = spectral_stats(np.full(50, 2.0), 20)
    assert stats.tau == pytest.approx(2 * 30 / 20) and stats.omega == pytest.approx(20 / 50)
    np.testing.assert_allclose(optimal_surrogate(np.full(50, 2.0), truth, 20), truth)
    assert kept_features(np.full(50, 2.0), 20).all()
    # The classical isotropic risk: what is not seen, and the noise of a square Wishart's inverse.
    wanted = (1 - 20 / 50) * 2 * (truth**2).sum() + 0.3 * 20 / (50 - 20)
    assert target_risk(np.full(50, 2.0), truth, truth, 20, 0.3) == pytest.approx(wanted)


def test_the_risk_of_true_labels_is_the_known_formula_and_null_directions_change_nothing():
    lam, truth = power_law(60, 1.5, 2.0)
    stats = spectral_stats(lam, 20)
    known = ((lam * stats.zeta**2 * truth**2).sum() + stats.omega * 0.1) / (1 - stats.omega)
    assert target_risk(lam, truth, truth, 20, 0.1) == pytest.approx(float(known))
    padded, longer = np.r_[0.0, lam, 0.0], np.r_[3.0, truth, -2.0]
    assert target_risk(padded, longer, longer, 20, 0.1) == pytest.approx(float(known))
    assert optimal_risk(padded, longer, 20) == pytest.approx(float(optimal_risk(lam, truth, 20)))
    rescaled = target_risk(7 * lam, truth / np.sqrt(7), truth / np.sqrt(7), 20, 0.1)
    assert rescaled == pytest.approx(float(known))


def simulated(lam, truth, surrogate, n, noise, runs, seed=0):
    g = torch.Generator().manual_seed(seed)
    variances = torch.from_numpy(lam)
    x = torch.randn(runs, n, len(lam), generator=g, dtype=torch.float64) * variances.sqrt()
    z = noise**0.5 * torch.randn(runs, n, generator=g, dtype=torch.float64)
    # pinv, not the package's own solver.
    fit = torch.einsum("rpn,rn->rp", torch.linalg.pinv(x), x @ torch.from_numpy(surrogate) + z)
    return fit, ((fit - torch.from_numpy(truth)).square() @ variances).numpy()


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["true", "optimal", "mask", "arbitrary"])
def test_risks_agree_with_simulated_students(kind, noise):
    lam, truth = power_law(200, 1.5, 1.6)
    surrogate = {
        "true": truth,
        "optimal": optimal_surrogate(lam, truth, 80),
        "mask": mask_surrogate(lam, truth, 80),
        "arbitrary": truth * np.sin(np.arange(200)),
    }[kind]
    _, risks = simulated(lam, truth, surrogate, 80, noise, 60)
    error = risks.std(ddof=1) / 60**0.5
    assert abs(risks.mean() - target_risk(lam, truth, surrogate, 80, noise)) < max(4 * error, 0.04 * risks.mean())


def test_the_law_of_the_fit_has_the_simulated_mean_and_variance():
    lam, truth = power_law(150, 1.2, 2.5)
    mean, variance = min_norm_law(lam, truth, 60, 0.1)
    fit, _ = simulated(lam, truth, truth, 60, 0.1, 400)
    weight = torch.from_numpy(lam)
    assert ((fit.mean(0).numpy() - mean) ** 2 * lam).sum() < 3 * (variance * lam).sum() / 400
    assert float((fit.var(0) * weight).sum()) == pytest.approx((variance * lam).sum(), rel=0.05)
    assert float(fit[:, 100:].var(0).mean()) == pytest.approx(variance[100:].mean(), rel=0.06)


def test_two_stage_risk_agrees_with_simulated_students_and_reduces_to_a_fixed_surrogate():
    lam, truth = power_law(150, 1.5, 1.6)
    steeper = np.arange(1, 151.0) ** -3
    teachers, _ = simulated(steeper, truth, truth, 75, 0.0, 80)
    risks = np.concatenate(
        [simulated(lam, truth, one.numpy(), 50, 0.02, 1, seed)[1] for seed, one in enumerate(teachers)]
    )
    wanted = two_stage_risk(lam, truth, 50, surrogate_samples=75, surrogate_eigenvalues=steeper, noise=0.02)
    assert abs(risks.mean() - wanted) < max(4 * risks.std(ddof=1) / 80**0.5, 0.06 * wanted)


def test_two_stage_risk_is_the_mean_over_surrogates_of_the_stated_law():
    lam, truth = power_law(60, 1.5, 1.6)
    flatter = np.arange(1, 61.0) ** -1.1
    mean, variance = min_norm_law(flatter, truth, 40, 0.2)
    drawn = mean + np.sqrt(variance) * np.random.default_rng(0).standard_normal((20_000, 60))
    risks = target_risk(lam, truth, drawn, 25, 0.1)
    wanted = two_stage_risk(
        lam, truth, 25, surrogate_samples=40, surrogate_eigenvalues=flatter, noise=0.1, surrogate_noise=0.2
    )
    assert abs(risks.mean() - wanted) < 4 * risks.std() / 20_000**0.5


def test_least_squares_with_more_samples_than_features_is_exact_and_best_at_the_truth():
    lam, truth = power_law(10, 1.5, 1.6)
    surrogates = np.stack([0.9 * truth, truth, 1.1 * truth])
    risks = underparametrised_risk(lam, truth, surrogates, 25, 0.3)
    assert risks.argmin() == 1 and risks.shape == (3,)
    for surrogate, wanted in zip(surrogates, risks, strict=True):
        _, found = simulated(lam, truth, surrogate, 25, 0.3, 3000)
        assert abs(found.mean() - wanted) < 4 * found.std(ddof=1) / 3000**0.5


@pytest.mark.parametrize("lam", SPECTRA.values(), ids=SPECTRA)
def test_no_surrogate_beats_the_optimal_one_and_no_mask_the_best_mask(lam):
    rng = np.random.default_rng(1)
    truth, n = rng.standard_normal(len(lam)), len(lam) // 3
    best = optimal_surrogate(lam, truth, n)
    others = np.concatenate([best * (1 + s * rng.standard_normal((100, len(lam)))) for s in (1e-3, 0.1, 1.0)])
    assert (target_risk(lam, truth, others, n) >= optimal_risk(lam, truth, n) * (1 - 1e-12)).all()
    kept = kept_features(lam, n)
    flipped = target_risk(lam, truth, truth * (kept ^ np.eye(len(lam), dtype=bool)), n)
    own = float(target_risk(lam, truth, mask_surrogate(lam, truth, n), n))
    assert (flipped >= own * (1 - 1e-12)).all()
    closed = 0.0
    stats = spectral_stats(lam, n)
    rest = (1 - stats.omega) * stats.learned**2 + stats.omega * stats.zeta**2
    closed = (lam * truth**2 * stats.omega * stats.zeta**2 / rest).sum() + stats.inflation * 0.2
    assert optimal_risk(lam, truth, n, 0.2) == pytest.approx(float(closed), rel=1e-8)


def test_small_masks_equal_the_best_of_all():
    rng = np.random.default_rng(2)
    every = (np.arange(1 << 10)[:, None] >> np.arange(10)) & 1
    for _ in range(20):
        lam, truth, n = np.exp(2 * rng.standard_normal(10)), rng.standard_normal(10), int(rng.integers(1, 10))
        best = every[target_risk(lam, truth, every * truth, n).argmin()]
        np.testing.assert_array_equal(best, kept_features(lam, n))


def test_the_papers_setting_amplifies_126_of_500_features_and_keeps_203():
    lam, truth = power_law(500, 2.0, 1.5)
    gain = surrogate_gain(lam, 200)
    stats = spectral_stats(lam, 200)
    np.testing.assert_array_equal(gain > 1, stats.learned > stats.omega)
    assert (gain > 1).sum() == 126 and kept_features(lam, 200).sum() == 203
    assert gain.max() == pytest.approx(1.139, abs=5e-4)
    assert target_risk(lam, truth, truth, 200) == pytest.approx(0.1194, abs=5e-5)
    assert optimal_risk(lam, truth, 200) == pytest.approx(0.0833, abs=5e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.5), (2.0, 3.0), (1.5, 6.0)])
def test_slopes_are_the_exponent_for_all_labels(alpha, beta):
    lam, truth = power_law(300_000, alpha, beta)
    n = np.array([50, 100, 200, 400])
    for labels in (
        lambda n: truth,
        lambda n: optimal_surrogate(lam, truth, n),
        lambda n: mask_surrogate(lam, truth, n),
    ):
        risks = [float(target_risk(lam, truth, labels(int(k)), int(k))) for k in n]
        slope = np.polyfit(np.log(n), np.log(risks), 1)[0]
        assert -slope == pytest.approx(scaling_exponent(alpha, beta), abs=0.05)
    stats = spectral_stats(lam, 400)
    omega, level = scaling_limits(alpha)
    assert stats.omega == pytest.approx(omega, abs=0.01) and stats.tau * 400**alpha == pytest.approx(level, rel=0.04)
    if beta > 2 * alpha + 1:
        share = optimal_risk(lam, truth, 400) / target_risk(lam, truth, truth, 400)
        assert share == pytest.approx(omega, abs=0.02)


def test_sweeps_equal_single_calls():
    lam, truth = power_law(50, 2.0, 1.5)
    n = np.array([5, 10, 40])
    swept = target_risk(lam, truth, optimal_surrogate(lam, truth, n), n, 0.1)
    assert swept.shape == (3,)
    single = [float(target_risk(lam, truth, optimal_surrogate(lam, truth, int(k)), int(k), 0.1)) for k in n]
    np.testing.assert_allclose(swept, single, rtol=1e-13)
    assert two_stage_risk(lam, truth, n, surrogate_samples=30).shape == (3,)


def test_coordinates_are_rotated_and_back():
    rng = np.random.default_rng(3)
    a, heads = rng.standard_normal((4, 6)), rng.standard_normal((2, 6))
    lam, coordinates, vectors = eigen_coordinates(a.T @ a, heads)
    assert (lam > 0).sum() == 4 and (np.diff(lam) <= 0).all()
    np.testing.assert_allclose(vectors @ np.diag(lam) @ vectors.T, a.T @ a, atol=1e-12)
    np.testing.assert_allclose(coordinates @ vectors.T, heads, atol=1e-12)
    for array in (lam, coordinates, vectors, vectors.T):
        torch.from_numpy(array)  # refuses arrays that run backwards
    with pytest.raises(InputError, match="fewer than the 4 positive"):
        spectral_stats(lam, 4)


LAM, B = power_law(6, 2.0, 1.5)
WRONG = {
    "no tau": (lambda: spectral_stats(LAM, 6), "samples is 6; allowed: fewer than the 6 positive.*underparametrised"),
    "no samples": (lambda: target_risk(LAM, B, B, 0), "samples is 0; allowed: 1 or more"),
    "half a sample": (lambda: spectral_stats(LAM, 2.5), "samples is 2.5; allowed: whole numbers"),
    "negative": (lambda: spectral_stats([1.0, -0.5], 1), r"eigenvalues\[1\] is -0.5; allowed: finite numbers >= 0"),
    "nan": (lambda: spectral_stats([1.0, float("nan")], 1), r"eigenvalues\[1\] is nan"),
    "empty": (lambda: spectral_stats([], 1), "at least one eigenvalue"),
    "truth": (lambda: target_risk(LAM, B[:5], B, 3), r"truth has shape \(5,\); allowed: \[6\]"),
    "surrogate": (lambda: target_risk(LAM, B, B[:5], 3), r"surrogate has shape \(5,\); allowed: \[..., 6\]"),
    "no number": (lambda: optimal_surrogate(LAM, B * np.nan, 3), "truth holds NaN or infinite"),
    "infinite": (lambda: target_risk(LAM, B, B * np.inf, 3), "surrogate holds NaN or infinite"),
    "noise": (lambda: target_risk(LAM, B, B, 3, -1.0), "noise is -1.0; allowed: a finite variance"),
    "p samples": (lambda: underparametrised_risk(LAM, B, B, 6), "samples is 6; allowed: 8 or more.*use target_risk"),
    "p + 1 samples": (lambda: underparametrised_risk(LAM, B, B, 7), "samples is 7; allowed: 8 or more"),
    "other spectrum": (
        lambda: two_stage_risk(LAM, B, 3, surrogate_samples=3, surrogate_eigenvalues=LAM[:5]),
        "surrogate_eigenvalues has 5 entries; allowed: 6",
    ),
    "surrogate noise": (
        lambda: two_stage_risk(LAM, B, 3, surrogate_samples=3, surrogate_noise=float("nan")),
        "surrogate_noise is nan",
    ),
    "mode": (lambda: surrogate_gain(LAM, 3, "best"), "mode is 'best'; allowed: optimal, mask"),
    "alpha": (lambda: scaling_exponent(1.0, 2.0), "alpha is 1.0; allowed: finite numbers above 1"),
    "beta": (lambda: power_law(5, 2.0, 0.5), "beta is 0.5; allowed: finite numbers above 1"),
    "asymmetric": (lambda: eigen_coordinates([[1.0, 0.5], [0.0, 1.0]], [1.0, 1.0]), "not symmetric"),
    "indefinite": (lambda: eigen_coordinates([[0.0, 1.0], [1.0, 0.0]], [1.0, 1.0]), "has the eigenvalue -1"),
    "not square": (lambda: eigen_coordinates(np.ones((2, 3)), [1.0, 1.0]), "allowed: a square matrix"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def designs():
    g = torch.Generator().manual_seed(0)
    for n, p in ((5, 12), (12, 5), (8, 8)):
        yield (
            torch.randn(3, n, p, generator=g, dtype=torch.float64),
            torch.randn(3, n, 2, generator=g, dtype=torch.float64),
        )


def test_min_norm_fits_equal_the_pseudo_inverse():
    for x, y in designs():
        for solver in ("auto", "gram", "svd"):
            torch.testing.assert_close(min_norm_fit(x, y, solver), torch.linalg.pinv(x) @ y, rtol=1e-8, atol=1e-9)


def test_singular_designs_are_refused_or_solved_by_svd():
    x, y = next(designs())
    twice, again = torch.cat([x, x], 1), torch.cat([y, y + 1], 1)
    torch.testing.assert_close(min_norm_fit(twice, again), torch.linalg.pinv(twice) @ again, rtol=1e-8, atol=1e-9)
    with pytest.raises(InputError, match="dependent rows"):
        min_norm_fit(twice, again, "gram")
    with pytest.raises(InputError, match="dependent columns"):
        min_norm_fit(twice.mT, torch.ones(3, 12, 1, dtype=torch.float64), "gram")
    with pytest.raises(InputError, match=r"labels has shape .* allowed: \(3, 5\)"):
        min_norm_fit(x, y[:, :4])
    with pytest.raises(InputError, match="inputs holds NaN"):
        min_norm_fit(x * torch.nan, y)
    with pytest.raises(InputError, match="solver is 'qr'; allowed: auto, gram, svd"):
        min_norm_fit(x, y, "qr")


def test_ill_conditioned_spectra_keep_their_digits():
    lam, truth = power_law(200, 3.0, 3.0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 200, generator=g, dtype=torch.float64) * torch.from_numpy(lam).sqrt()
    y = (x @ torch.from_numpy(truth)).unsqueeze(-1)
    fit, exact = min_norm_fit(x, y, "gram"), torch.linalg.pinv(x) @ y
    assert float((fit - exact).norm() / exact.norm()) < 1e-8
