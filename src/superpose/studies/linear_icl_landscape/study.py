"""Claims, presets and measures of the paper on in-context linear estimation. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, at_least, at_most
from superpose.experiment.claim import Criterion, Scale
from superpose.studies.linear_icl_landscape.config import GPU, SMOKE, Config
from superpose.studies.linear_icl_landscape.figures import FIGURES

# Relative distance from the optimum that training may leave, by scale.
TRAINED: dict[Scale, float] = {"laptop": 0.03, "gpu": 0.02}
SAMPLED = all_of(at_least("min-sampled-over-exact", 0.98), at_most("max-sampled-over-exact", 1.02))
# Exact risks do not depend on how much is computed.
LARGE = (at_least("slope-of-the-gap", -1.1), at_most("slope-of-the-gap", -0.9))


def _design(worth: str) -> dict[Scale, Criterion]:
    return {
        "smoke": all_of(*LARGE),
        **{
            scale: all_of(
                SAMPLED,
                *LARGE,
                at_least(worth, 0.95),
                at_most(worth, 1.05),
                at_most("trained.largest-risk-gap", bound),
            )
            for scale, bound in TRAINED.items()
        },
    }


study = Study(
    slug="linear-icl-landscape",
    title="Fine-grained Analysis of In-context Linear Estimation: Data, Architecture, and Beyond",
    room="theory",
    paper="Yingcong Li, Ankit Singh Rawat, Samet Oymak; NeurIPS 2024, arXiv 2407.10005",
    card="docs/linear-icl-landscape.md",
    summary=(
        "One layer of linear attention or H3, trained on linear regression prompts, takes one preconditioned gradient "
        "step. Its best risk has a closed form for independent, retrieved, task-aligned and drifting examples, for "
        "low-rank weights and for LoRA; the study trains the layers and holds them against it."
    ),
    config=Config,
    presets={"smoke": SMOKE, "laptop": {}, "gpu": GPU},
    claims=(
        Claim(
            id="I1",
            sentence=(
                "One layer of linear attention, trained on independent examples, takes one step of preconditioned "
                "gradient descent with the best preconditioner."
            ),
            paper_figure="theorem; trained curves lie on the theory's",
            criteria={
                scale: all_of(at_most("largest-risk-gap", bound), at_most("largest-map-error", 0.1))
                for scale, bound in TRAINED.items()
            },
        ),
        Claim(
            id="I2",
            sentence="One H3 layer takes the same step on independent examples, as good as linear attention.",
            paper_figure="theorem; the curves of both layers coincide",
            criteria={
                scale: all_of(at_most("largest-risk-gap", bound), at_most("unequal-tasks.risk-gap", bound))
                for scale, bound in TRAINED.items()
            },
        ),
        Claim(
            id="I3",
            sentence=(
                "H3 weights its examples: it takes the best weighted step, and where the task drifts it beats linear "
                "attention, which cannot."
            ),
            paper_figure="H3 below linear attention on a non-stationary task",
            criteria={
                scale: all_of(
                    at_most("attention.risk-gap", bound),
                    at_most("h3.risk-gap", bound),
                    at_most("h3-over-attention", 0.95),
                )
                for scale, bound in TRAINED.items()
            },
        ),
        Claim(
            id="I4",
            sentence=(
                "Retrieval lowers the risk as if there were kappa = alpha^2 dim + 1 times as many random examples, for "
                "alpha of order 1/sqrt(dim) in large dimensions."
            ),
            paper_figure="kappa n effective samples (theorem, approximate)",
            criteria=_design("worth-over-kappa"),
        ),
        Claim(
            id="I5",
            sentence=(
                "Features aligned with the task lower the risk as if there were kappa^2 times as many examples, for "
                "alpha of order 1/sqrt(dim) in large dimensions."
            ),
            paper_figure="kappa^2 n effective samples (theorem, approximate)",
            criteria=_design("worth-over-kappa2"),
        ),
        Claim(
            id="I6",
            sentence="With query and key matrices of rank r the best risk follows from the r largest task eigenvalues.",
            paper_figure="theorem; trained curves lie on it",
            criteria={scale: all_of(SAMPLED, at_most("largest-risk-gap", bound)) for scale, bound in TRAINED.items()},
        ),
        Claim(
            id="I7",
            sentence=(
                "LoRA adapts the step to new tasks by capturing the shift of their covariance: every rank takes the "
                "largest part of the shift that is left."
            ),
            paper_figure="theorem (an upper bound for covariances with common eigenvectors); trained curves lie on it",
            criteria={
                scale: all_of(
                    at_most("largest-risk-gap", bound),
                    above("smallest-gain-of-a-rank", 0),
                    SAMPLED,
                )
                for scale, bound in TRAINED.items()
            },
        ),
        Claim(
            id="I8",
            sentence=(
                "The gradient step is the best that either layer can compute, provided the tasks have mean zero; "
                "otherwise the layers can do better."
            ),
            paper_figure="theorem (equal minimum risks under its assumptions)",
            criteria={
                scale: all_of(
                    *(at_most(f"mean-zero.{layer}-gain", 0.01) for layer in ("attention", "h3")),
                    *(at_least(f"mean-zero.{layer}-gain", -0.01) for layer in ("attention", "h3")),
                    at_least("mean-not-zero.attention-gain", 0.1),
                )
                for scale in TRAINED
            },
        ),
        Claim(
            id="I9",
            sentence="From which initial weights does training arrive at the optimum?",
            paper_figure="none: the paper plots the best of 20 restarts",
            role="reported",
            reason=(
                "the paper's theorems are about the optimum, not about the way to it, and its curves show the best of "
                "20 restarts; how many of them arrive is not said"
            ),
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("I1")
def attention(run: Run[Config]) -> None:
    """Linear attention on independent examples."""
    from superpose.studies.linear_icl_landscape import measures, steps

    measures.measure_iid(run, "I1", steps.ATTENTION, "linear attention")


@study.measured_by("I2")
def h3(run: Run[Config]) -> None:
    """H3 on independent examples."""
    from superpose.studies.linear_icl_landscape import measures, steps

    measures.measure_iid(run, "I2", steps.H3, "H3")


@study.measured_by("I3")
def drift(run: Run[Config]) -> None:
    """Both layers on a drifting task."""
    from superpose.studies.linear_icl_landscape.measures import measure_drift

    measure_drift(run)


@study.measured_by("I4")
def retrieved(run: Run[Config]) -> None:
    """Examples that resemble the query."""
    from superpose.studies.linear_icl_landscape.design_measures import RAG, measure_design

    measure_design(run, RAG, run.config.rag_alphas)


@study.measured_by("I5")
def aligned(run: Run[Config]) -> None:
    """Examples that lie along the task."""
    from superpose.studies.linear_icl_landscape.design_measures import ALIGNED, measure_design

    measure_design(run, ALIGNED, run.config.aligned_alphas)


@study.measured_by("I6")
def rank(run: Run[Config]) -> None:
    """Low-rank attention."""
    from superpose.studies.linear_icl_landscape.measures import measure_rank

    measure_rank(run)


@study.measured_by("I7")
def lora(run: Run[Config]) -> None:
    """LoRA adapters after a shift of the tasks."""
    from superpose.studies.linear_icl_landscape.measures import measure_lora

    measure_lora(run)


@study.measured_by("I8")
def classes(run: Run[Config]) -> None:
    """Everything a layer could compute."""
    from superpose.studies.linear_icl_landscape.measures import measure_classes

    measure_classes(run)


@study.measured_by("I9")
def arrivals(run: Run[Config]) -> None:
    """Where training arrives from different initial weights."""
    from superpose.studies.linear_icl_landscape.measures import measure_arrivals

    measure_arrivals(run)
