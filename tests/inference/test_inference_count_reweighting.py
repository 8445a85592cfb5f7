import pytest
import torch
from transformers import LogitsProcessorList

from superpose.errors import InputError
from superpose.inference import CountReweightLogitsProcessor
from tiny import tiny_model

IDS = torch.tensor([[3, 3, 1, 3], [0, 1, 2, 2]])


def scores(dtype=torch.float32):
    return torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_zero_changes_nothing():
    assert torch.equal(CountReweightLogitsProcessor(0.0)(IDS, scores()), scores())


@pytest.mark.parametrize("gamma", [1.0, -0.5, 2.0])
def test_probabilities_are_multiplied_by_a_power_of_the_count(gamma):
    found = CountReweightLogitsProcessor(gamma)(IDS, scores()).softmax(-1)
    counts = torch.tensor([[1, 1, 1, 3, 1, 1], [1, 1, 2, 1, 1, 1.0]])  # absent tokens as those that occur once
    expected = scores().softmax(-1) * counts**gamma
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))


def test_strict_leaves_only_tokens_of_the_context():
    found = CountReweightLogitsProcessor(0.0, strict=True)(IDS, scores())
    held = torch.tensor([[0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0]]).bool()
    assert torch.equal(found[held], scores()[held]) and (found[~held] == -torch.inf).all()


def test_ignored_tokens_keep_their_score():
    found = CountReweightLogitsProcessor(1.0, strict=True, ignore=(3, 5, 99))(IDS, scores())
    assert torch.equal(found[:, [3, 5]], scores()[:, [3, 5]]) and (found[:, 4] == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_stays_and_the_input_is_not_changed(dtype):
    given = scores(dtype)
    found = CountReweightLogitsProcessor(1.0, ignore=(3,))(IDS, given)
    assert found.dtype == dtype and torch.equal(given, scores(dtype))


def test_a_language_model_repeats_itself_more_with_counts_and_less_against_them():
    model = tiny_model("llama")
    prompt = torch.arange(5, 13)[None].expand(16, -1)

    def different(gamma):
        torch.manual_seed(0)
        processors = LogitsProcessorList([CountReweightLogitsProcessor(gamma)])
        out = model.generate(prompt, max_new_tokens=48, min_new_tokens=48, do_sample=True, logits_processor=processors)
        return sum(len(row.unique()) for row in out[:, 8:])

    assert different(6.0) < different(0.0) < different(-6.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": float("nan")}, "gamma is nan"), ({"gamma": float("inf")}, "gamma"), ({"ignore": (-1,)}, "ignore is")],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CountReweightLogitsProcessor(**options)
