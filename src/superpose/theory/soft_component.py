"""The finite part of one attention layer's weights: how probability is divided within a component.

Li et al., "Mechanics of Next Token Prediction with Self-Attention" (AISTATS 2024).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError

from .count_logits import fit_count_logits
from .graph_svm import checked_embeddings, cyclic_basis, token_scores, weight_of_scores
from .next_token_data import NextTokenData
from .token_priority import TokenPriorityGraph


def soft_component(
    embeddings: Float[Tensor, "vocabulary width"], graph: TokenPriorityGraph, data: NextTokenData
) -> Float[Tensor, "width width"]:
    """Return W_fin in float64: what gradient descent on the log-loss reaches within the cyclic subspace.

    It minimises the log-loss of the prompts from which all tokens outside the label's component are deleted, over the
    span of (e_i - e_j) e_k^T for i equal to j; that minimum is unique, and 0 for an acyclic graph. Repeated tokens
    keep their multiplicity.

    Args:
        embeddings: one linearly independent row per token.
        graph: the graph of the data.
        data: prompts and labels.

    Raises:
        InputError: embeddings as in :func:`graph_svm`; a graph that lacks an edge of the data.
    """
    rows = torch.from_numpy(checked_embeddings(embeddings, graph.vocab_size))
    reduced = component_counts(graph, data)
    # Of a prompt in which only the label itself is left nothing can be learned.
    alive = (reduced > 0).sum(1) > 1
    if not bool(alive.any()):
        return rows.new_zeros(rows.shape[1], rows.shape[1])
    scores = token_scores(cyclic_basis(rows, graph), rows)
    # Orthonormal: the fit stops by the size of its coordinates' steps, which must not be in units of the embeddings.
    basis = torch.linalg.qr(scores.flatten(1).T).Q
    logits = fit_count_logits(reduced[alive], data.last[alive], data.targets[alive], graph.vocab_size, basis=basis)
    return weight_of_scores(logits, rows).to(embeddings.device)


def component_counts(graph: TokenPriorityGraph, data: NextTokenData) -> Float[Tensor, "samples vocabulary"]:
    """Counts of the tokens of each prompt, without those outside the label's component.

    Raises:
        InputError: another vocabulary than the graph's, or a graph that lacks an edge of the data.
    """
    if data.vocab_size != graph.vocab_size:
        raise InputError(f"data has vocab_size {data.vocab_size}; allowed: {graph.vocab_size}, that of the graph")
    known = {k: set(pairs) for k, pairs in graph.edges.items()}
    components: dict[int, Tensor] = {}  # of the queries met so far: a graph search each
    kept = data.counts.double()
    for at, (row, label) in enumerate(zip(data.sequences, data.labels, strict=True)):
        k = row[-1]
        lacking = {(label, x) for x in row if x != label} - known.get(k, set())
        if k not in known or lacking:
            raise InputError(
                f"data: the graph lacks the edges {sorted(lacking)} of query {k} that sequences[{at}] implies; "
                "allowed: the graph of these data, TokenPriorityGraph.from_data(data)"
            )
        if k not in components:
            components[k] = graph.component_index(k)
        index = components[k]
        kept[at, index != index[label]] = 0
    return kept
