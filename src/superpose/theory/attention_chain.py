"""The exact map between one softmax-attention layer and a Markov chain whose rows are reweighted by the context.

For embeddings E with independent rows e_k and a key-query matrix W, attention of the last token k over a prompt gives
token j the probability ``m_j P(j | k) / sum_i m_i P(i | k)``, where m counts tokens and ``P(. | k) = softmax(E W e_k)``
(arXiv 2402.13512). Softmax does not see what is added to a whole column of scores, so W matters only through its
projection on S_E, the span of all ``(e_i - e_j) e_k^T``; there the map from W to positive P is one to one.
Transitions are ``[present, next]``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError

from .markov import check_transitions


def attention_transitions(
    weight: Float[Tensor, "*sets width width"], embeddings: Float[Tensor, "*sets tokens width"]
) -> Float[Tensor, "*sets tokens tokens"]:
    """Return the base chain of an attention layer: row k is ``softmax(E W e_k)``, in float64."""
    e = embeddings.double()
    return (e @ weight.double() @ e.mT).softmax(-2).mT


def attention_weight(
    transitions: Float[Tensor, "*sets tokens tokens"], embeddings: Float[Tensor, "*sets _ width"]
) -> Float[Tensor, "*sets width width"]:
    """Return the one matrix W in S_E whose base chain is the given one, in float64.

    ``W = E^T G^-1 (L + 1 c^T) G^-1 E`` with ``G = E E^T``, ``L[j, k] = ln P(j | k)`` and c chosen so that W lies in
    S_E. Only where G is a multiple of the identity is that the plain centring of the columns of L.

    Args:
        transitions: positive probabilities, row = present token.
        embeddings: linearly independent rows.

    Raises:
        InputError: transitions that are none or hold a zero, or dependent embeddings.
    """
    p = check_transitions(transitions, positive=True)
    e = check_independent(embeddings)
    if p.shape[-1] != e.shape[-2]:
        raise InputError(
            f"transitions has {p.shape[-1]} tokens; allowed: {e.shape[-2]}, as many as embeddings has rows"
        )
    gram = e @ e.mT
    logs = p.log().mT
    ones = torch.ones_like(logs[..., :1])
    unit = torch.linalg.solve(gram, ones)
    c = -(unit.mT @ logs) / (ones.mT @ unit)
    left = torch.linalg.solve(gram, e)  # G^-1 E
    return left.mT @ (logs + ones @ c) @ left


def project_weight(
    weight: Float[Tensor, "*sets width width"], embeddings: Float[Tensor, "*sets tokens width"]
) -> Float[Tensor, "*sets width width"]:
    """Return the orthogonal projection of W on S_E, all of W that its layer's output depends on.

    Raises:
        InputError: dependent embeddings.
    """
    e = check_independent(embeddings)
    return _onto(e[..., 1:, :] - e[..., :1, :]) @ weight.double() @ _onto(e)


def position_weights(
    ids: Int[Tensor, "prompts length"],
    weight: Float[Tensor, "width width"],
    embeddings: Float[Tensor, "tokens width"],
    positions: Float[Tensor, "places width"],
) -> Float[Tensor, "prompts tokens"]:
    """Return what stands in place of the counts where position vectors u_i are added to the keys.

    ``a_j = sum_{i: x_i = j} exp(u_i^T W e_k)`` for the last token k; next-token probabilities are proportional to
    ``a_j P(j | k)``. Scaled so that the largest summand of each prompt is 1.

    Raises:
        InputError: prompts longer than there are positions.
    """
    length = ids.shape[1]
    if length > len(positions):
        raise InputError(f"ids has length {length}; allowed: up to {len(positions)}, the positions")
    e = embeddings.double()
    scores = e[ids[:, -1]] @ weight.double().mT @ positions[:length].double().mT
    summands = (scores - scores.amax(1, keepdim=True)).exp()
    return torch.zeros(len(ids), len(e), dtype=torch.float64).scatter_add(1, ids, summands)


def check_independent(embeddings: Float[Tensor, "*sets tokens width"]) -> Float[Tensor, "*sets tokens width"]:
    """Return embeddings in float64.

    Raises:
        InputError: fewer than two tokens, or rows that are linearly dependent.
    """
    e = embeddings.double()
    tokens, width = e.shape[-2:]
    if tokens < 2:
        raise InputError(f"embeddings has {tokens} tokens; allowed: at least 2")
    rank = int(torch.linalg.matrix_rank(e).min()) if e.numel() else 0
    if rank < tokens:
        raise InputError(
            f"embeddings has {tokens} rows of width {width} and rank {rank}; allowed: linearly independent rows"
        )
    return e


def _onto(rows: Tensor) -> Tensor:
    """The orthogonal projection on the span of independent rows."""
    basis = torch.linalg.qr(rows.mT).Q
    return basis @ basis.mT
