"""How repetitive token sequences are, whoever wrote them: a chain, a language model, a person."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError


@dataclass(frozen=True)
class CollapseReport:
    """Repetition along sequences of equal length.

    Attributes:
        at: prefix lengths at which the whole sequence so far is looked at, doubling up to the full length.
        top_share: share of the commonest token in each prefix, ``[sequences, at]``.
        effective_tokens: exp of the entropy of the shares in each prefix, ``[sequences, at]``.
        common_tokens: tokens with a share above 1 % in each prefix, ``[sequences, at]``.
        window: tokens per window.
        distinct: by n, the share of different n-grams among those of each window, ``[sequences, windows]``.
        window_top_share: share of the commonest token in each window, ``[sequences, windows]``.
        exponents: for each sequence the power of the length with which all tokens but its commonest one grow, fitted
            on ``at`` from 1 / 32 of the length on; NaN where they never occur there. 1: no collapse; 0: they stopped.
    """

    at: Int[Tensor, " at"]
    top_share: Float[Tensor, "sequences at"]
    effective_tokens: Float[Tensor, "sequences at"]
    common_tokens: Int[Tensor, "sequences at"]
    window: int
    distinct: dict[int, Float[Tensor, "sequences windows"]]
    window_top_share: Float[Tensor, "sequences windows"]
    exponents: Float[Tensor, " sequences"]


def collapse_report(
    sequences: Int[Tensor, "sequences length"] | Sequence[Sequence[int]],
    *,
    window: int = 64,
    ngrams: Sequence[int] = (1, 2, 3),
    common: float = 0.01,
) -> CollapseReport:
    """Describe how token sequences narrow down.

    Args:
        sequences: token ids of any vocabulary, of equal lengths.
        window: tokens per window; windows follow one another, and a last shorter one is left out.
        ngrams: which n to count different n-grams for.
        common: the share above which a token counts as common.

    Raises:
        InputError: no sequence, unequal lengths, a window longer than the sequences or shorter than an n-gram.
    """
    lengths = {len(row) for row in sequences}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(f"sequences have the lengths {sorted(lengths)}; allowed: one length, at least 1")
    ids = torch.as_tensor(sequences).cpu()
    length = ids.shape[1]
    if not ngrams or min(ngrams) < 1:
        raise InputError(f"ngrams is {tuple(ngrams)}; allowed: numbers from 1 on")
    if not max(ngrams) <= window <= length:
        raise InputError(f"window is {window}; allowed: {max(ngrams)} to {length}, the longest n-gram and the length")
    # Only which tokens are equal matters, so any vocabulary becomes as small as what occurs.
    compact = torch.unique(ids, return_inverse=True)[1]
    at = sorted({length, *(2**power for power in range(length.bit_length()) if 2**power <= length)})
    counts = prefix_counts(compact, at)
    shares = counts / counts.sum(-1, keepdim=True)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    windows = compact[:, : length // window * window].reshape(len(ids), -1, window)
    return CollapseReport(
        at=torch.tensor(at),
        top_share=shares.amax(-1),
        effective_tokens=entropy.exp(),
        common_tokens=(shares > common).sum(-1),
        window=window,
        distinct={n: _distinct(windows, n) for n in ngrams},
        window_top_share=_top_share(windows),
        exponents=growth_exponents(counts, torch.tensor(at)),
    )


def prefix_counts(
    ids: Int[Tensor, "sequences length"], at: Sequence[int], vocabulary: int | None = None
) -> Float[Tensor, "sequences at vocabulary"]:
    """Count each token in the prefixes of the given lengths, in float64."""
    size = int(ids.max()) + 1 if vocabulary is None else vocabulary
    total = torch.zeros(len(ids), size, dtype=torch.float64)
    found, begin = [], 0
    for end in at:
        piece = ids[:, begin:end]
        total = total.scatter_add(1, piece, torch.ones(piece.shape, dtype=torch.float64))
        found.append(total)
        begin = end
    return torch.stack(found, dim=1)


def growth_exponents(
    counts: Float[Tensor, "sequences at vocabulary"], at: Int[Tensor, " at"], since: float = 1 / 32
) -> Float[Tensor, " sequences"]:
    """Fit the power of the length with which the tokens beside each sequence's commonest one grow, all together.

    Args:
        counts: of each token in prefixes.
        at: their lengths.
        since: prefixes shorter than this share of the longest are not fitted.

    Returns:
        Slope of ln count on ln length by least squares; NaN where the first fitted count is 0 or only one is fitted.
    """
    kept = at >= since * at.max()
    top = counts[:, -1].argmax(-1)
    others = counts.sum(-1) - counts.gather(2, top[:, None, None].expand(-1, counts.shape[1], 1)).squeeze(2)
    x = at[kept].double().log()
    x = x - x.mean()
    slopes = (others[:, kept].clamp_min(1).log() * x).sum(-1) / x.square().sum()
    return torch.where(others[:, kept][:, 0] > 0, slopes, torch.nan)


def _distinct(windows: Tensor, n: int) -> Tensor:
    grams = windows.unfold(2, n, 1).numpy()
    rows = [[len(np.unique(grams[i, j], axis=0)) for j in range(grams.shape[1])] for i in range(grams.shape[0])]
    return torch.tensor(rows, dtype=torch.float64) / grams.shape[2]


def _top_share(windows: Tensor) -> Tensor:
    ordered = windows.sort(-1).values
    rows = [
        [int(torch.unique_consecutive(window, return_counts=True)[1].max()) for window in sequence]
        for sequence in ordered
    ]
    return torch.tensor(rows, dtype=torch.float64) / windows.shape[2]
