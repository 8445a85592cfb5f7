"""Which transition probabilities a set of prompts can teach: connectivity of co-occurrence graphs."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import block_array, csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from superpose.errors import InputError


@dataclass(frozen=True)
class CoverageReport:
    """What prompts can teach about a context-conditioned Markov chain.

    For every last token k two tokens are joined if some prompt that ends with k holds both. Within a connected group
    the ratios of the probabilities after k are identified; between groups they are not. So row k of the transition
    matrix is identified if and only if its graph is connected (arXiv 2402.13512).

    Attributes:
        components: for each last token k the groups of tokens, each sorted, the one that holds k first.
    """

    components: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.components)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Identified directions of each row of logits: the number of tokens minus that of groups."""
        return tuple(self.vocabulary - len(groups) for groups in self.components)

    @property
    def unidentified(self) -> tuple[int, ...]:
        """Last tokens whose row is not identified."""
        return tuple(k for k, groups in enumerate(self.components) if len(groups) > 1)

    @property
    def identified(self) -> bool:
        """Whether every row is."""
        return not self.unidentified

    def prompts_to_add(self) -> list[list[int]]:
        """Return one prompt for every unidentified row that would identify it: a token of each group, then k."""
        return [[*(group[0] for group in self.components[k] if k not in group), k] for k in self.unidentified]

    def require(self) -> None:
        """Refuse prompts that leave something unidentified.

        Raises:
            InputError: names each such last token with its groups, and the first prompt to add.
        """
        if self.identified:
            return
        told = "; ".join(f"after {k}: {_groups(self.components[k])}" for k in self.unidentified[:5])
        more = "" if len(self.unidentified) <= 5 else f" (and {len(self.unidentified) - 5} more last tokens)"
        raise InputError(
            f"prompts leave {len(self.unidentified)} of {self.vocabulary} transition rows unidentified, the tokens "
            f"falling into groups that no prompt contrasts: {told}{more}; allowed: connected graphs, for example with "
            f"the prompt {self.prompts_to_add()[0]} added"
        )


def _groups(groups: tuple[tuple[int, ...], ...]) -> str:
    return " | ".join("{" + ", ".join(map(str, group)) + "}" for group in groups)


def prompt_coverage(present: Bool[Tensor, "prompts vocabulary"], last: Int[Tensor, " prompts"]) -> CoverageReport:
    """Find the groups of tokens that prompts contrast, for every last token.

    Args:
        present: which tokens each prompt holds. Where the last token is counted in its prompt, as in self-attention,
            a row is identified exactly if every token shares a prompt with it; where the query comes from elsewhere
            (cross-attention) chains of prompts count too, which is why graphs are built.
        last: the last token (or the query) of each prompt.
    """
    held, ends = present.cpu().numpy(), last.cpu().numpy()
    vocabulary = held.shape[1]
    components = []
    for k in range(vocabulary):
        chosen = held[ends == k].astype(np.int8)
        # Prompts as nodes beside the tokens: as many edges as tokens in prompts, not one per pair of tokens.
        own = csr_array((vocabulary, vocabulary), dtype=np.int8)
        joined = [[None, csr_array(chosen)], [csr_array(chosen.T), own]]
        graph = block_array(joined, format="csr") if len(chosen) else own
        labels = connected_components(graph, directed=False)[1][len(chosen) :]
        groups = [tuple(np.flatnonzero(labels == label).tolist()) for label in dict.fromkeys(labels.tolist())]
        components.append(tuple(sorted(groups, key=lambda group: (k not in group, group))))
    return CoverageReport(tuple(components))
