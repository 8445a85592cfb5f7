"""Linear regression among outliers: what a model must filter (MambaFormer, 2024). Only clean pairs are scored."""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from superpose.theory.regression import least_squares_path

from .checks import number
from .episode import Batch, gaussian_inputs, interleave, label_token, size_of
from .functions import LinearRegression


@dataclass(frozen=True)
class ManyOutliers(LinearRegression):
    """Most pairs are replaced by a pair of all-ones vectors.

    Attributes:
        dim: coordinates of an input.
        points: pairs per prompt, outliers included.
        noise: standard deviation of the label noise of clean pairs.
        probability: of a pair to be an outlier, drawn for each pair.
    """

    points: int = 40
    probability: float = 0.75

    name = "many-outlier"
    metric = "squared error of clean pairs / variance of the label"
    paper = MappingProxyType({"dim": 20, "points": 512, "probability": 0.9})

    def __post_init__(self) -> None:
        super().__post_init__()
        number("probability", self.probability, 0, 1)

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; labels are computed from the inputs before any is replaced."""
        points, dims = size_of(points, dims, self.points, self.dim, self.least_dims)
        x = gaussian_inputs(batch, points, self.dim, dims, generator)
        y, info = self.labels(x, dims, generator)
        outlier = torch.rand(batch, points, generator=generator, device=generator.device) < self.probability
        x_out, y_out = self.outliers(info["w"], points, dims, generator)
        where = outlier.unsqueeze(-1)
        x_token = torch.where(where, x_out, x)
        y_token = torch.where(where, y_out, label_token(y, self.dim))
        return Batch(
            inputs=interleave(x_token, y_token),
            reads=torch.arange(0, 2 * points, 2, device=x.device),
            targets=y.unsqueeze(-1),
            weight=(~outlier).float(),
            info={"x": x_token, "y": y, "y_token": y_token, "outlier": outlier, **info},
        )

    def outliers(
        self, w: Float[Tensor, "batch dim"], points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points dim"], Float[Tensor, "batch points dim"]]:
        """Draw what the inputs and the labels of outliers are replaced by."""
        ones = torch.zeros(w.shape[0], points, self.dim, device=w.device)
        ones[..., :dims] = 1
        return ones, ones

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Least squares of minimum norm on the clean pairs: Bayes' predictor; None with label noise."""
        if self.noise:
            return None
        return self.excess(least_squares_path(batch.info["x"], batch.info["y"], ~batch.info["outlier"]), batch)


@dataclass(frozen=True)
class OrthogonalOutliers(ManyOutliers):
    """Some pairs are replaced by vectors from a plane that is orthogonal to the prompt's w.

    With u and v orthogonal to w and to each other, of length sqrt(dims), an outlier's two vectors are
    ``cos(t) u + sin(t) v`` with a fresh angle each: as long as a typical input, and the label's fills all coordinates.

    Attributes:
        dim: coordinates of an input, 3 or more.
        points: pairs per prompt, outliers included.
        noise: standard deviation of the label noise of clean pairs.
        probability: of a pair to be an outlier.
        official: as the official code, which differs from its paper: u and v are orthogonal to a vector that has
            nothing to do with w, the coefficients are normal ones divided by the sum of their squares (heavy
            tails), and all outliers of a prompt share one input vector and one label vector.
    """

    points: int = 20
    probability: float = 0.5
    official: bool = False

    name = "orthogonal-outlier"
    paper = MappingProxyType({"dim": 20, "points": 101, "probability": 0.5})

    @property
    def least_dims(self) -> int:
        """w, u and v."""
        return 3

    def outliers(
        self, w: Float[Tensor, "batch dim"], points: int, dims: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch points dim"], Float[Tensor, "batch points dim"]]:
        """Draw vectors from the plane, or two planes for the official behaviour."""
        device, batch = generator.device, w.shape[0]
        pair = []
        plane = self._plane(w, dims, generator)
        for _ in range(2):
            if self.official:
                fresh = torch.randn(batch, self.dim, generator=generator, device=device)
                plane = self._plane(fresh, dims, generator)
                drawn = torch.randn(batch, 1, 2, generator=generator, device=device)
                mix = (drawn / drawn.square().sum(-1, keepdim=True)).expand(-1, points, -1)
            else:
                angle = 2 * math.pi * torch.rand(batch, points, generator=generator, device=device)
                mix = torch.stack([angle.cos(), angle.sin()], dim=-1)
            pair.append(torch.einsum("bpc,bdc->bpd", mix, plane))
        return pair[0], pair[1]

    def _plane(self, w: Tensor, dims: int, generator: torch.Generator) -> Float[Tensor, "batch dim 2"]:
        drawn = torch.randn(w.shape[0], dims, 2, generator=generator, device=generator.device)
        basis = torch.linalg.qr(torch.cat([w[:, :dims, None], drawn], dim=-1)).Q
        plane = torch.zeros(w.shape[0], self.dim, 2, device=w.device)
        plane[:, :dims] = math.sqrt(dims) * basis[..., 1:]
        return plane

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Least squares that also knows ``<w, outlier> = 0``: Bayes' predictor; None if official or with noise."""
        if self.official or self.noise:
            return None
        x, outlier = batch.info["x"], batch.info["outlier"]
        # Every pair becomes two rows: its own equation, and what an outlier's label vector says about w
        rows = interleave(x, batch.info["y_token"] * outlier.unsqueeze(-1))
        labels = torch.where(outlier, 0.0, batch.info["y"])
        labels = torch.stack([labels, torch.zeros_like(labels)], dim=2).flatten(1)
        return self.excess(least_squares_path(rows, labels)[:, ::2], batch)


def clean_least_squares(batch: Batch) -> Float[Tensor, "batch reads"]:
    """Predict with least squares on the clean pairs only: the baseline that is told which pairs are outliers."""
    outlier: Bool[Tensor, "batch points"] = batch.info["outlier"]
    return least_squares_path(batch.info["x"], batch.info["y"], ~outlier)
