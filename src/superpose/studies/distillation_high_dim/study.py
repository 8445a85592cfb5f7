"""Claims, configs, figures and measures of the paper on distillation in high dimension. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, at_least, at_most
from superpose.experiment.claim import Scale
from superpose.studies.distillation_high_dim.config import Config
from superpose.studies.distillation_high_dim.figures import FIGURES

MAIN_SCALES: tuple[Scale, ...] = ("laptop", "gpu")
ALL_SCALES: tuple[Scale, ...] = ("smoke", "laptop", "gpu")

study = Study(
    slug="distillation-high-dim",
    title="High-dimensional Analysis of Knowledge Distillation: Weak-to-Strong Generalization and Scaling Laws",
    room="theory",
    paper="Ildiz, Gozeten, Taga, Mondelli, Oymak; ICLR 2025, arXiv 2410.18837",
    card="docs/distillation-high-dim.md",
    summary=(
        "If a student interpolates the labels of a linear teacher, its risk has a closed form, and the best teacher is "
        "not the truth: it amplifies strong features and shrinks weak ones. The study checks the form, the gain over "
        "true labels, that the scaling law stays the same, and what is left of it on real features and networks."
    ),
    config=Config,
    presets={
        "smoke": {
            "features": 60,
            "samples": (10, 24, 40),
            "figure_samples": 24,
            "runs": 10,
            "concentration_features": (20, 40, 80),
            "concentration_runs": 20,
            "brute_features": 8,
            "scaling_features": 20_000,
            "scaling_samples": (50, 100, 200),
            "simulated_features": 100,
            "simulated_samples": (10, 20),
            "shift_features": 30,
            "classical_features": 10,
            "classical_samples": 30,
            "random_features": 100,
            "digit_samples": (10, 20),
            "surrogate_widths": (2,),
            "target_width": 4,
            "train_steps": 4,
            "seeds": 1,
        },
        "laptop": {},
        "gpu": {
            "features": 4000,
            "samples": (400, 800, 1600, 2800, 3600),
            "figure_samples": 1600,
            "concentration_features": (100, 200, 400, 800, 1600, 3200),
            "simulated_features": 4000,
            "shift_features": 2400,
            "surrogate_widths": (2, 4, 8, 16),
            "train_steps": 1000,
            "seeds": 20,
        },
    },
    claims=(
        Claim(
            id="K1",
            sentence=(
                "The risk of a min-norm target on labels of any surrogate (model shift) is given precisely by a "
                "closed form in the spectrum and the number of samples."
            ),
            paper_figure="theorem; curves on markers",
            criteria={scale: at_most("largest-distance-over-allowed", 1) for scale in MAIN_SCALES},
        ),
        Claim(
            id="K2",
            sentence="The characterisation is non-asymptotic: the risk concentrates around it as the features grow.",
            paper_figure="theorem: a bound whose constants it does not evaluate",
            criteria={
                scale: all_of(at_least("slope.true", -0.8), at_most("slope.true", -0.3)) for scale in MAIN_SCALES
            },
        ),
        Claim(
            id="K3",
            sentence=(
                "The optimal surrogate has a closed form that amplifies strong features and shrinks weak ones; the "
                "transition is where 1 - zeta equals Omega."
            ),
            paper_figure="Fig. 1a",
            criteria={
                scale: all_of(at_most("largest-difference", 1e-6), at_least("criterion-agrees", 1))
                for scale in ALL_SCALES
            },
        ),
        Claim(
            id="K4",
            sentence=(
                "Discarding weak features helps, in a data-dependent way: the best mask keeps the features whose "
                "1 - zeta^2 exceeds Omega, and its labels beat true labels."
            ),
            paper_figure="proposition: keep where 1 - zeta^2 > Omega",
            criteria={
                "smoke": at_most("coordinates-unlike-the-best-mask", 0),
                **{
                    scale: all_of(
                        at_most("coordinates-unlike-the-best-mask", 0),
                        at_least("smallest-change-by-one-feature", 0),
                        at_least("gap-in-standard-errors", 3),
                    )
                    for scale in MAIN_SCALES
                },
            },
        ),
        Claim(
            id="K5",
            sentence="Training on a weak surrogate's labels can beat training on true labels of the same data budget.",
            paper_figure="Fig. 1 (by the closed form at 200 samples: .083 and .090 against .119)",
            criteria={
                scale: all_of(at_least("improvement.optimal", 0.15), at_least("improvement.mask", 0.15))
                for scale in MAIN_SCALES
            },
        ),
        Claim(
            id="K6",
            sentence="No surrogate improves the data scaling law: the risk falls at the same rate as on true labels.",
            paper_figure="proposition: exponent min(beta - 1, 2 alpha)",
            criteria={
                scale: all_of(
                    at_most("largest-gap-between-labels", 0.05),
                    at_most("largest-gap-to-exponent", 0.05),
                    at_most("simulated.largest-gap-to-exponent", 0.15),
                )
                for scale in MAIN_SCALES
            },
        ),
        Claim(
            id="K7",
            sentence=(
                "The risk is also given precisely where the surrogate was itself fitted, to data of another "
                "distribution (distribution shift)."
            ),
            paper_figure="theorem; curves on markers",
            criteria={scale: at_most("largest-distance-over-allowed", 1) for scale in MAIN_SCALES},
        ),
        Claim(
            id="K8",
            sentence="With more samples than features the truth is the best surrogate: nothing is to be gained.",
            paper_figure="proposition",
            criteria={
                scale: all_of(above("more-risk-at-0.9", 0), above("more-risk-at-1.1", 0)) for scale in MAIN_SCALES
            },
        ),
        Claim(
            id="K9",
            sentence=(
                "Neural networks: a large target trained on a small surrogate's labels is better than the surrogate, "
                "but not than the same target trained on true labels."
            ),
            paper_figure="ResNet-50 on CIFAR-10 with labels of three small CNNs",
            criteria={
                scale: all_of(at_least("smallest-gain", 0), above("smallest-below-true", 0)) for scale in MAIN_SCALES
            },
        ),
        Claim(
            id="K10",
            sentence="The theory, and the gain of shaped labels over true ones, hold on real, non-Gaussian features.",
            paper_figure="none: our check",
            criteria={
                scale: all_of(at_most("largest-distance", 0.08), at_least("smallest-improvement", 0.15))
                for scale in MAIN_SCALES
            },
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("K1", "K5")
def labels(run: Run[Config]) -> None:
    """Students of true labels, of the optimal surrogate's and of the mask's."""
    from superpose.studies.distillation_high_dim.measures import measure_labels

    measure_labels(run)


@study.measured_by("K2")
def concentration(run: Run[Config]) -> None:
    """The spread of the risk against the number of features."""
    from superpose.studies.distillation_high_dim.measures import measure_concentration

    measure_concentration(run)


@study.measured_by("K3")
def form(run: Run[Config]) -> None:
    """The optimal surrogate's formula against a numerical minimum."""
    from superpose.studies.distillation_high_dim.measures import measure_form

    measure_form(run)


@study.measured_by("K4")
def discarding(run: Run[Config]) -> None:
    """The mask's criterion against all masks, and its labels against true ones."""
    from superpose.studies.distillation_high_dim.measures import measure_masks

    measure_masks(run)


@study.measured_by("K6")
def scaling(run: Run[Config]) -> None:
    """Exponents of the risk."""
    from superpose.studies.distillation_high_dim.measures import measure_scaling

    measure_scaling(run)


@study.measured_by("K7")
def shift(run: Run[Config]) -> None:
    """Surrogates fitted on other inputs."""
    from superpose.studies.distillation_high_dim.measures import measure_shift

    measure_shift(run)


@study.measured_by("K8")
def classical(run: Run[Config]) -> None:
    """Scaled surrogates with more samples than features."""
    from superpose.studies.distillation_high_dim.measures import measure_classical

    measure_classical(run)


@study.measured_by("K9")
def networks(run: Run[Config]) -> None:
    """A large network taught by small ones."""
    from superpose.studies.distillation_high_dim.measures import measure_networks

    measure_networks(run)


@study.measured_by("K10")
def digits(run: Run[Config]) -> None:
    """Random features of real images."""
    from superpose.studies.distillation_high_dim.measures import measure_digits

    measure_digits(run)
