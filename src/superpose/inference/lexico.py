"""Lexico: a key-value cache whose older tokens are sparse codes over universal dictionaries (arXiv 2412.08890)."""

import weakref

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from superpose.errors import InputError, choose
from superpose.inference.cache_bytes import CacheBytes
from superpose.inference.dictionaries import Dictionaries
from superpose.inference.lexico_attention import FACTORED, mark
from superpose.inference.lexico_codes import MAX_ATOMS
from superpose.inference.lexico_store import LexicoSettings, LexicoStore
from superpose.models.kv_cache import (
    AttentionShape,
    WindowedCache,
    WindowedLayer,
    attention_name,
    attention_shape,
    stored_tokens,
)


class LexicoLayer(WindowedLayer):
    """One layer of a `LexicoCache`."""

    far: LexicoStore

    def __init__(self, far: LexicoStore, settings: LexicoSettings, config: PreTrainedConfig, groups: int):
        super().__init__(far, settings.buffer, settings.block, settings.keep_first)
        self.config, self.groups = config, groups

    def visible(self, keys: Tensor, values: Tensor, new: int) -> tuple[Tensor, Tensor]:
        """Return everything reconstructed or, where the factored attention is on and pays, the exact part marked."""
        # Many queries at once amortise one reconstruction; one query does not.
        few = new * self.groups <= keys.shape[-1]
        if self.far.tokens and few and attention_name(self.config) == FACTORED:
            return mark(keys, self.far, self.keep_first), values
        return super().visible(keys, values, new)


class LexicoCache(WindowedCache):
    """A `transformers` cache that codes what leaves its exact window (Kim et al. 2025, arXiv 2412.08890).

    ``model.generate(**inputs, past_key_values=LexicoCache(model, dictionaries))``. A prompt attends to itself exactly;
    afterwards all but the last `LexicoSettings.buffer` tokens are coded. While decoding, a full buffer sends its
    oldest `LexicoSettings.block` tokens into the codes. Works with any attention implementation (keys and values are
    reconstructed one layer at a time) and, inside `use_factored_attention`, without reconstruction. Batches, padding,
    grouped queries, beam search, later passes over many tokens and cropping are those of any `transformers` cache.

    Args:
        model_config: the model or its config: every layer full attention.
        dictionaries: trained for this model.
        settings: sparsity, buffer and layout; default: the paper's with fp8 coefficients.

    Raises:
        InputError: a model with other layers, dictionaries of another model, a sparsity above the head dimension or
            the number of atoms, more atoms than 16 bits count, or a layer to skip that does not exist.
    """

    def __init__(
        self,
        model_config: PreTrainedConfig | PreTrainedModel,
        dictionaries: Dictionaries,
        settings: LexicoSettings | None = None,
    ):
        settings = LexicoSettings() if settings is None else settings
        self.settings, self.dictionaries = settings, dictionaries
        self.shape = attention_shape(model_config)
        check_fit(self.shape, dictionaries, settings)
        dictionaries.check(model_config)
        config = model_config.config if isinstance(model_config, PreTrainedModel) else model_config
        device = model_config.device if isinstance(model_config, PreTrainedModel) else dictionaries.keys.device
        groups = self.shape.query_heads // self.shape.kv_heads
        stores = lexico_stores(dictionaries, settings, device)
        super().__init__([None if store is None else LexicoLayer(store, settings, config, groups) for store in stores])

    def bytes(self, convention: str = "paper") -> CacheBytes:
        """Return the memory that the cache takes now, summed over layers, heads and rows of the batch.

        Args:
            convention: ``paper`` counts 2 bytes per exact number and ``3 s + 2`` per fp8-coded vector (see
                `LexicoSettings.vector_bytes`; with ``tol``, ``s`` is what each vector uses); ``layout`` counts the
                tensors that are held. Both equal `lexico_bytes` where every vector has all its atoms.
        """
        choose("convention", convention, ("paper", "layout"))
        exact = self.exact_tensors()
        shared = sum(t.nbytes for t in (self.dictionaries.keys, self.dictionaries.values))
        stores = [layer.far for layer in self.windowed_layers() if isinstance(layer.far, LexicoStore)]
        states = [side for store in stores for side in (store.keys, store.values)]
        width = exact[0].element_size() if exact and convention == "layout" else 2
        dim = self.shape.head_dim
        numbers = sum(tensor.numel() for tensor in exact)
        vectors = sum(side.codes.batch * side.codes.heads * side.codes.tokens for side in states)
        if convention == "layout":
            codes = sum(tensor.nbytes for side in states for tensor in side.codes.parts().values())
            adaptive = sum(side.extra.nbytes for side in states if side.extra is not None)
        else:
            per_vector = self.settings.vector_bytes(0)
            per_entry = self.settings.vector_bytes(1) - per_vector
            codes = per_vector * vectors + per_entry * sum(side.codes.entries() for side in states)
            adaptive = width * dim * sum(sum(side.used) for side in states)
        full = width * (numbers + dim * vectors)
        return CacheBytes(codes, width * numbers, adaptive, full, shared)


def check_fit(shape: AttentionShape, dictionaries: Dictionaries, settings: LexicoSettings) -> None:
    """Refuse dictionaries or settings that do not fit a model.

    Raises:
        InputError: naming what does not fit.
    """
    layers, dim, atoms = dictionaries.keys.shape
    if (layers, dim) != (shape.layers, shape.head_dim):
        raise InputError(
            f"dictionaries are for {layers} layers of head dimension {dim};"
            f" this model has {shape.layers} layers of head dimension {shape.head_dim}"
        )
    for name in ("key_sparsity", "value_sparsity"):
        value = getattr(settings, name)
        if value > min(dim, atoms):
            raise InputError(
                f"{name} is {value}; allowed: 1 to {min(dim, atoms)} (head dimension {dim}, {atoms} atoms)"
            )
    if atoms + settings.adaptive > MAX_ATOMS:
        raise InputError(
            f"dictionaries have {atoms} atoms and adaptive is {settings.adaptive}; 16-bit indices allow {MAX_ATOMS}"
        )
    for layer in settings.skip_layers:
        if not 0 <= layer < layers:
            raise InputError(f"skip_layers has {layer}; this model has layers 0 to {layers - 1}")


def lexico_stores(
    dictionaries: Dictionaries, settings: LexicoSettings, device: torch.device
) -> list[LexicoStore | None]:
    """Return an empty far part for every layer of a model; None for those that settings skip."""
    keys, values = _atom_rows(dictionaries, device)
    return [
        None if layer in settings.skip_layers else LexicoStore(keys[layer], values[layer], settings)
        for layer in range(len(keys))
    ]


_prepared: dict[tuple[int, str], tuple[weakref.ref, tuple[Tensor, Tensor]]] = {}


def _atom_rows(
    dictionaries: Dictionaries, device: torch.device
) -> tuple[Float[Tensor, "layers atoms dim"], Float[Tensor, "layers atoms dim"]]:
    # A server makes a cache per batch: the transposed dictionaries are made once and shared.
    key = (id(dictionaries), str(device))
    held = _prepared.get(key)
    if held is not None and held[0]() is dictionaries:
        return held[1]
    keys, values = (
        tensor.detach().to(device, torch.float32).transpose(1, 2).contiguous()
        for tensor in (dictionaries.keys, dictionaries.values)
    )
    _prepared[key] = (weakref.ref(dictionaries, lambda _: _prepared.pop(key, None)), (keys, values))
    return keys, values


def lexico_bytes(
    shape: AttentionShape,
    settings: LexicoSettings,
    prompt: int,
    generated: int = 0,
    batch: int = 1,
    convention: str = "paper",
    element_bytes: int = 2,
) -> int:
    """Return the bytes of a `LexicoCache` in closed form: codes and exact tokens, without adaptive atoms.

    Args:
        shape: of the model.
        settings: of the cache; with ``tol`` this is the most that it can take.
        prompt: tokens of the prompt, in one pass.
        generated: tokens fed one by one afterwards.
        batch: rows.
        convention: ``paper`` or ``layout``, see `LexicoCache.bytes`.
        element_bytes: bytes of an exact number; 2 for the paper's count.
    """
    choose("convention", convention, ("paper", "layout"))
    coded = stored_tokens(generated, prompt, settings.buffer, settings.block, keep_first=settings.keep_first)
    exact = prompt + generated - coded
    per_vector = settings.vector_bytes if convention == "paper" else settings.layout_bytes
    pair = per_vector(settings.key_sparsity) + per_vector(settings.value_sparsity)
    number = 2 if convention == "paper" else element_bytes
    exact_pair = 2 * shape.head_dim * number
    skipped = len(set(settings.skip_layers))
    coding = (shape.layers - skipped) * (coded * pair + exact * exact_pair)
    tokens = coding + skipped * (prompt + generated) * exact_pair
    return batch * shape.kv_heads * tokens
