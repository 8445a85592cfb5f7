"""The logistic Newton transformer as scikit-learn knows estimators."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from superpose.errors import InputError
from superpose.models import InContextLogisticRegression


def refused(estimator):
    # It sets parameters to values of other types, and the tests' type checker does not let it.
    return {"check_do_not_raise_errors_in_init_or_set_params": "the type checker looks at __init__ too"}


@parametrize_with_checks([InContextLogisticRegression(pieces=50)], expected_failed_checks=refused)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def cancer():
    data = load_breast_cancer()
    return StandardScaler().fit_transform(data.data[:200, :6]), data.target_names[data.target[:200]]


def test_it_finds_what_logistic_regression_finds(cancer):
    x, y = cancer
    ours = InContextLogisticRegression(C=0.05, pieces=400).fit(x, y)
    theirs = LogisticRegression(C=0.05, fit_intercept=False, tol=1e-10).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-3)
    np.testing.assert_allclose(ours.decision_function(x), (x @ ours.coef_.T)[:, 0], atol=1e-9)
    assert (ours.predict(x) == theirs.predict(x)).mean() > 0.99
    assert 3 < ours.n_iter_ < 60 and ours.mu_ == pytest.approx(1 / (0.05 * 200 * ours.scale_**2))


def test_mu_is_for_rows_of_norm_one(cancer):
    x, y = cancer
    ours = InContextLogisticRegression(mu=0.1).fit(x, y)
    longest = np.linalg.norm(x, axis=1).max()
    theirs = LogisticRegression(C=1 / (200 * 0.1), fit_intercept=False, tol=1e-10).fit(x / longest, y)
    np.testing.assert_allclose(ours.coef_ * longest, theirs.coef_, atol=1e-5)


def test_an_intercept_is_a_penalised_feature(cancer):
    x, y = cancer
    ours = InContextLogisticRegression(mu=0.05, fit_intercept=True).fit(x, y)
    longer = np.hstack([x, np.ones((200, 1))])
    plain = InContextLogisticRegression(mu=0.05).fit(longer, y)
    np.testing.assert_allclose(np.append(ours.coef_[0], ours.intercept_), plain.coef_[0])
    np.testing.assert_allclose(ours.decision_function(x), plain.decision_function(longer))


def test_it_stands_in_a_pipeline_and_takes_steps_as_told(cancer):
    x, y = cancer
    model = make_pipeline(StandardScaler(), InContextLogisticRegression(steps=6, inverse_steps=6, pieces=50))
    assert cross_val_score(model, x, y, cv=3).mean() > 0.85
    assert model.fit(x, y)[-1].n_iter_ == 6


def test_one_class_is_always_answered(cancer):
    x, _ = cancer
    model = InContextLogisticRegression(pieces=20).fit(x, np.full(200, "benign"))
    assert set(model.predict(x)) == {"benign"} and model.predict_proba(x[:2]).tolist() == [[1.0], [1.0]]


def test_weights_that_do_not_settle_are_told(cancer, monkeypatch):
    x, y = cancer
    monkeypatch.setattr("superpose.models.constructed.newton_estimator.MOST_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match=r"did not settle in 2 steps"):
        InContextLogisticRegression(pieces=20).fit(x, y)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mu": 0.1, "C": 1.0}, r"mu is 0.1 and C 1.0; allowed: one of them"),
        ({"C": 0.0}, r"C is 0.0; allowed: above 0"),
        ({"mu": 0.0}, r"mu is 0 for rows .* allowed: 1e-06 or more"),
        ({"C": 1e9}, r"allowed: 1e-06 or more \(a larger mu, a smaller C"),
        ({"normalise": False}, r"a has a row of norm .* allowed: at most 1"),
        ({"pieces": 3}, r"pieces is 3; allowed: an even number"),
        ({"steps": 0}, r"steps is 0; allowed: 1 or more"),
    ],
)
def test_wrong_settings_are_named(cancer, arguments, match):
    with pytest.raises(InputError, match=match):
        InContextLogisticRegression(**arguments).fit(*cancer)


def test_three_classes_are_refused(cancer):
    x, _ = cancer
    with pytest.raises(InputError, match=r"y has 3 classes.*allowed: one or two"):
        InContextLogisticRegression().fit(x, np.arange(200) % 3)
