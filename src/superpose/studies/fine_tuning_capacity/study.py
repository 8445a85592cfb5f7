"""Claims, presets, figures and measures of the paper on fine-tuning capacity. Imports no torch."""

from superpose.experiment import Claim, Run, Study, all_of, at_least, at_most, below
from superpose.experiment.claim import SCALES
from superpose.studies.fine_tuning_capacity.config import Config
from superpose.studies.fine_tuning_capacity.figures import FIGURES

study = Study(
    slug="fine-tuning-capacity",
    title="Memorization Capacity for Additive Fine-Tuning with Small ReLU Networks",
    room="theory",
    paper="Sohn, Kwon, An, Lee; UAI 2024, arXiv 2408.00359",
    card="docs/fine-tuning-capacity.md",
    summary=(
        "How wide must a small ReLU network beside a frozen one be to change N of K outputs at will and leave the "
        "others alone? The study builds such networks of two and three layers with written-down weights, counts their "
        "neurons, and checks from below that no fewer can do."
    ),
    config=Config,
    presets={
        "smoke": {
            "seeds": 1,
            "tuned": (1, 4, 16),
            "multiples": (1, 4),
            "dims": (1, 8),
            "tries": 8,
            "certified": (1, 4),
            "exhausted": 6,
            "nets": 40,
            "planned": 32,
            "train_tuned": (2, 4),
            "train_steps": 20,
            "restarts": 2,
            "digits_fixed": 8,
            "digits_trained": 100,
            "digits_steps": 20,
        },
        "laptop": {},
        "gpu": {
            "seeds": 10,
            "tuned": (1, 4, 16, 64, 256, 1024, 4096),
            "nets": 20_000,
            "train_tuned": (8, 32, 128, 512, 2048),
            "train_steps": 20_000,
            "restarts": 16,
        },
    },
    claims=(
        Claim(
            id="F1",
            sentence=(
                "A two-layer ReLU network with O(N) neurons beside a frozen network gives N of K samples arbitrary "
                "new outputs and leaves the other K - N as they are, no matter how large K is."
            ),
            paper_figure="Theta(N), theorem",
            criteria={
                scale: all_of(
                    below("largest-error.small", 1e-6),
                    below("largest-error", 1e-4),
                    at_most("largest-neurons-over-bound", 1),
                    at_most("largest-error.rational", 0),
                )
                for scale in SCALES
            },
        ),
        Claim(
            id="F2",
            sentence="A two-layer network needs Omega(N) neurons for that, on some data.",
            paper_figure="Theta(N), theorem",
            criteria={
                scale: all_of(
                    at_least("smallest-knots-over-tuned", 1.5),
                    at_most("largest-knots-over-tuned", 3),
                    at_least("slope", 0.95),
                    at_most("slope", 1.05),
                    at_most("formula-violations", 0),
                    at_most("dynamic-programming-disagrees", 0),
                )
                for scale in SCALES
            },
        ),
        Claim(
            id="F2exact",
            sentence=(
                "Sharper than Theta(N): from K = 5 on, min(3 N, K - 2) neurons of two layers suffice for all labels "
                "on all N of K samples, and some need them all."
            ),
            paper_figure="none: derived here; the paper's constants are not used",
            criteria={
                scale: all_of(
                    at_most("largest-built-minus-formula", 0),
                    at_most("formula-violations", 0),
                    at_most("largest-error.rational", 0),
                )
                for scale in SCALES
            },
        ),
        Claim(
            id="F3",
            sentence="With three layers O(sqrt N) neurons do, no matter how large K is.",
            paper_figure="Theta(sqrt N), theorem",
            criteria={
                **{
                    scale: all_of(
                        below("largest-error", 1e-4),
                        at_most("largest-excess-over-5.8-sqrt", 6),
                        at_least("slope", 0.47),
                        at_most("slope", 0.53),
                        at_most("largest-difference-over-samples", 0),
                        at_most("largest-error.rational", 0),
                    )
                    for scale in ("laptop", "gpu")
                },
                # With sixteen tuned samples at most, a slope says nothing yet.
                "smoke": all_of(
                    below("largest-error", 1e-4),
                    at_most("largest-excess-over-5.8-sqrt", 6),
                    at_most("largest-difference-over-samples", 0),
                    at_most("largest-error.rational", 0),
                ),
            },
        ),
        Claim(
            id="F4",
            sentence="A three-layer network needs Omega(sqrt N) neurons for that, on some data.",
            paper_figure="Theta(sqrt N), theorem",
            criteria={
                **{
                    scale: all_of(
                        at_least("nets", 1000),
                        at_most("violations", 0),
                        below("largest-bend-between-breaks", 1e-9),
                        at_most("largest-lower-over-built", 1),
                    )
                    for scale in ("laptop", "gpu")
                },
                "smoke": all_of(
                    at_most("violations", 0),
                    below("largest-bend-between-breaks", 1e-9),
                    at_most("largest-lower-over-built", 1),
                ),
            },
        ),
        Claim(
            id="F5",
            sentence="For N = K the results are those known for memorisation: K - 1 neurons, and O(sqrt K).",
            paper_figure="known results recovered; no number",
            criteria={
                **{
                    scale: all_of(
                        at_most("two-layer.largest-distance-from-k-minus-1", 0),
                        at_least("three-layer.smallest-over-sqrt", 5.5),
                        at_most("three-layer.largest-over-sqrt", 5.9),
                        below("largest-error", 1e-4),
                    )
                    for scale in SCALES
                },
            },
        ),
        Claim(
            id="F6",
            sentence=(
                "Both definitions of fine-tuning capacity are one: m neurons can tune N samples exactly where m is at "
                "least the smallest number of neurons that N samples need."
            ),
            paper_figure="definition",
            criteria={
                scale: all_of(at_most("exhaustive-violations", 0), at_most("planner-violations", 0)) for scale in SCALES
            },
        ),
        Claim(
            id="F7",
            sentence=(
                "Trained from scratch, side networks show the same scaling: the smallest width that learns grows like "
                "N in two layers and like sqrt N in three."
            ),
            paper_figure="synthetic experiment with three-layer networks (curve)",
            role="reported",
            reason=(
                "whether training finds a network that exists says as much about the optimiser and its budget as "
                "about capacity, and on data in several dimensions fewer neurons may do than in the worst case. So "
                "the curves are shown as a trend, and nothing hangs on them"
            ),
        ),
        Claim(
            id="F8",
            sentence=(
                "The construction patches a trained classifier of real images: misread images get the right class, "
                "and no other output of the K images moves."
            ),
            paper_figure="none: a use of the theorem",
            criteria={
                scale: all_of(
                    at_least("two-layer.accuracy-on-fixed", 1),
                    at_least("three-layer.accuracy-on-fixed", 1),
                    below("two-layer.largest-move-of-kept", 1e-6),
                    below("three-layer.largest-move-of-kept", 1e-6),
                )
                for scale in SCALES
            },
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("F1", "F3", "F5")
def built(run: Run[Config]) -> None:
    """Networks with written-down weights, their neurons and their errors."""
    from superpose.studies.fine_tuning_capacity.measures import measure_built

    measure_built(run)


@study.measured_by("F2", "F6")
def counted(run: Run[Config]) -> None:
    """The fewest breaks on a line, on all small data sets and on long ones."""
    from superpose.studies.fine_tuning_capacity.measures import measure_counted

    measure_counted(run)


@study.measured_by("F4")
def broken(run: Run[Config]) -> None:
    """Breaks of three-layer networks on a line."""
    from superpose.studies.fine_tuning_capacity.measures import measure_breaks

    measure_breaks(run)


@study.measured_by("F2exact")
def fewest(run: Run[Config]) -> None:
    """Two layers with as few neurons as the worst case allows."""
    from superpose.studies.fine_tuning_capacity.measures import measure_fewest

    measure_fewest(run)


@study.measured_by("F7")
def trained(run: Run[Config]) -> None:
    """Side networks trained from scratch."""
    from superpose.studies.fine_tuning_capacity.trained_measures import measure_trained

    measure_trained(run)


@study.measured_by("F8")
def digits(run: Run[Config]) -> None:
    """A classifier of scanned digits, patched."""
    from superpose.studies.fine_tuning_capacity.trained_measures import measure_digits

    measure_digits(run)
