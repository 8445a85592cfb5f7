"""Claims, configs, figures and measures of the paper on task superposition. Imports no torch."""

from typing import Annotated

from pydantic import Field

from superpose.experiment import Claim, Figure, Run, Study, StudyConfig, above, all_of, at_least, at_most, below

Demonstrations = Annotated[int, Field(ge=1, le=400)]
Prompts = Annotated[int, Field(ge=2, le=5000)]
Weight = Annotated[float, Field(ge=0, le=1)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        model: the model that every claim on a real model is judged on.
        other_models: further models for TS1 (every one of them must pass) and TS6; those not in the cache are
            skipped, and the run says so.
        demonstrations: demonstrations per mixed prompt; 20 as in the card's laptop recipe (the paper: 60 to 80).
        prompts: prompts per mixture in TS1, TS5 and TS7; half choose the best mixture, half are reported.
        mixture_step: distance between neighbouring mixture weights.
        panel_prompts: prompts for each of the paper's four panels.
        panel_demonstrations: demonstrations per task in the panels; 20 as in the paper.
        vector_prompts: prompts per mixture whose residuals are averaged into a task vector (the paper: 100).
        vector_demonstrations: demonstrations in those prompts; 16 as in the card's laptop recipe (the paper: 30).
        queries: zero-shot queries into which vectors are injected; as many again choose the best layer.
        scaling_prompts: prompts for r and KL in TS6.
        search_budget: expansions the exact search for the top strings may spend on a prompt.
        dims, tasks, demos, operands: the sweep of the explicit-weights transformer.
        seeds: draws of tasks and demonstrations per cell of that sweep.
        dtype: of the real models.
    """

    model: str = "smollm2-135m-instruct-q4_1"
    other_models: tuple[str, ...] = ("gemma3-270m-q4_k_m",)
    demonstrations: Demonstrations = 20
    prompts: Prompts = 60
    mixture_step: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    panel_prompts: Prompts = 12
    panel_demonstrations: Demonstrations = 20
    vector_prompts: Prompts = 40
    vector_demonstrations: Demonstrations = 16
    queries: Prompts = 32
    scaling_prompts: Prompts = 24
    search_budget: Annotated[int, Field(ge=10)] = 400
    dims: tuple[Annotated[int, Field(ge=2)], ...] = (6, 12, 32)
    tasks: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 8)
    demos: tuple[Annotated[int, Field(ge=1)], ...] = (8, 24, 64)
    operands: tuple[Annotated[int, Field(ge=1)], ...] = (3, 5, 8)
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"


# TS1 and TS7 look at two tasks at a time; these are the pairs on which the small offline models can do both.
PAIRS = {"word": ("copy", "capitalise"), "ab": ("copy_a", "copy_b")}

# Figure 2 of the paper, panel by panel.
PANELS = {
    "add-translate": ("digits", "english", "french", "spanish"),
    "country": ("capital", "continent", "upper"),
    "ab": ("copy_a", "copy_b", "add"),
    "word": ("first", "last", "first_upper", "last_upper"),
}
TASK_VECTOR_FAMILY = "word"
SEGMENT_TASKS = ("first", "upper")  # TS4
PLANE_TASKS = ("first", "upper", "copy")  # the discriminant plane of TS4
INTERPOLATION_TASKS = ("copy", "capitalise")  # TS5
SCALING_TASKS = ("copy", "capitalise", "upper", "first")  # TS6

study = Study(
    slug="task-superposition",
    title="Everything Everywhere All at Once: LLMs can In-Context Learn Multiple Tasks in Superposition",
    room="interpret",
    paper="Xiong, Cai, Cooper, Albert, Ge, Papailiopoulos, Lee; ICML 2025, arXiv 2410.05603",
    card="docs/superposition.md",
    summary=(
        "If the demonstrations in one prompt come from several tasks, a language model puts probability on the "
        "right answer of every one of them at once. The study mixes tasks in prompts to small real models, looks "
        "at their task vectors, and checks the paper's expressivity theorem with explicit weights."
    ),
    config=Config,
    presets={
        "smoke": {
            "other_models": (),
            "demonstrations": 4,
            "prompts": 4,
            "mixture_step": 0.5,
            "panel_prompts": 2,
            "panel_demonstrations": 2,
            "vector_prompts": 12,
            "vector_demonstrations": 3,
            "queries": 3,
            "scaling_prompts": 2,
            "search_budget": 40,
            "dims": (6,),
            "tasks": (2,),
            "demos": (8,),
            "operands": (3,),
            "seeds": 1,
        },
        "laptop": {},
        "gpu": {
            "prompts": 400,
            "mixture_step": 0.05,
            "panel_prompts": 100,
            "vector_prompts": 200,
            "vector_demonstrations": 30,
            "queries": 200,
            "scaling_prompts": 200,
            "search_budget": 2000,
            "seeds": 5,
        },
    },
    claims=(
        Claim(
            id="TS1",
            sentence=(
                "With demonstrations of two tasks mixed in one prompt, both tasks' answers get non-negligible "
                "probability in a single forward pass, in more than one task family."
            ),
            paper_figure="Fig. 2: bars for 4 families of 3-4 tasks on GPT-3.5, Llama-3-70B, Qwen1.5-72B",
            criteria={
                scale: all_of(
                    at_least("word.weaker-task", 0.15),
                    at_least("word.times-control", 5),
                    at_least("ab.weaker-task", 0.1),
                )
                for scale in ("laptop", "gpu")
            },
        ),
        Claim(
            id="TS1panels",
            sentence="In the four families of Figure 2, uniform mixtures give every one of 3-4 tasks some probability.",
            paper_figure="Fig. 2: all four panels, on models of 70B and more",
            role="reported",
            reason=(
                "the small offline models cannot do several of these tasks even alone (sums, translations, rare "
                "capitals), so the figure says what they can do rather than whether the paper is right"
            ),
        ),
        Claim(
            id="TS2",
            sentence="Superposition emerges even when the model was trained on one task per sequence.",
            paper_figure="from-scratch copy model: P(ret2) .009/.133/.489/.844/.990 at weights .1/.3/.5/.7/.9",
            role="unmeasurable",
            reason="needs a model trained from scratch on one task per sequence, and this release has no trainer yet",
        ),
        Claim(
            id="TS3",
            sentence=(
                "A transformer of at most seven layers, K heads and embedding dimension O(d + log(mn)) performs K "
                "tasks in superposition, weighting them by their demonstrations."
            ),
            paper_figure="Theorem: 7 layers (our construction: 3)",
            criteria={
                scale: all_of(
                    below("error.float64", 1e-6),
                    below("error.float32", 1e-4),
                    below("order-effect.float64", 1e-6),
                    at_most("layers", 7),
                    at_most("heads-beyond-k", 0),
                    at_most("width-beyond-formula", 0),
                )
                for scale in ("smoke", "laptop", "gpu")
            },
        ),
        Claim(
            id="TS4",
            sentence="Task vectors of mixed prompts lie between those of the pure tasks, in the order of the mixture.",
            paper_figure="Fig. 5 (LDA scatter), no number",
            criteria={
                scale: all_of(at_least("layers-between", 2 / 3), below("residual-minus-control", 0))
                for scale in ("laptop", "gpu")
            },
        ),
        Claim(
            id="TS5",
            sentence=(
                "Convex combinations of two task vectors, injected into a zero-shot prompt, reproduce superposition, "
                "with more probability on other outputs than in-context mixing."
            ),
            paper_figure="Fig. 6 (interpolation stack plots), no number",
            criteria={
                scale: all_of(
                    at_least("own-task-at-ends", 0.4),
                    at_least("weaker-task-inside", 0.15),
                    at_most("largest-step-back", 0.05),
                    above("other-patched-minus-in-context", 0),
                )
                for scale in ("laptop", "gpu")
            },
        ),
        Claim(
            id="TS6",
            sentence="Larger models complete more tasks at once (r up) and are better calibrated (KL down).",
            paper_figure="r and KL over Qwen1.5 0.5B..14B, no number in the text",
            role="reported",
            reason=(
                "the offline models are of two different families, so their order says nothing about size; a width "
                "sweep of models trained from scratch would judge it, and this release has no trainer yet"
            ),
        ),
        Claim(
            id="TS7",
            sentence="Generation collapses: once the first token is generated, only one of the tasks survives.",
            paper_figure="limitation section, no number",
            criteria={
                scale: all_of(above("after-first-token", 0.8), below("before", 0.7)) for scale in ("laptop", "gpu")
            },
        ),
    ),
    figures=(
        Figure(
            id="mixtures",
            title="Two tasks in one prompt",
            curves=("mixture-word", "mixture-ab"),
            panels={"mixture-word": "word: copy / Capitalise", "mixture-ab": "A@B=: copy A / copy B"},
            x_label="share of demonstrations of the first task",
            y_label="probability of the answer",
            y_range=(0, 1),
            claims=("TS1",),
            caption=(
                "Mean probability of each task's whole answer (with its newline) in one forward pass, 95 % bootstrap "
                "bands over prompts. Where two lines of one model are both well above zero, the tasks are in "
                "superposition. The paper shows such mixtures on models of 70B and more (Fig. 2)."
            ),
        ),
        Figure(
            id="panels",
            title="The paper's four panels, on small models",
            kind="bars",
            curves=tuple(f"panel-{family}" for family in PANELS),
            panels={f"panel-{family}": family for family in PANELS},
            x_label="task",
            y_label="probability of the answer",
            y_range=(0, 1),
            claims=("TS1panels",),
            caption=(
                "Uniform mixtures, as in Fig. 2: its models put visible mass on every task. Models of 0.1-0.3B cannot "
                "do most of these tasks, so most bars are missing."
            ),
        ),
        Figure(
            id="segment",
            title="Where mixtures lie between the pure task vectors, layer by layer",
            curves=("segment",),
            x_label="layer",
            y_label="position on the segment (0: first, 1: upper)",
            claims=("TS4",),
            caption=(
                "Barycentric coordinate of the mean residual of mixed prompts on the segment between the pure means "
                "(held-out half). Equal spacing would be exact linear superposition."
            ),
        ),
        Figure(
            id="residual",
            title="How far mixtures lie off the segment",
            curves=("residual",),
            x_label="layer",
            y_label="distance from the line, in segment lengths",
            claims=("TS4",),
            caption="The equal mixture against prompts whose demonstrations have random strings for answers.",
        ),
        Figure(
            id="lda",
            title="Task vectors in the discriminant plane",
            kind="scatter",
            curves=("lda",),
            x_label="first discriminant",
            y_label="second discriminant",
            claims=("TS4",),
            caption=(
                "Linear discriminant analysis fitted on half of the pure prompts; shown are the held-out half and the "
                "mixtures, at two thirds of the depth. The paper's Fig. 5 shows the same on Llama-3-8B."
            ),
        ),
        Figure(
            id="interpolation",
            title="Injecting convex combinations of task vectors",
            kind="stack",
            curves=("patched", "in-context"),
            panels={"patched": "task vectors injected", "in-context": "demonstrations mixed"},
            x_label="weight of the first task (copy)",
            y_label="probability of the answer's first token",
            y_range=(0, 1),
            claims=("TS5",),
            caption=(
                "Mean probability of the first token of each task's answer, and of everything else. Left: zero-shot "
                "prompts with a combination of two task vectors injected; right: the same queries after mixed "
                "demonstrations."
            ),
        ),
        Figure(
            id="interpolation-whole",
            title="The same, for whole answers",
            kind="stack",
            curves=("patched.whole", "in-context.whole"),
            panels={"patched.whole": "task vectors injected", "in-context.whole": "demonstrations mixed"},
            x_label="weight of the first task (copy)",
            y_label="probability of the whole answer",
            y_range=(0, 1),
            claims=("TS5",),
            caption="Later tokens of an answer are generated without the vector, so less of it survives.",
        ),
        Figure(
            id="layers",
            title="Where injecting a task vector works",
            curves=("best-layer",),
            x_label="layer",
            y_label="probability of the own task's first token",
            y_range=(0, 1),
            claims=("TS5",),
            caption="On queries of their own; the best layer is read off here, and reported on others.",
        ),
        Figure(
            id="collapse",
            title="Generation collapse",
            kind="bars",
            curves=("collapse",),
            x_label="family",
            y_label="probability of the chosen task",
            y_range=(0, 1),
            claims=("TS7",),
            caption=(
                "Expected probability of the task whose first token is generated, before and after that token; "
                "prompts whose answers share a first token are left out."
            ),
        ),
    ),
)


@study.measured_by("TS1", "TS1panels")
def mixtures(run: Run[Config]) -> None:
    """Mixed prompts of two tasks over a grid of mixtures, and the paper's four panels."""
    from superpose.studies.task_superposition.measures import measure_pairs, measure_panels

    if "TS1" in run.claims:
        measure_pairs(run)
    if "TS1panels" in run.claims:
        measure_panels(run)


@study.measured_by("TS7")
def collapse(run: Run[Config]) -> None:
    """What is left of superposition after the first generated token."""
    from superpose.studies.task_superposition.measures import measure_collapse

    measure_collapse(run)


@study.measured_by("TS3")
def expressivity(run: Run[Config]) -> None:
    """The explicit-weights transformer against the closed form."""
    from superpose.studies.task_superposition.measures import measure_expressivity

    measure_expressivity(run)


@study.measured_by("TS4", "TS5")
def vectors(run: Run[Config]) -> None:
    """Task vectors of mixtures, and injections of combinations of pure ones."""
    from superpose.studies.task_superposition.vector_measures import measure_injection, measure_segment

    if "TS4" in run.claims:
        measure_segment(run)
    if "TS5" in run.claims:
        measure_injection(run)


@study.measured_by("TS6")
def scaling(run: Run[Config]) -> None:
    """The number of tasks completed and the calibration, per model."""
    from superpose.studies.task_superposition.measures import measure_scaling

    measure_scaling(run)
