"""Shaping a linear teacher for a student with few samples, and whether its labels beat the true ones.

    teacher = SurrogateDesigner(samples=200).fit(unlabelled, strong_head)  # strong_head: coefficients, [features]
    student = MinNormRegressor().fit(few, teacher.label(few))
    print(weak_to_strong(unlabelled, unlabelled @ strong_head, teacher.label(unlabelled), samples=200))

Needs scikit-learn (``pip install 'superpose[lab]'``). Paper: arXiv 2410.18837; the plug-in estimates are ours.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose, require
from superpose.theory.min_norm import min_norm_fit
from superpose.theory.ridgeless import checked_samples, eigen_coordinates, target_risk
from superpose.theory.surrogates import MODES, surrogate_gain

require("sklearn", "lab")
from sklearn.base import BaseEstimator  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402
from sklearn.utils.validation import validate_data as _validate_data  # noqa: E402

CONFIDENCE = 0.95
ROUNDING = 1e-20  # share of the labels' square up to which a risk is what rounding leaves of 0
_checked: Any = _validate_data  # whose own annotations are wrong (X: str)


class SurrogateDesigner(BaseEstimator):
    """Turns a strong linear head into the teacher from which a min-norm student of n samples learns best.

    Plug-in: the covariance is estimated from unlabelled inputs, the truth from the head. Inputs are not centred (their
    mean counts as a direction), and the number of unlabelled inputs should exceed the features several times.

    Args:
        samples: n, labelled samples that the student will have.
        mode: "optimal" (amplify strong features, shrink weak ones) or "mask" (only drop weak ones).

    Attributes:
        coef_: the teacher's coefficients, shaped as the head's; the weight of a ``torch.nn.Linear`` without bias.
        eigenvalues_: of the inputs' second moment, falling, ``[features]``.
        components_: their eigenvectors, one per row, ``[features, features]``.
        gain_: what the teacher multiplies each of them by, ``[features]``.
        risk_: predicted excess risk of a student of noiseless labels of this teacher, summed over outputs.
        true_risk_: the same for labels of the head itself.

    Raises:
        InputError: scikit-learn is missing; ``samples`` is not below the rank of the inputs; shapes that differ.
    """

    def __init__(self, samples: int, mode: str = "optimal") -> None:
        self.samples = samples
        self.mode = mode

    def fit(self, X: Any, coef: ArrayLike) -> "SurrogateDesigner":
        """Shape the teacher.

        Args:
            X: unlabelled inputs, ``[inputs, features]``.
            coef: of the strong head, ``[features]`` or ``[outputs, features]``.
        """
        choose("mode", self.mode, MODES)
        inputs = _checked(self, X, dtype=np.float64)
        head = np.asarray(coef, dtype=np.float64)
        if head.ndim not in (1, 2) or head.shape[-1] != inputs.shape[1]:
            raise InputError(
                f"coef has shape {head.shape}; allowed: [{inputs.shape[1]}] or [outputs, {inputs.shape[1]}], a "
                "coefficient per feature"
            )
        lam, coordinates, vectors = eigen_coordinates(inputs.T @ inputs / len(inputs), head)
        self.gain_ = surrogate_gain(lam, self.samples, self.mode)
        self.eigenvalues_, self.components_ = lam, vectors.T
        self.coef_ = (coordinates * self.gain_) @ vectors.T
        rows = coordinates.reshape(-1, len(lam))
        self.risk_ = sum(float(target_risk(lam, row, row * self.gain_, self.samples)) for row in rows)
        self.true_risk_ = sum(float(target_risk(lam, row, row, self.samples)) for row in rows)
        return self

    def label(self, X: Any) -> np.ndarray:
        """Return the teacher's labels, ``[inputs]`` or ``[inputs, outputs]``."""
        check_is_fitted(self)
        inputs = _checked(self, X, dtype=np.float64, reset=False)
        return inputs @ self.coef_.T

    def predict(self, X: Any) -> np.ndarray:
        """:meth:`label`, under the name that pipelines call."""
        return self.label(X)


@dataclass(frozen=True)
class WeakToStrongReport:
    """True labels against a surrogate's, for students of the same inputs and the same noise.

    Attributes:
        samples: labelled samples of every student.
        true_risks: squared error of the students of true labels, ``[runs]``.
        surrogate_risks: that of the students of surrogate labels on the same inputs, ``[runs]``.
        improvement: ``1 - mean(surrogate_risks) / mean(true_risks)``; below 0 the surrogate's labels are worse.
        low: lower end of its interval.
        high: upper end: Student's t, 95 %, over runs, on the linearised ratio.
    """

    samples: int
    true_risks: Float[np.ndarray, " runs"]
    surrogate_risks: Float[np.ndarray, " runs"]
    improvement: float
    low: float
    high: float

    def __str__(self) -> str:
        verdict = "beat" if self.low > 0 else "lose to" if self.high < 0 else "cannot be told from"
        return (
            f"with {self.samples} samples surrogate labels {verdict} true labels: risk "
            f"{self.surrogate_risks.mean():.4g} against {self.true_risks.mean():.4g}, improvement "
            f"{self.improvement:.1%} [{self.low:.1%}, {self.high:.1%}] over {len(self.true_risks)} runs"
        )


def weak_to_strong(
    inputs: ArrayLike,
    true_labels: ArrayLike,
    surrogate_labels: ArrayLike,
    samples: int,
    *,
    noise: float = 0.0,
    runs: int = 40,
    seed: int = 0,
    test_inputs: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
) -> WeakToStrongReport:
    """Fit min-norm students on random subsets of a pool, once per kind of label, and compare them in pairs.

    Args:
        inputs: the pool, ``[pool, features]``.
        true_labels: ``[pool]`` or ``[pool, outputs]``.
        surrogate_labels: the same shape, from the teacher in question.
        samples: of every student.
        noise: variance of noise that is added to both labels, the same draw for both.
        runs: subsets; at least 2.
        seed: of subsets and noise.
        test_inputs: where the risk is taken, ``[tests, features]``; default what a subset leaves of the pool. Not
            independent of the subsets, the pool's rests make intervals slightly too short.
        test_labels: true labels there.

    Raises:
        InputError: shapes that differ, NaN or infinite entries, a subset that leaves nothing of the pool, counts out of
            range, or true labels that are learned without error, so that nothing is left to improve.
    """
    x = _tensor("inputs", inputs)
    if x.ndim != 2:
        raise InputError(f"inputs has shape {tuple(x.shape)}; allowed: [pool, features]")
    true, surrogate = (
        _columns("true_labels", true_labels, len(x)),
        _columns("surrogate_labels", surrogate_labels, len(x)),
    )
    if true.shape != surrogate.shape:
        raise InputError(f"surrogate_labels has {surrogate.shape[1]} outputs; allowed: {true.shape[1]}, as true_labels")
    if (test_inputs is None) != (test_labels is None):
        raise InputError("test_inputs and test_labels: one is given without the other; allowed: both or neither")
    count = int(checked_samples(samples))
    if test_inputs is None and count >= len(x):
        raise InputError(f"samples is {count} of a pool of {len(x)}; allowed: fewer, or give test_inputs")
    if count > len(x):
        raise InputError(f"samples is {count}; allowed: at most the pool's {len(x)}")
    if runs < 2:
        raise InputError(f"runs is {runs}; allowed: 2 or more")
    if not 0 <= noise < math.inf:
        raise InputError(f"noise is {noise}; allowed: a finite variance of 0 or more")
    held_out = None
    if test_inputs is not None and test_labels is not None:
        held = _tensor("test_inputs", test_inputs)
        if held.ndim != 2 or held.shape[1] != x.shape[1]:
            raise InputError(f"test_inputs has shape {tuple(held.shape)}; allowed: [tests, {x.shape[1]}]")
        held_out = held, _columns("test_labels", test_labels, len(held))
    rng = np.random.default_rng(seed)
    risks = np.empty((runs, 2))
    for run in range(runs):
        order = torch.from_numpy(rng.permutation(len(x)))
        drawn, rest = order[:count], order[count:]
        added = math.sqrt(noise) * torch.from_numpy(rng.standard_normal((count, true.shape[1])))
        both = torch.cat([true[drawn] + added, surrogate[drawn] + added], dim=1)
        fit = min_norm_fit(x[drawn], both)
        at, wanted = held_out or (x[rest], true[rest])
        missed = (at @ fit - wanted.repeat(1, 2)).square().mean(0)
        risks[run] = missed.reshape(2, -1).sum(1).numpy()
    size = float((held_out[1] if held_out else true).square().mean(0).sum())
    return _report(count, risks[:, 0], risks[:, 1], ROUNDING * size)


def _report(samples: int, true: np.ndarray, surrogate: np.ndarray, least: float) -> WeakToStrongReport:
    from scipy.special import stdtrit

    runs, mean = len(true), float(true.mean())
    if not mean > least:
        raise InputError(f"samples is {samples}: true labels are learned without any error there; allowed: fewer")
    ratio = float(surrogate.mean()) / mean
    error = float((surrogate - ratio * true).std(ddof=1)) / (mean * math.sqrt(runs))
    half = float(stdtrit(runs - 1, 0.5 + CONFIDENCE / 2)) * error
    return WeakToStrongReport(samples, true, surrogate, 1 - ratio, 1 - ratio - half, 1 - ratio + half)


def _columns(name: str, labels: ArrayLike, rows: int) -> torch.Tensor:
    values = _tensor(name, labels)
    if values.ndim not in (1, 2) or len(values) != rows:
        raise InputError(f"{name} has shape {tuple(values.shape)}; allowed: a label for each of {rows} inputs")
    return values.reshape(rows, -1)


def _tensor(name: str, values: ArrayLike) -> torch.Tensor:
    # torch warns of arrays that may not be written to, such as memory maps.
    tensor = torch.from_numpy(np.require(values, dtype=np.float64, requirements="W"))
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name} holds NaN or infinite entries; allowed: finite numbers")
    return tensor
