"""The logistic Newton transformer behind scikit-learn's interface."""

import math
import warnings
from typing import Any

import numpy as np
import torch

from superpose.errors import InputError, require
from superpose.models.constructed.newton_logistic import build_logistic_newton
from superpose.theory.damped_newton import hessian_condition

require("sklearn", "lab")

# After the sentence on how to install it.
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

# scikit-learn's own annotation follows the default value, a string.
_validated: Any = validate_data
MOST_STEPS = 400
SETTLED = 1e-10  # relative change of the weights in a step
SMALLEST_MU = 1e-6  # below, the condition number of the Hessian leaves float64 no digits to spare


class InContextLogisticRegression(ClassifierMixin, BaseEstimator):
    """Binary l2-regularised logistic regression, fitted by running a constructed transformer on the training rows.

    ``fit`` compiles the network for the number of features, puts the rows into a prompt and runs it; ``predict`` lets
    the network's last block read the weights at query tokens. No optimiser is called.

    Args:
        mu: penalty in ``mean log loss + mu/2 ||w||^2``, for rows divided by their largest norm (default 0.1).
        C: instead of ``mu``, scikit-learn's inverse penalty, for the rows as they are given: with the largest row norm
            s and n rows, ``mu = 1 / (C n s^2)``. Large C and long rows make a small mu, which needs many steps.
        steps: damped Newton steps (default None: loop until the weights settle).
        inverse_steps: inner steps (default None: ``ceil(log2((mu + 1/4) / mu)) + 4``).
        pieces: pieces of every interpolated square (default 200), see `build_logistic_newton`.
        fit_intercept: append a constant feature, which is penalised like the others (default False).
        normalise: divide rows by the largest row norm (default); otherwise rows longer than 1 are refused.

    Attributes:
        classes_, n_features_in_, coef_, intercept_: as of scikit-learn's ``LogisticRegression``.
        mu_: the penalty in the network's units.
        scale_: what rows were divided by.
        n_iter_: damped Newton steps taken.
        network_: the `LogisticNewton`.

    Raises:
        InputError: (a ValueError) both ``mu`` and ``C`` given, or one out of range, more than two classes.
    """

    def __init__(
        self,
        mu: float | None = None,
        C: float | None = None,  # scikit-learn's name
        steps: int | None = None,
        inverse_steps: int | None = None,
        pieces: int = 200,
        fit_intercept: bool = False,
        normalise: bool = True,
    ):
        self.mu = mu
        self.C = C
        self.steps = steps
        self.inverse_steps = inverse_steps
        self.pieces = pieces
        self.fit_intercept = fit_intercept
        self.normalise = normalise

    def fit(self, X: Any, y: Any) -> "InContextLogisticRegression":
        """Run the network on the rows X, ``[n, features]``, with labels y of at most two classes.

        Warns:
            ConvergenceWarning: with ``steps=None``, the weights did not settle in 400 steps.
        """
        rows, labels = _validated(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) > 2:
            raise InputError(
                f"y has {len(self.classes_)} classes. Only binary classification is supported; allowed: one or two"
            )
        given = rows.shape[1]
        rows = torch.tensor(self._with_intercept(rows))
        self.scale_ = float(torch.linalg.vector_norm(rows, dim=-1).max()) or 1.0 if self.normalise else 1.0
        self.mu_ = self._penalty(len(rows))
        inner = self.inverse_steps
        if inner is None:
            inner = math.ceil(math.log2(hessian_condition(self.mu_))) + 4
        loop = self.steps is None
        steps = MOST_STEPS if self.steps is None else self.steps
        self.network_ = build_logistic_newton(rows.shape[1], self.mu_, steps, inner, self.pieces, symmetric=True)
        signs = torch.from_numpy(np.where(labels == self.classes_[-1], 1.0, -1.0))
        with torch.no_grad():
            prompt = self.network_.encode(rows / self.scale_, signs)
            if loop:
                stream, self.n_iter_ = self.network_.settle(prompt, SETTLED)
                if self.n_iter_ == MOST_STEPS:
                    warnings.warn(
                        f"the weights did not settle in {MOST_STEPS} steps (mu_ = {self.mu_:.3g}); penalise more",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
            else:
                stream, self.n_iter_ = self.network_(prompt), steps
        # What a query attends to: the workspace holds the weights, rows are not looked at again.
        self._workspace = stream[:, : rows.shape[1]]
        w = self.network_.decode(stream).numpy() / self.scale_
        self.coef_ = w[None, :given].copy()
        self.intercept_ = w[given:].copy() if self.fit_intercept else np.zeros(1)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return margins ``w.x``, positive for ``classes_[1]``, from the network's last block."""
        check_is_fitted(self)
        rows = _validated(self, X, dtype=np.float64, reset=False)
        queries = torch.tensor(self._with_intercept(rows)) / self.scale_
        with torch.no_grad():
            return self.network_.ask(self._workspace, queries).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, ``[n, classes]``."""
        margins = self.decision_function(X)
        if len(self.classes_) == 1:
            return np.ones((len(margins), 1))
        second = torch.sigmoid(torch.from_numpy(margins)).numpy()
        return np.stack([1 - second, second], 1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class with the larger probability for every row."""
        margins = self.decision_function(X)
        if len(self.classes_) == 1:
            return np.full(len(margins), self.classes_[0])
        return self.classes_[(margins > 0).astype(int)]

    def _with_intercept(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows, np.ones((len(rows), 1))], 1) if self.fit_intercept else rows

    def _penalty(self, points: int) -> float:
        if self.mu is not None and self.C is not None:
            raise InputError(f"mu is {self.mu} and C {self.C}; allowed: one of them")
        if self.C is not None:
            if not self.C > 0:
                raise InputError(f"C is {self.C}; allowed: above 0")
            mu = 1 / (self.C * points * self.scale_**2)
        else:
            mu = 0.1 if self.mu is None else self.mu
        if not SMALLEST_MU <= mu < math.inf:
            raise InputError(
                f"mu is {mu:.3g} for rows divided by {self.scale_:.3g}; allowed: {SMALLEST_MU:g} or more (a larger mu, "
                "a smaller C, or features of a smaller scale)"
            )
        return mu

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
