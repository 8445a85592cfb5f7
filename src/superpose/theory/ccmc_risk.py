"""What samples buy when a context-conditioned Markov chain is learned: exact risks over uniform prompts."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError

from .count_logits import count_log_probabilities

MOST_COMPOSITIONS = 2_000_000


def expected_excess_loss(vocabulary: int, samples: int) -> float:
    """Return what the maximum-likelihood chain loses on average, to leading order: ``K (K - 1) / (2 n)`` nats.

    Half the number of identified logits over the number of samples (Wilks); the constant of the rate K^2/n of
    arXiv 2402.13512, for prompts that identify every row.

    Raises:
        InputError: fewer than two tokens, or no sample.
    """
    if vocabulary < 2 or samples < 1:
        raise InputError(f"vocabulary is {vocabulary} and samples {samples}; allowed: at least 2 tokens and 1 sample")
    return vocabulary * (vocabulary - 1) / (2 * samples)


def uniform_prompt_excess_loss(
    truth: Float[Tensor, "tokens tokens"], logits: Float[Tensor, "tokens tokens"], length: int
) -> float:
    """Return by how much logits lose against the true ones on prompts of independent uniform tokens, in nats.

    The expectation over prompts and next tokens is exact: prompts with equal counts are one term of a finite sum.

    Args:
        truth: ``[next, present]``.
        logits: ``[next, present]``.
        length: tokens per prompt.

    Raises:
        InputError: no token, or so many tokens that there are more than two million different counts.
    """
    vocabulary = len(truth)
    counts, weights = uniform_prompt_counts(vocabulary, length)
    total = 0.0
    for k in range(vocabulary):
        with_last = counts.clone()
        with_last[:, k] += 1
        last = torch.full((len(counts),), k)
        right = count_log_probabilities(truth.double(), with_last, last)
        wrong = count_log_probabilities(logits.double(), with_last, last)
        gap = torch.where(with_last > 0, right.exp() * (right - wrong), 0.0).sum(1)
        total += float(weights @ gap) / vocabulary
    return total


@lru_cache(maxsize=8)
def uniform_prompt_counts(
    vocabulary: int, length: int
) -> tuple[Int[Tensor, "compositions tokens"], Float[Tensor, " compositions"]]:
    """Return all counts of the tokens before the last one of uniform prompts, and their probabilities.

    Raises:
        InputError: fewer than two tokens of vocabulary, no token per prompt, or more than two million counts.
    """
    if vocabulary < 2 or length < 1:
        raise InputError(f"vocabulary is {vocabulary} and length {length}; allowed: at least 2 and 1")
    before = length - 1
    size = math.comb(before + vocabulary - 1, vocabulary - 1)
    if size > MOST_COMPOSITIONS:
        raise InputError(f"length is {length} with {vocabulary} tokens, {size} different counts; allowed: 2 million")
    # Token by token: every way to divide what is left.
    counts = torch.zeros(1, 0, dtype=torch.long)
    left = torch.tensor([before])
    for _ in range(vocabulary - 1):
        rows = torch.arange(len(left)).repeat_interleave(left + 1)
        starts = (left + 1).cumsum(0) - (left + 1)
        taken = torch.arange(len(rows)) - starts[rows]
        counts = torch.cat([counts[rows], taken[:, None]], dim=1)
        left = left[rows] - taken
    counts = torch.cat([counts, left[:, None]], dim=1)
    logs = math.lgamma(before + 1) - torch.lgamma(counts.double() + 1).sum(1) - before * math.log(vocabulary)
    return counts, logs.exp()
