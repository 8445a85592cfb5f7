"""Which models, mixtures and halves of the prompts the measures share."""

from collections.abc import Callable, Iterable

import numpy as np

from superpose.experiment import Measurement, Run
from superpose.models.pretrained.fetch import get, is_cached
from superpose.models.pretrained.registry import find_registered
from superpose.studies.task_superposition.config import Config
from superpose.studies.task_superposition.steps import reference


def main_model(run: Run[Config]) -> str:
    """The reference of the main model, fetched now if it has to be, where a person can see it."""
    return fetched(run, run.config.model)


def fetched(run: Run, model: str) -> str:
    """What steps take for a model; a registered one is brought onto this machine first.

    Raises:
        InputError: no such model, or its licence is still to be accepted.
        FetchError: the download failed.
    """
    if find_registered(model) is not None and not is_cached(model):
        get(model, progress=run.say)
    return reference(model)


def all_models(run: Run[Config]) -> list[str]:
    """References of the main model and of those others that are on this machine; the run notes who is missing."""
    found = [main_model(run)]
    for name in run.config.other_models:
        if find_registered(name) is None or is_cached(name):
            found.append(reference(name))
        else:
            note = f"{name} is not in the cache and was left out; fetch it with: superpose models get {name}"
            if note not in run.notes:
                run.note(note)
    return found


def grid(step: float) -> list[float]:
    """Mixture weights from 0 to 1."""
    count = round(1 / step)
    return [round(i / count, 6) for i in range(count + 1)]


def halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts that choose the best mixture or layer, and prompts on which it is reported."""
    indices = np.arange(n)
    return indices[::2], indices[1::2]


def short(model: str) -> str:
    """A model's name as it stands in measurement names and legends."""
    name = model.partition(" # ")[0].rstrip("/").rsplit("/", 1)[-1].lower()
    name = name.split("-instruct")[0].split("-q4")[0]
    return "".join(ch if ch.isascii() and (ch.isalnum() or ch in "_.-") else "-" for ch in name)


def smallest(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The smallest of several numbers: its interval runs from the smallest low to the smallest high."""
    return _extreme(name, list(measured), min)


def largest(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The largest of several numbers."""
    return _extreme(name, list(measured), max)


def _extreme(name: str, measured: list[Measurement], pick: Callable[[Iterable[float]], float]) -> Measurement:
    changes = {field: pick(getattr(m, field) for m in measured) for field in ("value", "low", "high")}
    return measured[0].model_copy(update={"name": name, "n": min(m.n for m in measured), **changes})
