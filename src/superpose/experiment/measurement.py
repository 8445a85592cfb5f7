"""Measurements: a named number with its interval, and how that interval arose.

Arrays in, frozen records out. Two arms measured on the same prompts or seeds are compared through their
paired difference or ratio, which is one measurement and is judged against a constant.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Annotated, Literal, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from superpose.errors import InputError

NAME = r"^[a-z0-9_.,:=|+@-]+$"
CONFIDENCE = 0.95
RESAMPLES = 2000
_CHUNK = 50  # resampled means at once: rows may be wide
_ENTRIES = 1 << 21  # of the rows that are resampled at once
MIN_SEEDS = 3  # fewer seeds say nothing about spread: refused above the smoke scale

Over = Literal["exact", "seeds", "items", "proportion"]


class Measurement(BaseModel):
    """A named number with an interval, its sample size, its unit, and how the interval arose."""

    # Infinities are real values of KL divergences; JSON spells them as strings.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: Annotated[str, Field(pattern=NAME)]
    value: float
    low: float
    high: float
    n: Annotated[int, Field(ge=1)]
    unit: str = ""
    over: Over
    interval: str

    @model_validator(mode="after")
    def _ordered(self) -> "Measurement":
        if any(math.isnan(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"measurement {self.name!r} is NaN: {self.value} [{self.low}, {self.high}]")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"measurement {self.name!r} is {self.value}, outside [{self.low}, {self.high}]")
        return self


def exact(name: str, value: SupportsFloat, *, n: SupportsIndex = 1, unit: str = "") -> Measurement:
    """A number without sampling error: a closed form, a count, the worst case over ``n`` checked cases."""
    x = float(value)
    return Measurement(name=name, value=x, low=x, high=x, n=index(n), unit=unit, over="exact", interval="exact")


def over_seeds(name: str, values: ArrayLike, *, unit: str = "") -> Measurement:
    """Mean over independent seeds.

    For n >= 5 the interval is Student's t at 95 %; for fewer, or where a value is infinite, it is the observed
    range, labelled so.

    Args:
        name: measurement name.
        values: one value per seed, shape ``[n]``.
        unit: unit of the values.
    """
    x = _vector(name, values)
    n = len(x)
    mean = _mean(x)
    if n >= 5 and np.isfinite(x).all():
        # Imported here: declaring a claim imports this module, and must stay quick.
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * x.std(ddof=1) / math.sqrt(n))
        low, high, how = mean - half, mean + half, "t 95 %"
    else:
        # The mean of equal values may miss them by a rounding error.
        low, high, how = min(float(x.min()), mean), max(float(x.max()), mean), f"range of {n}"
    return Measurement(name=name, value=mean, low=low, high=high, n=n, unit=unit, over="seeds", interval=how)


def over_items(
    name: str,
    values: ArrayLike,
    *,
    statistic: Callable[..., float] | None = None,
    unit: str = "",
) -> Measurement:
    """A statistic (default: the mean) over prompts or episodes of a fixed model, with a bootstrap interval.

    Args:
        name: measurement name.
        values: one row per item, shape ``[n]`` or ``[n, ...]``; whole rows are resampled, so paired columns
            stay paired.
        statistic: maps an array of rows to one number; default the mean of all entries.
        unit: unit of the result.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"measurement {name!r}: values has shape {x.shape}; at least one item is needed")
    value = float((statistic or _mean)(x))
    if len(x) == 1:
        return Measurement(
            name=name, value=value, low=value, high=value, n=1, unit=unit, over="items", interval="one item"
        )
    # A fixed stream makes the interval a pure function of the values, so that runs can be compared bitwise.
    rng = np.random.default_rng(0)
    if statistic is None:
        draws = _resampled_means(x.reshape(len(x), -1), rng)
    else:
        draws = np.array([float(statistic(x[rng.integers(0, len(x), len(x))])) for _ in range(RESAMPLES)])
    return _from_draws(name, value, draws, len(x), unit)


def _resampled_means(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of all entries of every resample, many resamples at a time."""
    at_once = max(1, _ENTRIES // rows.size)
    draws = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        picked = rows[rng.integers(0, len(rows), (count, len(rows)))]
        with np.errstate(invalid="ignore"):  # as in _mean
            draws[start : start + count] = picked.reshape(count, -1).mean(1)
    return draws


def over_item_means(
    names: Sequence[str],
    values: ArrayLike,
    statistics: Callable[[np.ndarray], ArrayLike],
    *,
    unit: str = "",
) -> list[Measurement]:
    """Several statistics of the items' mean row, with bootstrap intervals from the same resamples.

    For wide rows (vectors, whole curves): the resampled means are one matrix product, nothing is copied.

    Args:
        names: one name per statistic.
        values: one row per item, shape ``[n, ...]``; whole rows are resampled.
        statistics: maps a mean row, shape ``[...]``, to one number per name.
        unit: unit of the results.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim < 2 or len(x) < 2:
        raise InputError(f"measurements {', '.join(names)}: values has shape {x.shape}; allowed: [n, ...], n >= 2")
    flat = x.reshape(len(x), -1)
    value = np.asarray(statistics(x.mean(0)), dtype=float)
    rng = np.random.default_rng(0)  # fixed, as in over_items
    draws = np.empty((RESAMPLES, len(names)))
    for start in range(0, RESAMPLES, _CHUNK):
        counts = rng.multinomial(len(x), [1 / len(x)] * len(x), size=min(_CHUNK, RESAMPLES - start))
        means = (counts / len(x)) @ flat
        draws[start : start + len(means)] = [np.asarray(statistics(mean.reshape(x.shape[1:]))) for mean in means]
    return [
        _from_draws(name, float(v), column, len(x), unit) for name, v, column in zip(names, value, draws.T, strict=True)
    ]


def _from_draws(name: str, value: float, draws: np.ndarray, n: int, unit: str) -> Measurement:
    if np.isnan(draws).any():
        raise InputError(f"measurement {name!r}: the statistic is NaN on {np.isnan(draws).mean():.0%} of the resamples")
    # Order statistics, not interpolated quantiles: between infinite draws interpolation gives NaN.
    draws = np.sort(draws)
    tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Measurement(
        name=name,
        value=value,
        low=min(float(draws[tail - 1]), value),
        high=max(float(draws[-tail]), value),
        n=n,
        unit=unit,
        over="items",
        interval="bootstrap 95 %",
    )


def proportion(name: str, successes: SupportsIndex, n: SupportsIndex, *, unit: str = "") -> Measurement:
    """A success rate with Wilson's 95 % interval."""
    successes, n = index(successes), index(n)
    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"measurement {name!r}: successes is {successes} of n = {n}; allowed: 0 to n, n >= 1")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + CONFIDENCE / 2))
    value = successes / n
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * value * (1 - value) + z * z / 4)
    # Wilson's ends may miss the estimate 0 or 1 by a rounding error.
    return Measurement(
        name=name,
        value=value,
        low=min(max(centre - half, 0.0), value),
        high=max(min(centre + half, 1.0), value),
        n=n,
        unit=unit,
        over="proportion",
        interval="Wilson 95 %",
    )


def paired_difference(
    name: str, a: ArrayLike, b: ArrayLike, *, over: Literal["seeds", "items"], unit: str = ""
) -> Measurement:
    """Mean of ``a - b`` over the items or seeds that both arms share (same order, shape ``[n]``)."""
    x, y = _pair(name, a, b)
    return over_seeds(name, x - y, unit=unit) if over == "seeds" else over_items(name, x - y, unit=unit)


def paired_ratio(
    name: str, a: ArrayLike, b: ArrayLike, *, over: Literal["seeds", "items"], unit: str = "x"
) -> Measurement:
    """``mean(a) / mean(b)`` over shared items, or the mean of ``a / b`` over shared seeds (``b`` positive)."""
    x, y = _pair(name, a, b)
    if (y <= 0).any():
        raise InputError(f"measurement {name!r}: b holds {y.min()}; a ratio needs positive values")
    if over == "seeds":
        return over_seeds(name, x / y, unit=unit)
    return over_items(name, np.stack([x, y], 1), statistic=_ratio_of_means, unit=unit)


def smallest_of(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The smallest of several numbers: its interval runs from the smallest low to the smallest high."""
    return _extreme(name, list(measured), min)


def largest_of(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The largest of several numbers: its interval runs from the largest low to the largest high."""
    return _extreme(name, list(measured), max)


def _extreme(name: str, measured: list[Measurement], pick: Callable[[Iterable[float]], float]) -> Measurement:
    changes = {field: pick(getattr(m, field) for m in measured) for field in ("value", "low", "high")}
    return measured[0].model_copy(update={"name": name, "n": min(m.n for m in measured), **changes})


def _mean(x: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which Measurement refuses in words
        return float(x.mean())


def _ratio_of_means(x: np.ndarray) -> float:
    return float(x[:, 0].mean() / x[:, 1].mean())


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) == 0:
        raise InputError(f"measurement {name!r}: values has shape {x.shape}; allowed: [n] with n >= 1")
    return x


def _pair(name: str, a: ArrayLike, b: ArrayLike) -> Sequence[np.ndarray]:
    x, y = _vector(name, a), _vector(name, b)
    if len(x) != len(y):
        raise InputError(f"measurement {name!r}: the arms have {len(x)} and {len(y)} values; they must be paired")
    return x, y
