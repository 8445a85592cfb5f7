"""Two layers through points of a line with as few neurons as the worst case allows: at most min(3 N, K - 2)."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from superpose.errors import InputError

from .patch_networks import LineLayer, check_kind

_TURNED = 2  # index of the break whose neuron opens to the left in a zigzag
_SHORTEST = 5  # points from which a zigzag has room for that


class _Break(NamedTuple):
    """A place where the slope changes, and the change."""

    place: Any
    change: Any


def fewest_line_patch(t: np.ndarray, v: np.ndarray) -> list[LineLayer]:
    """Return a two-layer ReLU network through the points with :func:`superpose.theory.min_knots` breaks.

    It has one neuron more than breaks where neither end is flat, and none more for a zigzag, a sequence that turns
    alternately at every inner point, of five points and more. So K points of which N are not 0 take at most
    ``min(3 N, K - 2)`` neurons for K of 5 and more, which is also what the worst of them need. The price is breaks
    that do not stand on data points; :func:`superpose.models.line_patch` spends up to one neuron more on that.

    Args:
        t: positions, strictly increasing, ``[points]``; Fractions (exact) or floats.
        v: values, ``[points]``, of the same kind.

    Returns:
        Two layers with one output.

    Raises:
        InputError: arrays of another kind, or shapes that do not fit.
    """
    check_kind(t, v)
    if t.ndim != 1 or not len(t) or v.shape != t.shape:
        raise InputError(f"t has shape {t.shape} and v {v.shape}; allowed: [points] for both, not empty")
    if len(t) == 1:
        return _network([], [], v[0], t)
    slopes = list((v[1:] - v[:-1]) / (t[1:] - t[:-1]))
    turns = [b - a for a, b in pairwise(slopes)]
    alternating = all(turns) and all((a > 0) != (b > 0) for a, b in pairwise(turns))
    if alternating and len(t) >= _SHORTEST:
        return _zigzag(t, v, slopes)
    breaks, first, last = _merged(t, v, slopes)
    if first == 0:
        return _network(breaks, [1] * len(breaks), v[0], t)
    if last == 0:
        return _network(breaks, [-1] * len(breaks), v[-1], t)
    return _network([_Break(t[0], first), *breaks], [1] * (len(breaks) + 1), v[0], t)


def _merged(t: np.ndarray, v: np.ndarray, slopes: list[Any]) -> tuple[list[_Break], Any, Any]:
    """The fewest breaks, and the slopes before the first and behind the last."""
    breaks: list[_Break] = []
    i, current = 1, slopes[0]
    while i < len(t) - 1:
        turn = slopes[i] - current
        ahead = slopes[i + 1] - slopes[i] if i + 2 < len(t) else 0
        if turn == 0:
            i += 1
        elif ahead * turn > 0:
            # Two turns to one side: the segment between is left out, and its neighbours are prolonged until they meet.
            after = slopes[i + 1]
            place = _meeting(t[i], v[i], current, t[i + 1], v[i + 1], after)
            breaks.append(_Break(place, after - current))
            current, i = after, i + 2
        else:
            breaks.append(_Break(t[i], turn))
            current, i = slopes[i], i + 1
    return breaks, slopes[0], current


def _zigzag(t: np.ndarray, v: np.ndarray, slopes: list[Any]) -> list[LineLayer]:
    """K - 2 neurons for K points: the slope before all breaks is what the one neuron that opens to the left gives."""
    places = list(t[1:-1])
    slopes = list(slopes)
    third = _TURNED + 1
    # The slope before the breaks and the third turn must cancel. Moving the first or the third break within its gap
    # makes the slope before it, or behind it, as steep as one likes.
    missing = slopes[0] + slopes[third] - slopes[third - 1]
    if missing * (slopes[1] - slopes[0]) < 0:
        slopes[third] -= missing
        point, corner = third + 1, third
        places[_TURNED] = _meeting(t[corner], v[corner], slopes[third - 1], t[point], v[point], slopes[third])
    elif missing != 0:
        slopes[0] -= missing
        places[0] = _meeting(t[0], v[0], slopes[0], t[1], v[1], slopes[1])
    breaks = [_Break(place, b - a) for place, a, b in zip(places, slopes, slopes[1:], strict=False)]
    facing = [-1 if index == _TURNED else 1 for index in range(len(breaks))]
    turned = breaks[_TURNED]
    return _network(breaks, facing, v[0] - turned.change * (turned.place - t[0]), t)


def _meeting(x: Any, y: Any, slope: Any, other_x: Any, other_y: Any, other_slope: Any) -> Any:
    """Where two lines, each given by a point and a slope, meet."""
    return (other_y - y + slope * x - other_slope * other_x) / (slope - other_slope)


def _network(breaks: list[_Break], facing: list[int], constant: Any, t: np.ndarray) -> list[LineLayer]:
    first = np.empty((len(breaks), 1), dtype=t.dtype)
    bias, changes = (np.empty(len(breaks), dtype=t.dtype) for _ in range(2))
    for row, (each, sign) in enumerate(zip(breaks, facing, strict=True)):
        # Multiplying by 0 keeps the kind of number.
        first[row, 0] = sign + 0 * each.place
        bias[row] = -sign * each.place
        changes[row] = each.change
    return [LineLayer(first, bias), LineLayer(changes[None], np.array([constant], dtype=t.dtype))]
