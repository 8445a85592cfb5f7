"""The record of a training run, and the end of one that stopped being finite."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from superpose.errors import InputError


@dataclass(frozen=True)
class History:
    """What a training run did, one entry per step.

    Args:
        steps: index of the step, from 0.
        losses: the loss before that step's update, mean over its micro-batches.
        seconds: training time at the end of the step since the start: CPU seconds of this process on a CPU, wall
            seconds elsewhere; checkpoints and ``on_step`` are not counted.
        lr: the learning rate of the first parameter group.
        logged: the scalars that the loss function returned beside the loss.
    """

    steps: Int64[np.ndarray, " steps"]
    losses: Float64[np.ndarray, " steps"]
    seconds: Float64[np.ndarray, " steps"]
    lr: Float64[np.ndarray, " steps"]
    logged: dict[str, Float64[np.ndarray, " steps"]] = field(default_factory=dict)

    def arrays(self) -> dict[str, Any]:
        """The history as a plain dict of arrays, as a study's step returns it."""
        return asdict(self)


class TrainingDiverged(ArithmeticError):
    """A loss or a parameter stopped being finite.

    Attributes:
        step: the step (from 0) whose loss was not finite, or after which a parameter was not finite.
        seed: the seed of the run.
        checkpoint: the last good checkpoint, or None.
        logged: the scalars that were logged with the loss.
    """

    def __init__(
        self, step: int, seed: int, what: str, checkpoint: Path | None, logged: dict[str, float] | None = None
    ) -> None:
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"
        super().__init__(f"training diverged at step {step} (seed {seed}): {what}; {kept}")
        self.step, self.seed, self.what, self.checkpoint = step, seed, what, checkpoint
        self.logged = logged or {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their message alone otherwise, and this one has to leave worker processes.
        return type(self), (self.step, self.seed, self.what, self.checkpoint, self.logged)


class NotFinite(ArithmeticError):
    """A recorded loss that is not finite; the loop adds the seed and the checkpoint."""

    def __init__(self, step: int, loss: float, logged: dict[str, float]) -> None:
        super().__init__(f"the loss is {loss}")
        self.step, self.logged = step, logged


class Recorder:
    """Collects a history without waiting for the device at every step.

    Args:
        unread: how many losses may stay on the device before they are read; 1 on a CPU.
    """

    def __init__(self, unread: int) -> None:
        self._unread = unread
        self._waiting: list[Tensor] = []
        self._names: tuple[str, ...] | None = None
        self._values: list[list[float]] = []
        self._seconds: list[float] = []
        self._lr: list[float] = []

    def note(self, loss: Tensor, logged: dict[str, Tensor], lr: float) -> None:
        """Record one step before its update.

        Raises:
            InputError: the names of the logged scalars changed between two steps.
            NotFinite: a loss that was read now is not finite.
        """
        names = tuple(sorted(logged))
        if self._names is None:
            self._names = names
        elif names != self._names:
            raise InputError(f"loss_fn logged {names}; the steps before logged {self._names}")
        scalars = [loss.double(), *(logged[name].to(loss.device).double() for name in names)]
        self._waiting.append(torch.stack(scalars))
        self._lr.append(lr)
        if len(self._waiting) >= self._unread:
            self.read()

    def time(self, elapsed: float) -> None:
        """Record when the step ended."""
        self._seconds.append(elapsed)

    def read(self) -> None:
        """Bring the waiting losses to the host."""
        if not self._waiting:
            return
        rows = torch.stack(self._waiting).tolist()
        self._waiting.clear()
        for row in rows:
            if not math.isfinite(row[0]):
                raise NotFinite(len(self._values), row[0], dict(zip(self._names or (), row[1:], strict=True)))
            self._values.append(row)

    def tensors(self) -> dict[str, Tensor]:
        """The history so far, for a checkpoint."""
        columns = {"loss": [row[0] for row in self._values], "seconds": self._seconds, "lr": self._lr}
        for place, name in enumerate(self._names or (), start=1):
            columns[f"logged/{name}"] = [row[place] for row in self._values]
        return {f"history/{name}": torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        columns = {k.removeprefix("history/"): v for k, v in tensors.items() if k.startswith("history/")}
        names = sorted(k.removeprefix("logged/") for k in columns if k.startswith("logged/"))
        self._names = tuple(names)
        rows = [columns["loss"], *(columns[f"logged/{name}"] for name in names)]
        self._values = torch.stack(rows, 1).tolist()
        self._seconds, self._lr = columns["seconds"].tolist(), columns["lr"].tolist()

    def history(self) -> History:
        """Everything recorded."""
        self.read()
        columns = {key.removeprefix("history/"): value.numpy() for key, value in self.tensors().items()}
        return History(
            steps=np.arange(len(self._values)),
            losses=columns.pop("loss"),
            seconds=columns.pop("seconds"),
            lr=columns.pop("lr"),
            logged={name.removeprefix("logged/"): column for name, column in columns.items()},
        )
