"""What the report draws. Imports no torch."""

from superpose.experiment import Figure

SCALE = "squared error / variance of the label"
LOSS_LABEL = "last query's squared error / variance of the label"

FIGURES = (
    Figure(
        id="loops",
        title="Error over loops, up to four times those of training",
        curves=("loops",),
        x_label="loops",
        y_label=LOSS_LABEL,
        log_y=True,
        claims=("L4",),
        caption=(
            "The vertical mark is b, the loops of training. The error falls with every loop and stays where it is "
            "beyond b; the paper's figure runs to 500 loops."
        ),
    ),
    Figure(
        id="examples",
        title="Linear regression: error over the number of examples",
        curves=("examples",),
        x_label="examples before the query",
        y_label=SCALE,
        claims=("L2",),
        caption="Both models at the end of training, with least squares and nearest neighbours; 1 is no learning.",
    ),
    Figure(
        id="examples-tasks",
        title="Sparse regression and 2-layer networks: error over the number of examples",
        curves=("examples-sparse-linear", "examples-relu-2nn"),
        panels={"examples-sparse-linear": "sparse regression", "examples-relu-2nn": "2-layer networks"},
        x_label="examples before the query",
        y_label=SCALE,
        y_range=(0, 2),
        claims=("L3",),
        caption=(
            "Both models after equal training time. A linear fit through as many examples of a network as there are "
            "unknowns lies far above this frame."
        ),
    ),
    Figure(
        id="training",
        title="Error over training time",
        curves=("training-linear", "training-sparse-linear", "training-relu-2nn"),
        panels={
            "training-linear": "linear regression",
            "training-sparse-linear": "sparse regression",
            "training-relu-2nn": "2-layer networks",
        },
        x_label="training seconds (CPU seconds on a CPU)",
        y_label=LOSS_LABEL,
        claims=("L2", "L3"),
        caption="Updates of either model times what one takes in its stage of the curriculum, timed alone.",
    ),
    Figure(
        id="ablations",
        title="What the recipe is needed for",
        curves=("ablations",),
        x_label="loops",
        y_label=LOSS_LABEL,
        log_y=True,
        claims=("L5",),
        caption="The looped model without one part of its recipe, after as many updates as the complete one here.",
    ),
    Figure(
        id="probes",
        title="What can be read off the states",
        curves=("probe-w-ols", "probe-moment"),
        panels={"probe-w-ols": "least-squares weights", "probe-moment": "mean of y x"},
        x_label="loops, or layers of the standard transformer (0: the embedded prompt)",
        y_label="squared error / variance of the target",
        claims=("L6",),
        caption=(
            "A probe per loop or layer, read off on fresh prompts. In the paper the looped model's error falls from "
            "loop to loop, while the standard transformer's rises again in its last layers."
        ),
    ),
)
