"""Sparse parity shown by examples (MambaFormer, 2024)."""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.theory.parity import parity_bayes_path, parity_prior_accuracy

from .checks import whole
from .episode import Batch, BinaryTask
from .functions import FunctionTask

# Above this many parities Bayes' predictor takes longer than training a model
MOST_PARITIES = 20_000


@dataclass(frozen=True)
class SparseParity(FunctionTask, BinaryTask):
    """Inputs uniform in {-1, 1}^d; the label is the product of k hidden coordinates.

    Attributes:
        dim: coordinates of an input.
        points: examples per prompt.
        k: coordinates in the product.
        shared_per_batch: draw one parity for a whole batch, as the official code does; by default one per prompt.
    """

    points: int = 12
    k: int = 2
    shared_per_batch: bool = False

    name = "sparse-parity"
    paper = MappingProxyType({"dim": 10, "points": 140, "k": 2})

    def __post_init__(self) -> None:
        whole("k", self.k, 1, self.dim)
        super().__post_init__()

    @property
    def least_dims(self) -> int:
        """As many as the product has."""
        return self.k

    @property
    def chance(self) -> float:
        """The sign of the sum of all parities, which beats a coin: 0.375 for d=4, k=2, not 0.5."""
        return 1 - parity_prior_accuracy(self.dim, self.k)

    def inputs(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> Float[Tensor, "batch points dim"]:
        """Draw uniform signs; coordinates not in use are 0."""
        bits = torch.randint(2, (batch, points, self.dim), generator=generator, device=generator.device)
        x = bits.float() * 2 - 1
        x[..., dims:] = 0
        return x

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw the coordinates of the product among those in use."""
        rows = 1 if self.shared_per_batch else x.shape[0]
        order = torch.rand(rows, dims, generator=generator, device=generator.device)
        chosen = order.topk(self.k).indices.expand(x.shape[0], -1)
        y = x.gather(2, chosen.unsqueeze(1).expand(-1, x.shape[1], -1)).prod(-1)
        return y, {"subset": chosen}

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Bayes' predictor over all parities; None where there are more than 20000."""
        x = batch.info["x"]
        dims = int((x[0, 0] != 0).sum())
        if math.comb(dims, self.k) > MOST_PARITIES:
            return None
        return self.error(parity_bayes_path(x[..., :dims], batch.info["y"], self.k).unsqueeze(-1), batch)
