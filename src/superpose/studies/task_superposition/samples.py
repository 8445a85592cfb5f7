"""Which models, mixtures and halves of the prompts the measures share."""

import numpy as np

from superpose.experiment import Run
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
