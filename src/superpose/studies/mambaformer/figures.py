"""What the report draws of the study. Imports no torch."""

from superpose.experiment import Figure

UPDATES = "updates"
LABELS_BEFORE = "labelled examples before"

FIGURES = (
    Figure(
        id="parity",
        title="Sparse parity: Mamba learns it, the transformer answers from the prior",
        curves=("learn-parity", "reads-parity"),
        panels={"learn-parity": "last five labels, along training", "reads-parity": "along the prompt, after training"},
        x_label="updates; labelled examples before",
        y_label="accuracy",
        claims=("C2", "C4"),
        caption=(
            "Mean and range over seeds. The best answer that looks at no example is right more often than a coin. A "
            "model stops once it has solved the task, and keeps its last value from there on."
        ),
    ),
    Figure(
        id="retrieval",
        title="Retrieval of vectors: attention learns it, Mamba does not",
        curves=("learn-retrieval",),
        x_label=UPDATES,
        y_label="squared error per coordinate (1: answering 0)",
        claims=("C3", "C4"),
        caption="Mean and range over seeds; a model stops once it has solved the task.",
    ),
    Figure(
        id="first-block",
        title="Sparse parity: what the first Mamba block is worth",
        curves=("learn-first-block",),
        x_label=UPDATES,
        y_label="accuracy on the last five labels",
        claims=("C5",),
        caption=(
            "MambaFormer (Mamba first, no positions) against the hybrid that starts with attention and has learned "
            "positions, and against a transformer behind one Mamba block. Mean and range over seeds."
        ),
    ),
    Figure(
        id="regression",
        title="Linear regression: both learn it",
        curves=("learn-linear", "reads-linear"),
        panels={"learn-linear": "last query, along training", "reads-linear": "along the prompt, after training"},
        x_label="updates; labelled examples before",
        y_label="squared error / dimension",
        claims=("C1",),
        caption="Mean and range over seeds; least squares of minimum norm is the best possible predictor.",
    ),
    Figure(
        id="outliers",
        title="Linear regression among many equal outliers",
        curves=("learn-many-outlier", "reads-many-outlier"),
        panels={
            "learn-many-outlier": "last quarter, along training",
            "reads-many-outlier": "along the prompt, after training",
        },
        x_label="updates; pairs before, outliers included",
        y_label="squared error of clean pairs / dimension",
        claims=("C6",),
        caption="Mean and range over seeds. Least squares is told which pairs are clean.",
    ),
)
