"""What the study measures, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=2)]
Runs = Annotated[int, Field(ge=5)]
Features = Annotated[int, Field(ge=10)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        features: of the simulations against the theory; 500 as in the paper's figure 1.
        samples: of the target there; K4 and K5 look at ``figure_samples``, one of them.
        figure_samples: 200 as in the paper's figure 1.
        noise: variance of the labels in the second half of K1's settings (the first half has none).
        runs: data sets per setting; every kind of label sees the same inputs and noise.
        concentration_features: sizes at which the spread of the risk is measured, at 2.5 features per sample.
        concentration_runs: data sets per size: at 400 a slope over a factor of eight is known to about .03.
        brute_features: of the masks that are all tried (K4).
        scaling_features: of the closed form in K6, so many that the slopes stand still.
        scaling_samples: between which they are read off.
        simulated_features, simulated_samples: of the simulation in K6.
        shift_features: of the two-stage settings.
        classical_features, classical_samples: of least squares with more samples than features (K8).
        random_features: ReLU features of the digits in K10.
        digit_samples: labelled digits of the student there.
        surrogate_widths: of the small networks that label for the large one (K9).
        target_width: of the large one.
        surrogate_images: true labels that a small network sees; the large one sees ``target_images`` others.
        train_steps: updates of each network, of 64 images.
        seeds: splits of the digits and initial weights in K9.
    """

    features: Features = 500
    samples: Counts = (50, 100, 200, 350, 450)
    figure_samples: Count = 200
    noise: Annotated[float, Field(gt=0)] = 0.05
    runs: Runs = 100
    concentration_features: Counts = (100, 200, 400, 800)
    concentration_runs: Runs = 400
    brute_features: Annotated[int, Field(ge=6, le=16)] = 14
    scaling_features: Features = 2_000_000
    scaling_samples: Counts = (50, 100, 200, 400, 800, 1600)
    simulated_features: Features = 1000
    simulated_samples: Counts = (20, 40, 80, 160)
    shift_features: Annotated[int, Field(ge=30)] = 300
    classical_features: Features = 100
    classical_samples: Count = 300
    random_features: Features = 600
    digit_samples: Counts = (60, 120, 240)
    surrogate_widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 4)
    target_width: Count = 32
    surrogate_images: Annotated[int, Field(ge=10)] = 300
    target_images: Annotated[int, Field(ge=10)] = 897
    train_steps: Count = 600
    seeds: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.figure_samples not in self.samples:
            raise ValueError(f"figure_samples is {self.figure_samples}; allowed: one of samples, {self.samples}")
        for name, samples, features in (
            ("samples", self.samples, self.features),
            ("scaling_samples", self.scaling_samples, self.scaling_features),
            ("simulated_samples", self.simulated_samples, self.simulated_features),
            ("digit_samples", self.digit_samples, self.random_features),
        ):
            if max(samples) >= features:
                raise ValueError(f"{name} goes up to {max(samples)}; allowed: below the {features} features")
        if self.classical_samples < self.classical_features + 2:
            raise ValueError(f"classical_samples is {self.classical_samples}; allowed: classical_features + 2 or more")
        if self.surrogate_images + self.target_images > 1697:
            raise ValueError("surrogate_images and target_images leave fewer than 100 of 1797 digits to test on")
        return self
