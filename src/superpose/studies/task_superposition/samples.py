"""Which models, mixtures and halves of the prompts the measures share."""

from collections.abc import Callable, Iterable

import numpy as np

from superpose.experiment import Measurement, Run
from superpose.studies import language_models
from superpose.studies.language_models import available
from superpose.studies.task_superposition.config import Config
from superpose.studies.task_superposition.steps import place_of, reference


def main_model(run: Run[Config]) -> str:
    """The reference of the main model, fetched now if it has to be."""
    return reference(available(run, run.config.model)[0])


def all_models(run: Run[Config]) -> list[str]:
    """References of the main model and of those others that are on this machine; the run notes who is missing."""
    return [reference(name) for name in available(run, run.config.model, run.config.other_models)]


def grid(step: float) -> list[float]:
    """Mixture weights from 0 to 1."""
    count = round(1 / step)
    return [round(i / count, 6) for i in range(count + 1)]


def halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts that choose the best mixture or layer, and prompts on which it is reported."""
    indices = np.arange(n)
    return indices[::2], indices[1::2]


def short(model: str) -> str:
    """The name of what a reference points to, as it stands in measurement names and legends."""
    return language_models.short(place_of(model))


def smallest(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The smallest of several numbers: its interval runs from the smallest low to the smallest high."""
    return _extreme(name, list(measured), min)


def largest(name: str, measured: Iterable[Measurement]) -> Measurement:
    """The largest of several numbers."""
    return _extreme(name, list(measured), max)


def _extreme(name: str, measured: list[Measurement], pick: Callable[[Iterable[float]], float]) -> Measurement:
    changes = {field: pick(getattr(m, field) for m in measured) for field in ("value", "low", "high")}
    return measured[0].model_copy(update={"name": name, "n": min(m.n for m in measured), **changes})
