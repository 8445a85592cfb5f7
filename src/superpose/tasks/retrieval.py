"""Retrieval of vectors by vectors, with one query or with many (MambaFormer, 2024)."""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .checks import whole
from .episode import Batch, SquaredTask, size_of


@dataclass(frozen=True)
class VectorMQAR(SquaredTask):
    """Pairs k_1, v_1, ..., k_n, v_n, then queries, each equal to a different key; its value is to be returned.

    All vectors are uniform on the sphere of radius ``sqrt(dim)``. The error is the squared error per coordinate, 1 for
    predicting 0.

    Attributes:
        dim: coordinates of keys and values.
        points: pairs per prompt.
        queries: queries per prompt, at most `points`; None: all keys, in random order.
    """

    dim: int = 16
    points: int = 8
    queries: int | None = None

    name = "vector-mqar"
    metric = "squared error per coordinate"
    paper = MappingProxyType({"dim": 20, "points": 32, "queries": 16})

    def __post_init__(self) -> None:
        whole("dim", self.dim, 1)
        whole("points", self.points, 1)
        if self.queries is not None:
            whole("queries", self.queries, 1, self.points)

    @property
    def in_dim(self) -> int:
        """Width of a key."""
        return self.dim

    @property
    def out_dim(self) -> int:
        """Width of a value."""
        return self.dim

    @property
    def length(self) -> int:
        """Two positions per pair, one per query."""
        return 2 * self.points + self._queries(self.points)

    @property
    def chance(self) -> float:
        """Predicting 0."""
        return 1.0

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; with fewer pairs there are no more queries than pairs."""
        points, dims = size_of(points, dims, self.points, self.dim)
        queries = self._queries(points)
        pairs = self._vectors(batch, 2 * points, dims, generator)
        order = torch.rand(batch, points, generator=generator, device=generator.device)
        slot = order.topk(queries).indices
        keys, values = pairs[:, ::2], pairs[:, 1::2]
        return self._batch(pairs, _pick(keys, slot), values, slot)

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Reading the value beside the query's key: 0."""
        return torch.zeros_like(batch.weight)

    def match_accuracy(self, outputs: Float[Tensor, "batch reads out"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return 1 where the value of the prompt nearest to the output is the right one, else 0."""
        nearest = torch.cdist(outputs.float(), batch.info["values"]).argmin(-1)
        return (nearest == batch.info["slot"]).float()

    def _queries(self, points: int) -> int:
        return points if self.queries is None else min(self.queries, points)

    def _vectors(self, batch: int, count: int, dims: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(batch, count, dims, generator=generator, device=generator.device)
        vectors = math.sqrt(dims) * torch.nn.functional.normalize(drawn, dim=-1)
        return torch.nn.functional.pad(vectors, (0, self.dim - dims))

    def _batch(self, pairs: Tensor, queries: Tensor, values: Tensor, slot: Int[Tensor, "batch reads"]) -> Batch:
        targets = _pick(values, slot)
        length = pairs.shape[1] + queries.shape[1]
        return Batch(
            inputs=torch.cat([pairs, queries], dim=1),
            reads=torch.arange(pairs.shape[1], length, device=pairs.device),
            targets=targets,
            weight=torch.ones(targets.shape[:2], device=pairs.device),
            info={"values": values, "slot": slot},
        )


@dataclass(frozen=True)
class VectorRetrieval(VectorMQAR):
    """Pairs k_1, v_1, ..., k_n, v_n and one query.

    Attributes:
        dim: coordinates of keys and values.
        points: pairs per prompt.
        queries: 1.
        official: as the official code, which draws the query among n + 1 places: one prompt in n + 1 asks for a key
            that it does not contain, and expects the value of the nearest one.
    """

    queries: int | None = 1
    official: bool = False

    name = "vector-retrieval"
    paper = MappingProxyType({"dim": 20, "points": 64})

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("queries", self.queries, 1, 1)

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts."""
        if not self.official:
            return super().sample(batch, generator, points=points, dims=dims)
        points, dims = size_of(points, dims, self.points, self.dim)
        drawn = self._vectors(batch, 2 * points + 1, dims, generator)
        place = torch.randint(points + 1, (batch, 1), generator=generator, device=generator.device)
        query, pairs = _pick(drawn[:, ::2], place), drawn[:, :-1]
        slot = (query @ pairs[:, ::2].transpose(1, 2)).argmax(-1)
        return self._batch(pairs, query, pairs[:, 1::2], slot)


def _pick(vectors: Float[Tensor, "batch n dim"], slot: Int[Tensor, "batch m"]) -> Float[Tensor, "batch m dim"]:
    return vectors.gather(1, slot.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))
