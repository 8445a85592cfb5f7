"""Exact patches for scikit-learn: a regressor around a fitted one whose answers can be corrected one by one."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from superpose.errors import InputError, require

from .patching import PatchNetwork, fit_patch, patch_change

require("sklearn.base", "lab")

from sklearn.base import BaseEstimator, RegressorMixin, clone  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402


class PatchedRegressor(RegressorMixin, BaseEstimator):
    """A regressor that answers as another one does, but for the samples on which it has been corrected.

    ::

        model = PatchedRegressor(GradientBoostingRegressor()).fit(X, y)
        better = model.partial_patch(X_fix, y_fix, X_keep)

    Args:
        estimator: any scikit-learn regressor; ``fit`` fits a clone of it.
        depth: layers of the patch, 2 or 3.
        tries: random directions, as in :func:`superpose.models.fit_patch`.
        tolerance: largest deviation on the samples given, relative to the largest change.
        random_state: seed of the directions.

    Attributes:
        estimator_: the fitted regressor.
        patches_: the networks added to it, in order.
    """

    def __init__(
        self, estimator: Any, depth: int = 2, tries: int = 32, tolerance: float = 1e-4, random_state: int = 0
    ) -> None:
        self.estimator = estimator
        self.depth = depth
        self.tries = tries
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, **settings: Any) -> "PatchedRegressor":
        """Fit a clone of the estimator, without any patch."""
        fresh: Any = clone(self.estimator)
        self.estimator_ = fresh.fit(X, y, **settings)
        self.patches_: tuple[PatchNetwork, ...] = ()
        return self

    @classmethod
    def around(cls, fitted: Any, **settings: Any) -> "PatchedRegressor":
        """Wrap a regressor that is fitted already; ``settings`` are those of the class."""
        wrapper = cls(fitted, **settings)
        wrapper.estimator_ = fitted
        wrapper.patches_ = ()
        return wrapper

    def predict(self, X: ArrayLike) -> Float[np.ndarray, "samples ..."]:
        """Return the estimator's answers plus the patches."""
        check_is_fitted(self)
        answers = np.asarray(self.estimator_.predict(X), dtype=np.float64)
        inputs = torch.from_numpy(np.ascontiguousarray(np.asarray(X, dtype=np.float64)))
        for patch in self.patches_:
            answers = answers + patch_change(patch, inputs).numpy().reshape(answers.shape)
        return answers

    def partial_patch(self, X_fix: ArrayLike, y_fix: ArrayLike, X_keep: ArrayLike) -> "PatchedRegressor":
        """Return a corrected model: ``y_fix`` at ``X_fix``, unchanged answers at ``X_keep``, elsewhere unknown.

        This object is left as it is. Earlier corrections last only where their samples are in ``X_keep``.

        Args:
            X_fix: samples to correct, ``[N, features]``.
            y_fix: the right answers, ``[N]`` or ``[N, outputs]``.
            X_keep: samples whose answers must not change, ``[K - N, features]``; may be empty.

        Raises:
            InputError: not fitted shapes, a sample both to fix and to keep, or as :func:`superpose.models.fit_patch`.
            PatchNotExact: as there.
        """
        check_is_fitted(self)
        fix, keep = (np.asarray(each, dtype=np.float64) for each in (X_fix, X_keep))
        if fix.ndim != 2:
            raise InputError(f"X_fix has shape {fix.shape}; allowed: [samples, features]")
        if keep.size == 0:
            keep = keep.reshape(0, fix.shape[1])
        if keep.ndim != 2 or keep.shape[1] != fix.shape[1]:
            raise InputError(f"X_keep has shape {keep.shape}; allowed: [samples, {fix.shape[1]}], as X_fix")
        patch = fit_patch(
            lambda x: torch.from_numpy(self.predict(x.numpy())),
            torch.from_numpy(np.concatenate([fix, keep])),
            torch.from_numpy(np.asarray(y_fix, dtype=np.float64)),
            range(len(fix)),
            self.depth,
            tries=self.tries,
            seed=self.random_state,
            tolerance=self.tolerance,
        )
        patched = type(self)(**self.get_params(deep=False))
        patched.estimator_ = self.estimator_
        patched.patches_ = (*self.patches_, patch)
        return patched
