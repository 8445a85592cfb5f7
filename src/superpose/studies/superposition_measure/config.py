"""What is asked of a user's model. Imports no torch."""

from typing import Annotated

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig

OTHER = "other"  # the probability that no task's answer has
Share = Annotated[float, Field(ge=0, le=1)]


class Config(StudyConfig):
    """What to measure.

    Attributes:
        model: a registered name, a local folder, a ``.gguf`` file, a hub id, or ``random-llama``.
        family: a built-in family, or a CSV or YAML file.
        tasks: two or more tasks of the family.
        mixtures: proportions of the tasks, one row per mixture.
        demonstrations: demonstrations per prompt.
        prompts: prompts per mixture.
        search_budget: expansions of the exact search for the top strings, per prompt; 0 leaves r out.
        seed: of the prompts.
        dtype: of the model.
    """

    model: str = "smollm2-135m-instruct-q4_1"
    family: str = "word"
    tasks: Annotated[tuple[str, ...], Field(min_length=2)] = ("copy", "capitalise")
    mixtures: Annotated[tuple[tuple[Share, ...], ...], Field(min_length=1)] = ((1, 0), (0.75, 0.25), (0.5, 0.5), (0, 1))
    demonstrations: Annotated[int, Field(ge=1)] = 20
    prompts: Annotated[int, Field(ge=1)] = 20
    search_budget: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16|float16)$")] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if OTHER in self.tasks:
            raise ValueError(
                f"tasks holds {OTHER!r}, which is the name of the leftover probability; allowed: other names"
            )
        for what, names in (("tasks", [plain(t) for t in self.tasks]), ("mixtures", [label(m) for m in self.mixtures])):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} are {names}; allowed: each once")
        if wrong := [m for m in self.mixtures if len(m) != len(self.tasks)]:
            raise ValueError(f"mixtures holds {wrong[0]}; allowed: {len(self.tasks)} shares, one per task")
        return self


def label(shares: tuple[float, ...]) -> str:
    """A mixture as it stands in measurement names: ``0.25,0.75``."""
    return ",".join(f"{share:.9g}" for share in shares)


def plain(name: str) -> str:
    """A task's name with only the characters that a measurement's name may have."""
    return "".join(ch if ch.isascii() and (ch.isalnum() or ch in "_.-") else "-" for ch in name.lower())
