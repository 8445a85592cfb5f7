"""How a number is printed, and how it crosses into JSON."""

import math
from typing import Any

from superpose.experiment import Measurement

MINUS, TIMES = "\u2212", "\u00d7"  # as printed, not as typed
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short(x: float) -> str:
    """A number for reading: three significant digits, plain up to a million, no rounding noise around zero."""
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "∞" if x > 0 else MINUS + "∞"
    if 999.5 <= abs(x) < 1e6:
        return f"{x:,.0f}".replace("-", MINUS)
    text = f"{x:.3g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
        text = power if mantissa == "1" else f"{mantissa}{TIMES}{power}"
    return text.replace("-", MINUS)


def interval(m: Measurement) -> str:
    """``[low, high]``, or nothing where the number is exact."""
    return "" if m.over == "exact" else f"[{short(m.low)}, {short(m.high)}]"


def jsonable(value: Any) -> Any:
    """The same data as valid JSON holds it: infinities and NaN become ``"Infinity"``, ``"-Infinity"``, ``"NaN"``.

    These are the words that runs are stored with, and that Python's ``float`` reads back.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
