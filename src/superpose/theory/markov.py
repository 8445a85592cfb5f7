"""Transition matrices: checks, smoothing, estimates from text, stationary laws.

Orientation everywhere: ``transitions[k, j]`` is the probability of j after k, so rows sum to 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError

ROW_SUM = 1e-6  # what rows that were written down, or computed in float32, may miss 1 by
UNIQUE = 1e-9  # a second singular value below this: more than one stationary law


def check_transitions(
    transitions: Float[Tensor, "*chains tokens _"], *, positive: bool = False
) -> Float[Tensor, "*chains tokens _"]:
    """Return transition matrices in float64.

    Args:
        transitions: row k = probabilities after token k.
        positive: refuse zeros too, which no finite attention weight gives.

    Raises:
        InputError: not square, fewer than two tokens, a negative or infinite entry, a row that does not sum to 1, or
            a zero where ``positive`` is asked for.
    """
    p = transitions.double()
    if p.ndim < 2 or p.shape[-1] != p.shape[-2]:
        raise InputError(f"transitions has shape {tuple(p.shape)}; allowed: square matrices, row = present token")
    if p.shape[-1] < 2:
        raise InputError(f"transitions has {p.shape[-1]} tokens; allowed: at least 2")
    if not bool((torch.isfinite(p) & (p >= 0)).all()):
        raise InputError("transitions has a negative or infinite entry; allowed: probabilities")
    off = (p.sum(-1) - 1).abs() > ROW_SUM
    if bool(off.any()):
        row = off.nonzero()[0].tolist()
        raise InputError(f"transitions has row {row[-1]} that sums to {float(p.sum(-1)[tuple(row)]):g}; allowed: 1")
    if positive and not bool((p > 0).all()):
        *_, k, j = (p == 0).nonzero()[0].tolist()
        raise InputError(
            f"transitions[{k}, {j}] is 0, which no finite weight gives; allowed: positive probabilities, for example "
            "smooth_transitions(transitions, 0.01)"
        )
    return p


def smooth_transitions(
    transitions: Float[Tensor, "*chains tokens tokens"], share: float
) -> Float[Tensor, "*chains tokens tokens"]:
    """Mix transition matrices with uniform rows, which makes every entry positive.

    Args:
        transitions: row k = probabilities after token k.
        share: weight of the uniform rows, above 0 and at most 1.

    Raises:
        InputError: wrong transitions, or a share outside that range.
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; allowed: above 0, at most 1")
    p = check_transitions(transitions)
    return (1 - share) * p + share / p.shape[-1]


def bigram_transitions(
    ids: Int[Tensor, " length"] | Sequence[int], vocabulary: int, smoothing: float = 1.0
) -> Float[Tensor, "vocabulary vocabulary"]:
    """Estimate transitions from a text by counting neighbours.

    Args:
        ids: token ids.
        vocabulary: number of tokens.
        smoothing: added to every count; 1 is Laplace's rule. 0 is allowed if every token but the last is followed.

    Raises:
        InputError: fewer than two tokens of text or of vocabulary, ids outside it, a negative smoothing, or a token
            that nothing follows, with smoothing 0.
    """
    text = torch.as_tensor(ids)
    if vocabulary < 2 or text.numel() < 2:
        raise InputError(f"ids has {text.numel()} tokens of a vocabulary of {vocabulary}; allowed: at least 2 of each")
    if not 0 <= int(text.min()) <= int(text.max()) < vocabulary:
        raise InputError(f"ids has tokens from {int(text.min())} to {int(text.max())}; allowed: 0 to {vocabulary - 1}")
    if not smoothing >= 0:
        raise InputError(f"smoothing is {smoothing}; allowed: 0 or more")
    pairs = torch.bincount(text[:-1] * vocabulary + text[1:], minlength=vocabulary**2).view(vocabulary, vocabulary)
    counts = pairs.double() + smoothing
    empty = counts.sum(1) == 0
    if bool(empty.any()):
        raise InputError(f"smoothing is 0 and nothing follows token {int(empty.nonzero()[0])}; allowed: above 0")
    return counts / counts.sum(1, keepdim=True)


def stationary_law(transitions: Float[Tensor, "*chains tokens tokens"]) -> Float[Tensor, "*chains tokens"]:
    """Return the law that a chain leaves unchanged.

    Raises:
        InputError: wrong transitions, or more than one such law.
    """
    p = check_transitions(transitions)
    tokens = p.shape[-1]
    system = p.mT - torch.eye(tokens, dtype=p.dtype)
    if bool((torch.linalg.svdvals(system)[..., -2] < UNIQUE).any()):
        raise InputError("transitions has more than one stationary law; allowed: chains with a single closed class")
    # Any one balance equation follows from the others; the total takes its place.
    system = torch.cat([system[..., :-1, :], torch.ones_like(system[..., :1, :])], dim=-2)
    total = torch.zeros(*p.shape[:-2], tokens, 1, dtype=p.dtype)
    total[..., -1, 0] = 1
    law = torch.linalg.solve(system, total).squeeze(-1).clamp_min(0)
    return law / law.sum(-1, keepdim=True)
