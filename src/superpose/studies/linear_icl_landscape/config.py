"""What the study on linear in-context learners measures, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig

Length = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(ge=0, le=1)]
Variance = Annotated[float, Field(gt=0)]
# Errors are averaged in a hundred blocks.
Prompts = Annotated[int, Field(ge=200, multiple_of=100)]

WIDE_SPECTRUM = tuple(round(4 * 0.8**i, 4) for i in range(20))


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        dim: coordinates of an input, of everything that is trained.
        lengths: examples per prompt on which layers are trained (I1, I2).
        noise: label noise of one more training, in standard deviations: a variance of one half.
        noisy_length: examples of that training and of those on retrieved and aligned prompts.
        steps, batch, lr: of every training: Adam with cosine decay. The paper has 10,000 steps at 1e-3 and 20 restarts.
        restarts: initial weights of which the best is trained (I1, I3, I4, I5); 1 takes what comes.
        drift_length: examples per prompt of I3.
        rhos: how much of the task is kept from one example to the next (I3).
        rag_alphas, aligned_alphas: designs of the trained layers of I4 and I5.
        sampled_prompts: prompts behind every sampled risk of a closed form.
        test_prompts: prompts on which trained layers are tested.
        spectrum: variances of the tasks' coordinates, of I6 and before the shift of I7.
        shifted_spectrum: after the shift (I7).
        ranks: of the query and key matrices that are trained (I6).
        rank_restarts: initial weights of which the best is trained (I6).
        restart_steps: updates after which it is chosen.
        lora_length, lora_steps: examples per prompt, and updates of every adapter (I7).
        feature_dim, feature_length, feature_prompts: of the comparison of whole classes of functions (I8).
        initial_weights: how many are trained to the end to see where they arrive (I9).
    """

    dim: Length = 5
    lengths: Annotated[tuple[Length, ...], Field(min_length=1)] = (5, 10, 20, 40)
    noise: Annotated[float, Field(ge=0)] = 0.5**0.5
    noisy_length: Length = 10
    steps: Length = 1000
    batch: Length = 256
    lr: Annotated[float, Field(gt=0)] = 1e-2
    restarts: Length = 1
    drift_length: Length = 20
    rhos: Annotated[tuple[Alpha, ...], Field(min_length=1)] = (0.8, 0.95)
    rag_alphas: Annotated[tuple[Alpha, ...], Field(min_length=1)] = (0.2, 0.5, 0.8)
    aligned_alphas: Annotated[tuple[Alpha, ...], Field(min_length=1)] = (0.2, 0.4, 0.6)
    sampled_prompts: Prompts = 400_000
    test_prompts: Prompts = 100_000
    spectrum: tuple[Variance, ...] = (4.0, 2.0, 1.0, 0.3, 0.1)
    shifted_spectrum: tuple[Variance, ...] = (0.3, 0.5, 4.0, 2.0, 1.0)
    ranks: Annotated[tuple[Length, ...], Field(min_length=1)] = (1, 2, 3, 5)
    rank_restarts: Length = 6
    restart_steps: Length = 200
    lora_length: Length = 12
    lora_steps: Length = 800
    feature_dim: Length = 3
    feature_length: Length = 8
    feature_prompts: Prompts = 400_000
    initial_weights: Length = 10

    @model_validator(mode="after")
    def _one_dimension(self) -> "Config":
        for name in ("spectrum", "shifted_spectrum"):
            if len(getattr(self, name)) != self.dim:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; allowed: dim = {self.dim}")
        if max(self.ranks) > self.dim:
            raise ValueError(f"ranks has {max(self.ranks)}; allowed: dim = {self.dim} or less")
        return self


SMOKE = {
    "dim": 2,
    "lengths": (2, 4),
    "noisy_length": 3,
    "steps": 4,
    "batch": 8,
    "drift_length": 3,
    "rhos": (0.9,),
    "rag_alphas": (0.5,),
    "aligned_alphas": (0.4,),
    "sampled_prompts": 1000,
    "test_prompts": 200,
    "spectrum": (2.0, 0.5),
    "shifted_spectrum": (0.5, 2.0),
    "ranks": (1, 2),
    "rank_restarts": 2,
    "restart_steps": 2,
    "lora_length": 3,
    "lora_steps": 4,
    "feature_dim": 2,
    "feature_length": 2,
    "feature_prompts": 2000,
    "initial_weights": 2,
    "seeds": 1,
}

GPU = {
    "dim": 20,
    "lengths": (10, 20, 40, 60, 80, 100),
    "noisy_length": 40,
    "steps": 5000,
    "batch": 1024,
    "restarts": 6,
    "drift_length": 40,
    "sampled_prompts": 2_000_000,
    "test_prompts": 500_000,
    "spectrum": WIDE_SPECTRUM,
    "shifted_spectrum": WIDE_SPECTRUM[7:] + WIDE_SPECTRUM[:7],
    "ranks": (1, 4, 8, 12, 20),
    "restart_steps": 1000,
    "lora_length": 40,
    "lora_steps": 4000,
    "feature_prompts": 2_000_000,
    "initial_weights": 20,
    "seeds": 5,
}
