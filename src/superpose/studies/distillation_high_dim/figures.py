"""What the report draws of the study. Imports no torch."""

from superpose.experiment import Figure
from superpose.studies.distillation_high_dim.spectra import KINDS, SCALING_LAWS

FIGURES = (
    Figure(
        id="risk",
        title="Risk of a min-norm student of three kinds of labels",
        curves=tuple(f"risk-{kind}" for kind in KINDS),
        panels={"risk-true": "true labels", "risk-optimal": "optimal surrogate", "risk-mask": "best mask"},
        x_label="samples",
        y_label="excess risk",
        log_y=True,
        claims=("K1",),
        caption=(
            "500 features, eigenvalues i^-2, eigenvalue times squared coordinate i^-1.5, as in the paper's figure 1; "
            "without noise and with labels of variance .05 more. Simulated students with 95 % intervals."
        ),
    ),
    Figure(
        id="improvement",
        title="What a surrogate's labels gain over true labels",
        curves=("improvement-optimal", "improvement-mask"),
        panels={"improvement-optimal": "optimal surrogate", "improvement-mask": "best mask"},
        x_label="samples",
        y_label="1 - risk / risk of true labels",
        claims=("K4", "K5"),
        caption=(
            "The same students, in pairs: same inputs, same noise. Noise on the labels, which no teacher removes, "
            "leaves less to gain; near as many samples as features no feature is worth dropping."
        ),
    ),
    Figure(
        id="gain",
        title="The best surrogate amplifies strong features and shrinks weak ones",
        curves=("gain", "criterion"),
        panels={"gain": "surrogate / truth", "criterion": "amplify where 1 - zeta > omega"},
        x_label="log10(index of the feature)",
        y_label="relative to the panel's title",
        claims=("K3",),
        caption="200 samples of the paper's figure 1: the formula over a numerical minimum that does not know it.",
    ),
    Figure(
        id="kept",
        title="How many features the best mask keeps depends on the data",
        curves=("kept",),
        x_label="samples / features",
        y_label="share of features kept",
        y_range=(0, 1),
        claims=("K4",),
        caption="An arm per spectrum; with equal eigenvalues nothing is to be dropped, at any number of samples.",
    ),
    Figure(
        id="spread",
        title="The risk concentrates around the formula",
        curves=("spread", "largest-deviation"),
        panels={
            "spread": "standard deviation over data sets",
            "largest-deviation": "largest distance from the formula",
        },
        x_label="log2(features)",
        y_label="risk",
        log_y=True,
        claims=("K2",),
        caption="2.5 features per sample, eigenvalues between a half and three halves.",
    ),
    Figure(
        id="scaling",
        title="A better teacher gains a factor, not a rate",
        curves=tuple(f"scaling-{i}" for i in range(len(SCALING_LAWS))),
        panels={f"scaling-{i}": f"alpha {a:g}, beta {b:g}" for i, (a, b) in enumerate(SCALING_LAWS)},
        x_label="log2(samples)",
        y_label="risk x samples^rate, true labels = 1 at first",
        claims=("K6",),
        caption=(
            "Two million features, in closed form, times the claimed rate n^min(beta - 1, 2 alpha): flat lines fall at "
            "that rate, and a teacher that learned faster would show as a falling one."
        ),
    ),
    Figure(
        id="scaling-simulated",
        title="The same with simulated students",
        curves=("scaling-simulated",),
        x_label="log2(samples)",
        y_label="excess risk",
        log_y=True,
        claims=("K6",),
        caption="A thousand features, alpha 2, beta 3, in absolute numbers; 95 % intervals.",
    ),
    Figure(
        id="two-stage",
        title="Surrogates that were fitted themselves, on other inputs",
        kind="bars",
        curves=("two-stage",),
        x_label="surrogate's spectrum, its samples and the target's per feature",
        y_label="excess risk",
        log_y=True,
        claims=("K7",),
        caption=(
            "The target's eigenvalues are i^-1.5. A surrogate that saw a steeper spectrum hears less of weak features "
            "and can teach better than the truth does; with noise on its labels it is by far the worst, because it "
            "divides that noise by the small variances it saw."
        ),
    ),
    Figure(
        id="classical",
        title="With more samples than features the truth is the best surrogate",
        curves=("classical",),
        x_label="surrogate / truth",
        y_label="excess risk",
        claims=("K8",),
        caption="100 features, 300 samples, noise of variance .1.",
    ),
    Figure(
        id="networks",
        title="Small convolutional networks teach a large one",
        kind="bars",
        curves=("networks",),
        x_label="surrogate",
        y_label="test accuracy",
        claims=("K9",),
        caption=(
            "scikit-learn's digits: the surrogate sees 300 true labels, the large network 897 other images. The paper "
            "fine-tunes a pretrained ResNet-50 on CIFAR-10 with labels of three small networks."
        ),
    ),
    Figure(
        id="digits",
        title="Real features follow the theory",
        curves=("digits",),
        x_label="samples",
        y_label="excess risk",
        log_y=True,
        claims=("K10",),
        caption="600 random ReLU features of the digits, the regression of 'digit >= 5' as the truth.",
    ),
)
