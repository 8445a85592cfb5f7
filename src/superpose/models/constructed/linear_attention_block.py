"""Attention without softmax as a sum of triple matrix products, and a ReLU layer: blocks with explicit weights.

The stream has tokens as columns. A head adds ``(V Z)(K Z)^T(Q Z)``: if V, K and Q pick the row blocks M1, M2 and M3,
that is ``M1 M2^T M3``, a matrix product that a construction can compute with. This is not the laboratory's mixer
``linear-attention``, which has tokens as rows, one width for all heads, a norm before it and a mask.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError
from superpose.models.constructed.row_layout import RowLayout

# Hidden activations held at once; more columns are taken in pieces, which stay in the processor's cache.
AT_ONCE = 1 << 16


class Head(NamedTuple):
    """One head: ``value`` [rows, rows], ``key`` and ``query`` [rank, rows]."""

    value: Tensor
    key: Tensor
    query: Tensor


class Units(NamedTuple):
    """ReLU units: ``up`` [hidden, rows] and ``down`` [rows, hidden]."""

    up: Tensor
    down: Tensor


def triple_products(
    z: Float[Tensor, "*batch rows tokens"],
    value: Float[Tensor, "heads out rows"],
    key: Float[Tensor, "heads rank rows"],
    query: Float[Tensor, "heads rank rows"],
) -> Float[Tensor, "*batch out tokens"]:
    """Return ``sum_h (V_h Z)(K_h Z)^T(Q_h Z)``, the small matrix first: the cost is linear in the tokens."""
    z = z.unsqueeze(-3)
    states = (value @ z) @ (key @ z).mT
    return (states @ (query @ z)).sum(-3)


def triple_product_head(layout: RowLayout, into: Mapping[str, Mapping[str, float]], key: str, query: str) -> Head:
    """Write down the head that adds ``coefficient * M1 M2^T M3`` to chosen rows.

    Args:
        layout: the rows.
        into: target block to the blocks of its M1 with their coefficients, for example
            ``{"weights": {"step": -1.0}}``; one head can fill several targets, with the same M2 and M3.
        key: block M2.
        query: block M3, of as many rows.

    Raises:
        InputError: unknown blocks, or sizes that do not fit.
    """
    value = torch.zeros(layout.rows, layout.rows, dtype=torch.float64)
    for target, parts in into.items():
        read = layout.combine(parts)
        if len(read) != layout.size(target):
            raise InputError(f"{sorted(parts)} have {len(read)} rows for {target!r}; allowed: {layout.size(target)}")
        value[layout[target]] += read
    if layout.size(key) != layout.size(query):
        raise InputError(
            f"key {key!r} has {layout.size(key)} rows and query {query!r} {layout.size(query)}; allowed: equally many"
        )
    return Head(value, layout.selector(key), layout.selector(query))


class LinearAttentionBlock(nn.Module):
    """Linear attention, then a ReLU layer, each added to the stream: ``Z + sum_h (V_h Z)(K_h Z)^T(Q_h Z)``, then
    ``Z + W2 relu(W1 Z)``; either may be missing.

    Rows that no weight reads or writes take no part in the arithmetic: the parameters hold the other columns and rows
    only, and `dense` gives the full matrices. The numbers are the same.

    Args:
        rows: height of the stream.
        heads: weights of the heads; none leaves the attention out.
        units: weights of the ReLU layer, in pieces that stand side by side; none leaves it out.
        dtype: of the parameters (default float64).

    Raises:
        InputError: neither heads nor units, or shapes that do not fit.
    """

    def __init__(
        self,
        rows: int,
        heads: Sequence[Head] = (),
        units: Sequence[Units] = (),
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if not heads and not units:
            raise InputError("heads and units are empty; allowed: at least one of them")
        self.rows = rows
        self.has_attention, self.has_relu = bool(heads), bool(units)
        for number, head in enumerate(heads):
            if head.value.shape != (rows, rows) or head.key.shape != head.query.shape or head.key.shape[1] != rows:
                shapes = ", ".join(str(tuple(w.shape)) for w in head)
                raise InputError(
                    f"heads[{number}] has shapes {shapes}; allowed: ({rows}, {rows}), (rank, {rows}) twice"
                )
        for number, unit in enumerate(units):
            if unit.up.shape[1] != rows or unit.down.shape != unit.up.shape[::-1]:
                shapes = ", ".join(str(tuple(w.shape)) for w in unit)
                raise InputError(f"units[{number}] has shapes {shapes}; allowed: (hidden, {rows}), ({rows}, hidden)")
        if heads:
            rank = max(len(head.key) for head in heads)
            value = torch.stack([head.value for head in heads])
            key, query = (torch.stack([_padded(head[i], rank) for head in heads]) for i in (1, 2))
            read = _used(torch.cat([value, key, query], 1).abs().sum((0, 1)))
            written = _used(value.abs().sum((0, 2)))
            self.value = _parameter(value[:, written][:, :, read], dtype)
            self.key, self.query = _parameter(key[..., read], dtype), _parameter(query[..., read], dtype)
            self.register_buffer("attention_reads", read)
            self.register_buffer("attention_writes", written)
        if units:
            up = torch.cat([unit.up for unit in units])
            down = torch.cat([unit.down for unit in units], 1)
            read, written = _used(up.abs().sum(0)), _used(down.abs().sum(1))
            self.up, self.down = _parameter(up[:, read], dtype), _parameter(down[written], dtype)
            self.register_buffer("relu_reads", read)
            self.register_buffer("relu_writes", written)

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return len(self.value) if self.has_attention else 0

    @property
    def relu_width(self) -> int:
        """Number of ReLU units."""
        return len(self.up) if self.has_relu else 0

    def forward(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch rows tokens"]:
        """Return the stream after the block.

        Raises:
            InputError: a stream of another height.
        """
        if z.shape[-2] != self.rows:
            raise InputError(f"z has {z.shape[-2]} rows; allowed: {self.rows}")
        if self.has_attention:
            read, written = cast(Tensor, self.attention_reads), cast(Tensor, self.attention_writes)
            added = triple_products(z.index_select(-2, read), self.value, self.key, self.query)
            z = z.index_add(-2, written, added)
        if self.has_relu:
            read, written = cast(Tensor, self.relu_reads), cast(Tensor, self.relu_writes)
            columns = max(1, AT_ONCE // (self.relu_width * max(1, z.numel() // (z.shape[-1] * self.rows))))
            pieces = z.index_select(-2, read).split(columns, -1)
            z = z.index_add(-2, written, torch.cat([self.down @ torch.relu(self.up @ piece) for piece in pieces], -1))
        return z

    def dense(self) -> tuple[list[Head], Units | None]:
        """Return copies of all weights at their full height, as the paper writes them."""
        heads: list[Head] = []
        if self.has_attention:
            read, written = cast(Tensor, self.attention_reads), cast(Tensor, self.attention_writes)
            for value, key, query in zip(self.value.detach(), self.key.detach(), self.query.detach(), strict=True):
                full = value.new_zeros(self.rows, self.rows)
                full[written[:, None], read] = value
                heads.append(Head(full, _spread(key, read, self.rows), _spread(query, read, self.rows)))
        if not self.has_relu:
            return heads, None
        up = _spread(self.up.detach(), cast(Tensor, self.relu_reads), self.rows)
        down = _spread(self.down.detach().mT, cast(Tensor, self.relu_writes), self.rows).mT
        return heads, Units(up, down)


def _padded(weight: Tensor, rank: int) -> Tensor:
    return nn.functional.pad(weight, (0, 0, 0, rank - len(weight)))


def _used(weight: Tensor) -> Tensor:
    return weight.nonzero().flatten()


def _parameter(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.to(dtype).contiguous())


def _spread(weight: Tensor, columns: Tensor, rows: int) -> Tensor:
    return weight.new_zeros(len(weight), rows).index_copy(1, columns, weight)
