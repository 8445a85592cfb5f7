"""Context-conditioned Markov chains: what one self-attention layer is, as a model to build, fit and ask."""

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError

from .attention_chain import attention_transitions, attention_weight
from .count_logits import check_samples, fit_count_logits
from .coverage import CoverageReport, prompt_coverage
from .markov import check_transitions

Prompts = Sequence[Sequence[int]] | Int[Tensor, "prompts length"] | np.ndarray
Tokens = Sequence[int] | Int[Tensor, " prompts"] | np.ndarray


class UnidentifiedWarning(UserWarning):
    """Prompts leave some transition rows unidentified, and the fit chose their minimum-norm logits."""


class ContextConditionedMarkovChain:
    """A Markov chain whose next-token probabilities are multiplied by how often each token occurs in the context.

    ``P(j | prompt) = m_j P(j | k) / sum_i m_i P(i | k)``, k the last token of the prompt and m_j the number of times
    token j occurs in it. One softmax-attention layer whose classifier inverts its embeddings is exactly this
    (arXiv 2402.13512). Give ``transitions``, or a ``vocabulary`` and then `fit`.

    Args:
        transitions: row k = base probabilities after token k; zeros are allowed.
        vocabulary: number of tokens, where the chain is to be fitted.
        l2: of `fit`: ``l2 / 2`` times the sum of squared logits is added to the mean loss; 0, the paper's estimator,
            by default. A little (1e-4) keeps logits finite where a token was never chosen.

    Attributes:
        transitions_: as given or fitted, ``[present, next]`` in float64.
        logits_: after `fit`, ``[next, present]``; each connected group of tokens sums to 0.
        coverage_: after `fit`, what its prompts identify.
        log_likelihood_: after `fit`, mean over its samples, in nats.

    Raises:
        InputError: neither or both of ``transitions`` and ``vocabulary``; transitions that are none; fewer than two
            tokens; a negative l2.
    """

    transitions_: Float[Tensor, "vocabulary vocabulary"]
    logits_: Float[Tensor, "vocabulary vocabulary"]
    coverage_: CoverageReport
    log_likelihood_: float

    def __init__(
        self,
        transitions: Float[Tensor, "tokens _"] | np.ndarray | Sequence[Sequence[float]] | None = None,
        *,
        vocabulary: int | None = None,
        l2: float = 0.0,
    ):
        if (transitions is None) == (vocabulary is None):
            raise InputError("transitions and vocabulary: give exactly one of the two")
        if not l2 >= 0:
            raise InputError(f"l2 is {l2}; allowed: 0 or more")
        self.l2 = l2
        if transitions is not None:
            self.transitions_ = check_transitions(torch.as_tensor(transitions, dtype=torch.float64))
            vocabulary = len(self.transitions_)
        self.vocabulary = cast(int, vocabulary)
        if self.vocabulary < 2:
            raise InputError(f"vocabulary is {vocabulary}; allowed: at least 2 tokens")

    @classmethod
    def from_attention(
        cls, weight: Float[Tensor, "width width"], embeddings: Float[Tensor, "tokens width"]
    ) -> "ContextConditionedMarkovChain":
        """Return the chain that an attention layer with these weights is."""
        return cls(attention_transitions(weight, embeddings))

    def to_attention(
        self, embeddings: Float[Tensor, "tokens width"]
    ) -> tuple[Float[Tensor, "width width"], Float[Tensor, "tokens width"]]:
        """Return the key-query matrix in S_E and the classifier of the layer that this chain is.

        Raises:
            InputError: a zero among the transitions, dependent embeddings, or not one per token.
        """
        return attention_weight(self.transitions_, embeddings), torch.linalg.pinv(embeddings.double()).mT

    def next_token_probs(self, prompts: Prompts, queries: Tokens | None = None) -> Float[Tensor, "prompts vocabulary"]:
        """Return the probabilities of the next token after each prompt.

        Args:
            prompts: token ids, of any lengths.
            queries: the tokens that ask, where they are not the prompts' last tokens (cross-attention); they are then
                not counted.

        Raises:
            InputError: an empty prompt, ids outside the vocabulary, or a prompt of which no token can follow.
        """
        counts, last = prompt_counts(prompts, self.vocabulary, queries)
        weights = counts * self.transitions_[last]
        total = weights.sum(-1, keepdim=True)
        if bool((total == 0).any()):
            at = int((total.squeeze(1) == 0).nonzero()[0])
            raise InputError(
                f"prompts[{at}] has no reachable token: all that it holds have probability 0 after {int(last[at])}"
            )
        return weights / total

    def log_likelihood(self, prompts: Prompts, targets: Tokens, queries: Tokens | None = None) -> float:
        """Return the mean log-probability of the targets in nats; -inf where the chain excludes one.

        Raises:
            InputError: as `next_token_probs`, or a target that does not occur in its prompt.
        """
        counts, last = prompt_counts(prompts, self.vocabulary, queries)
        chosen = _ids(targets)
        check_samples(counts, last, chosen, self.vocabulary)
        probabilities = self.next_token_probs(prompts, queries)
        return float(probabilities.gather(1, chosen[:, None]).log().mean())

    def fit(
        self, prompts: Prompts, targets: Tokens, queries: Tokens | None = None, *, require_coverage: bool = False
    ) -> "ContextConditionedMarkovChain":
        """Estimate the transitions by maximum likelihood, which is a concave problem.

        Rows that the prompts do not identify get the minimum-norm logits, with a warning that names them: the ratios
        within a group of contrasted tokens are estimates, those between groups are 1 by convention.

        Args:
            prompts: token ids, of any lengths.
            targets: the token that followed each.
            queries: as in `next_token_probs`.
            require_coverage: refuse prompts that leave a row unidentified instead.

        Raises:
            InputError: as `log_likelihood`, or uncovered rows where ``require_coverage``.
        """
        counts, last = prompt_counts(prompts, self.vocabulary, queries)
        chosen = _ids(targets)
        check_samples(counts, last, chosen, self.vocabulary)
        coverage = prompt_coverage(counts > 0, last)
        if require_coverage:
            coverage.require()
        self.logits_ = fit_count_logits(counts, last, chosen, self.vocabulary, l2=self.l2)
        self.transitions_ = self.logits_.softmax(0).mT
        self.coverage_ = coverage
        self.log_likelihood_ = self.log_likelihood(prompts, chosen, queries)
        if not coverage.identified:
            rows = ", ".join(map(str, coverage.unidentified))
            warnings.warn(
                f"the prompts do not identify what follows {rows}: coverage_.components has the groups, "
                "coverage_.prompts_to_add() what is missing; their minimum-norm logits were chosen",
                UnidentifiedWarning,
                stacklevel=2,
            )
        return self

    def coverage(self, prompts: Prompts, queries: Tokens | None = None) -> CoverageReport:
        """Return what prompts could teach, whatever follows them."""
        counts, last = prompt_counts(prompts, self.vocabulary, queries)
        return prompt_coverage(counts > 0, last)


def prompt_counts(
    prompts: Prompts, vocabulary: int, queries: Tokens | None = None
) -> tuple[Int[Tensor, "prompts vocabulary"], Int[Tensor, " prompts"]]:
    """Return how often each token occurs in each prompt, and each prompt's last token (or the given query).

    Raises:
        InputError: no prompt, an empty one, ids outside the vocabulary, or another number of queries.
    """
    if len(prompts) == 0:
        raise InputError("prompts is empty; allowed: at least one prompt")
    if isinstance(prompts, Tensor | np.ndarray):
        ids = torch.as_tensor(prompts)
        rows = torch.arange(len(ids)).repeat_interleave(ids.shape[1])
        flat, ends = ids.reshape(-1), ids[:, -1:].reshape(-1)
        shortest = ids.shape[1]
    else:
        lengths = [len(prompt) for prompt in prompts]
        rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor(lengths))
        flat = torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.long)
        shortest = min(lengths)
        ends = torch.tensor([prompt[-1] for prompt in prompts if len(prompt)], dtype=torch.long)
    if shortest == 0:
        raise InputError("prompts has an empty prompt; allowed: at least one token in each")
    if queries is not None:
        ends = _ids(queries)
        if len(ends) != len(prompts):
            raise InputError(f"queries has {len(ends)} tokens; allowed: {len(prompts)}, one per prompt")
    for name, tokens in (("prompts", flat), ("queries", ends)):
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise InputError(
                f"{name} has tokens from {int(tokens.min())} to {int(tokens.max())}; allowed: 0 to {vocabulary - 1}"
            )
    counts = torch.zeros(len(prompts) * vocabulary, dtype=torch.long)
    counts.index_add_(0, rows * vocabulary + flat, torch.ones_like(flat))
    return counts.view(len(prompts), vocabulary), ends


def trajectory_samples(
    ids: Int[Tensor, "trajectories length"], vocabulary: int, start: int
) -> tuple[Int[Tensor, "samples vocabulary"], Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """Return trajectories as samples to learn from: every prefix of ``start`` tokens or more, and what followed it.

    Args:
        ids: prompts with what was generated behind them.
        vocabulary: number of tokens.
        start: length of the prompts.

    Returns:
        Counts, last tokens and targets, one row per generated token.

    Raises:
        InputError: nothing was generated, or the prompt is empty.
    """
    length = ids.shape[1]
    if not 1 <= start < length:
        raise InputError(f"start is {start}; allowed: 1 to {length - 1}, so that something follows the prompt")
    counts = torch.nn.functional.one_hot(ids, vocabulary).cumsum(1)[:, start - 1 : -1]
    return counts.flatten(0, 1), ids[:, start - 1 : -1].flatten(), ids[:, start:].flatten()


def _ids(tokens: Tokens) -> Int[Tensor, " prompts"]:
    return torch.as_tensor(tokens).long()
