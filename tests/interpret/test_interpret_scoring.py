import itertools
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from superpose.errors import InputError
from superpose.interpret import (
    MixturePrompt,
    TokenBoundaryWarning,
    answer_logprobs,
    answer_logprobs_batch,
    answer_scores,
    cached_continuation_logprobs,
    continuation_logprobs,
    continuation_logprobs_batch,
    family,
)
from superpose.interpret.scoring import encode
from superpose.models import extend, prefill
from tiny import CONTEXT, tiny_model, tiny_tokenizer

PROMPT = "sky->Sky\nvalley->valley\nlamp->"
ANSWERS = ["lamp", "Lamp", "LAMP", "l", "lam", "la", "x y z", "lamb"]


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def naive(model: PreTrainedModel, prompt: list[int], continuation: list[int]) -> torch.Tensor:
    """One plain forward pass over everything, no cache: the reference."""
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([prompt + continuation])).logits[0].float().log_softmax(-1)
    return logprobs[range(len(prompt) - 1, len(prompt) + len(continuation) - 1), continuation]


def merging_tokenizer(bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    """Characters, and "ab" as one token."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "\n", "a", "b", "c", "x", "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    if bos or eos:
        single = ("<s> " if bos else "") + "$A" + (" </s>" if eos else "")
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("terminator", [None, "\n"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3", "qwen2", "gpt_neox"])
def test_equals_one_forward_per_answer(shape: str, terminator: str | None):
    model, tokenizer = tiny_model(shape), tiny_tokenizer()
    scores = answer_scores(model, tokenizer, PROMPT, ANSWERS, terminator)
    prompt_ids = encode(tokenizer, PROMPT)
    for i, answer in enumerate(ANSWERS):
        ids = encode(tokenizer, answer + (terminator or ""))
        assert scores.tokens[i] == tuple(ids)
        expected = naive(model, prompt_ids, ids)
        torch.testing.assert_close(scores.token_logprobs[i], expected, atol=1e-5, rtol=0)
        assert float(scores.logprobs[i]) == pytest.approx(float(expected.sum()), abs=1e-5)
    assert len(scores) == len(ANSWERS)
    assert torch.equal(answer_logprobs(model, tokenizer, PROMPT, ANSWERS, terminator), scores.logprobs)


def test_bfloat16_is_close_and_comes_out_in_float32():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    expected = answer_logprobs(model, tokenizer, PROMPT, ANSWERS)
    half = model.to(torch.bfloat16)
    scores = answer_logprobs(half, tokenizer, PROMPT, ANSWERS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.3)
    reference = [naive(half, encode(tokenizer, PROMPT), encode(tokenizer, answer)).sum() for answer in ANSWERS]
    torch.testing.assert_close(scores, torch.stack(reference), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("max_rows", [1, 2, 32])
def test_shared_prefixes_repeats_and_row_limit(max_rows: int):
    model = tiny_model("llama")
    prompt = [5, 6, 7]
    continuations = [[8], [8, 9], [8, 9, 10], [8, 9, 11], [8, 9], [12, 8, 9, 10, 11, 12], [12, 9], [8, 10, 9]]
    for got, tokens in zip(continuation_logprobs(model, prompt, continuations, max_rows), continuations, strict=True):
        torch.testing.assert_close(got, naive(model, prompt, tokens), atol=1e-5, rtol=0)


def test_all_continuations_of_two_tokens_sum_to_one():
    model = tiny_model("gpt2", vocab_size=9)
    pairs = [list(pair) for pair in itertools.product(range(9), repeat=2)]
    total = sum(float(values.sum().exp()) for values in continuation_logprobs(model, [1, 2, 3], pairs))
    assert total == pytest.approx(1, abs=1e-5)


def test_one_token_continuations_need_no_second_pass(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model("llama")
    calls = []
    monkeypatch.setattr(model, "forward", lambda *a, f=model.forward, **k: (calls.append(1), f(*a, **k))[1])
    continuation_logprobs(model, [5, 6], [[7], [8], [9]])
    assert len(calls) == 1
    continuation_logprobs(model, [5, 6], [[7], [8, 9]])
    assert len(calls) == 3


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_batch_equals_one_by_one(shape: str):
    model, tokenizer = tiny_model(shape), tiny_tokenizer()
    items = []
    for seed in range(7):
        name, tasks = (("ab", ["copy_a", "add"]), ("word", ["copy", "upper", "first"]))[seed % 2]
        rng = np.random.default_rng(seed)
        prompt = MixturePrompt.build(family(name), tasks, [1 / len(tasks)] * len(tasks), 4, rng)
        items.append((prompt.text, prompt.answers))
    together = answer_logprobs_batch(model, tokenizer, items, "\n", batch_size=3)
    for (text, answers), scores in zip(items, together, strict=True):
        torch.testing.assert_close(scores, answer_logprobs(model, tokenizer, text, answers, "\n"), atol=1e-5, rtol=0)


def test_cached_contexts_stay_usable():
    model = tiny_model("gemma3")
    ids = torch.randint(3, 90, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last, cache = prefill(model, ids)
    continuations = [[[5, 6], [7]], [], [[8, 9, 10]]]
    first = cached_continuation_logprobs(model, last, cache, continuations)
    again = cached_continuation_logprobs(model, last, cache, continuations)
    assert [len(group) for group in first] == [2, 0, 1]
    for row, group in enumerate(continuations):
        for tokens, one, two in zip(group, first[row], again[row], strict=True):
            torch.testing.assert_close(one, naive(model, ids[row].tolist(), tokens), atol=1e-5, rtol=0)
            assert torch.equal(one, two)
    with torch.no_grad():
        assert extend(model, cache, ids[:, :2]).shape[:2] == (3, 2)
    with pytest.raises(InputError, match="continuations has 1 lists; the cache has 3 rows"):
        cached_continuation_logprobs(model, last, cache, [[[5]]])


def test_scores_can_enter_a_gradient():
    scores = answer_logprobs(tiny_model("llama"), tiny_tokenizer(), PROMPT, ANSWERS[:2])
    weight = torch.ones(2, requires_grad=True)
    (weight * scores).sum().backward()
    assert torch.equal(weight.grad, scores)


def test_terminator_makes_prefixes_disjoint():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    answers = ["1", "10", "100"]
    open_end = answer_logprobs(model, tokenizer, "2->", answers)
    closed = answer_logprobs(model, tokenizer, "2->", answers, "\n")
    assert bool((open_end[:-1] > open_end[1:]).all())
    assert bool((closed < open_end).all())
    assert float(closed.exp().sum()) <= 1


def test_boundary_that_merges_is_warned_about():
    model = tiny_model("llama", vocab_size=8)
    tokenizer = merging_tokenizer()
    with pytest.warns(TokenBoundaryWarning, match="not a prefix"):
        scores = answer_scores(model, tokenizer, "xa", ["b", "c"])
    assert scores.tokens == ((4,), (5,))
    torch.testing.assert_close(scores.token_logprobs[0], naive(model, [6, 3], [4]), atol=1e-5, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer_scores(model, tokenizer, "xc", ["ab", "c"]).tokens == ((7,), (5,))


def test_special_tokens_stand_before_the_prompt_only():
    model = tiny_model("llama", vocab_size=8)
    for tokenizer in (merging_tokenizer(bos=True), merging_tokenizer(bos=True, eos=True)):
        assert encode(tokenizer, "xc") == [0, 6, 5]
        assert encode(tokenizer, "")[:1] == [0]
        scores = answer_scores(model, tokenizer, "xc", ["ab"], "\n")
        assert scores.tokens == ((7, 2),)
        torch.testing.assert_close(scores.token_logprobs[0], naive(model, [0, 6, 5], [7, 2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "answers is empty"),
        (["lamp", "x", "lamp"], "'lamp' and 'lamp', which are the same tokens"),
        (["lamp", ""], "'', which has no tokens"),
    ],
)
def test_bad_answers(answers: list[str], message: str):
    for terminator in (None, "\n"):
        with pytest.raises(InputError, match=message):
            answer_logprobs(tiny_model("llama"), tiny_tokenizer(), PROMPT, answers, terminator)


def test_answer_of_unknown_characters_has_no_tokens():
    # This tokenizer knows no "q" and has no token for the unknown.
    with pytest.raises(InputError, match="'qq', which has no tokens"):
        answer_logprobs(tiny_model("llama", vocab_size=8), merging_tokenizer(), "xc", ["ab", "qq"], "\n")


def test_too_long_is_refused_before_running(monkeypatch: pytest.MonkeyPatch):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    assert len(answer_logprobs(model, tokenizer, "a" * (CONTEXT - 2), ["bc"])) == 1
    monkeypatch.setattr(model, "forward", None)
    with pytest.raises(InputError, match=f"prompt has {CONTEXT - 1} tokens and its longest continuation 2.*{CONTEXT}"):
        answer_logprobs_batch(model, tokenizer, [("a", ["b"]), ("a" * (CONTEXT - 1), ["bc"])])


def test_other_bad_input():
    model = tiny_model("llama")
    with pytest.raises(InputError, match="prompt has no tokens"):
        answer_logprobs(model, tiny_tokenizer(), "", ["a"])
    with pytest.raises(InputError, match="a continuation has no tokens"):
        continuation_logprobs(model, [5], [[6], []])
    with pytest.raises(InputError, match="batch_size is 0"):
        continuation_logprobs_batch(model, [([5], [[6]])], batch_size=0)
