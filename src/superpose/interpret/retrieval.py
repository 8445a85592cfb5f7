"""How much attention goes to the tokens that a token-priority graph puts first (arXiv 2403.08081)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.theory import TokenPriorityGraph
from superpose.theory.next_token_data import checked_sequences, padded

PROMPTS_AT_ONCE = 16  # attention maps of all layers and heads are held at once


@dataclass(frozen=True)
class RetrievalReport:
    """Attention of each prompt's last position on the highest component in the prompt.

    Attributes:
        mass: attention on the component, over the leading axes of what was examined (layers and heads of a language
            model, none of one attention layer); NaN where the data do not order the prompt.
        uniform: the mass under attention spread evenly over the prompt, which is what no preference gives.
        top: the component's tokens that occur in the prompt, or None where the data do not order it.
    """

    mass: Float[Tensor, "*maps samples"]
    uniform: Float[Tensor, " samples"]
    top: tuple[frozenset[int] | None, ...]

    @property
    def ordered(self) -> Bool[Tensor, " samples"]:
        """Which prompts the data order."""
        return torch.tensor([members is not None for members in self.top])

    @property
    def mean(self) -> Float[Tensor, "*maps"]:
        """Mean mass over the ordered prompts."""
        return self.mass[..., self.ordered].mean(-1)


def retrieval_report(
    model: OneLayerAttention | PreTrainedModel | Float[Tensor, "*maps samples length"],
    graph: TokenPriorityGraph,
    sequences: Iterable[Iterable[int]] | Tensor,
    *,
    layer: int | None = None,
    head: int | None = None,
    model_tokens: Sequence[int] | None = None,
) -> RetrievalReport:
    """Measure hard retrieval: the mass on the highest component that each prompt holds.

    The theorem is about one attention layer trained alone; of a language model the report is a description.

    Args:
        model: one attention layer without leading sets; a causal language model loaded with
            ``attn_implementation="eager"``; or attention of the last tokens, one row per prompt, right-padded.
        graph: what the data order.
        sequences: prompts in the graph's token ids.
        layer, head: of a language model, the one to look at (from 0; negative counts from the end); default all.
        model_tokens: of a language model, its token id for each token of the graph; default the same ids.

    Raises:
        InputError: a prompt with ids outside the graph, no prompt that the data order, a layer or head that is not
            there, a model that returns no attention, or settings that do not belong to what is given.
    """
    rows = checked_sequences(sequences, graph.vocab_size)
    known = set(graph.queries)
    top = tuple(graph.top(row, row[-1]) if row[-1] in known else None for row in rows)
    if not any(members is not None for members in top):
        raise InputError("sequences: the graph orders none of them; allowed: at least one with a highest component")
    ids, mask = padded(rows)
    if not isinstance(model, PreTrainedModel) and (layer, head, model_tokens) != (None, None, None):
        raise InputError("layer, head and model_tokens are for language models; leave them out here")
    if isinstance(model, OneLayerAttention):
        device = model.embeddings.device
        with torch.no_grad():
            attention = model.attention(ids.to(device), mask.to(device))
    elif isinstance(model, PreTrainedModel):
        attention = _of_language_model(model, rows, layer, head, model_tokens, graph.vocab_size)
    else:
        attention: Tensor = model
        if attention.ndim < 2 or attention.shape[-2:] != ids.shape:
            raise InputError(f"attention has shape {tuple(attention.shape)}; allowed: [..., {len(rows)}, longest]")
    inside = torch.tensor(
        [
            [members is not None and keep and token in members for token, keep in zip(row, kept, strict=True)]
            for row, kept, members in zip(ids.tolist(), mask.tolist(), top, strict=True)
        ]
    )
    mass = (attention.detach().double().cpu() * inside).sum(-1)
    uniform = inside.sum(1).double() / mask.sum(1)
    nothing = torch.tensor([members is None for members in top])
    return RetrievalReport(mass.masked_fill(nothing, torch.nan), uniform.masked_fill(nothing, torch.nan), top)


def _of_language_model(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    layer: int | None,
    head: int | None,
    model_tokens: Sequence[int] | None,
    vocab_size: int,
) -> Tensor:
    """Attention of the last positions, ``[layers, heads, samples, length]`` without the axes that were chosen."""
    own = list(range(vocab_size)) if model_tokens is None else [int(token) for token in model_tokens]
    if len(own) != vocab_size:
        raise InputError(f"model_tokens has {len(own)} entries; allowed: {vocab_size}, one per token of the graph")
    table: Any = model.get_input_embeddings()
    known = table.weight.shape[0]
    wrong = [token for token in own if not 0 <= token < known]
    if wrong:
        raise InputError(f"model_tokens holds {wrong[0]}; allowed: 0 to {known - 1}, the model's tokens")
    config: Any = model.config.get_text_config(decoder=True)
    for name, wanted, there in (("layer", layer, config.num_hidden_layers), ("head", head, config.num_attention_heads)):
        if wanted is not None and not -there <= wanted < there:
            raise InputError(f"{name} is {wanted}; allowed: 0 to {there - 1}")
    ids, mask = padded(rows)
    ids = torch.tensor(own)[ids]
    parts = []
    for start in range(0, len(rows), PROMPTS_AT_ONCE):
        now = slice(start, start + PROMPTS_AT_ONCE)
        some, kept = ids[now].to(model.device), mask[now].to(model.device)
        with torch.inference_mode():
            found: Any = model(some, attention_mask=kept.long(), output_attentions=True, use_cache=False).attentions
        if not found or found[0] is None:
            raise InputError(
                "model returns no attention; load it with attn_implementation='eager', which keeps the maps"
            )
        last = kept.sum(1) - 1
        parts.append(torch.stack([one[torch.arange(len(some)), :, last].transpose(0, 1) for one in found]).cpu())
    maps = torch.cat(parts, dim=2)
    if head is not None:
        maps = maps[:, head]
    return maps if layer is None else maps[layer]
