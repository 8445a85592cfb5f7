"""What the study of dual operating modes measures, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field

from superpose.experiment import StudyConfig

# Prompts are averaged in a hundred blocks.
Prompts = Annotated[int, Field(ge=200, multiple_of=100)]
Delta = Annotated[float, Field(gt=0)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        draws: input means, and as many functions, drawn from every group in DM1's importance sampling.
        prompts: prompts per curve in DM2, DM4, DM5 and DM6; 20,000 as in Figure 4. Five deltas make the 100,000 on
            which the bounds are checked.
        ascent_prompts: prompts of DM3; half of them choose where the risk peaks, so that 40,000 report it.
        conditions: random priors on which the condition for early ascent is checked: at 95 % agreement an interval
            over 40 of them could not lie above 95 % even without a miss.
        condition_prompts: prompts for the risk without examples on each of them; half as many for the rise.
        dims: dimensions of the early-ascent prior; those of Figure 6.
        trained_deltas: priors on which transformers are trained and whose risks are put in order.
        trained_groups, trained_dims: further priors at delta 1/16 (gpu; Figures 10 and 11).
        width, layers: of the transformer (the paper: 1024 and 10).
        points: examples per training prompt (the paper: 32).
        train_steps, train_batch: of each training; 2000 updates of 64 prompts keep each of the six below
            three CPU minutes.
        trained_prompts: prompts on which a transformer is compared with the exact predictor.
        seeds: transformers per prior.
        model: the language model of DM8.
        other_models: further ones; those not in the cache are skipped, and the run says so.
        labels: the words for positive and negative, with the space before them.
        demonstrations: most labelled reviews in a prompt.
        label_prompts: orders of reviews; half of them choose the best number of demonstrations.
        dtype: of the language models.
    """

    draws: Annotated[int, Field(ge=1000)] = 1_000_000
    prompts: Prompts = 20_000
    ascent_prompts: Prompts = 80_000
    conditions: Annotated[int, Field(ge=1)] = 400
    condition_prompts: Annotated[int, Field(ge=4)] = 10_000
    dims: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 3, 5, 8)
    trained_deltas: Annotated[tuple[Delta, ...], Field(min_length=2)] = (1 / 16, 1.0)
    trained_groups: tuple[int, ...] = ()
    trained_dims: tuple[Annotated[int, Field(ge=2)], ...] = ()
    width: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    layers: Annotated[int, Field(ge=1)] = 4
    points: Annotated[int, Field(ge=2)] = 16
    train_steps: Annotated[int, Field(ge=1)] = 2000
    train_batch: Annotated[int, Field(ge=1)] = 64
    trained_prompts: Annotated[int, Field(ge=2)] = 4000
    model: str = "smollm2-135m-instruct-q4_1"
    other_models: tuple[str, ...] = ()
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] = (" positive", " negative")
    demonstrations: Annotated[int, Field(ge=1, le=256)] = 32
    label_prompts: Annotated[int, Field(ge=2)] = 32
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"
