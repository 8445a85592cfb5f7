"""Token tasks of copying and of associative recall."""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose

from .checks import whole
from .episode import Batch, TokenTask


@dataclass(frozen=True)
class Copying(TokenTask):
    """Random symbols, a separator, and the same symbols again; every symbol of the copy is scored.

    Attributes:
        symbols: how many different symbols; the separator is one id more.
        points: symbols to copy.
    """

    symbols: int = 16
    points: int = 12

    name = "copying"

    def __post_init__(self) -> None:
        whole("symbols", self.symbols, 2)
        whole("points", self.points, 1)

    @property
    def vocab(self) -> int:
        """The symbols and the separator."""
        return self.symbols + 1

    @property
    def length(self) -> int:
        """The symbols, the separator, and the copy without its last symbol, which nothing is predicted from."""
        return 2 * self.points

    @property
    def chance(self) -> float:
        """Any symbol."""
        return 1 - 1 / self.symbols

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts."""
        self.no_dims(dims)
        points = self.points if points is None else whole("points", points, 1)
        text = torch.randint(self.symbols, (batch, points), generator=generator, device=generator.device)
        separator = torch.full((batch, 1), self.symbols, device=text.device)
        return Batch(
            inputs=torch.cat([text, separator, text[:, :-1]], dim=1),
            reads=torch.arange(points, 2 * points, device=text.device),
            targets=text,
            weight=torch.ones(text.shape, device=text.device),
        )

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Copying: 0."""
        return torch.zeros_like(batch.weight)


@dataclass(frozen=True)
class AssociativeRecall(TokenTask):
    """Pairs key, value with different keys, then queries; each is a key, its value is to be returned.

    Keys and values share the vocabulary. With ``hops`` above 1 the values are keys of the prompt, and the answer is
    found by looking up that many times (the token induction head of the MambaFormer paper's code).

    Attributes:
        symbols: size of the vocabulary.
        points: pairs per prompt, at most `symbols`.
        queries: different keys asked for at the end, at most `points`.
        hops: look-ups per query.
        query: "random", or "fixed": the one query is always id 0, whose place in the prompt is random.
    """

    symbols: int = 32
    points: int = 8
    queries: int = 4
    hops: int = 1
    query: str = "random"

    name = "associative-recall"
    paper = MappingProxyType({"symbols": 128, "points": 64, "queries": 1})

    def __post_init__(self) -> None:
        whole("symbols", self.symbols, 2)
        whole("points", self.points, 1, self.symbols)
        whole("queries", self.queries, 1, self.points)
        whole("hops", self.hops, 1)
        choose("query", self.query, ("random", "fixed"))
        if self.query == "fixed" and self.queries != 1:
            raise InputError(f"queries is {self.queries}; allowed: 1 when query is 'fixed'")

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return self.symbols

    @property
    def length(self) -> int:
        """Two positions per pair, one per query."""
        return 2 * self.points + self.queries

    @property
    def chance(self) -> float:
        """Any symbol."""
        return 1 - 1 / self.symbols

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts; with fewer pairs there are no more queries than pairs."""
        self.no_dims(dims)
        points = self.points if points is None else whole("points", points, 1, self.symbols)
        device = generator.device
        order = torch.rand(batch, self.symbols, generator=generator, device=device)
        if self.query == "fixed":
            order[:, 0] = -1.0
        keys = order.argsort(dim=1)[:, :points]
        shuffle = torch.rand(batch, points, generator=generator, device=device).argsort(dim=1)
        keys = keys.gather(1, shuffle)
        if self.hops > 1:
            target = torch.randint(points, (batch, points), generator=generator, device=device)
            values = keys.gather(1, target)
        else:
            target = None
            values = torch.randint(self.symbols, (batch, points), generator=generator, device=device)
        if self.query == "fixed":
            slot = (keys == 0).long().argmax(1, keepdim=True)
        else:
            among = torch.rand(batch, points, generator=generator, device=device)
            slot = among.topk(min(self.queries, points)).indices
        last = slot
        for _ in range(self.hops - 1):
            if target is not None:
                last = target.gather(1, last)
        answers = values.gather(1, last)
        pairs = torch.stack([keys, values], dim=2).flatten(1)
        inputs = torch.cat([pairs, keys.gather(1, slot)], dim=1)
        return Batch(
            inputs=inputs,
            reads=torch.arange(2 * points, inputs.shape[1], device=device),
            targets=answers,
            weight=torch.ones(answers.shape, device=device),
            info={"slot": slot},
        )

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """Looking up: 0."""
        return torch.zeros_like(batch.weight)
