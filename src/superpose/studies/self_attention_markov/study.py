"""Claims, presets and measures of the paper on self-attention and Markov chains. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, at_least, at_most, below
from superpose.experiment.claim import SCALES, Scale
from superpose.studies.self_attention_markov.config import GPU, SETTLING, SMOKE, Config
from superpose.studies.self_attention_markov.figures import FIGURES

MAIN: tuple[Scale, ...] = ("laptop", "gpu")
VOCABULARIES = (4, 6, 8)


def _within(name: str, centre: float, room: float):
    return all_of(at_least(name, centre - room), at_most(name, centre + room))


same_function = all_of(
    at_most("largest-difference", 1e-10),
    at_most("largest-difference-to-torch", 1e-10),
    at_most("largest-difference-float32", 1e-5),
)

study = Study(
    slug="self-attention-markov",
    title="From Self-Attention to Markov Models: Unveiling the Dynamics of Generative Transformers",
    room="theory",
    paper="M. Emrullah Ildiz, Yixiao Huang, Yingcong Li, Ankit Singh Rawat, Samet Oymak; ICML 2024, arXiv 2402.13512",
    card="docs/self-attention-markov.md",
    summary=(
        "One softmax-attention layer is a Markov chain whose next-token probabilities are multiplied by how often each "
        "token occurs in the context. The study checks that identity, when such chains can be learned and from how "
        "many samples, and when a chain that reads its own output ends up repeating one token."
    ),
    config=Config,
    presets={"smoke": SMOKE, "laptop": {}, "gpu": GPU},
    claims=(
        Claim(
            id="M1",
            sentence=(
                "One softmax self-attention layer with a classifier that inverts its embeddings is exactly a Markov "
                "chain whose transition row is reweighted by the counts of the tokens in the prompt."
            ),
            paper_figure="theorem",
            criteria={
                "smoke": same_function,
                "laptop": same_function,
                "gpu": all_of(same_function, at_most("largest-difference-bfloat16", 0.1)),
            },
        ),
        Claim(
            id="M2",
            sentence=(
                "Every chain with positive probabilities has exactly one weight matrix in the span of the "
                "(e_i - e_j) e_k^T, and a layer's output depends on its weights only through their projection there."
            ),
            paper_figure="theorem",
            criteria={
                scale: all_of(
                    at_most("chain-round-trip", 1e-10),
                    at_most("weight-round-trip", 1e-10),
                    at_most("outside-the-span", 1e-10),
                    at_most("wrong-ranks", 0),
                )
                for scale in SCALES
            },
        ),
        Claim(
            id="M3",
            sentence=(
                "With position vectors on the keys the counts become position weights: transitions are rescaled by "
                "where tokens stand, and without them the order before the last token does not matter."
            ),
            paper_figure="theorem",
            criteria={
                scale: all_of(
                    at_most("largest-difference", 1e-10),
                    at_most("largest-change-without-positions", 1e-10),
                    above("smallest-change-with-positions", 1e-6),
                )
                for scale in SCALES
            },
        ),
        Claim(
            id="M4",
            sentence=(
                "Learning from prompts is consistent if and only if, for every last token, the graph of tokens that "
                "share a prompt is connected."
            ),
            paper_figure="theorem (if and only if)",
            criteria={
                "smoke": at_least("rank-agreement", 1),
                **{
                    scale: all_of(
                        at_least("rank-agreement", 1),
                        at_least("uncovered-over-covered", 10),
                        at_most("covered-error-at-16-times-the-samples", 0.5),
                        at_most("uncovered-within-groups-over-covered", 2),
                    )
                    for scale in MAIN
                },
            },
        ),
        Claim(
            id="M5",
            sentence=(
                "The excess loss of the maximum-likelihood chain falls as K^2/n; to leading order it is K(K-1)/(2n)."
            ),
            paper_figure="rate K^2/n up to logarithms; the constant is Wilks'",
            criteria={
                scale: all_of(
                    *(_within(f"slope.k-{k}", -1, 0.15) for k in VOCABULARIES),
                    *(at_least(f"excess-ratio.k-{k}", 0.8) for k in VOCABULARIES),
                    *(at_most(f"excess-ratio.k-{k}", 1.25) for k in VOCABULARIES),
                )
                for scale in MAIN
            },
        ),
        Claim(
            id="M5W",
            sentence="The squared error of the weights falls as 1/n.",
            paper_figure="rate K^2/n up to logarithms",
            explanations={
                "laptop:inconclusive": (
                    "For 4 and 6 tokens the slope is -1 within the bounds. With 8 tokens 1000 samples are too few for "
                    "the limit: single tokens are hardly ever seen to follow others, their logits run far off, and "
                    "the error falls faster than 1/n while that lasts, about -1.1 over this range with an interval "
                    "that crosses the bound of -1.15. The figure's last steps have the slope of the others."
                )
            },
            criteria={scale: all_of(*(_within(f"slope.k-{k}", -1, 0.15) for k in VOCABULARIES)) for scale in MAIN},
        ),
        Claim(
            id="M6",
            sentence="The problem is convex: gradient descent on the attention weights learns the chain.",
            paper_figure="theorem",
            criteria={scale: all_of(at_most("loss-gap", 1e-6), at_most("probability-gap", 1e-3)) for scale in MAIN},
        ),
        Claim(
            id="M7",
            sentence=(
                "Winner takes all: a single trajectory collapses on a limited set of tokens where tokens dominate "
                "their own rows."
            ),
            paper_figure="curves (no number)",
            criteria={
                scale: all_of(at_least("top-share", 0.95), above("rise", 0), at_most("common-tokens", 2))
                for scale in MAIN
            },
        ),
        Claim(
            id="M7L",
            sentence=(
                "As the abstract words it: the generative process collapses into sampling a limited subset of tokens, "
                "whatever the chain."
            ),
            paper_figure="abstract: 'an intriguing winner-takes-all phenomenon'",
            explanations={
                "laptop:fails": (
                    "The words leave out what decides: here no token is the likeliest after itself, so none can take "
                    "everything. In these random chains four to five of six tokens are still common after 20,000 "
                    "tokens, and where the drift of the shares has its fixed point inside, as in the chains "
                    "'two-tokens' and 'four-tokens' of M9, all of them stay for ever. M7 has the sentence with its "
                    "condition, M9L says when a group of tokens collapses all the same."
                )
            },
            criteria={
                scale: all_of(at_least("top-share", 0.95), above("rise", 0), at_most("common-tokens", 2))
                for scale in MAIN
            },
        ),
        Claim(
            id="M8",
            sentence=(
                "Once token k has won, the count of token j grows as t^rho with rho = P(j|k) / P(k|k), so its "
                "probability vanishes polynomially."
            ),
            paper_figure="none: derived from the model",
            criteria={
                scale: all_of(*(at_most(f"{name}.gap", 0.05) for name in ("even", "contested", "slow")))
                for scale in MAIN
            },
        ),
        Claim(
            id="M8I",
            sentence=(
                "Learning from a single trajectory slows down: the Fisher information about the winner's row grows as "
                "t^rho instead of t."
            ),
            paper_figure="none: follows from M8",
            role="reported",
            reason="the paper treats learning from one trajectory, but gives no number that this could be held against",
        ),
        Claim(
            id="M9",
            sentence=(
                "Collapse on one token is conditional: with two tokens, neither of which dominates its own row, the "
                "mean shares go to the fixed point of the drift (single trajectories, and chains of more tokens, are "
                "measured beside it: they get there far more slowly)."
            ),
            paper_figure="none: derived from the model",
            criteria={scale: at_most("two-tokens.gap", 0.02) for scale in MAIN},
        ),
        Claim(
            id="M9L",
            sentence="Where no token dominates its own row there is no collapse: every token keeps a share.",
            paper_figure="none: what M9 suggests, true for two tokens",
            criteria={
                scale: all_of(*(at_least(f"{name}.smallest-share", 0.01) for name in SETTLING)) for scale in MAIN
            },
            explanations={
                "laptop:fails": (
                    "The chain 'pair' is a counter-example: none of its four tokens is the likeliest after itself, but "
                    "the first and the last follow one another with probability .7, and as a pair they take "
                    "everything. A token without a share stays without where its exponent rho_j = sum_k mu_k P(j|k) / "
                    "sum_i s_i P(i|k) is below 1, and here it is 1/4 for both others. Whether a group collapses is "
                    "read off these exponents, not off single rows; with two tokens there is no such group."
                )
            },
        ),
        Claim(
            id="M10",
            sentence=(
                "The collapse has its like in language models: their greedy continuations use fewer and fewer "
                "different tokens."
            ),
            paper_figure="illustration (GPT-2)",
            criteria={scale: below("greedy.change", 0) for scale in MAIN},
        ),
        Claim(
            id="M10T",
            sentence=(
                "It explains why language models repeat themselves: their tokens too gain probability with the "
                "logarithm of their count, over what the last token alone gives, and sampling narrows down as well."
            ),
            paper_figure="illustration (GPT-2)",
            role="reported",
            reason="the theorem covers one layer; nothing in it says how a deep model sampled at temperature 1 ends",
        ),
        Claim(
            id="M10C",
            sentence="A bigram chain of English letters narrows down if it is multiplied by counts, and else does not.",
            paper_figure="none",
            role="reported",
            reason="an illustration on real text of what M7 and M9 say: letters rarely dominate their own rows",
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("M1", "M2", "M3")
def identities(run: Run[Config]) -> None:
    """Attention, chains and weights on random layers."""
    from superpose.studies.self_attention_markov.measures import measure_identities

    measure_identities(run)


@study.measured_by("M4")
def coverage(run: Run[Config]) -> None:
    """Ranks against components, and learning from prompts that leave rows uncovered."""
    from superpose.studies.self_attention_markov.measures import measure_coverage

    measure_coverage(run)


@study.measured_by("M5", "M5W")
def sample_complexity(run: Run[Config]) -> None:
    """Excess loss and weight error over samples and vocabularies."""
    from superpose.studies.self_attention_markov.measures import measure_samples

    measure_samples(run)


@study.measured_by("M6")
def gradient_descent(run: Run[Config]) -> None:
    """The attention module trained by gradient descent beside the maximum-likelihood chain."""
    from superpose.studies.self_attention_markov.measures import measure_descent

    measure_descent(run)


@study.measured_by("M7", "M7L")
def winners(run: Run[Config]) -> None:
    """Trajectories of chains with raised and with lowered diagonals."""
    from superpose.studies.self_attention_markov.trajectory_measures import measure_winners

    measure_winners(run)


@study.measured_by("M8", "M8I")
def losers(run: Run[Config]) -> None:
    """How losers' counts and the information about them grow."""
    from superpose.studies.self_attention_markov.trajectory_measures import measure_losers

    measure_losers(run)


@study.measured_by("M9", "M9L")
def settling(run: Run[Config]) -> None:
    """Shares of chains in which no token dominates its own row."""
    from superpose.studies.self_attention_markov.trajectory_measures import measure_settling

    measure_settling(run)


@study.measured_by("M10", "M10T")
def language(run: Run[Config]) -> None:
    """A language model's own continuations."""
    from superpose.studies.self_attention_markov.text_measures import measure_language

    measure_language(run)


@study.measured_by("M10C")
def characters(run: Run[Config]) -> None:
    """Letters of English text."""
    from superpose.studies.self_attention_markov.text_measures import measure_characters

    measure_characters(run)
