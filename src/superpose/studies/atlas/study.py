"""The atlas: every backbone on every task, measured the same way. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, at_least, at_most
from superpose.experiment.claim import Scale
from superpose.studies.atlas.config import LAPTOP_MODELS, LAPTOP_RECIPES, Config
from superpose.studies.atlas.contests import PARITY, RETRIEVAL
from superpose.studies.atlas.figures import FIGURES

JUDGED: tuple[Scale, ...] = ("laptop", "gpu")

study = Study(
    slug="atlas",
    title="The atlas: every backbone on every task",
    room="training",
    paper="A map of this package's own; its contrasts are those of arXiv 2402.04248",
    card="docs/atlas.md",
    summary=(
        "Trains every registered backbone on every registered task with the same budget and maps how far each gets "
        "from knowing nothing (0) to the exact predictor (1), once after equal steps and once after equal compute. A "
        "new backbone or task appears on the map by being registered."
    ),
    config=Config,
    presets={
        "smoke": {
            "models": ("transformer", "mamba", "mambaformer"),
            "tasks": ("linear", "sparse-parity", "vector-mqar", "copying"),
            "recipes": {
                "linear": {"sizes": {"dim": 1, "points": 3}},
                "sparse-parity": {"sizes": {"dim": 3, "points": 3}},
                "vector-mqar": {"sizes": {"dim": 4, "points": 2}},
                "copying": {"sizes": {"symbols": 4, "points": 3}},
            },
            "width": 16,
            "depth": 1,
            "steps": 6,
            "batch": 8,
            "warmup": 2,
            "points": 3,
            "prompts": 32,
            "timing": 1,
            "seeds": 1,
        },
        "laptop": {
            "models": LAPTOP_MODELS,
            "tasks": tuple(LAPTOP_RECIPES),
            "recipes": LAPTOP_RECIPES,
            "lr": 5e-3,
            # GPT-2's numbers are for widths of hundreds: at 32 they keep a model near zero for most of such a budget.
            "init": "torch",
        },
        "gpu": {
            "width": 128,
            "heads": 8,
            "steps": 5000,
            "batch": 64,
            "lr": 1e-3,
            "warmup": 200,
            "points": 25,
            "prompts": 2048,
            "timing": 20,
        },
    },
    claims=(
        Claim(
            id="A0",
            sentence=(
                "How far does every backbone get on every task, after equal steps and after equal compute? The figure "
                "of a cell is (chance - error) / (chance - optimum)."
            ),
            paper_figure="none: the map is this package's own",
            role="reported",
            reason="a map asserts nothing; what published work lets one expect of it is judged in A1 to A5",
        ),
        Claim(
            id="A1",
            sentence=(
                "Retrieval needs attention: a transformer looks up vectors by their keys where a selective state-space "
                "model with as many updates does not learn to."
            ),
            paper_figure="MambaFormer: the transformer solves vector-valued MQAR, Mamba fails",
            criteria={scale: RETRIEVAL.criterion() for scale in JUDGED},
        ),
        Claim(
            id="A2",
            sentence=(
                "Sparse parity needs a state-space model: Mamba learns it in context where a transformer with as many "
                "updates stays at what the prior alone gives."
            ),
            paper_figure="MambaFormer: Mamba solves sparse parity, the transformer stays at chance",
            criteria={scale: PARITY.criterion() for scale in JUDGED},
        ),
        Claim(
            id="A3",
            sentence="Every backbone learns something of linear regression in context, the weakest included.",
            paper_figure="MambaFormer: transformer, Mamba and hybrids all solve linear regression",
            criteria={scale: at_least("weakest", 0.1) for scale in JUDGED},
            explanations={
                "laptop:fails": (
                    "The weakest is the linear transformer: after the preset's 600 updates it is still where it "
                    "began, at -.03, while the six others stand at .34 to .78. Attention without softmax leaves its "
                    "plateau later at this learning rate, which all backbones share; the map says who starts to learn "
                    "within a budget, not who never would."
                ),
            },
        ),
        Claim(
            id="A4",
            sentence=(
                "MambaFormer stays close to the better of its parents, transformer and Mamba, on every task of the "
                "map, after equal steps."
            ),
            paper_figure="MambaFormer: the hybrid has a tick in every row where each parent has a cross",
            criteria={scale: at_most("most-behind", 0.15) for scale in JUDGED},
            explanations={
                "laptop:inconclusive": (
                    "On eight of the nine tasks MambaFormer's mean is within .05 of the better parent's or ahead of "
                    "it. The worst is copying, which a transformer completes in 200 updates: there MambaFormer "
                    "reaches .99, .95 and .84 in the three seeds, and the last lies just beyond the bound."
                ),
            },
        ),
        Claim(
            id="A5",
            sentence=(
                "No backbone is best everywhere: at equal compute even the best all-rounder stays behind another one "
                "on some task by more than a tenth of the way from chance to the optimum."
            ),
            paper_figure="none as a number; in MambaFormer's table each pure architecture fails somewhere",
            criteria={scale: above("least-behind", 0.1) for scale in JUDGED},
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("A0", exclusive=True)
def table(run: Run[Config]) -> None:
    """Every cell, both readings."""
    from superpose.studies.atlas.measures import measure_table

    measure_table(run)


@study.measured_by("A1")
def retrieval(run: Run[Config]) -> None:
    """Attention against a state-space model where keys must be found."""
    from superpose.studies.atlas.measures import measure_contest

    measure_contest(run, RETRIEVAL)


@study.measured_by("A2")
def parity(run: Run[Config]) -> None:
    """A state-space model against attention where coordinates must be found out."""
    from superpose.studies.atlas.measures import measure_contest

    measure_contest(run, PARITY)


@study.measured_by("A3")
def everybody(run: Run[Config]) -> None:
    """All backbones on linear regression."""
    from superpose.studies.atlas.measures import measure_everybody

    measure_everybody(run)


@study.measured_by("A4")
def hybrid(run: Run[Config]) -> None:
    """The hybrid beside its parents."""
    from superpose.studies.atlas.measures import measure_hybrid

    measure_hybrid(run)


@study.measured_by("A5", exclusive=True)
def no_winner(run: Run[Config]) -> None:
    """The best all-rounder beside the leader of each task."""
    from superpose.studies.atlas.measures import measure_no_winner

    measure_no_winner(run)
