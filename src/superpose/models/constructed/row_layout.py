"""Names for the rows of a stream whose columns are tokens: what a construction keeps where."""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose


class RowLayout:
    """Named blocks of rows, in the order given.

    Args:
        sizes: name to number of rows, for example ``RowLayout(eye=5, weights=1)``.

    Raises:
        InputError: no block, or one with fewer than one row.
    """

    def __init__(self, **sizes: int):
        if not sizes:
            raise InputError("sizes is empty; allowed: at least one named block of rows")
        self.slices: dict[str, slice] = {}
        self.rows = 0
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} has {size} rows; allowed: 1 or more")
            self.slices[name] = slice(self.rows, self.rows + size)
            self.rows += size

    def __getitem__(self, name: str) -> slice:
        choose("row block", name, self.slices)
        return self.slices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.slices)

    def size(self, name: str) -> int:
        """Return how many rows a block has."""
        found = self[name]
        return found.stop - found.start

    def selector(self, name: str) -> Float[Tensor, "size rows"]:
        """Return the matrix that picks a block out of the stream."""
        return torch.eye(self.rows, dtype=torch.float64)[self[name]]

    def read(self, z: Float[Tensor, "*batch rows tokens"], name: str) -> Float[Tensor, "*batch size tokens"]:
        """Return a block of a stream (a view).

        Raises:
            InputError: an unknown block, or a stream of another height.
        """
        if z.shape[-2] != self.rows:
            raise InputError(f"z has {z.shape[-2]} rows; allowed: {self.rows}")
        return z[..., self[name], :]

    def combine(self, parts: Mapping[str, float]) -> Float[Tensor, "size rows"]:
        """Return the matrix that reads a weighted sum of blocks of equal size; blocks of one row go to every row.

        Raises:
            InputError: no block, unknown ones, or sizes that do not fit.
        """
        if not parts:
            raise InputError("parts is empty; allowed: at least one block")
        size = max(self.size(name) for name in parts)
        total = torch.zeros(size, self.rows, dtype=torch.float64)
        for name, coefficient in parts.items():
            if self.size(name) not in (1, size):
                raise InputError(f"block {name!r} has {self.size(name)} rows; allowed: 1 or {size}")
            total += coefficient * self.selector(name)
        return total
