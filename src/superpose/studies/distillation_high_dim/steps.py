"""Simulated students beside the closed forms: pure functions of plain data, memoised by the engine."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from superpose.experiment import current, step
from superpose.studies.distillation_high_dim.spectra import SHIFT_LAW, SHIFTS, counts, power, spectrum
from superpose.theory import (
    kept_features,
    mask_surrogate,
    min_norm_fit,
    optimal_surrogate,
    power_law,
    spectral_stats,
    target_risk,
    two_stage_risk,
    underparametrised_risk,
)
from superpose.training import seeded

AT_ONCE = 1 << 23  # entries of the inputs that are drawn together
KAPPA = 2.5  # features per sample where the spread of the risk is measured
CONCENTRATION_NOISE = 0.1
SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)  # of the truth, with more samples than features
CLASSICAL_NOISE = 0.1
TIE = 1e-6  # relative


def labellers(lam: np.ndarray, truth: np.ndarray, samples: int) -> np.ndarray:
    """The three kinds of surrogate, ``[kinds, features]``."""
    return np.stack([truth, optimal_surrogate(lam, truth, samples), mask_surrogate(lam, truth, samples)])


def _inputs(lam: Tensor, samples: int, runs: int, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU, so that every device sees the same data.
    return torch.randn(runs, samples, len(lam), generator=generator, dtype=torch.float64).to(lam) * lam.sqrt()


def simulate(
    lam: np.ndarray,
    truth: np.ndarray,
    surrogates: np.ndarray,
    samples: int,
    noises: Sequence[float],
    runs: int,
    generator: torch.Generator,
) -> np.ndarray:
    """Risks of min-norm students, ``[noises, surrogates, runs]``, all on the same inputs and noise in a run."""
    device = current().device
    variances, right, said = (torch.from_numpy(a.copy()).to(device) for a in (lam, truth, surrogates))
    found = []
    at_once = max(1, AT_ONCE // (samples * len(lam)))
    for start in range(0, runs, at_once):
        x = _inputs(variances, samples, min(at_once, runs - start), generator)
        unit = torch.randn(x.shape[:2], generator=generator, dtype=torch.float64).to(device)
        # A fit is linear in its labels: the noise needs one column of its own, whatever its size.
        fit = min_norm_fit(x, torch.cat([x @ said.mT, unit.unsqueeze(-1)], dim=-1))
        clean, added = fit[..., :-1], fit[..., -1:]
        missed = [clean + math.sqrt(noise) * added - right.unsqueeze(-1) for noise in noises]
        found.append(torch.stack([(variances.unsqueeze(-1) * m.square()).sum(-2) for m in missed]))
    return torch.cat(found, dim=1).transpose(1, 2).cpu().numpy()


@step(version="1", label="students of three kinds of labels")
def label_risks(
    features: int, alpha: float, beta: float, samples: int, noises: Sequence[float], runs: int, seed: int
) -> dict[str, np.ndarray]:
    """Simulated risks, ``[noises, kinds, runs]``, and the closed form's, ``[noises, kinds]``, on a power law."""
    lam, truth = power_law(features, alpha, beta)
    surrogates = labellers(lam, truth, samples)
    generator = seeded(seed, f"labels {samples}")
    return {
        "risks": simulate(lam, truth, surrogates, samples, noises, runs, generator),
        "theory": np.stack([target_risk(lam, truth, surrogates, samples, noise) for noise in noises]),
    }


@step(version="1", label="spread of the risk")
def deviations(features: int, runs: int, seed: int) -> dict[str, np.ndarray]:
    """Risks, ``[kinds, runs]``, and their closed form, ``[kinds]``, for eigenvalues between a half and three halves."""
    lam, truth = np.linspace(1.5, 0.5, features), np.full(features, features**-0.5)
    samples = round(features / KAPPA)
    surrogates = labellers(lam, truth, samples)
    generator = seeded(seed, f"spread {features}")
    return {
        "risks": simulate(lam, truth, surrogates, samples, [CONCENTRATION_NOISE], runs, generator)[0],
        "theory": target_risk(lam, truth, surrogates, samples, CONCENTRATION_NOISE),
    }


@step(version="1", label="numerical minimum of the risk")
def minimised(name: str, features: int, samples: int) -> dict[str, Any]:
    """Minimise the closed-form risk by conjugate gradients, which know its values only, and compare.

    The risk is a quadratic in the surrogate, so that central differences are its exact gradient at any step.

    Returns:
        ``difference``: the largest relative one between a coordinate of the minimum and the formula's; ``agree`` and
        ``checked``: coordinates whose amplification or shrinkage the criterion gets right, of those not tied;
        ``gain``: numerical surrogate over truth, ``[features]``; ``amplified`` coordinates by the formula.
    """
    lam, truth = spectrum(name, features)
    # In units in which the curvature is even.
    unit = 1 / np.sqrt(lam)
    scale = float(np.sqrt((lam * truth**2).mean()))
    moves = scale * np.concatenate([np.eye(features), -np.eye(features)])

    def gradient(scaled: np.ndarray) -> np.ndarray:
        ahead, behind = np.split(target_risk(lam, truth, (scaled + moves) * unit, samples), 2)
        return (ahead - behind) / (2 * scale)

    start = gradient(np.zeros(features))
    # Its stub does not know that the class builds itself from functions.
    curvature = cast(Any, LinearOperator)((features, features), matvec=lambda v: gradient(v) - start, dtype=np.float64)
    end, _ = cg(curvature, -start, rtol=1e-13, maxiter=200)
    gain = end * unit / truth
    stats = spectral_stats(lam, samples)
    wanted = optimal_surrogate(lam, truth, samples) / truth
    told = np.abs(gain - 1) > TIE
    agree = (np.abs(gain) > 1) == (stats.learned > stats.omega)
    return {
        "difference": float((np.abs(gain - wanted) / np.abs(wanted)).max()),
        "agree": int((agree & told).sum()),
        "checked": int(told.sum()),
        "gain": gain,
        "amplified": int((stats.learned > stats.omega).sum()),
    }


@step(version="1", label="all masks")
def masks(name: str, features: int, samples: int) -> dict[str, Any]:
    """Compare the criterion's mask with the best of all ``2^features``; ``differs`` counts coordinates."""
    lam, truth = spectrum(name, features)
    every = (np.arange(1 << features)[:, None] >> np.arange(features)) & 1
    risks = target_risk(lam, truth, every * truth, samples)
    kept = kept_features(lam, samples)
    return {"differs": int((every[risks.argmin()] != kept).sum()), "kept": int(kept.sum())}


@step(version="1", label="single changes of a mask")
def mask_changes(name: str, features: int, samples: int) -> dict[str, Any]:
    """How the closed-form risk changes when one coordinate enters or leaves the criterion's mask.

    Returns:
        ``smallest``: the least change as a share of the risk, 0 or more if the mask is the best (every coordinate's
        part of the risk is its own); ``kept`` coordinates, and ``improvement`` over true labels.
    """
    lam, truth = spectrum(name, features)
    kept = kept_features(lam, samples)
    own = float(target_risk(lam, truth, truth * kept, samples))
    changed = target_risk(lam, truth, truth * (kept ^ np.eye(features, dtype=bool)), samples)
    return {
        "smallest": float(changed.min() - own) / own,
        "kept": int(kept.sum()),
        "improvement": 1 - own / float(target_risk(lam, truth, truth, samples)),
    }


@step(version="1", label="closed-form scaling")
def scaling(features: int, alpha: float, beta: float, samples: Sequence[int]) -> np.ndarray:
    """Noiseless risks, ``[kinds, samples]``, of the closed form."""
    lam, truth = power_law(features, alpha, beta)
    # One number of samples at a time: a sweep would hold a row of all features for each.
    return np.stack([target_risk(lam, truth, labellers(lam, truth, n), n) for n in samples], axis=1)


@step(version="1", label="surrogates from other data")
def two_stages(setting: str, features: int, runs: int, seed: int) -> dict[str, Any]:
    """Students of a fitted surrogate, and of true labels on the same inputs and noise.

    Returns:
        ``risks`` ``[runs]`` of the surrogate's students, ``theory`` of them, ``true_risks`` and ``true_theory``, and
        ``optimal_theory``, what the best surrogate would reach.
    """
    exponent, first, second, surrogate_noise, noise = SHIFTS[setting]
    m, n = counts(features, first, second)
    lam, truth = power_law(features, *SHIFT_LAW)
    seen = power(features, exponent)
    generator = seeded(seed, f"two stages {setting}")
    device = current().device
    variances, others, right = (torch.from_numpy(a.copy()).to(device) for a in (lam, seen, truth))

    def unit(samples: int) -> Tensor:
        return torch.randn(runs, samples, 1, generator=generator, dtype=torch.float64).to(device)

    x = _inputs(others, m, runs, generator)
    surrogate = min_norm_fit(x, (x @ right).unsqueeze(-1) + math.sqrt(surrogate_noise) * unit(m))
    x = _inputs(variances, n, runs, generator)
    labels = torch.cat([x @ surrogate, (x @ right).unsqueeze(-1)], dim=-1) + math.sqrt(noise) * unit(n)
    missed = min_norm_fit(x, labels) - right.unsqueeze(-1)
    risks = (variances.unsqueeze(-1) * missed.square()).sum(-2).cpu().numpy()
    theory = two_stage_risk(
        lam,
        truth,
        n,
        surrogate_samples=m,
        surrogate_eigenvalues=seen,
        noise=noise,
        surrogate_noise=surrogate_noise,
    )
    return {
        "risks": risks[:, 0],
        "theory": float(theory),
        "true_risks": risks[:, 1],
        "true_theory": float(target_risk(lam, truth, truth, n, noise)),
        "optimal_theory": float(target_risk(lam, truth, optimal_surrogate(lam, truth, n), n, noise)),
    }


@step(version="1", label="more samples than features")
def classical(features: int, samples: int, runs: int, seed: int) -> dict[str, np.ndarray]:
    """Least squares on labels of the scaled truth: risks ``[scales, runs]`` and the closed form's ``[scales]``."""
    lam, truth = power_law(features, *SHIFT_LAW)
    surrogates = np.stack([scale * truth for scale in SCALES])
    generator = seeded(seed, f"classical {samples}")
    return {
        "risks": simulate(lam, truth, surrogates, samples, [CLASSICAL_NOISE], runs, generator)[0],
        "theory": underparametrised_risk(lam, truth, surrogates, samples, CLASSICAL_NOISE),
    }
