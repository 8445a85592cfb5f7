"""How well answer probabilities match the mixture, and how many tasks a model completes (arXiv 2410.05603)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from superpose.errors import InputError
from superpose.interpret.search import TopStrings

TOLERANCE = 1e-5


def kl_to_mixture(
    logprobs: Float[np.ndarray, "*prompts tasks"],
    proportions: Float[np.ndarray, "... _"],
    conditional: bool = False,
) -> Float[np.ndarray, "*prompts"]:
    """Return KL(D || P) in nats between the mixture of demonstrations D and the answers' probabilities P.

    P is not normalised over the tasks, as in the official code, so mass on other outputs counts as -log(sum P).
    Tasks without demonstrations contribute nothing; a task with demonstrations and probability zero gives +inf.

    Args:
        logprobs: log-probabilities of the tasks' answers.
        proportions: what the prompts really contain (`MixturePrompt.proportions`); one row serves all prompts.
        conditional: compare with P / sum(P) instead: calibration among the tasks only.

    Raises:
        InputError: different numbers of tasks, or a negative proportion.
    """
    target = np.asarray(proportions, dtype=np.float64)
    scores = np.asarray(logprobs, dtype=np.float64)
    if scores.shape[-1:] != target.shape[-1:]:
        raise InputError(f"logprobs has shape {scores.shape} and proportions {target.shape}; the tasks must match")
    if (target < 0).any():
        raise InputError(f"proportions has the share {target.min():g}; no share may be negative")
    if conditional:
        total = np.logaddexp.reduce(scores, axis=-1, keepdims=True)
        # Where no task has any probability, the conditional distribution does not exist: stays -inf, KL is +inf.
        scores = np.where(np.isneginf(total), -np.inf, scores - np.where(np.isneginf(total), 0, total))
    present = target > 0
    safe = np.where(present, target, 1)
    terms = np.where(present, target * (np.log(safe) - np.where(present, scores, 0)), 0)
    return np.asarray(terms.sum(axis=-1))


def other_mass(logprobs: Float[np.ndarray, "*prompts tasks"]) -> Float[np.ndarray, "*prompts"]:
    """Return the probability that no task's answer has: 1 - sum(P).

    Negative values can occur without a terminator, where the answers' events overlap; they are not clipped.
    """
    return np.asarray(1 - np.exp(np.asarray(logprobs, dtype=np.float64)).sum(axis=-1))


@dataclass(frozen=True)
class CompletedTasks:
    """Which tasks are completed on which prompts.

    Attributes:
        r: mean number of completed tasks over the decided prompts, 0 to K; nan if there are none.
        per_prompt: number of completed tasks on each prompt; nan where the search was cut off undecided.
        completed: per prompt and task; False on undecided prompts, which are in no mean.
        undecided: number of prompts left out because the search ran out of budget.
    """

    r: float
    per_prompt: Float[np.ndarray, " prompts"]
    completed: Bool[np.ndarray, "prompts tasks"]
    undecided: int


def r_completed(
    logprobs: Float[np.ndarray, "prompts tasks"],
    top: Sequence[TopStrings] | Float[np.ndarray, " prompts"],
    tolerance: float = TOLERANCE,
) -> CompletedTasks:
    """Count the completed tasks: those whose answer is among the K most probable complete output strings.

    Args:
        logprobs: log-probabilities of the K tasks' answers, with the terminator that the search used.
        top: for each prompt the result of `top_strings` with k >= K, or the K-th largest string log-probability.
        tolerance: on probabilities, against rounding; 1e-5 as in the official code.

    Raises:
        InputError: the numbers of prompts differ.
    """
    scores = np.asarray(logprobs, dtype=np.float64)
    if len(scores) != len(top):
        raise InputError(f"logprobs has {len(scores)} prompts and top {len(top)}; they must be the same prompts")
    decided: list[np.ndarray | None] = [
        task_completed(row, one, tolerance) for row, one in zip(scores, top, strict=True)
    ]
    completed = np.array([np.zeros(scores.shape[1], bool) if row is None else row for row in decided], dtype=bool)
    completed = completed.reshape(scores.shape)
    per_prompt = np.array([np.nan if row is None else row.sum() for row in decided], dtype=np.float64)
    known = per_prompt[~np.isnan(per_prompt)]
    return CompletedTasks(
        r=float(known.mean()) if len(known) else float("nan"),
        per_prompt=per_prompt,
        completed=completed,
        undecided=len(per_prompt) - len(known),
    )


def task_completed(
    logprobs: Float[np.ndarray, " tasks"], top: TopStrings | float, tolerance: float = TOLERANCE
) -> Bool[np.ndarray, " tasks"] | None:
    """Say for each task of one prompt whether it is completed, or None if the search cannot tell.

    A search that ran out of budget still bounds the K-th largest probability from both sides; if every task lies
    clearly on one side, the answer is certain all the same.
    """
    scores = np.exp(np.asarray(logprobs, dtype=np.float64))
    if isinstance(top, TopStrings):
        lower, upper = np.exp(top.kth_bounds(len(scores)))
    else:
        lower = upper = np.exp(float(top))
    certainly = scores >= upper - tolerance
    possibly = scores >= lower - tolerance
    return certainly if bool((certainly == possibly).all()) else None
