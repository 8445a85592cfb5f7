"""Named blocks and the order in which they are applied: a compiled algorithm that can be run, traced and counted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.constructed.linear_attention_block import LinearAttentionBlock
from superpose.models.constructed.row_layout import RowLayout


@dataclass(frozen=True)
class Ledger:
    """What a compiled network costs.

    Attributes:
        rows: height of the stream.
        blocks: blocks applied, repetitions included: the depth.
        distinct_blocks: blocks with weights of their own.
        blocks_per_step: depth of one step of the algorithm.
        heads: most heads in a block.
        relu_width: most ReLU units in a block.
        relu_units: units of all distinct blocks.
        parameters: weights at their full height, each distinct block once.
        stored_parameters: weights kept, without the rows and columns that are zero throughout.
        bound: most blocks per step by the theorem, where there is one.
    """

    rows: int
    blocks: int
    distinct_blocks: int
    blocks_per_step: int
    heads: int
    relu_width: int
    relu_units: int
    parameters: int
    stored_parameters: int
    bound: int | None = None


class LinearAttentionNetwork(nn.Module):
    """A stack of linear-attention and ReLU blocks in which blocks may occur many times.

    Equal blocks share their weights, so repeating an algorithm's step makes a looped transformer.

    Args:
        layout: the rows of the stream.
        blocks: name to block.
        program: names in the order of application.
        blocks_per_step: depth of one step of the algorithm, for the ledger.
        bound: most blocks per step by the theorem, for the ledger.

    Raises:
        InputError: an empty program, or one that names unknown blocks.
    """

    def __init__(
        self,
        layout: RowLayout,
        blocks: Mapping[str, LinearAttentionBlock],
        program: Sequence[str],
        blocks_per_step: int,
        bound: int | None = None,
    ):
        super().__init__()
        if not program:
            raise InputError("program is empty; allowed: one block or more")
        for name in program:
            choose("block of the program", name, blocks)
        self.layout, self.program = layout, tuple(program)
        # Not a ModuleDict, which refuses names such as "update".
        self.names = tuple(dict.fromkeys(program))
        self.blocks = nn.ModuleList(blocks[name] for name in self.names)
        self._blocks_per_step, self._bound = blocks_per_step, bound

    def forward(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch rows tokens"]:
        """Return the stream after the whole program.

        Raises:
            InputError: a stream of another height.
        """
        for name in self.program:
            z = self.block(name)(z)
        return z

    def block(self, name: str) -> LinearAttentionBlock:
        """Return a block by its name in the program.

        Raises:
            InputError: there is none of that name.
        """
        choose("block", name, self.names)
        return cast(LinearAttentionBlock, self.blocks[self.names.index(name)])

    def trace(
        self, z: Float[Tensor, "*batch rows tokens"], *rows: str
    ) -> Iterator[tuple[str, dict[str, Float[Tensor, "*batch size tokens"]]]]:
        """Run the program block by block; yield each block's name and the chosen rows after it (default: all).

        Raises:
            InputError: an unknown block of rows, or a stream of another height.
        """
        for row in rows:
            choose("row block", row, self.layout)
        chosen = rows or tuple(self.layout)
        for name in self.program:
            z = self.block(name)(z)
            yield name, {row: self.layout.read(z, row) for row in chosen}

    def ledger(self) -> Ledger:
        """Return the network's size."""
        blocks = [cast(LinearAttentionBlock, block) for block in self.blocks]
        rows = self.layout.rows
        full = sum(
            block.num_heads * (rows * rows + 2 * (block.key.shape[1] if block.has_attention else 0) * rows)
            + 2 * block.relu_width * rows
            for block in blocks
        )
        return Ledger(
            rows=rows,
            blocks=len(self.program),
            distinct_blocks=len(blocks),
            blocks_per_step=self._blocks_per_step,
            heads=max(block.num_heads for block in blocks),
            relu_width=max(block.relu_width for block in blocks),
            relu_units=sum(block.relu_width for block in blocks),
            parameters=full,
            stored_parameters=sum(weight.numel() for weight in self.parameters()),
            bound=self._bound,
        )
