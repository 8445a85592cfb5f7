"""What a model answers when task vectors are injected into zero-shot prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from superpose.errors import InputError
from superpose.interpret.scoring import _tokenise, cached_continuation_logprobs
from superpose.interpret.task_vectors import TaskVector, check_prompt_lengths, check_same_model, group_by_length
from superpose.models.internals import extend, fresh_cache, patch_residual, prefill, select_rows

Query = tuple[str, Sequence[str]]


def patched_answer_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query_prompt: str,
    answers: Sequence[str],
    vector: Float[Tensor, " width"],
    layer: int,
    terminator: str | None = None,
) -> Float[Tensor, " answers"]:
    """Return the answers' log-probabilities after a prompt whose last token has its residual replaced.

    Answer tokens follow the patched position and are not patched. The scoring is that of
    `superpose.interpret.answer_scores`.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        query_prompt: the zero-shot prompt, normally ``family.query(x, leading_newline=True)``.
        answers: at least one; pairwise different.
        vector: the new residual at the last token.
        layer: the block after which it is put there, 0-based.
        terminator: text that must follow the answer; default: none, as in the paper. A zero-shot prompt shows no line
            that ends, so asking for a newline here measures the line's end rather than the task.

    Raises:
        InputError: layer out of range, a vector of another width, or what `answer_scores` refuses.
    """
    return patched_answer_logprobs_batch(model, tokenizer, [(query_prompt, answers)], vector, layer, terminator)[0]


def patched_answer_logprobs_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    vectors: Float[Tensor, " width"] | Float[Tensor, "queries width"],
    layer: int,
    terminator: str | None = None,
    batch_size: int = 32,
) -> list[Float[Tensor, " answers_i"]]:
    """Do as `patched_answer_logprobs` for many (prompt, answers) pairs, with one vector for all or one for each.

    Raises:
        InputError: as in `patched_answer_logprobs`, or another number of vectors than queries.
    """
    given = vectors.expand(len(queries), -1) if vectors.ndim == 1 else vectors
    if len(given) != len(queries):
        raise InputError(f"vectors has {len(given)} rows for {len(queries)} queries; give one for all or one for each")
    prepared = _PreparedQueries(model, tokenizer, queries, terminator)
    return prepared.score(list(range(len(queries))), given, layer, batch_size)


def injection_table(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Sequence[TaskVector],
    queries: Sequence[Query],
    layers: Sequence[int] | None = None,
    terminator: str | None = None,
    batch_size: int = 32,
    first_token_only: bool = False,
) -> Float[Tensor, "layers vectors queries answers"]:
    """Return the answers' log-probabilities for every layer, every vector and every query.

    The tokens before the patched one are run once for the whole table.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        vectors: what to inject; all read after the same layers.
        queries: (zero-shot prompt, answers) pairs, all with the same number of answers.
        layers: blocks after which to inject; default: those the vectors were read after.
        terminator: as in `patched_answer_logprobs`.
        batch_size: most prompts in one pass; default 32.
        first_token_only: score the first token of each answer instead of all; answers that share it get the same.

    Raises:
        InputError: no vectors or queries, different numbers of answers, or what `patched_answer_logprobs` refuses.
    """
    if not vectors or not queries:
        raise InputError(f"vectors has {len(vectors)} entries and queries {len(queries)}; give at least one of each")
    if len({len(answers) for _, answers in queries}) > 1:
        raise InputError("queries have different numbers of answers; a table needs the same for all")
    check_same_model(vectors)
    wanted = vectors[0].layers if layers is None else tuple(layers)
    if not wanted:
        raise InputError("layers is empty; give at least one")
    stacked = {layer: torch.stack([vector.at(layer) for vector in vectors]) for layer in wanted}
    prepared = _PreparedQueries(model, tokenizer, queries, terminator, 1 if first_token_only else None)
    rows = list(range(len(queries))) * len(vectors)
    table = [
        torch.stack(prepared.score(rows, stacked[layer].repeat_interleave(len(queries), dim=0), layer, batch_size))
        for layer in wanted
    ]
    return torch.stack(table).unflatten(1, (len(vectors), len(queries)))


@dataclass(frozen=True)
class BestLayer:
    """Where injection works best, chosen on one part of the queries and measured on the other.

    Attributes:
        layer: the layer with the largest mean own-answer probability over tasks and choosing queries.
        per_task: the same for each task alone; the paper analyses the layers between the lowest and the highest.
        layers: the layers tried.
        choosing: ``[layers, tasks]``, mean probability of each vector's own answer over the choosing queries.
        held_out: ``[queries, tasks]``, probability of each vector's own answer at the best layer on the other queries.
    """

    layer: int
    per_task: tuple[int, ...]
    layers: tuple[int, ...]
    choosing: Float[Tensor, "layers tasks"]
    held_out: Float[Tensor, "queries tasks"]


def best_layer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Sequence[TaskVector],
    queries: Sequence[Query],
    split: float = 0.5,
    layers: Sequence[int] | None = None,
    terminator: str | None = None,
) -> BestLayer:
    """Find the layer after which injecting task vectors makes the model do their tasks.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        vectors: one per task.
        queries: (zero-shot prompt, answers) pairs; answer i is that of vector i's task.
        split: share of the queries, the first ones, that choose; the rest only report. (The paper's code chooses and
            reports on the same ones.)
        layers: blocks to try; default: those the vectors were read after.
        terminator: as in `patched_answer_logprobs`.

    Raises:
        InputError: a split that leaves one side without queries, a query without one answer per vector, or what
            `patched_answer_logprobs` refuses.
    """
    count = round(len(queries) * split)
    if not 0 < count < len(queries):
        raise InputError(f"split is {split:g} of {len(queries)} queries; both sides need at least one")
    for prompt, answers in queries:
        if len(answers) != len(vectors):
            raise InputError(
                f"query {prompt!r} has {len(answers)} answers for {len(vectors)} vectors; give one for each"
            )
    table = injection_table(model, tokenizer, vectors, queries[:count], layers, terminator)
    tried = vectors[0].layers if layers is None else tuple(layers)
    choosing = _own(table.exp()).mean(1)
    best = tried[int(choosing.mean(1).argmax())]
    reported = injection_table(model, tokenizer, vectors, queries[count:], [best], terminator)
    return BestLayer(
        layer=best,
        per_task=tuple(tried[index] for index in choosing.argmax(0).tolist()),
        layers=tried,
        choosing=choosing,
        held_out=_own(reported.exp())[0],
    )


def _own(table: Float[Tensor, "layers tasks queries tasks"]) -> Float[Tensor, "layers queries tasks"]:
    return table.diagonal(dim1=1, dim2=3)


@dataclass
class _Group:
    """Queries of one token length: what precedes their last token has been run, and is the same for every vector."""

    last: Int[Tensor, "queries one"]
    position: int
    cache: DynamicCache | None


class _PreparedQueries:
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        queries: Sequence[Query],
        terminator: str | None,
        tokens: int | None = None,
    ):
        self.model = model
        contexts = [_tokenise(tokenizer, prompt, answers, terminator) for prompt, answers in queries]
        encoded = [ids for ids, _ in contexts]
        self.continuations = [[answer[:tokens] for answer in continuations] for _, continuations in contexts]
        check_prompt_lengths(model, encoded, [max(map(len, answers)) for answers in self.continuations])
        self.groups: list[_Group] = []
        self.place: dict[int, tuple[int, int]] = {}
        for length, members in group_by_length(encoded).items():
            ids = torch.tensor([encoded[index] for index in members], device=model.device)
            with torch.inference_mode():
                # A patch at the last token changes nothing before it, so what comes before is run un-patched, once.
                cache = prefill(model, ids[:, :-1])[1] if length > 1 else None
            self.place.update({index: (len(self.groups), row) for row, index in enumerate(members)})
            self.groups.append(_Group(ids[:, -1:], length - 1, cache))

    def score(
        self, queries: list[int], vectors: Float[Tensor, "rows width"], layer: int, batch_size: int
    ) -> list[Float[Tensor, " answers_i"]]:
        """Return the answers' log-probabilities for pairs of a query (by index) and a vector."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; allowed: 1 or more")
        results: dict[int, Tensor] = {}
        for number, group in enumerate(self.groups):
            members = [row for row, query in enumerate(queries) if self.place[query][0] == number]
            for start in range(0, len(members), batch_size):
                chunk = members[start : start + batch_size]
                local = torch.tensor([self.place[queries[row]][1] for row in chunk], device=self.model.device)
                with torch.inference_mode():
                    cache = fresh_cache(self.model) if group.cache is None else select_rows(group.cache, local)
                    with patch_residual(self.model, layer, vectors[chunk], group.position):
                        logits = extend(self.model, cache, group.last[local])[:, -1]
                answers = [self.continuations[queries[row]] for row in chunk]
                scored = cached_continuation_logprobs(self.model, logits, cache, answers, max_rows=2 * batch_size)
                for row, token_logprobs in zip(chunk, scored, strict=True):
                    results[row] = torch.stack([values.sum() for values in token_logprobs])
        return [results[row] for row in range(len(queries))]
