"""What the report draws of the atlas. Imports no torch."""

from superpose.experiment import Figure

READINGS = ("steps", "compute")

FIGURES = (
    Figure(
        id="map",
        title="How far each backbone gets on each task",
        kind="heatmap",
        curves=tuple(f"skill-{reading}" for reading in READINGS),
        panels={"skill-steps": "after equal steps", "skill-compute": "after equal compute"},
        x_label="task",
        y_label="backbone",
        value_label="share of the way from chance to optimum",
        y_range=(0, 1),
        beside={f"skill-{reading}": f"error-{reading}" for reading in READINGS},
        beside_label="error in the task's own metric",
        claims=("A0", "A1", "A2", "A3", "A4", "A5"),
        caption=(
            "0: knows nothing; 1: the exact predictor. Mean and range over seeds. Below: each backbone as it was when "
            "the cheapest one of the task had made all its updates. Choose a cell for the learning curves behind it."
        ),
        detail=Figure(
            id="learning",
            title="Learning {column}: {row} among the others",
            curves=("learning-steps-{column}", "learning-seconds-{column}"),
            panels={"learning-steps-{column}": "over updates", "learning-seconds-{column}": "over seconds of training"},
            x_label="updates, or seconds",
            y_label="error in the task's own metric",
        ),
    ),
)
