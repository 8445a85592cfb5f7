"""What a task is: a distribution over episodes, with its loss, its error and what theory knows about it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from superpose.errors import InputError

from .checks import whole


@dataclass(frozen=True)
class Batch:
    """Some episodes of a task.

    Attributes:
        inputs: what the learner reads: vectors, or token ids.
        reads: the positions whose outputs are scored, the same in all episodes.
        targets: what the outputs there should be: vectors, or token ids.
        weight: how much each read counts in loss and error; 0 means not scored.
        info: what the task wants to tell (hidden function, masks, ...), the first axis being the episode.
    """

    inputs: Float[Tensor, "batch pos dim"] | Int[Tensor, "batch pos"]
    reads: Int[Tensor, " reads"]
    targets: Float[Tensor, "batch reads out"] | Int[Tensor, "batch reads"]
    weight: Float[Tensor, "batch reads"]
    info: dict[str, Tensor] = field(default_factory=dict)

    def at_reads(self, outputs: Float[Tensor, "batch pos out"]) -> Float[Tensor, "batch reads out"]:
        """Return the outputs at the scored positions."""
        return outputs[:, self.reads]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        return Batch(
            inputs=self.inputs.to(device),
            reads=self.reads.to(device),
            targets=self.targets.to(device),
            weight=self.weight.to(device),
            info={name: value.to(device) for name, value in self.info.items()},
        )


class Task(ABC):
    """A data distribution. Every member of the registry keeps this contract.

    Attributes:
        name: the task's name in the registry.
        kind: "continuous" (vectors in and out) or "token" (ids in, logits out).
        objective: what `loss` is: "squared", "binary" (one logit for labels -1 and 1) or "cross-entropy".
        metric: what `error` is, in words.
        paper: the paper's configuration; the defaults are sizes that a laptop trains in a minute.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["continuous", "token"]]
    objective: ClassVar[Literal["squared", "binary", "cross-entropy"]]
    metric: ClassVar[str]
    paper: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions of a full prompt."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Mean error of the best answer that does not look at the context."""

    @abstractmethod
    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw episodes, on the generator's device.

        Args:
            batch: how many episodes.
            generator: the only source of randomness.
            points: examples per prompt, for a curriculum or for longer prompts; the task's own number by default.
            dims: coordinates in use, for a curriculum; all by default.
        """

    @abstractmethod
    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the training loss of each read, not yet weighted."""

    @abstractmethod
    def error(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the error of each read in the task's metric; where the weight is 0 it means nothing."""

    def loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, ""]:
        """Return the training loss: the weighted mean over the reads."""
        return self.mean(self.read_loss(outputs, batch), batch)

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Return the error of the exact predictor on these episodes, or None where theory does not know it."""
        return None

    def mean(self, values: Float[Tensor, "batch reads"], batch: Batch) -> Float[Tensor, ""]:
        """Return the mean of per-read values over the reads that count."""
        # A batch of outliers only has nothing to score: its mean is 0, not NaN
        return (values * batch.weight).sum() / batch.weight.sum().clamp_min(1)


class ContinuousTask(Task):
    """A task over vectors: ``in_dim`` numbers per position in, ``out_dim`` numbers per read out."""

    kind = "continuous"

    @property
    @abstractmethod
    def in_dim(self) -> int:
        """Width of an input vector."""

    @property
    def out_dim(self) -> int:
        """Width of an output vector."""
        return 1


class SquaredTask(ContinuousTask):
    """Vectors are predicted under squared error; the error is divided by `scale` so that knowing nothing gives 1."""

    objective = "squared"
    metric = "squared error"

    @property
    def scale(self) -> float:
        """What the squared error is divided by: the variance of the target."""
        return 1.0

    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the squared error, averaged over the coordinates of the target."""
        return (outputs.float() - batch.targets).square().mean(-1)

    def error(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the squared error, averaged over the coordinates of the target, in units of `scale`."""
        return self.read_loss(outputs, batch) / self.scale


class BinaryTask(ContinuousTask):
    """Labels -1 and 1 are predicted by one logit."""

    objective = "binary"
    metric = "misclassified"

    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the binary cross entropy of the logit, in nats."""
        target = (batch.targets + 1) / 2
        return F.binary_cross_entropy_with_logits(outputs.float(), target, reduction="none").squeeze(-1)

    def error(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return 0 for the right sign, 1 for the wrong one, one half for no sign."""
        return ((1 - outputs.float().sign() * batch.targets) / 2).squeeze(-1)


class TokenTask(Task):
    """A task over ids: the read-out gives one logit per word of the vocabulary."""

    kind = "token"
    objective = "cross-entropy"
    metric = "misclassified"

    @property
    @abstractmethod
    def vocab(self) -> int:
        """Number of different ids."""

    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the cross entropy, in nats."""
        logits = outputs.float().flatten(0, 1)
        return F.cross_entropy(logits, batch.targets.flatten(), reduction="none").view(batch.targets.shape)

    def error(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return 0 where the largest logit is the target's, else 1."""
        return (outputs.argmax(-1) != batch.targets).float()

    def no_dims(self, dims: int | None) -> None:
        """Refuse a curriculum over coordinates, which ids do not have.

        Raises:
            InputError: ``dims`` is given.
        """
        if dims is not None:
            raise InputError(f"dims is {dims}; the task {self.name!r} is over tokens, allowed: None")


def interleave(
    x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points dim"]
) -> Float[Tensor, "batch pos dim"]:
    """Return the prompt x_1, y_1, x_2, y_2, ..."""
    return torch.stack([x, y], dim=2).flatten(1, 2)


def label_token(y: Float[Tensor, "batch points"], width: int) -> Float[Tensor, "batch points width"]:
    """Return labels as vectors: the label in the first coordinate, zeros beyond."""
    return F.pad(y.unsqueeze(-1), (0, width - 1))


def gaussian_inputs(
    batch: int, points: int, dim: int, dims: int, generator: torch.Generator
) -> Float[Tensor, "batch points dim"]:
    """Draw standard normal inputs whose coordinates from ``dims`` on are 0."""
    x = torch.randn(batch, points, dim, generator=generator, device=generator.device)
    x[..., dims:] = 0
    return x


def size_of(
    points: int | None, dims: int | None, own_points: int, own_dims: int, least_dims: int = 1
) -> tuple[int, int]:
    """Return the number of examples and of coordinates in use, checked.

    Raises:
        InputError: fewer than one example, or coordinates outside ``least_dims..own_dims``.
    """
    return (
        own_points if points is None else whole("points", points, 1),
        own_dims if dims is None else whole("dims", dims, least_dims, own_dims),
    )
