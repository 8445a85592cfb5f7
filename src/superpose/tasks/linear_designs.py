"""Linear regression prompts whose examples are independent, retrieved, aligned with the task, or drifting.

A prompt is n rows ``(x_i, y_i)``, oldest first, and a last row ``(x, 0)``: the query, whose label is the one target.
Each design knows the best one-step predictor ``x^T W X^T y`` (`superpose.theory`) and Bayes' predictor, which one layer
does not reach. From arXiv 2407.10005.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError
from superpose.theory.covariances import covariance, roots
from superpose.theory.linear_designs import (
    aligned_approximation,
    aligned_optimum,
    aligned_signal,
    conditional_mean,
    kappa,
    rag_approximation,
    rag_optimum,
)
from superpose.theory.linear_icl import pgd_optimum

from .checks import number, whole
from .episode import Batch, SquaredTask, size_of

# Whatever is given, tuples are kept: tasks are compared, hashed and printed.
Matrix = Sequence[Sequence[float]] | Tensor


@dataclass(frozen=True)
class LinearDesign(SquaredTask):
    """Base of the designs. Errors are squared errors on the noisy label, over its variance.

    Attributes:
        dim: coordinates of an input.
        points: labelled examples per prompt, n.
        noise: standard deviation of the label noise, in the context and on the query's label.
    """

    dim: int = 5
    points: int = 10
    noise: float = 0.0

    metric = "squared error on the noisy label / its variance"

    def __post_init__(self) -> None:
        whole("dim", self.dim, 1)
        whole("points", self.points, 1)
        number("noise", self.noise, 0)

    @property
    def in_dim(self) -> int:
        """Width of a row: the input and its label."""
        return self.dim + 1

    @property
    def length(self) -> int:
        """A row per example, and the query's."""
        return self.points + 1

    @property
    def chance(self) -> float:
        """Predicting 0."""
        return 1.0

    @property
    def scale(self) -> float:
        """The variance of the noisy label."""
        return self.signal + self.noise**2

    @property
    def signal(self) -> float:
        """The variance of the label without noise."""
        return float(self.dim)

    @abstractmethod
    def draw(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows"], dict[str, Tensor]]:
        """Draw inputs and noisy labels of n examples and the query, and what describes the tasks."""

    @abstractmethod
    def bayes(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Predict the query's label by its mean given the whole prompt."""

    @abstractmethod
    def optimal_preconditioner(self, n: int | None = None, rank: int | None = None) -> Float[Tensor, "dim dim"]:
        """Return W of the best ``x^T W X^T y`` for prompts of n examples (default: `points`)."""

    def optimal_weights(self, n: int | None = None) -> Float[Tensor, " context"]:
        """Return the weights of the best ``x^T W X^T (w * y)``: equal ones, where examples are exchangeable."""
        return torch.ones(self._examples(n), dtype=torch.float64)

    @abstractmethod
    def optimal_risk(self, n: int | None = None, rank: int | None = None) -> float:
        """Return the smallest mean squared error (not divided by `scale`) of ``x^T W X^T y``, rank W <= ``rank``."""

    def approximate_risk(self, n: int | None = None) -> float:
        """Return the paper's approximation of `optimal_risk`.

        Raises:
            InputError: the paper gives none for this design, because the exact risk is as simple.
        """
        raise InputError(f"design is {self.name!r}; allowed with approximate_risk: rag-linear, aligned-linear")

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; coordinates from ``dims`` on are zero in x."""
        points, dims = size_of(points, dims, self.points, self.dim)
        x, y, info = self.draw(batch, points, dims, generator)
        rows = torch.cat([x, y.unsqueeze(-1)], dim=-1)
        rows[:, -1, -1] = 0
        return Batch(
            inputs=rows,
            reads=torch.tensor([points], device=x.device),
            targets=y[:, -1:, None].contiguous(),
            weight=torch.ones_like(y[:, -1:]),
            info={"x": x, "y": y, **info},
        )

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Bayes' predictor, which knows the design and may be any function of the prompt."""
        return self.error(self.bayes(batch)[:, None, None].float(), batch)

    def _examples(self, n: int | None) -> int:
        return self.points if n is None else whole("n", n, 1)

    def _labels(self, x: Tensor, beta: Tensor, generator: torch.Generator, gain: float = 1.0) -> Tensor:
        y = gain * (x * (beta if beta.ndim == 3 else beta.unsqueeze(1))).sum(-1)
        if self.noise:
            y = y + self.noise * torch.randn(y.shape, generator=generator, device=generator.device)
        return y

    def _full_rank(self, rank: int | None) -> None:
        if rank is not None:
            raise InputError(f"rank is {rank}; the design {self.name!r} allows: None (the i.i.d. design has ranks)")


@dataclass(frozen=True)
class IIDDesign(LinearDesign):
    """Independent Gaussian inputs and tasks: ``x ~ N(0, inputs)``, ``beta ~ N(task_mean, tasks)``.

    Attributes:
        dim, points, noise: as in `LinearDesign`.
        inputs: covariance of the inputs, rows of numbers (or a tensor); default the identity.
        tasks: covariance of beta; default the identity.
        task_mean: mean of beta; default 0, which the optimality of linear attention needs.
    """

    inputs: Matrix | None = None
    tasks: Matrix | None = None
    task_mean: Sequence[float] | None = None

    name = "iid-linear"
    paper = MappingProxyType({"dim": 20, "points": 40})

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("inputs", "tasks"):
            given = getattr(self, field)
            if given is not None:
                square = covariance(field, torch.as_tensor(given, dtype=torch.float64))
                if square.shape != (self.dim, self.dim):
                    raise InputError(f"{field} has shape {list(square.shape)}; allowed: {[self.dim, self.dim]}")
                object.__setattr__(self, field, tuple(map(tuple, square.tolist())))
        if self.task_mean is not None:
            mean = tuple(float(m) for m in self.task_mean)
            if len(mean) != self.dim:
                raise InputError(f"task_mean has {len(mean)} entries; allowed: {self.dim}")
            object.__setattr__(self, "task_mean", mean)

    @cached_property
    def input_covariance(self) -> Float[Tensor, "dim dim"]:
        """Covariance of the inputs."""
        return self._matrix(self.inputs)

    @cached_property
    def task_moment(self) -> Float[Tensor, "dim dim"]:
        """Second moment of beta, all that the risk of a one-step predictor depends on."""
        mean = self._mean
        return self._matrix(self.tasks) + torch.outer(mean, mean)

    @property
    def signal(self) -> float:
        """The mean square of the label without noise."""
        return float((self.input_covariance * self.task_moment).sum())

    @property
    def chance(self) -> float:
        """Predicting by the mean task."""
        return (float((self.input_covariance * self._matrix(self.tasks)).sum()) + self.noise**2) / self.scale

    def draw(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows"], dict[str, Tensor]]:
        """Draw inputs and tasks apart."""
        device = generator.device
        x = torch.randn(batch, points + 1, self.dim, generator=generator, device=device)
        beta = torch.randn(batch, self.dim, generator=generator, device=device)
        if self.inputs is not None:
            x = x @ roots(self.input_covariance)[0].to(x)
        if self.tasks is not None:
            beta = beta @ roots(self._matrix(self.tasks))[0].to(beta)
        if self.task_mean is not None:
            beta = beta + self._mean.to(beta)
        x[..., dims:] = 0
        return x, self._labels(x, beta, generator), {"beta": beta}

    def bayes(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Predict by the posterior mean of beta."""
        x, y = batch.info["x"].double(), batch.info["y"].double()
        mean = self._mean.to(x)
        known = x @ mean
        spread = x @ self._matrix(self.tasks).to(x)
        return known[:, -1] + _gaussian(spread[:, :-1], x, y[:, :-1] - known[:, :-1], self.noise)

    def optimal_preconditioner(self, n: int | None = None, rank: int | None = None) -> Float[Tensor, "dim dim"]:
        """Return W of the best ``x^T W X^T y`` of at most that rank."""
        return pgd_optimum(self._examples(n), self.input_covariance, self.task_moment, self.noise, rank).preconditioner

    def optimal_risk(self, n: int | None = None, rank: int | None = None) -> float:
        """Return the smallest mean squared error of ``x^T W X^T y`` of at most that rank."""
        return float(pgd_optimum(self._examples(n), self.input_covariance, self.task_moment, self.noise, rank).risk)

    @property
    def _mean(self) -> Tensor:
        return torch.tensor((0.0,) * self.dim if self.task_mean is None else self.task_mean, dtype=torch.float64)

    def _matrix(self, given: Matrix | None) -> Tensor:
        return torch.eye(self.dim).double() if given is None else torch.as_tensor(given, dtype=torch.float64)


@dataclass(frozen=True)
class RAGDesign(LinearDesign):
    """Retrieved examples: ``x_i | x ~ N(alpha x, (1 - alpha^2) I)``, beta ~ N(0, I).

    Attributes:
        dim, points, noise: as in `LinearDesign`.
        alpha: correlation of every example with the query, 0 to 1.
    """

    alpha: float = 0.5

    name = "rag-linear"
    paper = MappingProxyType({"dim": 20, "points": 40, "alpha": 0.2})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, 0, 1)

    def draw(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows"], dict[str, Tensor]]:
        """Draw the query first, then the examples around it."""
        device = generator.device
        beta = torch.randn(batch, self.dim, generator=generator, device=device)
        query = torch.randn(batch, 1, self.dim, generator=generator, device=device)
        x = torch.randn(batch, points, self.dim, generator=generator, device=device)
        x = torch.cat([self.alpha * query + (1 - self.alpha**2) ** 0.5 * x, query], dim=1)
        x[..., dims:] = 0
        return x, self._labels(x, beta, generator), {"beta": beta}

    def bayes(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Predict by the posterior mean of beta, which the inputs tell nothing about."""
        x, y = batch.info["x"].double(), batch.info["y"].double()
        return _gaussian(x[:, :-1], x, y[:, :-1], self.noise)

    def optimal_preconditioner(self, n: int | None = None, rank: int | None = None) -> Float[Tensor, "dim dim"]:
        """Return W of the best ``x^T W X^T y``, a multiple of the identity."""
        self._full_rank(rank)
        return _identity(self.dim, rag_optimum(self.dim, self._examples(n), self.alpha, self.noise).scale)

    def optimal_risk(self, n: int | None = None, rank: int | None = None) -> float:
        """Return the smallest mean squared error of ``x^T W X^T y``."""
        self._full_rank(rank)
        return float(rag_optimum(self.dim, self._examples(n), self.alpha, self.noise).risk)

    def approximate_risk(self, n: int | None = None) -> float:
        """Return the paper's approximation, for small alpha and large dim."""
        return float(rag_approximation(self.dim, self._examples(n), self.alpha, self.noise).risk)


@dataclass(frozen=True)
class AlignedDesign(LinearDesign):
    """Task-aligned features: the query and all x_i ~ N(alpha beta, I), labels ``x^T beta / sqrt(kappa) + noise``.

    Attributes:
        dim, points, noise: as in `LinearDesign`.
        alpha: how far the inputs' mean lies along the task, 0 or more.
    """

    alpha: float = 0.3

    name = "aligned-linear"
    paper = MappingProxyType({"dim": 20, "points": 40, "alpha": 0.2})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, 0)

    @property
    def gain(self) -> float:
        """What labels are multiplied by so that their variance stays near dim: ``1 / sqrt(kappa)``."""
        return float(kappa(self.dim, self.alpha)) ** -0.5

    @property
    def signal(self) -> float:
        """The variance of the label without noise."""
        return float(aligned_signal(self.dim, self.alpha))

    @property
    def chance(self) -> float:
        """Predicting from the query alone, which lies along the task."""
        return (self.gain**2 * self.dim + self.noise**2) / self.scale

    def draw(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows"], dict[str, Tensor]]:
        """Draw the task first, then the inputs around its direction."""
        device = generator.device
        beta = torch.randn(batch, self.dim, generator=generator, device=device)
        x = torch.randn(batch, points + 1, self.dim, generator=generator, device=device)
        x = x + self.alpha * beta.unsqueeze(1)
        x[..., dims:] = 0
        return x, self._labels(x, beta, generator, self.gain), {"beta": beta}

    def bayes(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Predict by the posterior mean of beta, given the inputs (the query's too) and the labels."""
        x, y = batch.info["x"].double(), batch.info["y"].double()
        spread = 1 / (1 + self.alpha**2 * x.shape[1])
        known = self.gain * torch.einsum("bpd,bd->bp", x, self.alpha * spread * x.sum(1))
        scaled = self.gain**2 * spread * x[:, :-1]
        return known[:, -1] + _gaussian(scaled, x, y[:, :-1] - known[:, :-1], self.noise)

    def optimal_preconditioner(self, n: int | None = None, rank: int | None = None) -> Float[Tensor, "dim dim"]:
        """Return W of the best ``x^T W X^T y``, a multiple of the identity."""
        self._full_rank(rank)
        return _identity(self.dim, aligned_optimum(self.dim, self._examples(n), self.alpha, self.noise).scale)

    def optimal_risk(self, n: int | None = None, rank: int | None = None) -> float:
        """Return the smallest mean squared error of ``x^T W X^T y``."""
        self._full_rank(rank)
        return float(aligned_optimum(self.dim, self._examples(n), self.alpha, self.noise).risk)

    def approximate_risk(self, n: int | None = None) -> float:
        """Return the paper's approximation, for small alpha and large dim."""
        return float(aligned_approximation(self.dim, self._examples(n), self.alpha, self.noise).risk)


def _gaussian(scaled: Tensor, x: Tensor, y: Tensor, noise: float) -> Tensor:
    """Bayes' predictor of ``<beta, x>``, ``scaled`` being the examples of ``x`` times the covariance of beta."""
    within = scaled @ x[:, :-1].mT + noise**2 * torch.eye(y.shape[1], dtype=x.dtype, device=x.device)
    return conditional_mean(within, torch.einsum("bpd,bd->bp", scaled, x[:, -1]), y)


def _identity(dim: int, scale: Tensor) -> Tensor:
    return scale * torch.eye(dim, dtype=scale.dtype)
