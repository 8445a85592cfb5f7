"""Sparse codes of many vectors as a cache holds them: 16-bit atom indices and narrow coefficients.

Two layouts. `FixedCodes` has the same number of slots for every vector (no offsets, gathers are trivial).
`RaggedCodes` has a varying number, with one count per vector, for codes that stop at an error threshold.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from superpose.inference.omp import Codes

COEFFICIENT_BYTES: dict[str, int] = {"fp8": 1, "int8": 1, "fp16": 2, "fp32": 4}
INDEX_BYTES = 2
SCALE_BYTES = 2
COUNT_BYTES = 1
MAX_ATOMS = 2**16

_DTYPES = {"fp8": torch.float8_e4m3fn, "fp16": torch.float16, "fp32": torch.float32}
# e4m3 has 256 values: on CPUs looking them up is several times as fast as converting.
_FP8_VALUES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


def narrow(
    coefficients: Float[Tensor, "*vectors sparsity"], kind: str
) -> tuple[Tensor, Float[Tensor, "*vectors 1"] | None]:
    """Store coefficients in a narrow type, clamped to its range; for ``int8`` with one float16 scale per vector.

    The largest fp8 (e4m3) number is 448 and numbers below about 0.001 vanish; int8 adapts to each vector.
    """
    if kind == "int8":
        largest = coefficients.abs().amax(-1, keepdim=True)
        half = torch.finfo(torch.float16)
        scale = (largest / 127).clamp(half.smallest_normal, half.max).to(torch.float16)
        return (coefficients / scale.float()).round().clamp(-127, 127).to(torch.int8), scale
    limit = torch.finfo(_DTYPES[kind]).max
    return coefficients.clamp(-limit, limit).to(_DTYPES[kind]), None


def widen(stored: Tensor) -> Tensor:
    """Return stored coefficients in float32, without their scale."""
    if stored.dtype == torch.float8_e4m3fn and stored.device.type == "cpu":
        index = stored.view(torch.uint8).to(torch.int32).flatten()
        return _FP8_VALUES.index_select(0, index).view(stored.shape)
    return stored.float()


def store_indices(indices: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Return indices up to 65535 in 16 bits; those above 32767 wrap to negative numbers."""
    return torch.where(indices > 32767, indices - MAX_ATOMS, indices).to(torch.int16)


def load_indices(stored: Int[Tensor, "*any"], atoms: int) -> Int[Tensor, "*any"]:
    """Return the indices that `store_indices` stored, as int32, for a dictionary of so many atoms."""
    wide = stored.to(torch.int32)
    return wide if atoms <= 2**15 else wide & 0xFFFF


class CodedVectors(ABC):
    """Codes of the vectors of some tokens, rows of a batch and heads, in one narrow layout.

    The three products are all that attention needs. ``atoms`` below is one dictionary for all rows of the batch
    (first axis 1) or one per row.
    """

    batch: int
    heads: int
    tokens: int

    @abstractmethod
    def append(self, codes: Codes, batch: int, heads: int) -> None:
        """Add the codes of new tokens; vectors in the order batch, head, token."""

    @abstractmethod
    def decode(self, atoms: Float[Tensor, "one_or_batch atoms dim"]) -> Float[Tensor, "batch heads tokens dim"]:
        """Return the vectors that the codes stand for."""

    @abstractmethod
    def pick(self, table: Float[Tensor, "batch heads atoms queries"]) -> Float[Tensor, "batch heads queries tokens"]:
        """Return per token the sum of its coefficients times its atoms' entries: scores from queries times atoms."""

    @abstractmethod
    def pour(
        self, weights: Float[Tensor, "batch heads queries tokens"], atoms: int
    ) -> Float[Tensor, "batch heads queries atoms"]:
        """Return per atom the sum over tokens of weight times coefficient: the transpose of `pick`."""

    @abstractmethod
    def crop(self, count: int) -> None:
        """Forget the newest tokens."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order."""

    def parts(self) -> dict[str, Tensor]:
        """Return everything that is held, by name."""
        held = {name: getattr(self, name, None) for name in ("counts", "indices", "stored", "scale")}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device."""
        for name, tensor in self.parts().items():
            setattr(self, name, tensor.to(device, non_blocking=True))

    @abstractmethod
    def entries(self) -> int:
        """Return how many atoms are used in all (slots, in the fixed layout)."""


class FixedCodes(CodedVectors):
    """The same number of slots for every vector: ``[batch, heads, tokens, sparsity]`` indices and coefficients."""

    def __init__(self, sparsity: int, coefficients: str):
        self.sparsity, self.kind = sparsity, coefficients
        self.batch = self.heads = self.tokens = 0
        self.indices: Tensor | None = None
        self.stored: Tensor | None = None
        self.scale: Tensor | None = None

    def append(self, codes: Codes, batch: int, heads: int) -> None:
        """Add the codes of new tokens; vectors in the order batch, head, token."""
        shape = (batch, heads, -1, self.sparsity)
        indices = store_indices(codes.indices).view(shape)
        stored, scale = narrow(codes.coefficients, self.kind)
        stored = stored.view(shape)
        scale = None if scale is None else scale.view(batch, heads, -1, 1)
        if self.indices is not None and self.stored is not None:
            indices = torch.cat([self.indices, indices], dim=2)
            stored = torch.cat([self.stored, stored], dim=2)
            scale = None if scale is None or self.scale is None else torch.cat([self.scale, scale], dim=2)
        self.batch, self.heads, self.tokens = batch, heads, indices.shape[2]
        self.indices, self.stored, self.scale = indices, stored, scale

    def _flat(self, atoms: int, tables: int) -> tuple[Tensor, Tensor]:
        # Indices into the tables laid one after another: 1 for all, one per row, or one per row and head.
        if self.indices is None or self.stored is None:
            raise RuntimeError("no codes have been appended yet")
        indices = load_indices(self.indices, atoms)
        if tables > 1:
            offsets = torch.arange(0, tables * atoms, atoms, device=indices.device, dtype=torch.int32)
            indices = indices + offsets.view(self.batch, -1, 1, 1)
        coefficients = widen(self.stored)
        if self.scale is not None:
            coefficients = coefficients * self.scale.float()
        return indices.view(-1, self.sparsity), coefficients.view(-1, self.sparsity)

    def decode(self, atoms: Float[Tensor, "one_or_batch atoms dim"]) -> Float[Tensor, "batch heads tokens dim"]:
        """Return the vectors that the codes stand for."""
        indices, coefficients = self._flat(atoms.shape[1], atoms.shape[0])
        summed = functional.embedding_bag(indices, atoms.flatten(0, 1), per_sample_weights=coefficients, mode="sum")
        return summed.view(self.batch, self.heads, self.tokens, -1)

    def pick(self, table: Float[Tensor, "batch heads atoms queries"]) -> Float[Tensor, "batch heads queries tokens"]:
        """Return per token the sum of coefficients times its atoms' entries."""
        batch, heads, atoms, _ = table.shape
        indices, coefficients = self._flat(atoms, batch * heads)
        rows = table.reshape(batch * heads * atoms, -1)
        summed = functional.embedding_bag(indices, rows, per_sample_weights=coefficients, mode="sum")
        return summed.view(batch, heads, self.tokens, -1).transpose(2, 3)

    def pour(
        self, weights: Float[Tensor, "batch heads queries tokens"], atoms: int
    ) -> Float[Tensor, "batch heads queries atoms"]:
        """Return per atom the sum over tokens of weight times coefficient."""
        batch, heads, queries, _ = weights.shape
        indices, coefficients = self._flat(atoms, 1)
        spread = weights[..., None] * coefficients.view(batch, heads, 1, -1, self.sparsity)
        where = indices.long().view(batch, heads, 1, -1).expand(-1, -1, queries, -1)
        return weights.new_zeros(batch, heads, queries, atoms).scatter_add_(-1, where, spread.flatten(-2))

    def crop(self, count: int) -> None:
        """Forget the newest tokens."""
        self.tokens -= count
        for name, tensor in self.parts().items():
            setattr(self, name, tensor[:, :, : self.tokens].clone())

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order."""
        self.batch = len(rows)
        for name, tensor in self.parts().items():
            setattr(self, name, tensor.index_select(0, rows))

    def entries(self) -> int:
        """Return how many slots are held in all."""
        return self.batch * self.heads * self.tokens * self.sparsity


class RaggedCodes(CodedVectors):
    """As many slots as each vector needs: flat indices and coefficients, one count per vector, tokens outermost."""

    def __init__(self, coefficients: str):
        self.kind = coefficients
        self.batch = self.heads = self.tokens = 0
        self.counts: Tensor | None = None  # [tokens, batch, heads]
        self.indices: Tensor | None = None
        self.stored: Tensor | None = None
        self.scale: Tensor | None = None

    def append(self, codes: Codes, batch: int, heads: int) -> None:
        """Add the codes of new tokens; vectors in the order batch, head, token."""
        sparsity = codes.indices.shape[-1]

        def tokens_first(x: Tensor) -> Tensor:
            return x.view(batch, heads, -1, *x.shape[1:]).movedim(2, 0)

        counts = tokens_first(codes.counts).to(torch.uint8)
        used = torch.arange(sparsity, device=counts.device) < counts[..., None]
        stored, scale = narrow(codes.coefficients, self.kind)
        indices = tokens_first(store_indices(codes.indices))[used]
        # float8 has no boolean gather on CPUs; its bytes do.
        flat = tokens_first(stored.view(torch.uint8) if self.kind == "fp8" else stored)[used]
        stored = flat.view(torch.float8_e4m3fn) if self.kind == "fp8" else flat
        scale = None if scale is None else tokens_first(scale).contiguous()
        if self.counts is not None and self.indices is not None and self.stored is not None:
            counts = torch.cat([self.counts, counts])
            indices, stored = torch.cat([self.indices, indices]), torch.cat([self.stored, stored])
            scale = None if scale is None or self.scale is None else torch.cat([self.scale, scale])
        self.batch, self.heads, self.tokens = batch, heads, len(counts)
        self.counts, self.indices, self.stored, self.scale = counts.contiguous(), indices, stored, scale

    def _flat(self, atoms: int, tables: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.counts is None or self.indices is None or self.stored is None:
            raise RuntimeError("no codes have been appended yet")
        lengths = self.counts.flatten().long()
        indices = load_indices(self.indices, atoms).long()
        coefficients = widen(self.stored)
        if tables > 1:
            per_row = torch.arange(0, tables * atoms, atoms, device=indices.device).view(self.batch, -1)
            offsets = per_row.expand(self.tokens, self.batch, self.heads)
            indices = indices + offsets.flatten().repeat_interleave(lengths)
        if self.scale is not None:
            coefficients = coefficients * self.scale.float().flatten().repeat_interleave(lengths)
        return indices, coefficients, lengths

    def _bag(self, rows: Tensor, atoms: int, tables: int) -> Tensor:
        indices, coefficients, lengths = self._flat(atoms, tables)
        starts = lengths.cumsum(0) - lengths
        summed = functional.embedding_bag(indices, rows, starts, per_sample_weights=coefficients, mode="sum")
        return summed.view(self.tokens, self.batch, self.heads, -1)

    def decode(self, atoms: Float[Tensor, "one_or_batch atoms dim"]) -> Float[Tensor, "batch heads tokens dim"]:
        """Return the vectors that the codes stand for."""
        return self._bag(atoms.flatten(0, 1), atoms.shape[1], atoms.shape[0]).movedim(0, 2)

    def pick(self, table: Float[Tensor, "batch heads atoms queries"]) -> Float[Tensor, "batch heads queries tokens"]:
        """Return per token the sum of coefficients times its atoms' entries."""
        batch, heads, atoms, _ = table.shape
        rows = table.reshape(batch * heads * atoms, -1)
        return self._bag(rows, atoms, batch * heads).permute(1, 2, 3, 0)

    def pour(
        self, weights: Float[Tensor, "batch heads queries tokens"], atoms: int
    ) -> Float[Tensor, "batch heads queries atoms"]:
        """Return per atom the sum over tokens of weight times coefficient."""
        batch, heads, queries, _ = weights.shape
        indices, coefficients, lengths = self._flat(atoms, batch * heads)
        spread = weights.permute(3, 0, 1, 2).reshape(-1, queries).repeat_interleave(lengths, dim=0)
        bins = weights.new_zeros(batch * heads * atoms, queries)
        bins.index_add_(0, indices, spread * coefficients[:, None])
        return bins.view(batch, heads, atoms, queries).transpose(2, 3)

    def crop(self, count: int) -> None:
        """Forget the newest tokens."""
        if self.counts is None or self.indices is None or self.stored is None:
            return
        self.tokens -= count
        self.counts = self.counts[: self.tokens].clone()
        kept = int(self.counts.long().sum())
        self.indices, self.stored = self.indices[:kept].clone(), self.stored[:kept].clone()
        self.scale = None if self.scale is None else self.scale[: self.tokens].clone()

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order."""
        if self.counts is None or self.indices is None or self.stored is None:
            return
        lengths = self.counts.flatten().long()
        starts = lengths.cumsum(0) - lengths
        shape = (self.tokens, self.batch, self.heads)
        vectors = torch.arange(len(lengths), device=rows.device).view(shape).index_select(1, rows).flatten()
        wanted = lengths[vectors]
        begins = wanted.cumsum(0) - wanted
        entries = torch.arange(int(wanted.sum()), device=rows.device)
        entries = entries + (starts[vectors] - begins).repeat_interleave(wanted)
        self.batch = len(rows)
        self.counts = self.counts.index_select(1, rows)
        self.indices, self.stored = self.indices.index_select(0, entries), self.stored.index_select(0, entries)
        self.scale = None if self.scale is None else self.scale.index_select(1, rows)

    def entries(self) -> int:
        """Return how many slots are held in all."""
        return 0 if self.indices is None else len(self.indices)
