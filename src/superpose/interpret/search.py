"""The most probable complete output strings of a model, found exactly by best-first search."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from superpose.errors import InputError
from superpose.interpret.scoring import at_least_float32, encode
from superpose.models.internals import context_length, extend, prefill, repeat_cache

_NEVER = float("-inf")
_CONTEXT_TOKENS = 4
_SPARE_CHILDREN = 512  # beyond the budget: room for tokens that no string may contain


@dataclass(frozen=True)
class TopStrings:
    """The most probable complete output strings after a prompt, best first.

    Attributes:
        strings: proven to be the most probable ones, without the terminator; k of them, or fewer when the budget
            ran out or no more strings exist.
        logprobs: their log-probabilities, terminator included, nats.
        tokens: for each its most probable token path, without the terminator.
        budget_exceeded: the search stopped before the k-th string was proven.
        expansions: forward evaluations of a token path, the prompt's own included.
        bound: upper bound of the log-probability of every string not listed; -inf if there is none.
        pending: log-probabilities of complete strings found but not proven to come next, best first.
    """

    strings: tuple[str, ...]
    logprobs: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    budget_exceeded: bool
    expansions: int
    bound: float
    pending: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether the answer is the full one: nothing was cut off by the budget."""
        return not self.budget_exceeded

    def kth_bounds(self, k: int) -> tuple[float, float]:
        """Return a lower and an upper bound of the k-th largest string log-probability; equal if it is proven.

        Raises:
            InputError: k is below 1.
        """
        if k < 1:
            raise InputError(f"k is {k}; it must be 1 or more")
        if k <= len(self.logprobs):
            return self.logprobs[k - 1], self.logprobs[k - 1]
        known = (*self.logprobs, *self.pending)
        return (known[k - 1] if k <= len(known) else float("-inf")), self.bound


def top_strings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    k: int,
    terminator: str = "\n",
    max_expansions: int = 1000,
    max_tokens: int = 32,
    batch_size: int = 8,
) -> TopStrings:
    """Find the k most probable complete output strings after a prompt, exactly.

    A complete string is a token path followed by the terminator token, whose probability is a factor. Extending a
    path can only lower its probability, so a priority queue on probability meets complete strings in exact order.
    Several open paths are evaluated in one pass; that does not touch the order, as a string is accepted only once it
    heads the queue.

    Two paths may spell the same text (an "a" and a "b" instead of "ab"): it is listed once with its most probable
    path's probability; the sum over its paths, which is not bounded along a path, is not formed. Special tokens and
    tokens that contain the terminator's text without being it ("\\n\\n") are not part of any string.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        prompt: the text before the strings.
        k: how many strings, 1 or more; r over K tasks needs k = K.
        terminator: ends a string; one token; default a newline.
        max_expansions: most token paths to evaluate; reaching it gives ``budget_exceeded`` instead of a wrong answer.
        max_tokens: longest path; one more probable than the k-th string that reaches it also exceeds the budget.
        batch_size: open paths evaluated in one pass; default 8.

    Raises:
        InputError: a terminator that is not one token, a number below 1, or a prompt longer than the context.
    """
    for name, value in (
        ("k", k),
        ("max_expansions", max_expansions),
        ("max_tokens", max_tokens),
        ("batch_size", batch_size),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be 1 or more")
    end = _terminator_token(tokenizer, terminator)
    prompt_ids = encode(tokenizer, prompt)
    if not prompt_ids:
        raise InputError("prompt has no tokens; at least one is needed to predict the next (a BOS would do)")
    limit = context_length(model)
    if limit is not None:
        if len(prompt_ids) + 1 > limit:
            raise InputError(
                f"prompt has {len(prompt_ids)} tokens; the model's context holds at most {limit - 1} and a next token"
            )
        max_tokens = min(max_tokens, limit - len(prompt_ids))
    text = _Text(tokenizer, prompt_ids, terminator)
    with torch.inference_mode():
        last_logits, cache = prefill(model, torch.tensor([prompt_ids], device=model.device))

        def evaluate(paths: list[tuple[int, ...]]) -> Float[Tensor, "paths vocab"]:
            longest = max(map(len, paths))
            ids = torch.zeros(len(paths), longest, dtype=torch.long)
            for i, path in enumerate(paths):
                ids[i, : len(path)] = torch.tensor(path)
            logits = extend(model, repeat_cache(cache, len(paths)), ids.to(model.device))
            return logits[range(len(paths)), [len(path) - 1 for path in paths]]

        search = _Search(k, end, text, max_tokens, max_expansions)
        search.open((), 0.0, last_logits[0])
        return search.run(evaluate, batch_size)


def _terminator_token(tokenizer: PreTrainedTokenizerBase, terminator: str) -> int:
    ids: Any = tokenizer(terminator, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"terminator is {terminator!r}, which is {len(ids)} tokens; the search needs exactly one")
    return int(ids[0])


class _Text:
    """Which tokens may be part of a string, and what token paths spell."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], terminator: str):
        self.tokenizer = tokenizer
        self.terminator = terminator
        self.special = set(tokenizer.all_special_ids)
        self.size = len(tokenizer)
        # Some decoders drop a space at the start of a text, so paths are decoded behind the end of the prompt.
        self.before = prompt_ids[-_CONTEXT_TOKENS:]
        self.before_text = self._decode(self.before)
        self.known: dict[int, bool] = {}

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)  # pyright: ignore[reportReturnType]

    def allows(self, token: int) -> bool:
        if token not in self.known:
            self.known[token] = (
                token < self.size and token not in self.special and self.terminator not in self._decode([token])
            )
        return self.known[token]

    def spell(self, path: tuple[int, ...]) -> str:
        return self._decode([*self.before, *path])[len(self.before_text) :]


class _Family:
    """The children of an evaluated path, best first; so many that a search within budget does not run out of them."""

    def __init__(self, path: tuple[int, ...], logprob: float, logprobs: Float[Tensor, " vocab"], kept: int):
        values, tokens = logprobs.topk(min(kept, len(logprobs)))
        self.path = path
        self.logprobs = (values + logprob).tolist()
        self.tokens = tokens.tolist()
        self.whole = len(self.tokens) == len(logprobs)
        self.taken = 0


@dataclass(frozen=True)
class _Complete:
    key: object
    spelled: str
    path: tuple[int, ...]


@dataclass(frozen=True)
class _Child:
    """The best child not yet taken from a family; no token: the kept ones ran out."""

    family: _Family
    token: int | None


class _Search:
    """A queue of complete strings and of families of open paths, each family standing there with its best child.

    So a family of the size of the vocabulary costs the queue one place.
    """

    def __init__(self, k: int, end: int, text: _Text, max_tokens: int, max_expansions: int):
        self.k = k
        self.end = end
        self.text = text
        self.max_tokens = max_tokens
        self.max_expansions = max_expansions
        self.queue: list[tuple[float, int, _Complete | _Child]] = []
        self.order = itertools.count()
        self.found: dict[object, float] = {}
        self.threshold = _NEVER
        self.best_pruned = _NEVER
        self.accepted: dict[object, tuple[str, float, tuple[int, ...]]] = {}
        self.expansions = 0

    def run(self, evaluate: Callable[[list[tuple[int, ...]]], Tensor], batch_size: int) -> TopStrings:
        """Search until k strings are proven, no path is left, or the budget is."""
        while self.queue and len(self.accepted) < self.k:
            logprob, _, head = self.queue[0]
            if isinstance(head, _Complete):
                heapq.heappop(self.queue)
                # A text found twice stands in the queue twice; its better path came first.
                self.accepted.setdefault(head.key, (head.spelled, -logprob, head.path))
                continue
            paths = self.take_open(min(batch_size, self.max_expansions - self.expansions))
            if not paths:
                return self.result(exceeded=True)
            for (path, path_logprob), logits in zip(paths, evaluate([path for path, _ in paths]), strict=True):
                self.open(path, path_logprob, logits)
        return self.result(exceeded=False)

    def open(self, path: tuple[int, ...], logprob: float, logits: Float[Tensor, " vocab"]) -> None:
        """Note an evaluated path: the string that ends here, and its children as a family."""
        self.expansions += 1
        logprobs = at_least_float32(logits).log_softmax(-1).cpu()
        complete = logprob + float(logprobs[self.end])
        spelled = self.text.spell(path)
        # Bytes that are no text all decode to the same mark, so such paths stand for themselves.
        key = path if "\ufffd" in spelled else spelled
        if complete > self.found.get(key, _NEVER):
            self.found[key] = complete
            if len(self.found) >= self.k:
                self.threshold = heapq.nlargest(self.k, self.found.values())[-1]
            self.push(complete, _Complete(key, spelled, path))
        self.push_child(_Family(path, logprob, logprobs, self.max_expansions + _SPARE_CHILDREN))

    def push(self, logprob: float, item: _Complete | _Child) -> None:
        # What is less probable than k complete strings is never among the best k, nor is anything it leads to.
        if logprob >= self.threshold and logprob > _NEVER:
            heapq.heappush(self.queue, (-logprob, next(self.order), item))
        else:
            self.best_pruned = max(self.best_pruned, logprob)

    def push_child(self, family: _Family) -> None:
        while family.taken < len(family.tokens):
            token = family.tokens[family.taken]
            if token != self.end and self.text.allows(token):
                self.push(family.logprobs[family.taken], _Child(family, token))
                return
            family.taken += 1
        if not family.whole:
            self.push(family.logprobs[-1], _Child(family, None))

    def take_open(self, room: int) -> list[tuple[tuple[int, ...], float]]:
        """Take up to `room` of the best open paths out of the queue; none if the best one must not be followed."""
        taken: list[tuple[tuple[int, ...], float]] = []
        aside: list[tuple[float, int, _Complete | _Child]] = []
        while self.queue and len(taken) < room:
            entry = heapq.heappop(self.queue)
            logprob, item = -entry[0], entry[2]
            if isinstance(item, _Complete):
                aside.append(entry)
            elif item.token is None or len(item.family.path) >= self.max_tokens:
                aside.append(entry)
                break
            elif logprob < self.threshold:
                self.best_pruned = max(self.best_pruned, logprob)
            else:
                taken.append(((*item.family.path, item.token), logprob))
                item.family.taken += 1
                self.push_child(item.family)
        for entry in aside:
            heapq.heappush(self.queue, entry)
        return taken

    def result(self, exceeded: bool) -> TopStrings:
        listed = list(self.accepted.values())
        return TopStrings(
            strings=tuple(spelled for spelled, _, _ in listed),
            logprobs=tuple(logprob for _, logprob, _ in listed),
            tokens=tuple(path for _, _, path in listed),
            budget_exceeded=exceeded,
            expansions=self.expansions,
            bound=max(self.best_pruned, -self.queue[0][0] if self.queue else _NEVER),
            pending=tuple(
                sorted((lp for key, lp in self.found.items() if key not in self.accepted), reverse=True)[: self.k]
            ),
        )
