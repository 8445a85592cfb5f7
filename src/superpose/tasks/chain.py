"""Multi-layer networks shown with their hidden layers: in-context learning with and without a chain of thought.

Li et al., "Dissecting chain-of-thought: compositionality through in-context filtering and learning" (2023).
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from superpose.errors import choose

from .checks import whole
from .episode import Batch, SquaredTask, gaussian_inputs, size_of

FORMATS = ("icl", "cot-i", "cot-io")


@dataclass(frozen=True)
class ChainOfThought(SquaredTask):
    """Prompts x_1, s_1, ..., y_1, x_2, ... of networks ``s^l = sqrt(2/k) relu(s^(l-1) W_l)``, ``y = <s, v>``.

    Weights are standard normal. Each step, and the label, has variance ``dim`` in total; losses are sums over the
    coordinates of a step, errors are divided by ``dim``. Steps are scored with the true earlier steps in the prompt.

    Attributes:
        dim: coordinates of x.
        points: examples per prompt.
        hidden: width k of the hidden layers.
        layers: layers of the network, the last being linear; ``layers - 1`` hidden steps.
        form: "cot-io" shows the steps and asks for them; "cot-i" shows them and asks for the label at x; "icl" does
            not show them.
    """

    dim: int = 4
    points: int = 10
    hidden: int = 4
    layers: int = 2
    form: str = "cot-io"

    name = "cot-io"
    metric = "squared error / dimension, mean over steps and label"
    paper = MappingProxyType({"dim": 10, "points": 101, "hidden": 4})

    def __post_init__(self) -> None:
        for argument, low in (("dim", 1), ("points", 1), ("hidden", 1), ("layers", 2)):
            whole(argument, getattr(self, argument), low)
        choose("form", self.form, FORMATS)

    @property
    def in_dim(self) -> int:
        """Width of the wider of x and a step; shorter vectors are padded with zeros."""
        return max(self.dim, self.hidden)

    @property
    def out_dim(self) -> int:
        """Width of a step where steps are asked for, else 1."""
        return self.hidden if self.form == "cot-io" else 1

    @property
    def per_example(self) -> int:
        """Positions of one example."""
        return 2 if self.form == "icl" else self.layers + 1

    @property
    def length(self) -> int:
        """Positions of a full prompt."""
        return self.per_example * self.points

    @property
    def scale(self) -> float:
        """The variance of a label, and of a step summed over its coordinates."""
        return float(self.dim)

    @property
    def chance(self) -> float:
        """Predicting 0 for a label; for a step, its mean given the length of the step before it."""
        if self.form != "cot-io":
            return 1.0
        return (1 + (self.layers - 1) * (1 - 1 / math.pi)) / self.layers

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw one network per prompt."""
        points, dims = size_of(points, dims, self.points, self.dim)
        x = gaussian_inputs(batch, points, self.dim, dims, generator)
        steps = [x]
        for _ in range(self.layers - 1):
            before = steps[-1]
            matrix = torch.randn(batch, before.shape[-1], self.hidden, generator=generator, device=generator.device)
            steps.append(math.sqrt(2 / self.hidden) * torch.relu(before @ matrix))
        v = torch.randn(batch, self.hidden, 1, generator=generator, device=generator.device)
        y = steps[-1] @ v
        shown = [x, y] if self.form == "icl" else [*steps, y]
        inputs = torch.stack([_pad(part, self.in_dim) for part in shown], dim=2).flatten(1, 2)
        asked = [*steps[1:], y] if self.form == "cot-io" else [y]
        targets = torch.stack([_pad(part, self.out_dim) for part in asked], dim=2).flatten(1, 2)
        coordinates = torch.tensor([part.shape[-1] for part in asked], device=x.device).repeat(points)
        starts = self.per_example * torch.arange(points, device=x.device).unsqueeze(1)
        return Batch(
            inputs=inputs,
            reads=(starts + torch.arange(len(asked), device=x.device)).flatten(),
            targets=targets,
            weight=torch.ones(targets.shape[:2], device=x.device),
            info={"x": x, "y": y.squeeze(-1), "coordinates": coordinates.expand(batch, -1)},
        )

    def read_loss(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the squared error, summed over the coordinates that the step or label has."""
        axis = torch.arange(self.out_dim, device=outputs.device)
        present = axis < batch.info["coordinates"].unsqueeze(-1)
        return ((outputs.float() - batch.targets).square() * present).sum(-1)


def _pad(part: Tensor, width: int) -> Tensor:
    return F.pad(part, (0, width - part.shape[-1]))
