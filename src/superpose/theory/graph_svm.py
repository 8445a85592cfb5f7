"""The direction in which one attention layer's weights grow: a support vector machine over a token-priority graph.

    W_svm = argmin ||W||_F   such that for every query k with data
            (e_i - e_j)^T W e_k  = 0    where i and j are equal for k
            (e_i - e_j)^T W e_k >= 1    where i is higher than j for k

Li et al., "Mechanics of Next Token Prediction with Self-Attention" (AISTATS 2024).
"""

from collections.abc import Callable, Iterable

import networkx as nx
import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from superpose.errors import InputError, choose, require

from .token_priority import TokenPriorityGraph

FEASIBLE = 1e-8  # by how much a constraint may be missed
GAP = 1e-8  # between the primal and the dual value, as a share of the norm's square
_APART = 1e-12  # queries whose unit vectors have a smaller product do not meet in the problem


def graph_svm(
    embeddings: Float[Tensor, "vocabulary width"], graph: TokenPriorityGraph, solver: str = "nnls"
) -> Float[Tensor, "width width"]:
    """Return W_svm in float64: gradient descent on the layer's log-loss ends in this direction.

    The problem is a least-distance problem, which is solved as non-negative least squares (Lawson and Hanson) in an
    orthonormal basis of the embeddings, apart for queries with orthogonal embeddings; the result is certified by its
    duality gap. It is 0 where the data order no two components.

    Args:
        embeddings: one linearly independent row per token.
        graph: the order of the tokens.
        solver: ``"nnls"``, or ``"cvxpy"`` (Clarabel), which has to be installed: an independent check, and slower.

    Raises:
        InputError: embeddings of another vocabulary, not finite or linearly dependent; an unknown solver.
        ArithmeticError: the solver did not find the optimum.
    """
    choose("solver", solver, ("nnls", "cvxpy"))
    rows = checked_embeddings(embeddings, graph.vocab_size)
    solve: Callable[[np.ndarray, TokenPriorityGraph], np.ndarray] = _by_nnls if solver == "nnls" else _by_cvxpy
    return torch.from_numpy(solve(rows, graph)).to(embeddings.device)


def cyclic_basis(
    embeddings: Float[Tensor, "vocabulary width"], graph: TokenPriorityGraph
) -> Float[Tensor, "dimension width width"]:
    """Return an orthonormal basis of the cyclic subspace, in float64: span of (e_i - e_j) e_k^T for i equal to j.

    Its dimension is the number of tokens minus the number of components, summed over the queries; W_svm is orthogonal
    to it.

    Raises:
        InputError: as in :func:`graph_svm`.
    """
    rows = checked_embeddings(embeddings, graph.vocab_size)
    # In coordinates of the embeddings' span, which is what the pairs span too.
    span, inside = _coordinates(rows)
    basis = _orthonormal(_pairs(inside, inside, graph.ties().numpy())).T
    matrices = span @ basis.reshape(len(basis), *inside.shape) @ span.T
    return torch.from_numpy(matrices).to(embeddings.device)


def project(
    weight: Float[Tensor, "width width"], basis: Float[Tensor, "dimension width width"]
) -> Float[Tensor, "width width"]:
    """Return the part of a weight matrix in the span of an orthonormal basis of matrices."""
    inside = basis.to(weight)
    return torch.einsum("b,bij->ij", torch.einsum("bij,ij->b", inside, weight), inside)


def token_scores(
    weight: Float[Tensor, "*sets width width"], embeddings: Float[Tensor, "*tables vocabulary width"]
) -> Float[Tensor, "*sets vocabulary vocabulary"]:
    """Return e_j^T W e_k for every candidate j (row) and query k (column)."""
    return embeddings.to(weight) @ weight @ embeddings.to(weight).mT


def weight_of_scores(
    scores: Float[Tensor, "vocabulary vocabulary"], embeddings: Float[Tensor, "vocabulary width"]
) -> Float[Tensor, "width width"]:
    """Return the smallest W with these scores e_j^T W e_k, for linearly independent embeddings."""
    inverse = torch.linalg.pinv(embeddings)
    return inverse @ scores @ inverse.mT


def checked_embeddings(embeddings: Float[Tensor, "vocabulary width"], vocab_size: int) -> Float[np.ndarray, "v w"]:
    """Embeddings as a float64 array.

    Raises:
        InputError: another number of rows than tokens, entries that are not finite, or linearly dependent rows.
    """
    rows = embeddings.detach().double().cpu().numpy()
    if len(rows) != vocab_size:
        raise InputError(f"embeddings has {len(rows)} rows; allowed: {vocab_size}, one per token of the graph")
    if not np.isfinite(rows).all():
        raise InputError("embeddings has entries that are not finite; allowed: finite numbers")
    rank = int(np.linalg.matrix_rank(rows))
    if rank < vocab_size:
        raise InputError(
            f"embeddings has {vocab_size} rows of width {rows.shape[1]} and rank {rank}; allowed: linearly independent "
            "rows, which the theory needs"
        )
    return rows


def _coordinates(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of the rows' span as columns, and the rows' coordinates in it."""
    span, triangle = np.linalg.qr(rows.T)
    return span, np.ascontiguousarray(triangle.T)


def _pairs(keys: np.ndarray, queries: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """The matrices (e_i - e_j) e_k^T of triples (i, j, k), a flattened one per row."""
    i, j, k = triples.T
    size = keys.shape[1] * queries.shape[1]
    return ((keys[i] - keys[j])[:, :, None] * queries[k][:, None, :]).reshape(len(triples), size)


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the rows' span as columns; the rows are independent, since the embeddings are."""
    return np.linalg.qr(rows.T)[0]


def _by_nnls(rows: np.ndarray, graph: TokenPriorityGraph) -> np.ndarray:
    span, inside = _coordinates(rows)
    ties, orders = graph.ties().numpy(), graph.orders().numpy()
    weight = np.zeros_like(inside)
    for queries in _meeting(inside, np.unique(orders[:, 2]), np.unique(ties[:, 2])):
        mine = orders[np.isin(orders[:, 2], queries)]
        equal = ties[np.isin(ties[:, 2], queries)]
        right, triangle = np.linalg.qr(inside[queries].T)
        short = np.zeros((len(rows), len(queries)))
        short[queries] = triangle.T
        above = _pairs(inside, short, mine)
        if len(equal):
            basis = _orthonormal(_pairs(inside, short, equal))
            above -= above @ basis @ basis.T
        weight += _least_distance(above).reshape(len(inside), -1) @ right.T
    return span @ weight @ span.T


def _meeting(inside: np.ndarray, ordering: np.ndarray, tying: np.ndarray) -> Iterable[list[int]]:
    """Groups of queries that have to be solved together; those without an order stay at 0 unless they are met."""
    queries = np.union1d(ordering, tying)
    units = inside[queries] / np.linalg.norm(inside[queries], axis=1, keepdims=True)
    met = nx.from_numpy_array(np.abs(units @ units.T) > _APART)
    for group in nx.connected_components(met):
        members = sorted(int(queries[at]) for at in group)
        if np.isin(members, ordering).any():
            yield members


def _least_distance(above: np.ndarray) -> np.ndarray:
    """The shortest w with ``above @ w >= 1``."""
    count, size = above.shape
    # The slack below is 1 / (1 + |w|^2), which small embeddings, and so long solutions, would leave no digits.
    scale = float(np.linalg.norm(above, axis=1).min()) or 1.0
    above = above / scale
    system = np.empty((size + 1, count))
    system[:size], system[size] = above.T, 1.0
    wanted = np.zeros(size + 1)
    wanted[size] = 1.0
    try:
        multipliers = nnls(system, wanted)[0]
    except RuntimeError as error:
        raise ArithmeticError(f"the Graph-SVM of {count} constraints was not solved: {error}") from error
    slack = 1.0 - multipliers.sum()
    if not slack > 0:
        raise ArithmeticError(f"the Graph-SVM of {count} constraints has no solution: they contradict one another")
    multipliers /= slack
    # Solving the tight constraints as equations gives back the digits that the division by the slack has cost.
    tight = above[multipliers > 0]
    found = np.linalg.lstsq(tight, np.ones(len(tight)), rcond=None)[0]
    missed = max(0.0, float(1.0 - (above @ found).min()))
    bound = multipliers.sum() - np.square(multipliers @ above).sum() / 2
    gap = np.square(found).sum() / 2 - bound
    if missed > FEASIBLE or gap > GAP * np.square(found).sum():
        raise ArithmeticError(
            f"the Graph-SVM of {count} constraints was not solved: a constraint is missed by {missed:.1e}, "
            f"the duality gap is {gap:.1e}"
        )
    return found / scale


def _by_cvxpy(rows: np.ndarray, graph: TokenPriorityGraph) -> np.ndarray:
    cvxpy = require("cvxpy", "dev")
    ties, orders = graph.ties().numpy(), graph.orders().numpy()
    width, scale = rows.shape[1], np.linalg.norm(rows, axis=1).max()
    rows = rows / scale
    if not len(orders):
        return np.zeros((width, width))
    weight = cvxpy.Variable((width, width))
    constraints = []
    for triples, ordered in ((orders, True), (ties, False)):
        for k in np.unique(triples[:, 2]):
            own = triples[triples[:, 2] == k]
            scores = (rows[own[:, 0]] - rows[own[:, 1]]) @ weight @ rows[k]
            constraints.append(scores >= 1 if ordered else scores == 0)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(weight)), constraints)
    try:
        # The default tolerances leave an error of 1e-5 where hundreds of constraints are tight.
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    except cvxpy.error.SolverError as error:
        raise ArithmeticError(f"cvxpy did not solve the Graph-SVM: {error}") from error
    if problem.status != "optimal":
        raise ArithmeticError(f"cvxpy did not solve the Graph-SVM: its status is {problem.status}")
    return np.asarray(weight.value) / scale**2
