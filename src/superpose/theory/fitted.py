"""Baselines fitted by scikit-learn on every prefix of a prompt: lasso, a decision tree, boosted trees."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, require


def fitted_path(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"], make: Callable[[], Any]
) -> Float[Tensor, "batch points"]:
    """Predict each label by a fresh scikit-learn style regressor fitted on the pairs before it; the first by 0.

    Args:
        x: inputs.
        y: labels.
        make: returns an unfitted object with ``fit(X, y)`` and ``predict(X)``; called once per prompt and prefix, so
            the time grows with ``batch * points``.
    """
    inputs, labels = x.double().cpu().numpy(), y.double().cpu().numpy()
    prediction = torch.zeros(y.shape, dtype=torch.float64)
    for prompt in range(len(inputs)):
        for position in range(1, inputs.shape[1]):
            fitted = make().fit(inputs[prompt, :position], labels[prompt, :position])
            prediction[prompt, position] = float(fitted.predict(inputs[prompt, position : position + 1])[0])
    return prediction.to(x)


def lasso_path(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"], alpha: float = 0.01
) -> Float[Tensor, "batch points"]:
    """Predict by the lasso without intercept; alpha 0.01 was the best of 1, 0.1, ..., 1e-4 in Garg et al. (2022).

    Raises:
        InputError: ``alpha`` is not above 0, or scikit-learn is missing.
    """
    if not alpha > 0:
        raise InputError(f"alpha is {alpha!r}; it must be above 0")
    linear = require("sklearn.linear_model", "lab")
    # On prefixes shorter than the dimension the dual gap need not close; the predictions are settled long before.
    return fitted_path(x, y, lambda: linear.Lasso(alpha=alpha, fit_intercept=False, max_iter=5000, tol=1e-3))


def tree_path(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    depth: int | None = 4,
    signs: bool = False,
) -> Float[Tensor, "batch points"]:
    """Predict by one greedily grown decision tree.

    Args:
        x: inputs.
        y: labels.
        depth: largest depth (None: until the leaves are pure); 4 is the depth of the true trees in Garg et al.
        signs: fit on the signs of the inputs, all that the decision-tree task depends on.
    """
    tree = require("sklearn.tree", "lab")
    return fitted_path(x.sign() if signs else x, y, lambda: tree.DecisionTreeRegressor(max_depth=depth, random_state=0))


def boosting_path(
    x: Float[Tensor, "batch points dim"],
    y: Float[Tensor, "batch points"],
    trees: int = 50,
    depth: int = 4,
    rate: float = 0.1,
) -> Float[Tensor, "batch points"]:
    """Predict by gradient-boosted trees; 50 trees of depth 4 at rate 0.1 as the XGBoost baseline of Garg et al."""
    ensemble = require("sklearn.ensemble", "lab")
    return fitted_path(
        x,
        y,
        lambda: ensemble.GradientBoostingRegressor(
            n_estimators=trees, max_depth=depth, learning_rate=rate, random_state=0
        ),
    )
