"""What the report draws of the study. Imports no torch."""

from superpose.experiment import Figure
from superpose.studies.task_superposition.config import PANELS

FIGURES = (
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
        id="expressivity",
        title="The explicit-weights transformer against counting",
        curves=("expressivity",),
        x_label="number of symbols d",
        y_label="largest error",
        log_y=True,
        claims=("TS3",),
        caption="The largest error over all numbers of operands, tasks, demonstrations and draws of the sweep.",
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
        id="from-scratch",
        title="Trained on one task per sequence, asked for two",
        curves=("from-scratch",),
        x_label="share of demonstrations of the first task",
        y_label="probability of the answer",
        y_range=(0, 1),
        claims=("TS2",),
        caption=(
            "The widest decoder, mean and range over seeds: probability of each task's letter and newline after "
            "nine demonstrations whose tasks are drawn independently. The paper's copy model (8 letters, 100 "
            "demonstrations) gives a sigmoid through one half."
        ),
    ),
    Figure(
        id="width",
        title="Wider models, trained alike",
        curves=("width-kl", "width-r"),
        panels={"width-kl": "KL to the mixture (nats)", "width-r": "tasks completed, of 2"},
        x_label="width of the decoder",
        y_label="at equal shares of two tasks",
        claims=("TS6",),
        caption="Mean and range over seeds, equal numbers of updates.",
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
)
