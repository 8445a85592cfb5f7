"""What the report draws."""

from superpose.experiment import Figure

_ARMS = {
    "trained": "trained atoms",
    "sampled": "sampled training vectors",
    "random": "random atoms",
    "components": "principal components, same bytes",
}
_METHODS = {
    "kivi2": "2 bits per number (KIVI-like)",
    "kivi4": "4 bits per number (KIVI-like)",
    "sinks": "first and recent tokens",
    "h2o": "heavy hitters (H2O-like)",
    "snapkv": "recent votes (SnapKV-like)",
}

FIGURES = (
    Figure(
        id="error",
        title="A few atoms of a small dictionary",
        curves=("error-key", "error-value"),
        panels={"error-key": "keys", "error-value": "values"},
        x_label="atoms per vector",
        y_label="relative error on held-out text",
        arms=_ARMS,
        claims=("L1",),
        caption=(
            "Mean of ||x - x_hat|| / ||x|| over layers, heads and tokens, coefficients in fp8; bands are bootstrap "
            "intervals over text windows. Principal components spend the same bytes on more coefficients without "
            "indices."
        ),
    ),
    Figure(
        id="atoms",
        title="More atoms, smaller error",
        curves=("error-atoms",),
        x_label="atoms per dictionary",
        y_label="relative error on held-out text",
        claims=("L1",),
        caption="At the sparsity of the claims; each size is trained alike.",
    ),
    Figure(
        id="domains",
        title="One dictionary, other text",
        kind="bars",
        curves=("domains-key", "domains-value"),
        panels={"domains-key": "keys", "domains-value": "values"},
        x_label="text",
        y_label="relative error",
        arms=_ARMS,
        claims=("L2",),
        caption="Trained on Python's documentation; docs are held-out pages of it.",
    ),
    Figure(
        id="bytes",
        title="Bytes follow sparsity",
        curves=("bytes",),
        x_label="atoms per vector",
        y_label="share of a float16 cache",
        claims=("L3",),
        caption="A live cache after a prompt and single tokens; its exact window lies between it and the coded part.",
    ),
    Figure(
        id="decode",
        title="Perplexity against memory",
        curves=("decode-docs", "decode-code"),
        panels={"decode-docs": "documentation (in domain)", "decode-code": "code (out of domain)"},
        x_label="bytes of what left the exact window, share of float16",
        y_label="perplexity",
        arms=_METHODS,
        claims=("L2", "L4", "L5", "L6"),
        caption=(
            "Token-by-token decoding, every method with the same exact window; bootstrap intervals over text windows. "
            "In the paper's terms: lower left is better."
        ),
    ),
    Figure(
        id="copying",
        title="Repeating words that have left the exact window",
        kind="bars",
        curves=("copying",),
        x_label="cache (s: atoms per vector)",
        y_label="words repeated correctly",
        y_range=(0, 1),
        claims=("L4",),
        caption="Random words, a line break, the same words: the likeliest next token is the right one.",
    ),
    Figure(
        id="buffer",
        title="Buffer or atoms, at equal bytes",
        curves=("buffer",),
        x_label="exact tokens",
        y_label="perplexity",
        claims=("L8",),
        caption="From many atoms without a buffer (left) to few atoms and a large one, as in the paper's Table 5.",
    ),
)
