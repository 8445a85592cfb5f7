import numpy as np
import pytest

from superpose.errors import InputError
from superpose.interpret import answer_logprobs, family, mixture_prompts, score_mixture, top_strings
from tiny import tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama"), tiny_tokenizer()


def prompts(proportions, count=3):
    return mixture_prompts(family("word"), ["copy", "upper"], proportions, demonstrations=4, prompts=count, seed=0)


def test_prompts_of_every_mixture_share_their_words():
    for one, other in zip(prompts([1, 0]), prompts([0.25, 0.75]), strict=True):
        assert one.query == other.query
        assert one.text.lower() == other.text.lower()


def test_scores_are_those_of_the_single_prompts():
    drawn = prompts([0.5, 0.5])
    scores = score_mixture(MODEL, TOKENIZER, drawn)
    for row, prompt in zip(scores.logprob, drawn, strict=True):
        alone = answer_logprobs(MODEL, TOKENIZER, prompt.text, prompt.answers, terminator="\n")
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-5)
    assert scores.proportions.tolist() == [0.5, 0.5]
    assert (scores.first_logprob >= scores.logprob).all()
    assert scores.completed is None


def test_first_tokens_that_agree_are_told_apart_from_those_that_do_not():
    pair = mixture_prompts(family("word"), ["copy", "first"], [0.5, 0.5], demonstrations=3, prompts=2, seed=0)
    assert not score_mixture(MODEL, TOKENIZER, pair).distinct_first.any()  # "river" and "r", a token a character
    assert score_mixture(MODEL, TOKENIZER, prompts([0.5, 0.5])).distinct_first.all()


def test_completed_tasks_are_those_among_the_top_strings():
    drawn = mixture_prompts(family("word"), ["first", "last"], [0.5, 0.5], demonstrations=3, prompts=2, seed=1)
    scores = score_mixture(MODEL, TOKENIZER, drawn, search_budget=3000)
    for row, prompt, logprob in zip(scores.completed, drawn, scores.logprob, strict=True):
        top = top_strings(MODEL, TOKENIZER, prompt.text, 2, max_expansions=3000)
        if top.complete:
            assert row.tolist() == [float(p >= top.logprobs[-1] - 1e-4) for p in logprob]
        else:
            assert np.isnan(row).all() or set(row) <= {0.0, 1.0}


def test_no_prompts_and_a_search_without_terminator_are_refused():
    with pytest.raises(InputError, match="prompts is 0"):
        prompts([0.5, 0.5], count=0)
    with pytest.raises(InputError, match="prompts is empty"):
        score_mixture(MODEL, TOKENIZER, [])
    with pytest.raises(InputError, match="terminator is None"):
        score_mixture(MODEL, TOKENIZER, prompts([0.5, 0.5]), terminator=None, search_budget=5)
