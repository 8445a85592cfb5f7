"""Markov chains in context, each episode with a transition matrix of its own."""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .checks import number, whole
from .episode import Batch, TokenTask


@dataclass(frozen=True)
class MarkovChain(TokenTask):
    """A walk on a few symbols; after each symbol the next one is to be predicted.

    Every episode draws its own transition matrix, whose rows are independent ``Dirichlet(concentration)``, and a
    uniform first symbol. The exact predictor counts what followed the present symbol so far. The in-context task of
    arXiv 2402.11004 (there: 3 symbols, 100 steps, concentration 1).

    Attributes:
        symbols: how many different symbols.
        points: symbols that are read, one prediction after each.
        concentration: of the Dirichlet rows: the smaller, the more predictable the walk.
    """

    symbols: int = 4
    points: int = 24
    concentration: float = 0.3

    name = "markov-chain"
    paper = MappingProxyType({"symbols": 3, "points": 100, "concentration": 1.0})

    def __post_init__(self) -> None:
        whole("symbols", self.symbols, 2)
        whole("points", self.points, 1)
        number("concentration", self.concentration, 1e-2)

    @property
    def vocab(self) -> int:
        """The symbols."""
        return self.symbols

    @property
    def length(self) -> int:
        """One position per symbol; the last one is followed by a symbol that is only predicted."""
        return self.points

    @property
    def chance(self) -> float:
        """Any symbol."""
        return 1 - 1 / self.symbols

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw walks; ``info`` holds their transition matrices, row = present symbol."""
        self.no_dims(dims)
        points = self.points if points is None else whole("points", points, 1)
        shape = torch.full((batch, self.symbols, self.symbols), self.concentration, dtype=torch.float64)
        # In float32 a row of small Gamma variables can be 0 throughout; torch's Dirichlet takes no generator.
        gammas = torch._standard_gamma(shape.to(generator.device), generator=generator)  # pyright: ignore[reportPrivateImportUsage]
        transitions = gammas / gammas.sum(-1, keepdim=True)
        chances = torch.rand(batch, points + 1, generator=generator, device=generator.device, dtype=torch.float64)
        edges = transitions.cumsum(-1)[..., :-1].contiguous()
        walk = [(chances[:, 0] * self.symbols).long()]
        rows = torch.arange(batch, device=generator.device)
        for step in range(1, points + 1):
            walk.append((edges[rows, walk[-1]] <= chances[:, step, None]).sum(-1))
        ids = torch.stack(walk, dim=1)
        return Batch(
            inputs=ids[:, :-1],
            reads=torch.arange(points, device=ids.device),
            targets=ids[:, 1:],
            weight=torch.ones(batch, points, device=ids.device),
            info={"transitions": transitions.float()},
        )

    def posterior(self, batch: Batch) -> Float[Tensor, "batch reads symbols"]:
        """Return the exact predictor's probabilities of the next symbol: transitions counted so far, plus the prior."""
        now = F.one_hot(batch.inputs, self.symbols).double()
        seen = torch.einsum("bti,btj->btij", now, F.one_hot(batch.targets, self.symbols).double())
        before = F.pad(seen, (0, 0, 0, 0, 1, 0))[:, :-1].cumsum(1)
        counts = torch.einsum("bti,btij->btj", now, before) + self.concentration
        return counts / counts.sum(-1, keepdim=True)

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Return the error of the exact predictor, which answers the likeliest symbol, any of several equal ones."""
        posterior = self.posterior(batch)
        # Counts differ by whole numbers, so what is nearly equal is equal.
        best = posterior >= posterior.amax(-1, keepdim=True) - 1e-9
        hit = best.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        return (1 - hit / best.sum(-1)).to(batch.weight)
