"""A line on which samples lie far apart: what the weights of a patch, and their rounding errors, depend on."""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Int

from superpose.errors import InputError

_MORE = 8  # times as many directions again, where the first ones do not keep samples apart
_ENTRIES = 1 << 23  # projections held at once


def distinct_rows(
    rows: Float[np.ndarray, "samples features"], changes: Float[np.ndarray, "samples outputs"], rounding: float
) -> Int[np.ndarray, " distinct"]:
    """Return the index of the first of each set of equal rows, whose changes may differ by the rounding.

    Raises:
        InputError: two equal rows need different changes, which no function can give; names both.
    """
    seen: dict[bytes, int] = {}
    # Adding 0 makes -0 and 0 equal in their bytes too.
    for index, row in enumerate(rows + 0.0):
        first = seen.setdefault(row.tobytes(), index)
        if first != index and np.abs(changes[first] - changes[index]).max() > rounding:
            raise InputError(
                f"X[{first}] and X[{index}] are equal but would need different changes, {_listed(changes[first])} and"
                f" {_listed(changes[index])}; give equal samples one label, tuned or kept together"
            )
    return np.fromiter(seen.values(), dtype=np.int64, count=len(seen))


def choose_direction(
    rows: Float[np.ndarray, "samples features"],
    changed: Bool[np.ndarray, " samples"],
    tries: int,
    seed: int,
    smallest_gap: float,
    names: Int[np.ndarray, " samples"] | None = None,
) -> tuple[Float[np.ndarray, " features"], float]:
    """Return the best of some random unit vectors, and its gap.

    The gap is the smallest distance between the projections of a changed sample and of any other sample, over the
    range of the projections. Only that matters: between samples that stay as they are the patch is 0 anyway.

    Args:
        rows: distinct samples.
        changed: which of them change.
        tries: directions to draw; eight times as many again, with a warning, where none reaches ``smallest_gap``.
        seed: of the draws.
        smallest_gap: what counts as apart.
        names: what the samples are called in messages; default their row.

    Raises:
        InputError: no direction reaches ``smallest_gap``; names the two closest samples.
    """
    generator = np.random.default_rng(seed)
    features = rows.shape[1]
    best, gap, pair = _best_of(rows, changed, _draws(generator, features, tries))
    if gap < smallest_gap and features > 1:
        warnings.warn(
            f"the best of {tries} directions leaves two samples {gap:.2g} of the range apart (smallest_gap is"
            f" {smallest_gap:g}); trying {_MORE * tries} more",
            stacklevel=3,
        )
        best, gap, pair = _best_of(rows, changed, _draws(generator, features, _MORE * tries))
    if gap < smallest_gap:
        first, second = (int(index if names is None else names[index]) for index in pair)
        raise InputError(
            f"X[{first}] and X[{second}] cannot be told apart: their projections differ by {gap:.2g} of the range in"
            f" the best direction, smallest_gap is {smallest_gap:g}"
        )
    return best, gap


def _draws(generator: np.random.Generator, features: int, tries: int) -> np.ndarray:
    if features == 1:
        return np.ones((1, 1))
    directions = generator.normal(size=(tries, features))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _best_of(
    rows: np.ndarray, changed: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """The direction with the largest gap, the gap, and the two samples that it separates."""
    best, gap, pair = directions[0], -1.0, (0, 0)
    at_once = max(1, _ENTRIES // len(rows))
    for start in range(0, len(directions), at_once):
        some = directions[start : start + at_once]
        lines = (rows @ some.T).T
        order = np.argsort(lines, axis=1)
        ordered = np.take_along_axis(lines, order, 1)
        extent = ordered[:, -1] - ordered[:, 0]
        moved = changed[order]
        relevant = moved[:, 1:] | moved[:, :-1]
        gaps = np.where(relevant, np.diff(ordered, axis=1), np.inf)
        smallest = gaps.min(1, initial=np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(np.isinf(smallest), 1.0, smallest / extent)
        relative = np.nan_to_num(relative, nan=0.0)  # all projections equal
        top = int(relative.argmax())
        if relative[top] > gap:
            best, gap = some[top], float(relative[top])
            if gaps.shape[1]:
                place = int(gaps[top].argmin())
                pair = (int(order[top, place]), int(order[top, place + 1]))
    return best, gap, pair


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return f"[{shown}{', ...' if len(values) > 4 else ''}]"
