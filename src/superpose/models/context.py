"""What a mixer knows about a sequence besides its contents: positions, padding, causality."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from superpose.errors import InputError

# Every tensor has the batch as its first axis, so that rows can be selected, repeated and reordered.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """Positions, padding and causality of a batch of sequences.

    Args:
        positions: place of every token, for learned and rotary positions; default: 0, 1, 2, ... over the real tokens.
        padding: True at real tokens, False at padding on the left or on the right; default: every token is real.
        causal: whether a position sees only itself and what stands before it.
        want_state: whether the parallel path also returns the state that continues the sequence.
    """

    positions: Int[Tensor, "batch pos"] | None = None
    padding: Bool[Tensor, "batch pos"] | None = None
    causal: bool = True
    want_state: bool = False

    def check(self, batch: int, length: int) -> None:
        """Refuse positions or padding of another shape than the sequences.

        Raises:
            InputError: names the field, its shape and the shape that is allowed.
        """
        for name, value in (("positions", self.positions), ("padding", self.padding)):
            if value is not None and tuple(value.shape) != (batch, length):
                raise InputError(f"{name} has shape {list(value.shape)}; allowed: {[batch, length]}, as the sequences")


def zero_padding(x: Tensor, padding: Bool[Tensor, "batch pos"] | None) -> Tensor:
    """Return ``x`` of shape ``[batch, pos, ...]`` with zeros at padding, so that recurrences skip it."""
    if padding is None:
        return x
    return torch.where(padding.reshape(*padding.shape, *[1] * (x.ndim - 2)), x, 0.0)
