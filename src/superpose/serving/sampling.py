"""Choosing the next token of every row of a batch, each row in its own way."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from superpose.serving.jobs import Sampling

# Nearly always enough for top_p, and far cheaper than sorting a vocabulary.
CANDIDATES = 256


class RowSampler:
    """The draws of one row: they depend on its seed alone, not on the rows that it shares batches with.

    Args:
        sampling: temperature, top_p and seed.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            # The generator takes 64 bits; a client's seed may be any integer.
            self._generator.manual_seed(sampling.seed % 2**64)

    def draw(self) -> float:
        """Return the next draw, uniform in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def choose(
    logits: Float[Tensor, "rows vocabulary"], samplers: Sequence[RowSampler]
) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Return each row's next token, and whether the row's logits were numbers at all.

    Rows with temperature 0 take the most probable token. The others invert the cumulative distribution at their own
    draw, so that a row's token is the same in whatever batch it is computed.

    Args:
        logits: after the last token of each row.
        samplers: one per row.
    """
    largest, tokens = logits.max(-1)
    valid = largest.isfinite()
    sampled = [i for i, each in enumerate(samplers) if each.sampling.temperature > 0 and bool(valid[i])]
    if sampled:
        rows = torch.tensor(sampled, device=logits.device)
        settings = [samplers[i] for i in sampled]
        tokens = tokens.clone()
        tokens[rows] = _draw(logits[rows], settings)
    return tokens, valid


def _draw(logits: Float[Tensor, "rows vocabulary"], samplers: Sequence[RowSampler]) -> Int[Tensor, " rows"]:
    def column(values: list[float]) -> Float[Tensor, "rows 1"]:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    temperatures = column([each.sampling.temperature for each in samplers])
    limits = column([each.sampling.top_p for each in samplers])
    draws = column([each.draw() for each in samplers])
    # A temperature near 0 must not overflow: the largest logit is taken off before the division.
    scaled = (logits.double() - logits.max(-1, keepdim=True).values.double()) / temperatures
    probabilities = scaled.softmax(-1)
    tokens = _invert(probabilities, draws)
    # Each row goes the way that its own settings ask for, whatever the others of the batch need.
    narrow = (limits[:, 0] < 1).nonzero()[:, 0]
    if len(narrow):
        tokens[narrow] = _nucleus(probabilities[narrow], limits[narrow], draws[narrow])
    return tokens


def _nucleus(
    probabilities: Float[Tensor, "rows vocabulary"], limits: Float[Tensor, "rows 1"], draws: Float[Tensor, "rows 1"]
) -> Int[Tensor, " rows"]:
    ordered, order = probabilities.topk(min(CANDIDATES, probabilities.shape[-1]), dim=-1)
    if bool((ordered.sum(-1, keepdim=True) < limits).any()):
        ordered, order = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < limits, ordered, 0.0)
    return order.gather(-1, _invert(kept, draws)[:, None])[:, 0]


def _invert(weights: Float[Tensor, "rows tokens"], draws: Float[Tensor, "rows 1"]) -> Int[Tensor, " rows"]:
    cumulative = weights.cumsum(-1)
    chosen = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    # Rounding may put the last draw behind every token; the last token that has weight is then meant.
    last = (weights > 0).long() * torch.arange(weights.shape[-1], device=weights.device)
    return torch.minimum(chosen[:, 0], last.max(-1).values)
