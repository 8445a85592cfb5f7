"""One softmax self-attention layer that reads from the last token, with embeddings fixed and one key-query matrix."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from superpose.errors import InputError
from superpose.theory.attention_chain import check_independent


class OneLayerAttention(nn.Module):
    """Attention of the last token over the whole sequence, read out by the classifier that inverts the embeddings.

    A token j at position i has the score ``(e_j + u_i)^T W e_k`` for the last token k, and the output is
    ``C X^T softmax(scores)``, where the rows of X are token embeddings (without positions) and ``C E^T = I``. So the
    probability of a token is the attention on all its occurrences. With leading axes ``*sets`` as many independent
    layers stand side by side, each with its own embeddings, weights and data.
    The layer of arXiv 2402.13512 and 2403.08081.

    Args:
        embeddings: one row e_j per token, linearly independent, so at least as wide as the vocabulary is large. Their
            dtype and device are the layer's.
        rank: None trains W as one matrix; a number trains ``W = key @ query^T`` with factors of that width.
        positions: vectors u_i added to the keys only, one per position counted from the first token that the mask
            keeps; without them the order of the tokens before the last does not matter.
        seed: of the initial weights, uniform in ``+-1/sqrt(width)`` as in `torch.nn.Linear`; None starts W at 0, which
            factors cannot leave and is refused for them.

    Attributes:
        embeddings, classifier, positions: buffers; the classifier is the pseudo-inverse of the embeddings.

    Raises:
        InputError: fewer than two tokens, dependent embeddings, positions of another width, a rank below 1 or above
            the width, or a rank without seed.
    """

    embeddings: Tensor
    classifier: Tensor
    positions: Tensor | None

    def __init__(
        self,
        embeddings: Float[Tensor, "*sets vocabulary width"],
        rank: int | None = None,
        positions: Float[Tensor, "length _"] | None = None,
        *,
        seed: int | None = None,
    ):
        super().__init__()
        *sets, width = embeddings.shape[:-2] + embeddings.shape[-1:]
        if not embeddings.is_meta:  # as when a saved model is loaded: there are no numbers yet
            check_independent(embeddings)
        if positions is not None and positions.shape[-1] != width:
            raise InputError(f"positions have width {positions.shape[-1]}; allowed: {width}, that of the embeddings")
        if rank is not None and not 1 <= rank <= width:
            raise InputError(f"rank is {rank}; allowed: 1 to {width}, the width of the embeddings")
        if rank is not None and seed is None:
            raise InputError("seed is None with a rank; allowed: a number, because factors of 0 have no gradient")
        self.register_buffer("embeddings", embeddings.detach().clone())
        inverse = torch.empty_like(embeddings) if embeddings.is_meta else torch.linalg.pinv(embeddings.double()).mT
        self.register_buffer("classifier", inverse.detach().to(embeddings))
        self.register_buffer("positions", None if positions is None else positions.detach().to(embeddings))
        shape = (*sets, width, width if rank is None else rank)
        generator = torch.Generator().manual_seed(0 if seed is None else seed)

        def initial() -> nn.Parameter:
            values = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) / width**0.5
            return nn.Parameter((torch.zeros(shape) if seed is None else values).to(embeddings))

        self.matrix = initial() if rank is None else None
        self.key = None if rank is None else initial()
        self.query = None if rank is None else initial()

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.embeddings.shape[-2]

    @property
    def weight(self) -> Float[Tensor, "*sets width width"]:
        """W: the parameter itself, or the product of its factors."""
        if self.matrix is not None:
            return self.matrix
        assert self.key is not None and self.query is not None
        return self.key @ self.query.mT

    def attention(
        self, ids: Int[Tensor, "*sets batch length"], mask: Bool[Tensor, "*sets batch length"] | None = None
    ) -> Float[Tensor, "*sets batch length"]:
        """Return how the last token of each sequence divides its attention over the sequence.

        Args:
            ids: token ids.
            mask: False for padding, on either side; the last token is the last that is kept.

        Raises:
            InputError: an id outside the vocabulary, other leading axes than the layer's, no token in a sequence, or
                a sequence longer than the positions.
        """
        return self._attend(ids, mask)[1]

    def attended(
        self, ids: Int[Tensor, "*sets batch length"], mask: Bool[Tensor, "*sets batch length"] | None = None
    ) -> Float[Tensor, "*sets batch width"]:
        """Return the layer's output before the classifier, ``X^T softmax(...)``; arguments as in `attention`."""
        tokens, weights = self._attend(ids, mask)
        return (weights.unsqueeze(-2) @ tokens).squeeze(-2)

    def forward(
        self, ids: Int[Tensor, "*sets batch length"], mask: Bool[Tensor, "*sets batch length"] | None = None
    ) -> Float[Tensor, "*sets batch vocabulary"]:
        """Return the probabilities of the next token; arguments as in `attention`."""
        return self.attended(ids, mask) @ self.classifier.mT

    def _attend(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        self.check(ids, mask)
        length = ids.shape[-1]
        kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        place = torch.arange(length, device=ids.device)
        last = torch.where(kept, place, -1).amax(-1, keepdim=True)
        if bool((last < 0).any()):
            raise InputError("mask keeps no token of a sequence; allowed: at least one in each")
        # Sets in one row of the table each: a single look-up serves them all.
        offsets = torch.arange(self.embeddings[..., 0, 0].numel(), device=ids.device) * self.vocabulary
        rows = ids.masked_fill(~kept, 0) + offsets.view(*ids.shape[:-2], 1, 1)
        tokens = self.embeddings.reshape(-1, self.embeddings.shape[-1])[rows]
        keys = tokens
        if self.positions is not None:
            keys = tokens + self.positions[(kept.long().cumsum(-1) - 1).clamp_min(0)]
        query = tokens.gather(-2, last.unsqueeze(-1).expand(*last.shape, tokens.shape[-1])).squeeze(-2)
        scores = (keys @ (query @ self.weight.mT).unsqueeze(-1)).squeeze(-1)
        return tokens, scores.masked_fill(~kept, -torch.inf).softmax(-1)

    def check(self, ids: Int[Tensor, "*sets batch length"], mask: Bool[Tensor, "*sets batch length"] | None) -> None:
        """Refuse sequences that the layer cannot read.

        Raises:
            InputError: as in `attention`.
        """
        sets = self.embeddings.shape[:-2]
        if ids.ndim != len(sets) + 2 or ids.shape[:-2] != sets:
            raise InputError(f"ids has shape {tuple(ids.shape)}; allowed: {(*sets, 'batch', 'length')}")
        if mask is not None and mask.shape != ids.shape:
            raise InputError(f"mask has shape {tuple(mask.shape)}; allowed: {tuple(ids.shape)}, that of ids")
        if ids.shape[-1] == 0:
            raise InputError("ids holds empty sequences; allowed: at least one token in each")
        if self.positions is not None and ids.shape[-1] > len(self.positions):
            raise InputError(f"ids has length {ids.shape[-1]}; allowed: up to {len(self.positions)}, the positions")
        read = ids if mask is None else ids.masked_fill(~mask, 0)
        if ids.numel() and not 0 <= int(read.min()) <= int(read.max()) < self.vocabulary:
            wrong = int(read.min()) if int(read.min()) < 0 else int(read.max())
            raise InputError(f"ids has the token {wrong}; allowed: 0 to {self.vocabulary - 1}")
