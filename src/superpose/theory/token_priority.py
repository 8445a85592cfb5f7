"""Token-priority graphs: which tokens the data put before which others, for every last token of a prompt.

Li, Huang, Ildiz, Rawat and Oymak, "Mechanics of Next Token Prediction with Self-Attention" (AISTATS 2024).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import networkx as nx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from superpose.errors import InputError

from .next_token_data import NextTokenData, checked_sequences

SELECTED, UNSURE = 1e-2, 9e-3  # attention above which a token is selected, and from which it is not unselected


class TokenPriorityGraph:
    """One directed graph over all tokens per query (last token of a prompt), from prompts and their next tokens.

    A prompt with last token k and next token y adds the edge y -> x to the graph of k for every other token x in it.
    Tokens of one strongly connected component are *equal* for k; a token from which another can be reached, but not
    back, is *higher*. One attention layer trained on the data attends to the highest component in its context.

        graph = TokenPriorityGraph.from_sequences([[1, 2, 0], [2, 1, 0], [1, 3, 0]], [1, 2, 1], vocab_size=4)
        graph.relation(1, 2, 0), graph.relation(2, 3, 0)   # "equal", "higher"

    Args:
        vocab_size: number of tokens, at least 2.
        edges: per query with data, its edges (higher token, lower token).

    Attributes:
        vocab_size: number of tokens.
        edges: per query with data, in increasing order, its edges as sorted pairs.

    Raises:
        InputError: fewer than two tokens, ids outside the vocabulary, an edge from a token to itself.
    """

    def __init__(self, vocab_size: int, edges: Mapping[int, Iterable[tuple[int, int]]]) -> None:
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; allowed: at least 2 tokens")
        self.vocab_size = vocab_size
        self.edges = {k: tuple(sorted({(i, j) for i, j in edges[k]})) for k in sorted(edges)}
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        for k, pairs in self.edges.items():
            for token in (k, *(t for pair in pairs for t in pair)):
                if not 0 <= token < vocab_size:
                    raise InputError(f"edges of query {k} name the token {token}; allowed: 0 to {vocab_size - 1}")
            loops = [i for i, j in pairs if i == j]
            if loops:
                raise InputError(f"edges of query {k} hold a loop at {loops[0]}; allowed: pairs of different tokens")

    @classmethod
    def from_sequences(
        cls,
        sequences: Iterable[Iterable[int]] | Tensor,
        labels: Iterable[int] | Tensor,
        vocab_size: int,
        *,
        mask: Bool[Tensor, "samples length"] | None = None,
        missing_label: str = "raise",
    ) -> "TokenPriorityGraph":
        """The graph of a data set; arguments as in :meth:`NextTokenData.from_sequences`."""
        return cls.from_data(
            NextTokenData.from_sequences(sequences, labels, vocab_size, mask=mask, missing_label=missing_label)
        )

    @classmethod
    def from_data(cls, data: NextTokenData) -> "TokenPriorityGraph":
        """The graph of a checked data set."""
        return cls._from_selections(data.sequences, [{y} for y in data.labels], None, data.vocab_size)

    @classmethod
    def from_attention(
        cls,
        sequences: Iterable[Iterable[int]] | Tensor,
        attention: Float[Tensor, "samples vocabulary"],
        *,
        selected: float = SELECTED,
        unsure: float = UNSURE,
    ) -> "TokenPriorityGraph":
        """The *local* graph: edges start at the tokens that a trained layer attends to, not at the labels.

        Gradient descent on another loss or classifier may settle on other tokens than the labels; its weights then
        follow the Graph-SVM direction of this graph.

        Args:
            sequences: the prompts.
            attention: attention of each prompt's last token, summed over the occurrences of each token.
            selected: a token with more than this is selected.
            unsure: a token with more than this that is not selected is left out; thresholds as in the authors' code.

        Raises:
            InputError: attention of another shape or not finite, thresholds out of order, a prompt in which nothing is
                selected.
        """
        if attention.ndim != 2 or not bool(torch.isfinite(attention).all()):
            raise InputError(f"attention has shape {tuple(attention.shape)}; allowed: [samples, vocabulary], finite")
        rows = checked_sequences(sequences, attention.shape[1])
        if len(rows) != len(attention):
            raise InputError(f"attention has {len(attention)} rows for {len(rows)} sequences; allowed: one of each")
        if not 0 <= unsure <= selected < 1:
            raise InputError(f"unsure is {unsure} and selected {selected}; allowed: 0 <= unsure <= selected < 1")
        chosen, left_out = [], []
        for at, (row, mass) in enumerate(zip(rows, attention.tolist(), strict=True)):
            chosen.append({token for token in row if mass[token] > selected})
            left_out.append({token for token in row if unsure < mass[token] <= selected})
            if not chosen[-1]:
                raise InputError(f"attention[{at}] selects no token of its sequence above selected = {selected}")
        return cls._from_selections(rows, chosen, left_out, attention.shape[1])

    @classmethod
    def _from_selections(
        cls,
        sequences: Sequence[Sequence[int]],
        chosen: Sequence[Collection[int]],
        left_out: Sequence[Collection[int]] | None,
        vocab_size: int,
    ) -> "TokenPriorityGraph":
        edges: dict[int, set[tuple[int, int]]] = {}
        for at, (row, tops) in enumerate(zip(sequences, chosen, strict=True)):
            ignored = left_out[at] if left_out is not None else ()
            own = edges.setdefault(row[-1], set())
            own.update((y, x) for y in tops for x in row if x != y and x not in ignored)
        return cls(vocab_size, edges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenPriorityGraph) and (self.vocab_size, self.edges) == (
            other.vocab_size,
            other.edges,
        )

    def __hash__(self) -> int:
        return hash((self.vocab_size, tuple(self.edges.items())))

    def __repr__(self) -> str:
        edges = sum(map(len, self.edges.values()))
        return f"TokenPriorityGraph(vocab_size={self.vocab_size}, queries={len(self.edges)}, edges={edges})"

    @property
    def queries(self) -> tuple[int, ...]:
        """The last tokens for which there are data."""
        return tuple(self.edges)

    def graph(self, k: int) -> nx.DiGraph:
        """The graph of query k, with all tokens as nodes.

        Raises:
            InputError: there are no data with this last token.
        """
        self._check(k)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(self.vocab_size))
        graph.add_edges_from(self.edges[k])
        return graph

    def components(self, k: int) -> tuple[frozenset[int], ...]:
        """The strongly connected components of query k, higher ones before lower ones."""
        condensed = self.condensation(k)
        return tuple(frozenset(condensed.nodes[c]["members"]) for c in nx.lexicographical_topological_sort(condensed))

    def condensation(self, k: int) -> nx.DiGraph:
        """The acyclic graph between components; the attribute ``members`` of a node holds its tokens."""
        return nx.condensation(self.graph(k))

    def component_index(self, k: int) -> Int[Tensor, " vocabulary"]:
        """The index in :meth:`components` of each token's component."""
        index = torch.empty(self.vocab_size, dtype=torch.long)
        for at, members in enumerate(self.components(k)):
            index[list(members)] = at
        return index

    def higher(self, k: int) -> Bool[Tensor, "vocabulary vocabulary"]:
        """Whether the row's token is strictly higher than the column's for query k."""
        return self._orders(k)[1]

    def relation(self, i: int, j: int, k: int) -> str:
        """How token i stands to token j for query k: "equal", "higher", "lower" or "incomparable".

        Raises:
            InputError: a token outside the vocabulary, or no data with last token k.
        """
        for token in (i, j):
            if not 0 <= token < self.vocab_size:
                raise InputError(f"token {token} is not in the vocabulary; allowed: 0 to {self.vocab_size - 1}")
        equal, higher = self._orders(k)
        if equal[i, j]:
            return "equal"
        return "higher" if higher[i, j] else "lower" if higher[j, i] else "incomparable"

    def top(self, tokens: Iterable[int], k: int) -> frozenset[int] | None:
        """Those of the tokens that form the highest component present, or None where the data do not order them."""
        equal, higher = self._orders(k)
        present = sorted(set(tokens))
        for token in present:
            below = higher[token, present]
            if bool((equal[token, present] | below).all()):
                return frozenset(t for t, lower in zip(present, below.tolist(), strict=True) if not lower)
        return None

    @cached_property
    def is_acyclic(self) -> bool:
        """Whether every component of every query is a single token: the soft component is then 0."""
        return all(nx.is_directed_acyclic_graph(self.graph(k)) for k in self.edges)

    def ties(self) -> Int[Tensor, "pairs 3"]:
        """Pairs (i, j, k) that span the equalities: in each component of query k its smallest token with the others."""
        rows = []
        for k in self.edges:
            for members in self.components(k):
                first, *others = sorted(members)
                rows += [(first, other, k) for other in others]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)

    def orders(self) -> Int[Tensor, "pairs 3"]:
        """Edges (i, j, k) between components: i stands directly above j. All other orders follow by adding them up."""
        rows = []
        for k, pairs in self.edges.items():
            index = self.component_index(k).tolist()
            rows += [(i, j, k) for i, j in pairs if index[i] != index[j]]
        return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        edges = {str(k): [list(pair) for pair in pairs] for k, pairs in self.edges.items()}
        return {"vocab_size": self.vocab_size, "edges": edges}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TokenPriorityGraph":
        """Back from :meth:`to_dict`.

        Raises:
            InputError: an entry is missing or is not what :meth:`to_dict` writes.
        """
        try:
            edges = {int(k): [(int(i), int(j)) for i, j in pairs] for k, pairs in stored["edges"].items()}
            return cls(int(stored["vocab_size"]), edges)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"stored is not a token-priority graph: {error!r}") from error

    def to_dot(self, k: int, names: Sequence[str] | None = None) -> str:
        """The graph of query k for Graphviz, a box per component of several tokens.

        Args:
            k: the query.
            names: of the tokens; default their ids.

        Raises:
            InputError: no data with last token k, or another number of names than of tokens.
        """
        if names is not None and len(names) != self.vocab_size:
            raise InputError(f"names has {len(names)} entries; allowed: {self.vocab_size}, one per token")
        self._check(k)

        def name(token: int) -> str:
            text = str(token) if names is None else names[token]
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        lines = [f"digraph {name(k)} {{"]
        used = {token for pair in self.edges[k] for token in pair}
        for at, members in enumerate(self.components(k)):
            shown = " ".join(f"{name(token)};" for token in sorted(members) if token in used)
            if len(members) > 1:
                lines.append(f"  subgraph cluster_{at} {{ {shown} }}")
            elif shown:
                lines.append(f"  {shown}")
        lines += [f"  {name(i)} -> {name(j)};" for i, j in self.edges[k]]
        return "\n".join([*lines, "}"]) + "\n"

    def _check(self, k: int) -> None:
        if k not in self.edges:
            seen = ", ".join(map(str, self.edges)) or "none"
            raise InputError(f"query {k} has no data: no prompt ends with it; queries with data: {seen}")

    def _orders(self, k: int) -> tuple[Tensor, Tensor]:
        """Which pairs are equal, and which are strictly higher: reachability both ways, by squaring."""
        self._check(k)
        if k not in self._found:
            reach = torch.eye(self.vocab_size, dtype=torch.bool)
            if self.edges[k]:
                above, below = torch.tensor(self.edges[k]).T
                reach[above, below] = True
            while True:
                further = (reach.float() @ reach.float()) > 0
                if bool((further == reach).all()):
                    break
                reach = further
            self._found[k] = reach & reach.T, reach & ~reach.T
        return self._found[k]
