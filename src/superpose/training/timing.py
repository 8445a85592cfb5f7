"""What an update costs."""

import time
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from superpose.errors import InputError

from .episodes import InContextTask, device_of
from .incontext import train_in_context

_WARM_UP = 3  # the first update allocates, and the next ones still find cold caches


def seconds_per_update(learner: nn.Module, task: InContextTask, *, updates: int, **settings: Any) -> float:
    """The median training time of an update: CPU seconds on a CPU, wall seconds on an accelerator.

    Args:
        learner: trained in place, on its device.
        task: as in :func:`superpose.training.train_in_context`.
        updates: that count; three more warm up.
        settings: further arguments of ``train_in_context``; the seed is 0.

    Raises:
        InputError: ``updates`` below 1.
    """
    if updates < 1:
        raise InputError(f"updates is {updates}; allowed: 1 or more")
    on_cpu = device_of(learner).type == "cpu"
    ends: list[float] = []

    def ended(_: int) -> None:
        # The history does not wait for an accelerator's queue: there an update has ended when the queue is empty.
        if not on_cpu:
            torch.accelerator.synchronize()
            ends.append(time.perf_counter())

    history = train_in_context(learner, task, seed=0, steps=updates + _WARM_UP, on_step=ended, **settings)
    if on_cpu:
        ends = history.seconds.tolist()
    return median(later - earlier for earlier, later in pairwise(ends[_WARM_UP - 1 :]))
