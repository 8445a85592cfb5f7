"""How many ReLU neurons change N of K labels: the exact worst case on a line, bounds for any depth, and their inverse.

Additive fine-tuning keeps a network f frozen and adds a small ReLU network g, so that f + g takes arbitrary new labels
on N tuned samples and stays unchanged on the other K - N. Sohn, Kwon, An and Lee, "Memorization Capacity for Additive
Fine-Tuning with Small ReLU Networks" (arXiv 2408.00359) prove m = Theta(N) neurons for two layers and Theta(sqrt N) for
three, whatever K is. The constants here are derived and checked in this package; they are not the paper's. All counts
are of hidden neurons, and worst cases over data: on generic data in many dimensions fewer may do.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose

CONSTRUCTED_DEPTHS = (2, 3)


def min_knots(t: ArrayLike, v: ArrayLike) -> Int[np.ndarray, "*batch"]:
    """Return the fewest breakpoints of a continuous piecewise-linear function through the points ``(t_i, v_i)``.

    Where the slope between data points rises, a break with a rise must lie strictly between the two outer points, and
    one break lies in at most two such neighbouring spans. So a run of r neighbouring rises (or falls) needs ceil(r/2)
    breaks; extending every other segment until it meets the next reaches that number. A two-layer ReLU network has at
    most one break per neuron on a line, so this many neurons are necessary; one more is always enough.

    Args:
        t: positions, strictly increasing, ``[points]``.
        v: values, ``[..., points]``; signs of slope changes are exact, also where float64 alone could not tell.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or positions that do not increase.
    """
    positions, values = _checked_points(t, v)
    turns = _turns(positions, values)
    at = np.arange(turns.shape[-1])
    begins = np.ones(turns.shape, dtype=bool)
    begins[..., 1:] = turns[..., 1:] != turns[..., :-1]
    start = np.maximum.accumulate(np.where(begins, at, 0), axis=-1)
    return np.asarray(((turns != 0) & ((at - start) % 2 == 0)).sum(-1))


def min_knots_dp(t: ArrayLike, v: ArrayLike) -> int:
    """Return what :func:`min_knots` returns, for one row of values, by dynamic programming in exact rationals.

    From point to point it keeps the slopes at which the function can leave with k breaks used: a gap without a break
    fixes the slope, one break inside it puts the slopes before and after on opposite sides of the gap's own slope, and
    two breaks reach every slope. An independent and slow check.

    Args:
        t: positions, strictly increasing, ``[points]``.
        v: values, ``[points]``.

    Raises:
        InputError: as :func:`min_knots`.
    """
    positions, values = _checked_points(t, v)
    if values.ndim != 1:
        raise InputError(f"v has shape {values.shape}; allowed: one row of values, [{len(positions)}]")
    where, what = ([Fraction(x) for x in each.tolist()] for each in (positions, values))
    reachable = {0: _Slopes(everything=True)}
    for i in range(len(where) - 1):
        slope = (what[i + 1] - what[i]) / (where[i + 1] - where[i])
        after: dict[int, _Slopes] = {}
        for used, slopes in reachable.items():
            for extra, found in slopes.after(slope):
                after[used + extra] = after.get(used + extra, _Slopes()).union(found)
        fewest = min(after)
        reachable = {used: found for used, found in after.items() if used <= fewest + 2}
    return min(reachable)


class _Slopes(NamedTuple):
    """A set of slopes: one value, all below a value, all above one, or everything."""

    point: Fraction | None = None
    below: Fraction | None = None
    above: Fraction | None = None
    everything: bool = False

    def union(self, other: "_Slopes") -> "_Slopes":
        # Between two data points every set has the gap's own slope as its only boundary.
        joined = [b if a is None else a for a, b in zip(self[:3], other[:3], strict=True)]
        return _Slopes(*joined, everything=self.everything or other.everything)

    def after(self, slope: Fraction) -> Iterator[tuple[int, "_Slopes"]]:
        """Pairs of (breaks used, slopes reached) behind a gap that must be crossed at this mean slope."""
        below, above, point = self.below, self.above, self.point
        if (
            self.everything
            or point == slope
            or (below is not None and slope < below)
            or (above is not None and slope > above)
        ):
            yield 0, _Slopes(point=slope)
            yield 1, _Slopes(everything=True)
        if self.everything or below is not None or any(x is not None and x < slope for x in (point, above)):
            yield 1, _Slopes(above=slope)
        if self.everything or above is not None or any(x is not None and x > slope for x in (point, below)):
            yield 1, _Slopes(below=slope)
        yield 2, _Slopes(everything=True)


def worst_knots(tuned: int, samples: int | None = None) -> int:
    """Return the largest :func:`min_knots` over all data on a line with N of K samples tuned: ``min(3 N, K - 2)``.

    At most the K - 2 inner points can turn, and only tuned points and their neighbours do. Both are reached: values +1
    and -1 on the tuned points with at most two zeros between them, of equal sign around a single zero and opposite
    signs otherwise, turn at every inner point and alternately, so that no two turns share a break.

    Args:
        tuned: number of samples with new labels, N.
        samples: number of samples, K; default: as many as one likes.

    Raises:
        InputError: counts that are negative, or N > K.
    """
    _check_samples(tuned, samples)
    return 3 * tuned if samples is None else min(3 * tuned, max(samples - 2, 0))


def most_breaks(widths: Sequence[int]) -> int:
    """Return the most breakpoints that a ReLU network can have on a line: the product of (width + 1), minus 1.

    A layer of d units on a function with B breaks keeps these and adds at most one per unit and piece.

    Args:
        widths: of the hidden layers; one for a network of two layers.

    Raises:
        InputError: a negative width.
    """
    if any(width < 0 for width in widths):
        raise InputError(f"widths is {tuple(widths)}; allowed: numbers of neurons >= 0")
    return math.prod(width + 1 for width in widths) - 1


def breakpoints(
    first_weight: Float[np.ndarray, " first"],
    first_bias: Float[np.ndarray, " first"],
    second_weight: Float[np.ndarray, "second first"],
    second_bias: Float[np.ndarray, " second"],
    output_weight: Float[np.ndarray, " second"],
) -> Float[np.ndarray, " breaks"]:
    """Return where the slope of a three-layer ReLU network with one input and one output changes, in order.

    Found piece by piece rather than on a grid: kinks of the first layer, then the zeros of every second-layer unit on
    every piece between them; a place counts where the slope before and after differs beyond rounding.

    Args:
        first_weight, first_bias: of ``relu(w t + b)``.
        second_weight, second_bias: of the units on it.
        output_weight: of the output on those.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        kinks = np.unique((-first_bias / first_weight)[first_weight != 0])
    edges = np.concatenate([[-np.inf], kinks, [np.inf]])
    active = first_weight * _inside(edges)[:, None] + first_bias > 0  # [pieces, first]
    slopes = np.where(active, first_weight, 0.0) @ second_weight.T  # [pieces, second]
    offsets = np.where(active, first_bias, 0.0) @ second_weight.T + second_bias
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = -1.0 * offsets / slopes
    crossed = (zeros > edges[:-1, None]) & (zeros < edges[1:, None])
    places = np.unique(np.concatenate([kinks, zeros[crossed]]))
    middle = _inside(np.concatenate([[-np.inf], places, [np.inf]]))
    piece = np.searchsorted(kinks, middle)
    on = slopes[piece] * middle[:, None] + offsets[piece] > 0
    each = np.where(on, slopes[piece], 0.0) * output_weight
    rounding = 64 * np.finfo(float).eps * np.maximum(np.abs(each[1:]).sum(1), np.abs(each[:-1]).sum(1))
    return places[np.abs(np.diff(each.sum(1))) > rounding]


class NeuronBounds(NamedTuple):
    """How many hidden neurons are needed: no fewer than ``lower`` in the worst case, and ``upper`` always suffice."""

    lower: int
    upper: int


class CapacityBounds(NamedTuple):
    """How many samples can be tuned: always ``lower`` of them, never more than ``upper`` in the worst case."""

    lower: int
    upper: int


def neurons_needed(tuned: int, samples: int | None = None, depth: int = 2) -> NeuronBounds:
    """Return how many hidden neurons give N of K samples arbitrary new labels: "how wide must the side network be?".

    Depth 2: at most ``min(3 N, K - 1)``, and at least ``min(3 N, K - 2)``. Depth 3: at most ``2 p - 1 + 4 q`` with the
    best p q >= N, about ``4 sqrt(2 N)``, and at least the m whose most breaks reach those of depth 2, about
    ``2 sqrt(3 N)``. Upper numbers are those that :func:`superpose.models.fit_patch` builds, for one output.

    Args:
        tuned: samples with new labels, N.
        samples: samples in all, K; default: as many as one likes.
        depth: layers of g, 2 or 3.

    Raises:
        InputError: counts that are negative, N > K, or another depth (see :func:`neurons_lower_bound` for those).
    """
    choose("depth", depth, CONSTRUCTED_DEPTHS)
    lower = neurons_lower_bound(tuned, samples, depth)
    if tuned == 0:
        return NeuronBounds(0, 0)
    if depth == 2:
        return NeuronBounds(lower, 3 * tuned if samples is None else min(3 * tuned, samples - 1))
    groups, size = group_split(tuned)
    return NeuronBounds(lower, 2 * groups - 1 + 4 * size)


def neurons_lower_bound(tuned: int, samples: int | None = None, depth: int = 2) -> int:
    """Return the fewest hidden neurons in ``depth - 1`` layers whose :func:`most_breaks` reach :func:`worst_knots`.

    Args:
        tuned: samples with new labels, N.
        samples: samples in all, K; default: as many as one likes.
        depth: layers of g, 2 or more.

    Raises:
        InputError: counts that are negative, N > K, or a depth below 2.
    """
    if depth < 2:
        raise InputError(f"depth is {depth}; allowed: 2 layers or more")
    knots, hidden = worst_knots(tuned, samples), depth - 1

    def reached(neurons: int) -> int:
        # A product with a given sum is largest where the factors are as equal as they can be.
        share, rest = divmod(neurons, hidden)
        return most_breaks([share + 1] * rest + [share] * (hidden - rest))

    return bisect_right(range(knots + 1), knots - 1, key=reached)


def capacity(neurons: int, samples: int | None = None, depth: int = 2) -> CapacityBounds:
    """Return how many of K samples m neurons can give new labels: "can my fine-tuning head memorise N labels?".

    The inverse of :func:`neurons_needed`: ``capacity(m, K) >= N`` exactly where ``m >= neurons_needed(N, K)``, the
    lower bound of one belonging to the upper bound of the other.

    Args:
        neurons: hidden neurons of g in all its layers, m.
        samples: samples in all, K; default: as many as one likes.
        depth: layers of g, 2 or 3.

    Raises:
        InputError: counts that are negative, or another depth.
    """
    choose("depth", depth, CONSTRUCTED_DEPTHS)
    if neurons < 0:
        raise InputError(f"neurons is {neurons}; allowed: 0 or more")
    if samples is not None and samples < 0:
        raise InputError(f"samples is {samples}; allowed: 0 or more")
    # Beyond (m + 2)^2 tuned samples even the lower bound on neurons exceeds m.
    most = (neurons + 2) ** 2 if samples is None else samples
    found = (
        bisect_right(range(most + 1), neurons, key=lambda n: neurons_needed(n, samples, depth)[side]) - 1
        for side in (1, 0)
    )
    return CapacityBounds(*found)


def group_split(tuned: int) -> tuple[int, int]:
    """Return (groups p, tuned points per group q) with p q >= N and the smallest ``2 p - 1 + 4 q``.

    Of several, the one nearest to the continuous optimum q = sqrt(N / 2).

    Raises:
        InputError: ``tuned`` below 1.
    """
    if tuned < 1:
        raise InputError(f"tuned is {tuned}; allowed: 1 sample or more")
    best = math.sqrt(tuned / 2)
    sizes = range(max(1, math.floor(best / 2)), math.ceil(2 * best) + 2)
    size = min(sizes, key=lambda q: (2 * -(-tuned // q) + 4 * q, abs(q - best)))
    return -(-tuned // size), size


def _inside(edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " pieces"]:
    """A place strictly inside every piece between increasing edges, the outer two being infinite."""
    if len(edges) == 2:
        return np.zeros(1)
    finite = edges[1:-1]
    return np.concatenate([[finite[0] - 1], (finite[1:] + finite[:-1]) / 2, [finite[-1] + 1]])


def _turns(t: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signs of the slope changes at the inner points, exact."""
    if len(t) < 3:
        return np.zeros((*v.shape[:-1], 0), dtype=np.int8)
    rise, run = np.diff(v, axis=-1), np.diff(t)
    ahead, behind = rise[..., 1:] * run[:-1], rise[..., :-1] * run[1:]
    turn = ahead - behind
    unsure = np.abs(turn) <= 8 * np.finfo(float).eps * (np.abs(ahead) + np.abs(behind))
    # Differences of values may themselves have been rounded away.
    scale = np.abs(v[..., 1:]) + np.abs(v[..., :-1])
    coarse = np.finfo(float).eps * 8 * (scale[..., 1:] * run[:-1] + scale[..., :-1] * run[1:])
    unsure |= np.abs(turn) <= coarse
    signs = np.sign(turn).astype(np.int8)
    known = {x: Fraction(x) for x in t.tolist()}
    flat = (v[..., 2:] == v[..., 1:-1]) & (v[..., 1:-1] == v[..., :-2])
    signs[flat] = 0
    for at in zip(*np.nonzero(unsure & ~flat), strict=True):
        row, i = at[:-1], int(at[-1])
        a, b, c = (Fraction(float(v[(*row, i + j)])) for j in range(3))
        left, middle, right = (known[float(t[i + j])] for j in range(3))
        exact = (c - b) * (middle - left) - (b - a) * (right - middle)
        signs[at] = (exact > 0) - (exact < 0)
    return signs


def _checked_points(t: ArrayLike, v: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    positions, values = np.asarray(t, dtype=np.float64), np.asarray(v, dtype=np.float64)
    if positions.ndim != 1 or not positions.size:
        raise InputError(f"t has shape {positions.shape}; allowed: one axis with at least one point")
    if values.ndim < 1 or values.shape[-1] != len(positions):
        raise InputError(f"v has shape {values.shape}; its last axis must be as long as t, {len(positions)}")
    for name, each in (("t", positions), ("v", values)):
        if not np.isfinite(each).all():
            raise InputError(f"{name} holds {each[~np.isfinite(each)][0]}; allowed: finite numbers")
    if not (positions[1:] > positions[:-1]).all():
        at = int((~(positions[1:] > positions[:-1])).argmax())
        raise InputError(f"t[{at}] is {positions[at]} and t[{at + 1}] is {positions[at + 1]}; t must strictly increase")
    return positions, values


def _check_samples(tuned: int, samples: int | None) -> None:
    if tuned < 0:
        raise InputError(f"tuned is {tuned}; allowed: 0 samples or more")
    if samples is not None and samples < tuned:
        raise InputError(f"tuned is {tuned} of samples {samples}; allowed: at most all of them")
