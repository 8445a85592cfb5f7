"""Episodes of a task as a torch dataset, for a `DataLoader` and trainers that want one."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .checks import whole
from .episode import Task


class EpisodeStream(IterableDataset):
    """An endless stream of batches ``(inputs, targets)`` of a task: ``DataLoader(stream, batch_size=None)``.

    Batch i is the same whichever worker draws it, and the workers of a loader share the batches among them.

    Args:
        task: draws the episodes.
        batch: episodes per batch.
        seed: of the whole stream.

    Raises:
        InputError: batch below 1, or seed below 0.
    """

    def __init__(self, task: Task, batch: int = 64, seed: int = 0):
        self.task = task
        self.batch = whole("batch", batch, 1)
        self.seed = whole("seed", seed, 0)

    def __iter__(
        self,
    ) -> Iterator[
        tuple[
            Float[Tensor, "batch pos dim"] | Int[Tensor, "batch pos"],
            Float[Tensor, "batch reads out"] | Int[Tensor, "batch reads"],
        ]
    ]:
        """Draw batch after batch; worker k of m draws k, k + m, k + 2m, ..."""
        worker = get_worker_info()
        index, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            mixed = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)
            # The sign bit stays clear because manual_seed treats larger values as negative seeds.
            episodes = self.task.sample(self.batch, torch.Generator().manual_seed(int(mixed[0]) >> 1))
            yield episodes.inputs, episodes.targets
            index += stride
