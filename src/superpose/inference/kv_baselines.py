"""What a compressed key-value cache is compared with: low-bit quantisation (KIVI) and eviction (sinks, H2O, SnapKV).

All have the exact window of `LexicoCache` (the same buffer, block and first tokens), so that the far part is the only
difference. Quantisation is a `transformers` cache; eviction depends on attention weights, which no cache sees, and is
a selection rule for `decode_quality`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from superpose.errors import InputError, choose
from superpose.inference.cache_bytes import CacheBytes
from superpose.models.kv_cache import AttentionShape, WindowedCache, WindowedLayer, attention_shape

BITS = (2, 4, 8)


def check_window(buffer: int, block: int, keep_first: int) -> None:
    """Refuse an exact window that cannot be kept.

    Raises:
        InputError: a negative size, or blocks larger than the buffer.
    """
    if buffer < 0 or keep_first < 0:
        raise InputError(f"buffer is {buffer} and keep_first {keep_first}; allowed: 0 or more tokens")
    if not 1 <= block <= max(1, buffer):
        raise InputError(f"block is {block}; allowed: 1 to {max(1, buffer)} (the buffer)")


@dataclass(frozen=True)
class KiviSettings:
    """Asymmetric low-bit quantisation as in KIVI (Liu et al. 2024, arXiv 2402.02750).

    Keys are quantised per channel over groups of tokens, values per token over groups of channels; every group has a
    float16 scale and a float16 zero point.

    Attributes:
        bits: per number: 2, 4 or 8.
        group: numbers that share scale and zero point (32 as in KIVI); tokens of a key group leave the window together.
        buffer, block, keep_first: the exact window, see `LexicoSettings`; ``block`` is a multiple of ``group``.
    """

    bits: int = 2
    group: int = 32
    buffer: int = 128
    block: int = 32
    keep_first: int = 0

    def __post_init__(self):
        choose("bits", self.bits, BITS)
        if self.group < 1 or self.group % (8 // self.bits):
            raise InputError(f"group is {self.group}; allowed: multiples of {8 // self.bits} numbers (whole bytes)")
        check_window(self.buffer, self.block, self.keep_first)
        if self.block % self.group:
            raise InputError(f"block is {self.block}; allowed: multiples of group ({self.group})")

    @property
    def granularity(self) -> int:
        """Tokens that leave the window together: a group of keys."""
        return self.group

    def far_fraction(self, head_dim: int) -> float:
        """Return the bytes of a quantised key and value, scales counted, over those of two float16 vectors."""
        return (self.bits + 32 / self.group) / 16

    def stores(self, shape: AttentionShape, device: torch.device | str = "cpu") -> list["KiviStore"]:
        """Return an empty far part for every layer of a model."""
        if shape.head_dim % self.group:
            raise InputError(f"group is {self.group}; the head dimension {shape.head_dim} is not a multiple of it")
        return [KiviStore(self) for _ in range(shape.layers)]


class KiviStore:
    """A `FarStore` of packed low-bit numbers with a scale and a zero point per group."""

    def __init__(self, settings: KiviSettings):
        self.settings = settings
        self.granularity = settings.group
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.tokens = 0
        self.dtype = torch.float32
        # Each: packed numbers, scales, zero points; tokens (or groups of tokens) on axis 2.
        self.keys: tuple[Tensor, ...] = ()
        self.values: tuple[Tensor, ...] = ()

    def append(
        self, keys: Float[Tensor, "batch heads tokens dim"], values: Float[Tensor, "batch heads tokens dim"]
    ) -> None:
        """Quantise tokens, a multiple of the group."""
        group = self.settings.group
        if keys.shape[2] % group:
            raise InputError(f"keys has {keys.shape[2]} tokens; allowed: multiples of group ({group})")
        self.dtype = keys.dtype
        self.tokens += keys.shape[2]
        new_keys = self._quantise(keys.unflatten(2, (-1, group)), axis=3)
        new_values = self._quantise(values.unflatten(3, (-1, group)), axis=4)
        self.keys, self.values = (
            tuple(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)) if old else new
            for old, new in ((self.keys, new_keys), (self.values, new_values))
        )

    def _quantise(self, x: Float[Tensor, "batch heads a b c"], axis: int) -> tuple[Tensor, Tensor, Tensor]:
        x = x.float()
        zero = x.amin(axis, keepdim=True).to(torch.float16)
        levels = 2**self.settings.bits - 1
        scale = (x.amax(axis, keepdim=True) - zero.float()) / levels
        half = torch.finfo(torch.float16)
        scale = scale.clamp(half.smallest_normal, half.max).to(torch.float16)
        numbers = ((x - zero.float()) / scale.float()).round().clamp(0, levels).to(torch.uint8)
        return _pack(numbers, self.settings.bits), scale, zero

    def _restore(self, parts: tuple[Tensor, ...]) -> Tensor:
        packed, scale, zero = parts
        return (_unpack(packed, self.settings.bits).float() * scale.float() + zero.float()).to(self.dtype)

    def read(
        self,
    ) -> tuple[Float[Tensor, "batch heads tokens dim"], Float[Tensor, "batch heads tokens dim"]]:
        """Return all keys and values, reconstructed."""
        return self._restore(self.keys).flatten(2, 3), self._restore(self.values).flatten(3, 4)

    def crop(self, count: int) -> None:
        """Refuse: a group of tokens shares its scale."""
        raise InputError(f"crop reaches {count} tokens into the quantised part; allowed: tokens of the exact window")

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch."""
        self.keys, self.values = (
            tuple(part.index_select(0, rows) for part in parts) for parts in (self.keys, self.values)
        )

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device."""
        self.keys, self.values = (tuple(part.to(device) for part in parts) for parts in (self.keys, self.values))

    def nbytes(self) -> int:
        """Return the bytes held: packed numbers, scales and zero points."""
        return sum(part.nbytes for part in (*self.keys, *self.values))


def _pack(numbers: UInt8[Tensor, "*any dim"], bits: int) -> UInt8[Tensor, "*any bytes"]:
    per_byte = 8 // bits
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=numbers.device)
    return (numbers.unflatten(-1, (-1, per_byte)) << shifts).sum(-1, dtype=torch.uint8)


def _unpack(packed: UInt8[Tensor, "*any bytes"], bits: int) -> UInt8[Tensor, "*any dim"]:
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


class KiviCache(WindowedCache):
    """A `transformers` cache that quantises what leaves its exact window, with the same rule as `LexicoCache`.

    Args:
        model_config: the model or its config: every layer full attention.
        settings: bits, group and window.

    Raises:
        InputError: a model with other layers, or a head dimension that groups do not divide.
    """

    def __init__(self, model_config: PreTrainedConfig | PreTrainedModel, settings: KiviSettings | None = None):
        self.settings = KiviSettings() if settings is None else settings
        self.shape = attention_shape(model_config)
        window = (self.settings.buffer, self.settings.block, self.settings.keep_first)
        super().__init__([WindowedLayer(store, *window) for store in self.settings.stores(self.shape)])

    def bytes(self, convention: str = "paper") -> CacheBytes:
        """Return the memory that the cache takes now; ``paper`` counts exact numbers at 2 bytes, ``layout`` as held."""
        choose("convention", convention, ("paper", "layout"))
        exact = self.exact_tensors()
        numbers = sum(tensor.numel() for tensor in exact)
        width = exact[0].element_size() if exact and convention == "layout" else 2
        stores = [layer.far for layer in self.windowed_layers() if isinstance(layer.far, KiviStore)]
        codes = sum(store.nbytes() for store in stores)
        far_numbers = round(sum(store.nbytes() for store in stores) / (2 * self.settings.far_fraction(1)))
        return CacheBytes(codes, width * numbers, 0, width * (numbers + far_numbers), 0)


@dataclass(frozen=True)
class SinksAndRecent:
    """Evict all but the first and the most recent tokens (StreamingLLM, Xiao et al. 2024, arXiv 2309.17453).

    Attributes:
        fraction: of the tokens that have left the exact window, how many are kept: at equal bytes the
            ``far_fraction`` of the method compared with.
        sinks: first tokens that are always kept, within the budget (4 as in the paper).
        buffer, block, keep_first: the exact window, see `LexicoSettings`.
    """

    fraction: float
    sinks: int = 4
    buffer: int = 128
    block: int = 32
    keep_first: int = 0

    def __post_init__(self):
        _check_fraction(self.fraction)
        check_window(self.buffer, self.block, self.keep_first)

    def far_fraction(self, head_dim: int) -> float:
        """Return the bytes kept of the far part over those of a float16 cache."""
        return self.fraction

    def keep(
        self, far: int, kept: Bool[Tensor, "batch heads far"], attention: Float[Tensor, "batch heads queries far"]
    ) -> Bool[Tensor, "batch heads far"]:
        """Choose which of the ``far`` oldest tokens stay, among those that are still there."""
        budget = int(self.fraction * far + 1e-9)
        place = torch.arange(far, device=kept.device)
        sinks = min(self.sinks, budget)
        return ((place < sinks) | (place >= far - (budget - sinks))).expand_as(kept)


@dataclass(frozen=True)
class HeavyHitters:
    """Evict the tokens that received least attention (H2O, arXiv 2306.14048; with ``observe`` and ``pool``: SnapKV).

    Attributes:
        fraction: see `SinksAndRecent`.
        observe: how many of the latest queries vote; default: all since the start (H2O). SnapKV (arXiv 2404.14469):
            the last 16 to 64.
        pool: width of the maximum over neighbouring tokens before the choice; odd; 1: none (H2O), SnapKV: 5 or 7.
        buffer, block, keep_first: the exact window, see `LexicoSettings`.
    """

    fraction: float
    observe: int | None = None
    pool: int = 1
    buffer: int = 128
    block: int = 32
    keep_first: int = 0

    def __post_init__(self):
        _check_fraction(self.fraction)
        check_window(self.buffer, self.block, self.keep_first)
        if self.observe is not None and self.observe < 1:
            raise InputError(f"observe is {self.observe}; allowed: 1 or more queries, or None")
        if self.pool < 1 or self.pool % 2 == 0:
            raise InputError(f"pool is {self.pool}; allowed: odd numbers")

    def far_fraction(self, head_dim: int) -> float:
        """Return the bytes kept of the far part over those of a float16 cache."""
        return self.fraction

    def keep(
        self, far: int, kept: Bool[Tensor, "batch heads far"], attention: Float[Tensor, "batch heads queries far"]
    ) -> Bool[Tensor, "batch heads far"]:
        """Choose which of the ``far`` oldest tokens stay, among those that are still there, by attention received."""
        budget = int(self.fraction * far + 1e-9)
        queries = attention.shape[2]
        votes = attention[:, :, max(0, queries - self.observe) :] if self.observe else attention
        score = functional.max_pool1d(votes.sum(2), self.pool, stride=1, padding=self.pool // 2)
        best = score.masked_fill(~kept, -1.0).topk(budget, dim=-1).indices
        return torch.zeros_like(kept).scatter_(-1, best, True) & kept


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}; allowed: 0 to 1")
