"""Task families: several tasks over one input space, each a function from an input to an answer string."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from superpose.errors import InputError


@dataclass(frozen=True)
class Task:
    """One task of a family.

    Attributes:
        name: how the task is named in tables and on the command line.
        fn: maps an input of the family to the answer, one line of text.
    """

    name: str
    fn: Callable[[Any], str]


@dataclass(frozen=True)
class TaskFamily:
    """Tasks over one input space, and how their demonstrations are written: ``format(input) + separator + answer``.

    Attributes:
        name: how the family is named.
        sample_input: draws one input (hashable) from an explicit generator.
        format: writes an input as text.
        tasks: the tasks, names pairwise different; any iterable of `Task` is turned into a tuple.
        separator: between input and answer, without a space at its end (models put the space into the answer's
            first token, so a trailing one costs most of the probability).
        unique_inputs: whether the demonstrations of one prompt must have pairwise different inputs. The query's
            input never occurs among them in any family.
        inputs: all inputs where they are a finite list; `sample_input` then draws from it uniformly.
        description: one sentence for listings.

    Raises:
        InputError: no tasks, two tasks of one name, or a separator that is empty, ends in a space or has a newline.
    """

    name: str
    sample_input: Callable[[np.random.Generator], Any]
    format: Callable[[Any], str]
    tasks: tuple[Task, ...]
    separator: str = "->"
    unique_inputs: bool = False
    inputs: tuple[Any, ...] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise InputError(f"family {self.name!r} has no tasks; it needs at least one")
        _refuse_repeats(f"family {self.name!r} has tasks", [task.name for task in self.tasks])
        if not self.separator or self.separator != self.separator.rstrip() or "\n" in self.separator:
            raise InputError(
                f"separator of family {self.name!r} is {self.separator!r}; allowed: text without a newline, "
                "glued to the answer (no space at its end), for example '->' or '='"
            )

    @classmethod
    def from_inputs(
        cls,
        name: str,
        inputs: Iterable[Any],
        tasks: Iterable[Task],
        *,
        separator: str = "->",
        format: Callable[[Any], str] = str,
        unique_inputs: bool = True,
        description: str = "",
    ) -> "TaskFamily":
        """Make a family over a finite list of inputs, drawn uniformly.

        Raises:
            InputError: no inputs, an input twice, or anything the family itself refuses.
        """
        pool = tuple(inputs)
        if not pool:
            raise InputError(f"family {name!r} has no inputs; it needs at least one")
        _refuse_repeats(f"family {name!r} has inputs", pool)
        return cls(
            name=name,
            sample_input=lambda rng: pool[int(rng.integers(len(pool)))],
            format=format,
            tasks=tuple(tasks),
            separator=separator,
            unique_inputs=unique_inputs,
            inputs=pool,
            description=description,
        )

    @classmethod
    def from_table(
        cls, name: str, answers: Mapping[str, Mapping[Any, str]], *, separator: str = "->", description: str = ""
    ) -> "TaskFamily":
        """Make a family from answer tables: task name -> input -> answer, all over the same inputs.

        Raises:
            InputError: no tasks, or a task that lacks an answer for an input of the first task.
        """
        tables = {task: dict(table) for task, table in answers.items()}
        if not tables:
            raise InputError(f"family {name!r} has no tasks; it needs at least one")
        inputs = tuple(next(iter(tables.values())))
        for task, table in tables.items():
            missing = set(inputs).symmetric_difference(table)
            if missing:
                raise InputError(
                    f"task {task!r} of family {name!r} and its first task differ in input {missing.pop()!r}"
                )
        tasks = [Task(task, table.__getitem__) for task, table in tables.items()]
        return cls.from_inputs(name, inputs, tasks, separator=separator, description=description)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in their order."""
        return tuple(task.name for task in self.tasks)

    def task(self, name: str) -> Task:
        """Return the task of that name.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise InputError(f"task is {name!r}; family {self.name!r} has: {', '.join(self.task_names)}")

    def select(self, tasks: Iterable[str | Task]) -> tuple[Task, ...]:
        """Return the named tasks in the order given; a `Task` stands for itself, so it may come from elsewhere.

        Raises:
            InputError: no tasks, an unknown name, or a task twice.
        """
        chosen = tuple(task if isinstance(task, Task) else self.task(task) for task in tasks)
        if not chosen:
            raise InputError(f"tasks is empty; family {self.name!r} has: {', '.join(self.task_names)}")
        _refuse_repeats("tasks has", [task.name for task in chosen])
        return chosen

    def answers(self, value: Any, tasks: Iterable[str | Task] | None = None) -> tuple[str, ...]:
        """Return the tasks' answers for one input; default: all tasks of the family."""
        chosen = self.tasks if tasks is None else self.select(tasks)
        return tuple(task.fn(value) for task in chosen)

    def query(self, value: Any, leading_newline: bool = False) -> str:
        """Return the line that asks for an answer: the input and the separator, with no space after it.

        Args:
            value: an input.
            leading_newline: put a newline first: the zero-shot prompt of the task-vector experiments.
        """
        return ("\n" if leading_newline else "") + self.format(value) + self.separator


def _refuse_repeats(what: str, items: Iterable[Any]) -> None:
    seen: set[Any] = set()
    for item in items:
        if item in seen:
            raise InputError(f"{what} {item!r} twice; each may occur once")
        seen.add(item)
