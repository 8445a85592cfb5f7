"""The expensive calls of the study: pure functions of plain data, memoised by the engine."""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from superpose.experiment import current, step, track
from superpose.interpret import (
    MixturePrompt,
    MixtureScores,
    Task,
    TaskVector,
    injection_table,
    interpolate,
    mixture_prompts,
    residuals_at_separator,
    score_mixture,
)
from superpose.interpret import family as find_family
from superpose.models import LoadedModel, load, resolve
from superpose.models.constructed.superposition import SuperpositionTransformer
from superpose.models.constructed.symbol_tasks import SymbolTask, mixture_distribution, sample_mixture

EXPRESSIVITY_BATCH = 4  # prompts per cell of the sweep
_MARK = " # "  # between a model's place and its fingerprint
TERMINATOR = "\n"  # ends an answer, so that "1" and "10", or "un" and "une", are different events


def reference(model: str) -> str:
    """What a step takes for a model: a registered name, or a place and the fingerprint of what stands there.

    So a folder whose weights have changed is another argument, and is measured anew.

    Raises:
        InputError: the reference names no model.
    """
    resolved = resolve(model)
    return resolved.name if resolved.kind == "registered" else f"{model}{_MARK}{resolved.fingerprint}"


def place_of(text: str) -> str:
    """The model reference inside what :func:`reference` returned."""
    return text.partition(_MARK)[0]


def load_reference(text: str, dtype: str) -> LoadedModel:
    """Load what :func:`reference` names, on the running step's device."""
    return load(place_of(text), dtype, current().device)


def _scored(
    loaded: LoadedModel, family: str, prompts: list[MixturePrompt], terminator: str | None, search_budget: int = 0
) -> MixtureScores:
    shown = track(prompts, f"{loaded.name} {family}")
    return score_mixture(loaded.model, loaded.tokenizer, shown, terminator=terminator, search_budget=search_budget)


@step(version="1", label="mixed prompts")
def mixture(
    model: str,
    dtype: str,
    family: str,
    tasks: Sequence[str],
    proportions: Sequence[float],
    demonstrations: int,
    prompts: int,
    seed: int,
    search_budget: int = 0,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Scores of the tasks on the prompts of one mixture; ``fingerprint`` ties a family's file to its content."""
    drawn = mixture_prompts(
        find_family(family), tasks, proportions, demonstrations=demonstrations, prompts=prompts, seed=seed
    )
    scores = _scored(load_reference(model, dtype), family, drawn, TERMINATOR, search_budget)
    return {
        "logprob": scores.logprob,
        "first_logprob": scores.first_logprob,
        "distinct_first": scores.distinct_first,
        "proportions": scores.proportions,
        "completed": scores.completed,
    }


@step(version="1", label="explicit weights")
def expressivity(symbols: int, operands: int, tasks: int, demonstrations: int, seed: int, dtype: str) -> dict[str, Any]:
    """Largest error of the explicit-weights transformer against counting, its order effect, and its size.

    The tasks are random: a slot, and a permutation of the symbols that answers.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [
        SymbolTask(
            slot=int(torch.randint(operands, (1,), generator=generator)),
            table=tuple(torch.randperm(symbols, generator=generator).tolist()),
        )
        for _ in range(tasks)
    ]
    drawn = torch.randint(tasks, (demonstrations,), generator=generator)
    counts = torch.bincount(drawn, minlength=tasks).tolist()
    sample = sample_mixture(chosen, counts, operands, generator, batch=EXPRESSIVITY_BATCH)
    network = SuperpositionTransformer.build(
        chosen, demonstrations, operands, symbols, dtype=getattr(torch, dtype)
    ).requires_grad_(False)
    wanted = mixture_distribution(chosen, sample.operands, sample.labels, sample.query)
    output = network(sample.operands, sample.labels, sample.query)
    order = torch.randperm(demonstrations, generator=generator)
    shuffled = network(sample.operands[:, order], sample.labels[:, order], sample.query)
    n, blocks = operands + 2, demonstrations + 2
    return {
        "error": float((output.double() - wanted).abs().max()),
        "order_effect": float((output - shuffled).abs().max()),
        "layers": network.num_layers,
        "heads": max(network.heads_per_layer),
        "width": network.width,
        # Content and output, three values per task, codes of slots and blocks, five flags.
        "formula": 2 * symbols + 3 * tasks + math.ceil(math.log2(n)) + math.ceil(math.log2(blocks)) + 5,
    }


@step(version="1", label="residuals at the separator")
def residuals(
    model: str,
    dtype: str,
    family: str,
    tasks: Sequence[str],
    proportions: Sequence[float],
    demonstrations: int,
    prompts: int,
    seed: int,
    random_answers: bool = False,
) -> torch.Tensor:
    """Residual stream after every block at the last token of mixed prompts, ``[prompts, layers, width]``.

    With ``random_answers`` the same words are demonstrated with random strings for answers: the control.
    """
    loaded = load_reference(model, dtype)
    found = find_family(family)
    mixed: tuple[Sequence[str | Task], Sequence[float]] = (tasks, proportions)
    if random_answers:
        mixed = ([Task("random", lambda value: _random_string(f"{seed}:{value}"))], [1.0])
    drawn = mixture_prompts(found, *mixed, demonstrations=demonstrations, prompts=prompts, seed=seed)
    return residuals_at_separator(loaded.model, loaded.tokenizer, [p.text for p in drawn])


def _random_string(key: str) -> str:
    # A hash, so that one word has one answer in every prompt, as under a real task.
    digest = hashlib.sha256(key.encode()).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[: 4 + digest[-1] % 4])


@step(version="1", label="mixed prompts, unterminated")
def in_context(
    model: str,
    dtype: str,
    family: str,
    tasks: Sequence[str],
    proportions: Sequence[float],
    demonstrations: int,
    prompts: int,
    seed: int,
) -> dict[str, Any]:
    """As :func:`mixture`, for comparison with :func:`injection`: without a terminator, as zero-shot prompts need it."""
    drawn = mixture_prompts(
        find_family(family), tasks, proportions, demonstrations=demonstrations, prompts=prompts, seed=seed
    )
    scores = _scored(load_reference(model, dtype), family, drawn, None)
    return {"whole": scores.logprob, "first": scores.first_logprob, "distinct_first": scores.distinct_first}


@step(version="3", label="injecting task vectors")
def injection(
    model: str,
    dtype: str,
    family: str,
    tasks: Sequence[str],
    weights: Sequence[float],
    demonstrations: int,
    prompts: int,
    queries: int,
    seed: int,
) -> dict[str, Any]:
    """Inject combinations of two task vectors into zero-shot prompts, at the layer where the pure ones work best.

    Answers have no terminator: a zero-shot prompt shows no finished line, so a newline is unlikely after any answer.

    Returns:
        Log-probabilities of the ``whole`` answers and of their ``first`` tokens, ``[weights, queries, 2]``; the
        chosen ``layer``; ``own``, ``[layers, queries, 2]``: each pure vector's probability of its own task's first
        token on the queries that choose the layer.
    """
    loaded = load_reference(model, dtype)
    found = find_family(family)
    drawn = partial(mixture_prompts, found, tasks, demonstrations=demonstrations)
    table = partial(injection_table, loaded.model, loaded.tokenizer)
    pure = [
        TaskVector.extract(
            loaded.model,
            loaded.tokenizer,
            [p.text for p in drawn(proportions, prompts=prompts, seed=seed)],
            task=task,
            family=family,
        )
        for task, proportions in zip(tasks, ([1.0, 0.0], [0.0, 1.0]), strict=True)
    ]

    def zero_shot(seed: int) -> list[tuple[str, tuple[str, ...]]]:
        sources = drawn([0.5, 0.5], prompts=queries, seed=seed)
        return [(found.query(p.query, leading_newline=True), p.answers) for p in sources]

    own = table(pure, zero_shot(choosing_seed(seed)), first_token_only=True).exp().diagonal(dim1=1, dim2=3)
    layer = int(own.mean((1, 2)).argmax())
    mixed = interpolate(pure, [[w, 1 - w] for w in weights])
    reported = zero_shot(report_seed(seed))
    return {
        "whole": table(mixed, reported, layers=[layer])[0].numpy(),
        "first": table(mixed, reported, layers=[layer], first_token_only=True)[0].numpy(),
        "layer": layer,
        "own": own,
    }


def choosing_seed(seed: int) -> int:
    """Seed of the queries that choose the layer, apart from the prompts that give the vectors."""
    return 1000 + seed


def report_seed(seed: int) -> int:
    """Seed of the queries on which the injection is reported."""
    return 2000 + seed
