"""Which cells the atlas measures, and with how much of it. Imports no torch."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from superpose.experiment import StudyConfig

ALL = "all"

# One of each kind; the encoder reads every prefix by itself: ten to fifty times a transformer's update.
LAPTOP_MODELS = ("transformer", "linear-transformer", "looped", "mamba", "standard-hybrid", "mambaformer", "h3")

# Prompts of 12 to 30 positions, and for each task about the updates after which the backbones differ most.
LAPTOP_RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"steps": 600, "sizes": {"dim": 2, "points": 6}},
    "decision-tree": {"steps": 400, "sizes": {"dim": 2, "points": 8, "depth": 1}},
    "many-outlier": {"steps": 400, "sizes": {"dim": 2, "points": 12, "probability": 0.5}},
    "sparse-parity": {"steps": 500, "sizes": {"dim": 3, "points": 10, "k": 2}},
    "vector-mqar": {"steps": 300, "sizes": {"dim": 8, "points": 6}},
    "associative-recall": {"steps": 400, "sizes": {"symbols": 8, "points": 5, "queries": 5}},
    "copying": {"steps": 200, "sizes": {"symbols": 16, "points": 10}},
    "markov-chain": {"steps": 300, "sizes": {"symbols": 4, "points": 24}},
    "retrieve-letters": {"steps": 300, "sizes": {"points": 6, "letters": 2, "alphabet": 8, "hint": None}},
}

Names = Annotated[tuple[str, ...], Field(min_length=1)]
Steps = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Recipe(BaseModel):
    """What one task has of its own; every backbone gets the same.

    Attributes:
        steps: updates, in place of the study's.
        lr: learning rate, in place of the study's.
        sizes: fields of the task that differ from its preset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Steps | None = None
    lr: Rate | None = None
    sizes: dict[str, int | float | str | None] = {}


class Config(StudyConfig):
    """Which cells are measured, and with how much of it.

    Attributes:
        models: names of registered backbones, or ``all``: whatever is registered on the day of the run.
        tasks: names of registered tasks, or ``all``.
        task_preset: ``laptop`` (the tasks' defaults) or ``paper``.
        recipes: dict[str, Recipe] = Field(default_factory=dict)
        width: channels of every backbone.
        heads: attention heads, where there is attention.
        depth: repeats of every architecture's blocks (the looped one: of the block in the loop); default each
            architecture's own, which makes equal sizes.
        init: how weights begin: ``own`` (what each architecture registers), or one of ``BackboneSpec`` for all.
        steps: updates of every cell of a task (equal steps).
        batch: episodes per update.
        lr: learning rate of Adam, the same for all; constant after ``warmup`` updates, so that a curve can be read at
            any budget.
        warmup: updates of linear warm-up.
        points: places along the training at which the error is evaluated, closer together at its beginning, where
            the dear backbones are read at equal compute.
        prompts: evaluation episodes, the same for every cell of a task; labels of random functions vary so much
            that few of them would move chance itself.
        timing: updates that are timed for the cost of a cell; their median counts.
        seeds: trainings per cell.
    """

    models: Names = (ALL,)
    tasks: Names = (ALL,)
    task_preset: Annotated[str, Field(pattern="^(laptop|paper)$")] = "laptop"
    recipes: dict[str, Recipe] = Field(default_factory=dict)
    width: Annotated[int, Field(ge=4)] = 32
    heads: Annotated[int, Field(ge=1)] = 4
    depth: Annotated[int, Field(ge=1)] | None = None
    init: Annotated[str, Field(pattern="^(own|gpt2|torch)$")] = "own"
    steps: Steps = 500
    batch: Annotated[int, Field(ge=1)] = 32
    lr: Rate = 3e-3
    warmup: Annotated[int, Field(ge=0)] = 20
    points: Annotated[int, Field(ge=2)] = 10
    prompts: Annotated[int, Field(ge=2)] = 1024
    timing: Annotated[int, Field(ge=1)] = 8

    @field_validator("models", "tasks")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("allowed: each name once")
        if ALL in names and len(names) > 1:
            raise ValueError(f"allowed: {ALL!r} alone, or names")
        return names

    @model_validator(mode="after")
    def _warms_up_within_its_steps(self) -> "Config":
        least = min([self.steps, *(recipe.steps for recipe in self.recipes.values() if recipe.steps)])
        if self.warmup > least:
            raise ValueError(f"warmup is {self.warmup}; allowed: {least} or less, the fewest updates of a task")
        return self
