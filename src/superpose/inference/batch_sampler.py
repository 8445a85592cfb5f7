"""Batches of similar length for offline jobs, as a sampler for ``DataLoader``.

sampler = MultiBinBatchSampler(predicted_lengths, batch_size=8, bins=4)
for batch in DataLoader(prompts, batch_sampler=sampler): ...
"""

from collections.abc import Iterator

import torch
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from superpose.errors import InputError
from superpose.inference.bins import assign_bins, quantile_edges
from superpose.theory.batching import checked_edges, checked_lengths


class MultiBinBatchSampler(Sampler[list[int]]):
    """Yield batches of indices, each from one bin of predicted lengths, in the order in which they are filled.

    With one bin it is torch's ``BatchSampler``. Unlike samplers that group by the length of the input, the lengths
    here are those that the answers are expected to have.

    Args:
        predicted_lengths: one per item of the dataset.
        batch_size: items per batch, B.
        bins: number of equal-mass bins; ignored where ``edges`` are given.
        edges: of the bins, in the unit of the predictions.
        shuffle: go through the items in a new random order every time.
        generator: of that order; default: torch's own.
        drop_last: leave out the items of the last, unfilled batch of every bin.

    Raises:
        InputError: no items, lengths that are none, counts below 1, edges that do not increase.
    """

    def __init__(
        self,
        predicted_lengths: ArrayLike,
        batch_size: int,
        bins: int = 4,
        *,
        edges: ArrayLike | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; allowed: 1 or more")
        lengths = checked_lengths(predicted_lengths, "predicted_lengths")
        self.edges = quantile_edges(lengths, bins) if edges is None else checked_edges(edges)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator
        self.drop_last = drop_last
        self._bins = torch.from_numpy(assign_bins(lengths, self.edges)).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self._bins)
        items = torch.randperm(count, generator=self.generator).tolist() if self.shuffle else range(count)
        waiting: list[list[int]] = [[] for _ in range(len(self.edges) - 1)]
        for item in items:
            batch = waiting[self._bins[item]]
            batch.append(item)
            if len(batch) == self.batch_size:
                waiting[self._bins[item]] = []
                yield batch
        if not self.drop_last:
            yield from filter(None, waiting)

    def __len__(self) -> int:
        sizes = torch.bincount(torch.tensor(self._bins), minlength=len(self.edges) - 1)
        extra = 0 if self.drop_last else self.batch_size - 1
        return int(((sizes + extra) // self.batch_size).sum())
