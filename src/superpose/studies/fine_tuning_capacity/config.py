"""What the study builds, counts and trains, and how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, field_validator

from superpose.experiment import StudyConfig

SMALL = 256  # tuned samples up to which errors are held to 1e-6 instead of 1e-4
DEPTHS = (2, 3)
SUCCESS = 0.3  # a trained network has learned its data if no residual is farther from its target

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]


class Config(StudyConfig):
    """What is built, counted and trained.

    Attributes:
        seeds: independent draws of data, tuned samples, labels and frozen network.
        tuned: numbers of tuned samples, N.
        multiples: samples in all, K, as multiples of N.
        dims: dimensions of the inputs. In one dimension no direction can be chosen, so points are a jittered grid;
            otherwise they are Gaussian.
        tries: random directions of which the best is taken.
        certified: numbers of tuned samples whose networks are computed in exact rationals too.
        exhausted: K up to which every set of tuned samples with every label of -1, 0 and 1 is gone through.
        nets: random three-layer networks whose breaks are counted.
        planned: numbers of samples on which the planner is inverted.
        train_tuned: N of the trained side networks; K is twice that.
        train_steps: updates of each of them.
        restarts: independent networks, each with data of its own, per width.
        widest: largest width tried in two layers, over N; in three layers, over sqrt N times 4.
        digits_fixed: misread images whose class is put right, N.
        digits_trained: images on which the classifier is trained.
        digits_steps: updates of its training.
    """

    tuned: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 4, 16, 64, 256, 1024)
    multiples: Counts = (1, 4, 40)
    dims: Counts = (1, 8, 64)
    tries: Count = 32
    certified: Counts = (1, 2, 4, 8, 16)
    exhausted: Annotated[int, Field(ge=3, le=12)] = 10
    nets: Count = 2000
    planned: Count = 256
    train_tuned: Annotated[tuple[Count, ...], Field(min_length=2)] = (8, 32, 128)
    train_steps: Count = 3000
    restarts: Annotated[int, Field(ge=2)] = 6
    widest: Annotated[float, Field(gt=0)] = 3.0
    digits_fixed: Count = 32
    digits_trained: Annotated[int, Field(ge=50, le=1000)] = 300
    digits_steps: Count = 300

    @field_validator("tuned", "multiples", "train_tuned", "certified")
    @classmethod
    def _increase(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError("allowed: increasing numbers")
        return values
