"""What the study measures, and with how much of it. Imports no torch."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from superpose.experiment import StudyConfig

# TS1 and TS7 look at two tasks at a time; these are the pairs on which the small offline models can do both.
PAIRS = {"word": ("copy", "capitalise"), "ab": ("copy_a", "copy_b")}

# Figure 2 of the paper, panel by panel.
PANELS = {
    "add-translate": ("digits", "english", "french", "spanish"),
    "country": ("capital", "continent", "upper"),
    "ab": ("copy_a", "copy_b", "add"),
    "word": ("first", "last", "first_upper", "last_upper"),
}
TASK_VECTOR_FAMILY = "word"
SEGMENT_TASKS = ("first", "upper")  # TS4
PLANE_TASKS = ("first", "upper", "copy")  # the discriminant plane of TS4
INTERPOLATION_TASKS = ("copy", "capitalise")  # TS5
SCALING_TASKS = ("copy", "capitalise", "upper", "first")  # TS6

Demonstrations = Annotated[int, Field(ge=1, le=400)]
Prompts = Annotated[int, Field(ge=2, le=5000)]
Weight = Annotated[float, Field(ge=0, le=1)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        model: the model that every claim on a real model is judged on.
        other_models: further models for TS1 (every one of them must pass) and TS6; those not in the cache are
            skipped, and the run says so.
        demonstrations: demonstrations per mixed prompt; 20 fit two CPU cores (the paper: 60 to 80).
        prompts: prompts per mixture in TS1, TS5 and TS7; half choose the best mixture, half are reported.
        other_prompts: the same for the other models of TS1; half as many keep the preset within 25 minutes.
        mixture_step: distance between neighbouring mixture weights.
        panel_prompts: prompts for each of the paper's four panels.
        panel_demonstrations: demonstrations per task in the panels; 20 as in the paper.
        vector_prompts: prompts per mixture whose residuals are averaged into a task vector (the paper: 100).
        vector_demonstrations: demonstrations in those prompts; 16 fit two CPU cores (the paper: 30).
        queries: zero-shot queries into which vectors are injected; as many again choose the best layer.
        scaling_prompts: prompts for r and KL in TS6.
        search_budget: expansions the exact search for the top strings may spend on a prompt.
        dims, tasks, demos, operands: the sweep of the explicit-weights transformer.
        widths: of the decoders trained from scratch; TS2 looks at the widest, TS6 compares the ends.
        train_steps: updates of each of them, at ``train_batch`` sequences; 2300 suffice for models of this size.
        train_batch: sequences per update.
        train_prompts: prompts per mixture on which they are evaluated (the paper: 1000).
        seeds: models trained per width; draws per cell of the explicit-weights sweep.
        dtype: of the real models.
    """

    model: str = "smollm2-135m-instruct-q4_1"
    other_models: tuple[str, ...] = ("gemma3-270m-q4_k_m",)
    demonstrations: Demonstrations = 20
    prompts: Prompts = 60
    other_prompts: Prompts = 30
    mixture_step: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    panel_prompts: Prompts = 12
    panel_demonstrations: Demonstrations = 20
    vector_prompts: Prompts = 40
    vector_demonstrations: Demonstrations = 16
    queries: Prompts = 32
    scaling_prompts: Prompts = 24
    search_budget: Annotated[int, Field(ge=10)] = 400
    dims: tuple[Annotated[int, Field(ge=2)], ...] = (6, 12, 32)
    tasks: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 8)
    demos: tuple[Annotated[int, Field(ge=1)], ...] = (8, 24, 64)
    operands: tuple[Annotated[int, Field(ge=1)], ...] = (3, 5, 8)
    widths: Annotated[tuple[Annotated[int, Field(ge=4, multiple_of=4)], ...], Field(min_length=2)] = (16, 32, 64)
    train_steps: Annotated[int, Field(ge=1)] = 2300
    train_batch: Annotated[int, Field(ge=1)] = 32
    train_prompts: Prompts = 1000
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"

    @field_validator("mixture_step")
    @classmethod
    def _reaches_one_half(cls, step: float) -> float:
        if abs(1 / step - 2 * round(0.5 / step)) > 1e-6:
            raise ValueError("allowed: 1/2, 1/4, 1/6, 1/8, 0.1, ...: an even number of steps from 0 to 1")
        return step

    @field_validator("widths", "other_models")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("allowed: each value once")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.model in self.other_models:
            raise ValueError(f"other_models holds {self.model!r}, which is the model itself; allowed: other models")
        if not any(k <= d and m >= k for d in self.dims for k in self.tasks for m in self.demos):
            raise ValueError("dims, tasks and demos leave no cell with tasks <= dims and demos >= tasks")
        return self
