"""Prompts whose demonstrations come from several tasks at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from superpose.errors import InputError, choose
from superpose.interpret.families import Task, TaskFamily

TRIES = 1000
SUM_TOLERANCE = 1e-5

Shares = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class MixturePrompt:
    """A prompt of m demonstrations, each of one of K tasks, and a query line (arXiv 2410.05603, section 3).

    Attributes:
        text: ``{ex_1}\\n...{ex_m}\\n{query}{separator}``, ready for the model; nothing after the separator.
        query: the query's input.
        tasks: names of the K tasks.
        answers: the K tasks' answers for the query, in the order of the tasks.
        assignment: for each demonstration, first to last, the index of its task.
        counts: demonstrations of each task; they sum to m.
        proportions: what the prompt really contains, ``counts / m``: the target of the KL divergence.
        last_position: for each task the index of its last demonstration, None if it has none.
    """

    text: str
    query: Any
    tasks: tuple[str, ...]
    answers: tuple[str, ...]
    assignment: tuple[int, ...]
    counts: tuple[int, ...]
    proportions: tuple[float, ...]
    last_position: tuple[int | None, ...]

    @classmethod
    def build(
        cls,
        family: TaskFamily,
        tasks: Iterable[str | Task],
        proportions: Shares,
        m: int,
        rng: np.random.Generator,
        order: str = "random",
        distinct_answers: bool = True,
        leading_newline: bool = False,
    ) -> "MixturePrompt":
        """Draw a query, demonstration inputs and an order of tasks, and write them down.

        The draws are made in that order, and neither the query nor the inputs depend on the proportions: the same
        generator state gives the same words in every mixture, so mixtures can be compared prompt by prompt.
        A one-hot ``proportions`` is the single-task control: all K tasks are still scored on its query.

        Args:
            family: the input space and its format.
            tasks: K task names (or tasks) over its inputs.
            proportions: K shares, none negative, with sum 1 within 1e-5.
            m: number of demonstrations, at least 1.
            rng: the source of every draw.
            order: "random" as for language models in the paper: exact counts (see `mixture_counts`) in a uniformly
                random order; "iid" as in its evaluation of models trained from scratch: each demonstration's task
                is drawn independently, so the counts vary.
            distinct_answers: choose a query on which the K answers differ pairwise (the paper's experiments on
                language models do not demand it, the task-vector and from-scratch ones do).
            leading_newline: start the prompt with a newline, as the zero-shot prompts of task vectors do.

        Raises:
            InputError: unknown task, bad proportions, m below 1, or fewer inputs than the prompt needs.
        """
        chosen = family.select(tasks)
        choose("order", order, ("random", "iid"))
        shares = check_proportions(proportions, len(chosen))
        counts = mixture_counts(shares, m)
        query, inputs = _draw_inputs(family, chosen, m, rng, distinct_answers)
        if order == "iid":
            weights = np.asarray(shares) / sum(shares)
            assignment = tuple(rng.choice(len(chosen), size=m, p=weights).tolist())
            counts = tuple(assignment.count(task) for task in range(len(chosen)))
        else:
            assignment = tuple(rng.permutation(np.repeat(np.arange(len(chosen)), counts)).tolist())
        lines = [family.query(value) + chosen[task].fn(value) for value, task in zip(inputs, assignment, strict=True)]
        last = {task: position for position, task in enumerate(assignment)}
        return cls(
            text=("\n" if leading_newline else "") + "\n".join([*lines, family.query(query)]),
            query=query,
            tasks=tuple(task.name for task in chosen),
            answers=family.answers(query, chosen),
            assignment=assignment,
            counts=counts,
            proportions=tuple(count / m for count in counts),
            last_position=tuple(last.get(task) for task in range(len(chosen))),
        )


def check_proportions(proportions: Shares, tasks: int) -> tuple[float, ...]:
    """Return the shares of the tasks as floats, or refuse them.

    Raises:
        InputError: wrong length, a negative or non-finite share, or a sum further than 1e-5 from 1.
    """
    shares = tuple(float(share) for share in proportions)
    shown = "(" + ", ".join(f"{share:g}" for share in shares) + ")"
    if len(shares) != tasks:
        raise InputError(f"proportions is {shown}, {len(shares)} numbers for {tasks} tasks; give one for each task")
    if not all(np.isfinite(share) and share >= 0 for share in shares):
        raise InputError(f"proportions is {shown}; each share must be a number that is not negative")
    if abs(sum(shares) - 1) > SUM_TOLERANCE:
        raise InputError(
            f"proportions is {shown}, with sum {sum(shares):g}; the sum must be 1 (within {SUM_TOLERANCE:g})"
        )
    return shares


def mixture_counts(proportions: Shares, m: int) -> tuple[int, ...]:
    """Return how many of m demonstrations each task gets: the paper's rule.

    Task i gets the whole part of ``proportions[i] * m``; what is left goes one each, in task order, to the tasks
    whose product is not whole.

    Raises:
        InputError: m is below 1, or the proportions are not shares of 1.
    """
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise InputError(f"m is {m!r}; a mixture prompt needs 1 or more demonstrations")
    # Nine decimals: 0.1 * 30 is 3.0000000000000004 in floats, and 0.29 * 100 is 28.999999999999996.
    exact = [round(share * m, 9) for share in check_proportions(proportions, len(proportions))]
    counts = [int(value) for value in exact]
    fractional = [task for task, value in enumerate(exact) if value != int(value)]
    for task in fractional[: max(m - sum(counts), 0)]:
        counts[task] += 1
    if sum(counts) != m:
        raise InputError(
            f"proportions has sum {sum(proportions):.9g}, too far from 1 to share out m = {m} demonstrations"
        )
    return tuple(counts)


def _draw_inputs(
    family: TaskFamily, tasks: tuple[Task, ...], m: int, rng: np.random.Generator, distinct_answers: bool
) -> tuple[Any, list[Any]]:
    needed = m + 1 if family.unique_inputs else 2
    if family.inputs is not None and len(family.inputs) < needed:
        raise InputError(
            f"family {family.name!r} has {len(family.inputs)} inputs; {m} demonstrations and a query need {needed}"
        )

    def clear(value: Any) -> bool:
        return not distinct_answers or len(set(family.answers(value, tasks))) == len(tasks)

    query = _draw(
        family,
        rng,
        clear,
        f"no input of family {family.name!r} has different answers under {', '.join(task.name for task in tasks)}",
    )
    if family.unique_inputs and family.inputs is not None:
        rest = [value for value in family.inputs if value != query]
        return query, [rest[index] for index in rng.permutation(len(rest))[:m]]
    used = {query}
    inputs: list[Any] = []
    for _ in range(m):
        value = _draw(
            family,
            rng,
            lambda drawn: drawn not in used,
            f"family {family.name!r} has too few inputs for {m} demonstrations",
        )
        inputs.append(value)
        if family.unique_inputs:
            used.add(value)
    return query, inputs


def _draw(family: TaskFamily, rng: np.random.Generator, accept: Callable[[Any], bool], complaint: str) -> Any:
    for _ in range(TRIES):
        value = family.sample_input(rng)
        if accept(value):
            return value
    raise InputError(f"{complaint} (tried {TRIES})")
