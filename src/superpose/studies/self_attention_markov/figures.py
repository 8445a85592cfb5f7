"""What the report draws. Imports no torch."""

from superpose.experiment import Figure

LENGTH_AXIS = "log10(tokens written)"
SAMPLES_AXIS = "log10(samples)"

FIGURES = (
    Figure(
        id="exactness",
        title="Attention and the reweighted chain are the same function",
        kind="bars",
        curves=("exactness",),
        x_label="identity",
        y_label="largest difference",
        log_y=True,
        claims=("M1", "M2", "M3"),
        caption="Largest difference of two probabilities, or of two weights, over all layers and prompts.",
    ),
    Figure(
        id="coverage",
        title="Rows are learned where the prompts connect all tokens",
        curves=("coverage",),
        x_label=SAMPLES_AXIS,
        y_label="error of a row's logits (root mean square)",
        log_y=True,
        claims=("M4",),
        caption=(
            "Uncovered rows keep their error however many samples there are; after removing one free constant per "
            "group of contrasted tokens their error falls as that of covered rows does."
        ),
    ),
    Figure(
        id="sample-complexity",
        title="What samples buy: the excess loss over K(K-1)/(2n)",
        curves=("excess-ratio",),
        x_label=SAMPLES_AXIS,
        y_label="excess loss over K(K-1)/(2n)",
        claims=("M5",),
        caption="An arm per vocabulary; exact expectations over prompts, intervals over chains. Theory: 1.",
    ),
    Figure(
        id="weight-error",
        title="What samples buy: the squared error of the weights",
        curves=("weight-error",),
        x_label=SAMPLES_AXIS,
        y_label="median of ||W - W*||^2",
        log_y=True,
        claims=("M5W",),
        caption="An arm per vocabulary, and 1/n through its last point; intervals over chains.",
    ),
    Figure(
        id="gradient-descent",
        title="Gradient descent on the attention weights ends at the maximum-likelihood chain",
        curves=("gradient-descent",),
        x_label="log10(updates)",
        y_label="loss above the maximum-likelihood chain's",
        log_y=True,
        claims=("M6",),
        caption="One line per seed.",
    ),
    Figure(
        id="collapse",
        title="One trajectory: winner takes all, if tokens dominate their own rows",
        curves=("top-share",),
        x_label=LENGTH_AXIS,
        y_label="share of the commonest token",
        y_range=(0, 1),
        claims=("M7", "M7L"),
        caption="Random chains; their diagonals are raised above, or lowered below, the rest of each row.",
    ),
    Figure(
        id="common-tokens",
        title="How many tokens are left",
        curves=("common-tokens",),
        x_label=LENGTH_AXIS,
        y_label="tokens with more than 1 %",
        claims=("M7", "M7L"),
        caption="The same trajectories.",
    ),
    Figure(
        id="losers",
        title="Losers grow as a power of the length",
        curves=("losers-even", "losers-contested", "losers-slow"),
        panels={
            "losers-even": "rows (.7 .3) (.7 .3)",
            "losers-contested": "rows (.8 .2) (.4 .6)",
            "losers-slow": "rows (.6 .4) (.9 .1)",
        },
        x_label=LENGTH_AXIS,
        y_label="log10(count of the loser)",
        claims=("M8",),
        caption="Median over trajectories that the first token won, and the predicted slope through its last point.",
    ),
    Figure(
        id="settling",
        title="No token dominates: shares settle, inside or on a pair",
        curves=("settling",),
        x_label=LENGTH_AXIS,
        y_label="share of the rarest token",
        claims=("M9", "M9L"),
        caption=(
            "Mean over trajectories with the quartiles of single trajectories, and the fixed point of the drift. In "
            "the chain 'pair' two tokens follow one another and leave nothing to the others."
        ),
    ),
    Figure(
        id="language-model",
        title="A language model writing on and on",
        curves=("distinct", "window-top"),
        panels={"distinct": "different tokens", "window-top": "commonest token"},
        x_label="window",
        y_label="share of the window",
        y_range=(0, 1),
        claims=("M10", "M10T"),
        caption="Greedy and sampled at temperature 1, the end of text excluded; mean and bootstrap over prompts.",
    ),
    Figure(
        id="characters",
        title="Letters of English text, with and without counting the context",
        curves=("characters",),
        x_label=LENGTH_AXIS,
        y_label="effective number of characters so far",
        claims=("M10C",),
        caption="Bigram chains of the same text, once plain and once multiplied by counts.",
    ),
)
