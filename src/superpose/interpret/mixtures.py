"""What a model does with a mixture of tasks: scores over many mixed prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from superpose.errors import InputError
from superpose.interpret.families import Task, TaskFamily
from superpose.interpret.metrics import task_completed
from superpose.interpret.prompts import MixturePrompt
from superpose.interpret.scoring import answer_scores
from superpose.interpret.search import top_strings


@dataclass(frozen=True)
class MixtureScores:
    """Scores of K tasks on the prompts of one mixture.

    Attributes:
        logprob: log-probability of each task's whole answer, shape ``[prompts, tasks]``; not renormalised.
        first_logprob: log-probability of the answer's first token, same shape.
        distinct_first: whether the K answers of a prompt start with pairwise different tokens, shape ``[prompts]``.
        proportions: the mixture that the prompts really contain, shape ``[tasks]``.
        completed: 1 where a task's answer is among the K most probable strings, NaN where the search ran out of
            its budget; shape ``[prompts, tasks]``; None if no search was asked for.
    """

    logprob: Float[np.ndarray, "prompts tasks"]
    first_logprob: Float[np.ndarray, "prompts tasks"]
    distinct_first: Bool[np.ndarray, " prompts"]
    proportions: Float[np.ndarray, " tasks"]
    completed: Float[np.ndarray, "prompts tasks"] | None = None


def mixture_prompts(
    family: TaskFamily,
    tasks: Sequence[str | Task],
    proportions: Sequence[float],
    *,
    demonstrations: int,
    prompts: int,
    seed: int,
) -> list[MixturePrompt]:
    """Draw mixed prompts; prompt i of every mixture has the same query and inputs, so mixtures are paired.

    Raises:
        InputError: as :meth:`MixturePrompt.build`; or ``prompts`` below 1.
    """
    if prompts < 1:
        raise InputError(f"prompts is {prompts}; allowed: 1 or more")
    return [
        MixturePrompt.build(family, tasks, proportions, demonstrations, np.random.default_rng([seed, i]))
        for i in range(prompts)
    ]


def score_mixture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[MixturePrompt],
    *,
    terminator: str | None = "\n",
    search_budget: int = 0,
) -> MixtureScores:
    """Score every task's answer on every prompt.

    ::

        prompts = mixture_prompts(family("word"), ["copy", "upper"], [0.5, 0.5], demonstrations=20, prompts=50, seed=0)
        scores = score_mixture(model, tokenizer, prompts)
        print(np.exp(scores.logprob).mean(0))

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: prompts over one set of tasks and one mixture.
        terminator: what ends an answer; with it, an answer that is a prefix of another is scored apart from it.
            The paper scores without (``None``); the newline is our default, since it makes the K events disjoint.
        search_budget: expansions that the exact search for the K most probable strings may spend on a prompt;
            0 leaves the search out.

    Raises:
        InputError: no prompts, a prompt longer than the context, or an answer that tokenises to nothing.
    """
    listed = list(prompts)
    if not listed:
        raise InputError("prompts is empty; allowed: one or more")
    logprob, first, distinct, completed = [], [], [], []
    for prompt in listed:
        scores = answer_scores(model, tokenizer, prompt.text, prompt.answers, terminator=terminator)
        logprob.append(scores.logprobs.tolist())
        first.append([float(tokens[0]) for tokens in scores.token_logprobs])
        distinct.append(len({tokens[0] for tokens in scores.tokens}) == len(scores.tokens))
        if search_budget:
            if terminator is None:
                raise InputError("terminator is None; the search for the top strings needs one")
            top = top_strings(
                model,
                tokenizer,
                prompt.text,
                len(prompt.answers),
                terminator=terminator,
                max_expansions=search_budget,
            )
            found = task_completed(np.array(logprob[-1]), top)
            completed.append(np.full(len(scores), np.nan) if found is None else np.asarray(found, dtype=float))
    return MixtureScores(
        logprob=np.array(logprob),
        first_logprob=np.array(first),
        distinct_first=np.array(distinct),
        # Exact counts make this the same for every prompt; drawn tasks (order "iid") are averaged.
        proportions=np.array([p.proportions for p in listed]).mean(0),
        completed=np.array(completed) if search_budget else None,
    )
