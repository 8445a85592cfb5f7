"""Random generators that are a pure function of a seed, a purpose and a step."""

import zlib

import numpy as np
import torch

from superpose.errors import InputError


def seeded(seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one step of one purpose, so that no step depends on the draws of an earlier one.

    That is what makes exact resume possible, and what keeps training and evaluation data apart
    when both are given the same seed.

    Args:
        seed: the seed of the whole experiment, >= 0.
        purpose: what is drawn, for example ``"train"`` or ``"evaluate"``.
        step: index of the batch, >= 0.
        device: where the generator lives; draws on different devices differ.

    Raises:
        InputError: ``seed`` or ``step`` is negative.
    """
    for name, value in (("seed", seed), ("step", step)):
        if value < 0:
            raise InputError(f"{name} is {value}; it must be >= 0")
    mixed = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step]).generate_state(1, np.uint64)
    # The sign bit stays clear because manual_seed treats larger values as negative seeds.
    return torch.Generator(device=device).manual_seed(int(mixed[0]) >> 1)
