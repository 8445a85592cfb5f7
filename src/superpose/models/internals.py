"""Everything that touches the inside of a `transformers` causal language model: blocks, residuals, caches.

Contract-tested on Llama, Mistral, Qwen2, Qwen3, Gemma 3, GPT-2 and GPT-NeoX shaped models. "The residual
stream after block l" is the block's output before the model's final norm, for the last block too: the
quantity that TransformerLens calls ``resid_post``.
"""

import copy
import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from superpose.errors import InputError

SUPPORTED_SHAPES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3", "GPT-2", "GPT-NeoX")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model, first block first.

    Raises:
        InputError: the model is not shaped like one of `SUPPORTED_SHAPES`.
    """
    decoder = _decoder(model)
    for name in ("layers", "h"):
        blocks = getattr(decoder, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 0:
            return blocks
    raise _unsupported(model)


def num_layers(model: PreTrainedModel) -> int:
    """Return the number of decoder blocks."""
    return len(decoder_layers(model))


def width(model: PreTrainedModel) -> int:
    """Return the width of the residual stream."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def context_length(model: PreTrainedModel) -> int | None:
    """Return the longest sequence in tokens that the model's positions allow, or None where it names none."""
    length = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return None if length is None else int(length)


def _decoder(model: PreTrainedModel) -> nn.Module:
    if model.config.is_encoder_decoder or not hasattr(model, "get_decoder"):
        raise _unsupported(model)
    decoder = model.get_decoder()
    if not isinstance(decoder, nn.Module):
        raise _unsupported(model)
    return decoder


def _unsupported(model: PreTrainedModel) -> InputError:
    return InputError(
        f"model is a {type(model).__name__}, whose decoder blocks are not known here; "
        f"supported: causal language models shaped like {', '.join(SUPPORTED_SHAPES)}"
    )


def _check_layer(model: PreTrainedModel, layer: int) -> None:
    total = num_layers(model)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < total:
        raise InputError(f"layer is {layer!r}; this model has layers 0 to {total - 1}")


def _hidden(output: Any) -> Tensor:
    """Return a block's residual stream: blocks give a tensor or, in older shapes, a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


@dataclass
class ResidualCapture:
    """What `capture_residuals` fills in: the residuals of the most recent forward pass.

    Attributes:
        layers: the captured blocks, in the order of the tensors below.
    """

    layers: tuple[int, ...]
    _by_layer: dict[int, Tensor] = field(default_factory=dict)

    @property
    def residuals(self) -> Float[Tensor, "batch layers width"]:
        """The residual stream after each captured block, at each row's position.

        Raises:
            RuntimeError: no forward pass has been run inside the context yet.
        """
        if len(self._by_layer) != len(self.layers):
            raise RuntimeError("no forward pass has been captured yet: run the model inside the context")
        return torch.stack([self._by_layer[layer] for layer in self.layers], dim=1)


@contextmanager
def capture_residuals(
    model: PreTrainedModel,
    layers: Sequence[int] | None = None,
    positions: int | Int[Tensor, " batch"] = -1,
) -> Generator[ResidualCapture]:
    """Collect the residual stream after decoder blocks at one position per row.

    Hooks are removed when the context ends, also by an exception. Captured tensors are detached copies,
    in the model's dtype and on its device.

    Args:
        model: a causal language model of a supported shape.
        layers: blocks to read, 0-based; default: all of them.
        positions: index within the forward pass, negative from its end, the same for all rows or one per row.

    Raises:
        InputError: unsupported model, layer out of range, or a position outside the forward pass.
    """
    wanted = tuple(range(num_layers(model))) if layers is None else tuple(layers)
    for layer in wanted:
        _check_layer(model, layer)
    capture = ResidualCapture(wanted)
    blocks = decoder_layers(model)

    def reader(layer: int):
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            hidden = _hidden(output)
            rows, columns = _rows_and_columns(positions, hidden)
            capture._by_layer[layer] = hidden.detach()[rows, columns]

        return read

    with ExitStack() as hooks:
        for layer in dict.fromkeys(wanted):
            hooks.callback(blocks[layer].register_forward_hook(reader(layer)).remove)
        yield capture


def _rows_and_columns(
    positions: int | Tensor, hidden: Float[Tensor, "batch pos width"]
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    batch, length, _ = hidden.shape
    rows = torch.arange(batch, device=hidden.device)
    columns = torch.as_tensor(positions, dtype=torch.long, device=hidden.device).expand(batch).clone()
    columns = torch.where(columns < 0, columns + length, columns)
    if bool(((columns < 0) | (columns >= length)).any()):
        raise InputError(f"positions is {positions}; this forward pass has positions 0 to {length - 1}")
    return rows, columns


@contextmanager
def patch_residual(
    model: PreTrainedModel,
    layer: int,
    vector: Float[Tensor, " width"] | Float[Tensor, "batch width"],
    position: int | Int[Tensor, " batch"] = -1,
) -> Generator[None]:
    """Replace the residual stream after one decoder block at one position per row.

    Positions are absolute: with a cache, a pass over tokens ``n..n+t-1`` of the sequence is patched only if it
    contains the position, so answers scored after a patched prompt are not patched again. Negative positions
    count from the end of a pass that starts with an empty cache (the prompt). Padding counts as positions.
    The hooks are removed when the context ends, also by an exception.

    Args:
        model: a causal language model of a supported shape.
        layer: the block after which to patch, 0-based.
        vector: the new residual, one for all rows or one per row; cast to the model's dtype and device.
        position: the same for all rows, or one per row.

    Raises:
        InputError: unsupported model, layer out of range, wrong width or batch, or, at the end, a position that
            none of the forward passes inside the context contained.
    """
    _check_layer(model, layer)
    if vector.shape[-1] != width(model):
        raise InputError(f"vector has width {vector.shape[-1]}; this model's residual stream has {width(model)}")
    patch = _Patch(vector, position)
    with ExitStack() as hooks:
        decoder = _decoder(model)
        hooks.callback(decoder.register_forward_pre_hook(patch.note_offset, with_kwargs=True).remove)
        hooks.callback(decoder_layers(model)[layer].register_forward_hook(patch.replace).remove)
        yield
    patch.check_applied()


class _Patch:
    def __init__(self, vector: Tensor, position: int | Tensor):
        self.vector = vector
        self.position = torch.as_tensor(position, dtype=torch.long)
        self.offset = 0
        self.applied: Bool[Tensor, " rows"] | None = None

    def note_offset(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        # Blocks are not told where in the sequence they are; the decoder's cache knows, before the pass.
        call = inspect.signature(module.forward).bind_partial(*args, **kwargs)
        cache = call.arguments.get("past_key_values", call.arguments.get("kwargs", {}).get("past_key_values"))
        self.offset = 0 if cache is None else int(cache.get_seq_length())

    def replace(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = _hidden(output)
        batch, length, _ = hidden.shape
        position = self.position.to(hidden.device).reshape(-1)
        columns = position - self.offset
        if self.offset == 0:
            columns = torch.where(position < 0, position + length, columns)
            within = (columns >= 0) & (columns < length)
        else:
            within = (position >= 0) & (columns >= 0) & (columns < length)
        self.applied = within.cpu() if self.applied is None else self.applied | within.cpu()
        if not bool(within.any()):
            return output
        for name, given in (("position", position), ("vector", self.vector.reshape(-1, hidden.shape[-1]))):
            if len(given) not in (1, batch):
                raise InputError(f"{name} has {len(given)} rows; the forward pass has {batch}")
        within, columns = within.expand(batch), columns.expand(batch)
        patched = hidden.clone()
        rows = within.nonzero()[:, 0]
        patched[rows, columns[rows]] = self.vector.to(hidden).expand(batch, -1)[rows]
        return (patched, *output[1:]) if isinstance(output, tuple) else patched

    def check_applied(self) -> None:
        if self.applied is not None and not bool(self.applied.all()):
            missed = self.position.reshape(-1)[~self.applied].tolist()
            raise InputError(f"position is {missed[0]}; no forward pass in the context contained it")


def fresh_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty key-value cache with the layer kinds (full, sliding) of the model."""
    return DynamicCache(config=model.config)


def prefill(
    model: PreTrainedModel,
    ids: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> tuple[Float[Tensor, "batch vocab"], DynamicCache]:
    """Run a prompt once; return the logits after its last token and the cache that continues it.

    The caller chooses grad or inference mode. Where the model's forward has ``logits_to_keep`` the logits of
    the other positions are never computed.

    Args:
        model: a causal language model.
        ids: the prompts' tokens, all of one length, or left-padded with a mask.
        attention_mask: 1 for tokens, 0 for padding; default: no padding.
    """
    cache = fresh_cache(model)
    options: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 1
    if attention_mask is not None:
        options["attention_mask"] = attention_mask
        options["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, past_key_values=cache, use_cache=True, **options)
    return output.logits[:, -1], cache


def extend(
    model: PreTrainedModel, cache: DynamicCache, ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos vocab"]:
    """Continue a cached prompt by some tokens and return the logits after each; the cache grows by them.

    Right-padded rows need no mask as long as nobody reads the logits of the padding.
    """
    return model(input_ids=ids, past_key_values=cache, use_cache=True).logits


def repeat_cache(cache: Cache, k: int) -> DynamicCache:
    """Return a cache in which every row stands ``k`` times in a row: rows a, b become a, a, ..., b, b, ...

    The given cache is left as it is and stays usable. A cache of one row is not copied: the repeated rows share
    its memory until the next pass extends them.

    Raises:
        InputError: ``k`` is below 1, or the cache has layers of a kind that grows in place.
    """
    if k < 1:
        raise InputError(f"k is {k}; a cache can be repeated 1 or more times")

    def repeat(states: Tensor) -> Tensor:
        return states.expand(k, -1, -1, -1) if len(states) == 1 else states.repeat_interleave(k, dim=0)

    return _derive(cache, repeat)


def select_rows(cache: Cache, rows: Int[Tensor, " rows"]) -> DynamicCache:
    """Return a cache made of some rows of another, in that order, repeats allowed; the given one stays usable.

    Raises:
        InputError: the cache has layers of a kind that grows in place.
    """
    return _derive(cache, lambda states: states[rows])


def _derive(cache: Cache, change: Callable[[Tensor], Tensor]) -> DynamicCache:
    # Dynamic layers grow by concatenation, so a derived cache may share their tensors; static ones write in place.
    if not isinstance(cache, DynamicCache) or not all(isinstance(x, DynamicLayer) for x in cache.layers):
        kinds = sorted({type(layer).__name__ for layer in cache.layers})
        raise InputError(f"cache is a {type(cache).__name__} of {', '.join(kinds)}; allowed: a DynamicCache")
    derived = copy.copy(cache)
    derived.layers = []
    for layer in cache.layers:
        twin: Any = copy.copy(layer)
        if twin.is_initialized:
            twin.keys, twin.values = change(twin.keys), change(twin.values)
        derived.layers.append(twin)
    return derived
