"""Linear regression whose task drifts along the prompt, or whose labels differ in noise: examples differ in worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError
from superpose.theory.covariances import covariance, roots
from superpose.theory.linear_designs import DriftOptimum, conditional_mean, drift_optimum

from .checks import number
from .episode import Batch
from .linear_designs import LinearDesign, Matrix


@dataclass(frozen=True)
class DriftDesign(LinearDesign):
    """Every row has a task of its own, ``beta_i ~ N(0, I)``, correlated along the prompt; inputs are white.

    Recent examples tell more about the query's task, so a model that can weight examples (H3) beats one that cannot.

    Attributes:
        dim: coordinates of an input.
        points: labelled examples per prompt.
        noise: standard deviation of the label noise of every row.
        correlation: of the tasks of two rows: a number rho in 0..1 for ``rho ** |i - j|``, or the covariance of every
            coordinate along the ``points + 1`` rows (rows of numbers, or a tensor). Shorter prompts are the end of it.
        row_noise: a standard deviation per row, the query's last, in place of ``noise``.
    """

    correlation: float | Matrix = 0.9
    row_noise: Sequence[float] | None = None

    name = "drift-linear"
    paper = MappingProxyType({"dim": 20, "points": 40})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.correlation, float | int):
            number("correlation", self.correlation, 0, 1)
        else:
            square = covariance("correlation", torch.as_tensor(self.correlation, dtype=torch.float64))
            if len(square) != self.length:
                raise InputError(f"correlation has {len(square)} rows; allowed: points + 1 = {self.length}")
            object.__setattr__(self, "correlation", tuple(map(tuple, square.tolist())))
        if self.row_noise is not None:
            noises = tuple(number("row_noise", float(each), 0) for each in self.row_noise)
            if len(noises) != self.length:
                raise InputError(f"row_noise has {len(noises)} entries; allowed: points + 1 = {self.length}")
            object.__setattr__(self, "row_noise", noises)

    @cached_property
    def covariance(self) -> Float[Tensor, "rows rows"]:
        """Covariance of each coordinate of the task along the rows."""
        return self._covariance(self.points)

    @property
    def signal(self) -> float:
        """The variance of the query's label without noise."""
        return self.dim * float(self.covariance[-1, -1])

    @property
    def scale(self) -> float:
        """The variance of the query's noisy label."""
        return self.signal + float(self._noises(self.points)[-1]) ** 2

    def draw(
        self, batch: int, points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows"], dict[str, Tensor]]:
        """Draw the path of the task, then inputs and labels row by row."""
        device = generator.device
        x = torch.randn(batch, points + 1, self.dim, generator=generator, device=device)
        x[..., dims:] = 0
        path = torch.randn(batch, points + 1, self.dim, generator=generator, device=device)
        beta = roots(self._covariance(points))[0].to(path) @ path
        y = (x * beta).sum(-1)
        noises = self._noises(points)
        if bool((noises > 0).any()):
            y = y + noises.to(y) * torch.randn(y.shape, generator=generator, device=device)
        return x, y, {"beta": beta[:, -1], "path": beta}

    def bayes(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Predict by Gaussian conditioning: the tasks' covariance along the rows times the inputs' inner products."""
        x, y = batch.info["x"].double(), batch.info["y"].double()
        points = y.shape[1] - 1
        kernel = self._covariance(points).to(x) * (x @ x.mT)
        within = kernel[:, :-1, :-1] + torch.diag(self._noises(points)[:-1].square()).to(x)
        return conditional_mean(within, kernel[:, :-1, -1], y[:, :-1])

    def drift(self, n: int | None = None) -> DriftOptimum:
        """Return the best predictor with and without sample weights, and their risks."""
        n = self._examples(n)
        return drift_optimum(self._covariance(n), self.dim, self._noises(n))

    def optimal_preconditioner(self, n: int | None = None, rank: int | None = None) -> Float[Tensor, "dim dim"]:
        """Return the identity: W of the best ``x^T W X^T (w * y)``, whose scale stands in its weights w."""
        self._full_rank(rank)
        self._examples(n)
        return torch.eye(self.dim, dtype=torch.float64)

    def optimal_weights(self, n: int | None = None) -> Float[Tensor, " context"]:
        """Return the sample weights of the best predictor, oldest example first."""
        return self.drift(n).weights

    def optimal_risk(self, n: int | None = None, rank: int | None = None) -> float:
        """Return the smallest mean squared error of ``x^T W X^T (w * y)``; without weights: `drift`."""
        self._full_rank(rank)
        return float(self.drift(n).risk)

    def _covariance(self, points: int) -> Float[Tensor, "rows rows"]:
        if isinstance(self.correlation, float | int):
            place = torch.arange(points + 1, dtype=torch.float64)
            return torch.as_tensor(self.correlation, dtype=torch.float64) ** (place[:, None] - place).abs()
        self._at_most(points)
        return torch.as_tensor(self.correlation, dtype=torch.float64)[-points - 1 :, -points - 1 :]

    def _noises(self, points: int) -> Float[Tensor, " rows"]:
        if self.row_noise is None:
            return torch.full((points + 1,), float(self.noise), dtype=torch.float64)
        self._at_most(points)
        return torch.tensor(self.row_noise, dtype=torch.float64)[-points - 1 :]

    def _at_most(self, points: int) -> None:
        if points > self.points:
            raise InputError(f"points is {points}; allowed: {self.points} or fewer, beyond which the rows are unknown")
