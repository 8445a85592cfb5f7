"""Checks of the numbers that tasks are configured with."""

import math

from superpose.errors import InputError


def whole(argument: str, value: object, low: int, high: int | None = None) -> int:
    """Return a whole number in ``low..high``.

    Raises:
        InputError: it is something else.
    """
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= low and (high is None or value <= high)
    if not fits or not isinstance(value, int):
        allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
        raise InputError(f"{argument} is {value!r}; allowed: {allowed}")
    return value


def number(argument: str, value: float, low: float, high: float = math.inf) -> float:
    """Return a finite number in ``low..high``.

    Raises:
        InputError: it is something else.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{argument} is {value!r}; allowed: {low:g} to {high:g}")
    return value
