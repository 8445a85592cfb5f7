"""Reading a sweep of mixtures off the scores."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from superpose.experiment import Run, over_items, proportion
from superpose.interpret import kl_to_mixture, other_mass
from superpose.studies.language_models import available
from superpose.studies.superposition_measure.config import OTHER, Config, label, plain
from superpose.studies.task_superposition import steps


def measure_mixtures(run: Run[Config]) -> None:
    """Probabilities, other mass, KL and the number of completed tasks, per mixture."""
    c = run.config
    model, file = steps.reference(available(run, c.model)[0]), Path(c.family)
    scores = run.map(
        steps.mixture,
        [
            {
                "model": model,
                "dtype": c.dtype,
                "family": c.family,
                "fingerprint": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
                "tasks": list(c.tasks),
                "proportions": list(shares),
                "demonstrations": c.demonstrations,
                "prompts": c.prompts,
                "seed": c.seed,
                "search_budget": c.search_budget,
            }
            for shares in c.mixtures
        ],
    )
    axis = [shares[0] for shares in c.mixtures]
    sweep = len(c.tasks) == 2 and len(set(axis)) == len(axis)
    for shares, outcome in zip(c.mixtures, scores, strict=True):
        name = label(shares)
        at: Any = [shares[0]] if sweep else [name]
        probability = np.exp(outcome["logprob"])
        arms = {task: probability[:, k] for k, task in enumerate(c.tasks)} | {OTHER: other_mass(outcome["logprob"])}
        for arm, values in arms.items():
            point = over_items(f"p.{plain(arm)}@{name}", values)
            run.measure("mix", point)
            run.curve_of("mixture", arm, at, [point])
        kl = kl_to_mixture(outcome["logprob"], outcome["proportions"])
        run.measure("mix", over_items(f"kl@{name}", kl, unit="nats"))
        if outcome["completed"] is not None:
            settled = ~np.isnan(outcome["completed"]).any(1)
            run.measure("mix", proportion(f"search-settled@{name}", int(settled.sum()), len(settled)))
            if settled.any():
                run.measure("mix", over_items(f"r@{name}", outcome["completed"][settled].sum(1), unit="tasks"))
