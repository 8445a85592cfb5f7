"""Data sets: random prompts as the paper draws them, prompts that no training saw, and characters of a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from superpose.errors import InputError
from superpose.theory import AttentionAutomaton, NextTokenData, TokenPriorityGraph, cyclic_basis
from superpose.training import seeded

MOST_DRAWS = 10_000

# The opening sentences of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865; public domain).
TEXT = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what is the
use of a book," thought Alice "without pictures or conversations?" So she was considering in her own mind (as well as
she could, for the hot day made her feel very sleepy and stupid), whether the pleasure of making a daisy-chain would be
worth the trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.
"""


@dataclass(frozen=True)
class DataSet:
    """Embeddings and prompts, with everything that theory says about them.

    Attributes:
        embeddings: one row of length 1 per token.
        automaton: the limit of training, fitted; holds data, graph and both components.
    """

    embeddings: Tensor
    automaton: AttentionAutomaton

    @property
    def data(self) -> NextTokenData:
        """Prompts and labels."""
        return self.automaton.data_

    @property
    def graph(self) -> TokenPriorityGraph:
        """The token-priority graph."""
        return self.automaton.graph_

    @cached_property
    def basis(self) -> Tensor:
        """An orthonormal basis of the cyclic subspace."""
        return cyclic_basis(self.embeddings, self.graph)


def random_set(seed: int, shape: Sequence[int], cyclic: bool) -> DataSet:
    """Gaussian embeddings of length 1; prompts of distinct tokens, the label one of them; redrawn until it fits.

    Args:
        seed: of the set.
        shape: vocabulary, width, prompts and tokens per prompt.
        cyclic: whether some component must have several tokens, or none may.

    Raises:
        InputError: no such set in 10,000 draws.
    """
    vocabulary, width, prompts, length = shape
    draw = seeded(seed, "cyclic" if cyclic else "acyclic")
    embeddings = normalize(torch.randn(vocabulary, width, generator=draw, dtype=torch.float64), dim=-1)
    for _ in range(MOST_DRAWS):
        ids = torch.rand(prompts, vocabulary, generator=draw).argsort(1)[:, :length]
        labels = ids[torch.arange(prompts), torch.randint(length, (prompts,), generator=draw)]
        graph = TokenPriorityGraph.from_sequences(ids, labels, vocabulary)
        # Without an order of two components there is no direction to converge to.
        if graph.is_acyclic != cyclic and len(graph.orders()):
            return DataSet(embeddings, AttentionAutomaton(embeddings).fit(ids, labels))
    kind = "cyclic" if cyclic else "acyclic"
    raise InputError(f"shape {tuple(shape)}: no {kind} data set in {MOST_DRAWS} draws; allowed: shapes that have one")


def text_set(window: int) -> tuple[DataSet, str]:
    """Every ``window`` characters of the text that hold the next one, with orthonormal embeddings; the alphabet."""
    text = re.sub("[^a-z]+", " ", TEXT.lower()).strip()
    alphabet = "".join(sorted(set(text)))
    ids = [alphabet.index(character) for character in text]
    prompts = [ids[at - window : at] for at in range(window, len(ids))]
    embeddings = torch.eye(len(alphabet), dtype=torch.float64)
    return DataSet(
        embeddings, AttentionAutomaton(embeddings, missing_label="drop").fit(prompts, ids[window:])
    ), alphabet


def stack(sets: Sequence[DataSet]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, prompts and labels of sets of one shape, side by side."""
    return (
        torch.stack([one.embeddings for one in sets]),
        torch.stack([torch.tensor(one.data.sequences) for one in sets]),
        torch.stack([one.data.targets for one in sets]),
    )


def unseen_prompts(one: DataSet, count: int, length: int, seed: int) -> list[list[int]]:
    """Prompts of pairwise comparable tokens that occur together in no training prompt with that last token.

    Tokens are repeated at random, which training prompts do not do. There may be fewer than ``count``.
    """
    draw = seeded(seed, "unseen")
    seen = {(frozenset(row), row[-1]) for row in one.data.sequences}
    comparable = {}
    for k in one.graph.queries:
        index, higher = one.graph.component_index(k), one.graph.higher(k)
        comparable[k] = (index[:, None] == index) | higher | higher.T
    found: dict[tuple[frozenset[int], int], list[int]] = {}
    for _ in range(20 * count):
        k = one.graph.queries[int(torch.randint(len(comparable), (1,), generator=draw))]
        wanted = int(torch.randint(2, length + 1, (1,), generator=draw))
        tokens = [k]
        for token in torch.randperm(one.graph.vocab_size, generator=draw).tolist():
            if len(tokens) < wanted and token not in tokens and bool(comparable[k][token, tokens].all()):
                tokens.append(token)
        prompt = (frozenset(tokens), k)
        if len(tokens) > 1 and prompt not in seen and prompt not in found:
            times = torch.randint(1, 4, (len(tokens),), generator=draw).tolist()
            found[prompt] = [token for token, many in zip(tokens, times, strict=True) for _ in range(many)] + [k]
        if len(found) == count:
            break
    return list(found.values())
