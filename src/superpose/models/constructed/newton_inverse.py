"""Newton's iteration for matrix inversion with written-down weights: two linear-attention layers per step.

The statement is that of arXiv 2403.03183: linear attention alone does a step in two layers. The weights are our own.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.constructed.linear_attention_block import Head, LinearAttentionBlock, triple_product_head
from superpose.models.constructed.linear_attention_network import Ledger, LinearAttentionNetwork
from superpose.models.constructed.row_layout import RowLayout


def inverse_step_heads(
    layout: RowLayout, a: str, x: str, eye: str, scratch: str | None = None
) -> dict[str, tuple[Head, ...]]:
    """Return the layers that do ``X <- 2X - X A X``, by name.

    Args:
        layout: the rows.
        a, x, eye: blocks of A, X and the identity.
        scratch: block for ``A X``, which both layers leave at 0. Without it one layer does the step, where A and X are
            symmetric: it computes ``X A^T X``.
    """
    if scratch is None:
        return {
            "inverse": (
                triple_product_head(layout, {x: {x: -1.0}}, a, x),
                triple_product_head(layout, {x: {x: 1.0}}, eye, eye),
            )
        }
    return {
        "inverse-product": (triple_product_head(layout, {scratch: {a: 1.0}}, eye, x),),
        "inverse-update": (
            triple_product_head(layout, {x: {x: -1.0}}, eye, scratch),
            # The identity copies: X a second time, and the scratch with the opposite sign, which clears it.
            triple_product_head(layout, {x: {x: 1.0}, scratch: {scratch: -1.0}}, eye, eye),
        ),
    }


class NewtonInverse(nn.Module):
    """A transformer of linear-attention layers only, which inverts the matrix in its prompt.

    The prompt has d tokens (columns) and the rows A, X, I and a scratch of zeros. Build one with
    `build_inverse_newton` or `build_inverse_step`.
    """

    def __init__(self, network: LinearAttentionNetwork, dim: int, symmetric: bool):
        super().__init__()
        self.network, self.dim, self.symmetric = network, dim, symmetric

    def encode(
        self, a: Float[Tensor, "*batch d d"], start: Float[Tensor, "*batch d d"]
    ) -> Float[Tensor, "*batch rows tokens"]:
        """Return the prompt.

        Args:
            a: matrices to invert.
            start: X_0, for example `superpose.theory.inverse_start`.

        Raises:
            InputError: another size, or where the network was built for them, matrices that are not symmetric.
        """
        weights = next(self.parameters())
        for name, value in (("a", a), ("start", start)):
            if value.shape[-2:] != (self.dim, self.dim) or value.shape != a.shape:
                raise InputError(f"{name} has shape {tuple(value.shape)}; allowed: [..., {self.dim}, {self.dim}]")
            if self.symmetric and not torch.allclose(value, value.mT):
                raise InputError(f"{name} is not symmetric; allowed: symmetric, or build with symmetric=False")
        layout = self.network.layout
        z = weights.new_zeros(*a.shape[:-2], layout.rows, self.dim)
        z[..., layout["a"], :] = a.to(weights)
        z[..., layout["x"], :] = start.to(weights)
        z[..., layout["eye"], :] = torch.eye(self.dim).to(weights)
        return z

    def forward(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch rows tokens"]:
        """Return the prompt after all layers."""
        return self.network(z)

    def decode(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch d d"]:
        """Read X."""
        return self.network.layout.read(z, "x")

    @torch.no_grad()
    def path(
        self, a: Float[Tensor, "*batch d d"], start: Float[Tensor, "*batch d d"]
    ) -> Float[Tensor, "iterate *batch d d"]:
        """Run the network on matrices; return X after 0, 1, ... steps."""
        z = self.encode(a, start)
        last = "inverse" if self.symmetric else "inverse-update"
        path = [self.decode(z).clone()]
        path += [rows["x"].clone() for name, rows in self.network.trace(z, "x") if name == last]
        return torch.stack(path)

    def ledger(self) -> Ledger:
        """Return the network's size."""
        return self.network.ledger()


def build_inverse_newton(
    dim: int, steps: int, symmetric: bool = False, dtype: torch.dtype = torch.float64
) -> NewtonInverse:
    """Compile Newton's iteration for d x d matrices.

    Args:
        dim: d.
        steps: Newton steps.
        symmetric: one layer per step instead of two, for symmetric A and X_0. Rounding errors that are not symmetric
            are not corrected, so keep to float64.
        dtype: of the weights; float32 stops at about kappa times its rounding error.

    Raises:
        InputError: sizes below 1, or another dtype.
    """
    for name, value in (("dim", dim), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
    choose("dtype", dtype, (torch.float64, torch.float32))
    sizes = {"a": dim, "x": dim, "eye": dim}
    layout = RowLayout(**sizes) if symmetric else RowLayout(**sizes, scratch=dim)
    layers = inverse_step_heads(layout, "a", "x", "eye", None if symmetric else "scratch")
    blocks = {name: LinearAttentionBlock(layout.rows, heads, dtype=dtype) for name, heads in layers.items()}
    network = LinearAttentionNetwork(layout, blocks, tuple(blocks) * steps, blocks_per_step=len(blocks))
    return NewtonInverse(network, dim, symmetric)


def build_inverse_step(dim: int, symmetric: bool = False, dtype: torch.dtype = torch.float64) -> NewtonInverse:
    """Compile a single step: two linear-attention layers, or one for symmetric matrices."""
    return build_inverse_newton(dim, 1, symmetric, dtype)
