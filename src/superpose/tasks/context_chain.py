"""Samplers for context-conditioned Markov chains: prompts, next tokens, and trajectories that read themselves."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from superpose.errors import InputError
from superpose.theory.ccmc import prompt_counts
from superpose.theory.markov import check_transitions

from .checks import whole

Generator = torch.Generator | np.random.Generator


def uniform_prompts(prompts: int, length: int, vocabulary: int, generator: Generator) -> Int[Tensor, "prompts length"]:
    """Draw prompts of independent uniform tokens."""
    whole("vocabulary", vocabulary, 2)
    draws = _uniform((whole("prompts", prompts, 1), whole("length", length, 1)), generator)
    return (draws * vocabulary).long()


def draw_next(
    transitions: Float[Tensor, "tokens tokens"] | Float[Tensor, "prompts tokens tokens"],
    counts: Num[Tensor, "prompts tokens"],
    last: Int[Tensor, " prompts"],
    generator: Generator,
) -> Int[Tensor, " prompts"]:
    """Draw the token that follows each prompt, given its counts and its last token.

    Args:
        transitions: row = present token; one chain, or one per prompt.
        counts: how often each token occurs in each prompt.
        last: last token of each prompt.
        generator: the only source of randomness, of torch or NumPy.
    """
    rows = transitions[last] if transitions.ndim == 2 else transitions[torch.arange(len(last)), last]
    return _pick(counts * rows, _uniform((len(last),), generator))


def continue_prompts(
    transitions: Float[Tensor, "tokens _"] | Float[Tensor, "prompts tokens _"],
    prompts: Int[Tensor, "prompts length"] | Sequence[Sequence[int]],
    steps: int,
    generator: Generator,
) -> Int[Tensor, "prompts steps"]:
    """Let chains write: every new token joins the context that the next one is drawn from.

    Each step costs as much as the vocabulary is large, however long the context is. Equal generators give equal
    tokens.

    Args:
        transitions: row = present token; one chain, or one per prompt.
        prompts: token ids to start from.
        steps: tokens to write after each prompt.
        generator: the only source of randomness, of torch or NumPy.

    Returns:
        The new tokens.

    Raises:
        InputError: transitions that are none, prompts outside the vocabulary or of which no token can follow.
    """
    written = torch.empty(whole("steps", steps, 1), len(prompts), dtype=torch.long)
    for step, (token, _) in enumerate(_walk(transitions, prompts, steps, generator)):
        written[step] = token
    return written.T.contiguous()


def trajectory_counts(
    transitions: Float[Tensor, "tokens _"] | Float[Tensor, "prompts tokens _"],
    prompts: Int[Tensor, "prompts length"] | Sequence[Sequence[int]],
    at: Sequence[int],
    generator: Generator,
) -> Float[Tensor, "prompts at tokens"]:
    """Return how often each token occurs in prompt and trajectory after given numbers of steps, without storing them.

    The trajectories are those of `continue_prompts` with the same generator; ``at`` must increase.

    Raises:
        InputError: as `continue_prompts`, or steps that do not increase.
    """
    if not at or list(at) != sorted(set(at)) or at[0] < 1:
        raise InputError(f"at is {tuple(at)}; allowed: increasing numbers of steps from 1 on")
    kept, places = [], set(at)
    for step, (_, counts) in enumerate(_walk(transitions, prompts, at[-1], generator), start=1):
        if step in places:
            kept.append(counts.clone())
    return torch.stack(kept, dim=1)


def _walk(
    transitions: Tensor, prompts: Tensor | Sequence[Sequence[int]], steps: int, generator: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each step's tokens and the counts after it; the counts are updated in place."""
    p = check_transitions(transitions)
    tokens = p.shape[-1]
    found, last = prompt_counts(prompts, tokens)
    if p.ndim == 3 and len(p) != len(found):
        raise InputError(f"transitions has {len(p)} chains; allowed: one, or {len(found)}, one per prompt")
    # Float64 throughout: in float32 losers would stop being drawn when the counts of winners pass 2^24.
    counts = found.double()
    table = p.reshape(-1, tokens)
    offset = torch.zeros(len(found), dtype=torch.long) if p.ndim == 2 else torch.arange(len(found)) * tokens
    if bool(((counts * table[last + offset]).sum(-1) == 0).any()):
        at = int(((counts * table[last + offset]).sum(-1) == 0).nonzero()[0])
        raise InputError(f"prompts[{at}] has no reachable token after {int(last[at])}")
    one = torch.ones(len(found), 1, dtype=torch.float64)
    for _ in range(steps):
        last = _pick(counts * table[last + offset], _uniform((len(found),), generator))
        counts.scatter_add_(1, last[:, None], one)
        yield last, counts


def _pick(weights: Float[Tensor, "prompts tokens"], uniform: Float[Tensor, " prompts"]) -> Int[Tensor, " prompts"]:
    """The token in whose share of the summed weights the uniform number falls; weight 0 is never picked."""
    edges = weights.cumsum(-1)
    return (edges <= uniform[:, None] * edges[:, -1:]).sum(-1)


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.random(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64)
