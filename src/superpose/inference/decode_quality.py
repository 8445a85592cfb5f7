"""How well a model decodes on a compressed cache, measured in one teacher-forced pass.

Feeding a text token by token through a compressed cache costs one forward pass per token. The same numbers come out
of one pass over the whole text: every layer's attention builds the compressed form of its own keys and values, and
every query uses the compressed form of exactly those tokens that had left the exact window when it was fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from superpose.errors import InputError
from superpose.inference.dictionaries import Dictionaries
from superpose.inference.lexico import check_fit, lexico_stores
from superpose.inference.lexico_store import LexicoSettings
from superpose.models.kv_cache import AttentionShape, FarStore, attention_shape, stored_tokens, use_attention

_SCORE_NUMBERS = 2**24


@dataclass(frozen=True)
class DecodeQuality:
    """How a model predicted some tokens, one row per text window.

    Attributes:
        nll: negative log-likelihood of each scored token, in nats.
        choices: the most likely token at each place.
    """

    nll: Float[Tensor, "windows scored"]
    choices: Int[Tensor, "windows scored"]

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-likelihood over all windows."""
        return float(self.nll.double().mean().exp())

    def window_perplexity(self) -> Float[Tensor, " windows"]:
        """Return the perplexity of each window."""
        return self.nll.double().mean(-1).exp()

    def agreement(self, other: "DecodeQuality") -> float:
        """Return the fraction of places where both choose the same token."""
        if self.choices.shape != other.choices.shape:
            raise InputError(
                f"other has choices of shape {tuple(other.choices.shape)}; these have {tuple(self.choices.shape)}"
            )
        return float((self.choices == other.choices).double().mean())


@dataclass(frozen=True)
class LexicoMethod:
    """A `LexicoCache` with these dictionaries and settings, for `decode_quality`."""

    dictionaries: Dictionaries
    settings: LexicoSettings

    @property
    def buffer(self) -> int:
        """Exact tokens."""
        return self.settings.buffer

    @property
    def block(self) -> int:
        """Tokens coded together."""
        return self.settings.block

    @property
    def keep_first(self) -> int:
        """First tokens that stay exact."""
        return self.settings.keep_first

    def far_fraction(self, head_dim: int) -> float:
        """Return the bytes of coded vectors over those of float16 vectors."""
        return self.settings.far_fraction(head_dim)

    def stores(self, shape: AttentionShape, device: torch.device) -> Sequence[FarStore | None]:
        """Return an empty far part for every layer of a model."""
        check_fit(shape, self.dictionaries, self.settings)
        return lexico_stores(self.dictionaries, self.settings, device)


@runtime_checkable
class _Windowed(Protocol):
    @property
    def buffer(self) -> int:
        """Most recent tokens that stay exact between two steps."""
        ...

    @property
    def block(self) -> int:
        """Tokens that leave the exact window together."""
        ...

    @property
    def keep_first(self) -> int:
        """First tokens that stay exact for ever."""
        ...


@runtime_checkable
class ReconstructingMethod(_Windowed, Protocol):
    """A cache that keeps an approximation of every token."""

    def stores(self, shape: AttentionShape, device: torch.device) -> Sequence[FarStore | None]:
        """Return an empty far part for every layer of a model; None: the layer stays exact."""
        ...


@runtime_checkable
class EvictingMethod(_Windowed, Protocol):
    """A cache that keeps some of the tokens exactly and forgets the others."""

    def keep(self, far: int, kept: Tensor, attention: Tensor) -> Tensor:
        """Choose who stays; see `HeavyHitters.keep`."""
        ...


@torch.inference_mode()
def decode_quality(
    model: PreTrainedModel,
    tokens: Int[Tensor, "windows length"],
    method: ReconstructingMethod | EvictingMethod | None = None,
    start: int = 1,
    prefill: int = 0,
) -> DecodeQuality:
    """Score a text as token-by-token decoding on a compressed cache would, in one pass per window.

    Args:
        model: a causal language model with full attention in every layer, in eval mode.
        tokens: text windows of one length, without padding.
        method: `LexicoMethod`, `KiviSettings`, `SinksAndRecent` or `HeavyHitters`; None: the full cache.
        start: first place whose token is scored, at least 1.
        prefill: tokens fed in one exact pass first, as a prompt; after them tokens are fed one by one.

    Raises:
        InputError: a model with other layers, dictionaries of another model, or ``start`` or ``prefill`` outside the
            windows.
    """
    length = tokens.shape[1]
    if not 1 <= start < length:
        raise InputError(f"start is {start}; allowed: 1 to {length - 1} (windows of {length} tokens)")
    if not 0 <= prefill <= length:
        raise InputError(f"prefill is {prefill}; allowed: 0 to {length} (windows of {length} tokens)")
    shape = attention_shape(model)
    if isinstance(method, LexicoMethod):
        method.dictionaries.check(model)
    parts = []
    for window in tokens:
        if method is None:
            logits = model(window[None], use_cache=False, logits_to_keep=length - start + 1).logits
        else:
            attend = _Attend(method, shape, model.device, length, prefill)
            with use_attention(model, attend):
                logits = model(window[None], use_cache=False, logits_to_keep=length - start + 1).logits
        parts.append(_score(logits[:, :-1], window[None, start:]))
    return DecodeQuality(torch.cat([p.nll for p in parts]), torch.cat([p.choices for p in parts]))


@torch.inference_mode()
def stepped_quality(
    model: PreTrainedModel,
    tokens: Int[Tensor, "windows length"],
    cache: Cache,
    start: int = 1,
    prefill: int = 0,
) -> DecodeQuality:
    """Score a text by really decoding it token by token on a cache: the slow truth behind `decode_quality`.

    Args:
        model: a causal language model in eval mode.
        tokens: text windows of one length, one row of the batch each.
        cache: empty.
        start, prefill: see `decode_quality`.
    """
    length = tokens.shape[1]
    logits = []
    position = 0
    while position < length - 1:
        end = max(prefill, 1) if position == 0 else position + 1
        output = model(tokens[:, position : min(end, length - 1)], past_key_values=cache, use_cache=True)
        logits.append(output.logits)
        position = end
    return _score(torch.cat(logits, dim=1)[:, start - 1 :], tokens[:, start:])


def _score(logits: Float[Tensor, "windows scored vocab"], targets: Int[Tensor, "windows scored"]) -> DecodeQuality:
    logits = logits.float()
    nll = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return DecodeQuality(nll, logits.argmax(-1))


class _Attend:
    """The attention function of one pass: causal attention in which each query sees the cache of its own time."""

    def __init__(
        self,
        method: ReconstructingMethod | EvictingMethod,
        shape: AttentionShape,
        device: torch.device,
        length: int,
        prefill: int,
    ):
        self.method, self.prefill = method, prefill
        self.first = method.keep_first
        self.stores = method.stores(shape, device) if isinstance(method, ReconstructingMethod) else None
        granularity = next((store.granularity for store in self.stores or () if store is not None), 1)
        window = (method.buffer, method.block, granularity, self.first)
        place = torch.arange(length, device=device)
        # Before query q, q tokens are in the cache; so many of them have left the exact window.
        self.far = stored_tokens(place - prefill, prefill, *window).where(place >= prefill, 0)
        self.at_prefill = stored_tokens(0, prefill, *window)

    def __call__(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        batch, heads, length, dim = keys.shape
        grouped = query.view(batch, heads, -1, length, dim)
        if self.stores is None:
            output = self._evicting(grouped, keys, values, scaling)
        else:
            store = self.stores[layer]
            output = self._reconstructing(grouped, keys, values, scaling, store)
        return output.reshape(query.shape)

    def _reconstructing(
        self,
        query: Float[Tensor, "batch heads group length dim"],
        keys: Float[Tensor, "batch heads length dim"],
        values: Float[Tensor, "batch heads length dim"],
        scaling: float,
        store: FarStore | None,
    ) -> Float[Tensor, "batch heads group length dim"]:
        length = keys.shape[2]
        place = torch.arange(length, device=keys.device)
        total = 0 if store is None else int(self.far[-1])
        far_keys, far_values = keys, values
        if store is not None and total:
            begin, middle, end = self.first, self.first + min(self.at_prefill, total), self.first + total
            for old in (slice(begin, middle), slice(middle, end)):
                if old.stop > old.start:
                    store.append(keys[:, :, old], values[:, :, old])
            coded_keys, coded_values = store.read()
            far_keys, far_values = keys.clone(), values.clone()
            far_keys[:, :, begin:end], far_values[:, :, begin:end] = coded_keys, coded_values
        outputs = []
        step = max(1, _SCORE_NUMBERS // (query[..., 0, 0].numel() * length))
        for at in range(0, length, step):
            rows = slice(at, at + step)
            queries = query[..., rows, :]
            coded = (place >= self.first) & (place < self.first + self.far[rows, None])
            scores = queries @ keys[:, :, None].transpose(-1, -2)
            if total:
                scores = torch.where(coded, queries @ far_keys[:, :, None].transpose(-1, -2), scores)
            weights = _softmax(scores, place <= place[rows, None], scaling)
            if total:
                exact = weights.masked_fill(coded, 0).to(values.dtype) @ values[:, :, None]
                output = exact + weights.masked_fill(~coded, 0).to(values.dtype) @ far_values[:, :, None]
            else:
                output = weights.to(values.dtype) @ values[:, :, None]
            outputs.append(output)
        return torch.cat(outputs, dim=-2)

    def _evicting(
        self,
        query: Float[Tensor, "batch heads group length dim"],
        keys: Float[Tensor, "batch heads length dim"],
        values: Float[Tensor, "batch heads length dim"],
        scaling: float,
    ) -> Float[Tensor, "batch heads group length dim"]:
        method = self.method
        if not isinstance(method, EvictingMethod):
            raise InputError(f"method is a {type(method).__name__}; allowed: one that reconstructs or evicts")
        batch, heads, _, length, _ = query.shape
        place = torch.arange(length, device=keys.device)
        received = keys.new_zeros(batch, heads, length, length, dtype=torch.float32)
        alive = torch.ones(batch, heads, length, dtype=torch.bool, device=keys.device)
        # Between two evictions all queries see the same survivors: one stretch of queries at a time.
        changes = torch.cat([self.far.new_zeros(1), self.far]).diff().nonzero()[:, 0].tolist()
        edges = sorted({0, *changes, length})
        outputs = []
        for start, end in pairwise(edges):
            far = int(self.far[start])
            if far:
                old = slice(self.first, self.first + far)
                alive[:, :, old] = method.keep(far, alive[:, :, old], received[:, :, :start, old])
            scores = query[..., start:end, :] @ keys[:, :, None].transpose(-1, -2)
            seen = (place <= place[start:end, None]) & alive[:, :, None, None]
            weights = _softmax(scores, seen, scaling)
            received[:, :, start:end] = weights.sum(2)
            outputs.append(weights.to(values.dtype) @ values[:, :, None])
        return torch.cat(outputs, dim=-2)


def _softmax(
    scores: Float[Tensor, "batch heads group rows length"], seen: Bool[Tensor, "*any rows length"], scaling: float
) -> Float[Tensor, "batch heads group rows length"]:
    return (scores.float() * scaling).masked_fill(~seen, float("-inf")).softmax(-1)
