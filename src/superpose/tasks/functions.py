"""Functions shown by examples: prompts x_1, f(x_1), x_2, f(x_2), ... with a fresh f in every prompt.

The classes of Garg et al. (2022), "What can transformers learn in-context?", as used by the MambaFormer (2024) and
looped transformer (2024) papers. The label of x_i is read at x_i, for every i, the first included.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from superpose.errors import choose
from superpose.theory.regression import least_squares_path, ridge_path, sparse_bayes_path

from .checks import number, whole
from .episode import Batch, BinaryTask, ContinuousTask, SquaredTask, gaussian_inputs, interleave, label_token, size_of

# Above this many supports the exact sparse predictor costs more than training a model
MOST_SUPPORTS = 2000


@dataclass(frozen=True)
class FunctionTask(ContinuousTask):
    """Base of the tasks that show a function by examples.

    Attributes:
        dim: coordinates of an input, standard normal.
        points: examples per prompt.
    """

    dim: int = 4
    points: int = 10

    def __post_init__(self) -> None:
        whole("dim", self.dim, self.least_dims)
        whole("points", self.points, 1)

    @property
    def least_dims(self) -> int:
        """The fewest coordinates the function needs."""
        return 1

    @property
    def in_dim(self) -> int:
        """Width of an input vector: that of x; labels are padded with zeros."""
        return self.dim

    @property
    def length(self) -> int:
        """Two positions per example."""
        return 2 * self.points

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; coordinates from ``dims`` on are zero in x, while f is drawn as it is without a curriculum."""
        points, dims = size_of(points, dims, self.points, self.dim, self.least_dims)
        x = self.inputs(batch, points, dims, generator)
        y, info = self.labels(x, dims, generator)
        return self.prompt(x, y, info)

    def prompt(self, x: Float[Tensor, "batch points dim"], y: Float[Tensor, "batch points"], info: dict) -> Batch:
        """Return the prompts of given inputs and labels, all labels being scored."""
        return Batch(
            inputs=interleave(x, label_token(y, self.dim)),
            reads=torch.arange(0, 2 * x.shape[1], 2, device=x.device),
            targets=y.unsqueeze(-1),
            weight=torch.ones_like(y),
            info={"x": x, "y": y, **info},
        )

    def inputs(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> Float[Tensor, "batch points dim"]:
        """Draw the inputs of some prompts."""
        return gaussian_inputs(batch, points, self.dim, dims, generator)

    @abstractmethod
    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one function per prompt; return its values and what describes it."""


class RegressionTask(FunctionTask, SquaredTask):
    """A function with real values, of mean zero given its input."""

    metric = "squared error / variance of the label"

    @property
    def scale(self) -> float:
        """The variance of a noise-free label: that of ``<w, x>``, the dimension, unless the class says otherwise."""
        return float(self.dim)

    @property
    def chance(self) -> float:
        """Predicting 0."""
        return 1.0

    def excess(self, prediction: Float[Tensor, "batch reads"], batch: Batch) -> Float[Tensor, "batch reads"]:
        """Return the error of some predictions."""
        return self.error(prediction.unsqueeze(-1).float(), batch)


@dataclass(frozen=True)
class LinearRegression(RegressionTask):
    """``y = <w, x> + noise``, ``w ~ N(0, I)``.

    Attributes:
        dim: coordinates of an input.
        points: examples per prompt.
        noise: standard deviation of the label noise, in the context and in the target.
    """

    noise: float = 0.0

    name = "linear"
    paper = MappingProxyType({"dim": 20, "points": 41})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("noise", self.noise, 0)

    @property
    def chance(self) -> float:
        """Predicting 0."""
        return 1 + self.noise**2 / self.scale

    def weights(self, batch: int, dims: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        """Draw one weight vector per prompt."""
        return torch.randn(batch, self.dim, generator=generator, device=generator.device)

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one linear function per prompt."""
        w = self.weights(x.shape[0], dims, generator)
        y = torch.einsum("bpd,bd->bp", x, w)
        if self.noise:
            y = y + self.noise * torch.randn(y.shape, generator=generator, device=generator.device)
        return y, {"w": w}

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Least squares of minimum norm without noise, ridge with it: Bayes' predictor."""
        x, y = batch.info["x"], batch.info["y"]
        return self.excess(ridge_path(x, y, self.noise**2) if self.noise else least_squares_path(x, y), batch)


@dataclass(frozen=True)
class NoisyLinearRegression(LinearRegression):
    """Linear regression with label noise; standard deviation 0.1 as in the looped-transformer paper."""

    noise: float = 0.1

    name = "noisy-linear"


@dataclass(frozen=True)
class SparseLinearRegression(LinearRegression):
    """Linear regression whose w has few nonzeros; errors are divided by their number.

    Attributes:
        dim: coordinates of an input.
        points: examples per prompt.
        noise: standard deviation of the label noise.
        sparsity: nonzeros of w.
        support: "active" draws them among the coordinates in use (MambaFormer); "all" among all of them, so that early
            curriculum prompts can have labels 0 (the official looped-transformer code).
    """

    sparsity: int = 1
    support: str = "active"

    name = "sparse-linear"
    paper = MappingProxyType({"dim": 20, "points": 41, "sparsity": 3})

    def __post_init__(self) -> None:
        whole("sparsity", self.sparsity, 1, self.dim)
        choose("support", self.support, ("active", "all"))
        super().__post_init__()

    @property
    def least_dims(self) -> int:
        """As many as there are nonzeros, when these must be in use."""
        return self.sparsity if self.support == "active" else 1

    @property
    def scale(self) -> float:
        """The variance of a label: the number of nonzeros."""
        return float(self.sparsity)

    def weights(self, batch: int, dims: int, generator: torch.Generator) -> Float[Tensor, "batch dim"]:
        """Draw one sparse weight vector per prompt."""
        dense = super().weights(batch, dims, generator)
        among = dims if self.support == "active" else self.dim
        order = torch.rand(batch, among, generator=generator, device=generator.device)
        chosen = order.topk(self.sparsity).indices
        return torch.zeros_like(dense).scatter(1, chosen, dense.gather(1, chosen))

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """The exact mixture over supports; None where there are more than 2000, or for coordinates not in use."""
        x = batch.info["x"]
        narrowed = bool((x[..., -1] == 0).all())
        if narrowed or math.comb(self.dim, self.sparsity) > MOST_SUPPORTS:
            return None
        return self.excess(sparse_bayes_path(x, batch.info["y"], self.sparsity, self.noise), batch)


@dataclass(frozen=True)
class QuadraticRegression(RegressionTask):
    """``y = sum_j w_j x_j^2 / sqrt(3)``, ``w ~ N(0, I)``: as much variance as in linear regression."""

    name = "quadratic"
    paper = MappingProxyType({"dim": 20, "points": 41})

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one quadratic form per prompt."""
        w = torch.randn(x.shape[0], self.dim, generator=generator, device=generator.device)
        return torch.einsum("bpd,bd->bp", x.square() / math.sqrt(3), w), {"w": w}

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"]:
        """Least squares of minimum norm on the squared inputs: Bayes' predictor."""
        return self.excess(least_squares_path(batch.info["x"].square(), batch.info["y"]), batch)


@dataclass(frozen=True)
class TwoLayerNetwork(RegressionTask):
    """``y = sqrt(2/h) sum_j v_j relu(<w_j, x>)`` with standard normal weights.

    Attributes:
        dim: coordinates of an input.
        points: examples per prompt.
        hidden: hidden units h.
    """

    hidden: int = 16

    name = "relu-2nn"
    paper = MappingProxyType({"dim": 20, "points": 101, "hidden": 100})

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("hidden", self.hidden, 1)

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one network per prompt."""
        device = generator.device
        first = torch.randn(x.shape[0], self.dim, self.hidden, generator=generator, device=device)
        second = torch.randn(x.shape[0], self.hidden, 1, generator=generator, device=device)
        y = math.sqrt(2 / self.hidden) * torch.relu(x @ first) @ second
        return y.squeeze(-1), {"first": first, "second": second}


@dataclass(frozen=True)
class DecisionTree(RegressionTask):
    """A full binary tree: go right where the node's coordinate is above 0; leaves are standard normal.

    Attributes:
        dim: coordinates of an input; each node uses one, drawn uniformly from all.
        points: examples per prompt.
        depth: decisions from the root to a leaf.
        truncate: zero the inputs beyond the coordinates in use. The official looped-transformer code does not, so
            that its curriculum over coordinates has no effect (False).
    """

    depth: int = 2
    truncate: bool = True

    name = "decision-tree"
    paper = MappingProxyType({"dim": 20, "points": 101, "depth": 4})

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("depth", self.depth, 1, 16)

    @property
    def scale(self) -> float:
        """The variance of a leaf."""
        return 1.0

    def inputs(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> Float[Tensor, "batch points dim"]:
        """Draw the inputs, all coordinates in use unless `truncate`."""
        return super().inputs(batch, points, dims if self.truncate else self.dim, generator)

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one tree per prompt; inner nodes and leaves are stored level by level."""
        batch, inner = x.shape[0], 2**self.depth - 1
        nodes = torch.randint(self.dim, (batch, inner), generator=generator, device=generator.device)
        leaves = torch.randn(batch, inner + 1, generator=generator, device=generator.device)
        right = (x > 0).long()
        at = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        for _ in range(self.depth):
            decision = right.gather(2, nodes.gather(1, at).unsqueeze(-1)).squeeze(-1)
            at = 2 * at + 1 + decision
        return leaves.gather(1, at - inner), {"nodes": nodes, "leaves": leaves}


@dataclass(frozen=True)
class LogisticRegression(FunctionTask, BinaryTask):
    """Labels -1 and 1 from ``w ~ N(0, I)``.

    Attributes:
        dim: coordinates of an input.
        points: examples per prompt.
        labels_from: "sampled" draws the label 1 with probability ``sigmoid(<w, x>)``; "sign" takes the sign of
            ``<w, x>`` (Garg et al.'s linear classification).
    """

    labels_from: str = "sampled"

    name = "logistic"
    paper = MappingProxyType({"dim": 20, "points": 41})

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("labels_from", self.labels_from, ("sampled", "sign"))

    @property
    def chance(self) -> float:
        """Either label: both are equally likely for every input."""
        return 0.5

    def labels(
        self, x: Float[Tensor, "batch points dim"], dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points"], dict[str, Tensor]]:
        """Draw one classifier per prompt."""
        w = torch.randn(x.shape[0], self.dim, generator=generator, device=generator.device)
        margin = torch.einsum("bpd,bd->bp", x, w)
        if self.labels_from == "sign":
            positive = margin > 0
        else:
            positive = torch.rand(margin.shape, generator=generator, device=generator.device) < margin.sigmoid()
        return _signs(positive), {"w": w}


def _signs(positive: Bool[Tensor, "batch points"]) -> Float[Tensor, "batch points"]:
    return positive.float() * 2 - 1
