"""The keys and values that a `transformers` model's attention caches: their sizes, and their content for some text."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from superpose.errors import InputError


@dataclass(frozen=True)
class KVSizes:
    """Layers, key-value heads per layer, and numbers per head."""

    layers: int
    kv_heads: int
    head_dim: int


def kv_sizes(model: PreTrainedModel | PreTrainedConfig) -> KVSizes:
    """Return the sizes of a causal language model's cache, whatever its layers attend to.

    Raises:
        InputError: an encoder-decoder, or a configuration that does not say its heads.
    """
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", None)
    if config.is_encoder_decoder or not heads:
        raise InputError(f"model is of type {config.model_type!r}; allowed: decoder-only models with attention heads")
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return KVSizes(int(config.num_hidden_layers), int(kv_heads), int(head_dim))


def text_config(model: PreTrainedModel | PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the text decoder."""
    config = model.config if isinstance(model, PreTrainedModel) else model
    return config.get_text_config(decoder=True)


@torch.inference_mode()
def kv_states(
    model: PreTrainedModel, ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"] | None = None
) -> tuple[Float[Tensor, "layers batch heads pos dim"], Float[Tensor, "layers batch heads pos dim"]]:
    """Return what the cache holds after one pass over some text: keys (rotated, where the model rotates) and values.

    Layers with a sliding window are read in full length too.

    Args:
        model: a causal language model, in eval mode.
        ids: tokens, on the model's device or not.
        attention_mask: 1 for tokens, 0 for padding; default: no padding.

    Raises:
        InputError: the model's layers keep something else than keys and values, or differ in size.
    """
    cache = DynamicCache()  # without the configuration: every layer keeps every token
    options: dict[str, Any] = {}
    if attention_mask is not None:
        options["attention_mask"] = attention_mask.to(model.device)
        options["position_ids"] = (options["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    # The decoder alone: logits over the vocabulary would be the largest tensor of the pass.
    model.get_decoder()(input_ids=ids.to(model.device), past_key_values=cache, use_cache=True, **options)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise InputError(f"a layer of the model caches a {type(layer).__name__}; allowed: keys and values")
        keys.append(layer.keys)
        values.append(layer.values)
    if len({state.shape for state in (*keys, *values)}) != 1:
        raise InputError("the model's layers differ in heads or head dimension; allowed: one size for all")
    return torch.stack(keys), torch.stack(values)
