"""Why a context-conditioned Markov chain that reads its own output repeats itself, and when it does not.

Write s for the shares of the tokens in a long context. The chain then moves by ``P_s(j | k) = s_j P(j | k) / sum_i s_i
P(i | k)``, whose stationary law mu(s) is what is being written, so the shares follow ``ds / d ln t = mu(s) - s``.
Transitions are ``[present, next]``, rows summing to 1. Setting: arXiv 2402.13512; the closed forms are derived here.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from superpose.errors import InputError

from .markov import check_transitions, stationary_law

MOST_ITERATIONS = 100_000
SETTLED = 1e-12


def frozen_chain(
    transitions: Float[Tensor, "tokens tokens"], shares: Float[Tensor, " tokens"]
) -> Float[Tensor, "tokens tokens"]:
    """Return the Markov chain that the process is while the shares of its context stay as they are.

    Raises:
        InputError: wrong transitions, or shares that are negative or leave a token without a successor.
    """
    p = check_transitions(transitions)
    weights = p * check_shares(shares)
    total = weights.sum(-1, keepdim=True)
    if bool((total == 0).any()):
        raise InputError("shares leaves a token without a successor; allowed: some share for one that can follow each")
    return weights / total


def share_drift(
    transitions: Float[Tensor, "tokens tokens"], shares: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Return ``mu(s) - s``, the change of the shares per unit of ``ln t``."""
    return stationary_law(frozen_chain(transitions, shares)) - check_shares(shares)


def share_fixed_point(
    transitions: Float[Tensor, "tokens tokens"], start: Float[Tensor, " tokens"] | None = None
) -> Float[Tensor, " tokens"]:
    """Follow the drift of the shares to where they stay.

    Args:
        transitions: positive probabilities.
        start: shares to start from, positive; equal ones by default.

    Raises:
        InputError: wrong transitions or shares, or a start from which one token takes everything (which it does
            along a power law, without ever getting there).
    """
    p = check_transitions(transitions, positive=True)
    shares = check_shares(torch.ones(len(p)) if start is None else start)
    for _ in range(MOST_ITERATIONS):
        drift = share_drift(p, shares)
        if float(drift.abs().max()) < SETTLED:
            return shares
        shares = shares + drift / 2
        if float(shares.max()) > 1 - 1e-6:
            raise InputError(
                f"start leads to a collapse on token {int(shares.argmax())}; allowed: chains and shares that settle "
                "with more than one token"
            )
    raise InputError(f"transitions did not let the shares settle in {MOST_ITERATIONS} steps; try another start")


def invasion_exponents(
    transitions: Float[Tensor, "tokens tokens"], shares: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Return with which power of the length each token's count grows while the shares stay at a fixed point.

    ``rho_j = sum_k mu_k P(j | k) / sum_i s_i P(i | k)``. Tokens with a share have 1; one without stays without if its
    exponent is below 1. So a group of tokens can take everything, each of them following another, although none of
    them dominates its own row; `loser_exponents` is the case of a group of one.

    Raises:
        InputError: as `frozen_chain`.
    """
    p, s = check_transitions(transitions), check_shares(shares)
    mu = stationary_law(frozen_chain(p, s))
    return (mu / (p @ s)) @ p


def self_dominant(transitions: Float[Tensor, "tokens tokens"]) -> Bool[Tensor, " tokens"]:
    """Return which tokens can take everything alone: those likelier than any other after themselves."""
    p = check_transitions(transitions)
    others = p.masked_fill(torch.eye(p.shape[-1], dtype=torch.bool), -1)
    return p.diagonal() > others.amax(-1)


def loser_exponents(transitions: Float[Tensor, "tokens tokens"], winner: int) -> Float[Tensor, " tokens"]:
    """Return with which power of the length each token's count grows once a token has won.

    The count of token j grows as ``t^rho_j`` with ``rho_j = P(j | winner) / P(winner | winner)``, so its probability
    falls as ``t^(rho_j - 1)``. The winner's own entry is 1.

    Raises:
        InputError: wrong transitions, or a winner that is not the likeliest token after itself and so cannot win.
    """
    p = check_transitions(transitions)
    if not 0 <= winner < len(p):
        raise InputError(f"winner is {winner}; allowed: 0 to {len(p) - 1}")
    if not bool(self_dominant(p)[winner]):
        raise InputError(
            f"winner is {winner}, after which {int(p[winner].argmax())} is as likely as itself or likelier; allowed: "
            f"tokens that dominate their own row ({self_dominant(p).nonzero().flatten().tolist()})"
        )
    return p[winner] / p[winner, winner]


def check_shares(shares: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return shares in float64, summing to 1.

    Raises:
        InputError: a negative or infinite share, or none above 0.
    """
    s = shares.double()
    if not bool((torch.isfinite(s) & (s >= 0)).all()) or not float(s.sum()) > 0:
        raise InputError(f"shares is {shares.tolist()}; allowed: 0 or more, with a positive sum")
    return s / s.sum()
