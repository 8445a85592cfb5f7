"""Claims, presets, figures and measures of the paper on next-token prediction by one attention layer. No torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, at_least, at_most, below
from superpose.studies.next_token_mechanics.config import KINDS, LOSSES, Config
from superpose.studies.next_token_mechanics.figures import FIGURES

SMALL_SETS = ("laptop", "gpu")  # what the small data sets show is judged alike at both

NOT_AN_EQUATION = (
    "Every data set is a counter-example. Outside the cyclic subspace W keeps a finite part beside C(t) W_svm: what "
    "the random start has outside the span of the data never moves, and the ratios between the losses that are left "
    "fix the rest, as for logistic regression on separable data. Attention does not see it in the limit, which is why "
    "the automaton is right all the same."
)

study = Study(
    slug="next-token-mechanics",
    title="Mechanics of Next Token Prediction with Self-Attention",
    room="theory",
    paper="Li, Huang, Ildiz, Rawat, Oymak; AISTATS 2024, arXiv 2403.08081",
    card="docs/next-token-mechanics.md",
    summary=(
        "Prompts and their next tokens make a graph per last token; its strongly connected components say what one "
        "attention layer will attend to, and in which shares. The study trains such layers and compares them with the "
        "limit that is computed from the graph without training."
    ),
    config=Config,
    presets={
        "smoke": {
            "seeds": 3,
            "steps": 100,
            "plain_steps": 1000,
            "penalties": (1e-2, 1e-6),
            "radii": (10, 20),
            "local_steps": 100,
            "unseen": 5,
            "text_steps": 20,
        },
        "laptop": {},
        "gpu": {
            "trained_shape": (64, 96, 400, 12),
            "trained_sets": 5,
            "trained_kinds": ("cyclic",),
            "steps": 20_000,  # the Graph-SVM's norm is 15 times that of the small sets, and the margins grow as slowly
            "lr": 0.05,
        },
    },
    claims=(
        Claim(
            id="N1",
            sentence=(
                "Hard retrieval: attention concentrates on the tokens of the highest-priority component in the context."
            ),
            paper_figure="attention on the label's component goes to 1 (curve)",
            criteria={
                scale: all_of(at_least("mean-mass", 0.995), at_least("worst-prompt", 0.98)) for scale in SMALL_SETS
            },
            explanations={
                "laptop:fails": (
                    "After the paper's 4000 updates the mean over 40 data sets is .999, but 2 of 240 prompts are below "
                    ".98, the worst at .974. It belongs to the data set whose Graph-SVM has the largest norm, 9.2 "
                    "(mean 3.5): an update has length .01, so the norm of W ends below 40 and the margins there near "
                    "4. After twice the updates the worst prompt of all is at .995. What fails is the number of "
                    "updates for data with narrow margins, not the limit."
                )
            },
        ),
        Claim(
            id="N2",
            sentence="The direction of the weights tends to that of the Graph-SVM.",
            paper_figure="correlations 0.976 to 0.993 on ten cyclic data sets",
            criteria={
                "laptop": all_of(
                    *(
                        part
                        for kind in KINDS
                        for name in ("corr", "proj-corr")
                        for part in (at_least(f"{kind}.{name}", 0.98), at_least(f"{kind}.smallest-{name}", 0.95))
                    )
                ),
                "gpu": all_of(
                    *(
                        part
                        for name in ("corr", "proj-corr")
                        for part in (at_least(f"cyclic.{name}", 0.98), at_least(f"cyclic.smallest-{name}", 0.95))
                    )
                ),
            },
            explanations={
                "laptop:fails": (
                    "The means (.984 cyclic, .993 acyclic) are the paper's, and 39 of 40 cyclic data sets pass. The "
                    "smallest correlation is .948 where .95 was asked, in a set whose W_svm has the norm 6.3 (mean "
                    "3.5) and whose margins are still short after 4000 updates of length .01; after twice the "
                    "updates the smallest of all is .963."
                )
            },
        ),
        Claim(
            id="N3",
            sentence=(
                "Soft composition: the part of the weights in the cyclic subspace tends to the finite W_fin, under "
                "gradient descent and along the regularisation path."
            ),
            paper_figure="norm of the difference 0.0044 on one data set",
            criteria={
                scale: all_of(at_most("plain.largest-distance", 0.02), at_most("path.largest-distance", 1e-4))
                for scale in SMALL_SETS
            },
            explanations={
                "laptop:fails": (
                    "The regularisation path ends within 1e-8 of W_fin in every data set. Gradient descent is at .003 "
                    "on average after 8000 updates, and at .048 in the slowest of 40 sets: as long as tokens outside "
                    "the component have attention, which falls as 1/t, they move the cyclic part too. The distance "
                    "falls as t to the power -1.00, and is .019 in that set after 20,000 updates."
                )
            },
        ),
        Claim(
            id="N4",
            sentence="Gradient descent discovers the strongly connected components: their tokens end up tied.",
            paper_figure="none (stated in words)",
            criteria={"laptop": at_least("pairs-right", 0.95)},
        ),
        Claim(
            id="N5",
            sentence="The weights grow along W_svm as C(t) W_svm, with C(t) ~ ln t.",
            paper_figure="theorem and curve (no number)",
            criteria={scale: all_of(at_least("slope", 0.95), at_most("slope", 1.05)) for scale in SMALL_SETS},
        ),
        Claim(
            id="N5b",
            sentence="Taken as an equation in the limit: W(t) - C(t) W_svm - W_fin tends to 0.",
            paper_figure="none: the literal reading of the decomposition W(t) ~ C(t) W_svm + W_fin",
            criteria={scale: at_most("rest", 0.02) for scale in SMALL_SETS},
            explanations=dict.fromkeys(("laptop:fails", "gpu:fails"), NOT_AN_EQUATION),
        ),
        Claim(
            id="N5c",
            sentence=(
                "What C(t) W_svm + W_fin leaves out is finite, and a falling share of the weights: the decomposition "
                "gives the direction, and the cyclic part, of W(t)."
            ),
            paper_figure="theorem: W(t) / |W(t)| tends to W_svm / |W_svm|",
            criteria={scale: below("largest-step-of-the-share", 0) for scale in SMALL_SETS},
        ),
        Claim(
            id="N6",
            sentence="The regularisation path tends to the Graph-SVM's direction, as had been conjectured.",
            paper_figure="theorem (no number)",
            criteria={
                scale: all_of(
                    at_least("proj-corr", 0.998),
                    above("smallest-proj-corr-step", 0),
                    above("smallest-corr-step", 0),
                    above("smallest-norm-step", 0),
                )
                for scale in SMALL_SETS
            },
        ),
        Claim(
            id="N7",
            sentence="On acyclic data the regularisation path of every strictly decreasing loss has this direction.",
            paper_figure="theorem (no number)",
            criteria={
                scale: all_of(
                    *(
                        part
                        for loss in LOSSES
                        for part in (at_least(f"{loss}.corr", 0.99), above(f"{loss}.smallest-step", 0))
                    )
                )
                for scale in SMALL_SETS
            },
        ),
        Claim(
            id="N8",
            sentence=(
                "With another loss and classifier gradient descent may settle on other tokens than the labels; the "
                "weights then follow the Graph-SVM of the graph of the tokens that they select."
            ),
            paper_figure="correlations 0.992 to 0.9996 with the local graph, 0.26 to 0.95 with the labels' graph",
            criteria={
                scale: all_of(at_least("local-above-global", 0.8), at_least("local-corr", 0.98)) for scale in SMALL_SETS
            },
        ),
        Claim(
            id="N9",
            sentence=(
                "The automaton (hard retrieval, then soft composition) predicts the trained layer's distribution, on "
                "training prompts and on unseen prompts of comparable tokens."
            ),
            paper_figure="none (implied)",
            criteria={"laptop": all_of(at_most("training-distance", 0.01), at_most("unseen-distance", 0.01))},
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("N1", "N2", "N4", "N9")
def descent(run: Run[Config]) -> None:
    """Normalised gradient descent against graph, Graph-SVM and automaton."""
    from superpose.studies.next_token_mechanics.measures import measure_descent

    measure_descent(run)


@study.measured_by("N3", "N5", "N5b", "N5c")
def growth(run: Run[Config]) -> None:
    """Plain gradient descent: what converges and what grows."""
    from superpose.studies.next_token_mechanics.measures import measure_plain

    measure_plain(run)


@study.measured_by("N6")
def path(run: Run[Config]) -> None:
    """The regularisation path."""
    from superpose.studies.next_token_mechanics.measures import measure_paths

    measure_paths(run)


@study.measured_by("N7")
def losses(run: Run[Config]) -> None:
    """Three losses under a bound on the norm."""
    from superpose.studies.next_token_mechanics.measures import measure_losses

    measure_losses(run)


@study.measured_by("N8")
def local(run: Run[Config]) -> None:
    """Local convergence."""
    from superpose.studies.next_token_mechanics.measures import measure_local

    measure_local(run)
