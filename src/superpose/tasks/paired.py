"""Prompts whose tokens hold an input together with its label, and in which only the last label is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from superpose.errors import InputError

from .checks import whole
from .episode import Batch, ContinuousTask, size_of
from .functions import FunctionTask


@dataclass(frozen=True)
class PairedPrompts(ContinuousTask):
    """The functions of another task in the format of the linear-attention theory: tokens (x_i, y_i), a query (x, 0).

    Not a member of the registry: it is a format, for backbones that read all tokens at once (``read="prefix"``), and
    has one read where registered tasks have one per example.

    Attributes:
        base: draws the functions and their labels; its number of points is that of the labelled examples.
        scales: standard deviation of every coordinate of x; () for 1 throughout.

    Raises:
        InputError: as many scales as coordinates are needed, all above 0.
    """

    base: FunctionTask
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scales and (len(self.scales) != self.base.dim or not all(s > 0 for s in self.scales)):
            raise InputError(f"scales is {self.scales}; allowed: () or {self.base.dim} values above 0 (the dimension)")

    # The base task's, so that a trainer and an evaluation treat this as they treat that.
    @property
    def name(self) -> str:  # type: ignore[override]
        """The base task's name, marked."""
        return f"paired-{self.base.name}"

    @property
    def objective(self) -> Literal["squared", "binary", "cross-entropy"]:  # type: ignore[override]
        """The base task's."""
        return self.base.objective

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The base task's."""
        return self.base.metric

    @property
    def in_dim(self) -> int:
        """An input and its label."""
        return self.base.dim + 1

    @property
    def length(self) -> int:
        """The examples and the query."""
        return self.base.points + 1

    @property
    def chance(self) -> float:
        """The base task's, whose scale is that of inputs of variance 1."""
        return self.base.chance

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts of ``points`` labelled examples and one query."""
        count, used = size_of(points, dims, self.base.points, self.base.dim, self.base.least_dims)
        x = self.base.inputs(batch, whole("points", count, 1) + 1, used, generator)
        if self.scales:
            x = x * torch.tensor(self.scales, device=x.device)
        y, info = self.base.labels(x, used, generator)
        return self.prompt(x, y, info)

    def prompt(
        self, x: Float[Tensor, "batch pos dim"], y: Float[Tensor, "batch pos"], info: Mapping[str, Any] | None = None
    ) -> Batch:
        """Return the prompts of given inputs and labels; the last pair is the query."""
        shown = pad(y[:, :-1], (0, 1))
        return Batch(
            inputs=torch.cat([x, shown.unsqueeze(-1)], -1),
            reads=torch.tensor([x.shape[1] - 1], device=x.device),
            targets=y[:, -1:, None],
            weight=torch.ones_like(y[:, -1:]),
            info={"x": x, "y": y, **(info or {})},
        )

    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the base task's loss."""
        return self.base.read_loss(outputs, batch)

    def error(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the base task's error."""
        return self.base.error(outputs, batch)
