"""Key-value caches whose old part is stored in another form, and attention functions of one's own, in `transformers`.

The two extension points that the inference methods share: a `Cache` layer that keeps the most recent tokens exactly and
hands older ones to a `FarStore`, and an attention function registered together with its mask function (one without
the other would silently drop the mask).
"""

import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, get_layer_types_and_kwargs
from transformers.masking_utils import sdpa_mask

from superpose.errors import InputError
from superpose.models.kv_states import kv_sizes, text_config


@dataclass(frozen=True)
class AttentionShape:
    """What a cache must know of a model: layers, query heads, key-value heads and the dimension of a head."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int


def attention_shape(model: PreTrainedModel | PreTrainedConfig) -> AttentionShape:
    """Return the attention sizes of a causal language model in which every layer attends to the whole past.

    Raises:
        InputError: a layer is not full attention (sliding window, chunked, linear, shared cache), or the model is an
            encoder-decoder.
    """
    config = text_config(model)
    sizes = kv_sizes(config)
    kinds, _ = get_layer_types_and_kwargs(config)
    for layer, kind in enumerate(kinds):
        if kind != "full_attention":
            raise InputError(
                f"layer {layer} of the model ({config.model_type}) is {kind!r}; allowed: 'full_attention' everywhere"
            )
    return AttentionShape(sizes.layers, int(config.num_attention_heads), sizes.kv_heads, sizes.head_dim)


def attention_name(model: PreTrainedModel | PreTrainedConfig) -> str | None:
    """Return the name of the attention function that the model calls at present."""
    return text_config(model)._attn_implementation


@runtime_checkable
class FarStore(Protocol):
    """Holds the keys and values of the tokens that have left the exact window, in its own form."""

    granularity: int
    """Tokens come in multiples of this number."""

    @property
    def tokens(self) -> int:
        """How many tokens per row are held."""
        ...

    def append(
        self, keys: Float[Tensor, "batch heads tokens dim"], values: Float[Tensor, "batch heads tokens dim"]
    ) -> None:
        """Take over tokens, oldest first."""
        ...

    def read(
        self,
    ) -> tuple[Float[Tensor, "batch heads tokens dim"], Float[Tensor, "batch heads tokens dim"]]:
        """Return all keys and values, reconstructed, in the dtype in which they came."""
        ...

    def crop(self, count: int) -> None:
        """Forget the newest ``count`` tokens, or raise `InputError` where the form does not allow it."""
        ...

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order, repeats allowed."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device."""
        ...


def overflow(exact: int, incoming: int, window: int, block: int, granularity: int = 1) -> int:
    """Return how many tokens leave the exact window after ``incoming`` more have entered it.

    Nothing leaves while at most ``window`` are exact. A single token pushes out whole blocks (Lexico's ``n_a``); a
    prompt or chunk pushes out everything but the window.

    Args:
        exact: tokens in the window after the new ones have entered.
        incoming: how many of them entered just now.
        window: the most that stay.
        block: tokens that leave together while decoding.
        granularity: tokens that the far part takes together.
    """
    excess = exact - window
    if excess <= 0:
        return 0
    unit = block if incoming == 1 else granularity
    return unit * -(-excess // unit)


@overload
def stored_tokens(
    stepped: int, prefilled: int, window: int, block: int, granularity: int = 1, keep_first: int = 0
) -> int: ...
@overload
def stored_tokens(
    stepped: Tensor, prefilled: int, window: int, block: int, granularity: int = 1, keep_first: int = 0
) -> Tensor: ...
def stored_tokens(
    stepped: int | Tensor, prefilled: int, window: int, block: int, granularity: int = 1, keep_first: int = 0
) -> int | Tensor:
    """Return how many tokens the far part holds after a prompt and single steps: the closed form of `overflow`.

    Args:
        stepped: tokens that were fed one by one after the prompt; an integer or a tensor of them.
        prefilled: tokens of the prompt, fed in one pass.
        window, block, granularity: see `overflow`.
        keep_first: first tokens of the sequence that stay exact for ever, beside the window.
    """
    start = granularity * -(-max(0, prefilled - keep_first - window) // granularity)
    excess = stepped + (prefilled - keep_first - start - window)
    if isinstance(excess, Tensor):
        return start + block * torch.div(excess.clamp(min=0) + block - 1, block, rounding_mode="floor")
    return start + block * -(-max(0, excess) // block)


class WindowedLayer(CacheLayerMixin):
    """One layer's cache: the first tokens (optional) and the last ones exact, everything between in a `FarStore`.

    `update` returns the exact states of whatever it has not stored before this call, so the attention of a prompt is
    exact; tokens are moved to the far part afterwards.

    Args:
        far: where older tokens go.
        window: the most recent tokens that stay exact between two calls.
        block: tokens that leave the window together while decoding.
        keep_first: first tokens of the sequence that stay exact for ever. With left padding these are the padding.
    """

    is_croppable = True
    is_sliding = False

    def __init__(self, far: FarStore, window: int, block: int = 1, keep_first: int = 0):
        super().__init__()
        self.far = far
        self.window, self.block, self.keep_first = window, block, keep_first

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype and device of the states, and start empty."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch heads new dim"],
        value_states: Float[Tensor, "batch heads new dim"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch heads pos dim"], Float[Tensor, "batch heads pos dim"]]:
        """Add new tokens and return all keys and values that they attend to.

        Raises:
            InputError: no new tokens.
        """
        if key_states.shape[-2] == 0:
            raise InputError("key_states has 0 tokens; a pass needs at least one (is the prompt empty?)")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys = torch.cat([self.keys, key_states], dim=-2)  # type: ignore[list-item]
        values = torch.cat([self.values, value_states], dim=-2)  # type: ignore[list-item]
        visible = self.visible(keys, values, key_states.shape[-2])
        self._absorb(keys, values, key_states.shape[-2])
        return visible

    def visible(self, keys: Tensor, values: Tensor, new: int) -> tuple[Tensor, Tensor]:
        """Put the reconstructed far part between the first and the recent of the exact tokens."""
        if self.far.tokens == 0:
            return keys, values
        far_keys, far_values = self.far.read()
        first = self.keep_first
        return (
            torch.cat([keys[..., :first, :], far_keys, keys[..., first:, :]], dim=-2),
            torch.cat([values[..., :first, :], far_values, values[..., first:, :]], dim=-2),
        )

    def _absorb(self, keys: Tensor, values: Tensor, new: int) -> None:
        first = self.keep_first
        leaving = overflow(keys.shape[-2] - first, new, self.window, self.block, self.far.granularity)
        if leaving:
            old = slice(first, first + leaving)
            self.far.append(keys[..., old, :], values[..., old, :])
            # A copy: a view would keep the memory of the tokens that left.
            keys = torch.cat([keys[..., :first, :], keys[..., first + leaving :, :]], dim=-2)
            values = torch.cat([values[..., :first, :], values[..., first + leaving :, :]], dim=-2)
        self.keys, self.values = keys, values

    def exact_tokens(self) -> int:
        """Return how many tokens per row are held exactly."""
        return self.keys.shape[-2] if self.is_initialized and self.keys is not None else 0

    def get_seq_length(self) -> int:
        """Return the number of tokens per row, exact and far."""
        return self.exact_tokens() + self.far.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the keys that a pass over ``query_length`` tokens will see."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: the layer grows without a limit."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.keys = self.values = None
        self.is_initialized = False
        self.far.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens; ``tokens_to_remove`` is their number, negative, as in `transformers` 5.

        Tokens that were moved to the far part by the forgotten ones stay there.

        Raises:
            InputError: a positive number, or more tokens than there are, or the far part cannot be cropped.
        """
        if tokens_to_remove > 0:
            raise InputError(f"tokens_to_remove is {tokens_to_remove}; allowed: 0 or a negative number of tokens")
        if tokens_to_remove == 0 or self.keys is None or self.values is None:
            return
        count = -tokens_to_remove
        if count > self.get_seq_length():
            raise InputError(f"tokens_to_remove is {tokens_to_remove}; the cache holds {self.get_seq_length()} tokens")
        first = min(self.keep_first, self.exact_tokens())
        recent = self.exact_tokens() - first
        from_far = min(max(count - recent, 0), self.far.tokens)
        exact = self.exact_tokens() - (count - from_far)
        if from_far and from_far == self.far.tokens:
            self.far.clear()
        elif from_far:
            self.far.crop(from_far)
        self.keys, self.values = self.keys[..., :exact, :].clone(), self.values[..., :exact, :].clone()

    def _select(self, rows: Tensor) -> None:
        if self.keys is None or self.values is None:
            return
        rows = rows.to(self.keys.device)
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        if self.far.tokens:
            self.far.select(rows)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows of the batch in a new order, for beam search."""
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, next to itself."""
        if self.keys is not None:
            self._select(torch.arange(len(self.keys)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows of the batch: indices or a boolean mask."""
        if self.keys is not None:
            self._select(torch.arange(len(self.keys))[indices.cpu()])

    def offload(self) -> None:
        """Move everything to the CPU."""
        super().offload()
        self.far.to("cpu")

    def prefetch(self) -> None:
        """Move everything back to the device of the model."""
        super().prefetch()
        if self.is_initialized:
            self.far.to(self.device)


class WindowedCache(Cache):
    """A `transformers` cache made of `WindowedLayer`, with plain exact layers where a model's layer is left as it is.

    Args:
        layers: one per layer of the model; None for an exact layer.
    """

    def __init__(self, layers: Sequence[WindowedLayer | None]):
        super().__init__(layers=[DynamicLayer() if layer is None else layer for layer in layers])

    def windowed_layers(self) -> list[WindowedLayer]:
        """Return the layers that have a far part."""
        return [layer for layer in self.layers if isinstance(layer, WindowedLayer)]

    def exact_tensors(self) -> list[Tensor]:
        """Return all keys and values that are held exactly, of every layer."""
        layers = [layer for layer in self.layers if isinstance(layer, CacheLayerMixin)]
        held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return [tensor for tensor in held if tensor is not None]


AttentionFunction = Callable[
    [
        int,
        Float[Tensor, "batch query_heads queries dim"],
        Float[Tensor, "batch kv_heads pos dim"],
        Float[Tensor, "batch kv_heads pos dim"],
        Bool[Tensor, "batch 1 queries pos"] | None,
        float,
    ],
    Float[Tensor, "batch query_heads queries dim"],
]
"""Layer, queries, keys, values, mask (True: may attend; None: one query, which sees everything), scale -> output."""

_numbers = itertools.count()


def register_attention(name: str, function: AttentionFunction) -> None:
    """Make an attention function known to `transformers` under a name, with a boolean mask under the same name."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        for option in ("softcap", "sliding_window", "position_bias"):
            if kwargs.get(option) is not None:
                raise InputError(f"the model's attention uses {option}; allowed: plain softmax attention")
        if dropout:
            raise InputError(f"attention dropout is {dropout}; allowed: 0 (call model.eval())")
        layer: Any = module.layer_idx
        output = function(layer, query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, _boolean_mask)


def _boolean_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    # A causal mask may be left out only where it hides nothing: our functions do not know `is_causal`.
    kwargs["allow_is_causal_skip"] = kwargs.get("allow_is_causal_skip", True) and kwargs.get("q_length") == 1
    return sdpa_mask(*args, **kwargs)


@contextmanager
def use_attention(model: PreTrainedModel, attention: str | AttentionFunction) -> Generator[None]:
    """Let a model attend through a registered function, or through a function of one's own, while the context lasts.

    Args:
        model: a causal language model that goes through the attention interface of `transformers`.
        attention: a name that `register_attention` or `transformers` knows, or a function.

    Raises:
        InputError: the model cannot change its attention function.
    """
    before = attention_name(model)
    name = attention if isinstance(attention, str) else f"superpose_attention_{next(_numbers)}"
    if not isinstance(attention, str):
        register_attention(name, attention)
    try:
        model.set_attn_implementation(name)
        if attention_name(model) != name:
            raise InputError(f"model is a {type(model).__name__}, which cannot change its attention function")
        yield
    finally:
        model.set_attn_implementation(before)  # type: ignore[arg-type]
        if not isinstance(attention, str):
            AttentionInterface._global_mapping.pop(name, None)
            AttentionMaskInterface._global_mapping.pop(name, None)
