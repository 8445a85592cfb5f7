"""The minimisers of the loss as its regularisation vanishes: where the layer goes, whatever gradient descent does.

Li et al., "Mechanics of Next Token Prediction with Self-Attention" (AISTATS 2024).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from torch import Tensor

from superpose.errors import InputError, choose

from .count_logits import fit_count_logits
from .graph_svm import checked_embeddings, graph_svm, weight_of_scores
from .next_token_data import NextTokenData
from .token_priority import TokenPriorityGraph

ROUNDING = 1e-29  # the square of a gradient that is nothing but rounding, with some room


def regularisation_path(
    embeddings: Float[Tensor, "vocabulary width"], data: NextTokenData, penalties: Sequence[float]
) -> Float[Tensor, "penalties width width"]:
    """Return the minimisers of the mean log-loss plus ``penalty / 2 ||W||_F^2``, in float64, one per penalty.

    As the penalty falls the norm grows without bound unless no component stands above another, the direction tends to
    that of the Graph-SVM and the part in the cyclic subspace to the soft component. Newton's method, each penalty
    from the solution of the one before; the cost grows with the sixth power of the vocabulary.

    Args:
        embeddings: one linearly independent row per token.
        data: prompts and labels.
        penalties: above 0, best from large to small. Below about 1e-13 rounding decides.

    Raises:
        InputError: embeddings as in :func:`graph_svm`, no penalty, or one that is not above 0.
        RuntimeError: Newton's method did not end.
    """
    rows = torch.from_numpy(checked_embeddings(embeddings, data.vocab_size))
    if not penalties or not all(penalty > 0 for penalty in penalties):
        raise InputError(f"penalties is {list(penalties)}; allowed: one or more numbers above 0")
    # Coordinates in an orthonormal basis of the embeddings' span, outside of which a penalised solution is 0.
    inside = torch.from_numpy(np.linalg.qr(rows.numpy().T)[1].T.copy())
    basis = torch.kron(inside, inside)
    found, start = [], torch.zeros(basis.shape[1], dtype=torch.float64)
    for penalty in penalties:
        logits = fit_count_logits(
            data.counts,
            data.last,
            data.targets,
            data.vocab_size,
            basis=basis,
            l2=float(penalty),
            start=start,
            # A gradient of rounding errors promises a rise of about its square over the penalty, and never ends.
            tolerance=max(1e-20, ROUNDING / float(penalty)),
        )
        start = weight_of_scores(logits, inside).flatten()
        found.append(weight_of_scores(logits, rows))
    return torch.stack(found).to(embeddings.device)


def norm_path(
    embeddings: Float[Tensor, "vocabulary width"],
    data: NextTokenData,
    radii: Sequence[float],
    loss: str = "log",
    *,
    starts: int = 3,
    seed: int = 0,
) -> Float[Tensor, "radii width width"]:
    """Return the minimisers of the mean loss over weights of Frobenius norm R, in float64, one per radius.

    For acyclic data the direction tends to that of the Graph-SVM for every loss that falls strictly with the label's
    probability. The losses other than the logarithmic one are not convex: the best of several starts near the
    Graph-SVM's direction and of the solution at the radius before is returned, a local minimum in general.

    Args:
        embeddings: one linearly independent row per token.
        data: prompts and labels, with an acyclic graph that orders some tokens.
        radii: above 0, best from small to large.
        loss: ``"log"`` (-log u), ``"linear"`` (-u) or ``"squared"`` ((1 - u)^2) of the label's probability u.
        starts: how many, the Graph-SVM's direction itself the first of them.
        seed: of the others.

    Raises:
        InputError: embeddings as in :func:`graph_svm`, an unknown loss, radii that are not above 0, no start, or data
            whose graph has a cycle or no edge.
    """
    choose("loss", loss, _LOG_EXCESS)
    rows = checked_embeddings(embeddings, data.vocab_size)
    if not radii or not all(radius > 0 for radius in radii):
        raise InputError(f"radii is {list(radii)}; allowed: one or more numbers above 0")
    if starts < 1:
        raise InputError(f"starts is {starts}; allowed: 1 or more")
    graph = TokenPriorityGraph.from_data(data)
    if not graph.is_acyclic:
        cyclic = [k for k in graph.queries if len(graph.components(k)) < graph.vocab_size]
        raise InputError(f"data has a cycle in the graph of query {cyclic[0]}; allowed: acyclic graphs")
    if not len(graph.orders()):
        raise InputError("data has no edge in any graph; allowed: a prompt with another token than its label")
    span, triangle = np.linalg.qr(rows.T)
    problem = _OnSphere(triangle.T, data, loss)
    generator = np.random.default_rng(seed)
    size = len(rows)
    direction = span.T @ graph_svm(torch.from_numpy(rows), graph).numpy() @ span
    direction /= np.linalg.norm(direction)
    noise = [np.zeros((size, size)), *generator.normal(scale=0.5 / size, size=(starts - 1, size, size))]
    found: list[np.ndarray] = []
    for radius in radii:
        tried = [problem.solve(direction + each, radius) for each in noise]
        if found:
            tried.append(problem.solve(found[-1], radius))
        found.append(min(tried, key=lambda each: each[0])[1])
    weights = [radius * span @ each @ span.T for radius, each in zip(radii, found, strict=True)]
    return torch.from_numpy(np.stack(weights)).to(embeddings.device)


# What the loss of z = log(others / label) exceeds its infimum by, as a logarithm, and the slope of that.
_LOG_EXCESS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "log": lambda z: (np.log(np.logaddexp(0, z)), expit(z) / np.logaddexp(0, z)),
    "linear": lambda z: (-np.logaddexp(0, -z), expit(-z)),
    "squared": lambda z: (-2 * np.logaddexp(0, -z), 2 * expit(-z)),
}


class _OnSphere:
    """The logarithm of the loss over its infimum (at large norms the loss itself is flat to rounding)."""

    def __init__(self, inside: np.ndarray, data: NextTokenData, loss: str) -> None:
        # A prompt that holds its label alone has no loss.
        alive = (data.counts > 0).sum(1).numpy() > 1
        self.inside, self.queries = inside, inside[data.last.numpy()[alive]]
        label = np.eye(data.vocab_size, dtype=bool)[data.targets.numpy()[alive]]
        with np.errstate(divide="ignore"):
            offsets = np.log(data.counts.numpy()[alive].astype(float))
        self.label, self.offset = label, offsets[label]
        self.others = np.where(label, -np.inf, offsets)
        self.excess = _LOG_EXCESS[loss]

    def solve(self, start: np.ndarray, radius: float) -> tuple[float, np.ndarray]:
        """The value at the minimum, and its direction."""
        found = minimize(
            self.value,
            start.ravel() / np.linalg.norm(start),
            args=(radius,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-9},
        )
        return float(found.fun), (found.x / np.linalg.norm(found.x)).reshape(start.shape)

    def value(self, flat: np.ndarray, radius: float) -> tuple[float, np.ndarray]:
        size = len(self.inside)
        length = np.linalg.norm(flat)
        unit = flat.reshape(size, size) / length
        scores = radius * self.queries @ unit.T @ self.inside.T
        others = scores + self.others
        total = np.asarray(logsumexp(others, axis=1))
        excess, slope = self.excess(total - scores[self.label] - self.offset)
        value = logsumexp(excess) - np.log(len(excess))
        share = np.exp(excess - logsumexp(excess)) * slope
        # Of z with respect to the scores: the others' shares, and -1 at the label.
        steep = share[:, None] * (np.exp(others - total[:, None]) - self.label)
        gradient = radius * self.inside.T @ steep.T @ self.queries
        gradient -= (gradient * unit).sum() * unit
        return float(value), (gradient / length).ravel()
