"""The far part of a Lexico cache: keys and values of one layer as sparse codes over that layer's dictionaries."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from superpose.errors import InputError, choose
from superpose.inference.lexico_codes import (
    COEFFICIENT_BYTES,
    COUNT_BYTES,
    INDEX_BYTES,
    MAX_ATOMS,
    SCALE_BYTES,
    CodedVectors,
    FixedCodes,
    RaggedCodes,
)
from superpose.inference.omp import Codes, omp


@dataclass(frozen=True)
class LexicoSettings:
    """How a `LexicoCache` stores what has left its exact window (arXiv 2412.08890).

    Attributes:
        key_sparsity: atoms per key, at most; independent of the sparsity that the dictionaries were trained with.
        value_sparsity: atoms per value, at most; values are harder than keys.
        tol: stop at this relative residual norm, so that the number of atoms varies; default: always all atoms.
        buffer: most recent tokens that stay exact between two calls (the paper's ``n_b``, default 128 as there).
        block: tokens coded together while decoding (``n_a``, default 32 as in the official configuration).
        coefficients: how they are stored: fp8 (e4m3, clamped at 448; the paper's), int8 with one float16 scale per
            vector, fp16 or fp32.
        skip_layers: layers whose cache stays exact, 0-based.
        adaptive: most atoms that a session may add to each dictionary, per row of the batch; default: none.
        adaptive_error: relative error above which a vector, normalised, becomes an atom of its session.
        keep_first: first tokens of the sequence that stay exact for ever (the paper: 0). With left padding these
            are the padding.
    """

    key_sparsity: int = 8
    value_sparsity: int = 8
    tol: float | None = None
    buffer: int = 128
    block: int = 32
    coefficients: str = "fp8"
    skip_layers: tuple[int, ...] = ()
    adaptive: int = 0
    adaptive_error: float = 0.5
    keep_first: int = 0

    def __post_init__(self):
        choose("coefficients", self.coefficients, COEFFICIENT_BYTES)
        for name, low, high in (
            ("key_sparsity", 1, 255),
            ("value_sparsity", 1, 255),
            ("buffer", 0, None),
            ("block", 1, max(1, self.buffer)),
            ("adaptive", 0, MAX_ATOMS),
            ("keep_first", 0, None),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
                limit = "" if high is None else f" to {high}" + (" (the buffer)" if name == "block" else "")
                raise InputError(f"{name} is {value!r}; allowed: a whole number, {low}{limit or ' or more'}")
        for name in ("tol", "adaptive_error"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name} is {value}; allowed: a relative error in [0, 1)")

    def vector_bytes(self, sparsity: int) -> int:
        """Return the bytes of one coded vector with so many atoms, counted as in the paper: ``3 s + 2`` for fp8.

        Two bytes of row offset are counted although the fixed layout has none; int8 adds its scale.
        """
        scale = SCALE_BYTES if self.coefficients == "int8" else 0
        return sparsity * (INDEX_BYTES + COEFFICIENT_BYTES[self.coefficients]) + 2 + scale

    def layout_bytes(self, sparsity: int) -> int:
        """Return the bytes of one coded vector as held here: no offset; one count where `tol` is given."""
        count = 0 if self.tol is None else COUNT_BYTES
        return self.vector_bytes(sparsity) - 2 + count

    def far_fraction(self, head_dim: int) -> float:
        """Return the paper's bytes of a coded key and value over those of two float16 vectors."""
        return (self.vector_bytes(self.key_sparsity) + self.vector_bytes(self.value_sparsity)) / (4 * head_dim)


class CodedStates:
    """The keys, or the values, of one layer: codes, the shared dictionary and the session's own atoms.

    Args:
        atoms: the dictionary, one atom per row, float32, shared between all caches of a model.
        sparsity: atoms per vector, at most.
        settings: everything else.
    """

    def __init__(self, atoms: Float[Tensor, "atoms dim"], sparsity: int, settings: LexicoSettings):
        self.shared, self.sparsity, self.settings = atoms, sparsity, settings
        self.clear()

    def clear(self) -> None:
        """Forget all codes and all atoms of the session."""
        settings = self.settings
        fixed = settings.tol is None
        self.codes: CodedVectors = (
            FixedCodes(self.sparsity, settings.coefficients) if fixed else RaggedCodes(settings.coefficients)
        )
        self.extra: Tensor | None = None  # [batch, adaptive, dim], filled from the front
        self.used: list[int] = []

    def table(self) -> Float[Tensor, "one_or_batch atoms dim"]:
        """Return the atoms that codes index: the shared ones, then each row's own."""
        if self.extra is None:
            return self.shared[None]
        return torch.cat([self.shared.expand(len(self.extra), -1, -1), self.extra.float()], dim=1)

    def append(self, states: Float[Tensor, "batch heads tokens dim"]) -> None:
        """Code new tokens and keep the codes."""
        batch, heads, tokens, _ = states.shape
        if not self.settings.adaptive:
            flat = states.reshape(-1, states.shape[-1]).float()
            self.codes.append(omp(flat, self.shared.T, self.sparsity, self.settings.tol), batch, heads)
            return
        # Atoms that one block adds are there for the next; prompts go block by block too.
        for start in range(0, tokens, self.settings.block):
            self._append_adaptively(states[:, :, start : start + self.settings.block])

    def _append_adaptively(self, states: Float[Tensor, "batch heads tokens dim"]) -> None:
        batch, heads, _, dim = states.shape
        if self.extra is None:
            self.extra = states.new_zeros(batch, self.settings.adaptive, dim)
            self.used = [0] * batch
        parts = [self._code_row(row, states[row]) for row in range(batch)]
        indices, coefficients, counts = (torch.cat(part) for part in zip(*parts, strict=True))
        self.codes.append(Codes(indices, coefficients, counts), batch, heads)

    def _code_row(
        self, row: int, states: Float[Tensor, "heads tokens dim"]
    ) -> tuple[Int[Tensor, "vectors sparsity"], Float[Tensor, "vectors sparsity"], Int[Tensor, " vectors"]]:
        if self.extra is None:
            raise RuntimeError("the session has no atoms of its own")
        flat = states.flatten(0, 1).float()
        own = self.extra[row, : self.used[row]].float()
        dictionary = torch.cat([self.shared, own]).T
        codes = omp(flat, dictionary, self.sparsity, self.settings.tol)
        norms = torch.linalg.vector_norm(flat, dim=-1)
        residual = torch.linalg.vector_norm(flat - codes.decode(dictionary), dim=-1)
        # Oldest token first, whatever its head: the room goes to whoever comes first.
        poor = (residual > self.settings.adaptive_error * norms).view(states.shape[:2])
        token, head = poor.T.nonzero(as_tuple=True)
        chosen = (head * states.shape[1] + token)[: self.settings.adaptive - self.used[row]]
        if len(chosen):
            places = self.used[row] + torch.arange(len(chosen), device=flat.device)
            self.extra[row, places] = (flat[chosen] / norms[chosen, None]).to(self.extra.dtype)
            self.used[row] += len(chosen)
            for tensor in (codes.indices, codes.coefficients):
                tensor[chosen] = 0
            codes.indices[chosen, 0] = (len(self.shared) + places).to(codes.indices.dtype)
            codes.coefficients[chosen, 0] = norms[chosen].to(codes.coefficients.dtype)
            codes.counts[chosen] = 1
        return codes.indices, codes.coefficients, codes.counts

    def read(self) -> Float[Tensor, "batch heads tokens dim"]:
        """Return all vectors, reconstructed, in float32."""
        return self.codes.decode(self.table())

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch with their own atoms."""
        self.codes.select(rows)
        if self.extra is not None:
            self.extra = self.extra.index_select(0, rows)
            self.used = [self.used[row] for row in rows.tolist()]

    def to(self, device: torch.device | str) -> None:
        """Move codes and own atoms to a device; the shared dictionary stays."""
        self.codes.to(device)
        self.extra = None if self.extra is None else self.extra.to(device)


class LexicoStore:
    """A `FarStore` of sparse codes: what `LexicoCache` puts behind each layer's exact window.

    Args:
        key_atoms: the layer's key dictionary, one atom per row, float32.
        value_atoms: the layer's value dictionary.
        settings: sparsity and layout.
    """

    granularity = 1

    def __init__(
        self, key_atoms: Float[Tensor, "atoms dim"], value_atoms: Float[Tensor, "atoms dim"], settings: LexicoSettings
    ):
        self.keys = CodedStates(key_atoms, settings.key_sparsity, settings)
        self.values = CodedStates(value_atoms, settings.value_sparsity, settings)
        self.dtype = torch.float32

    @property
    def tokens(self) -> int:
        """How many tokens per row are coded."""
        return self.keys.codes.tokens

    def append(
        self, keys: Float[Tensor, "batch heads tokens dim"], values: Float[Tensor, "batch heads tokens dim"]
    ) -> None:
        """Code tokens, oldest first."""
        self.dtype = keys.dtype
        self.keys.append(keys)
        self.values.append(values)

    def read(
        self,
    ) -> tuple[Float[Tensor, "batch heads tokens dim"], Float[Tensor, "batch heads tokens dim"]]:
        """Return all keys and values, reconstructed."""
        return self.keys.read().to(self.dtype), self.values.read().to(self.dtype)

    def crop(self, count: int) -> None:
        """Forget the newest coded tokens; atoms that they added stay."""
        self.keys.codes.crop(count)
        self.values.codes.crop(count)

    def snapshot(self) -> "LexicoStore":
        """Return the store as it is now; it shares all memory and does not see what is appended later."""
        frozen = copy.copy(self)
        frozen.keys, frozen.values = copy.copy(self.keys), copy.copy(self.values)
        for states in (frozen.keys, frozen.values):
            states.codes = copy.copy(states.codes)
        return frozen

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch."""
        self.keys.select(rows)
        self.values.select(rows)

    def clear(self) -> None:
        """Forget everything."""
        self.keys.clear()
        self.values.clear()

    def to(self, device: torch.device | str) -> None:
        """Move the codes to a device."""
        self.keys.to(device)
        self.values.to(device)
