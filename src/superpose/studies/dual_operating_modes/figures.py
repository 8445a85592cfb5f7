"""At which priors and prompt lengths the study looks, and what the report draws of it. Imports no torch."""

from superpose.experiment import Figure

DELTAS = (1 / 81, 1 / 9, 1.0, 9.0, 81.0)  # delta_mu = delta_w, as in Figure 4
NARROW, MIDDLE, WIDE = DELTAS[0], DELTAS[1], DELTAS[3]
DEFAULT_TASK = (2.0, 1.0, 0.2)  # weights of the first three centres; Figure 4
DISTANCES = (1.0, 5 / 3, 3.0)  # weight of the first centre in Figure 5: farthest, middle, closest task
PAIRS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
ASCENT_PAIRS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 64)
DECAY_PAIRS = (128, 512, 2048, 4096, 8192, 16384, 32768, 65536)
DECAY_FROM = 4096  # where the log-log slope is read off
END = 128  # "the end" of the retrieval risk: the paper draws 0 to 127 pairs
NARROW_SIGMA, WIDE_SIGMA = 0.05, 0.5  # sigma_mu = sigma_w of the early-ascent prior: the paper's, and a wide one
LABEL_KINDS = ("true", "random", "flipped")

AXIS = "log2(1 + labelled pairs)"


def delta_name(delta: float) -> str:
    """A delta as it stands in legends and curve names."""
    return f"{delta:g}" if delta >= 1 else f"1/{1 / delta:g}"


def slug(delta: float) -> str:
    """A delta as it stands in measurement names, which allow no slash."""
    return delta_name(delta).replace("/", "|")


FIGURES = (
    Figure(
        id="weights",
        title="Retrieval: the weight of the nearest group",
        curves=("weight",),
        x_label=AXIS,
        y_label="posterior weight of group 1",
        y_range=(0, 1),
        claims=("DM2",),
        caption="An arm per delta. Narrow groups are told apart, wide ones are not; the paper's Fig. 4, top.",
    ),
    Figure(
        id="centres",
        title="Learning: the centre of the nearest group moves to the task shown",
        curves=("centre",),
        x_label=AXIS,
        y_label="distance of group 1's centre from the task",
        claims=("DM2",),
        caption="Wide groups move at once, narrow ones after about 1/delta pairs; the paper's Fig. 4, middle.",
    ),
    Figure(
        id="risks",
        title="Both risks",
        curves=("learning", "retrieval"),
        panels={"learning": "of the task shown (learning)", "retrieval": "of the nearest group (retrieval)"},
        x_label=AXIS,
        y_label="squared error",
        claims=("DM2", "DM5"),
        caption=(
            "The learning risk falls for every delta. The retrieval risk, which is what biased labels are scored by, "
            "falls and then rises for narrow groups; the paper's Fig. 4, bottom."
        ),
    ),
    Figure(
        id="tasks",
        title="Tasks nearer to a group are learned sooner",
        curves=tuple(f"task-{i}" for i in range(3)),
        panels={f"task-{i}": f"delta = {delta_name(DELTAS[i])}" for i in range(3)},
        x_label=AXIS,
        y_label="learning risk",
        claims=("DM2",),
        caption="Three tasks, from far off all groups to close to the first; the paper's Fig. 5.",
    ),
    Figure(
        id="early-ascent",
        title="Early ascent: more examples first make it worse",
        curves=("ascent",),
        x_label=AXIS,
        y_label="learning risk",
        claims=("DM3",),
        caption=(
            f"Narrow groups (sigma {NARROW_SIGMA:g}). The group with the right inputs has the opposite function, so "
            "retrieving it raises the risk before learning lowers it. An arm per dimension; the paper's Fig. 6."
        ),
    ),
    Figure(
        id="no-ascent",
        title="No early ascent where learning is fast",
        curves=("no-ascent",),
        x_label=AXIS,
        y_label="learning risk",
        claims=("DM3",),
        caption=f"The same tasks with wide groups (sigma {WIDE_SIGMA:g}): the risk falls from the first example.",
    ),
    Figure(
        id="decay",
        title="The risk falls as one over the square of the number of pairs",
        curves=("decay",),
        x_label=AXIS,
        y_label="learning risk",
        log_y=True,
        claims=("DM4",),
        caption="Narrow groups, long prompts; a slope of -2 is a quarter per unit of the horizontal axis.",
    ),
    Figure(
        id="transformer",
        title="A trained transformer and the exact predictor",
        curves=("trained-risk", "trained-gap"),
        panels={"trained-risk": "risk on one task", "trained-gap": "squared distance / Var(F*)"},
        x_label="labelled pairs",
        y_label="relative to the panel's title",
        claims=("DM7",),
        caption=(
            "Left: risk on the default task (noiseless labels) of transformers and of the exact predictor F*. Right: "
            "squared distance from F* on prompts of the prior, over its variance. Mean and range over seeds; the "
            "paper's Fig. 9-11."
        ),
    ),
    Figure(
        id="labels",
        title="A language model with true, random and flipped labels",
        curves=("label-accuracy", "label-probability"),
        panels={"label-accuracy": "accuracy", "label-probability": "probability of the true label"},
        x_label="demonstrations (mean of the bin)",
        y_label="on the true label",
        y_range=(0, 1),
        claims=("DM8",),
        caption=(
            "Sentiment of sentences from templates; the two label words' probabilities are renormalised. The paper's "
            "Fig. 8 shows five data sets on models of 7B and more."
        ),
    ),
)
