"""The choice of tokens: right distributions, and every row on its own."""

import pytest
import torch

from superpose.errors import InputError
from superpose.serving import Sampling
from superpose.serving.sampling import CANDIDATES, RowSampler, choose


def logits(rows=3, vocabulary=1000, seed=0):
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def sampler(**options):
    return RowSampler(Sampling(10, **options))


def test_temperature_zero_is_the_most_probable_token():
    x = logits()
    tokens, valid = choose(x, [sampler(temperature=0.0)] * 3)
    assert tokens.equal(x.argmax(-1))
    assert valid.all()


def test_frequencies_follow_temperature():
    x = torch.tensor([[0.0, 1.0, 2.0]])
    row = sampler(temperature=0.7, seed=1)
    drawn = torch.stack([choose(x, [row])[0] for _ in range(4000)])
    found = torch.bincount(drawn[:, 0], minlength=3) / len(drawn)
    assert torch.allclose(found, (x[0] / 0.7).softmax(-1), atol=0.03)


@pytest.mark.parametrize("vocabulary", [5, 20 * CANDIDATES])
def test_top_p_keeps_the_smallest_set_with_that_much_probability(vocabulary):
    x = logits(1, vocabulary) / 10
    for top_p in (0.05, 0.5, 0.95):
        order = x[0].double().softmax(-1).sort(descending=True)
        kept = set(order.indices[: int((order.values.cumsum(-1) < top_p).sum()) + 1].tolist())
        row = sampler(top_p=top_p, seed=0)
        drawn = {int(choose(x, [row])[0]) for _ in range(200)}
        assert drawn <= kept
        assert len(drawn) > 1 or len(kept) < 4


def test_a_tiny_top_p_or_temperature_is_greedy_and_finite():
    x = logits()
    for options in ({"top_p": 1e-9}, {"temperature": 1e-8}):
        assert choose(x, [sampler(**options)] * 3)[0].equal(x.argmax(-1))


def test_a_seed_gives_the_same_tokens_in_whatever_batch():
    x = logits(4)
    settings = [{"seed": 5}, {"seed": 5, "top_p": 0.8}, {"seed": 7, "temperature": 2.0}, {"temperature": 0.0}]
    together = [sampler(**each) for each in settings]
    alone = [sampler(**each) for each in settings]
    for step in range(20):
        x = logits(4, seed=step)
        expected = [int(choose(x[i : i + 1], [row])[0]) for i, row in enumerate(alone)]
        assert choose(x, together)[0].tolist() == expected


def test_no_seed_differs_from_time_to_time():
    x = torch.zeros(1, 1000)
    assert len({int(choose(x, [sampler()])[0]) for _ in range(20)}) > 5


def test_a_seed_beyond_64_bits_is_taken():
    x = torch.zeros(1, 1000)
    assert [int(choose(x, [sampler(seed=seed)])[0]) for seed in (10**30, 10**30, -1)][0:2] == [
        int(choose(x, [sampler(seed=10**30)])[0])
    ] * 2


def test_rows_of_broken_logits_are_named_and_leave_the_others_alone():
    x = logits()
    x[1, 5] = float("nan")
    tokens, valid = choose(x, [sampler(seed=1), sampler(seed=2), sampler(temperature=0.0)])
    assert valid.tolist() == [True, False, True]
    assert tokens[2] == x[2].argmax()
    banned = logits()
    banned[0, 7:] = -float("inf")
    assert int(choose(banned, [sampler(seed=3)] * 3)[0][0]) < 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 1, "temperature": -1.0}, "temperature is -1.0"),
        ({"max_tokens": 1, "temperature": float("nan")}, "temperature is nan"),
        ({"max_tokens": 1, "top_p": 0.0}, "top_p is 0.0"),
        ({"max_tokens": 1, "stop": ("",)}, "stop holds an empty string"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Sampling(**options)
