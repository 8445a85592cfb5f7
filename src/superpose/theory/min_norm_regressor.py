"""Min-norm regression with scikit-learn's interface (``pip install 'superpose[lab]'``).

model = MinNormRegressor().fit(X, y)  # what LinearRegression(fit_intercept=False) finds, sooner
"""

from typing import Any

import numpy as np
import torch

from superpose.errors import choose, require
from superpose.theory.min_norm import SOLVERS, min_norm_fit

require("sklearn", "lab")
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402
from sklearn.utils.validation import validate_data as _validate_data  # noqa: E402

_checked: Any = _validate_data  # whose own annotations are wrong (X: str)


class MinNormRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares, of least norm where features outnumber samples, in float64.

    The same coefficients as scikit-learn's ``LinearRegression`` by a Cholesky factorisation instead of an SVD.

    Args:
        fit_intercept: centre inputs and labels first, and leave the intercept out of the norm. False, unlike
            ``LinearRegression``, because the theory has none.
        solver: as in :func:`superpose.theory.min_norm_fit`; "auto" takes the SVD where inputs are singular.

    Attributes:
        coef_: ``[features]``, or ``[outputs, features]`` for labels of two axes.
        intercept_: a number, or one per output.

    Raises:
        InputError: scikit-learn is missing, an unknown solver, or singular inputs with ``solver="gram"``. Arrays
            that do not fit together raise scikit-learn's own ``ValueError``.
    """

    def __init__(self, *, fit_intercept: bool = False, solver: str = "auto") -> None:
        self.fit_intercept = fit_intercept
        self.solver = solver

    # X is scikit-learn's name for inputs; it checks what they are itself.
    def fit(self, X: Any, y: Any) -> "MinNormRegressor":
        """Fit to inputs ``[samples, features]`` and labels ``[samples]`` or ``[samples, outputs]``."""
        choose("solver", self.solver, SOLVERS)
        checked = _checked(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        inputs, labels = checked[0], np.asarray(checked[1], dtype=np.float64)
        x, columns = inputs, labels.reshape(len(labels), -1)
        centre, mean = np.zeros(inputs.shape[1]), np.zeros(columns.shape[1])
        if self.fit_intercept:
            centre, mean = inputs.mean(0), columns.mean(0)
            x, columns = inputs - centre, columns - mean
            if len(x) <= x.shape[1]:
                # Centred rows sum to zero, so their Gram matrix is singular. A constant column makes it regular, and
                # centred labels give it the weight zero.
                level = float(np.sqrt(np.square(x).mean())) or 1.0
                x = np.hstack([x, np.full((len(x), 1), level)])
        # torch warns of arrays that may not be written to, such as memory maps.
        x, columns = (np.require(a, requirements="W") for a in (x, columns))
        fit = min_norm_fit(torch.from_numpy(x), torch.from_numpy(columns), self.solver)
        coefficients = fit.numpy()[: inputs.shape[1]].T
        intercept = mean - coefficients @ centre
        self.coef_ = coefficients[0] if labels.ndim == 1 else coefficients
        self.intercept_ = float(intercept[0]) if labels.ndim == 1 else intercept
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return ``[samples]`` or ``[samples, outputs]`` predictions."""
        check_is_fitted(self)
        inputs = _checked(self, X, dtype=np.float64, reset=False)
        return inputs @ self.coef_.T + self.intercept_
