"""Damped Newton's method for logistic regression as a transformer with written-down weights.

The statement is that of arXiv 2403.03183: linear attention with ReLU layers does it, with ``11 + 2k`` blocks per
step of k inner steps for the inverse Hessian. The construction is our own, with ``7 + 2k`` (``7 + k`` in symmetric
form): linear attention forms all products of matrices, ReLU layers interpolate the sigmoid, its derivative, the step
length, and the squares by which rows are weighted. What the interpolation misses of the sigmoid is a wrong gradient,
so the number of pieces sets where the iteration ends up, and the number of steps only how soon.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.constructed.linear_attention_block import LinearAttentionBlock, Units, triple_product_head
from superpose.models.constructed.linear_attention_network import Ledger, LinearAttentionNetwork
from superpose.models.constructed.newton_inverse import inverse_step_heads
from superpose.models.constructed.relu_functions import (
    clear_rows,
    curvature_knots,
    gate,
    relu_function,
    relu_multiply,
    root_knots,
)
from superpose.models.constructed.row_layout import RowLayout
from superpose.theory.damped_newton import (
    check_mu,
    hessian_start,
    largest_decrement,
    largest_margin,
    logistic_rows,
    newton_damping,
)

SCRATCH = ("u", "p", "q", "qb", "hessian", "gradient", "x", "direction", "decrement2", "length", "lengths")


class LogisticNewton(nn.Module):
    """A transformer that fits l2-regularised logistic regression to the labelled rows of its prompt.

    The first d tokens are a workspace, then come n rows with labels, then m queries. The stream holds the weights in
    the workspace; after the last block the row ``"margin"`` holds ``w.a`` in every column. The weights of the network
    depend on d, mu and the number of pieces, not on n: the prompt stores ``I / n``.

    Build one with `build_logistic_newton`.
    """

    def __init__(self, network: LinearAttentionNetwork, dim: int, mu: float, steps: int, radius: float):
        super().__init__()
        self.network, self.dim, self.mu, self.steps, self.radius = network, dim, mu, steps, radius

    def encode(
        self,
        a: Float[Tensor, "*batch n d"],
        y: Float[Tensor, "*labels"],
        queries: Float[Tensor, "*others m width"] | None = None,
        lengths: Int[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch rows tokens"]:
        """Return prompts.

        Args:
            a: rows of norm at most 1.
            y: labels -1 or 1.
            queries: rows to predict; none by default.
            lengths: how many rows of each prompt count, where prompts of unequal length were padded (with anything
                of norm at most 1 and any labels); all by default.

        Raises:
            InputError: another dimension, no row, a row longer than 1, other labels, lengths outside 1..n.
        """
        weights, layout, dim = next(self.parameters()), self.network.layout, self.dim
        b = logistic_rows(a, y)
        points = a.shape[-2]
        if a.shape[-1] != dim:
            raise InputError(f"a has {a.shape[-1]} columns; this network was built for {dim} (dim)")
        queries = a.new_zeros(*a.shape[:-2], 0, dim) if queries is None else queries
        if queries.shape[-1] != dim or queries.shape[:-2] != a.shape[:-2]:
            raise InputError(
                f"queries has shape {tuple(queries.shape)}; allowed: {(*tuple(a.shape[:-2]), 'm', dim)} (dim {dim})"
            )
        lengths = torch.full(a.shape[:-2], points, device=a.device) if lengths is None else lengths
        if not bool(((lengths >= 1) & (lengths <= points)).all()):
            raise InputError(f"lengths is {lengths.tolist()}; allowed: 1 to {points} per prompt")
        real = (torch.arange(points, device=a.device) < lengths[..., None]).to(b)
        z = weights.new_zeros(*a.shape[:-2], layout.rows, dim + points + queries.shape[-2])
        data = slice(dim, dim + points)
        eye = torch.eye(dim).to(weights)
        z[..., layout["eye"], :dim] = eye
        z[..., layout["mean"], :dim] = eye / lengths.to(weights)[..., None, None]
        z[..., layout["work"], :dim] = 1
        z[..., layout["data"], data] = real.unsqueeze(-2).to(weights)
        z[..., layout["a"], data] = (a * real.unsqueeze(-1)).mT.to(weights)
        z[..., layout["y"], data] = (y * real).unsqueeze(-2).to(weights)
        z[..., layout["a"], dim + points :] = queries.mT.to(weights)
        return z

    def forward(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch rows tokens"]:
        """Return the stream after all blocks.

        Warns:
            RuntimeWarning: a margin lies beyond the radius, where the sigmoid is taken to be constant.
        """
        return self._run(z, self.network.program)

    def settle(
        self, z: Float[Tensor, "*batch rows tokens"], tolerance: float
    ) -> tuple[Float[Tensor, "*batch rows tokens"], int]:
        """Run the network as a looped transformer: repeat the step until the weights settle, at most ``steps`` times.

        Args:
            z: prompts.
            tolerance: largest change of a weight in the last step, relative to 1 plus the largest weight.

        Returns:
            The stream after the last block, and the number of steps.

        Warns:
            RuntimeWarning: as `forward`.
        """
        first, *_, last = self.network.program
        step = self.network.program[1 : 1 + self.network.ledger().blocks_per_step]
        z, before, taken, settled = self._run(z, (first,)), self.decode(z), 0, False
        while taken < self.steps and not settled:
            z, taken = self._run(z, step), taken + 1
            after = self.decode(z)
            change = (after - before).abs().amax(-1)
            settled = bool((change <= tolerance * (1 + after.abs().amax(-1))).all())
            before = after
        return self._run(z, (last,)), taken

    def ask(
        self, workspace: Float[Tensor, "*batch rows dim"], queries: Float[Tensor, "*batch m width"]
    ) -> Float[Tensor, "*batch m"]:
        """Return margins of queries that join a finished prompt: only the last block has to be run.

        Args:
            workspace: the first d columns of a finished stream, which hold the weights.
            queries: rows to predict, of any norm.

        Raises:
            InputError: queries of another dimension.
        """
        if queries.shape[-1] != self.dim:
            raise InputError(f"queries has {queries.shape[-1]} columns; this network was built for {self.dim} (dim)")
        columns = workspace.new_zeros(*workspace.shape[:-1], queries.shape[-2])
        columns[..., self.network.layout["a"], :] = queries.mT.to(workspace)
        z = self._run(torch.cat([workspace, columns], -1), self.network.program[-1:])
        return self.margins(z, queries.shape[-2])

    def _run(self, z: Tensor, program: tuple[str, ...]) -> Tensor:
        largest = 0.0
        for name in program:
            z = self.network.block(name)(z)
            if name == "margins":
                largest = max(largest, float(self.network.layout.read(z.detach(), "u").abs().max()))
        if largest > self.radius:
            warnings.warn(
                f"margins up to {largest:.4g} were met; the sigmoid was built for {self.radius:.4g} (radius) and is "
                "constant beyond",
                RuntimeWarning,
                stacklevel=3,
            )
        return z

    def decode(self, z: Float[Tensor, "*batch rows tokens"]) -> Float[Tensor, "*batch d"]:
        """Read the weights w."""
        return self.network.layout.read(z, "w")[..., 0, : self.dim]

    def margins(self, z: Float[Tensor, "*batch rows tokens"], queries: int) -> Float[Tensor, "*batch m"]:
        """Read ``w.a`` at the last ``queries`` columns of a finished stream."""
        found = self.network.layout.read(z, "margin")[..., 0, :]
        return found[..., found.shape[-1] - queries :]

    @torch.no_grad()
    def fit(
        self,
        a: Float[Tensor, "*batch n d"],
        y: Float[Tensor, "*batch n"],
        lengths: Int[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        """Encode prompts, run the network, and return the weights; arguments and errors as in `encode`."""
        return self.decode(self(self.encode(a, y, lengths=lengths)))

    @torch.no_grad()
    def path(self, a: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "iterate *batch d"]:
        """Run the network on prompts; return the weights after 0, 1, ..., steps Newton steps."""
        z = self.encode(a, y)
        path = [self.decode(z).clone()]
        for name, rows in self.network.trace(z, "w"):
            if name == "update":
                path.append(rows["w"][..., 0, : self.dim].clone())
        return torch.stack(path)

    @torch.no_grad()
    def predict(
        self, a: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n"], queries: Float[Tensor, "*batch m d"]
    ) -> Float[Tensor, "*batch m"]:
        """Return labels -1 or 1 for queries (1 where the margin is 0); arguments and errors as in `encode`."""
        margins = self.margins(self(self.encode(a, y, queries)), queries.shape[-2])
        return torch.where(margins >= 0, 1.0, -1.0).to(margins)

    def ledger(self) -> Ledger:
        """Return the network's size."""
        return self.network.ledger()


def build_logistic_newton(
    dim: int,
    mu: float,
    steps: int,
    inverse_steps: int,
    pieces: int = 200,
    radius: float | None = None,
    symmetric: bool = False,
    scalar_pieces: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> LogisticNewton:
    """Compile damped Newton for logistic regression in d dimensions.

    Args:
        dim: d.
        mu: penalty, above 0.
        steps: damped Newton steps; the damped phase takes more of them for smaller mu, see `LogisticNewton.settle`.
        inverse_steps: inner steps for the inverse Hessian; ``ceil(log2((mu + 1/4) / mu)) + 4`` is enough.
        pieces: pieces of each interpolated square, even; the widest layer has about ``2 dim * pieces`` units.
        radius: the sigmoid is interpolated up to margins of this size; default ``sqrt(2 ln 2 / mu)``, which no margin
            of exact Newton passes.
        symmetric: one layer per inverse step instead of two.
        scalar_pieces: pieces of the sigmoid and its derivative, and half of those of the step length; default
            ``dim * pieces``, which makes no layer wider than the products already do. The error floor is set by these.
        dtype: float64, or float32 (for small condition numbers only).

    Raises:
        InputError: sizes below 1, an odd number of pieces, ``mu`` or ``radius`` not above 0, another dtype.
    """
    check_mu(mu)
    scalar_pieces = dim * pieces if scalar_pieces is None else scalar_pieces
    counts = {"dim": dim, "steps": steps, "inverse_steps": inverse_steps, "scalar_pieces": scalar_pieces}
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
    radius = largest_margin(mu) if radius is None else radius
    if not radius > 0:
        raise InputError(f"radius is {radius}; allowed: above 0")
    choose("dtype", dtype, (torch.float64, torch.float32))
    layout = _layout(dim, symmetric)
    blocks = _blocks(layout, mu, pieces, scalar_pieces, radius, symmetric, dtype)
    inner = ("inverse",) if symmetric else ("inverse-product", "inverse-update")
    step = ("margins", "weigh", "sums", *inner * inverse_steps, "solve", "decrement", "lengths", "update")
    network = LinearAttentionNetwork(
        layout,
        blocks,
        ("labels", *step * steps, "predict"),
        blocks_per_step=len(step),
        bound=11 + 2 * inverse_steps,
    )
    return LogisticNewton(network, dim, mu, steps, radius)


def _layout(dim: int, symmetric: bool) -> RowLayout:
    sizes = {"eye": dim, "mean": dim, "work": 1, "data": 1, "a": dim, "y": 1, "b": dim, "w": 1, "u": 1, "p": 1, "q": 1}
    sizes |= {"qb": dim, "hessian": dim, "gradient": 1, "x": dim} | ({} if symmetric else {"hx": dim})
    sizes |= {"direction": 1, "decrement2": 1, "length": 1, "lengths": dim, "margin": 1}
    return RowLayout(**sizes)


def _blocks(
    layout: RowLayout, mu: float, pieces: int, scalar_pieces: int, radius: float, symmetric: bool, dtype: torch.dtype
) -> dict[str, LinearAttentionBlock]:
    def block(*heads, units: tuple[Units, ...] = ()) -> LinearAttentionBlock:
        return LinearAttentionBlock(layout.rows, heads, units, dtype)

    def head(into, key, query):
        return triple_product_head(layout, into, key, query)

    def sigmoid(u: Tensor) -> Tensor:
        return torch.sigmoid(-u)

    def bell(u: Tensor) -> Tensor:
        return torch.sigmoid(u) * torch.sigmoid(-u)

    def length(squared: Tensor) -> Tensor:
        return newton_damping(squared.sqrt(), mu)

    def curve(source, target, f, knots, flag):
        return relu_function(layout, {source: 1.0}, target, f, knots, flag)

    inner = inverse_step_heads(layout, "hessian", "x", "eye", None if symmetric else "hx")
    return {
        "labels": block(units=(_signed_rows(layout),)),
        "margins": block(
            head({"u": {"w": 1.0}}, "eye", "b"),
            units=(
                curve("u", "p", sigmoid, curvature_knots(sigmoid, -radius, radius, scalar_pieces), "data"),
                curve("u", "q", bell, curvature_knots(bell, -radius, radius, scalar_pieces), "data"),
            ),
        ),
        # q is at most 1/4; four times that is as large as b can be.
        "weigh": block(units=(relu_multiply(layout, "q", "b", "qb", pieces, "data", scale_x=4.0),)),
        "sums": block(
            head({"hessian": {"qb": 1.0}, "gradient": {"p": -1.0}}, "b", "mean"),
            head({"hessian": {"eye": mu}, "gradient": {"w": mu}, "x": {"eye": hessian_start(mu)}}, "eye", "eye"),
        ),
        **{name: block(*heads) for name, heads in inner.items()},
        "solve": block(head({"direction": {"gradient": 1.0}}, "eye", "x")),
        "decrement": block(
            head({"decrement2": {"direction": 1.0}}, "gradient", "work"),
            units=(
                curve(
                    "decrement2", "length", length, root_knots(largest_decrement(mu) ** 2, 2 * scalar_pieces), "work"
                ),
            ),
        ),
        "lengths": block(units=(gate(layout, "length", "eye", "lengths", "work"),)),
        "update": block(head({"w": {"direction": -1.0}}, "eye", "lengths"), units=(clear_rows(layout, *SCRATCH),)),
        "predict": block(head({"margin": {"w": 1.0}}, "eye", "a")),
    }


def _signed_rows(layout: RowLayout) -> Units:
    """``b = y a`` for labels -1 and 1 and ``|a| <= 2``, by four units per coordinate; 0 where the label is 0."""
    a = layout.selector("a")
    y, data = (layout.selector(name).expand(len(a), -1) for name in ("y", "data"))
    plus, minus = data - y, data + y
    up = torch.cat([a - plus, -a - plus, -a - minus, a - minus])
    to_b = layout.selector("b").mT
    return Units(up, torch.cat([to_b, -to_b, to_b, -to_b], 1))
