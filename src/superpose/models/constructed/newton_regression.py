"""Linear regression by transformers with written-down weights: by Newton's iteration, and by gradient descent."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.constructed.linear_attention_block import LinearAttentionBlock, triple_product_head
from superpose.models.constructed.linear_attention_network import Ledger, LinearAttentionNetwork
from superpose.models.constructed.newton_inverse import inverse_step_heads
from superpose.models.constructed.row_layout import RowLayout


class NewtonRegression(nn.Module):
    """Linear attention only: sums of the prompt, Newton steps for the inverse Hessian, weights, predictions.

    The first d tokens are a workspace, then come n rows with labels, then m queries. Build one with
    `build_regression_newton`.
    """

    def __init__(self, network: LinearAttentionNetwork, dim: int, ridge: float):
        super().__init__()
        self.network, self.dim, self.ridge = network, dim, ridge

    def encode(
        self,
        x: Float[Tensor, "*batch n d"],
        y: Float[Tensor, "*labels"],
        queries: Float[Tensor, "*others m width"],
        start: Float[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch rows tokens"]:
        """Return prompts.

        Args:
            x: inputs.
            y: labels.
            queries: inputs to predict.
            start: alpha of ``X_0 = alpha I`` per prompt, between 0 and 2 / lambda_max of ``X^T X + ridge I``;
                `superpose.theory.spd_start_scale` gives the best for a known range of eigenvalues. Default
                ``1 / trace``, which always converges and costs steps.

        Raises:
            InputError: sizes that do not fit, a singular design, or a start out of its range.
        """
        _check_prompt(self.dim, x, y, queries)
        wide = x.detach().double()
        if not bool(wide.isfinite().all()):
            raise InputError("x has entries that are not finite; allowed: finite numbers")
        eigenvalues = torch.linalg.eigvalsh(wide.mT @ wide) + self.ridge
        low, high = eigenvalues[..., 0], eigenvalues[..., -1]
        if bool((low <= torch.finfo(wide.dtype).eps * self.dim * high).any()):
            raise InputError(
                f"x has {x.shape[-2]} rows in {self.dim} dimensions: X^T X is singular; allowed: rows that span "
                f"all dimensions (at least {self.dim}), or build with ridge above 0"
            )
        if start is None:
            start = 1 / (x.square().sum((-2, -1)) + self.ridge * self.dim)
        if not bool(((start > 0) & (start.detach().double() * high < 2)).all()):
            raise InputError(
                f"start is {start.tolist()}; allowed: above 0 and below 2 / lambda_max = {(2 / high).tolist()}, from "
                "which on the iteration diverges"
            )
        weights, layout, dim = next(self.parameters()), self.network.layout, self.dim
        z = weights.new_zeros(*x.shape[:-2], layout.rows, dim + x.shape[-2] + queries.shape[-2])
        data = slice(dim, dim + x.shape[-2])
        eye = torch.eye(dim).to(weights)
        z[..., layout["eye"], :dim] = eye
        z[..., layout["inverse"], :dim] = eye * start.to(weights)[..., None, None]
        z[..., layout["data"], data] = x.mT.to(weights)
        z[..., layout["y"], data] = y.unsqueeze(-2).to(weights)
        z[..., layout["queries"], data.stop :] = queries.mT.to(weights)
        return z

    def forward(
        self,
        x: Float[Tensor, "*batch n d"],
        y: Float[Tensor, "*labels"],
        queries: Float[Tensor, "*others m width"],
        start: Float[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch m"]:
        """Return predictions at the queries; arguments and errors as in `encode`."""
        z = self.network(self.encode(x, y, queries, start))
        return self.network.layout.read(z, "prediction")[..., 0, self.dim + x.shape[-2] :]

    def ledger(self) -> Ledger:
        """Return the network's size."""
        return self.network.ledger()


def build_regression_newton(
    dim: int, steps: int, symmetric: bool = True, ridge: float = 0.0, dtype: torch.dtype = torch.float64
) -> NewtonRegression:
    """Compile linear regression by Newton's iteration: three layers, and one (or two) per step.

    Args:
        dim: d.
        steps: steps for the inverse, 0 or more.
        symmetric: one layer per step (default; the Hessian is symmetric) instead of two.
        ridge: added to the diagonal of ``X^T X``.
        dtype: float64 or float32.

    Raises:
        InputError: ``dim`` below 1, negative ``steps`` or ``ridge``, another dtype.
    """
    _check_sizes(dim, steps, 0, dtype)
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge}; allowed: 0 or more")
    sizes = {"eye": dim, "data": dim, "queries": dim, "y": 1, "hessian": dim, "moment": 1, "inverse": dim}
    layout = RowLayout(**sizes, **({} if symmetric else {"scratch": dim}), weights=1, prediction=1)

    def block(*heads) -> LinearAttentionBlock:
        return LinearAttentionBlock(layout.rows, heads, dtype=dtype)

    def head(into, key, query):
        return triple_product_head(layout, into, key, query)

    sums = [head({"hessian": {"data": 1.0}, "moment": {"y": 1.0}}, "data", "eye")]
    if ridge:
        sums.append(head({"hessian": {"eye": ridge}}, "eye", "eye"))
    inner = inverse_step_heads(layout, "hessian", "inverse", "eye", None if symmetric else "scratch")
    blocks = {
        "sums": block(*sums),
        **{name: block(*heads) for name, heads in inner.items()},
        "solve": block(head({"weights": {"moment": 1.0}}, "eye", "inverse")),
        "predict": block(head({"prediction": {"weights": 1.0}}, "eye", "queries")),
    }
    program = ("sums", *tuple(inner) * steps, "solve", "predict")
    return NewtonRegression(LinearAttentionNetwork(layout, blocks, program, len(inner)), dim, ridge)


class DescentRegression(nn.Module):
    """Linear attention only: one gradient step on least squares per layer, from zero weights.

    Tokens carry residuals instead of weights: ``r <- r - rate r X^T x`` at every column, as in von Oswald et al.
    (2023). A query starts at 0 and ends at minus its prediction. Build one with `build_regression_descent`.
    """

    def __init__(self, network: LinearAttentionNetwork, dim: int):
        super().__init__()
        self.network, self.dim = network, dim

    def forward(
        self,
        x: Float[Tensor, "*batch n d"],
        y: Float[Tensor, "*labels"],
        queries: Float[Tensor, "*others m width"],
        rate: Float[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch m"]:
        """Return predictions at the queries.

        Args:
            x: inputs.
            y: labels.
            queries: inputs to predict.
            rate: step size per prompt, for the loss ``||X w - y||^2 / 2``.

        Raises:
            InputError: sizes that do not fit, or a rate that is not above 0.
        """
        _check_prompt(self.dim, x, y, queries)
        if not bool(((rate > 0) & rate.isfinite()).all()):
            raise InputError(f"rate is {rate.tolist()}; allowed: above 0")
        weights, layout, points = next(self.parameters()), self.network.layout, x.shape[-2]
        z = weights.new_zeros(*x.shape[:-2], layout.rows, points + queries.shape[-2])
        z[..., layout["inputs"], :] = torch.cat([x, queries], -2).mT.to(weights)
        # A query's own residual must not enter the sum, so only labelled rows are keys.
        z[..., layout["keys"], :points] = (rate[..., None, None] * x).mT.to(weights)
        z[..., layout["residual"], :points] = y.unsqueeze(-2).to(weights)
        return -layout.read(self.network(z), "residual")[..., 0, points:]

    def ledger(self) -> Ledger:
        """Return the network's size."""
        return self.network.ledger()


def build_regression_descent(dim: int, steps: int, dtype: torch.dtype = torch.float64) -> DescentRegression:
    """Compile linear regression by gradient descent: one layer of one head per step.

    Args:
        dim: d.
        steps: gradient steps, 1 or more.
        dtype: float64 or float32.

    Raises:
        InputError: sizes below 1, or another dtype.
    """
    _check_sizes(dim, steps, 1, dtype)
    layout = RowLayout(inputs=dim, keys=dim, residual=1)
    head = triple_product_head(layout, {"residual": {"residual": -1.0}}, "keys", "inputs")
    blocks = {"step": LinearAttentionBlock(layout.rows, [head], dtype=dtype)}
    return DescentRegression(LinearAttentionNetwork(layout, blocks, ("step",) * steps, 1), dim)


def _check_sizes(dim: int, steps: int, least: int, dtype: torch.dtype) -> None:
    for name, value, allowed in (("dim", dim, 1), ("steps", steps, least)):
        if value < allowed:
            raise InputError(f"{name} is {value}; allowed: {allowed} or more")
    choose("dtype", dtype, (torch.float64, torch.float32))


def _check_prompt(dim: int, x: Tensor, y: Tensor, queries: Tensor) -> None:
    if x.shape[-1] != dim or x.shape[-2] < 1:
        raise InputError(f"x has shape {tuple(x.shape)}; allowed: [..., n, {dim}] with n >= 1")
    if y.shape != x.shape[:-1]:
        raise InputError(f"y has shape {tuple(y.shape)}; allowed: {tuple(x.shape[:-1])}, one label per row")
    if queries.shape[-1] != dim or queries.shape[:-2] != x.shape[:-2]:
        raise InputError(f"queries has shape {tuple(queries.shape)}; allowed: {(*tuple(x.shape[:-2]), 'm', dim)}")
