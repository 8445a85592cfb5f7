"""What the study trains, and for how long. Imports no torch."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig
from superpose.experiment.claim import Scale

Steps = Annotated[int, Field(ge=2)]
Rate = Annotated[float, Field(gt=0, le=1)]
Blocks = Annotated[int, Field(ge=1)]
OutlierTask = Annotated[str, Field(pattern="^(many-outlier|orthogonal-outlier)$")]

CROSSING = 0.9  # the accuracy whose first step C5 compares
LAST_LABELS = 5  # of a parity prompt, on which accuracy is read
LEAST_STEPS_RATIO = 1.5  # how much longer than Mamba the transformer must have been trained in C2
HYBRID_BUDGET = 2  # the standard hybrid gets twice MambaFormer's steps in C5


class Config(StudyConfig):
    """What is trained, and for how long.

    A model's training stops at the first look at which it has solved its task; budgets are for those that do not.

    Attributes:
        width, heads, state: of every model: channels, attention heads, states per channel in Mamba.
        transformer_depth: (attention, MLP) blocks; hybrid_depth: (attention, Mamba) blocks of the standard hybrid.
        mambaformer_depth: (attention, Mamba) blocks behind MambaFormer's first block; the same number of (attention,
            MLP) blocks stands behind the first block of the ablation.
        mamba_blocks: of the Mamba stack; retrieval_mamba_blocks: of that in C3, where it must not lack size.
        batch: prompts per update, as in the paper.
        every: updates between two looks at the error.
        look_prompts: prompts per look; final_prompts: fresh ones for the figure that is judged (the paper: 1280).
        parity_dim, parity_points: of sparse parity; the product has two factors.
        parity_steps: most updates of Mamba, MambaFormer and the ablation; the standard hybrid gets twice as many.
        parity_transformer_steps: updates of the transformer.
        parity_solved: error of the last five labels at which training stops.
        retrieval_dim, retrieval_pairs, retrieval_queries: of vector-valued retrieval.
        retrieval_steps: most updates of every model.
        retrieval_solved: squared error at which training stops.
        regression_dim, regression_points, regression_steps: of linear regression.
        outlier_tasks, outlier_dim: the tasks of C6 and their dimension.
        many_points, many_probability, orthogonal_points: pairs per prompt, outliers included, and their share.
        outlier_steps: updates of every model on them.
        curriculum: let dimension and length of regression and outlier prompts grow over the first third, as the
            paper does; dimensions of 4 need none.
        parity_lr, retrieval_lr, regression_lr, outlier_lr: learning rates of Adam.
        timing_steps: updates per timing.
        seeds: models per architecture and task.
    """

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    heads: Annotated[int, Field(ge=1)] = 4
    state: Annotated[int, Field(ge=1)] = 16
    transformer_depth: Blocks = 2
    hybrid_depth: Blocks = 2
    mambaformer_depth: Blocks = 1
    mamba_blocks: Blocks = 2
    retrieval_mamba_blocks: Blocks = 3
    batch: Annotated[int, Field(ge=1)] = 64
    every: Annotated[int, Field(ge=1)] = 25
    look_prompts: Annotated[int, Field(ge=2)] = 256
    final_prompts: Annotated[int, Field(ge=2)] = 1280
    parity_dim: Annotated[int, Field(ge=2, le=20)] = 4
    parity_points: Annotated[int, Field(ge=LAST_LABELS)] = 12
    parity_steps: Steps = 1500
    parity_transformer_steps: Steps = 3000
    parity_solved: Rate = 0.035
    retrieval_dim: Annotated[int, Field(ge=1)] = 16
    retrieval_pairs: Annotated[int, Field(ge=2)] = 8
    retrieval_queries: Annotated[int, Field(ge=1)] = 8
    retrieval_steps: Steps = 900
    retrieval_solved: Rate = 0.03
    regression_dim: Annotated[int, Field(ge=1)] = 3
    regression_points: Annotated[int, Field(ge=2)] = 8
    regression_steps: Steps = 1200
    outlier_tasks: Annotated[tuple[OutlierTask, ...], Field(min_length=1)] = ("many-outlier",)
    outlier_dim: Annotated[int, Field(ge=3)] = 4
    many_points: Annotated[int, Field(ge=4)] = 40
    many_probability: Annotated[float, Field(ge=0, lt=1)] = 0.75
    orthogonal_points: Annotated[int, Field(ge=4)] = 20
    outlier_steps: Steps = 400
    curriculum: bool = False
    parity_lr: Rate = 3e-3
    retrieval_lr: Rate = 2e-3
    regression_lr: Rate = 4e-3
    outlier_lr: Rate = 3e-3
    timing_steps: Annotated[int, Field(ge=2)] = 20

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; allowed: a divisor of the width {self.width}")
        if self.retrieval_queries > self.retrieval_pairs:
            raise ValueError(
                f"retrieval_queries is {self.retrieval_queries}; allowed: at most the {self.retrieval_pairs} pairs"
            )
        return self


PRESETS: dict[Scale, dict[str, Any]] = {
    "smoke": {
        "width": 8,
        "heads": 2,
        "state": 2,
        "transformer_depth": 1,
        "hybrid_depth": 1,
        "mamba_blocks": 1,
        "retrieval_mamba_blocks": 1,
        "batch": 4,
        "every": 2,
        "look_prompts": 8,
        "final_prompts": 16,
        "parity_points": 6,
        "parity_steps": 4,
        "parity_transformer_steps": 6,
        "retrieval_dim": 4,
        "retrieval_pairs": 3,
        "retrieval_queries": 2,
        "retrieval_steps": 4,
        "regression_steps": 4,
        "outlier_tasks": ("many-outlier", "orthogonal-outlier"),
        "many_points": 8,
        "orthogonal_points": 8,
        "outlier_steps": 4,
        "timing_steps": 2,
        "seeds": 1,
    },
    "laptop": {},
    "gpu": {
        "width": 128,
        "heads": 8,
        "transformer_depth": 4,
        "hybrid_depth": 4,
        "mambaformer_depth": 4,
        "mamba_blocks": 8,
        "retrieval_mamba_blocks": 8,
        "every": 100,
        "look_prompts": 512,
        "parity_dim": 10,
        "parity_points": 60,
        "parity_steps": 8000,
        "parity_transformer_steps": 16_000,
        "parity_solved": 0.04,
        "retrieval_dim": 20,
        "retrieval_pairs": 32,
        "retrieval_queries": 16,
        "retrieval_steps": 8000,
        "regression_dim": 10,
        "regression_points": 21,
        "regression_steps": 10_000,
        "outlier_tasks": ("many-outlier", "orthogonal-outlier"),
        "outlier_dim": 20,
        "many_points": 512,
        "many_probability": 0.9,
        "orthogonal_points": 101,
        "outlier_steps": 2500,
        "curriculum": True,
        "parity_lr": 4e-4,
        "retrieval_lr": 4e-4,
        "regression_lr": 4e-4,
        "outlier_lr": 4e-4,
        "timing_steps": 50,
    },
}
