"""Chains that read their own output: pure functions of plain data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.experiment import step
from superpose.studies.self_attention_markov.config import CHAINS, SETTLING
from superpose.studies.self_attention_markov.steps import dirichlet_chain
from superpose.tasks import continue_prompts, trajectory_counts
from superpose.theory import invasion_exponents, self_dominant, share_fixed_point, trajectory_samples

CHUNK = 10  # trajectories whose probabilities are held at once


@step(version="1", label="who wins")
def shares(tokens: int, trajectories: int, at: Sequence[int], dominant: bool, seed: int) -> dict[str, np.ndarray]:
    """Let random chains write, each its own, from a prompt of one of each token.

    Args:
        tokens: vocabulary.
        trajectories: chains.
        at: lengths at which shares are taken.
        dominant: halve every row and add a half to its diagonal entry; else divide the diagonal by ten and
            renormalise, and draw again while any token still dominates its row.
        seed: of everything.

    Returns:
        The ``top`` share and the number of ``common`` tokens, with more than 1 %: ``[trajectories, at]``.
    """
    g = torch.Generator().manual_seed(seed)
    chains = torch.stack([_chain(tokens, dominant, g) for _ in range(trajectories)])
    prompts = torch.arange(tokens).expand(trajectories, tokens)
    # The last token decides what comes first: every token is last in turn.
    prompts = torch.stack([row.roll(i) for i, row in enumerate(prompts)])
    counts = trajectory_counts(chains, prompts, at, g)
    parts = counts / counts.sum(-1, keepdim=True)
    return {"top": parts.amax(-1).numpy(), "common": (parts > 0.01).sum(-1).double().numpy()}


def _chain(tokens: int, dominant: bool, g: torch.Generator) -> Tensor:
    while True:
        p = dirichlet_chain(tokens, 1.0, g)
        if dominant:
            return (p + torch.eye(tokens, dtype=p.dtype)) / 2
        p = p * torch.where(torch.eye(tokens, dtype=torch.bool), 0.1, 1.0)
        p = p / p.sum(1, keepdim=True)
        if not bool(self_dominant(p).any()):
            return p


@step(version="1", label="losers")
def loser_counts(name: str, trajectories: int, at: Sequence[int], seed: int) -> dict[str, Any]:
    """Let one of the two-token chains write from one of each token.

    Returns:
        ``counts`` of the second token in the trajectories that the first one won, ``[winning, at]``; and the share of
        trajectories that it ``won``.
    """
    g = torch.Generator().manual_seed(seed)
    prompts = torch.tensor([[1, 0]]).expand(trajectories, 2)
    counts = trajectory_counts(torch.tensor(CHAINS[name], dtype=torch.float64), prompts, at, g)
    won = counts[:, -1].argmax(-1) == 0
    return {"counts": counts[won, :, 1].numpy(), "won": float(won.double().mean())}


@step(version="1", label="information of one trajectory")
def information(name: str, trajectories: int, at: Sequence[int], seed: int) -> np.ndarray:
    """Fisher information about the log-odds of the first token's row, in the trajectories that it won.

    Returns:
        ``[winning, at]``: summed over the tokens written so far.
    """
    g = torch.Generator().manual_seed(seed)
    chain = torch.tensor(CHAINS[name], dtype=torch.float64)
    prompts = torch.tensor([[1, 0]]).expand(trajectories, 2)
    written = torch.cat([prompts, continue_prompts(chain, prompts, max(at), g)], 1)
    found = []
    for chunk in written.split(CHUNK):
        counts, last, _ = trajectory_samples(chunk, 2, start=2)
        weights = counts * chain[last]
        loser = weights[:, 1] / weights.sum(1)
        each = torch.where(last == 0, loser * (1 - loser), 0.0).view(len(chunk), -1)
        found.append(each.cumsum(1)[:, torch.tensor(at) - 1])
    won = written.double().mean(1) < 0.5
    return torch.cat(found)[won].numpy()


@step(version="1", label="shares that settle")
def settling_shares(name: str, trajectories: int, at: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """Let one of the chains without a dominant token write, from one of each token.

    Returns:
        ``shares``, ``[trajectories, at, tokens]``; the ``fixed`` point of their drift; and the ``exponents`` with which
        counts grow there.
    """
    g = torch.Generator().manual_seed(seed)
    chain = torch.tensor(SETTLING[name], dtype=torch.float64)
    prompts = torch.arange(len(chain)).expand(trajectories, len(chain))
    counts = trajectory_counts(chain, prompts, at, g)
    fixed = share_fixed_point(chain)
    return {
        "shares": (counts / counts.sum(-1, keepdim=True)).numpy(),
        "fixed": fixed.numpy(),
        "exponents": invasion_exponents(chain, fixed).numpy(),
    }
