"""Reading a sweep of mixtures off the scores."""

from typing import Any

import numpy as np

from superpose.experiment import Run, over_items, proportion
from superpose.interpret import kl_to_mixture, other_mass
from superpose.studies.superposition_measure.study import Config
from superpose.studies.task_superposition import steps


def measure_mixtures(run: Run[Config]) -> None:
    """Probabilities, other mass, KL and the number of completed tasks, per mixture."""
    c = run.config
    scores = run.map(
        steps.mixture,
        [
            {
                "model": c.model,
                "fingerprint": f"{c.fingerprint}:{c.family_sha256}",
                "dtype": c.dtype,
                "family": c.family,
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
    for i, (shares, outcome) in enumerate(zip(c.mixtures, scores, strict=True)):
        name = label(shares)
        probability = np.exp(outcome["logprob"])
        other = [other_mass(row) for row in outcome["logprob"]]
        arms = {task: probability[:, k] for k, task in enumerate(c.tasks)} | {"other": np.asarray(other)}
        for arm, values in arms.items():
            point = over_items(f"p.{_plain(arm)}@{name}", values)
            run.measure("mix", point)
            at: Any = axis[i : i + 1] if sweep else [name]
            run.curve_of("mixture", arm, at, [point])
        actual = outcome["proportions"]
        run.measure(
            "mix",
            over_items(f"kl@{name}", [kl_to_mixture(row, actual) for row in outcome["logprob"]], unit="nats"),
        )
        if outcome["completed"] is not None:
            settled = ~np.isnan(outcome["completed"]).any(1)
            run.measure("mix", proportion(f"search-settled@{name}", int(settled.sum()), len(settled)))
            if settled.any():
                run.measure("mix", over_items(f"r@{name}", outcome["completed"][settled].sum(1), unit="tasks"))


def label(shares: tuple[float, ...]) -> str:
    """A mixture as it stands in measurement names: ``0.25,0.75``."""
    return ",".join(f"{share:g}" for share in shares)


def _plain(name: str) -> str:
    """A task's name with only the characters that a measurement's name may have."""
    return "".join(ch if ch.isascii() and (ch.isalnum() or ch in "_.-") else "-" for ch in name.lower())
