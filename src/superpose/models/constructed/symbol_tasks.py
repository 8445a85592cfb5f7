"""Tasks on rows of symbols, prompts that mix them, and the mixture of answers those prompts call for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError, choose

TRIES = 1000


@dataclass(frozen=True)
class SymbolTask:
    """A task on a row of symbols: read the symbol in one slot and map it through a table.

    Attributes:
        slot: index of the operand that is read, 0-based.
        table: for each of the d symbols the answer, itself a symbol; ``range(d)`` is retrieval.

    Raises:
        InputError: a negative slot, an empty table, or an entry that is not one of the d symbols.
    """

    slot: int
    table: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.slot < 0:
            raise InputError(f"slot is {self.slot}; allowed: 0 or more")
        if not self.table:
            raise InputError("table is empty; it needs an answer for each symbol")
        for symbol in self.table:
            if not 0 <= symbol < len(self.table):
                raise InputError(
                    f"table has {symbol}; its {len(self.table)} entries must be 0 to {len(self.table) - 1}"
                )

    @classmethod
    def retrieve(cls, slot: int, symbols: int) -> "SymbolTask":
        """Return the task that repeats the symbol in a slot."""
        return cls(slot, tuple(range(symbols)))

    @classmethod
    def shift(cls, slot: int, offset: int, symbols: int) -> "SymbolTask":
        """Return the task that adds an offset to the symbol in a slot, modulo the number of symbols."""
        return cls(slot, tuple((symbol + offset) % symbols for symbol in range(symbols)))

    @classmethod
    def from_matrix(cls, slot: int, matrix: Tensor) -> "SymbolTask":
        """Return the task whose answer to the one-hot column x is ``matrix @ x``.

        Raises:
            InputError: the matrix is not square, or a column of it is not one-hot.
        """
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"matrix has shape {tuple(matrix.shape)}; it must be square, d x d")
        ones = matrix == 1
        if not bool(((ones | (matrix == 0)).all(0) & (ones.sum(0) == 1)).all()):
            raise InputError(
                "matrix does not map one-hot vectors to one-hot vectors: each column needs a single 1, else 0"
            )
        return cls(slot, tuple(ones.int().argmax(0).tolist()))

    def apply(self, operands: Int[Tensor, "*batch q"]) -> Int[Tensor, "*batch"]:
        """Return the task's answer to each row of q operands."""
        return torch.tensor(self.table, device=operands.device)[operands[..., self.slot]]


class MixtureSample(NamedTuple):
    """Demonstrations drawn by `sample_mixture`, and a query."""

    operands: Int[Tensor, "batch m q"]
    labels: Int[Tensor, "batch m"]
    query: Int[Tensor, "batch q"]
    assignment: Int[Tensor, "batch m"]


def sample_mixture(
    tasks: Sequence[SymbolTask],
    counts: Sequence[int],
    operands: int,
    generator: torch.Generator,
    batch: int = 1,
    ambiguous: Literal["resample", "keep"] = "resample",
) -> MixtureSample:
    """Draw prompts whose demonstrations come from several tasks, with exact counts, in random order.

    Args:
        tasks: K tasks over the same d symbols.
        counts: demonstrations of each task; their sum is m.
        operands: symbols in each demonstration, q.
        generator: the source of every draw (a CPU generator).
        batch: number of prompts.
        ambiguous: "resample" draws the operands of a demonstration again until its label is explained by its own
            task alone, up to 1000 times; "keep" takes them as they come.

    Raises:
        InputError: bad tasks, counts or sizes, or a task that another one always agrees with.
    """
    symbols = check_tasks(tasks, operands)
    choose("ambiguous", ambiguous, ("resample", "keep"))
    m = sum(counts)
    if len(counts) != len(tasks) or min(counts) < 0 or m < 1:
        raise InputError(
            f"counts is {tuple(counts)}; give one non-negative count per task ({len(tasks)}), with sum >= 1"
        )
    if batch < 1:
        raise InputError(f"batch is {batch}; allowed: 1 or more")
    ordered = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(tuple(counts)))
    assignment = torch.stack([ordered[torch.randperm(m, generator=generator)] for _ in range(batch)])
    drawn = torch.randint(symbols, (batch, m, operands), generator=generator)
    offender: int | None = None
    for _ in range(TRIES):
        answers = task_answers(tasks, drawn)
        labels = answers.gather(-1, assignment[..., None])[..., 0]
        unclear = (answers == labels[..., None]).sum(-1) > 1
        offender = int(assignment[unclear][0]) if bool(unclear.any()) else None
        if ambiguous == "keep" or offender is None:
            query = torch.randint(symbols, (batch, operands), generator=generator)
            return MixtureSample(drawn, labels, query, assignment)
        drawn[unclear] = torch.randint(symbols, (int(unclear.sum()), operands), generator=generator)
    raise InputError(
        f"tasks[{offender}] gives the same answers as other tasks on (nearly) all operands (tried {TRIES} times)"
    )


def mixture_distribution(
    tasks: Sequence[SymbolTask],
    operands: Int[Tensor, "batch m q"],
    labels: Int[Tensor, "batch m"],
    query: Int[Tensor, "batch q"],
) -> Float[Tensor, "batch d"]:
    """Return, by counting, what the transformer must compute: task answers weighted by the demonstrations.

    Task i's weight is the share of the demonstrations that it explains; one explained by several tasks is shared
    equally among them. A float64 tensor; rows sum to 1 where every demonstration is explained.

    Raises:
        InputError: bad tasks, or symbols out of range.
    """
    symbols = check_tasks(tasks, operands.shape[-1])
    for name, value in (("operands", operands), ("labels", labels), ("query", query)):
        check_symbols(name, value, symbols)
    explained = (task_answers(tasks, operands) == labels[..., None]).double()
    weights = (explained / explained.sum(-1, keepdim=True).clamp(min=1)).mean(1)
    distribution = torch.zeros(len(query), symbols, dtype=torch.float64, device=query.device)
    return distribution.scatter_add_(1, task_answers(tasks, query), weights)


def task_answers(tasks: Sequence[SymbolTask], operands: Int[Tensor, "*batch q"]) -> Int[Tensor, "*batch k"]:
    """Return the K tasks' answers to each row of q operands."""
    return torch.stack([task.apply(operands) for task in tasks], dim=-1)


def check_tasks(tasks: Sequence[SymbolTask], operands: int) -> int:
    """Return the number of symbols that the tasks share.

    Raises:
        InputError: no tasks, tables of different lengths, or a slot outside the operands.
    """
    if operands < 1:
        raise InputError(f"operands is {operands}; allowed: 1 or more")
    if not tasks:
        raise InputError("tasks is empty; give at least one")
    symbols = len(tasks[0].table)
    for i, task in enumerate(tasks):
        if len(task.table) != symbols:
            raise InputError(f"tasks[{i}] has a table of {len(task.table)} symbols and tasks[0] of {symbols}")
        if task.slot >= operands:
            raise InputError(
                f"tasks[{i}] reads slot {task.slot}; there are {operands} operands, slots 0 to {operands - 1}"
            )
    return symbols


def check_symbols(name: str, value: Int[Tensor, "..."], symbols: int) -> None:
    """Refuse symbols outside 0 to ``symbols - 1``.

    Raises:
        InputError: there is one; the message names the argument.
    """
    outside = (value < 0) | (value >= symbols)
    if bool(outside.any()):
        raise InputError(f"{name} has symbol {int(value[outside][0])}; there are {symbols}, 0 to {symbols - 1}")
