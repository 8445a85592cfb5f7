"""Functions of rows written as ReLU units: any scalar function by interpolation, products, gates, clearing.

Every function returns `Units`, which stand side by side in one `LinearAttentionBlock`. ``flag`` names a row that is 1
in the columns where something is to happen and 0 elsewhere; it is the bias of the units, so a column without flag whose
inputs are 0 stays 0.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError
from superpose.models.constructed.linear_attention_block import Units
from superpose.models.constructed.row_layout import RowLayout

# Knots of equal error are found on a grid this many times finer.
REFINEMENT = 16
# Share of the knots that is spread evenly, so that straight stretches get some too.
EVEN_SHARE = 0.05


def even_knots(lo: float, hi: float, pieces: int) -> Float[Tensor, " knots"]:
    """Return ``pieces + 1`` knots at equal distances.

    Raises:
        InputError: ``lo`` is not below ``hi``, or fewer than one piece.
    """
    _check_range(lo, hi, pieces)
    # Not linspace, whose middle knot may miss 0 by a rounding error.
    return lo + (hi - lo) * torch.arange(pieces + 1, dtype=torch.float64) / pieces


def root_knots(hi: float, pieces: int) -> Float[Tensor, " knots"]:
    """Return ``pieces + 1`` knots on [0, hi] whose roots are at equal distances: dense at 0, for functions of a root.

    Raises:
        InputError: ``hi`` is not above 0, or fewer than one piece.
    """
    _check_range(0.0, hi, pieces)
    return hi * torch.linspace(0, 1, pieces + 1, dtype=torch.float64).square()


def curvature_knots(f: Callable[[Tensor], Tensor], lo: float, hi: float, pieces: int) -> Float[Tensor, " knots"]:
    """Return ``pieces + 1`` knots at which interpolation of f errs about equally in every piece.

    An interpolant errs by ``h^2 |f''| / 8`` in a piece of length h, so knots are as dense as ``sqrt(|f''|)``.

    Args:
        f: smooth function, elementwise.
        lo, hi: range.
        pieces: pieces.

    Raises:
        InputError: ``lo`` is not below ``hi``, or fewer than one piece.
    """
    grid = even_knots(lo, hi, max(2000, REFINEMENT * pieces))
    bend = torch.zeros_like(grid)
    values = f(grid)
    bend[1:-1] = (values[2:] - 2 * values[1:-1] + values[:-2]).abs().sqrt()
    bend[0], bend[-1] = bend[1], bend[-2]
    density = bend + EVEN_SHARE * bend.mean() + torch.finfo(torch.float64).tiny
    mass = torch.cat([density.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    wanted = mass[-1] * torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    right = torch.searchsorted(mass, wanted).clamp(1, len(mass) - 1)
    share = (wanted - mass[right - 1]) / (mass[right] - mass[right - 1])
    knots = grid[right - 1] + share * (grid[right] - grid[right - 1])
    knots[0], knots[-1] = lo, hi
    return knots


def relu_function(
    layout: RowLayout,
    source: Mapping[str, float],
    target: str,
    f: Callable[[Tensor], Tensor],
    knots: Float[Tensor, " knots"],
    flag: str,
    scale: float = 1.0,
    clamp: bool = True,
) -> Units:
    """Write the units that add ``scale * f(source)`` to the target rows, f interpolated between the knots.

    The hinges open outwards from the knot nearest to 0, so their sum does not cancel where the argument is small.

    Args:
        layout: the rows.
        source: blocks with coefficients whose weighted sum is the argument; each row is a function of its own.
        target: block to which the values are added.
        f: elementwise function.
        knots: increasing, at least two.
        flag: one row, 1 in the columns where f is wanted.
        scale: factor of the values.
        clamp: stay at the outer values beyond the knots (default); otherwise the outer pieces go on.

    Raises:
        InputError: knots that do not increase, or sizes that do not fit.
    """
    read = layout.combine(source)
    if len(read) != layout.size(target):
        raise InputError(f"{sorted(source)} have {len(read)} rows for {target!r}; allowed: {layout.size(target)}")
    if len(knots) < 2 or not bool((knots.diff() > 0).all()):
        raise InputError(f"knots are {len(knots)} values; allowed: two or more that increase")
    if layout.size(flag) != 1:
        raise InputError(f"flag {flag!r} has {layout.size(flag)} rows; allowed: 1")
    signs, offsets, weights, constant = _hinges(knots.double(), f(knots.double()).double(), clamp)
    size, count = len(read), len(offsets)
    # Row i of the block owns the units i * count to (i + 1) * count.
    up = (signs[None, :, None] * read[:, None, :]).reshape(size * count, layout.rows)
    up[:, layout[flag].start] -= (signs * offsets).repeat(size)
    down = torch.zeros(layout.rows, size * count, dtype=torch.float64)
    down[layout[target]] = torch.block_diag(*[scale * weights[None]] * size)
    if constant == 0:
        return Units(up, down)
    one = layout.selector(flag)
    lift = torch.zeros(layout.rows, 1, dtype=torch.float64)
    lift[layout[target]] = scale * constant
    return Units(torch.cat([up, one]), torch.cat([down, lift], 1))


def _hinges(knots: Tensor, values: Tensor, clamp: bool) -> tuple[Tensor, Tensor, Tensor, float]:
    """Signs, offsets and weights of ``sum_j weight_j relu(sign_j (x - offset_j)) + constant``."""
    slopes = values.diff() / knots.diff()
    flat = slopes.new_zeros(1)
    outside = (flat, flat) if clamp else (slopes[:1], slopes[-1:])
    # Slopes from the left end to the right end, the ones beyond the knots included.
    every = torch.cat([outside[0], slopes, outside[1]])
    centre = int(knots.abs().argmin())
    right, left = every[centre + 1 :], every[: centre + 1].flip(0)
    rising = torch.cat([right[:1], right.diff()])
    falling = -torch.cat([left[:1], left.diff()])
    signs = torch.cat([torch.ones_like(rising), -torch.ones_like(falling)])
    offsets, weights = torch.cat([knots[centre:], knots[: centre + 1].flip(0)]), torch.cat([rising, falling])
    bends = weights != 0
    return signs[bends], offsets[bends], weights[bends], float(values[centre])


def relu_multiply(
    layout: RowLayout, x: str, y: str, target: str, pieces: int, flag: str, scale_x: float = 1.0, bound: float = 2.0
) -> Units:
    """Write the units that add ``x * y``, as ``((x + y)^2 - (x - y)^2) / 4`` of interpolated squares, to the target.

    Args:
        layout: the rows.
        x, y: blocks; one of a single row is multiplied with every row of the other.
        target: block of the larger size.
        pieces: pieces of each square, even, so that 0 is a knot and no column without values changes.
        flag: one row, 1 in the columns where the product is wanted.
        scale_x: factor that brings x to the size of y before the squares, and is divided out after them.
        bound: the squares are interpolated on [-bound, bound], where ``|scale_x x| + |y|`` must lie (default 2).

    Raises:
        InputError: an odd number of pieces or fewer than two, a scale of 0, or sizes that do not fit.
    """
    if pieces < 2 or pieces % 2:
        raise InputError(f"pieces is {pieces}; allowed: an even number of 2 or more")
    if scale_x == 0:
        raise InputError("scale_x is 0; allowed: any other number")
    knots = even_knots(-bound, bound, pieces)
    parts = [
        relu_function(layout, {x: scale_x, y: sign}, target, torch.square, knots, flag, sign / (4 * scale_x), False)
        for sign in (1.0, -1.0)
    ]
    return Units(torch.cat([part.up for part in parts]), torch.cat([part.down for part in parts], 1))


def gate(layout: RowLayout, source: str, mask: str, target: str, flag: str) -> Units:
    """Write the units that add ``relu(source + mask - flag)``: the source where the mask is 1, else 0.

    No interpolation: right to rounding for a source in [0, 1] and a mask of zeros and ones. A source row times an
    identity mask gives a diagonal matrix.

    Args:
        layout: the rows.
        source, mask: blocks; one of a single row is used for every row of the other.
        target: block of the larger size.
        flag: one row, 1 in the columns that are gated.

    Raises:
        InputError: sizes that do not fit.
    """
    up = layout.combine({source: 1.0, mask: 1.0})
    up[:, layout[flag].start] -= 1
    if len(up) != layout.size(target):
        raise InputError(f"{source!r} and {mask!r} have {len(up)} rows for {target!r}; allowed: {layout.size(target)}")
    return Units(up, layout.selector(target).mT.contiguous())


def clear_rows(layout: RowLayout, *names: str) -> Units:
    """Write the units that set blocks to exactly 0: ``v - relu(v) + relu(-v)``, two per row.

    Raises:
        InputError: no or unknown blocks.
    """
    if not names:
        raise InputError("names is empty; allowed: at least one block")
    rows = torch.cat([layout.selector(name) for name in names])
    return Units(torch.cat([rows, -rows]), torch.cat([-rows, rows]).mT.contiguous())


def _check_range(lo: float, hi: float, pieces: int) -> None:
    if not lo < hi:
        raise InputError(f"lo is {lo} and hi {hi}; allowed: lo below hi")
    if pieces < 1:
        raise InputError(f"pieces is {pieces}; allowed: 1 or more")
