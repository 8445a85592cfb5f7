"""The question of the task-superposition paper, asked of the user's own model and tasks. Imports no torch."""

from superpose.experiment import Claim, Figure, Run, Study
from superpose.studies.superposition_measure.config import Config

study = Study(
    slug="superposition-measure",
    title="Task superposition on your own model",
    room="interpret",
    paper="The method of Xiong et al., ICML 2025, arXiv 2410.05603",
    card="docs/superposition.md",
    summary=(
        "Mixes the demonstrations of several tasks in one prompt and measures, over a sweep of mixtures, how much "
        "probability your model puts on each task's answer."
    ),
    config=Config,
    presets={
        "smoke": {
            "model": "random-llama",
            "demonstrations": 3,
            "prompts": 2,
            "mixtures": ((1, 0), (0.5, 0.5)),
            "seeds": 1,
        },
        "laptop": {},
        "gpu": {"prompts": 200},
    },
    claims=(
        Claim(
            id="mix",
            sentence="How much probability this model puts on each task's answer in mixed prompts.",
            paper_figure="Fig. 2, on models of 70B and more",
            role="reported",
            reason="your own model and tasks: the figures are the answer, the paper claims nothing about them",
        ),
    ),
    figures=(
        Figure(
            id="mixtures",
            title="Probability of each task's answer over the mixture",
            curves=("mixture",),
            x_label="mixture (share of the first task, or the proportions)",
            y_label="probability",
            y_range=(0, 1),
            claims=("mix",),
            caption="Mean over prompts of the whole answer's probability in one forward pass, 95 % bootstrap bands.",
        ),
    ),
)


@study.measured_by("mix")
def mixtures(run: Run[Config]) -> None:
    """Every mixture, on the same queries and demonstration inputs."""
    from superpose.studies.superposition_measure.measures import measure_mixtures

    measure_mixtures(run)
