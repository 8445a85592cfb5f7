"""What is measured, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field

from superpose.experiment import StudyConfig

PROMPT_LENGTH = 12  # tokens per uniform prompt where chains are learned
TEACHER_CONCENTRATION = 5.0  # of the Dirichlet rows of chains that are learned: no probability is tiny
CHAINS = {  # rows of the two-token chains on which the first token wins
    "even": ((0.7, 0.3), (0.7, 0.3)),
    "contested": ((0.8, 0.2), (0.4, 0.6)),
    "slow": ((0.6, 0.4), (0.9, 0.1)),
}
SETTLING = {  # no token dominates its own row: all stay in the first two, the pair takes everything in the last
    "two-tokens": ((0.4, 0.6), (0.7, 0.3)),
    "four-tokens": ((0.02, 0.51, 0.37, 0.1), (0.31, 0.08, 0.41, 0.2), (0.1, 0.3, 0.01, 0.59), (0.39, 0.47, 0.09, 0.05)),
    "pair": ((0.1, 0.1, 0.1, 0.7), (0.1, 0.1, 0.2, 0.6), (0.3, 0.1, 0.1, 0.5), (0.7, 0.1, 0.1, 0.1)),
}


class Config(StudyConfig):
    """How much of everything is measured.

    Attributes:
        tokens, width: of the random layers on which the identities are checked.
        layers: random layers; each reads ``prompts`` prompts of 1 to ``length`` tokens.
        prompts: prompts per layer.
        length: longest prompt.
        supports: random sets of prompts on which ranks and components are compared.
        coverage_sets: chains that are learned from prompts which leave some rows uncovered.
        coverage_samples: most samples per chain there.
        sizes: vocabularies whose sample complexity is measured.
        samples: numbers of samples; the first ones of the largest.
        teachers: independent chains per vocabulary: at the smallest vocabulary the mean excess loss of 64 of them is
            known to a tenth.
        gd_width: of the layer trained by gradient descent; wider random embeddings are better conditioned.
        gd_samples: samples that it is trained on.
        gd_steps: updates.
        trajectories: chains that write, each kind.
        steps: tokens that each writes where tokens win or settle.
        growth_steps: tokens that each writes where exponents are fitted.
        information_trajectories: those among them whose Fisher information is added up.
        model: the language model of M10.
        other_models: further ones; those not in the cache are skipped, and the run says so.
        text_prompts: prompts to it, at most the sixteen of the study.
        new_tokens: tokens that it writes after each.
        window: tokens per window in which different tokens are counted.
        dtype: of the language models.
        seeds: trainings by gradient descent.
    """

    tokens: Annotated[int, Field(ge=2)] = 6
    width: Annotated[int, Field(ge=2)] = 9
    layers: Annotated[int, Field(ge=1)] = 20
    prompts: Annotated[int, Field(ge=2)] = 200
    length: Annotated[int, Field(ge=2)] = 64
    supports: Annotated[int, Field(ge=1)] = 200
    coverage_sets: Annotated[int, Field(ge=2)] = 24
    coverage_samples: Annotated[int, Field(ge=64)] = 20_000
    sizes: Annotated[tuple[Annotated[int, Field(ge=2, le=8)], ...], Field(min_length=1)] = (4, 6, 8)
    samples: Annotated[tuple[Annotated[int, Field(ge=10)], ...], Field(min_length=2)] = (1000, 4000, 16_000, 64_000)
    teachers: Annotated[int, Field(ge=2)] = 64
    gd_width: Annotated[int, Field(ge=6)] = 16
    gd_samples: Annotated[int, Field(ge=10)] = 1000
    gd_steps: Annotated[int, Field(ge=1)] = 4000
    trajectories: Annotated[int, Field(ge=8)] = 300
    steps: Annotated[int, Field(ge=64)] = 20_000
    growth_steps: Annotated[int, Field(ge=64)] = 30_000
    information_trajectories: Annotated[int, Field(ge=4)] = 100
    model: str = "smollm2-135m-instruct-q4_1"
    other_models: tuple[str, ...] = ()
    text_prompts: Annotated[int, Field(ge=2, le=16)] = 16
    new_tokens: Annotated[int, Field(ge=16)] = 256
    window: Annotated[int, Field(ge=8)] = 64
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"
    seeds: Annotated[int, Field(ge=1)] = 5


SMOKE = {
    "layers": 2,
    "prompts": 20,
    "length": 16,
    "supports": 10,
    "coverage_sets": 2,
    "coverage_samples": 512,
    "samples": (100, 400),
    "teachers": 2,
    "gd_samples": 50,
    "gd_steps": 20,
    "trajectories": 16,
    "steps": 256,
    "growth_steps": 256,
    "information_trajectories": 8,
    "model": "random-llama",
    "text_prompts": 2,
    "new_tokens": 32,
    "window": 16,
    "seeds": 1,
}
GPU = {
    "layers": 100,
    "coverage_sets": 100,
    "teachers": 256,
    "gd_steps": 20_000,
    "trajectories": 1000,
    "steps": 200_000,
    "growth_steps": 200_000,
    "other_models": ("gemma3-270m-q4_k_m",),
    "new_tokens": 512,
}
