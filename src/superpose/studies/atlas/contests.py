"""The published contrasts that the map is judged on. Imports no torch."""

from dataclasses import dataclass

from superpose.experiment import above, all_of, at_least, at_most

LINEAR = "linear"
FAMILY = ("mambaformer", "transformer", "mamba")  # the hybrid, then its parents
ABLE, UNABLE = 0.8, 0.3  # a task is solved above the one, not learned below the other


@dataclass(frozen=True)
class Contest:
    """A published contrast: backbones that learn a task, and backbones that do not, with the same training."""

    claim: str
    task: str
    able: tuple[str, ...]
    unable: tuple[str, ...]

    def criterion(self):
        """Each on its side, and clearly apart in every seed."""
        return all_of(
            *(at_least(model, ABLE) for model in self.able),
            *(at_most(model, UNABLE) for model in self.unable),
            above("gap", ABLE - UNABLE),
        )


RETRIEVAL = Contest("A1", "vector-mqar", able=("transformer",), unable=("mamba",))
PARITY = Contest("A2", "sparse-parity", able=("mamba",), unable=("transformer",))
