"""What the study trains, and how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        dim: coordinates of an input in linear regression and in 2-layer networks (the paper: 20).
        sparse_dim, sparsity: coordinates and nonzeros in sparse regression (the paper: 20 and 3).
        points: examples per prompt, the last of which is the query (the paper: 41; 101 for networks).
        hidden: hidden units of the 2-layer networks that are to be learned (the paper: 100).
        width, heads: of both models (the paper: 256 and 8).
        layers: of the standard transformer; the looped one has a single layer (the paper: 12).
        loops, window: b, how often the looped model is applied at the end of training, and T, over how many of the
            last loops it is trained (the paper: 20 and 15 for linear regression, 20 and 10 for sparse).
        loop_interval: updates between two additional loops, from T to b by 2 (the paper: 500).
        dims_interval: updates between two additional coordinates, each with two examples more (the paper: 5000).
        batch: prompts per update (the paper: 64).
        looped_rate, transformer_rate: Adam's learning rates (the paper: 1e-4 for both).
        looped_steps, transformer_steps: updates of the models that are compared on linear regression.
        sparse_looped_steps, sparse_transformer_steps: updates on sparse regression.
        network_looped_steps, network_transformer_steps: updates on 2-layer networks, which are learned sooner.
        ablation_steps: updates of the looped models that lack a part of the recipe; the complete recipe is read off
            at the same number, which its evaluations must include.
        evaluate_every: updates between two evaluations.
        prompts: in every evaluation, and in the final one (the paper: 1280).
        probe_prompts: on which probes are trained, and as many on which they are read off.
        probe_steps: updates of the probes.
        timing_steps: timed updates per stage of the curriculum; at least 40 on an accelerator, which is read late.
        seeds: models per arm.
    """

    dim: Count = 3
    sparse_dim: Count = 4
    sparsity: Count = 1
    points: Annotated[int, Field(ge=2)] = 8
    hidden: Count = 4
    width: Count = 32
    heads: Count = 4
    layers: Annotated[int, Field(ge=2)] = 12
    loops: Annotated[int, Field(ge=4, multiple_of=4)] = 12
    window: Count = 6
    loop_interval: Count = 100
    dims_interval: Count = 200
    batch: Count = 32
    looped_rate: Rate = 2e-3
    transformer_rate: Rate = 1e-3
    looped_steps: Count = 4000
    transformer_steps: Count = 3000
    sparse_looped_steps: Count = 2500
    sparse_transformer_steps: Count = 1900
    network_looped_steps: Count = 1250
    network_transformer_steps: Count = 900
    ablation_steps: Count = 1750
    evaluate_every: Count = 250
    prompts: Annotated[int, Field(ge=2)] = 1024
    probe_prompts: Annotated[int, Field(ge=2)] = 4096
    probe_steps: Count = 500
    timing_steps: Annotated[int, Field(ge=2)] = 8

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; allowed: a divisor of width {self.width}")
        if self.window >= self.loops:
            raise ValueError(f"window is {self.window}; allowed: less than loops {self.loops}")
        if self.sparsity > self.sparse_dim:
            raise ValueError(f"sparsity is {self.sparsity}; allowed: at most sparse_dim {self.sparse_dim}")
        if self.ablation_steps % self.evaluate_every or self.ablation_steps > self.looped_steps:
            raise ValueError(
                f"ablation_steps is {self.ablation_steps}; allowed: a multiple of evaluate_every "
                f"{self.evaluate_every}, at most looped_steps {self.looped_steps}"
            )
        return self
