import itertools

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import bigram_transitions, check_transitions, smooth_transitions, stationary_law


def random_chain(tokens, seed=0):
    p = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p / p.sum(1, keepdim=True)


def test_stationary_law_is_where_powers_of_the_chain_end():
    chains = torch.stack([random_chain(5, seed) for seed in range(3)])
    powers = torch.linalg.matrix_power(chains, 200)[:, 0]
    torch.testing.assert_close(stationary_law(chains), powers)


def test_a_periodic_chain_has_a_stationary_law_too():
    flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(stationary_law(flip), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_bigrams_are_counted_and_smoothed():
    text = [0, 1, 1, 2, 0, 1, 0]
    counts = torch.ones(3, 3, dtype=torch.float64)
    for before, after in itertools.pairwise(text):
        counts[before, after] += 1
    torch.testing.assert_close(bigram_transitions(text, 3), counts / counts.sum(1, keepdim=True))
    exact = bigram_transitions(torch.tensor(text), 3, smoothing=0)
    torch.testing.assert_close(exact[2], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_smoothing_keeps_rows_and_lifts_zeros():
    p = smooth_transitions(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), 0.1)
    torch.testing.assert_close(p, torch.tensor([[0.95, 0.05], [0.5, 0.5]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], "row 0 that sums to 0.9"),
        ([[1.5, -0.5], [0.5, 0.5]], "negative"),
        ([[float("nan"), 1.0], [0.5, 0.5]], "infinite"),
        ([[1.0]], "1 tokens; allowed: at least 2"),
        ([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], "shape"),
    ],
)
def test_what_is_no_transition_matrix_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        check_transitions(torch.tensor(rows))


def test_zeros_are_refused_only_where_weights_need_positive_ones():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(check_transitions(p), p.double())
    with pytest.raises(InputError, match=r"transitions\[0, 1\] is 0.*smooth_transitions"):
        check_transitions(p, positive=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stationary_law(torch.eye(2)), "more than one stationary law"),
        (lambda: smooth_transitions(torch.eye(2), 0.0), "share is 0.0"),
        (lambda: bigram_transitions([0], 2), "ids has 1 tokens"),
        (lambda: bigram_transitions([0, 0], 1), "vocabulary of 1"),
        (lambda: bigram_transitions([0, 3], 2), "from 0 to 3; allowed: 0 to 1"),
        (lambda: bigram_transitions([0, 1], 2, smoothing=-1), "smoothing is -1"),
        (lambda: bigram_transitions([0, 1], 2, smoothing=0), "nothing follows token 1"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
