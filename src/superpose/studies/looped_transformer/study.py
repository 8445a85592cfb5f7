"""Claims, presets and measures of the paper on looped transformers. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, any_of, at_most, below
from superpose.experiment.claim import SCALES
from superpose.studies.looped_transformer.config import Config
from superpose.studies.looped_transformer.figures import FIGURES

MODELS = ("looped", "transformer")
TASKS = ("sparse-linear", "relu-2nn")

study = Study(
    slug="looped-transformer",
    title="Looped Transformers are Better at Learning Learning Algorithms",
    room="models",
    paper="Liu Yang, Kangwook Lee, Robert Nowak, Dimitris Papailiopoulos; ICLR 2024, arXiv 2311.12424",
    card="docs/looped-transformer.md",
    summary=(
        "One transformer block, applied again and again with the prompt added before every pass, fits data in context "
        "like a twelve-layer transformer of twelve times its size. The study compares the two at equal training time, "
        "follows the looped one far beyond the loops of its training, takes its recipe apart, and probes its states."
    ),
    config=Config,
    presets={
        "smoke": {
            "dim": 2,
            "sparse_dim": 2,
            "points": 4,
            "width": 16,
            "layers": 2,
            "loops": 4,
            "window": 2,
            "loop_interval": 2,
            "dims_interval": 2,
            "batch": 8,
            "looped_steps": 6,
            "transformer_steps": 6,
            "sparse_looped_steps": 4,
            "sparse_transformer_steps": 4,
            "network_looped_steps": 4,
            "network_transformer_steps": 4,
            "ablation_steps": 4,
            "evaluate_every": 2,
            "prompts": 16,
            "probe_prompts": 64,
            "probe_steps": 4,
            "timing_steps": 2,
            "seeds": 1,
        },
        "laptop": {},
        "gpu": {
            "dim": 10,
            "sparse_dim": 10,
            "sparsity": 2,
            "points": 21,
            "hidden": 20,
            "width": 256,
            "heads": 8,
            "loops": 20,
            "window": 10,
            "loop_interval": 500,
            "dims_interval": 500,
            "batch": 256,
            "looped_rate": 3e-4,
            "transformer_rate": 3e-4,
            "looped_steps": 16_000,
            "transformer_steps": 16_000,
            "sparse_looped_steps": 16_000,
            "sparse_transformer_steps": 16_000,
            "network_looped_steps": 16_000,
            "network_transformer_steps": 16_000,
            "ablation_steps": 10_000,
            "evaluate_every": 1000,
            "prompts": 1280,
            "probe_prompts": 4096,
            "probe_steps": 2000,
            "timing_steps": 40,
        },
    },
    claims=(
        Claim(
            id="L1",
            sentence="The looped transformer has less than 10 % of the standard transformer's parameters.",
            paper_figure="0.79M of 9.48M (8.3 %)",
            criteria=dict.fromkeys(SCALES, below("parameter-ratio", 0.1)),
        ),
        Claim(
            id="L2",
            sentence=(
                "On linear regression it performs comparably to a standard transformer with as many layers as it has "
                "loops."
            ),
            paper_figure="error .0242 against .0204 at 20 examples in 20 dimensions, .00078 against .00048 at 40",
            criteria={
                "laptop": all_of(
                    at_most("error-ratio", 1.1),
                    below("parameter-ratio", 0.1),
                    below("looped.error", 0.5),
                    below("transformer.error", 0.5),
                ),
                "gpu": all_of(at_most("error-ratio", 2), below("looped.error", 0.05)),
            },
        ),
        Claim(
            id="L3",
            sentence=(
                "The same holds on sparse regression and 2-layer networks (and decision trees), and it is better on "
                "sparse regression."
            ),
            paper_figure="sparse, 20 dimensions: error .0213 against .085 at 10 examples, .0006 against .0017 at 40",
            criteria={
                # "Better" is judged at the gpu scale; here its ratio is printed with its interval.
                # Two models that have learned nothing would be alike as well.
                "laptop": all_of(
                    at_most("sparse-linear.error-ratio", 1.15),
                    at_most("relu-2nn.error-ratio", 1.15),
                    *(below(f"{task}.{model}.error", 0.9) for task in TASKS for model in MODELS),
                ),
                "gpu": below("sparse-linear.error-ratio-at-half-dim", 1),
            },
            explanations={
                "laptop:inconclusive": (
                    "On sparse regression both models are still near the plateau after this budget (errors of .85 "
                    "and .81, where 1 is no learning and lasso reaches .001), and the seeds' ratios range from .95 to "
                    "1.27: two models that have hardly begun cannot be compared. On 2-layer networks the claim's part "
                    "holds. Longer training (the gpu preset) is needed."
                ),
            },
        ),
        Claim(
            id="L4",
            sentence=(
                "It learns an iterative algorithm: its error falls with the loops, and stays where it is far beyond "
                "those of training."
            ),
            paper_figure="stable at 500 loops after training with 20 to 30",
            criteria={
                "laptop": all_of(below("error-b-over-quarter", 0.5), at_most("error-4b-over-b", 1.3)),
                "gpu": at_most("error-10b-over-b", 1.5),
            },
            explanations={
                "laptop:inconclusive": (
                    "From b/4 to b loops the error falls to 6 to 14 %. Beyond b it drifts a little: at four "
                    "times b it is 1.10, 1.11 and 1.35 times that at b, and the last is beyond the bound. A model half "
                    "as well trained (2750 updates instead of 4000) stayed within 1.09: its error at b was twice as "
                    "large, so the same drift counted for less. Training with more loops than 12 would pin the fixed "
                    "point down."
                ),
            },
        ),
        Claim(
            id="L5",
            sentence=(
                "The recipe is needed: without injecting the input, or with a loss on the last loop alone, the model "
                "diverges beyond b or is worse at b."
            ),
            paper_figure="Fig. 3 to 5 (curves)",
            criteria={
                scale: any_of(
                    *(
                        part
                        for name in ("no-injection", "last-loop")
                        for part in (
                            above(f"{name}.error-4b-over-b", 1.3),
                            above(f"{name}.error-b-over-complete", 1),
                        )
                    )
                )
                for scale in ("laptop", "gpu")
            },
        ),
        Claim(
            id="L6",
            sentence=(
                "Probes find the least-squares solution and the first-order moment better after every loop, while the "
                "standard transformer hides them again in its last layers."
            ),
            paper_figure="w_OLS: looped .497 to .298, monotone; transformer .493, .336 at layer 10, .522 at layer 20",
            criteria={
                "laptop": all_of(
                    below("looped.w-ols.correlation", -0.8),
                    below("looped.moment.correlation", -0.8),
                ),
                "gpu": all_of(
                    below("looped.w-ols.correlation", -0.8),
                    below("looped.moment.correlation", -0.8),
                    above("transformer.w-ols.last-over-least", 1),
                ),
            },
            explanations={
                "laptop:inconclusive": (
                    "For the least-squares solution the claim's part holds in every seed, and every looped model's "
                    "last pass is its best or next to it. For the moment one seed's correlation is -.79, just short "
                    "of the bound. The standard transformer shows what the paper reports: the moment is read off 3 to "
                    "16 % worse in the last layer than in the best."
                ),
            },
        ),
        Claim(
            id="L7",
            sentence="On held-out OpenML classification sets it is as accurate as the standard transformer or better.",
            paper_figure="mean accuracy .565 against .539 over ten held-out sets",
            role="unmeasurable",
            reason=(
                "it needs the paper's ten OpenML sets, and for each that is held out a training of either model on the "
                "other nine, 100,000 updates of 40 prompts. The few sets that come with scikit-learn leave too little "
                "to train on and too little to hold out"
            ),
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("L1")
def parameters(run: Run[Config]) -> None:
    """Parameters at the paper's size."""
    from superpose.studies.looped_transformer.measures import measure_parameters

    measure_parameters(run)


@study.measured_by("L2", exclusive=True)
def linear(run: Run[Config]) -> None:
    """Linear regression at equal training time."""
    from superpose.studies.looped_transformer.measures import measure_linear

    measure_linear(run)


@study.measured_by("L3", exclusive=True)
def tasks(run: Run[Config]) -> None:
    """Sparse regression and 2-layer networks at equal training time."""
    from superpose.studies.looped_transformer.measures import measure_tasks

    measure_tasks(run)


@study.measured_by("L4")
def loops(run: Run[Config]) -> None:
    """The error over loops."""
    from superpose.studies.looped_transformer.measures import measure_loops

    measure_loops(run)


@study.measured_by("L5")
def ablations(run: Run[Config]) -> None:
    """The recipe without one of its parts."""
    from superpose.studies.looped_transformer.measures import measure_ablations

    measure_ablations(run)


@study.measured_by("L6")
def probes(run: Run[Config]) -> None:
    """Probes over loops and layers."""
    from superpose.studies.looped_transformer.measures import measure_probes

    measure_probes(run)
