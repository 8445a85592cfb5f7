"""What the study measures, and with how much of it. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from superpose.experiment import StudyConfig

LOSSES = ("log", "linear", "squared")
KINDS: tuple[str, ...] = ("cyclic", "acyclic")
TIED = 0.5  # pairs whose score gap over C(t) is below this count as tied in training
# Shares of the plain descent: at 20,000 updates these are 200, 2000 and 20,000 (N5) and 8000 (N3).
GROWTH_AT, FINITE_AT = (0.01, 0.1, 1.0), 0.4
PLAIN_AT = (0.001, 0.003, *GROWTH_AT[:2], 0.03, 0.2, FINITE_AT, 0.7, GROWTH_AT[2])
NORMALISED_AT = (0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)  # judged at 1, and gone on to 2

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Shape = tuple[Annotated[int, Field(ge=3)], Annotated[int, Field(ge=3)], Count, Annotated[int, Field(ge=2)]]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        seeds: data sets of every kind, each with its own embeddings, prompts and initial weights; 10 in the paper.
        shape: vocabulary, width, prompts and tokens per prompt of a data set; as in the paper.
        trained_shape: the same for what is trained by normalised gradients.
        trained_sets: at most so many of the data sets are trained by normalised gradients.
        trained_kinds: which kinds; large random data sets are never acyclic.
        steps, lr: of the normalised gradient descent; as in the paper. It goes on to twice as many, unjudged.
        plain_steps, plain_lr: of plain gradient descent.
        crowded_prompts: prompts of data sets with larger components, in which the soft component is rarely 0.
        penalties: of the regularisation path, falling.
        radii: norms at which three losses are minimised, rising.
        local_steps, local_lr: of the squared loss with the embeddings as classifier; as in the paper.
        unseen: prompts per data set on which the automaton is compared beside the training prompts.
        text_window: characters per prompt of the text.
        text_steps, text_lr: of plain gradient descent on the text.
    """

    seeds: Count = 40
    shape: Shape = (6, 8, 6, 4)
    trained_shape: Shape = (6, 8, 6, 4)
    trained_sets: Count = 40
    trained_kinds: tuple[Literal["cyclic"], Literal["acyclic"]] | tuple[Literal["cyclic"]] = ("cyclic", "acyclic")
    steps: Annotated[int, Field(ge=20)] = 4000
    lr: Rate = 0.01
    plain_steps: Annotated[int, Field(ge=1000)] = 20_000
    plain_lr: Rate = 1.0
    crowded_prompts: Count = 24
    penalties: Annotated[tuple[Rate, ...], Field(min_length=2)] = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
    radii: Annotated[tuple[Rate, ...], Field(min_length=2)] = (10, 20, 40)
    local_steps: Annotated[int, Field(ge=20)] = 2000
    local_lr: Rate = 0.1
    unseen: Count = 20
    text_window: Annotated[int, Field(ge=2, le=32)] = 8
    text_steps: Annotated[int, Field(ge=20)] = 4000
    text_lr: Rate = 50.0

    @field_validator("shape", "trained_shape")
    @classmethod
    def _fits(cls, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        vocabulary, width, _, length = shape
        if vocabulary > width or length > vocabulary:
            raise ValueError("allowed: vocabulary <= width (independent embeddings), tokens per prompt <= vocabulary")
        return shape

    @field_validator("penalties")
    @classmethod
    def _falling(cls, penalties: tuple[float, ...]) -> tuple[float, ...]:
        if list(penalties) != sorted(set(penalties), reverse=True):
            raise ValueError("allowed: falling penalties")
        return penalties

    @field_validator("radii")
    @classmethod
    def _rising(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if list(radii) != sorted(set(radii)):
            raise ValueError("allowed: rising norms")
        return radii
