"""Lines of text from one hidden task per prompt, and mixtures of tasks: task superposition from scratch.

Xiong et al., "Everything Everywhere All at Once: LLMs can In-Context Learn Multiple Tasks in Superposition" (ICML
2025). A line is ``operand>answer\\n``; learners predict the answer and the newline of every line, nothing else.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError

from .checks import number, whole
from .episode import Batch, TokenTask

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class LineTask(TokenTask):
    """Base of the families of tasks over lines.

    Attributes:
        points: lines per prompt.
        hint: None: prompts are lines only. A probability: prompts begin with one more token, which is the hidden
            task's id with that probability and else says nothing. With ``dataclasses.replace(task, hint=0.0)`` the same
            vocabulary serves training with hints and evaluation without.
        frequencies: how often each task is drawn, summing to 1; uniform by default.
    """

    points: int = 10
    hint: float | None = 0.5
    frequencies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        whole("points", self.points, 1)
        if self.hint is not None:
            number("hint", self.hint, 0, 1)
        if self.frequencies is not None:
            self._distribution("frequencies", self.frequencies)

    @property
    @abstractmethod
    def tasks(self) -> int:
        """How many tasks the family has."""

    @property
    @abstractmethod
    def symbols(self) -> str:
        """The symbols of operands and answers; a symbol's id is its place."""

    @property
    @abstractmethod
    def operand_length(self) -> int:
        """Symbols before the separator."""

    @abstractmethod
    def operands(self, batch: int, lines: int, generator: torch.Generator) -> Int[Tensor, "batch lines operand"]:
        """Draw the operands of each line."""

    @abstractmethod
    def all_answers(self, operands: Int[Tensor, "batch lines operand"]) -> Int[Tensor, "batch lines tasks"]:
        """Return the answer that each task gives on each line; they are pairwise different."""

    @property
    @abstractmethod
    def answer_choices(self) -> int:
        """How many answers a line leaves open when the task is not known."""

    @property
    def separator(self) -> int:
        """The id of ``>``."""
        return len(self.symbols)

    @property
    def newline(self) -> int:
        """The id of the newline."""
        return len(self.symbols) + 1

    @property
    def null(self) -> int:
        """The id of the first token that says nothing; task t has the id ``null + 1 + t``."""
        return len(self.symbols) + 2

    @property
    def vocab(self) -> int:
        """Symbols, separator, newline and, with hints, the first tokens."""
        return len(self.symbols) + 2 + (0 if self.hint is None else 1 + self.tasks)

    @property
    def line_length(self) -> int:
        """Tokens per line."""
        return self.operand_length + 3

    @property
    def lead(self) -> int:
        """Tokens before the first line: 1 with hints, else 0."""
        return int(self.hint is not None)

    @property
    def length(self) -> int:
        """All lines, and the hint."""
        return self.lead + self.points * self.line_length

    @property
    def chance(self) -> float:
        """Any open answer (or the most frequent task's), and the newline, which needs no context."""
        return self._blind / 2

    @property
    def _blind(self) -> float:
        return 1 - (1 / self.answer_choices if self.frequencies is None else max(self.frequencies))

    def sample(
        self, batch: int, generator: torch.Generator, *, points: int | None = None, dims: int | None = None
    ) -> Batch:
        """Draw prompts, each from one hidden task.

        The ``info`` holds ``tasks`` and ``answers`` (what every task would answer) per line, and ``hinted`` per prompt.
        """
        self.no_dims(dims)
        lines = self.points if points is None else whole("points", points, 1)
        weights = self.frequencies or (1 / self.tasks,) * self.tasks
        hidden = self._draw(weights, batch, generator)
        return self._lines(hidden.unsqueeze(1).expand(-1, lines), generator, self.hint or 0.0)

    def mixture(
        self,
        batch: int,
        generator: torch.Generator,
        proportions: Sequence[float],
        *,
        points: int | None = None,
        exact: bool = False,
    ) -> Batch:
        """Draw prompts for evaluation whose lines come from several tasks, without a hint.

        Args:
            batch: how many prompts.
            generator: the only source of randomness.
            proportions: one per task, summing to 1.
            points: lines, the last one being the query; the task's own number by default.
            exact: False: the task of every line is drawn independently (the paper's evaluation of models from scratch).
                True: the demonstrations hold each task as often as its proportion says, rounded down, the rest going
                one each to the first tasks that were rounded, in random order.

        Raises:
            InputError: proportions that are negative, of another number than the tasks or that do not sum to 1.
        """
        self._distribution("proportions", proportions)
        lines = self.points if points is None else whole("points", points, 1)
        if exact:
            shown = lines - 1
            counts = [int(p * shown + 1e-9) for p in proportions]
            rounded = [i for i, p in enumerate(proportions) if abs(p * shown - counts[i]) > 1e-6]
            for i in rounded[: shown - sum(counts)]:
                counts[i] += 1
            ordered = torch.repeat_interleave(torch.arange(self.tasks), torch.tensor(counts)).to(generator.device)
            order = torch.rand(batch, shown, generator=generator, device=generator.device).argsort(1)
            last = self._draw(proportions, batch, generator).unsqueeze(1)
            chosen = torch.cat([ordered[order], last], dim=1)
        else:
            chosen = self._draw(proportions, batch * lines, generator).view(batch, lines)
        drawn = self._lines(chosen, generator, 0.0)
        return Batch(drawn.inputs, drawn.reads, drawn.targets, drawn.weight, {**drawn.info, "mixture": chosen})

    def text(self, ids: Int[Tensor, " pos"]) -> str:
        """Return a prompt as text: the hint as ``[task]`` or ``[]``."""
        words = [*self.symbols, ">", "\n", "[]", *(f"[{i}]" for i in range(self.tasks))]
        return "".join(words[int(i)] for i in ids)

    def optimum(self, batch: Batch) -> Float[Tensor, "batch reads"] | None:
        """One line tells the task, so only the first answer without a hint is open; None for mixtures."""
        if "mixture" in batch.info:
            return None
        error = torch.zeros_like(batch.weight)
        error[:, 0] = torch.where(batch.info["hinted"], 0.0, self._blind)
        return error

    def _lines(self, tasks: Int[Tensor, "batch lines"], generator: torch.Generator, hint: float) -> Batch:
        batch, lines = tasks.shape
        device = generator.device
        operands = self.operands(batch, lines, generator)
        answers = self.all_answers(operands)
        right = answers.gather(2, tasks.unsqueeze(-1))
        separator, newline = torch.full_like(right, self.separator), torch.full_like(right, self.newline)
        inputs = torch.cat([operands, separator, right, newline], dim=2).flatten(1)
        first = torch.arange(lines, device=device) * self.line_length + self.operand_length
        hinted = torch.zeros(batch, dtype=torch.bool, device=device)
        if self.hint is not None:
            hinted = torch.rand(batch, generator=generator, device=device) < hint
            token = torch.where(hinted, self.null + 1 + tasks[:, 0], self.null)
            inputs = torch.cat([token.unsqueeze(1), inputs], dim=1)
            first = first + 1
        return Batch(
            inputs=inputs,
            reads=torch.stack([first, first + 1], dim=1).flatten(),
            targets=torch.cat([right, newline], dim=2).flatten(1),
            weight=torch.ones(batch, 2 * lines, device=device),
            info={"tasks": tasks, "answers": answers, "hinted": hinted},
        )

    def _draw(self, weights: Sequence[float], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        table = torch.tensor(weights, device=generator.device)
        return torch.multinomial(table, count, replacement=True, generator=generator)

    def _distribution(self, argument: str, weights: Sequence[float]) -> None:
        if len(weights) != self.tasks or min(weights) < 0 or abs(sum(weights) - 1) > 1e-5:
            raise InputError(
                f"{argument} has {len(weights)} entries with sum {sum(weights):g}; "
                f"allowed: {self.tasks} probabilities with sum 1"
            )


@dataclass(frozen=True)
class RetrieveLetters(LineTask):
    """Lines ``abcd>c``: task i answers with the letter at place i of some different letters.

    Attributes:
        points: lines per prompt.
        hint: probability of a task hint, or None for no first token.
        frequencies: how often each task is drawn.
        letters: letters per line, which is also the number of tasks.
        alphabet: how many letters there are, up to 52.
    """

    letters: int = 4
    alphabet: int = 26

    name = "retrieve-letters"
    metric = "misclassified answers and newlines"
    paper = MappingProxyType({"points": 101, "letters": 8, "alphabet": 52, "hint": None})

    def __post_init__(self) -> None:
        whole("alphabet", self.alphabet, 2, len(ALPHABET))
        whole("letters", self.letters, 2, self.alphabet)
        super().__post_init__()

    @property
    def tasks(self) -> int:
        """One per place."""
        return self.letters

    @property
    def symbols(self) -> str:
        """The letters."""
        return ALPHABET[: self.alphabet]

    @property
    def operand_length(self) -> int:
        """The letters of a line."""
        return self.letters

    @property
    def answer_choices(self) -> int:
        """The letters of the line."""
        return self.letters

    def operands(self, batch: int, lines: int, generator: torch.Generator) -> Int[Tensor, "batch lines operand"]:
        """Draw different letters for each line."""
        order = torch.rand(batch, lines, self.alphabet, generator=generator, device=generator.device)
        return order.topk(self.letters, dim=-1).indices

    def all_answers(self, operands: Int[Tensor, "batch lines operand"]) -> Int[Tensor, "batch lines tasks"]:
        """Return the letters themselves."""
        return operands


@dataclass(frozen=True)
class PlusConstant(LineTask):
    """Lines ``x>y``: task c answers ``(x + c) mod modulus``.

    Attributes:
        points: lines per prompt.
        hint: probability of a task hint, or None for no first token.
        frequencies: how often each task is drawn.
        modulus: how many digits and tasks there are, up to 52.
    """

    modulus: int = 10

    name = "plus-constant"
    metric = "misclassified answers and newlines"
    paper = MappingProxyType({"points": 101, "hint": None})

    def __post_init__(self) -> None:
        whole("modulus", self.modulus, 2, len(ALPHABET))
        super().__post_init__()

    @property
    def tasks(self) -> int:
        """One per constant."""
        return self.modulus

    @property
    def symbols(self) -> str:
        """Digits, or letters where there are more than ten."""
        return ("0123456789" if self.modulus <= 10 else ALPHABET)[: self.modulus]

    @property
    def operand_length(self) -> int:
        """One digit."""
        return 1

    @property
    def answer_choices(self) -> int:
        """All digits."""
        return self.modulus

    def operands(self, batch: int, lines: int, generator: torch.Generator) -> Int[Tensor, "batch lines operand"]:
        """Draw one digit for each line."""
        return torch.randint(self.modulus, (batch, lines, 1), generator=generator, device=generator.device)

    def all_answers(self, operands: Int[Tensor, "batch lines operand"]) -> Int[Tensor, "batch lines tasks"]:
        """Return the sums with every constant."""
        return (operands + torch.arange(self.modulus, device=operands.device)) % self.modulus
