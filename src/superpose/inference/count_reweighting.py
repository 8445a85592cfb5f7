"""Make next-token scores depend on how often each token has occurred, as one self-attention layer does."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from superpose.errors import InputError


class CountReweightLogitsProcessor(LogitsProcessor):
    """Add ``gamma`` times the logarithm of a token's count in the context to its logit.

    With ``gamma=1`` and ``strict=True``, on top of scores that depend on the last token only, generation is the
    context-conditioned Markov chain of arXiv 2402.13512, which repeats itself more and more. A negative gamma weighs
    against repetition; 0 changes nothing. gamma is a knob of this package, not of the paper.

    Args:
        gamma: power of the count by which probabilities are multiplied.
        strict: give tokens that the context does not hold probability 0, as attention does; otherwise they keep their
            score, as those that it holds once.
        ignore: ids that are never counted or changed, such as padding and the end of the text.

    Raises:
        InputError: a gamma that is not finite, or negative ids to ignore.

    Example:
        ``model.generate(**inputs, logits_processor=LogitsProcessorList([CountReweightLogitsProcessor(-0.5)]))``
    """

    def __init__(self, gamma: float = 1.0, *, strict: bool = False, ignore: Collection[int] = ()):
        if not -float("inf") < gamma < float("inf"):
            raise InputError(f"gamma is {gamma}; allowed: a finite number")
        if any(token < 0 for token in ignore):
            raise InputError(f"ignore is {sorted(ignore)}; allowed: token ids, 0 or more")
        self.gamma, self.strict, self.ignore = gamma, strict, sorted(set(ignore))

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Return the changed scores; float32 arithmetic on the counts, whatever the scores' dtype."""
        if self.gamma == 0 and not self.strict:
            return scores
        counts = torch.zeros(scores.shape, dtype=torch.float32, device=scores.device)
        counts.scatter_add_(1, input_ids, torch.ones_like(input_ids, dtype=torch.float32))
        present = counts > 0
        changed = scores + (self.gamma * counts.clamp_min(1).log()).to(scores.dtype)
        if self.strict:
            changed = changed.masked_fill(~present, -torch.inf)
        kept = torch.tensor([token for token in self.ignore if token < scores.shape[1]], device=scores.device)
        if len(kept):
            changed[:, kept] = scores[:, kept]
        return changed
