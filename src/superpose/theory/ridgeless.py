"""Ridgeless (min-norm) regression on a surrogate's labels: exact risks in high dimension.

Gaussian inputs with covariance S in p dimensions, n samples, labels ``x^T surrogate + noise``; the target model is the
interpolator of least norm, its risk the excess ``||S^{1/2} (fit - truth)||^2`` over the truth. All vectors are
coordinates in the eigenbasis of S (:func:`eigen_coordinates` rotates them there). Ildiz, Gozeten, Taga, Mondelli and
Oymak, "High-dimensional Analysis of Knowledge Distillation" (arXiv 2410.18837). Labels have one arbitrary unit;
eigenvalues are variances of the inputs, noise is a variance of the labels, and so is a risk.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from superpose.errors import InputError

_ITERATIONS = 200  # bisection alone would need some 60; Newton takes about 6
_TOLERANCE = 1e-14  # of ln tau
_ROUNDING = 1e-8  # share of the largest entry by which a covariance may miss symmetry and positivity


@dataclass(frozen=True)
class SpectralStats:
    """What a spectrum and a number of samples make of min-norm regression; ``sweep`` are the axes of ``samples``.

    Attributes:
        tau: the root of ``sum_i lam_i / (lam_i + tau) = n``, in units of the eigenvalues.
        zeta: ``tau / (lam + tau)``, the share of every feature that is not learned.
        learned: ``1 - zeta``, computed without cancellation.
        omega: ``(1 / n) sum_i learned_i^2``, in (0, 1).
        inflation: ``omega / (1 - omega)``: how strongly noise, and what is not learned, come back as risk.
    """

    tau: Float[np.ndarray, "*sweep"]
    zeta: Float[np.ndarray, "*sweep features"]
    learned: Float[np.ndarray, "*sweep features"]
    omega: Float[np.ndarray, "*sweep"]
    inflation: Float[np.ndarray, "*sweep"]


def spectral_stats(eigenvalues: ArrayLike, samples: ArrayLike) -> SpectralStats:
    """Solve for tau and what follows from it.

    Args:
        eigenvalues: of the covariance, ``[features]``, 0 or more; zeros change nothing.
        samples: n, or several, ``[*sweep]``: whole numbers from 1 to one less than the positive eigenvalues.

    Raises:
        InputError: an eigenvalue that is none, or a number of samples at which there is no tau.
    """
    lam = checked_eigenvalues(eigenvalues)
    counts = checked_samples(samples)
    rank = int((lam > 0).sum())
    if counts.size and counts.max() >= rank:
        raise InputError(
            f"samples is {counts.max()}; allowed: fewer than the {rank} positive eigenvalues (with as many or more no "
            "tau solves the equation; there use underparametrised_risk)"
        )
    positive = lam[lam > 0]
    tau = np.array([_tau(positive, int(n)) for n in counts.ravel()]).reshape(counts.shape)
    below = lam + tau[..., None]
    learned, zeta = lam / below, tau[..., None] / below
    omega = np.square(learned).sum(-1) / counts
    # 1 - omega, as a sum of positive terms.
    rest = (learned * zeta).sum(-1) / counts
    return SpectralStats(*(np.asarray(x) for x in (tau, zeta, learned, omega, omega / rest)))


def target_risk(
    eigenvalues: ArrayLike, truth: ArrayLike, surrogate: ArrayLike, samples: ArrayLike, noise: float = 0.0
) -> Float[np.ndarray, "*sweep"]:
    """Return the risk of min-norm regression on n labels of any surrogate.

    ``sum lam (learned surrogate - truth)^2 + omega / (1 - omega) (noise + sum lam zeta^2 surrogate^2)``: what the risk
    of one data set concentrates around as features and samples grow together. With ``surrogate = truth`` it is the risk
    of true labels.

    Args:
        eigenvalues: of the covariance, ``[features]``, 0 or more.
        truth: coordinates of the true coefficients, ``[features]``.
        surrogate: coordinates of those that label, ``[*sweep, features]``.
        samples: n below the number of positive eigenvalues, ``[*sweep]``; broadcast with the surrogates.
        noise: variance on every label, the surrogate's too.

    Returns:
        One risk per element of the sweep (an array without axes for one).

    Raises:
        InputError: as :func:`spectral_stats`; lengths that differ; a noise below 0.
    """
    lam = checked_eigenvalues(eigenvalues)
    b, labelling = _coordinates("truth", truth, lam), _coordinates("surrogate", surrogate, lam, sweep=True)
    _check_noise(noise=noise)
    stats = spectral_stats(lam, samples)
    bias = (lam * np.square(stats.learned * labelling - b)).sum(-1)
    unlearned = (lam * np.square(stats.zeta * labelling)).sum(-1)
    return np.asarray(bias + stats.inflation * (noise + unlearned))


def min_norm_law(
    eigenvalues: ArrayLike, truth: ArrayLike, samples: int, noise: float = 0.0
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Return the mean and the variance of every coordinate of a min-norm fit to true labels.

    Args:
        eigenvalues: of the covariance, ``[features]``.
        truth: coordinates of the true coefficients, ``[features]``.
        samples: n, one number.
        noise: variance of the labels.

    Raises:
        InputError: as :func:`target_risk`.
    """
    lam = checked_eigenvalues(eigenvalues)
    b = _coordinates("truth", truth, lam)
    _check_noise(noise=noise)
    stats = spectral_stats(lam, samples)
    if stats.tau.ndim:
        raise InputError(f"samples has shape {stats.tau.shape}; allowed: one number")
    scale = (noise + (lam * np.square(stats.zeta * b)).sum()) * (1 + stats.inflation) / samples
    # learned^2 / lam, in a form that has a value where lam is 0.
    return stats.learned * b, scale * lam / np.square(lam + stats.tau)


def two_stage_risk(
    eigenvalues: ArrayLike,
    truth: ArrayLike,
    samples: ArrayLike,
    *,
    surrogate_samples: int,
    surrogate_eigenvalues: ArrayLike | None = None,
    noise: float = 0.0,
    surrogate_noise: float = 0.0,
) -> Float[np.ndarray, "*sweep"]:
    """Return the risk of a target whose surrogate was itself fitted, on other data of the same eigenbasis.

    The surrogate is the min-norm fit to ``surrogate_samples`` true labels; :func:`target_risk` is averaged over its
    mean and variance (:func:`min_norm_law`).

    Args:
        eigenvalues: of the target's inputs, ``[features]``.
        truth: coordinates of the true coefficients, ``[features]``.
        samples: of the target, ``[*sweep]``; fresh inputs, labelled by the surrogate.
        surrogate_samples: of the surrogate.
        surrogate_eigenvalues: variances of the surrogate's inputs in the same eigenbasis, in the same order; default
            those of the target.
        noise: variance that is added to the surrogate's labels.
        surrogate_noise: variance of the labels that the surrogate is fitted to.

    Raises:
        InputError: as :func:`target_risk`.
    """
    lam = checked_eigenvalues(eigenvalues)
    b = _coordinates("truth", truth, lam)
    seen = lam if surrogate_eigenvalues is None else checked_eigenvalues(surrogate_eigenvalues, "surrogate_eigenvalues")
    if len(seen) != len(lam):
        raise InputError(f"surrogate_eigenvalues has {len(seen)} entries; allowed: {len(lam)}, one per eigenvalue")
    _check_noise(noise=noise, surrogate_noise=surrogate_noise)
    mean, variance = min_norm_law(seen, b, surrogate_samples, surrogate_noise)
    stats = spectral_stats(lam, samples)
    spread = (lam * np.square(stats.learned) * variance).sum(-1)
    more = stats.inflation * (lam * np.square(stats.zeta) * variance).sum(-1)
    return np.asarray(target_risk(lam, b, mean, samples, noise) + spread + more)


def underparametrised_risk(
    eigenvalues: ArrayLike, truth: ArrayLike, surrogate: ArrayLike, samples: ArrayLike, noise: float = 0.0
) -> Float[np.ndarray, "*sweep"]:
    """Return the expected risk of least squares with more samples than features: the truth is the best surrogate.

    ``sum lam (surrogate - truth)^2 + noise p / (n - p - 1)``, exact for Gaussian inputs at any size.

    Args:
        eigenvalues: of the covariance, ``[features]``; p counts the positive ones.
        truth: coordinates of the true coefficients, ``[features]``.
        surrogate: coordinates of those that label, ``[*sweep, features]``.
        samples: n of p + 2 or more, ``[*sweep]``.
        noise: variance on every label.

    Raises:
        InputError: too few samples, or as :func:`target_risk`.
    """
    lam = checked_eigenvalues(eigenvalues)
    b, labelling = _coordinates("truth", truth, lam), _coordinates("surrogate", surrogate, lam, sweep=True)
    _check_noise(noise=noise)
    counts, rank = checked_samples(samples), int((lam > 0).sum())
    if counts.size and counts.min() < rank + 2:
        raise InputError(
            f"samples is {counts.min()}; allowed: {rank + 2} or more for {rank} features (with as many samples as "
            "features, or one more, the expected risk is infinite; with fewer use target_risk)"
        )
    return np.asarray((lam * np.square(labelling - b)).sum(-1) + noise * rank / (counts - rank - 1))


def eigen_coordinates(
    covariance: ArrayLike, coefficients: ArrayLike
) -> tuple[
    Float[np.ndarray, " features"], Float[np.ndarray, "*outputs features"], Float[np.ndarray, "features features"]
]:
    """Return eigenvalues (falling), coordinates of the coefficients, and the eigenvectors as columns.

    Args:
        covariance: symmetric and without negative eigenvalues, ``[features, features]``.
        coefficients: ``[*outputs, features]``; ``coordinates @ vectors.T`` gives them back.

    Raises:
        InputError: a covariance that is none, or lengths that differ.
    """
    s = np.asarray(covariance, dtype=np.float64)
    if s.ndim != 2 or s.shape[0] != s.shape[1] or not s.size:
        raise InputError(f"covariance has shape {s.shape}; allowed: a square matrix")
    if not np.isfinite(s).all():
        raise InputError("covariance holds NaN or infinite entries; allowed: finite numbers")
    scale = float(np.abs(s).max())
    if (apart := float(np.abs(s - s.T).max())) > _ROUNDING * scale:
        raise InputError(f"covariance is not symmetric: entries differ from their mirror images by up to {apart:.3g}")
    lam, vectors = np.linalg.eigh((s + s.T) / 2)
    if lam[0] < -_ROUNDING * scale:
        raise InputError(f"covariance has the eigenvalue {lam[0]:.3g}; allowed: 0 or more")
    coordinates = _coordinates("coefficients", coefficients, lam, sweep=True) @ vectors
    # What rounding leaves of a zero must not count as a dimension.
    lam = np.where(lam > max(lam[-1], 0.0) * len(lam) * np.finfo(np.float64).eps, lam, 0.0)
    # Copies: torch takes no arrays that run backwards.
    return lam[::-1].copy(), coordinates[..., ::-1].copy(), vectors[:, ::-1].copy()


def checked_eigenvalues(eigenvalues: ArrayLike, argument: str = "eigenvalues") -> Float[np.ndarray, " features"]:
    """Return eigenvalues as float64, having refused what no covariance has.

    Raises:
        InputError: nothing there, more than one axis, or a value that is NaN, infinite or negative.
    """
    lam = np.asarray(eigenvalues, dtype=np.float64)
    if lam.ndim != 1 or not lam.size:
        raise InputError(f"{argument} has shape {lam.shape}; allowed: one axis with at least one eigenvalue")
    wrong = ~(np.isfinite(lam) & (lam >= 0))
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(f"{argument}[{at}] is {lam[at]}; allowed: finite numbers >= 0")
    return lam


def checked_samples(samples: ArrayLike, argument: str = "samples") -> Int[np.ndarray, "*sweep"]:
    """Return numbers of samples as integers.

    Raises:
        InputError: not whole numbers of 1 or more.
    """
    counts = np.asarray(samples)
    if not np.issubdtype(counts.dtype, np.integer):
        raise InputError(f"{argument} is {samples!r}; allowed: whole numbers")
    if counts.size and counts.min() < 1:
        raise InputError(f"{argument} is {counts.min()}; allowed: 1 or more")
    return counts


def _tau(lam: np.ndarray, n: int) -> float:
    """Newton's method on ln(sum) against ln(tau), nearly a straight line for power laws, inside a bracket."""
    low = float(np.log(lam.min()) + np.log((len(lam) - n) / n))
    high = float(np.log(lam.sum()) - np.log(n))
    at, target = high, np.log(n)
    for _ in range(_ITERATIONS):
        learned = lam / (lam + np.exp(at))
        total = learned.sum()
        value = np.log(total) - target
        low, high = (at, high) if value > 0 else (low, at)
        moved = float(at + value / (1 - np.square(learned).sum() / total))
        if not low <= moved <= high:
            moved = (low + high) / 2
        if abs(moved - at) <= _TOLERANCE * max(1.0, abs(at)):
            return float(np.exp(moved))
        at = moved
    return float(np.exp(at))


def _coordinates(name: str, values: ArrayLike, lam: np.ndarray, sweep: bool = False) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim < 1 or x.shape[-1] != len(lam) or (x.ndim > 1 and not sweep):
        allowed = f"[..., {len(lam)}]" if sweep else f"[{len(lam)}]"
        raise InputError(f"{name} has shape {x.shape}; allowed: {allowed}, one coordinate per eigenvalue")
    if not np.isfinite(x).all():
        raise InputError(f"{name} holds NaN or infinite entries; allowed: finite numbers")
    return x


def _check_noise(**noises: float) -> None:
    for name, noise in noises.items():
        if not 0 <= noise < np.inf:
            raise InputError(f"{name} is {noise}; allowed: a finite variance of 0 or more")
