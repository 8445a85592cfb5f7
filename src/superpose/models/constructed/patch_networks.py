"""Weights of small ReLU networks through given points of a line: two layers with O(N) neurons, three with O(sqrt N).

The statements are those of "Memorization Capacity for Additive Fine-Tuning with Small ReLU Networks" (arXiv
2408.00359); both constructions are our own. They use additions, products and divisions alone, so that arrays of
`fractions.Fraction` give exact weights: that is the certificate behind the floats.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from superpose.errors import InputError, choose
from superpose.theory import group_split

# The wave: 0 up to -1, +1 at -1/2, -1 at 1/2, 0 from 1 on. In thirds and halves no rational is lost.
_WAVE_BIASES = np.array([1.0, 0.5, -0.5, -1.0])
_WAVE_WEIGHTS = np.array([2.0, -4.0, 4.0, -2.0])
_PEAK = 2  # the wave falls by 2 per unit between its peaks


class LineLayer(NamedTuple):
    """One linear layer ``weight @ x + bias``: arrays ``[out, in]`` and ``[out]`` of floats or Fractions."""

    weight: np.ndarray
    bias: np.ndarray


def line_patch(t: np.ndarray, v: np.ndarray, depth: int = 2) -> list[LineLayer]:
    """Return the layers of a ReLU network on a line with ``g(t_i) = v_i``; where v is 0 it costs nothing.

    Depth 2 is the piecewise-linear interpolant, constant before the first point, with one neuron wherever its slope
    changes: at most 3 per non-zero point and at most points - 1, for all outputs together. Depth 3 cuts the non-zero
    points into p groups of q. Its first layer joins, for the j-th point of every group, steep lines that are near 0 at
    that point and beyond -1 or 1 at every other; its second layer reads the value off each line: 2 p - 1 neurons for
    all outputs together, and 4 q for each output.

    Args:
        t: positions, strictly increasing, ``[points]``; float64, or objects that are Fractions.
        v: values, ``[points, outputs]``, of the same kind.
        depth: 2 or 3.

    Returns:
        ``depth`` layers, with ReLU between them. Values that are all 0 give hidden layers without neurons.

    Raises:
        InputError: another depth, arrays of another kind, or shapes that do not fit.
    """
    choose("depth", depth, (2, 3))
    check_kind(t, v)
    if t.ndim != 1 or not len(t) or v.ndim != 2 or len(v) != len(t) or not v.shape[1]:
        raise InputError(f"t has shape {t.shape} and v {v.shape}; allowed: [points] and [points, outputs], not empty")
    tuned = np.flatnonzero((v != 0).any(1))
    if not len(tuned):
        return _nothing(t, v.shape[1], depth)
    return _two_layers(t, v) if depth == 2 else _three_layers(t, v, tuned)


def evaluate_line(layers: Sequence[LineLayer], t: np.ndarray) -> np.ndarray:
    """Return the network's values ``[points, outputs]``, in the arithmetic of the arrays' entries."""
    x = t[:, None]
    for layer in layers[:-1]:
        x = np.maximum(x @ layer.weight.T + layer.bias, 0 * layer.bias)
    return x @ layers[-1].weight.T + layers[-1].bias


def hidden_neurons(layers: Sequence[LineLayer]) -> int:
    """Return the number of hidden neurons of a network given by its layers."""
    return sum(len(layer.bias) for layer in layers[:-1])


def certify_patch(t: ArrayLike, v: ArrayLike, depth: int = 2) -> Fraction:
    """Return the largest error of the construction at the points when everything is an exact rational: 0.

    The floats given are taken for the rationals they are; weights and values are computed without any rounding. It
    takes (points x neurons) rational products, a second for some hundred points.

    Args:
        t: positions, strictly increasing, ``[points]``.
        v: values, ``[points]`` or ``[points, outputs]``.
        depth: 2 or 3.

    Raises:
        InputError: as :func:`line_patch`, positions that do not increase, or values that are not finite.
    """
    where, what = np.asarray(t, dtype=np.float64), np.asarray(v, dtype=np.float64)
    if where.ndim != 1 or not where.size or not (where[1:] > where[:-1]).all():
        raise InputError(f"t has shape {where.shape}; allowed: one axis of numbers that strictly increase")
    if what.ndim not in (1, 2) or len(what) != len(where):
        raise InputError(f"v has shape {what.shape}; allowed: [{len(where)}] or [{len(where)}, outputs]")
    if not (np.isfinite(where).all() and np.isfinite(what).all()):
        raise InputError("t or v holds values that are not finite; allowed: finite numbers")
    what = what.reshape(len(where), -1)
    positions, values = _rational(where), _rational(what)
    error = evaluate_line(line_patch(positions, values, depth), positions) - values
    return max((abs(each) for each in error.ravel()), default=Fraction(0))


def check_kind(t: np.ndarray, v: np.ndarray) -> None:
    """Refuse arrays whose kind of number would round the weights away.

    Raises:
        InputError: t or v holds anything but floats or objects (Fractions), for example integers.
    """
    for name, values in (("t", t), ("v", v)):
        if values.dtype.kind not in "fO":
            raise InputError(f"{name} has dtype {values.dtype}; allowed: floats, or objects that are Fractions")


def _rational(values: np.ndarray) -> np.ndarray:
    exact = np.empty(values.shape, dtype=object)
    exact.ravel()[:] = [Fraction(x) for x in values.ravel().tolist()]
    return exact


def _like(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The same numbers in the arithmetic of t."""
    return _rational(values) if t.dtype == object else values


def _nothing(t: np.ndarray, outputs: int, depth: int) -> list[LineLayer]:
    sizes = [1, *[0] * (depth - 1), outputs]
    return [LineLayer(_like(np.zeros((b, a)), t), _like(np.zeros(b), t)) for a, b in pairwise(sizes)]


def _two_layers(t: np.ndarray, v: np.ndarray) -> list[LineLayer]:
    slopes = (v[1:] - v[:-1]) / (t[1:] - t[:-1])[:, None]
    changes = np.concatenate([slopes[:1], slopes[1:] - slopes[:-1]])
    bends = np.flatnonzero((changes != 0).any(1))
    ones = _like(np.ones((len(bends), 1)), t)
    return [LineLayer(ones, -t[bends]), LineLayer(changes[bends].T, v[0])]


def _three_layers(t: np.ndarray, v: np.ndarray, tuned: np.ndarray) -> list[LineLayer]:
    _, size = group_split(len(tuned))
    groups = [tuned[start : start + size] for start in range(0, len(tuned), size)]
    low, high = _joints(t, groups)
    starts = np.concatenate([t[:1], high])
    ends = np.concatenate([low, t[-1:]])
    steepness = _steepness(t, tuned)
    # Slopes turn over from group to group, so that neighbouring pieces are far from 0 on the same side of it.
    signs = [1 - 2 * (g % 2) for g in range(len(groups))]
    centre = len(groups) // 2
    rows: list[np.ndarray] = []
    biases: list[Any] = []
    outputs: list[tuple[int, Any]] = []  # which output a wave adds to, and how high it is
    for output in range(v.shape[1]):
        column = v[:, output]
        largest = np.abs(column).max()
        if largest == 0:
            continue
        for j in range(size):
            slope, begin, end = (_like(np.zeros(len(groups)), t) for _ in range(3))
            for g, (group, sign) in enumerate(zip(groups, signs, strict=True)):
                if j < len(group):
                    point = group[j]
                    slope[g] = sign * steepness[g * size + j]
                    level = -column[point] / (_PEAK * largest)
                    begin[g] = level + slope[g] * (starts[g] - t[point])
                    end[g] = level + slope[g] * (ends[g] - t[point])
                else:  # only in the last group
                    begin[g] = end[g] = -2 * sign + column[0] * 0
            joins = (begin[1:] - end[:-1]) / (high - low)
            bends = np.stack([joins - slope[:-1], slope[1:] - joins], 1).ravel()
            rows.append(np.concatenate([slope[centre : centre + 1], bends]))
            biases.append(begin[centre] + slope[centre] * (t[0] - starts[centre]))
            outputs.append((output, largest))
    second = np.repeat(np.stack(rows), 4, axis=0)
    offsets = np.repeat(np.array(biases, dtype=t.dtype), 4) + np.tile(_like(_WAVE_BIASES, t), len(rows))
    last = _like(np.zeros((v.shape[1], 4 * len(rows))), t)
    for wave, (output, height) in enumerate(outputs):
        last[output, 4 * wave : 4 * wave + 4] = height * _like(_WAVE_WEIGHTS, t)
    knots = np.stack([low, high], 1).ravel()
    # Knots open outwards from the middle: at any point fewer large terms have to cancel.
    facing = _like(np.concatenate([[1.0], np.where(np.arange(len(knots)) < 2 * centre, -1.0, 1.0)]), t)
    first = LineLayer(facing[:, None], -facing * np.concatenate([t[:1], knots]))
    return [first, LineLayer(second, offsets), LineLayer(last, _like(np.zeros(v.shape[1]), t))]


def _joints(t: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two knots between each two groups, as far apart as can be, between which one piece runs into the next."""
    low, high = [], []
    for before, after in pairwise(groups):
        i, j = int(before[-1]), int(after[0])
        if j - i > 2:
            low.append(t[i + 1])
            high.append(t[j - 1])
            continue
        # Without two data points between the groups, the knots stand inside a gap.
        left, right = t[i:j], t[i + 1 : j + 1]
        widest = int(np.argmax(right - left))
        margin = (right[widest] - left[widest]) / 4
        low.append(left[widest] + margin)
        high.append(right[widest] - margin)
    return np.array(low, dtype=t.dtype), np.array(high, dtype=t.dtype)


def _steepness(t: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """A slope per tuned point that takes its line from [-1/2, 1/2] beyond 3/2 at the nearest other point."""
    if len(t) == 1:
        return _like(np.ones(1), t)
    gaps = t[1:] - t[:-1]
    left = gaps[np.maximum(tuned - 1, 0)]
    right = gaps[np.minimum(tuned, len(gaps) - 1)]
    return 2 / np.minimum(left, right)
