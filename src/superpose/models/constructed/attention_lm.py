"""The one-layer attention model as a Hugging Face language model, so that ``generate`` and processors work on it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from superpose.errors import InputError
from superpose.models.constructed.one_layer_attention import OneLayerAttention
from superpose.theory.attention_chain import attention_weight
from superpose.theory.ccmc import ContextConditionedMarkovChain


class SelfAttentionConfig(PretrainedConfig):
    """Sizes of a `SelfAttentionLM`.

    Args:
        vocab_size: number of tokens, at least 2.
        width: of embeddings and weights, at least ``vocab_size``.
        places: number of position vectors added to the keys; 0 (the default): none.
    """

    model_type = "superpose-self-attention"

    def __init__(self, vocab_size: int = 2, width: int = 2, places: int = 0, **options: Any):
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; allowed: at least 2 tokens")
        if width < vocab_size:
            raise InputError(f"width is {width}; allowed: {vocab_size} or more, one dimension per token")
        if places < 0:
            raise InputError(f"places is {places}; allowed: 0 or more")
        self.vocab_size, self.width, self.places = vocab_size, width, places
        super().__init__(**{"use_cache": False, "is_decoder": True, "tie_word_embeddings": False, **options})


class SelfAttentionLM(PreTrainedModel, GenerationMixin):
    """A causal language model that is one softmax-attention layer, and so a context-conditioned Markov chain.

    Its logits are log-probabilities: every token is as likely as all the attention on its occurrences, and one that
    the context does not hold has -inf. There is nothing to cache: `generate` calls it with the whole sequence, and
    only the asked positions are computed. `superpose.tasks.continue_prompts` writes the same distribution from
    running counts, much faster. The model of arXiv 2402.13512.

    Build one with `from_chain` or `from_attention`.
    """

    config_class = SelfAttentionConfig
    main_input_name = "input_ids"
    base_model_prefix = "layer"

    def __init__(self, config: SelfAttentionConfig):
        super().__init__(config)
        eye = torch.eye(config.vocab_size, config.width)
        places = torch.zeros(config.places, config.width) if config.places else None
        self.layer = OneLayerAttention(eye, positions=places)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    @classmethod
    def from_attention(cls, layer: OneLayerAttention) -> "SelfAttentionLM":
        """Wrap a layer, in its own dtype.

        Raises:
            InputError: a layer of several sets.
        """
        if layer.embeddings.ndim != 2:
            raise InputError(f"layer has {layer.embeddings.ndim - 2} axes of sets; allowed: a single layer")
        tokens, width = layer.embeddings.shape
        places = 0 if layer.positions is None else len(layer.positions)
        model = cls(SelfAttentionConfig(tokens, width, places, dtype=layer.embeddings.dtype))
        whole = OneLayerAttention(layer.embeddings, positions=layer.positions)
        with torch.no_grad():
            whole.weight.copy_(layer.weight)
        model.layer = whole
        return model

    @classmethod
    def from_chain(
        cls,
        chain: ContextConditionedMarkovChain,
        embeddings: Float[Tensor, "tokens width"] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> "SelfAttentionLM":
        """Write down the weights of a chain.

        Args:
            chain: with positive transitions.
            embeddings: linearly independent rows; unit vectors by default.
            dtype: of the model.

        Raises:
            InputError: zeros among the transitions, or embeddings that are dependent or not one per token.
        """
        e = torch.eye(chain.vocabulary, dtype=torch.float64) if embeddings is None else embeddings.double()
        layer = OneLayerAttention(e)
        with torch.no_grad():
            layer.weight.copy_(attention_weight(chain.transitions_, e))
        return cls.from_attention(layer.to(dtype))

    def chain(self) -> ContextConditionedMarkovChain:
        """Return the chain that this model is.

        Raises:
            InputError: the model has positions, whose weights are no counts.
        """
        if self.layer.positions is not None:
            raise InputError("this model has position vectors; a chain on counts is allowed without them")
        return ContextConditionedMarkovChain.from_attention(self.layer.weight.detach(), self.layer.embeddings)

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutput:
        """Return the log-probabilities of the next token at every position, or at the last ``logits_to_keep``.

        Args:
            input_ids: token ids.
            attention_mask: 0 for padding.
            labels: tokens to score, shifted by one as in every causal model; -100 is passed over.
            logits_to_keep: how many last positions to compute, or which; 0: all.

        Raises:
            InputError: ids outside the vocabulary, more of them than positions, or a label that its prefix does not
                hold, whose loss would be infinite.
        """
        kept = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        length = input_ids.shape[1]
        if labels is not None or (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            reads = torch.arange(length, device=input_ids.device)
        elif isinstance(logits_to_keep, int):
            reads = torch.arange(max(0, length - logits_to_keep), length, device=input_ids.device)
        else:
            reads = logits_to_keep
        logits = self._log_probabilities(input_ids, kept, reads)
        return CausalLMOutput(loss=None if labels is None else _loss(logits, labels), logits=logits)  # pyright: ignore[reportArgumentType]

    def prepare_inputs_for_generation(self, input_ids: Tensor, *_: Any, **given: Any) -> dict[str, Any]:
        """Return the whole sequence and ask for its last position."""
        return {"input_ids": input_ids, "attention_mask": given.get("attention_mask"), "logits_to_keep": 1}

    def _log_probabilities(self, ids: Tensor, kept: Tensor, reads: Tensor) -> Tensor:
        layer = self.layer
        layer.check(ids, kept)
        rows = ids.masked_fill(~kept, 0)
        tokens = layer.embeddings[rows]
        keys = tokens
        if layer.positions is not None:
            keys = tokens + layer.positions[(kept.long().cumsum(-1) - 1).clamp_min(0)]
        scores = tokens[:, reads] @ layer.weight.mT @ keys.mT
        place = torch.arange(ids.shape[1], device=ids.device)
        seen = kept[:, None] & (place <= reads[:, None])
        # A padded position sees nothing and means nothing; it must not be NaN.
        seen = seen | ((place == 0) & ~seen.any(-1, keepdim=True))
        attention = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        # Adding up per token instead of multiplying by the classifier, which would leave rounding on absent tokens.
        index = rows[:, None].expand(attention.shape)
        zero = attention.new_zeros(*attention.shape[:2], layer.vocabulary)
        shares = zero.scatter_add(-1, index, attention)
        # Absent tokens are kept out of the logarithm, whose gradient at 0 would be NaN.
        return torch.where(shares > 0, shares, 1.0).log().masked_fill(shares == 0, -torch.inf)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    shifted, scored = labels[:, 1:], labels[:, 1:] != -100
    chosen = logits[:, :-1].gather(-1, shifted.masked_fill(~scored, 0).unsqueeze(-1)).squeeze(-1)
    lost = scored & torch.isinf(chosen)
    if bool(lost.any()):
        row, at = lost.nonzero()[0].tolist()
        raise InputError(
            f"labels[{row}, {at + 1}] is {int(shifted[row, at])}, which does not occur before it: its probability is "
            "0; allowed: tokens of the prefix, or -100"
        )
    return -chosen.where(scored, torch.zeros_like(chosen)).sum() / scored.sum()
