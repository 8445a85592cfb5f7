"""At which designs the study looks in closed form, and what the report draws of it. Imports no torch."""

from superpose.experiment import Figure

SAMPLED_DIM, SAMPLED_NOISE = 20, 0.2**0.5
SAMPLED_LENGTHS = (10, 20, 40)
SAMPLED_ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
LARGE_DIMS = (20, 80, 320, 1280)  # with alpha = 1/sqrt(dim) and n = 2 dim
CLASSES = {"gradient-step": "gradient step", "attention": "linear attention", "h3": "H3"}
CENTRED, SHIFTED = "mean 0", "mean (1, 0, ...)"

FIGURES = (
    Figure(
        id="iid",
        title="Independent examples: trained layers and the closed form",
        curves=("risk-iid", "risk-noisy"),
        panels={"risk-iid": "no label noise", "risk-noisy": "label noise of variance 1/2"},
        x_label="examples in the prompt",
        y_label="squared error / dim",
        claims=("I1", "I2"),
        caption=(
            "Mean and range over seeds. Both layers lie on the risk of the best gradient step; the best predictor of "
            "any kind (Bayes) is far below it. The paper's figure for i.i.d. data."
        ),
    ),
    Figure(
        id="drift",
        title="A drifting task: H3 weights its examples",
        curves=("risk-drift",),
        x_label="correlation rho of the tasks of neighbouring examples",
        y_label="squared error / dim",
        claims=("I3",),
        caption="Closed forms without and with sample weights, and trained layers (range over seeds) at two rhos.",
    ),
    Figure(
        id="weights",
        title="The weights that H3 learns",
        curves=("weights-0", "weights-1"),
        panels={"weights-0": "smallest rho", "weights-1": "largest rho"},
        x_label="examples back from the query",
        y_label="weight / mean weight",
        claims=("I3",),
        caption="Read off the trained layer by probing it, beside the closed form; range over seeds.",
    ),
    *(
        Figure(
            id=name,
            title=title,
            curves=tuple(f"{name}-{i}" for i in range(len(SAMPLED_LENGTHS))),
            panels={f"{name}-{i}": f"n = {n}" for i, n in enumerate(SAMPLED_LENGTHS)},
            x_label="alpha",
            y_label=f"squared error / dim, dim {SAMPLED_DIM}",
            claims=(claim,),
            caption=caption,
        )
        for name, claim, title, caption in (
            (
                "rag",
                "I4",
                "Retrieved examples: exact risk, sampled risk, and the paper's approximation",
                "The approximation is meant for small alpha; it promises too much, the more the longer the prompt.",
            ),
            (
                "aligned",
                "I5",
                "Task-aligned features: exact risk, sampled risk, and the paper's approximation",
                "As for retrieved examples; alignment counts twice.",
            ),
        )
    ),
    Figure(
        id="worth",
        title="What one example is worth",
        curves=("worth-rag", "worth-aligned"),
        panels={"worth-rag": "retrieved", "worth-aligned": "task-aligned"},
        x_label="alpha",
        y_label="random examples per example",
        claims=("I4", "I5"),
        caption=(
            f"Effective sample size over n (dim {SAMPLED_DIM}), read off the i.i.d. formula at the exact risk, beside "
            "the paper's kappa = alpha^2 dim + 1 and kappa^2. The gain saturates: long prompts profit less."
        ),
        log_y=True,
    ),
    Figure(
        id="approximation",
        title="The approximations become exact like 1/dim",
        curves=("gap",),
        x_label="log2 dim (alpha = 1/sqrt(dim), n = 2 dim)",
        y_label="relative gap to the exact risk",
        log_y=True,
        claims=("I4", "I5"),
        caption="Every line of slope -1 on both logarithmic axes is a gap of order 1/dim.",
    ),
    Figure(
        id="designs",
        title="Layers trained on retrieved and on aligned examples",
        curves=("trained-rag", "trained-aligned"),
        panels={"trained-rag": "retrieved", "trained-aligned": "task-aligned"},
        x_label="alpha",
        y_label="squared error / dim",
        claims=("I4", "I5"),
        caption="Exact risk of the best gradient step and trained linear attention (range over seeds).",
    ),
    Figure(
        id="rank",
        title="Low-rank attention: the risk follows the spectrum of the tasks",
        curves=("risk-rank",),
        x_label="rank of the query and key matrices",
        y_label="squared error / dim",
        claims=("I6",),
        caption="Closed form, prompts sampled at the truncated optimum, and trained layers (range over seeds).",
    ),
    Figure(
        id="lora",
        title="LoRA after a shift of the tasks",
        curves=("risk-lora", "risk-update"),
        panels={"risk-lora": "peft adapters, same eigenvectors", "risk-update": "best updates, other eigenvectors"},
        x_label="rank of the adapter",
        y_label="squared error / dim",
        claims=("I7",),
        caption="Left: trained adapters (range over seeds) on the closed form. Right: the closed form, sampled.",
    ),
    Figure(
        id="classes",
        title="Everything one layer could compute",
        kind="bars",
        curves=("classes",),
        x_label="best function of the class, fitted by least squares",
        y_label="squared error / dim",
        claims=("I8",),
        caption="For tasks of mean 0 no class beats the gradient step; for a mean that is not 0, attention and H3 can.",
    ),
    Figure(
        id="arrivals",
        title="Where training arrives from different initial weights",
        kind="bars",
        curves=("arrivals",),
        x_label="initial weights, sorted by the risk they arrive at",
        y_label="risk / exact optimum",
        claims=("I9",),
        caption="Beside the optimum there is a second place to arrive at, where attention has learned one direction.",
    ),
)
