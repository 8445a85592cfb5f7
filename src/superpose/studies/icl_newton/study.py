"""Claims, presets and measures of the paper on Newton's method in context. Imports no torch."""

from superpose.experiment import Claim, Run, Study, all_of, at_least, at_most, below
from superpose.experiment.claim import Scale
from superpose.studies.icl_newton.config import GPU, SMOKE, Config
from superpose.studies.icl_newton.figures import FIGURES

ALL: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
MAIN: tuple[Scale, ...] = ("laptop", "gpu")

study = Study(
    slug="icl-newton",
    title="How Well Can Transformers Emulate In-context Newton's Method?",
    room="models",
    paper="Giannou, Yang, Wang, Papailiopoulos, Lee; AISTATS 2025, arXiv 2403.03183",
    card="docs/icl-newton.md",
    summary=(
        "A transformer of linear attention and ReLU layers can run Newton's method on the examples in its prompt. The "
        "study builds such transformers with written-down weights, runs them, and counts what each digit costs in "
        "depth and width; trained linear transformers stand beside them."
    ),
    config=Config,
    presets={"smoke": SMOKE, "laptop": {}, "gpu": GPU},
    claims=(
        Claim(
            id="N1",
            sentence=(
                "Two layers of linear attention alone, without ReLU, do one step of Newton's iteration for matrix "
                "inversion."
            ),
            paper_figure="theorem: two layers",
            criteria={
                scale: all_of(
                    below("largest-relative-error", 1e-12),
                    at_most("layers", 2),
                    at_least("layers", 2),
                    at_most("relu-units", 0),
                )
                for scale in ALL
            },
        ),
        Claim(
            id="N2",
            sentence=(
                "Stacked, they converge quadratically: 2 log2(kappa) + log2 log(1/eps) steps, up to a constant, reach "
                "a residual of eps."
            ),
            paper_figure="k <= 2 log kappa + log log(...)",
            criteria={scale: at_most("largest-difference-in-steps", 1) for scale in ALL},
        ),
        Claim(
            id="N3",
            sentence=(
                "A transformer of linear attention and ReLU layers approximates damped Newton for logistic regression, "
                "as closely as its width allows."
            ),
            paper_figure="theorem",
            criteria={
                scale: all_of(
                    below("largest-distance", 1e-4),
                    below("largest-step-difference", 1e-4),
                    at_least("smallest-fall", 8),
                )
                for scale in MAIN
            },
        ),
        Claim(
            id="N4",
            sentence="A smaller error eps takes only logarithmically more layers.",
            paper_figure="depth T (11 + 2k)",
            criteria={
                scale: all_of(
                    at_most("largest-growth", 2.5),
                    at_most("growth.mu-0.001", 1.6),
                    at_least("descent-growth.mu-0.001", 4),
                    at_least("descent-growth.mu-0.0001", 4),
                )
                for scale in MAIN
            },
        ),
        Claim(
            id="N5",
            sentence=(
                "A Newton step takes at most 11 + 2k blocks, k of the inner steps, and a width that is polynomial in "
                "1/eps."
            ),
            paper_figure="11 + 2k blocks; width O(d / eps^4) (exponents from memory)",
            criteria={
                "smoke": at_most("blocks-above-bound", 0),
                **{
                    scale: all_of(
                        at_most("blocks-above-bound", 0), at_least("smallest-slope", 0.4), at_most("largest-slope", 0.6)
                    )
                    for scale in MAIN
                },
            },
        ),
        Claim(
            id="N6",
            sentence="Linear attention also does linear regression by a second-order method, ahead of descent.",
            paper_figure="none: a by-product",
            criteria={scale: below("largest-ratio", 1e-3) for scale in ALL},
        ),
        Claim(
            id="D1",
            sentence=(
                "Trained linear-attention transformers of one and two layers approach or beat as many of Newton's "
                "iterates for the inverse, started as in the theorem from a multiple of the transposed matrix."
            ),
            paper_figure="curves over layers",
            criteria={scale: all_of(*(at_most(f"ratio-general.depth-{n}", 1.1) for n in (1, 2))) for scale in MAIN},
        ),
        Claim(
            id="D2",
            sentence=(
                "They also approach or beat iterates from a better start than the theorem's, the best multiple of the "
                "identity for each prompt."
            ),
            paper_figure="none: a stronger baseline than the paper's",
            criteria={scale: all_of(*(at_most(f"ratio-spd.depth-{n}", 1.1) for n in (1, 2))) for scale in MAIN},
        ),
        Claim(
            id="D3",
            sentence=(
                "Trained on logistic regression, one and two layers come within .01 nats of as many steps of damped "
                "Newton, or below."
            ),
            paper_figure="curves over layers",
            criteria={scale: all_of(*(at_most(f"excess-loss.depth-{n}", 0.01) for n in (1, 2))) for scale in MAIN},
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("N1", "N2")
def inverse(run: Run[Config]) -> None:
    """The built network for the inverse: one step, and many."""
    from superpose.studies.icl_newton.measures import measure_inverse

    measure_inverse(run)


@study.measured_by("N3", "N5")
def logistic(run: Run[Config]) -> None:
    """The built network for logistic regression over sizes, penalties and widths."""
    from superpose.studies.icl_newton.measures import measure_logistic

    measure_logistic(run)


@study.measured_by("N4")
def depth(run: Run[Config]) -> None:
    """The fewest blocks for each accuracy."""
    from superpose.studies.icl_newton.measures import measure_depth

    measure_depth(run)


@study.measured_by("N6")
def regression(run: Run[Config]) -> None:
    """Built Newton and gradient-descent transformers at equal depth."""
    from superpose.studies.icl_newton.measures import measure_regression

    measure_regression(run)


@study.measured_by("D1", "D2", "D3")
def trained(run: Run[Config]) -> None:
    """Trained transformers beside the iterates."""
    from superpose.studies.icl_newton.trained_measures import measure_trained

    measure_trained(run)
