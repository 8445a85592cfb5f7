import itertools
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from superpose.errors import InputError
from superpose.interpret import TopStrings, continuation_logprobs, top_strings
from tiny import CONTEXT, tiny_model, tiny_tokenizer

TOKENS = ["<pad>", "<eos>", "\n", "a", "b", "c", "ab", "a\n"]
NEWLINE = 2
DEPTH = 4


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Eight tokens: two specials, the newline, letters, "ab" (also a + b), and one that contains a newline."""
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(TOKENS)}, merges=[]))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def brute_force(model: PreTrainedModel, prompt: list[int]) -> dict[str, float]:
    """Text -> log-probability of its best path followed by a newline, for all paths of up to DEPTH tokens."""
    found: dict[str, float] = {}
    for length in range(DEPTH + 1):
        paths = list(itertools.product([3, 4, 5, 6], repeat=length))
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *path, NEWLINE] for path in paths])
            logprobs = model(input_ids=ids).logits.log_softmax(-1)
        steps = logprobs[:, len(prompt) - 1 : -1].gather(2, ids[:, len(prompt) :, None]).sum((1, 2))
        for path, logprob in zip(paths, steps.tolist(), strict=True):
            text = "".join(TOKENS[token] for token in path)
            found[text] = max(found.get(text, -math.inf), logprob)
    return found


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force(shape: str, seed: int, batch_size: int):
    model = tiny_model(shape, vocab_size=8, seed=seed)
    expected = sorted(brute_force(model, [3, 5, 4]).items(), key=lambda item: -item[1])
    top = top_strings(model, small_tokenizer(), "acb", 3, max_tokens=DEPTH, batch_size=batch_size)
    # Whatever is listed is proven; where longer strings might come first the search must say so.
    assert top.complete == (len(top.strings) == 3)
    proven = len(top.strings)
    assert top.strings == tuple(text for text, _ in expected[:proven])
    assert top.logprobs == pytest.approx([logprob for _, logprob in expected[:proven]], abs=1e-5)
    assert expected[proven][1] <= top.bound + 1e-5


def test_the_cases_above_are_not_all_cut_off():
    tops = [
        top_strings(tiny_model("llama", vocab_size=8, seed=seed), small_tokenizer(), "acb", 3, max_tokens=DEPTH)
        for seed in range(6)
    ]
    assert any(top.complete for top in tops)


def test_order_mass_and_bounds():
    top = top_strings(tiny_model("llama", vocab_size=8, seed=1), small_tokenizer(), "acb", 5)
    assert top.complete
    assert len(set(top.strings)) == 5
    assert list(top.logprobs) == sorted(top.logprobs, reverse=True)
    assert sum(map(math.exp, top.logprobs)) <= 1
    assert top.bound <= top.logprobs[-1]
    assert top.kth_bounds(2) == (top.logprobs[1], top.logprobs[1])


def test_probabilities_are_those_of_the_scorer():
    model = tiny_model("qwen3", vocab_size=8, seed=1)
    top = top_strings(model, small_tokenizer(), "acb", 3)
    assert len(top.strings) == 3
    scores = continuation_logprobs(model, [3, 5, 4], [[*path, NEWLINE] for path in top.tokens])
    assert [float(values.sum()) for values in scores] == pytest.approx(list(top.logprobs), abs=1e-5)


def test_two_paths_of_one_text_are_listed_once():
    model = tiny_model("llama", vocab_size=8)
    # All logits equal: every path of n tokens and its newline has probability 8^-(n+1).
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    top = top_strings(model, small_tokenizer(), "c", 7, max_expansions=400)
    assert top.strings[0] == ""
    assert set(top.strings[1:5]) == {"a", "b", "c", "ab"}
    assert "ab" not in top.strings[5:]
    assert top.logprobs == pytest.approx([-math.log(8)] + [-2 * math.log(8)] * 4 + [-3 * math.log(8)] * 2, abs=1e-5)
    assert not any("\n" in text or "<" in text for text in top.strings)


@pytest.mark.parametrize("limits", [{"max_expansions": 5}, {"max_tokens": 1}])
def test_over_budget_says_so(limits: dict[str, int]):
    model = tiny_model("llama", vocab_size=8)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    top = top_strings(model, small_tokenizer(), "c", 20, **limits)
    assert top.budget_exceeded
    assert not top.complete
    assert 1 <= len(top.strings) < 20
    assert top.expansions <= 5
    assert top.logprobs[0] == pytest.approx(-math.log(8), abs=1e-5)
    lower, upper = top.kth_bounds(20)
    assert lower < upper == top.bound


def test_kth_bounds_use_what_was_found():
    top = TopStrings(("a",), (-1.0,), ((3,),), True, 9, -1.5, (-2.0, -4.0))
    assert top.kth_bounds(1) == (-1.0, -1.0)
    assert top.kth_bounds(2) == (-2.0, -1.5)
    assert top.kth_bounds(4) == (-math.inf, -1.5)
    with pytest.raises(InputError, match="k is 0"):
        top.kth_bounds(0)


def test_bad_input():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    with pytest.raises(InputError, match=r"terminator is '\\n\\n', which is 2 tokens"):
        top_strings(model, tokenizer, "a->", 1, terminator="\n\n")
    with pytest.raises(InputError, match="terminator is '', which is 0 tokens"):
        top_strings(model, tokenizer, "a->", 1, terminator="")
    for name in ("k", "max_expansions", "max_tokens", "batch_size"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            top_strings(model, tokenizer, "a->", **{"k": 1, name: 0})
    with pytest.raises(InputError, match=f"prompt has {CONTEXT} tokens"):
        top_strings(model, tokenizer, "a" * CONTEXT, 1)
    with pytest.raises(InputError, match="prompt has no tokens"):
        top_strings(model, tokenizer, "", 1)
