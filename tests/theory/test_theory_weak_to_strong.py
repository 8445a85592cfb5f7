"""scikit-learn's side: the estimator, the shaped teacher, and the paired report."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import check_estimator

from superpose.errors import InputError
from superpose.theory import (
    MinNormRegressor,
    SurrogateDesigner,
    mask_surrogate,
    optimal_surrogate,
    power_law,
    target_risk,
    weak_to_strong,
)


def gaussian(n, lam, seed=0):
    return np.random.default_rng(seed).standard_normal((n, len(lam))) * np.sqrt(lam)


@pytest.mark.parametrize("estimator", [MinNormRegressor(), MinNormRegressor(fit_intercept=True)])
def test_scikit_learn_accepts_the_estimator(estimator):
    # It passes nonsense to __init__, which the type checker of the tests refuses before scikit-learn's rule applies.
    checked = {"check_do_not_raise_errors_in_init_or_set_params": "types are checked at run time here"}
    check_estimator(estimator, expected_failed_checks=checked, on_skip=None, on_fail="raise")


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("shape", [(10, 25), (25, 10), (12, 12)])
@pytest.mark.parametrize("outputs", [(), (3,)])
def test_coefficients_are_those_of_linear_regression(intercept, shape, outputs):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape) + 2, rng.standard_normal((shape[0], *outputs))
    ours, theirs = (
        MinNormRegressor(fit_intercept=intercept).fit(x, y),
        LinearRegression(fit_intercept=intercept).fit(x, y),
    )
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-7, atol=1e-9)


def test_singular_inputs_take_the_svd_unless_told_otherwise():
    x = np.random.default_rng(0).standard_normal((4, 9))
    twice, y = np.vstack([x, x]), np.arange(8.0)
    theirs = LinearRegression(fit_intercept=False).fit(twice, y)
    np.testing.assert_allclose(MinNormRegressor().fit(twice, y).coef_, theirs.coef_, atol=1e-10)
    with pytest.raises(InputError, match="dependent rows"):
        MinNormRegressor(solver="gram").fit(twice, y)
    with pytest.raises(InputError, match="solver is 'lu'"):
        MinNormRegressor(solver="lu").fit(twice, y)


def test_one_sample_has_an_intercept_and_nothing_else():
    for solver in ("gram", "svd"):
        fitted = MinNormRegressor(fit_intercept=True, solver=solver).fit([[1.0, 2.0]], [3.0])
        assert fitted.intercept_ == 3 and not fitted.coef_.any()


def test_the_designer_finds_the_formula_in_any_basis():
    lam, b = power_law(30, 2.0, 1.5)
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 30)))
    # Inputs whose second moment is exactly that covariance.
    x = np.sqrt(30) * np.diag(np.sqrt(lam)) @ q.T
    for mode, formula in (("optimal", optimal_surrogate), ("mask", mask_surrogate)):
        teacher = SurrogateDesigner(12, mode).fit(x, q @ b)
        np.testing.assert_allclose(teacher.eigenvalues_, lam, rtol=1e-8)
        np.testing.assert_allclose(teacher.coef_, q @ formula(lam, b, 12), atol=1e-9)
        np.testing.assert_allclose(teacher.label(x), x @ teacher.coef_)
        assert teacher.risk_ == pytest.approx(float(target_risk(lam, b, formula(lam, b, 12), 12)))
        assert teacher.true_risk_ == pytest.approx(float(target_risk(lam, b, b, 12)))
        # Two heads at once.
        both = SurrogateDesigner(12, mode).fit(x, np.stack([q @ b, -q @ b]))
        np.testing.assert_allclose(both.coef_[1], -teacher.coef_)
        assert both.label(x).shape == (30, 2) and both.risk_ == pytest.approx(2 * teacher.risk_)


def test_shaped_labels_beat_true_ones_and_the_report_says_by_how_much():
    lam, b = power_law(120, 2.0, 1.5)
    pool = gaussian(4000, lam)
    teacher = SurrogateDesigner(48).fit(pool, b)
    report = weak_to_strong(pool, pool @ b, teacher.label(pool), 48, runs=30)
    assert report.low > 0.15 and report.low < report.improvement < report.high
    assert report.true_risks.mean() == pytest.approx(teacher.true_risk_, rel=0.1)
    assert report.surrogate_risks.mean() == pytest.approx(teacher.risk_, rel=0.1)
    assert "surrogate labels beat true labels" in str(report) and "over 30 runs" in str(report)
    worse = weak_to_strong(pool, pool @ b, pool @ (0.5 * b), 48, runs=30)
    assert worse.high < 0 and "lose to" in str(worse)
    same = weak_to_strong(pool, pool @ b, pool @ b, 48, noise=0.1, runs=5)
    assert same.improvement == 0 and "cannot be told from" in str(same)


def test_runs_are_paired_reproducible_and_tested_where_one_says():
    lam, b = power_law(20, 2.0, 1.5)
    pool, tests = gaussian(60, lam), gaussian(500, lam, seed=1)
    at = {"test_inputs": tests, "test_labels": tests @ b}
    one = weak_to_strong(pool, pool @ b, pool @ (0.9 * b), 10, runs=4, **at)
    two = weak_to_strong(pool, pool @ b, pool @ (0.9 * b), 10, runs=4, **at)
    np.testing.assert_array_equal(one.true_risks, two.true_risks)
    # All of the pool: every run is the same fit.
    whole = weak_to_strong(pool[:12], pool[:12] @ b, pool[:12] @ (0.9 * b), 12, runs=3, **at)
    fit = LinearRegression(fit_intercept=False).fit(pool[:12], pool[:12] @ (0.9 * b))
    np.testing.assert_allclose(whole.surrogate_risks, ((fit.predict(tests) - tests @ b) ** 2).mean(), rtol=1e-6)


def test_it_stands_in_a_pipeline_on_real_images():
    images = load_digits().data[:400] / 16
    head = np.random.default_rng(0).standard_normal(64)
    teacher = SurrogateDesigner(20).fit(images, head)
    student = make_pipeline(PolynomialFeatures(1, include_bias=False), MinNormRegressor())
    student.fit(images[:20], teacher.predict(images[:20]))
    np.testing.assert_allclose(student.predict(images[:20]), teacher.label(images[:20]), atol=1e-6)


POOL = gaussian(30, np.ones(5))
Y = POOL.sum(1)
WRONG = {
    "head": (lambda: SurrogateDesigner(2).fit(POOL, np.ones(4)), r"coef has shape \(4,\); allowed: \[5\]"),
    "mode": (lambda: SurrogateDesigner(2, "all").fit(POOL, np.ones(5)), "mode is 'all'; allowed: optimal, mask"),
    "too many samples": (lambda: SurrogateDesigner(5).fit(POOL, np.ones(5)), "samples is 5; allowed: fewer than the 5"),
    "labels": (lambda: weak_to_strong(POOL, Y[:9], Y, 3), r"true_labels has shape \(9,\); allowed: a label for each"),
    "outputs": (lambda: weak_to_strong(POOL, Y, np.c_[Y, Y], 3), "surrogate_labels has 2 outputs; allowed: 1"),
    "whole pool": (lambda: weak_to_strong(POOL, Y, Y, 30), "samples is 30 of a pool of 30; allowed: fewer"),
    "half a test": (lambda: weak_to_strong(POOL, Y, Y, 3, test_inputs=POOL), "one is given without the other"),
    "runs": (lambda: weak_to_strong(POOL, Y, Y, 3, runs=1), "runs is 1; allowed: 2 or more"),
    "noise": (lambda: weak_to_strong(POOL, Y, Y, 3, noise=-1.0), "noise is -1.0"),
    "nan": (lambda: weak_to_strong(POOL, Y, Y * np.nan, 3), "surrogate_labels holds NaN"),
    "nan tests": (
        lambda: weak_to_strong(POOL, Y, Y, 3, test_inputs=POOL * np.nan, test_labels=Y),
        "test_inputs holds NaN",
    ),
    "rounding": (lambda: weak_to_strong(POOL, Y, 0.9 * Y, 10), "samples is 10.*learned without any error"),
    "no error": (lambda: weak_to_strong(POOL, 0 * Y, Y, 3), "learned without any error"),
    "tests": (
        lambda: weak_to_strong(POOL, Y, Y, 3, test_inputs=np.ones((2, 4)), test_labels=np.ones(2)),
        r"test_inputs has shape \(2, 4\); allowed: \[tests, 5\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
