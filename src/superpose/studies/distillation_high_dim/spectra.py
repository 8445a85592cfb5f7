"""The spectra, two-stage settings and kinds of labels that the study looks at. Imports no torch."""

import numpy as np

KINDS = (
    "true",
    "optimal",
    "mask",
)  # labels: of the truth, of the optimal surrogate, of the truth without weak features
FIGURE_LAW = (2.0, 1.5)  # alpha and beta of the paper's figures: lam = i^-alpha, lam b^2 = i^-beta
SCALING_LAWS = ((2.0, 1.5), (2.0, 3.0), (1.5, 6.0), (3.0, 8.5))  # two per branch of min(beta - 1, 2 alpha)
SIMULATED_LAW = (2.0, 3.0)  # of the scaling claim: steep enough for a thousand features to show the exponent
SHIFT_LAW = (1.5, 1.6)
SPECTRA = ("power law 2, 1.5", "power law 1.5, 3", "geometric", "two levels", "log-normal")

# Surrogate's exponent (the target's is 1.5), its samples and the target's as shares of the features, and both noises.
SHIFTS = {
    "same, 1/2 and 1/3": (1.5, 1 / 2, 1 / 3, 0.0, 0.0),
    "same, 1/3 and 1/2, noise": (1.5, 1 / 3, 1 / 2, 0.1, 0.1),
    "flatter, 5/6 and 2/5": (1.0, 5 / 6, 2 / 5, 0.0, 0.0),
    "flatter, 1/2 and 1/3, noise": (1.0, 1 / 2, 1 / 3, 0.1, 0.05),
    "steeper, 1/2 and 1/3": (3.0, 1 / 2, 1 / 3, 0.0, 0.0),
    "steeper, 1/3 and 1/2, noise": (3.0, 1 / 3, 1 / 2, 0.05, 0.05),
}
BEST_SHIFT = "steeper, 1/2 and 1/3"  # where a teacher from other data is to beat the truth


def power(features: int, exponent: float) -> np.ndarray:
    """Eigenvalues ``i^{-exponent}``."""
    return np.arange(1, features + 1, dtype=np.float64) ** -exponent


def spectrum(name: str, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and coordinates of the truth, ``[features]`` each."""
    rng = np.random.default_rng(0)
    if name.startswith("power law"):
        alpha, beta = (float(x) for x in name.removeprefix("power law ").split(", "))
        return power(features, alpha), power(features, (beta - alpha) / 2)
    truth = rng.standard_normal(features)
    if name == "geometric":
        return np.geomspace(1.0, 1e-3, features), truth
    if name == "two levels":
        return np.where(np.arange(features) < max(1, features // 10), 10.0, 0.1), truth
    if name == "log-normal":
        return np.exp(2 * rng.standard_normal(features)), truth
    raise ValueError(f"no spectrum is called {name!r}")


def counts(features: int, first: float, second: float) -> tuple[int, int]:
    """Samples of surrogate and target from shares of the features."""
    return round(features * first), round(features * second)
