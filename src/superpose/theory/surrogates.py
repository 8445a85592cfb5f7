"""The best linear teacher of a min-norm student: amplify strong features, shrink or drop weak ones.

The truth is not the best surrogate: what a student of n samples does not learn of a weak feature comes back as noise on
all others, so a teacher that says less about weak features teaches more. Coordinates, units and assumptions as in
:mod:`superpose.theory.ridgeless`; arXiv 2410.18837.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose
from superpose.theory.ridgeless import SpectralStats, checked_eigenvalues, spectral_stats, target_risk

MODES = ("optimal", "mask")


def surrogate_gain(eigenvalues: ArrayLike, samples: ArrayLike, mode: str = "optimal") -> Float[np.ndarray, "... p"]:
    """Return the factor by which the best teacher multiplies every coordinate of the truth; it depends on no label.

    ``optimal``: ``learned / (learned^2 + zeta^2 omega / (1 - omega))``, above 1 where ``learned > omega``, below 1
    where ``learned < omega``. ``mask``: 1 where ``1 - zeta^2 > omega``, else 0: the best that drops features only.

    Args:
        eigenvalues: ``[features]``, 0 or more.
        samples: of the student, below the number of positive eigenvalues, ``[*sweep]``.
        mode: "optimal" or "mask".

    Returns:
        ``[*sweep, features]``.

    Raises:
        InputError: unknown mode, or as :func:`superpose.theory.spectral_stats`.
    """
    choose("mode", mode, MODES)
    stats = spectral_stats(eigenvalues, samples)
    if mode == "mask":
        return _kept(stats).astype(np.float64)
    loss = np.square(stats.learned) + np.square(stats.zeta) * stats.inflation[..., None]
    return np.asarray(stats.learned / loss)


def optimal_surrogate(eigenvalues: ArrayLike, truth: ArrayLike, samples: ArrayLike) -> Float[np.ndarray, "... p"]:
    """Return the surrogate whose labels give a min-norm student of n samples the least risk.

    Args:
        eigenvalues: ``[features]``.
        truth: coordinates of the true coefficients, ``[*sweep, features]``.
        samples: of the student, ``[*sweep]``.
    """
    return _times(eigenvalues, truth, samples, "optimal")


def mask_surrogate(eigenvalues: ArrayLike, truth: ArrayLike, samples: ArrayLike) -> Float[np.ndarray, "... p"]:
    """Return the truth without the features that a student of n samples is better off not hearing of."""
    return _times(eigenvalues, truth, samples, "mask")


def kept_features(eigenvalues: ArrayLike, samples: ArrayLike) -> Bool[np.ndarray, "... p"]:
    """Return which features the best mask keeps: ``1 - zeta^2 > omega``.

    Where all are kept, no mask helps; so it is with equal eigenvalues.
    """
    return _kept(spectral_stats(eigenvalues, samples))


def optimal_risk(
    eigenvalues: ArrayLike, truth: ArrayLike, samples: ArrayLike, noise: float = 0.0
) -> Float[np.ndarray, "*sweep"]:
    """Return the risk under the best surrogate: no teacher of a min-norm student does better on average."""
    return target_risk(eigenvalues, truth, optimal_surrogate(eigenvalues, truth, samples), samples, noise)


def scaling_exponent(alpha: float, beta: float) -> float:
    """Return the rate r of ``risk ~ n^{-r}`` as the features grow without bound: ``min(beta - 1, 2 alpha)``.

    The same for true labels, the optimal surrogate and the best mask: a teacher gains a factor, not a rate. Noiseless.

    Args:
        alpha: eigenvalues fall as ``i^{-alpha}``, above 1.
        beta: eigenvalues times squared coordinates fall as ``i^{-beta}``, above 1.

    Raises:
        InputError: an exponent that is not above 1: the sums diverge.
    """
    _check_exponents(alpha=alpha, beta=beta)
    return min(beta - 1, 2 * alpha)


def scaling_limits(alpha: float) -> tuple[float, float]:
    """Return the limits of ``omega`` and ``tau n^alpha`` for eigenvalues ``i^{-alpha}`` of unboundedly many features.

    They are ``1 - 1 / alpha`` and ``((pi / alpha) / sin(pi / alpha))^alpha``. Where ``beta > 2 alpha + 1`` the first is
    also what the optimal surrogate's risk tends to, as a share of that of true labels.
    """
    _check_exponents(alpha=alpha)
    angle = math.pi / alpha
    return 1 - 1 / alpha, (angle / math.sin(angle)) ** alpha


def power_law(
    features: int, alpha: float, beta: float
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Return eigenvalues ``i^{-alpha}`` and the truth whose ``eigenvalue * coordinate^2`` is ``i^{-beta}``.

    The paper's figures have 500 features, alpha 2 and beta 1.5.

    Raises:
        InputError: fewer than one feature, or an exponent that is not above 1.
    """
    if features < 1:
        raise InputError(f"features is {features}; allowed: 1 or more")
    _check_exponents(alpha=alpha, beta=beta)
    index = np.arange(1, features + 1, dtype=np.float64)
    return index**-alpha, index ** ((alpha - beta) / 2)


def _kept(stats: SpectralStats) -> np.ndarray:
    return np.asarray(1 - np.square(stats.zeta) > stats.omega[..., None])


def _times(eigenvalues: ArrayLike, truth: ArrayLike, samples: ArrayLike, mode: str) -> np.ndarray:
    lam, b = checked_eigenvalues(eigenvalues), np.asarray(truth, dtype=np.float64)
    if b.ndim < 1 or b.shape[-1] != len(lam):
        raise InputError(f"truth has shape {b.shape}; allowed: one coordinate for each of {len(lam)} eigenvalues")
    if not np.isfinite(b).all():
        raise InputError("truth holds NaN or infinite entries; allowed: finite numbers")
    return b * surrogate_gain(lam, samples, mode)


def _check_exponents(**exponents: float) -> None:
    for name, exponent in exponents.items():
        if not 1 < exponent < math.inf:
            raise InputError(f"{name} is {exponent}; allowed: finite numbers above 1")
