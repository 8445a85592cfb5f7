"""Where the task vectors of mixtures lie among the pure ones: numpy arrays in, numpy arrays and numbers out."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from superpose.errors import InputError, require

MOST_EXACT_PERMUTATIONS = 5040
SAME = 1e-12


def segment_coefficient(
    mix: Float[np.ndarray, "*batch width"], a: Float[np.ndarray, " width"], b: Float[np.ndarray, " width"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Return where vectors project on the segment from a to b, and how far they lie from its line.

    Returns:
        The coefficient (0 at a, 1 at b, outside 0..1 beyond the ends), and the length of what is orthogonal to the
        segment, in units of ``|a - b|``.

    Raises:
        InputError: a and b coincide.
    """
    mix, a, b = (np.asarray(x, dtype=np.float64) for x in (mix, a, b))
    direction = b - a
    length = np.linalg.norm(direction)
    if length <= SAME * max(np.linalg.norm(a), np.linalg.norm(b), 1e-300):
        raise InputError("a and b are the same vector; a segment needs two different ends")
    coefficient = np.asarray((mix - a) @ direction / length**2)
    orthogonal = mix - a - coefficient[..., None] * direction
    return coefficient, np.asarray(np.linalg.norm(orthogonal, axis=-1) / length)


def barycentric(
    mix: Float[np.ndarray, "*batch width"], centroids: Float[np.ndarray, "k width"]
) -> Float[np.ndarray, "*batch k"]:
    """Return the weights with sum 1 whose combination of the centroids is nearest; weights may be negative.

    For two centroids the second weight is `segment_coefficient`.

    Raises:
        InputError: fewer than two centroids, or centroids on a common line (plane, ...) where weights are not unique.
    """
    mix, centroids = np.asarray(mix, dtype=np.float64), _centroids(centroids)
    edges = (centroids[1:] - centroids[0]).T
    if np.linalg.matrix_rank(edges) < len(centroids) - 1:
        raise InputError("centroids are affinely dependent, so the weights are not unique")
    flat = (mix - centroids[0]).reshape(-1, mix.shape[-1]).T
    rest = np.linalg.lstsq(edges, flat, rcond=None)[0].T
    weights = np.concatenate([1 - rest.sum(1, keepdims=True), rest], axis=1)
    return weights.reshape(*mix.shape[:-1], len(centroids))


def kappa(
    mix: Float[np.ndarray, " width"],
    centroids: Float[np.ndarray, "k width"],
    proportions: Float[np.ndarray, " shares"],
) -> float:
    """Return how far a mixture's vector went where linear superposition predicts: 1 all the way, 0 not at all.

    ``<mix - c, pred - c> / |pred - c|^2`` with ``pred`` the centroids weighted by the proportions and ``c`` their
    plain mean.

    Raises:
        InputError: the prediction is the plain mean (uniform proportions), or wrong proportions.
    """
    return float(_kappas(np.asarray(mix)[None], centroids, np.asarray(proportions)[None])[0, 0])


class PermutationNull(NamedTuple):
    """Mean kappa against its distribution when mixtures and proportions are matched at random.

    Attributes:
        observed: mean kappa of the true matching.
        null: mean kappa of the other matchings (all of them, or those drawn).
        p_value: share of matchings, the true one among them, whose mean kappa is at least the observed one.
        exact: whether every matching was tried.
    """

    observed: float
    null: Float[np.ndarray, " permutations"]
    p_value: float
    exact: bool


def kappa_permutation_null(
    mixes: Float[np.ndarray, "mixtures width"],
    centroids: Float[np.ndarray, "k width"],
    proportions: Float[np.ndarray, "rows shares"],
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> PermutationNull:
    """Test whether mixtures lie where their own proportions predict, rather than where others' do.

    Args:
        mixes: one mean vector per mixture.
        centroids: pure mean vectors.
        proportions: one row per mixture; none uniform, where kappa is undefined.
        rng: needed only where there are more than 5040 matchings (8 mixtures or more), which are then sampled.
        samples: how many matchings are drawn in that case.

    Raises:
        InputError: fewer than two mixtures, a uniform one, wrong shapes, or no rng where it is needed.
    """
    table = _kappas(mixes, centroids, proportions)
    count = len(table)
    if count < 2 or table.shape[1] != count:
        raise InputError(f"mixes has {count} rows and proportions {table.shape[1]}; give 2 or more of each, matched")
    exact = math.factorial(count) <= MOST_EXACT_PERMUTATIONS
    if exact:
        matchings = np.array(list(itertools.permutations(range(count))))[1:]
    elif rng is None or samples < 1:
        raise InputError(f"rng is None; {count} mixtures have too many matchings to try all: give a generator")
    else:
        matchings = np.array([rng.permutation(count) for _ in range(samples)])
    observed = float(np.trace(table) / count)
    null = table[np.arange(count), matchings].mean(axis=1)
    at_least = int(np.sum(null >= observed - SAME * max(abs(observed), 1)))
    return PermutationNull(observed, null, (1 + at_least) / (1 + len(null)), exact)


class LinearFit(NamedTuple):
    """A unit vector fitted by others: ``coefficients @ centroids + intercept``, and the length of what is left."""

    coefficients: Float[np.ndarray, " k"]
    intercept: float
    residual: float


def linear_fit_residual(mix: Float[np.ndarray, " width"], centroids: Float[np.ndarray, "k width"]) -> LinearFit:
    """Regress a mixture's unit vector, with intercept, on the pure unit vectors (arXiv 2410.05603, task vectors).

    The observations of the regression are the dimensions. The residual is 0 for a linear combination and at most 1.

    Raises:
        InputError: a zero vector, or fewer than two centroids.
    """
    pure = _centroids(centroids)
    mix = np.asarray(mix, dtype=np.float64)
    lengths = np.linalg.norm(np.vstack([pure, mix]), axis=1)
    if not lengths.all():
        raise InputError("centroids or mix has a zero vector, which has no direction")
    predictors = np.column_stack([(pure / lengths[:-1, None]).T, np.ones(len(mix))])
    target = mix / lengths[-1]
    solution = np.linalg.lstsq(predictors, target, rcond=None)[0]
    residual = float(np.linalg.norm(target - predictors @ solution))
    return LinearFit(solution[:-1], float(solution[-1]), residual)


@dataclass(frozen=True)
class LdaFit:
    """Discriminant axes of the pure tasks, and everything held out projected on them.

    Attributes:
        components: ``[width, axes]``, strongest first.
        mean: ``[width]``, the origin of the projections: the mean of the vectors fitted on.
        projections: name -> ``[n, axes]``: the held-out half of each pure task, then all vectors of each mixture.
        names: the order of rows and columns of the two distance matrices.
        full_distances: Euclidean distances between the centroids of what was projected, in the whole space.
        subspace_distances: the same after projection.
        holdout_accuracy: share of the held-out pure vectors that the fit assigns to their own task.
    """

    components: Float[np.ndarray, "width axes"]
    mean: Float[np.ndarray, " width"]
    projections: dict[str, Float[np.ndarray, "n axes"]]
    names: tuple[str, ...]
    full_distances: Float[np.ndarray, "names names"]
    subspace_distances: Float[np.ndarray, "names names"]
    holdout_accuracy: float


def fit_lda(
    pure: Mapping[str, Float[np.ndarray, "_ width"]],
    mixtures: Mapping[str, Float[np.ndarray, "_ width"]] | None = None,
    holdout: float = 0.5,
    components: int = 2,
) -> LdaFit:
    """Fit linear discriminants on part of the pure tasks' vectors; project the rest of them and the mixtures.

    With some hundred vectors in a wider space unregularised discriminants separate anything they are fitted on, so
    the covariance is shrunk (Ledoit-Wolf) and only held-out vectors are projected. Rows are split in their order.

    Args:
        pure: task name -> per-prompt vectors, in an order that carries no meaning.
        mixtures: mixture name -> per-prompt vectors; names differ from those of the tasks.
        holdout: share of each task's vectors that is not fitted on.
        components: axes to keep; there are at most one fewer than tasks.

    Raises:
        InputError: fewer than two tasks, too few vectors to split, a name used twice, or scikit-learn is missing.
    """
    discriminant = require("sklearn.discriminant_analysis", "lab").LinearDiscriminantAnalysis
    mixtures = {} if mixtures is None else mixtures
    if len(pure) < 2:
        raise InputError(f"pure has {len(pure)} tasks; discriminants need 2 or more")
    if not 0 < holdout < 1:
        raise InputError(f"holdout is {holdout}; allowed: between 0 and 1")
    if components < 1:
        raise InputError(f"components is {components}; allowed: 1 or more")
    if repeated := set(pure) & set(mixtures):
        raise InputError(f"mixtures has {sorted(repeated)[0]!r}, which is also a pure task")
    fitted, held = {}, {}
    for name, vectors in pure.items():
        size = round(len(vectors) * (1 - holdout))
        fitted[name], held[name] = vectors[:size].astype(np.float64), vectors[size:].astype(np.float64)
        if len(fitted[name]) < 2 or len(held[name]) < 1:
            raise InputError(f"pure[{name!r}] has {len(vectors)} vectors; too few for a holdout of {holdout:g}")
    together = np.concatenate(list(fitted.values()))
    labels = np.repeat(np.arange(len(fitted)), [len(vectors) for vectors in fitted.values()])
    mean = together.mean(axis=0)
    lda = discriminant(solver="eigen", shrinkage="auto").fit(together - mean, labels)
    axes = np.asarray(lda.scalings_)[:, : min(components, len(pure) - 1)]
    correct = [lda.predict(vectors - mean) == i for i, vectors in enumerate(held.values())]
    groups = {**held, **{name: vectors.astype(np.float64) for name, vectors in mixtures.items()}}
    projections = {name: (vectors - mean) @ axes for name, vectors in groups.items()}
    return LdaFit(
        components=axes,
        mean=mean,
        projections=projections,
        names=tuple(groups),
        full_distances=_centroid_distances(groups),
        subspace_distances=_centroid_distances(projections),
        holdout_accuracy=float(np.concatenate(correct).mean()),
    )


def _centroid_distances(groups: Mapping[str, np.ndarray]) -> np.ndarray:
    centroids = np.stack([vectors.mean(axis=0) for vectors in groups.values()])
    return np.linalg.norm(centroids[:, None] - centroids[None], axis=-1)


def _centroids(centroids: np.ndarray) -> np.ndarray:
    if len(centroids) < 2:
        raise InputError(f"centroids has {len(centroids)} rows; it needs the vectors of 2 or more tasks")
    return np.asarray(centroids, dtype=np.float64)


def _kappas(mixes: np.ndarray, centroids: np.ndarray, proportions: np.ndarray) -> np.ndarray:
    """Kappa of every mixture (rows) under every row of proportions (columns)."""
    pure = _centroids(centroids)
    shares = np.asarray(proportions, dtype=np.float64)
    if shares.shape[1] != len(pure):
        raise InputError(f"proportions has {shares.shape[1]} shares for {len(pure)} centroids")
    if (abs(shares.sum(1) - 1) > 1e-5).any() or (shares < 0).any():
        raise InputError(f"proportions is {shares.tolist()}; each must be a set of shares, none negative, with sum 1")
    centre = pure.mean(axis=0)
    predicted = shares @ pure - centre
    squares = (predicted**2).sum(axis=1)
    spread = ((pure - centre) ** 2).sum(axis=1).max()
    for row, square in enumerate(squares):
        if square <= SAME * spread or spread == 0:
            raise InputError(
                f"proportions is {shares[row].tolist()}, which predicts the plain mean of the centroids: "
                "kappa is undefined there"
            )
    return (np.asarray(mixes, dtype=np.float64) - centre) @ predicted.T / squares
