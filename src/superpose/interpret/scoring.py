"""Exact probabilities of several answers after one prompt: the prompt runs once, its cache serves every answer."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from superpose.errors import InputError
from superpose.models.internals import context_length, extend, prefill, repeat_cache, select_rows

Tokens = Sequence[int]


class TokenBoundaryWarning(UserWarning):
    """The tokens of a prompt are not a prefix of the tokens of prompt + answer."""


@dataclass(frozen=True)
class AnswerScores:
    """Log-probabilities of answers after one prompt, in nats, on the CPU; float32, or float64 for a float64 model.

    Attributes:
        answers: the answers, as given.
        tokens: for each answer the tokens scored, with the terminator's where one was asked for.
        token_logprobs: for each answer, log-probability of each of its tokens given all before.
        logprobs: their sums: no length normalisation, not renormalised over the answers.
    """

    answers: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    token_logprobs: tuple[Float[Tensor, " _"], ...]
    logprobs: Float[Tensor, " answers"]

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.answers)


def answer_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    answers: Sequence[str],
    terminator: str | None = None,
) -> Float[Tensor, " answers"]:
    """Return the log-probability of each answer string after the prompt; see `answer_scores`."""
    return answer_scores(model, tokenizer, prompt, answers, terminator).logprobs


def answer_logprobs_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, Sequence[str]]],
    terminator: str | None = None,
    batch_size: int = 8,
) -> list[Float[Tensor, " _"]]:
    """Return the log-probabilities of each prompt's answers; see `answer_scores_batch`."""
    return [scores.logprobs for scores in answer_scores_batch(model, tokenizer, items, terminator, batch_size)]


def answer_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    answers: Sequence[str],
    terminator: str | None = None,
) -> AnswerScores:
    """Score whole answer strings, token by token, after one prompt (arXiv 2410.05603, section 3).

    The probability of an answer is the product over its tokens; the model's own special tokens (a BOS) stand before
    the prompt by the same rule with and without an answer.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        prompt: the text before the answers.
        answers: at least one; pairwise different.
        terminator: text that must follow the answer, normally a newline; its probability is a factor. Without it the
            answers' events overlap where one answer begins another ("1" and "10"), and the sum may exceed 1. The paper
            has no terminator; default None.

    Raises:
        InputError: no answers, two equal ones, one that has no tokens, or prompt and answer longer than the model's
            context.

    Warns:
        TokenBoundaryWarning: the prompt's tokens are no prefix of those of prompt + answer; the tokens of the answer
            alone are scored instead.
    """
    return answer_scores_batch(model, tokenizer, [(prompt, answers)], terminator)[0]


def answer_scores_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, Sequence[str]]],
    terminator: str | None = None,
    batch_size: int = 8,
) -> list[AnswerScores]:
    """Score the answers of many prompts; prompts of one token length share a forward pass, so nothing is padded.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        items: (prompt, answers) pairs.
        terminator: as in `answer_scores`.
        batch_size: most prompts in one pass; default 8.

    Raises:
        InputError: as in `answer_scores`, for any of the prompts, before the first forward pass.
    """
    contexts = [_tokenise(tokenizer, prompt, answers, terminator) for prompt, answers in items]
    results = continuation_logprobs_batch(model, contexts, batch_size=batch_size)
    return [
        AnswerScores(
            answers=tuple(answers),
            tokens=tuple(map(tuple, continuations)),
            token_logprobs=tuple(token_logprobs),
            logprobs=torch.stack([values.sum() for values in token_logprobs]),
        )
        for (_, answers), (_, continuations), token_logprobs in zip(items, contexts, results, strict=True)
    ]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a text that something will follow: with the tokenizer's special tokens before it, none after it."""
    ids = _ids(tokenizer, text, True)
    if ids and ids[-1] == tokenizer.eos_token_id:
        bare = _ids(tokenizer, text, False)
        # A tokenizer that appends an end token would put it between the prompt and its answer.
        while len(ids) > len(bare) and ids[-1] == tokenizer.eos_token_id and ids[len(ids) - len(bare) :] != bare:
            ids.pop()
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    encoded: Any = tokenizer(text, add_special_tokens=special)["input_ids"]
    return list(encoded)


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[str], terminator: str | None
) -> tuple[list[int], list[list[int]]]:
    if not answers:
        raise InputError("answers is empty; give at least one answer to score")
    prompt_ids = encode(tokenizer, prompt)
    seen: dict[tuple[int, ...], str] = {}
    continuations: list[list[int]] = []
    for answer in answers:
        if not _ids(tokenizer, answer, False):
            raise InputError(f"answers has {answer!r}, which has no tokens; every answer needs at least one")
        ids = _continuation(tokenizer, prompt, prompt_ids, answer + (terminator or ""))
        if tuple(ids) in seen:
            raise InputError(
                f"answers has {answer!r} and {seen[tuple(ids)]!r}, which are the same tokens; answers must differ"
            )
        seen[tuple(ids)] = answer
        continuations.append(ids)
    return prompt_ids, continuations


def _continuation(tokenizer: PreTrainedTokenizerBase, prompt: str, prompt_ids: list[int], text: str) -> list[int]:
    joint = encode(tokenizer, prompt + text)
    if joint[: len(prompt_ids)] == prompt_ids and len(joint) > len(prompt_ids):
        return joint[len(prompt_ids) :]
    warnings.warn(
        f"the tokens of the prompt are not a prefix of those of the prompt followed by {text!r}: "
        "scoring the tokens of that text alone",
        TokenBoundaryWarning,
        stacklevel=2,
    )
    return _ids(tokenizer, text, False)


def continuation_logprobs(
    model: PreTrainedModel, prompt_ids: Tokens, continuations: Sequence[Tokens], max_rows: int = 32
) -> list[Float[Tensor, " _"]]:
    """Return the log-probability of every token of several continuations of one context.

    The context runs once; the continuations run as right-padded batches on copies of its cache, the longest
    together; where one begins another, or two differ in the last token only, they share a row.

    Args:
        model: a causal language model in eval mode.
        prompt_ids: the context's tokens, special tokens included, at least one.
        continuations: token lists, each at least one token long; they may repeat.
        max_rows: most continuations in one pass: memory grows with it, as each row holds a copy of the cache.

    Raises:
        InputError: an empty context or continuation, or together longer than the model's context.
    """
    return continuation_logprobs_batch(model, [(prompt_ids, continuations)], max_rows=max_rows)[0]


def continuation_logprobs_batch(
    model: PreTrainedModel,
    contexts: Sequence[tuple[Tokens, Sequence[Tokens]]],
    batch_size: int = 8,
    max_rows: int = 32,
) -> list[list[Float[Tensor, " _"]]]:
    """Do as `continuation_logprobs` for many contexts; those of one length share a forward pass.

    Raises:
        InputError: as in `continuation_logprobs`, before the first forward pass.
    """
    if batch_size < 1 or max_rows < 1:
        raise InputError(f"batch_size is {batch_size} and max_rows is {max_rows}; both must be 1 or more")
    for prompt_ids, continuations in contexts:
        _check_lengths(model, prompt_ids, continuations)
    by_length: dict[int, list[int]] = {}
    for index, (prompt_ids, _) in enumerate(contexts):
        by_length.setdefault(len(prompt_ids), []).append(index)
    results: dict[int, list[Tensor]] = {}
    for group in by_length.values():
        for start in range(0, len(group), batch_size):
            chunk = group[start : start + batch_size]
            ids = torch.tensor([list(contexts[index][0]) for index in chunk], device=model.device)
            with torch.inference_mode():
                last_logits, cache = prefill(model, ids)
            scored = cached_continuation_logprobs(
                model, last_logits, cache, [contexts[index][1] for index in chunk], max_rows
            )
            results.update(zip(chunk, scored, strict=True))
    return [results[index] for index in range(len(contexts))]


def _check_lengths(model: PreTrainedModel, prompt_ids: Tokens, continuations: Sequence[Tokens]) -> None:
    if not len(prompt_ids):
        raise InputError("prompt has no tokens; at least one is needed to predict the next (a BOS would do)")
    if any(not len(continuation) for continuation in continuations):
        raise InputError("a continuation has no tokens; each needs at least one")
    limit = context_length(model)
    longest = max(map(len, continuations), default=0)
    if limit is not None and len(prompt_ids) + longest > limit:
        raise InputError(
            f"prompt has {len(prompt_ids)} tokens and its longest continuation {longest}; "
            f"together they may have at most {limit}, the model's context"
        )


def cached_continuation_logprobs(
    model: PreTrainedModel,
    last_logits: Float[Tensor, "batch vocab"],
    cache: Cache,
    continuations: Sequence[Sequence[Tokens]],
    max_rows: int = 32,
) -> list[list[Float[Tensor, " _"]]]:
    """Score continuations of contexts that have run already (`superpose.models.prefill`), all of one length.

    Args:
        model: the model that made the cache.
        last_logits: its logits after each context's last token.
        cache: the contexts' cache; it stays usable.
        continuations: for each row of the cache its continuations, each at least one token long.
        max_rows: most rows in one pass.

    Raises:
        InputError: the number of rows differs from the lists of continuations.
    """
    if len(continuations) != len(last_logits):
        raise InputError(f"continuations has {len(continuations)} lists; the cache has {len(last_logits)} rows")
    with torch.inference_mode():
        every = [(row, tuple(tokens)) for row, group in enumerate(continuations) for tokens in group]
        start = at_least_float32(last_logits).log_softmax(-1)
        rows, targets = zip(*((row, tokens[0]) for row, tokens in every), strict=True) if every else ((), ())
        first = start[list(rows), list(targets)].cpu()
        longer = sorted({item for item in every if len(item[1]) > 1})
        rest = _after_first_token(model, cache, len(last_logits) == 1, longer, max_rows)
    # Clones: views would keep the whole table alive in every caller, and inference tensors refuse autograd.
    scored = iter([torch.cat([first[i : i + 1], rest.get(item, first[:0])]).clone() for i, item in enumerate(every)])
    return [[next(scored) for _ in group] for group in continuations]


Row = tuple[int, tuple[int, ...]]


def at_least_float32(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return logits in float32 where they are in half precision: sums of rounded log-probabilities drift."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _after_first_token(
    model: PreTrainedModel, cache: Cache, single: bool, items: list[Row], max_rows: int
) -> dict[Row, Tensor]:
    """Return the log-probabilities of all tokens but the first of (context, continuation) pairs, which come sorted."""
    hosted = _share_rows(items)
    hosts = sorted(hosted, key=lambda host: len(host[1]))
    device = model.device
    results: dict[Row, Tensor] = {}
    for begin in range(0, len(hosts), max_rows):
        chunk = hosts[begin : begin + max_rows]
        length = len(chunk[-1][1])
        ids = torch.zeros(len(chunk), length, dtype=torch.long)
        for i, (_, tokens) in enumerate(chunk):
            ids[i, : len(tokens)] = torch.tensor(tokens)
        # A cache of one row is shared, not copied, until the pass extends it.
        branch = repeat_cache(cache, len(chunk)) if single else select_rows(cache, torch.tensor([r for r, _ in chunk]))
        logits = extend(model, branch, ids.to(device))
        guests = [(i, guest) for i, host in enumerate(chunk) for guest in hosted[host]]
        lengths = [len(tokens) - 1 for _, (_, tokens) in guests]
        rows = torch.tensor([i for i, _ in guests]).repeat_interleave(torch.tensor(lengths))
        positions = torch.cat([torch.arange(n) for n in lengths])
        targets = torch.tensor([token for _, (_, tokens) in guests for token in tokens[1:]])
        picked = at_least_float32(logits[rows.to(device), positions.to(device)])
        logprobs = picked.gather(1, targets.to(device)[:, None])[:, 0] - picked.logsumexp(-1)
        results.update(zip([guest for _, guest in guests], logprobs.cpu().split(lengths), strict=True))
    return results


def _share_rows(items: list[Row]) -> dict[Row, list[Row]]:
    """Assign sorted (context, continuation) pairs to the rows that must be run: row -> the pairs it answers.

    A row holds the tokens before a continuation's last one; it also answers every continuation whose own such tokens
    begin it. In sorted order those stand right before it.
    """
    hosted: dict[Row, list[Row]] = {}
    host: Row | None = None
    for row, tokens in sorted(items, key=lambda item: (item[0], item[1][:-1]), reverse=True):
        inputs = tokens[:-1]
        if host is None or host[0] != row or host[1][: len(inputs)] != inputs:
            host = (row, inputs)
        hosted.setdefault(host, []).append((row, tokens))
    return hosted
