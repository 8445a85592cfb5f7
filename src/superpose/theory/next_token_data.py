"""Pairs of a prompt and the token that followed it, checked once, in the three forms that the theory needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from superpose.errors import InputError, choose

MISSING_LABEL = ("raise", "drop")


@dataclass(frozen=True)
class NextTokenData:
    """Prompts over a vocabulary and their next tokens; make it by :meth:`from_sequences`.

    Attributes:
        sequences: token ids of each prompt, of any length from 1; the last one is the query.
        labels: the token that followed each prompt; it occurs in the prompt.
        vocab_size: number of tokens.
        kept: index of each prompt among those that were given.
    """

    sequences: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    vocab_size: int
    kept: tuple[int, ...]

    @classmethod
    def from_sequences(
        cls,
        sequences: Iterable[Iterable[int]] | Tensor,
        labels: Iterable[int] | Tensor,
        vocab_size: int,
        *,
        mask: Bool[Tensor, "samples length"] | None = None,
        missing_label: str = "raise",
    ) -> "NextTokenData":
        """Check prompts and labels.

        Args:
            sequences: lists of token ids, of equal length or not, or one matrix of them.
            labels: the token that followed each prompt.
            vocab_size: number of tokens, at least 2.
            mask: for a matrix with padding: False where it is.
            missing_label: what to do with a prompt that does not hold its label, to which the layer can only give
                probability 0: ``"raise"`` an error or ``"drop"`` the prompt.

        Raises:
            InputError: no prompt, an empty one, ids or labels that are no whole numbers or outside the vocabulary,
                counts that differ, a label that is not in its prompt.
        """
        choose("missing_label", missing_label, MISSING_LABEL)
        rows = checked_sequences(sequences, vocab_size, mask=mask)
        given = labels.tolist() if isinstance(labels, Tensor) else labels
        wanted = [_id(f"labels[{at}]", label) for at, label in enumerate(given)]
        if len(wanted) != len(rows):
            raise InputError(f"labels has {len(wanted)} entries for {len(rows)} sequences; allowed: one of each")
        kept = []
        for at, (row, label) in enumerate(zip(rows, wanted, strict=True)):
            if not 0 <= label < vocab_size:
                raise InputError(f"labels[{at}] is {label}; allowed: 0 to {vocab_size - 1}")
            if label in row:
                kept.append(at)
            elif missing_label == "raise":
                raise InputError(
                    f"labels[{at}] is {label}, which is not in its sequence {list(row)}; allowed: a token of the "
                    "sequence, or missing_label='drop'"
                )
        if not kept:
            raise InputError("labels: no sequence holds its label; allowed: at least one that does")
        return cls(tuple(rows[i] for i in kept), tuple(wanted[i] for i in kept), vocab_size, tuple(kept))

    def __len__(self) -> int:
        return len(self.sequences)

    @cached_property
    def counts(self) -> Int[Tensor, "samples vocabulary"]:
        """How often each token occurs in each prompt."""
        return token_counts(self.sequences, self.vocab_size)

    @cached_property
    def last(self) -> Int[Tensor, " samples"]:
        """The last token of each prompt."""
        return torch.tensor([row[-1] for row in self.sequences])

    @cached_property
    def targets(self) -> Int[Tensor, " samples"]:
        """The labels as a tensor."""
        return torch.tensor(self.labels)

    def padded(self) -> tuple[Int[Tensor, "samples length"], Bool[Tensor, "samples length"]]:
        """The prompts as a matrix padded on the right, and the mask that is False at the padding."""
        return padded(self.sequences)


def checked_sequences(
    sequences: Iterable[Iterable[int]] | Tensor, vocab_size: int, *, mask: Bool[Tensor, "samples length"] | None = None
) -> list[tuple[int, ...]]:
    """Prompts as tuples of ids.

    Raises:
        InputError: a vocabulary of fewer than 2 tokens, no prompt, an empty one, an id that is no whole number or
            outside the vocabulary, a mask of another shape.
    """
    if vocab_size < 2:
        raise InputError(f"vocab_size is {vocab_size}; allowed: at least 2 tokens")
    if isinstance(sequences, Tensor):
        if sequences.ndim != 2:
            raise InputError(
                f"sequences has shape {tuple(sequences.shape)}; allowed: [samples, length], or lists of ids"
            )
        sequences = sequences.tolist()
    rows = [tuple(_id(f"sequences[{at}]", token) for token in row) for at, row in enumerate(sequences)]
    if mask is not None:
        shape = (len(rows), len(rows[0]) if rows else 0)
        if tuple(mask.shape) != shape or any(len(row) != shape[1] for row in rows):
            raise InputError(f"mask has shape {tuple(mask.shape)}; allowed: that of sequences, one matrix")
        rows = [
            tuple(token for token, keep in zip(row, kept, strict=True) if keep)
            for row, kept in zip(rows, mask.tolist(), strict=True)
        ]
    if not rows:
        raise InputError("sequences is empty; allowed: at least one")
    for at, row in enumerate(rows):
        if not row:
            raise InputError(f"sequences[{at}] is empty; allowed: at least one token")
        wrong = [token for token in row if not 0 <= token < vocab_size]
        if wrong:
            raise InputError(f"sequences[{at}] holds the token {wrong[0]}; allowed: 0 to {vocab_size - 1}")
    return rows


def _id(argument: str, token: object) -> int:
    """A token's id: what Python takes for an index, and nothing that would have to be rounded."""
    try:
        return index(token)  # type: ignore[arg-type]  # refuses everything else itself
    except TypeError as error:
        raise InputError(f"{argument} holds {token!r}; allowed: whole numbers, the ids of tokens") from error


def token_counts(sequences: Sequence[Sequence[int]], vocab_size: int) -> Int[Tensor, "samples vocabulary"]:
    """How often each token occurs in each sequence."""
    return torch.stack([torch.bincount(torch.tensor(row), minlength=vocab_size) for row in sequences])


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "samples length"], Bool[Tensor, "samples length"]]:
    """Sequences as a matrix padded with 0 on the right, and the mask that is False at the padding."""
    lengths = torch.tensor([len(row) for row in sequences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ids[mask] = torch.tensor([token for row in sequences for token in row])
    return ids, mask
