"""Matching pursuit against scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp_gram
from torch.nn import functional

from superpose.errors import InputError
from superpose.inference.omp import Codes, omp, omp_stack


def _problem(vectors: int, dim: int, atoms: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dictionary = functional.normalize(torch.randn(dim, atoms, generator=generator), dim=0)
    scales = torch.logspace(-3, 3, vectors)[:, None]
    return scales * torch.randn(vectors, dim, generator=generator), dictionary


@pytest.mark.parametrize("with_gram", [False, True])
@pytest.mark.parametrize(("dim", "atoms", "sparsity"), [(16, 96, 6), (24, 100, 1), (8, 8, 8)])
def test_equals_scikit_learn(dim: int, atoms: int, sparsity: int, with_gram: bool):
    x, dictionary = _problem(40, dim, atoms)
    gram = dictionary.T @ dictionary
    codes = omp(x, dictionary, sparsity, gram=gram if with_gram else None)
    exact = dictionary.double().numpy()
    reference = np.asarray(
        orthogonal_mp_gram(exact.T @ exact, exact.T @ x.double().numpy().T, n_nonzero_coefs=sparsity)
    ).T
    dense = torch.zeros(len(x), atoms).scatter_(1, codes.indices, codes.coefficients).numpy()
    assert ((dense != 0) == (reference != 0)).all()
    assert (np.abs(dense - reference) <= 1e-4 * np.abs(reference).max(1, keepdims=True)).all()
    assert (codes.counts == sparsity).all()


@pytest.mark.parametrize("with_gram", [False, True])
def test_tolerance_stops_at_the_first_sufficient_atom(with_gram: bool):
    x, dictionary = _problem(60, 16, 96)
    gram = dictionary.T @ dictionary if with_gram else None
    codes = omp(x, dictionary, 12, tol=0.3, gram=gram)
    error = _relative(x, codes, dictionary)
    reached = codes.counts < 12
    assert reached.any() and (error[reached] <= 0.3).all()
    for row in range(0, 60, 7):
        count = int(codes.counts[row])
        assert (codes.coefficients[row, count:] == 0).all() and (codes.indices[row, count:] == 0).all()
        one_less = omp(x[row : row + 1], dictionary, max(1, count - 1))
        assert count == 1 or _relative(x[row : row + 1], one_less, dictionary)[0] > 0.3


def _relative(x: torch.Tensor, codes: Codes, dictionary: torch.Tensor) -> torch.Tensor:
    return (x - codes.decode(dictionary)).norm(dim=-1) / x.norm(dim=-1)


def test_full_sparsity_is_exact():
    x, dictionary = _problem(20, 16, 16)
    assert _relative(x, omp(x, dictionary, 16), dictionary).max() < 1e-5


@pytest.mark.parametrize("with_gram", [False, True])
def test_true_atoms_end_early_and_zeros_have_no_code(with_gram: bool):
    _, dictionary = _problem(1, 16, 64)
    x = torch.stack([torch.zeros(16), 3 * dictionary[:, 5], -2 * dictionary[:, 9]])
    codes = omp(x, dictionary, 8, gram=dictionary.T @ dictionary if with_gram else None)
    assert codes.counts.tolist() == [0, 1, 1]
    assert codes.indices[:, 0].tolist() == [0, 5, 9]
    torch.testing.assert_close(codes.coefficients[:, 0], torch.tensor([0.0, 3.0, -2.0]))
    assert not codes.coefficients[:, 1:].any() and not codes.indices[:, 1:].any()


def test_no_atom_twice_with_repeated_atoms():
    x, half = _problem(30, 12, 6)
    dictionary = torch.cat([half, half, half], dim=1)
    codes = omp(x, dictionary, 12)
    assert (codes.counts <= 6).all() and torch.isfinite(codes.coefficients).all()
    for row, count in zip(codes.indices, codes.counts, strict=True):
        assert len(set((row[:count] % 6).tolist())) == count


def test_chunks_and_stacks_change_nothing():
    x, dictionary = _problem(33, 16, 96)
    other, second = _problem(33, 16, 96, seed=1)
    whole = omp(x, dictionary, 4)
    chunked = omp(x, dictionary, 4, chunk_bytes=5 * 96 * 4)
    stacked = omp_stack(torch.stack([x, other]), torch.stack([dictionary, second]), 4)
    assert torch.equal(chunked.indices, whole.indices)
    torch.testing.assert_close(chunked.coefficients, whole.coefficients)
    assert torch.equal(stacked.indices[0], whole.indices)
    assert torch.equal(stacked.indices[1], omp(other, second, 4).indices)
    torch.testing.assert_close(
        stacked.decode(torch.stack([dictionary, second])),
        torch.stack([whole.decode(dictionary), omp(other, second, 4).decode(second)]),
    )


def test_decode_is_the_weighted_sum_and_has_a_gradient():
    x, dictionary = _problem(9, 16, 32)
    codes = omp(x, dictionary, 3)
    leaf = dictionary.clone().requires_grad_()
    decoded = codes.decode(leaf)
    torch.testing.assert_close(decoded, torch.einsum("vs,dvs->vd", codes.coefficients, dictionary[:, codes.indices]))
    decoded.sum().backward()
    wanted = torch.zeros(32).index_add_(0, codes.indices.flatten(), codes.coefficients.flatten())
    torch.testing.assert_close(leaf.grad, wanted.expand(16, 32))


def test_half_precision_input_is_coded_in_float32():
    x, dictionary = _problem(20, 16, 96)
    codes = omp(x.bfloat16(), dictionary, 4)
    assert codes.coefficients.dtype == torch.float32
    assert torch.equal(codes.indices, omp(x.bfloat16().float(), dictionary, 4).indices)


def test_no_vectors_no_codes():
    _, dictionary = _problem(1, 16, 96)
    assert omp(torch.zeros(0, 16), dictionary, 4).indices.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 0}, "sparsity is 0; allowed: 1 to 16"),
        ({"sparsity": 17}, "sparsity is 17"),
        ({"tol": -0.1}, "tol is -0.1"),
        ({"tol": 1.0}, "tol is 1.0"),
        ({"chunk_bytes": 0}, "chunk_bytes is 0"),
        ({"gram": torch.eye(16)}, r"gram has shape \(16, 16\)"),
        ({"x": torch.full((2, 16), float("nan"))}, "x has a NaN"),
        ({"x": torch.ones(2, 15)}, "x has vectors of dim 15"),
        ({"dictionary": torch.ones(16, 96)}, "norm is 3 off 1"),
        ({"dictionary": torch.full((16, 96), float("nan"))}, "norm is nan off 1"),
    ],
)
def test_bad_input(change: dict, message: str):
    x, dictionary = _problem(2, 16, 96)
    with pytest.raises(InputError, match=message):
        omp(**{"x": x, "dictionary": dictionary, "sparsity": 4, **change})
