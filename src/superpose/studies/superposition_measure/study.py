"""The question of the task-superposition paper, asked of the user's own model and tasks. Imports no torch."""

from typing import Annotated

from pydantic import Field

from superpose.experiment import Claim, Figure, Run, Study, StudyConfig

Share = Annotated[float, Field(ge=0, le=1)]


class Config(StudyConfig):
    """What to measure.

    Attributes:
        model: a registered name, a local folder, a ``.gguf`` file, or a hub id.
        fingerprint: of the model's files, filled in by the command, so that a changed folder is measured anew.
        family: a built-in family, or a CSV or YAML file.
        family_sha256: of that file, filled in likewise.
        tasks: two or more tasks of the family.
        mixtures: proportions of the tasks, one row per mixture.
        demonstrations: demonstrations per prompt.
        prompts: prompts per mixture.
        search_budget: expansions of the exact search for the top strings, per prompt; 0 leaves r out.
        seed: of the prompts.
        dtype: of the model.
    """

    model: str = "smollm2-135m-instruct-q4_1"
    fingerprint: str = ""
    family: str = "word"
    family_sha256: str = ""
    tasks: Annotated[tuple[str, ...], Field(min_length=2)] = ("copy", "capitalise")
    mixtures: Annotated[tuple[tuple[Share, ...], ...], Field(min_length=1)] = ((1, 0), (0.75, 0.25), (0.5, 0.5), (0, 1))
    demonstrations: Annotated[int, Field(ge=1)] = 20
    prompts: Annotated[int, Field(ge=1)] = 20
    search_budget: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16|float16)$")] = "float32"


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
        "smoke": {"demonstrations": 3, "prompts": 2, "mixtures": ((1, 0), (0.5, 0.5)), "seeds": 1},
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
