"""Prompts of one task as their sufficient statistics, so that 65,536 pairs cost no more than sixteen."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from superpose.theory import GaussianMixturePrior, GroupPosterior

CHUNK = 4000  # prompts at once: below 200 MB at dimension 8 and eleven lengths


def nested_statistics(
    mu: np.ndarray, tau: float, pairs: Sequence[int], batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sums over the first k inputs ``x ~ N(mu, tau^2 I)`` of nested prompts, for every k of ``pairs``.

    Args:
        mu: input mean, ``[dim]``.
        tau: spread of the inputs.
        pairs: numbers of labelled pairs, ascending.
        batch: number of prompts.
        rng: the only source of randomness.

    Returns:
        Sums of ``x x^T``, ``[batch, pairs, dim, dim]``, and of x, ``[batch, pairs, dim]``.
    """
    dim = len(mu)
    grams, totals = np.zeros((batch, len(pairs), dim, dim)), np.zeros((batch, len(pairs), dim))
    gram, total, done = np.zeros((batch, dim, dim)), np.zeros((batch, dim)), 0
    for i, k in enumerate(pairs):
        if k > done:
            squares, sums = _standard_sums(k - done, batch, dim, rng)
            crossed = tau * sums[:, :, None] * mu
            gram = gram + tau**2 * squares + crossed + crossed.swapaxes(1, 2) + (k - done) * np.outer(mu, mu)
            total = total + tau * sums + (k - done) * mu
            done = k
        grams[:, i], totals[:, i] = gram, total
    return grams, totals


def _standard_sums(count: int, batch: int, dim: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if count <= dim + 1:
        z = rng.standard_normal((batch, count, dim))
        return np.einsum("bki,bkj->bij", z, z), z.sum(1)
    # Scatter about the mean is Wishart with one degree of freedom less and independent of the mean (Bartlett).
    sums = np.sqrt(count) * rng.standard_normal((batch, dim))
    root = np.tril(rng.standard_normal((batch, dim, dim)), -1)
    freedom = count - 1 - np.arange(dim)
    root[:, np.arange(dim), np.arange(dim)] = np.sqrt(rng.chisquare(freedom, (batch, dim)))
    return root @ root.swapaxes(1, 2) + sums[:, :, None] * sums[:, None] / count, sums


def posterior_path(
    prior: GaussianMixturePrior,
    mu: Float[Tensor, " dim"],
    w: Float[Tensor, " dim"],
    pairs: Sequence[int],
    prompts: int,
    seed: Sequence[int],
    tau: float = 1.0,
) -> Iterator[tuple[GroupPosterior, Float[Tensor, "batch pairs dim"], Float[Tensor, "batch pairs dim dim"]]]:
    """Yield posteriors (``lead`` is batch, pairs), queries and sums of ``x x^T`` of nested prompts, chunk by chunk.

    Labels are ``<w, x>`` without noise; every prompt has one query for all its lengths.

    Args:
        prior: the prior of the predictor.
        mu, w, tau: the task shown.
        pairs: numbers of labelled pairs, ascending.
        prompts: how many prompts in all.
        seed: of this call's prompts.
    """
    rng = np.random.default_rng(list(seed))
    centre, count = mu.double().numpy(), torch.tensor(pairs, dtype=torch.float64)
    for start in range(0, prompts, CHUNK):
        batch = min(CHUNK, prompts - start)
        grams, totals = (torch.from_numpy(t) for t in nested_statistics(centre, tau, pairs, batch, rng))
        query = mu.double() + tau * torch.from_numpy(rng.standard_normal((batch, prior.dim)))
        queries = query.unsqueeze(1).expand(-1, len(pairs), -1)
        posterior = prior.from_statistics(
            gram=grams, moment=grams @ w.double(), total=totals + queries, count=count, query=queries
        )
        yield posterior, queries, grams
