"""Linear functions from a mixture of task groups, inputs included (dual operating modes, 2024)."""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import choose
from superpose.theory.group_priors import REGULAR, axis_prior, early_ascent_prior, regular_prior
from superpose.theory.groups import GaussianMixturePrior

from .checks import whole
from .episode import Batch, SquaredTask, interleave, label_token, size_of

CHANCE_DRAWS = 50_000


@dataclass(frozen=True)
class TaskGroups(SquaredTask):
    """A task is drawn from a mixture of groups (see `GaussianMixturePrior`); inputs and labels both tell which.

    Errors are squared errors on the noisy label, so that the optimum is not 0.

    Attributes:
        prior: "regular" (corners of a regular polyhedron), "axis" (unit vectors) or "early-ascent".
        groups: corners of the polyhedron, 4, 6, 8, 12 or 20; of "regular" only.
        dim: coordinates; of "axis" and "early-ascent" only ("regular" has 3).
        points: examples per prompt.
        sigma_x: spread of the inputs.
        sigma_y: label noise.
        sigma_mu: spread of the input means within a group.
        sigma_w: spread of the functions within a group.
    """

    prior: str = "regular"
    groups: int = 4
    dim: int = 3
    points: int = 16
    sigma_x: float = 1.0
    sigma_y: float = 1.0
    sigma_mu: float = 0.25
    sigma_w: float = 0.25

    name = "task-groups"
    metric = "squared error on the noisy label"
    paper = MappingProxyType({"points": 32})

    def __post_init__(self) -> None:
        choose("prior", self.prior, ("regular", "axis", "early-ascent"))
        choose("groups", self.groups, REGULAR)
        whole("points", self.points, 1)
        whole("dim", self.dim, 1)
        if self.prior == "regular":
            choose("dim", self.dim, (3,))
        _ = self.mixture

    @cached_property
    def mixture(self) -> GaussianMixturePrior:
        """The prior over tasks."""
        sigmas = {name: getattr(self, name) for name in ("sigma_x", "sigma_y", "sigma_mu", "sigma_w")}
        if self.prior == "regular":
            return regular_prior(self.groups, **sigmas)
        return (axis_prior if self.prior == "axis" else early_ascent_prior)(self.dim, **sigmas)

    @property
    def in_dim(self) -> int:
        """Width of an input vector."""
        return self.dim

    @property
    def length(self) -> int:
        """Two positions per example."""
        return 2 * self.points

    @property
    def chance(self) -> float:
        """The error of the exact predictor that sees the query only, over 50000 draws from a fixed seed."""
        return self._chance

    @cached_property
    def _chance(self) -> float:
        batch = self.sample(CHANCE_DRAWS, torch.Generator().manual_seed(0), points=1)
        return float(self._exact_error(batch).mean())

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; coordinates from ``dims`` on are zero in x."""
        device, prior = generator.device, self.mixture
        group = torch.multinomial(prior.pi.to(device), batch, replacement=True, generator=generator)
        centres = torch.stack([prior.mu, prior.w]).float().to(device)[:, group]
        spread = torch.tensor([self.sigma_mu, self.sigma_w], device=device).view(2, 1, 1)
        mu, w = centres + spread * torch.randn(centres.shape, generator=generator, device=device)
        drawn = self.sample_at(mu, w, generator, tau=self.sigma_x, noise=self.sigma_y, points=points, dims=dims)
        return Batch(drawn.inputs, drawn.reads, drawn.targets, drawn.weight, {**drawn.info, "group": group})

    def sample_at(
        self,
        mu: Float[Tensor, "batch dim"],
        w: Float[Tensor, "batch dim"],
        generator: torch.Generator,
        *,
        tau: float = 1.0,
        noise: float = 0.0,
        points: int | None = None,
        dims: int | None = None,
    ) -> Batch:
        """Draw prompts of given tasks.

        Args:
            mu: input mean of each prompt.
            w: function of each prompt.
            generator: the only source of randomness.
            tau: spread of the inputs.
            noise: label noise; none, as in the paper's tests.
            points: examples per prompt.
            dims: coordinates in use.
        """
        points, dims = size_of(points, dims, self.points, self.dim)
        normal = torch.randn(mu.shape[0], points, self.dim + 1, generator=generator, device=generator.device)
        x = mu.unsqueeze(1) + tau * normal[..., :-1]
        x[..., dims:] = 0
        y = torch.einsum("bpd,bd->bp", x, w) + noise * normal[..., -1]
        return Batch(
            inputs=interleave(x, label_token(y, self.dim)),
            reads=torch.arange(0, 2 * points, 2, device=x.device),
            targets=y.unsqueeze(-1),
            weight=torch.ones_like(y),
            info={"x": x, "y": y, "mu": mu, "w": w},
        )

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """The exact predictor; None where coordinates are not in use, which the prior does not know about."""
        return None if bool((batch.info["x"][..., -1] == 0).all()) else self._exact_error(batch)

    def _exact_error(self, batch: Batch) -> Float[Tensor, "batch reads"]:
        path = self.mixture.predict_path(batch.info["x"], batch.info["y"])
        return self.error(path.prediction.unsqueeze(-1).float(), batch)
