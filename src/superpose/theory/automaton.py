"""What one attention layer does at the end of training, without training it: hard retrieval, then soft composition.

Li, Huang, Ildiz, Rawat and Oymak, "Mechanics of Next Token Prediction with Self-Attention" (AISTATS 2024).
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from superpose.errors import InputError, choose

from .graph_svm import checked_embeddings, graph_svm, token_scores
from .next_token_data import MISSING_LABEL, NextTokenData, checked_sequences, token_counts
from .soft_component import soft_component
from .token_priority import TokenPriorityGraph

Sequences = Iterable[Iterable[int]] | Tensor


class AttentionAutomaton:
    """The limit of gradient descent on one softmax-attention layer, as an estimator with scikit-learn's methods.

    It keeps the tokens of a prompt with the highest score under ``hard_`` for the prompt's last token, and draws the
    next token among them with weights ``count * exp(score under soft_)``. That is the limit of the layer trained on
    the log-loss of `fit`'s prompts with an identity classifier, from any start.

        automaton = AttentionAutomaton(embeddings).fit(sequences, labels)
        automaton.predict_proba(prompts), automaton.is_ordered(prompts)

    Args:
        embeddings: one linearly independent row per token.
        solver: of the Graph-SVM, ``"nnls"`` or ``"cvxpy"``.
        missing_label: ``"raise"`` or ``"drop"``, for prompts that do not hold their label.
        tolerance: scores that differ by less are equal; components differ by at least 1.

    Attributes:
        graph_: the token-priority graph.
        data_: the checked prompts and labels.
        hard_: W_svm, the direction of the weights.
        soft_: W_fin, their finite part in the cyclic subspace.
        classes_: the token ids.

    Raises:
        InputError: an unknown solver or way with missing labels, or a tolerance outside (0, 1).
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "vocabulary width"],
        solver: str = "nnls",
        missing_label: str = "raise",
        tolerance: float = 1e-6,
    ) -> None:
        choose("solver", solver, ("nnls", "cvxpy"))
        choose("missing_label", missing_label, MISSING_LABEL)
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance is {tolerance}; allowed: above 0 and below 1, the smallest margin")
        self.embeddings = embeddings
        self.solver = solver
        self.missing_label = missing_label
        self.tolerance = tolerance

    def fit(self, sequences: Sequences, labels: Iterable[int] | Tensor) -> "AttentionAutomaton":
        """Build the graph and both components from prompts and their next tokens.

        Raises:
            InputError: prompts and labels as in :meth:`NextTokenData.from_sequences`, embeddings as in
                :func:`graph_svm`.
        """
        rows = torch.from_numpy(checked_embeddings(self.embeddings, len(self.embeddings)))
        self.data_ = NextTokenData.from_sequences(sequences, labels, len(rows), missing_label=self.missing_label)
        self.graph_ = TokenPriorityGraph.from_data(self.data_)
        self.hard_ = graph_svm(rows, self.graph_, self.solver)
        self.soft_ = soft_component(rows, self.graph_, self.data_)
        self.classes_ = torch.arange(len(rows))
        # Of all prompts only these two tables are needed: candidates in rows, queries in columns.
        self._hard_scores = token_scores(self.hard_, rows)
        self._soft_scores = token_scores(self.soft_, rows)
        return self

    def retrieved(self, sequences: Sequences) -> Bool[Tensor, "samples vocabulary"]:
        """Which tokens of each prompt are kept by the first step."""
        counts, last = self._counted(sequences)
        return self._retrieved(counts, last)

    def predict_proba(self, sequences: Sequences) -> Float[Tensor, "samples vocabulary"]:
        """The probability of every next token after each prompt.

        Raises:
            InputError: not fitted, an empty prompt, an id outside the vocabulary.
        """
        counts, last = self._counted(sequences)
        scores = self._soft_scores.T[last] + counts.log()
        return scores.masked_fill(~self._retrieved(counts, last), -torch.inf).softmax(1)

    def predict(self, sequences: Sequences) -> Int[Tensor, " samples"]:
        """The most probable next token after each prompt; of equally probable ones the smallest id."""
        probability = self.predict_proba(sequences)
        # Equal probabilities differ by rounding, and the answer should not depend on it.
        return (probability >= probability.amax(1, keepdim=True) - self.tolerance).int().argmax(1)

    def score(self, sequences: Sequences, labels: Iterable[int] | Tensor) -> float:
        """The share of prompts whose most probable next token is the label."""
        wanted = torch.as_tensor([int(label) for label in labels])
        guessed = self.predict(sequences)
        if len(wanted) != len(guessed):
            raise InputError(f"labels has {len(wanted)} entries for {len(guessed)} sequences; allowed: one of each")
        return float((guessed == wanted).double().mean())

    def is_ordered(self, sequences: Sequences) -> Bool[Tensor, " samples"]:
        """Whether the data decide each prompt: they order its query, and one component stands above all others in it.

        Elsewhere the probabilities are still those of the trained layer's limit, but they come from the geometry of
        the embeddings and not from any example.
        """
        self._check_fitted()
        rows = checked_sequences(sequences, len(self.embeddings))
        known = set(self.graph_.queries)
        return torch.tensor([row[-1] in known and self.graph_.top(row, row[-1]) is not None for row in rows])

    def sample(
        self, sequence: Iterable[int], tokens: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, " tokens"]:
        """Draw a continuation, every token appended to the prompt of the next.

        Args:
            sequence: the prompt.
            tokens: how many to draw, at least 1.
            generator: of the draws; default torch's global one.

        Raises:
            InputError: not fitted, a wrong prompt, ``tokens`` below 1.
        """
        if tokens < 1:
            raise InputError(f"tokens is {tokens}; allowed: 1 or more")
        grown = list(sequence)
        for _ in range(tokens):
            grown.append(int(torch.multinomial(self.predict_proba([grown])[0], 1, generator=generator)))
        return torch.tensor(grown[-tokens:])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn's tools read them."""
        return {name: getattr(self, name) for name in ("embeddings", "solver", "missing_label", "tolerance")}

    def set_params(self, **parameters: Any) -> "AttentionAutomaton":
        """Change arguments, as scikit-learn's tools do; fit again afterwards.

        Raises:
            InputError: an unknown argument, or a value that is not allowed.
        """
        for name in parameters:
            choose("parameter", name, self.get_params())
        # Through the constructor, which checks them together.
        vars(self).update(vars(type(self)(**(self.get_params() | parameters))))
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "hard_"):
            raise InputError("the automaton is not fitted; call fit(sequences, labels) first")

    def _counted(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        self._check_fitted()
        rows = checked_sequences(sequences, len(self.embeddings))
        return token_counts(rows, len(self.embeddings)).double(), torch.tensor([row[-1] for row in rows])

    def _retrieved(self, counts: Tensor, last: Tensor) -> Tensor:
        scores = self._hard_scores.T[last].masked_fill(counts == 0, -torch.inf)
        return scores >= scores.amax(1, keepdim=True) - self.tolerance
