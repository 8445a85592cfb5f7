"""What the study measures, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, model_validator

from superpose.experiment import StudyConfig

TRAIN, HOME, AWAY, FAR = "docs-train", "docs", "code", "licences"
"""Text that dictionaries are trained on; the same domain held out; two domains they have not seen."""
FRACTION = 0.25  # of the far part that eviction keeps: a little more than Lexico's bytes at s = 8

Count = Annotated[int, Field(ge=2, le=10_000_000)]
Sparsity = Annotated[int, Field(ge=1, le=255)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        model: the model that claims are judged on.
        other_models: further models for the errors of L2, each with its own dictionary; those not in the cache are
            left out, and the run says so.
        atoms: per dictionary; 16 times the head dimension (the paper: 4096 for 128, 32 times).
        more_atoms: further sizes for the error over the number of atoms in L1.
        train_windows, train_length: text that dictionaries are trained on, in tokens.
        train_vectors: of its keys, and of its values, so many per layer are kept.
        train_steps, train_batch, train_lr: updates, vectors per update and dictionary, Adam's learning rate.
        train_sparsity: atoms per vector while training.
        sparsities: atoms per vector in the sweeps, ascending.
        sparsity: atoms per vector where a claim names one operating point (20 % of float16 at 64 numbers per head).
        error_windows, error_length: held-out text for reconstruction errors.
        windows, length, start: held-out text for decoding; tokens before ``start`` are not scored.
        buffer, block: the exact window of every method that is compared, and how many tokens leave it together; L2 and
            L4 look at Lexico alone, with the same buffer, whose tokens leave one by one as in the paper's evaluation.
        group: numbers that share a scale in the quantised cache.
        copies, copy_tokens: sequences of the copying task, and random words in each.
        budget: total bytes over those of float16 in the sweep of sparsity against buffer (the paper's Table 5: 25 %).
        sweep: sparsities of that sweep, the largest with no buffer left.
        small_buffer: exact tokens that L8 takes away from a small and from the named sparsity.
        seeds: draws of the identity behind L7.
        dtype: of the models.
    """

    model: str = "smollm2-135m-instruct-q4_1"
    other_models: tuple[str, ...] = ()
    atoms: Annotated[int, Field(ge=2, le=65536)] = 1024
    more_atoms: tuple[Annotated[int, Field(ge=2, le=65536)], ...] = (256,)
    train_windows: Count = 48
    train_length: Count = 256
    train_vectors: Count = 24576
    train_steps: Annotated[int, Field(ge=1)] = 300
    train_batch: Count = 192
    train_lr: Annotated[float, Field(gt=0)] = 2e-3
    train_sparsity: Sparsity = 8
    sparsities: Annotated[tuple[Sparsity, ...], Field(min_length=2)] = (1, 2, 4, 8, 12)
    sparsity: Sparsity = 8
    error_windows: Count = 8
    error_length: Count = 128
    windows: Count = 8
    length: Count = 256
    start: Count = 64
    buffer: Annotated[int, Field(ge=1)] = 48
    block: Annotated[int, Field(ge=1)] = 32
    group: Annotated[int, Field(ge=1)] = 32
    copies: Count = 16
    copy_tokens: Count = 56
    budget: Annotated[float, Field(gt=0, lt=1)] = 0.25
    sweep: Annotated[tuple[Sparsity, ...], Field(min_length=3)] = (2, 4, 6, 8, 10)
    small_buffer: Annotated[int, Field(ge=1)] = 32
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for name in ("sparsities", "sweep"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} is {values}; allowed: ascending, each once")
        if self.sparsity not in self.sparsities or self.sparsities[0] == self.sparsity:
            raise ValueError(
                f"sparsity is {self.sparsity}; allowed: one of sparsities {self.sparsities}, not the first"
            )
        if self.block % self.group or self.block > self.buffer:
            raise ValueError(f"block is {self.block}; allowed: a multiple of group {self.group} up to {self.buffer}")
        if not self.buffer < self.start < self.length:
            raise ValueError(f"start is {self.start}; allowed: between buffer {self.buffer} and length {self.length}")
        return self
