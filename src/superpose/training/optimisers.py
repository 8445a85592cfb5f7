"""Optimiser settings as data, built fused where torch has the kernel."""

from dataclasses import dataclass
from typing import Any

import torch

from superpose.errors import InputError, choose

NAMES = ("adamw", "adam", "sgd")


@dataclass(frozen=True)
class Optimiser:
    """Which optimiser, with which settings.

    Args:
        name: ``adamw`` (decoupled weight decay), ``adam`` or ``sgd``.
        lr: the learning rate that a schedule's factor multiplies; a parameter group's own ``lr`` replaces it.
        betas: the decay rates of Adam's two moments.
        eps: Adam's term in the denominator.
        weight_decay: 0 by default, as all in-context-learning runs of the papers here have it.
        momentum: of ``sgd`` only.

    Raises:
        InputError: a value outside its range.
    """

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        choose("name", self.name, NAMES)
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr}; it must be > 0")
        for beta in (*self.betas, self.momentum):
            if not 0 <= beta < 1:
                raise InputError(f"betas is {self.betas} and momentum {self.momentum}; each must be in [0, 1)")
        if self.eps < 0 or self.weight_decay < 0:
            raise InputError(f"eps is {self.eps} and weight_decay {self.weight_decay}; both must be >= 0")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimiser over parameter groups."""
        parameters = [p for group in groups for p in group["params"]]
        # One fused kernel is 3 to 7 times faster than the per-operation loop on a CPU too.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        if self.name == "sgd":
            return torch.optim.SGD(
                groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
            )
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused)
