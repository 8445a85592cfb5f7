"""The sampler for offline jobs: every item once, one bin per batch, and torch's own sampler with one bin."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from superpose.errors import InputError
from superpose.inference import MultiBinBatchSampler, assign_bins


@pytest.fixture
def lengths():
    return np.random.default_rng(0).lognormal(4, 0.5, 103)


@pytest.mark.parametrize("drop_last", [False, True])
def test_with_one_bin_it_is_torchs_batch_sampler(lengths, drop_last):
    torch_sampler = BatchSampler(SequentialSampler(range(103)), 8, drop_last)
    ours = MultiBinBatchSampler(lengths, 8, bins=1, drop_last=drop_last)
    assert list(ours) == list(torch_sampler)
    assert len(ours) == len(torch_sampler)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_item_comes_once_and_batches_hold_one_bin(lengths, shuffle, drop_last):
    sampler = MultiBinBatchSampler(lengths, 8, bins=4, shuffle=shuffle, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    items = [item for batch in batches for item in batch]
    assert len(items) == len(set(items))
    if not drop_last:
        assert sorted(items) == list(range(103))
    bins = assign_bins(lengths, sampler.edges)
    assert all(len(set(bins[batch])) == 1 for batch in batches)
    assert all(len(batch) == 8 for batch in batches[:-4])


def test_padding_shrinks(lengths):
    def steps(bins):
        return sum(lengths[batch].max() for batch in MultiBinBatchSampler(lengths, 4, bins))

    assert steps(4) < 0.85 * steps(1)


def test_shuffling_follows_the_generator_and_changes_with_every_pass(lengths):
    first, second = (
        MultiBinBatchSampler(lengths, 8, shuffle=True, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    a, b = list(first), list(second)
    assert a == b
    assert a != list(first)


def test_a_data_loader_takes_it(lengths):
    sampler = MultiBinBatchSampler(lengths, 8, edges=[0, 50, 1000])
    seen = torch.cat(list(DataLoader(torch.arange(103), batch_sampler=sampler)))
    assert sorted(seen.tolist()) == list(range(103))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 8), "predicted_lengths has shape"),
        (([1, math.nan], 8), r"predicted_lengths\[1\] is nan"),
        (([1, 2], 0), "batch_size is 0"),
        (([1, 2], 1, 0), "bins is 0"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        MultiBinBatchSampler(*arguments)
    with pytest.raises(InputError, match="edges is"):
        MultiBinBatchSampler([1, 2], 1, edges=[3, 1])
