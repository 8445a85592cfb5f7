"""What the report draws of the study. Imports no torch."""

from superpose.experiment import Figure

FIGURES = (
    Figure(
        id="neurons",
        title="How many neurons give N samples new labels",
        curves=("neurons-two", "neurons-three"),
        panels={"neurons-two": "two layers", "neurons-three": "three layers"},
        x_label="log2 of the number of tuned samples N",
        y_label="hidden neurons m",
        log_y=True,
        claims=("F1", "F2", "F3", "F4"),
        arms={
            "K = N": "built, K = N",
            "K = 4 N": "built, K = 4 N",
            "K = 40 N": "built, K = 40 N",
            "built": "built, every K",
            "lower": "needed on some data",
            "two layers": "needed with two layers",
        },
        caption=(
            "Networks with written-down weights beside a frozen one. In two layers the number grows like N and stays "
            "below 3 N however many samples are to be kept; the worst data need 3 N. In three layers it grows like "
            "the root of N, the same for every K; between the lower bound and what is built lies a factor below two."
        ),
    ),
    Figure(
        id="profile",
        title="What a patch looks like: 4 tuned samples of 16 on a line",
        curves=("profile",),
        x_label="position on the line",
        y_label="change of the output",
        claims=("F1", "F3"),
        arms={"two layers": "two layers (corners are the samples)", "three layers": "three layers"},
        caption=(
            "Both go through every sample, and say nothing of use about what lies between. In three layers every wave "
            "from which a value is read swings to both sides of 0 close to a tuned sample. This is memorising, not "
            "learning."
        ),
    ),
    Figure(
        id="errors",
        title="Largest error on all K samples, in float64",
        curves=("error-two", "error-three"),
        panels={"error-two": "two layers", "error-three": "three layers"},
        x_label="log2 of the number of tuned samples N",
        y_label="error over the largest change",
        log_y=True,
        claims=("F1", "F3", "F5"),
        caption=(
            "Geometric mean over dimensions and seeds, with their range. In exact rationals the error is 0; what is "
            "seen is rounding, which grows with the slopes."
        ),
    ),
    Figure(
        id="conditioning",
        title="Rounding follows the smallest gap",
        kind="scatter",
        curves=("conditioning",),
        x_label="log10 of the smallest gap between projections, over their range",
        y_label="log10 of the error over the largest change",
        claims=("F1", "F3"),
        caption=(
            "One point per network. A patch that must change one sample and keep its neighbour needs a slope of the "
            "change over their distance: choosing the direction with the largest gap is what buys digits."
        ),
    ),
    Figure(
        id="worst",
        title="The worst of all data sets on a line",
        curves=("worst",),
        x_label="tuned samples N of K",
        y_label="breaks needed",
        claims=("F2", "F2exact"),
        arms={"exhaustive": "every set and labels -1, 0, 1", "formula": "min(3 N, K - 2)", "simple": "1.5 N"},
        caption=(
            "For the largest K that was gone through. Signs of slope changes say which turns cannot share a break; "
            "counting that a break lies in two spans at most gives only 1.5 N."
        ),
    ),
    Figure(
        id="duality",
        title="The two definitions are one staircase",
        curves=("duality-m", "duality-n"),
        panels={"duality-m": "least m for N samples", "duality-n": "most N for m neurons"},
        x_label="tuned samples N, or neurons m (breaks on a line)",
        y_label="neurons m, or tuned samples N",
        claims=("F6",),
        caption=(
            "Each found by its own definition over all sets of samples with labels -1, 0 and 1, and by inverting the "
            "other: the least m whose capacity reaches N, and the most N that need no more than m."
        ),
    ),
    Figure(
        id="breaks",
        title="Breaks of three-layer networks on a line",
        kind="scatter",
        curves=("breaks",),
        x_label="bound: (d1 + 1) (d2 + 1) - 1",
        y_label="breaks found, over the bound",
        y_range=(0, 1.05),
        claims=("F4",),
        arms={"random": "random weights", "sharp": "zigzags"},
        caption="Random networks stay far below the bound, which zigzags reach: as a count it cannot be improved.",
    ),
    Figure(
        id="trained",
        title="Side networks trained from scratch: share that learns its data",
        curves=("trained-two", "trained-three"),
        panels={"trained-two": "two layers, width over N", "trained-three": "three layers, width over sqrt N"},
        x_label="hidden neurons over N, or over sqrt N",
        y_label="share of networks with every residual within 0.3",
        claims=("F7",),
        caption=(
            "Adam, labels -1 and 1 on N points and 0 on N others, four dimensions. Wilson intervals. If curves of "
            "different N fall on each other, the width needed grows like the axis says."
        ),
    ),
    Figure(
        id="elsewhere",
        title="Images that the patch was not given",
        curves=("elsewhere",),
        x_label="log10 of how far an output moves",
        y_label="share of images moved farther",
        claims=("F8",),
        caption=(
            "A classifier of scanned digits, patched on half of the images. On the other half nothing is promised: "
            "most images lie where the patch is 0, and some do not. Put into K whatever must stay as it is."
        ),
    ),
)
