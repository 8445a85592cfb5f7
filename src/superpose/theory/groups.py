"""Task groups: a Gaussian mixture over tasks, whose exact in-context predictor retrieves and learns at once.

Lin and Lee, "Dual Operating Modes of In-Context Learning" (ICML 2024).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError


@dataclass(frozen=True)
class GroupPosterior:
    """The posterior after some labelled pairs and one query: again a Gaussian mixture.

    Attributes:
        weights: probability of each group ("component re-weighting").
        mu: centres of the input means, moved towards the inputs seen.
        w: centres of the functions, moved towards the function shown ("component shifting").
        mu_variance: variance of the input mean along each axis, the same in all groups.
        w_precision: inverse covariance of the function in units of the prior's, ``A_w = I + delta_w sum x x^T``, the
            same in all groups.
        sigma_w: spread of the functions within a group of the prior.
        prediction: mean of the query's label, the best prediction under squared error.
    """

    weights: Float[Tensor, "*lead groups"]
    mu: Float[Tensor, "*lead groups dim"]
    w: Float[Tensor, "*lead groups dim"]
    mu_variance: Float[Tensor, "*count"]
    w_precision: Float[Tensor, "*lead dim dim"]
    sigma_w: float
    prediction: Float[Tensor, "*lead"]

    @property
    def w_covariance(self) -> Float[Tensor, "*lead dim dim"]:
        """The covariance of the function, the same in all groups."""
        return self.sigma_w**2 * torch.linalg.inv(self.w_precision)

    @property
    def effective_w(self) -> Float[Tensor, "*lead dim"]:
        """The weights of the prediction as one linear function of the query."""
        return (self.weights.unsqueeze(-1) * self.w).sum(-2)


@dataclass(frozen=True)
class GaussianMixturePrior:
    """A task is a group m ~ pi, an input mean mu ~ N(mu_m, sigma_mu^2 I) and a function w ~ N(w_m, sigma_w^2 I).

    Inputs are x ~ N(mu, sigma_x^2 I), labels y = <w, x> + N(0, sigma_y^2). Everything is computed in float64.

    Attributes:
        pi: probabilities of the groups, summing to 1.
        mu: centres of the input means.
        w: centres of the functions.
        sigma_x: spread of the inputs, above 0.
        sigma_y: label noise, above 0.
        sigma_mu: spread of the input means within a group; 0 means the centre itself.
        sigma_w: spread of the functions within a group; 0 means the centre itself (pure retrieval).

    Raises:
        InputError: shapes that do not fit, probabilities that do not sum to 1, values not finite or out of range.
    """

    pi: Float[Tensor, " groups"]
    mu: Float[Tensor, "groups dim"]
    w: Float[Tensor, "groups dim"]
    sigma_x: float = 1.0
    sigma_y: float = 1.0
    sigma_mu: float = 0.25
    sigma_w: float = 0.25

    def __post_init__(self) -> None:
        for field in ("pi", "mu", "w"):
            value = getattr(self, field).double()
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{field} holds values that are not finite")
            object.__setattr__(self, field, value)
        for field, low in (("sigma_x", False), ("sigma_y", False), ("sigma_mu", True), ("sigma_w", True)):
            value = getattr(self, field)
            if not (value > 0 or (low and value == 0)) or value == float("inf"):
                raise InputError(f"{field} is {value!r}; it must be {'0 or ' if low else ''}above 0, and finite")
        if self.mu.shape != self.w.shape or self.mu.shape[0] != self.pi.shape[0]:
            raise InputError(
                f"pi, mu and w have shapes {tuple(self.pi.shape)}, {tuple(self.mu.shape)}, {tuple(self.w.shape)}; "
                "allowed: (groups,), (groups, dim), (groups, dim)"
            )
        if bool((self.pi < 0).any()) or abs(float(self.pi.sum()) - 1) > 1e-6:
            raise InputError(f"pi sums to {float(self.pi.sum()):.6g}; probabilities must be 0 or more and sum to 1")

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.mu.shape[0]

    @property
    def dim(self) -> int:
        """The dimension of the inputs."""
        return self.mu.shape[1]

    @property
    def delta_mu(self) -> float:
        """How quickly the input means are learned: ``(sigma_mu / sigma_x)^2``."""
        return (self.sigma_mu / self.sigma_x) ** 2

    @property
    def delta_w(self) -> float:
        """How quickly the functions are learned: ``(sigma_w / sigma_y)^2``."""
        return (self.sigma_w / self.sigma_y) ** 2

    def from_statistics(
        self,
        gram: Float[Tensor, "*lead dim dim"],
        moment: Float[Tensor, "*lead dim"],
        total: Float[Tensor, "*lead dim"],
        count: Float[Tensor, "*count"],
        query: Float[Tensor, "*lead dim"],
    ) -> GroupPosterior:
        """Return the posterior from what is sufficient, so that very long prompts can be summed up in pieces.

        Args:
            gram: sum of ``x x^T`` over the labelled pairs.
            moment: sum of ``x y`` over the labelled pairs.
            total: sum of x over the labelled pairs AND the query, which tells about the input mean too.
            count: number of labelled pairs; its axes are the last ones of ``lead`` (none: one number for all).
            query: the input to predict the label of.
        """
        self._check(query)
        gram, moment, total, query, count = (t.double() for t in (gram, moment, total, query, count))
        centres_mu, centres_w, log_pi = (
            self.mu.to(query.device),
            self.w.to(query.device),
            self.pi.to(query.device).log(),
        )
        # Differences are formed before dividing by the variances: nothing cancels, and sigma_mu = sigma_w = 0 is exact
        seen = count + 1
        a_mu = 1 + self.delta_mu * seen
        identity = torch.eye(self.dim, dtype=torch.float64, device=query.device)
        a_w = identity + self.delta_w * gram
        towards = torch.einsum("...ij,mj->...im", gram, centres_w)
        right = torch.cat([towards, moment.unsqueeze(-1)], dim=-1)
        solved = torch.linalg.solve(a_w, right)
        pulled = solved[..., : self.groups].transpose(-1, -2)
        learned = solved[..., self.groups].unsqueeze(-2)
        w = centres_w - self.delta_w * (pulled - learned)
        mu = (centres_mu + self.delta_mu * total.unsqueeze(-2)) / a_mu[..., None, None]
        in_mu = (seen.unsqueeze(-1) * centres_mu.square().sum(-1)) - 2 * torch.einsum(
            "...i,mi->...m", total, centres_mu
        )
        in_w = (centres_w * (pulled - 2 * learned)).sum(-1)
        logits = log_pi - in_mu / (2 * self.sigma_x**2 * a_mu.unsqueeze(-1)) - in_w / (2 * self.sigma_y**2)
        weights = logits.softmax(-1)
        prediction = (weights * torch.einsum("...mi,...i->...m", w, query)).sum(-1)
        return GroupPosterior(
            weights=weights,
            mu=mu,
            w=w,
            mu_variance=self.sigma_mu**2 / a_mu,
            w_precision=a_w,
            sigma_w=self.sigma_w,
            prediction=prediction,
        )

    def posterior(
        self,
        x: Float[Tensor, "batch pairs dim"],
        y: Float[Tensor, "batch pairs"],
        query: Float[Tensor, "batch dim"],
    ) -> GroupPosterior:
        """Return the posterior after all labelled pairs (there may be none) and the query; ``lead`` is the batch."""
        self._check(x, y)
        x, y, query = x.double(), y.double(), query.double()
        return self.from_statistics(
            gram=torch.einsum("bki,bkj->bij", x, x),
            moment=torch.einsum("bki,bk->bi", x, y),
            total=x.sum(1) + query,
            count=torch.tensor(float(x.shape[1]), device=x.device),
            query=query,
        )

    def predict_path(
        self,
        x: Float[Tensor, "batch points dim"],
        y: Float[Tensor, "batch points"],
        query: Float[Tensor, "batch dim"] | None = None,
    ) -> GroupPosterior:
        """Return the posteriors for all numbers of labelled pairs at once.

        Args:
            x: inputs.
            y: labels.
            query: None: position i is itself the query after the i pairs before it, ``lead`` is (batch, points). Given:
                one common query after 0, 1, ..., points pairs, ``lead`` is (batch, points + 1).
        """
        self._check(x, y)
        x, y = x.double(), y.double()
        batch, points, dim = x.shape
        steps = points + 1
        gram = x.new_zeros(batch, steps, dim, dim)
        moment, before = x.new_zeros(batch, steps, dim), x.new_zeros(batch, steps, dim)
        gram[:, 1:] = (x.unsqueeze(-1) * x.unsqueeze(-2)).cumsum(1)
        moment[:, 1:] = (x * y.unsqueeze(-1)).cumsum(1)
        before[:, 1:] = x.cumsum(1)
        if query is None:
            steps, queries = points, x
        else:
            queries = query.double().unsqueeze(1).expand(-1, steps, -1)
        return self.from_statistics(
            gram=gram[:, :steps],
            moment=moment[:, :steps],
            total=before[:, :steps] + queries,
            count=torch.arange(steps, dtype=torch.float64, device=x.device),
            query=queries,
        )

    def _check(self, x: Tensor, y: Tensor | None = None) -> None:
        if x.shape[-1] != self.dim:
            raise InputError(f"x has dimension {x.shape[-1]}; allowed: that of the prior, {self.dim}")
        if y is not None and y.shape != x.shape[:-1]:
            raise InputError(f"y has shape {tuple(y.shape)}; allowed: {tuple(x.shape[:-1])}, one label per input")
        if bool(torch.isnan(x).any()) or (y is not None and bool(torch.isnan(y).any())):
            raise InputError("x or y holds NaN")
