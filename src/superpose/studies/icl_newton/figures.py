"""What the study looks at, and what the report draws of it. Imports no torch."""

from superpose.experiment import Figure

EPS = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)  # residuals of N2
DRAWN_EPS = EPS[::2]
GAPS = (1e-2, 1e-4, 1e-8, 1e-12)  # suboptimalities of N4
FROM, TO = 1e-4, 1e-12  # between which N4's growth is read
SHOWN = (5, 40)  # dimension and rows of the prompts whose steps are drawn
NARROW = 0.03  # standard deviation of N4's last feature, where the first has 1
DEPTH = 12  # layers at which N6 compares
SCALES = (1.0, 0.75, 0.55, 0.4, 0.3)  # of the trained part's inputs
FIRST_DEPTHS = (1, 2)  # "the first steps"


def power(x: float) -> str:
    """A small number as it stands in legends and measurement names."""
    return f"{x:g}"


FIGURES = (
    Figure(
        id="residual",
        title="Newton's iteration for the inverse, by two linear-attention layers per step",
        curves=("residual",),
        x_label="step",
        y_label="log10 of the residual ||I - AX||",
        claims=("N1", "N2"),
        caption="The built network (worst of all matrices) and the formula: the digits double, down to rounding.",
    ),
    Figure(
        id="inverse-steps",
        title="Steps that the inverse takes",
        curves=("inverse-steps",),
        x_label="log10 of the condition number",
        y_label="steps to a residual of eps",
        claims=("N2",),
        caption="Most steps of any matrix, and the formula, which they meet exactly: the lines cover each other.",
    ),
    Figure(
        id="logistic",
        title="The built network against exact damped Newton",
        curves=("distance-0.1", "distance-0.01"),
        panels={"distance-0.1": "mu = 0.1", "distance-0.01": "mu = 0.01"},
        x_label="Newton step",
        y_label="log10 of ||w - w*||",
        claims=("N3",),
        caption=(
            f"d = {SHOWN[0]}, n = {SHOWN[1]}; root mean square over prompts, w* by scikit-learn. An arm per number of "
            "pieces J. The network follows the exact iteration until it meets the floor that its interpolation sets."
        ),
    ),
    Figure(
        id="floor",
        title="Accuracy is paid in width",
        curves=("floor",),
        x_label="log10(width of the widest ReLU layer)",
        y_label="floor of ||w - w*||",
        log_y=True,
        claims=("N3", "N5"),
        caption="Root mean square over prompts and lengths. Four times the width is about a sixteenth of the error.",
    ),
    Figure(
        id="depth",
        title="Depth against accuracy",
        curves=("blocks", "descent"),
        panels={"blocks": "fewest blocks of the network", "descent": "steps of gradient descent"},
        x_label="log10(1 / suboptimality)",
        y_label="number (see the panel's title)",
        log_y=True,
        claims=("N4",),
        caption=(
            "An arm per penalty; ill-conditioned prompts. Steps and inner steps are chosen for fewest blocks. Blocks "
            "grow much more slowly than gradient steps, from a higher start: a gradient step is about two blocks, and "
            "the lines meet only at the smallest penalty and gap."
        ),
    ),
    Figure(
        id="regression",
        title="Linear regression: Newton and gradient descent at equal depth",
        curves=("regression-10", "regression-100", "regression-1000"),
        panels={f"regression-{k}": f"kappa = {k}" for k in (10, 100, 1000)},
        x_label="layers",
        y_label="log10 of the error of predictions",
        claims=("N6",),
        caption=(
            "Built networks of linear attention only, root mean square errors over prompts; the rate of gradient "
            "descent is the best one for each depth, chosen on these prompts."
        ),
    ),
    Figure(
        id="trained-linear",
        title="Trained linear-attention transformers beside Newton's iterates",
        curves=("trained-linear", "trained-linear-median"),
        panels={"trained-linear": "mean over prompts", "trained-linear-median": "median over prompts"},
        x_label="layers, or iterates",
        y_label="squared error / variance of labels",
        log_y=True,
        claims=("D1", "D2"),
        caption=(
            "Linear regression; mean and range over seeds. Newton's iterates for the inverse start from the best "
            "multiple of the Hessian (general) or of the identity (best). Deep stacks without norms are polynomials of "
            "high degree, and rare prompts blow their mean up."
        ),
    ),
    Figure(
        id="trained-logistic",
        title="The same for logistic regression",
        curves=("trained-logistic",),
        x_label="layers, or iterates",
        y_label="loss at the query, nats",
        claims=("D3",),
        caption=(
            "Mean and range over seeds; labels are drawn from the logistic model, so that no predictor comes near 0. "
            "Damped Newton is slow on rows of unequal norm; gradient steps and full Newton steps are not."
        ),
    ),
)
