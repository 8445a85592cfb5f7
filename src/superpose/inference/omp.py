"""Orthogonal matching pursuit: a vector as a combination of a few atoms of a dictionary, many vectors at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from superpose.errors import InputError

# On CPUs a chunk that stays in the processor's cache is a quarter to a third faster; elsewhere fewer launches count.
CHUNK_BYTES = {"cpu": 8 * 2**20}
CHUNK_BYTES_ELSEWHERE = 256 * 2**20
UNIT_TOLERANCE = 0.02  # of an atom's norm: what rounding the dictionary to bfloat16 may change
_FLAT = 1e-6  # a relative residual that float32 cannot tell from nothing
_STRIPES = 32


@dataclass(frozen=True)
class Codes:
    """Sparse codes of some vectors: which atoms, how much of each.

    Attributes:
        indices: the atoms in the order in which they were chosen; 0 in unused slots.
        coefficients: how much of each; 0 in unused slots.
        counts: used slots per vector.
    """

    indices: Int[Tensor, "*vectors sparsity"]
    coefficients: Float[Tensor, "*vectors sparsity"]
    counts: Int[Tensor, "*vectors"]

    def decode(self, dictionary: Float[Tensor, "*stack dim atoms"]) -> Float[Tensor, "*vectors dim"]:
        """Return the vectors that the codes stand for, in the dictionary's dtype.

        Args:
            dictionary: one for all vectors, or for codes of a stack (`omp_stack`) a stack of the same length.
        """
        *stack, dim, atoms = dictionary.shape
        indices = self.indices.long()
        if stack:
            indices = indices + atoms * torch.arange(stack[0], device=indices.device)[:, None, None]
        rows = dictionary.transpose(-1, -2).reshape(-1, dim)
        weights = self.coefficients.to(rows.dtype)
        sparsity = indices.shape[-1]
        # A bag sums the weighted rows as it reads them: no [vectors, sparsity, dim] in between.
        summed = functional.embedding_bag(
            indices.reshape(-1, sparsity), rows, per_sample_weights=weights.reshape(-1, sparsity), mode="sum"
        )
        return summed.reshape(*indices.shape[:-1], dim)


def omp(
    x: Float[Tensor, "vectors x_dim"],
    dictionary: Float[Tensor, "dim atoms"],
    sparsity: int,
    tol: float | None = None,
    gram: Float[Tensor, "rows columns"] | None = None,
    chunk_bytes: int | None = None,
) -> Codes:
    """Code vectors by orthogonal matching pursuit (Pati et al. 1993; in Lexico, arXiv 2412.08890).

    Atom by atom: the one that correlates most with the residual joins, then all coefficients are the least
    squares fit to the chosen atoms. Work is float32 whatever the input is. No atom is chosen twice; a vector
    stops early where its residual is nothing to float32 (a vector of zeros has an empty code). Beside one row of
    correlations per vector the workspace is ``vectors * sparsity * (dim + sparsity)`` numbers.

    Args:
        x: vectors of any length, on the dictionary's device.
        dictionary: unit-norm columns.
        sparsity: atoms per vector, at most; at most ``dim`` and ``atoms``.
        tol: stop at a residual norm of ``tol`` times the vector's norm; default: always use ``sparsity`` atoms.
        gram: ``dictionary.T @ dictionary``, if at hand: correlations then come from its rows instead of a product
            with the dictionary, at the price of ``atoms ** 2`` numbers.
        chunk_bytes: memory for the correlations; more vectors are coded in several goes (default: 8 MiB on CPUs,
            256 MiB on accelerators).

    Returns:
        Codes in float32, on the device of ``x``.

    Raises:
        InputError: shapes that do not fit, ``sparsity`` or ``tol`` out of range, atoms that are not of unit norm,
            NaN or infinity in ``x`` or ``dictionary``.
    """
    if x.ndim != 2 or dictionary.ndim != 2:
        raise InputError(
            f"x has shape {tuple(x.shape)} and dictionary {tuple(dictionary.shape)};"
            " allowed: [vectors, dim] and [dim, atoms]"
        )
    stacked = omp_stack(x[None], dictionary[None], sparsity, tol, None if gram is None else gram[None], chunk_bytes)
    return Codes(stacked.indices[0], stacked.coefficients[0], stacked.counts[0])


@torch.no_grad()
def omp_stack(
    x: Float[Tensor, "x_stack vectors x_dim"],
    dictionaries: Float[Tensor, "stack dim atoms"],
    sparsity: int,
    tol: float | None = None,
    gram: Float[Tensor, "stack rows columns"] | None = None,
    chunk_bytes: int | None = None,
) -> Codes:
    """`omp` with several dictionaries at once, each for its own vectors; arguments and errors as there."""
    stack, vectors, _ = x.shape
    atoms = dictionaries.shape[-1]
    _check(x, dictionaries, sparsity, tol, gram, chunk_bytes)
    dictionaries = dictionaries.float()
    rows = dictionaries.transpose(-1, -2).contiguous()
    gram = None if gram is None else gram.float()
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES_ELSEWHERE)
    step = max(1, chunk_bytes // (4 * stack * atoms))
    chunks = [_pursue(x[:, at : at + step].float(), rows, sparsity, tol, gram) for at in range(0, vectors, step)]
    if not chunks:
        empty = x.new_zeros((stack, 0, sparsity), dtype=torch.float32)
        return Codes(empty.long(), empty, empty[..., 0].long())
    indices, coefficients, counts = (torch.cat(parts, dim=1) for parts in zip(*chunks, strict=True))
    return Codes(indices, coefficients, counts)


def _check(
    x: Tensor, dictionaries: Tensor, sparsity: int, tol: float | None, gram: Tensor | None, chunk_bytes: int | None
) -> None:
    stack, dim, atoms = dictionaries.shape
    if x.shape[0] != stack or x.shape[-1] != dim:
        raise InputError(f"x has vectors of dim {x.shape[-1]}; this dictionary has dim {dim}")
    if isinstance(sparsity, bool) or not 1 <= sparsity <= min(dim, atoms):
        raise InputError(f"sparsity is {sparsity!r}; allowed: 1 to {min(dim, atoms)} (dim {dim}, {atoms} atoms)")
    if tol is not None and not 0 <= tol < 1:
        raise InputError(f"tol is {tol}; allowed: a relative residual norm in [0, 1), or None")
    if gram is not None and gram.shape != (stack, atoms, atoms):
        raise InputError(f"gram has shape {tuple(gram.shape[1:])}; this dictionary needs ({atoms}, {atoms})")
    if chunk_bytes is not None and chunk_bytes < 1:
        raise InputError(f"chunk_bytes is {chunk_bytes}; it must be >= 1")
    if not bool(torch.isfinite(x).all()):
        raise InputError("x has a NaN or an infinity; allowed: finite numbers")
    off = (torch.linalg.vector_norm(dictionaries, dim=1, dtype=torch.float32) - 1).abs().max()
    if not bool(off <= UNIT_TOLERANCE):
        raise InputError(f"dictionary has an atom whose norm is {float(off):.3g} off 1; allowed: unit-norm columns")


def _pursue(
    x: Float[Tensor, "stack vectors dim"],
    rows: Float[Tensor, "stack atoms dim"],
    sparsity: int,
    tol: float | None,
    gram: Float[Tensor, "stack atoms atoms"] | None,
) -> tuple[
    Int[Tensor, "stack vectors sparsity"], Float[Tensor, "stack vectors sparsity"], Int[Tensor, "stack vectors"]
]:
    # The chosen atoms are kept orthonormalised (a QR decomposition that grows by a column): the residual then
    # needs no solve, and stays exact where the difference of Gram terms would drown in rounding.
    stack, vectors, dim = x.shape
    atoms = rows.shape[1]
    total = stack * vectors
    x = x.reshape(total, dim)
    offsets = (atoms * torch.arange(stack, device=x.device)).repeat_interleave(vectors)
    flat_rows = rows.view(-1, dim)
    indices = torch.zeros(total, sparsity, dtype=torch.long, device=x.device)
    weights = x.new_zeros(total, sparsity)
    counts = torch.zeros(total, dtype=torch.long, device=x.device)
    basis = x.new_zeros(total, sparsity, dim)
    inverse = x.new_zeros(total, sparsity, sparsity)  # column k: atom k of the basis in terms of the chosen atoms
    norm = torch.linalg.vector_norm(x, dim=-1)
    floor = norm * max(_FLAT, tol or 0.0)
    residual = x.clone()
    active = norm > 0
    gram = None if gram is None else gram.reshape(-1, atoms)
    start = _correlate(x, rows)
    for k in range(sparsity):
        if not bool(active.any()):
            break
        if k == 0:
            score = start if gram is None else start.clone()
        elif gram is None:
            score = _correlate(residual, rows)
        else:
            score = functional.embedding_bag(
                indices[:, :k] + offsets[:, None], gram, per_sample_weights=-weights[:, :k], mode="sum"
            ).add_(start)
        chosen = _largest(score.abs_().scatter_(1, indices[:, :k], -1.0) if k else score.abs_())
        rest = flat_rows.index_select(0, chosen + offsets)
        before = basis[:, :k]
        along = x.new_zeros(total, k)
        # Two passes: one alone leaves a new column visibly oblique when it is nearly in the span.
        for _ in range(2 if k else 0):
            # Products and sums, not bmm: that is several times slower on CPUs for such thin matrices.
            more = (before * rest[:, None]).sum(-1)
            rest = rest - (before * more[..., None]).sum(1)
            along += more
        height = torch.linalg.vector_norm(rest, dim=-1)
        active = active & (height > _FLAT)
        scale = torch.where(active, 1 / height.clamp(min=_FLAT), 0.0)
        column = scale[:, None] * rest
        amount = (column * residual).sum(-1)
        residual = residual - amount[:, None] * column
        basis[:, k] = column
        inverse[:, :k, k] = -scale[:, None] * (inverse[:, :k, :k] * along[:, None]).sum(-1)
        inverse[:, k, k] = scale
        weights[:, : k + 1] += amount[:, None] * inverse[:, : k + 1, k]
        indices[:, k] = torch.where(active, chosen, 0)
        counts += active
        active = active & (torch.linalg.vector_norm(residual, dim=-1) > floor)
    shape = (stack, vectors, sparsity)
    return indices.view(shape), weights.view(shape), counts.view(stack, vectors)


def _correlate(x: Float[Tensor, "total dim"], rows: Float[Tensor, "stack atoms dim"]) -> Float[Tensor, "total atoms"]:
    stack, atoms, dim = rows.shape
    return torch.bmm(x.view(stack, -1, dim), rows.transpose(1, 2)).view(-1, atoms)


def _largest(score: Float[Tensor, "total atoms"]) -> Int[Tensor, " total"]:
    """Where each row is largest."""
    total, atoms = score.shape
    if score.is_cuda or atoms % _STRIPES:
        return score.argmax(-1)
    # On CPUs torch's argmax is scalar code, its amax is not: find the column of the largest first.
    stripes = score.view(total, _STRIPES, -1)
    column = stripes.amax(1).argmax(-1)
    stripe = stripes[torch.arange(total), :, column].argmax(-1)
    return stripe * stripes.shape[-1] + column
