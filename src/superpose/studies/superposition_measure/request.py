"""Turning what a person typed into a checked config, before any model is loaded."""

from collections.abc import Sequence
from typing import Any

from superpose.errors import InputError
from superpose.interpret import check_proportions
from superpose.interpret import family as find_family
from superpose.models import resolve
from superpose.studies.superposition_measure.config import OTHER, label, plain

DEFAULT_SWEEP = "0:1:0.1"
_MOST = 1001  # mixtures in one sweep


def measurement_request(
    model: str, family: str, *, tasks: str = "", sweep: str = "", proportions: Sequence[str] = ()
) -> dict[str, Any]:
    """Check a request and return the config fields it means.

    Args:
        model: a model reference.
        family: a built-in family's name, or a CSV or YAML file.
        tasks: task names with commas between them; empty means the family's first two.
        sweep: ``FROM:TO:STEP`` for the share of the first task, the others sharing the rest equally.
        proportions: mixtures, each as numbers with commas between them.

    Raises:
        InputError: an unknown model, family or task, fewer than two tasks, a sweep outside 0..1, both a sweep
            and proportions, or proportions that are not shares of 1.
    """
    if sweep and proportions:
        raise InputError(f"--sweep is {sweep!r} and --proportions is given too; allowed: one of them")
    resolve(model)
    found = find_family(family)
    names = [name.strip() for name in tasks.split(",") if name.strip()] or list(found.task_names[:2])
    found.select(names)
    if len(names) < 2:
        raise InputError(f"--tasks is {tasks!r}; allowed: two or more of {', '.join(found.task_names)}")
    mixtures = (
        [check_proportions(_numbers("--proportions", text), len(names)) for text in proportions]
        if proportions
        else [_split(share, len(names)) for share in _sweep(sweep or DEFAULT_SWEEP)]
    )
    if OTHER in names:
        raise InputError(
            f"--tasks holds {OTHER!r}, which is the name of the leftover probability; allowed: other names"
        )
    for what, texts in (("--tasks", [plain(n) for n in names]), ("--proportions", [label(m) for m in mixtures])):
        if len(set(texts)) != len(texts):
            raise InputError(f"{what} are {'; '.join(texts)}; allowed: each once")
    return {
        "model": model,
        "family": family,
        "tasks": tuple(names),
        "mixtures": tuple(tuple(shares) for shares in mixtures),
    }


def _sweep(text: str) -> list[float]:
    parts = text.split(":")
    try:
        start, stop, step = (float(part) for part in parts)
    except ValueError as error:
        raise InputError(f"--sweep is {text!r}; allowed: FROM:TO:STEP, for example {DEFAULT_SWEEP}") from error
    if not (0 <= start <= stop <= 1 and step > 0):
        raise InputError(f"--sweep is {text!r}; allowed: 0 <= FROM <= TO <= 1 and STEP > 0")
    # The end counts as reached within rounding: 0:1:0.1 has eleven points.
    count = int((stop - start) / step + 1e-9) + 1
    if count > _MOST:
        raise InputError(f"--sweep is {text!r}, {count} mixtures; allowed: at most {_MOST}")
    return [round(start + i * step, 9) for i in range(count)]


def _split(share: float, tasks: int) -> tuple[float, ...]:
    rest = round((1 - share) / (tasks - 1), 9)
    return (share, *[rest] * (tasks - 1))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; allowed: numbers with commas between them") from error
