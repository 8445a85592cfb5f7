"""The scikit-learn wrapper: corrections hold, the rest keeps its answers, and the conventions of the host are kept."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from superpose.errors import InputError
from superpose.models import PatchedRegressor


@pytest.fixture(scope="module")
def fitted():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 4))
    y = np.sin(x[:, 0]) + x[:, 1]
    return PatchedRegressor(GradientBoostingRegressor(n_estimators=10, random_state=0)).fit(x, y), x, y


@pytest.mark.parametrize("depth", (2, 3))
def test_corrected_answers_are_right_and_the_others_unchanged(fitted, depth):
    model, x, y = fitted
    model = PatchedRegressor.around(model.estimator_, depth=depth)
    better = model.partial_patch(x[:10], y[:10], x[10:])
    assert better.predict(x[:10]) == pytest.approx(y[:10], abs=1e-8)
    assert better.predict(x[10:]) == pytest.approx(model.predict(x[10:]), abs=1e-8)
    assert len(model.patches_) == 0  # the first model is as it was
    again = better.partial_patch(x[10:12], y[10:12], np.concatenate([x[:10], x[12:]]))
    assert again.predict(x[:12]) == pytest.approx(y[:12], abs=1e-7)
    assert len(again.patches_) == 2


def test_without_patches_it_answers_as_its_estimator(fitted):
    model, x, y = fitted
    assert np.array_equal(model.predict(x), model.estimator_.predict(x))
    assert model.score(x, y) == model.estimator_.score(x, y)


def test_several_outputs_and_nothing_to_keep():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(30, 3)), generator.normal(size=(30, 2))
    model = PatchedRegressor(LinearRegression()).fit(x, y)
    assert model.partial_patch(x, y, []).predict(x) == pytest.approx(y, abs=1e-8)


def test_it_clones_and_takes_parameters_as_scikit_learn_expects(fitted):
    model, x, y = fitted
    copy = clone(model).set_params(depth=3, estimator__n_estimators=3)
    assert not hasattr(copy, "estimator_")
    copy.fit(x, y)
    assert copy.get_params()["depth"] == 3
    assert len(copy.estimator_.estimators_) == 3


def test_wrong_input_is_refused_in_words(fitted):
    model, x, y = fitted
    with pytest.raises(InputError, match=r"X_fix has shape \(4,\)"):
        model.partial_patch(x[0], y[:1], x[1:])
    with pytest.raises(InputError, match=r"X_keep has shape \(5, 3\)"):
        model.partial_patch(x[:1], y[:1], x[1:6, :3])
    with pytest.raises(InputError, match=r"X\[0\] and X\[1\] are equal but would need different"):
        model.partial_patch(x[:1], y[:1] + 5, x[:3])
    with pytest.raises(InputError, match="y_new has shape"):
        model.partial_patch(x[:2], y[:3], x[2:])
