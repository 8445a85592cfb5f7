"""Factored attention against attention over reconstructed keys and values, on random codes."""

import pytest
import torch
from torch.nn import functional

from superpose.errors import InputError
from superpose.inference.lexico_attention import factored_attention
from superpose.inference.lexico_codes import FixedCodes, RaggedCodes, load_indices, narrow, store_indices, widen
from superpose.inference.lexico_store import LexicoSettings, LexicoStore
from superpose.inference.omp import Codes
from superpose.models.kv_cache import overflow, stored_tokens, use_attention
from tiny import tiny_model


def atoms(count: int, dim: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "settings", [LexicoSettings(6, 8), LexicoSettings(6, 8, tol=0.5), LexicoSettings(6, 8, adaptive=16)]
)
def test_equals_attention_over_reconstructed_states(groups, queries, masked, settings):
    generator = torch.Generator().manual_seed(0)
    batch, heads, dim, tokens, near, first = 2, 3, 64, 200, 20, 2
    store = LexicoStore(atoms(256, dim, 1), atoms(256, dim, 2), settings)
    store.append(*(torch.randn(2, batch, heads, tokens, dim, generator=generator)))
    keys, values = torch.randn(2, batch, heads, near, dim, generator=generator)
    query = torch.randn(batch, heads * groups, queries, dim, generator=generator)
    mask = torch.rand(batch, 1, queries, near + tokens, generator=generator) < 0.7 if masked else None
    far_keys, far_values = store.read()
    expected = functional.scaled_dot_product_attention(
        query,
        torch.cat([keys[:, :, :first], far_keys, keys[:, :, first:]], 2),
        torch.cat([values[:, :, :first], far_values, values[:, :, first:]], 2),
        attn_mask=mask,
        enable_gqa=True,
    )
    got = factored_attention(query, keys, values, store, first, mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def random_codes(batch: int, heads: int, tokens: int, sparsity: int, count: int) -> Codes:
    vectors = batch * heads * tokens
    counts = torch.randint(0, sparsity + 1, (vectors,))
    used = torch.arange(sparsity) < counts[:, None]
    indices = torch.randint(0, count, (vectors, sparsity)) * used
    return Codes(indices, torch.randn(vectors, sparsity) * used, counts)


@pytest.mark.parametrize("kind", ["fp8", "int8", "fp16", "fp32"])
def test_both_layouts_hold_the_same_vectors(kind):
    torch.manual_seed(0)
    table = atoms(40, 8, 0)[None]
    fixed, ragged = FixedCodes(5, kind), RaggedCodes(kind)
    for tokens in (4, 1, 6):
        codes = random_codes(3, 2, tokens, 5, 40)
        for held in (fixed, ragged):
            held.append(codes, 3, 2)
    torch.testing.assert_close(fixed.decode(table), ragged.decode(table), rtol=1e-5, atol=1e-6)
    for held in (fixed, ragged):
        held.select(torch.tensor([2, 2, 0]))
        held.crop(3)
    torch.testing.assert_close(fixed.decode(table), ragged.decode(table), rtol=1e-5, atol=1e-6)
    scores, weights = torch.randn(3, 2, 40, 4), torch.randn(3, 2, 4, 8)
    torch.testing.assert_close(fixed.pick(scores), ragged.pick(scores), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fixed.pour(weights, 40), ragged.pour(weights, 40), rtol=1e-5, atol=1e-5)
    # pour is the transpose of pick.
    paired = (fixed.pick(scores) * weights).sum(), (fixed.pour(weights, 40).transpose(2, 3) * scores).sum()
    torch.testing.assert_close(*paired, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "error"), [("fp8", 2**-4), ("int8", 1 / 127), ("fp16", 2**-11), ("fp32", 0.0)])
def test_coefficients_are_rounded_by_no_more_than_their_type(kind, error):
    x = torch.rand(50, 8) * 100 + 1
    stored, scale = narrow(x, kind)
    back = widen(stored) * (1 if scale is None else scale.float())
    largest = x.amax(-1, keepdim=True) if kind == "int8" else x
    assert ((back - x).abs() <= error * largest).all()
    if kind == "fp8":
        torch.testing.assert_close(back, x.to(torch.float8_e4m3fn).float(), rtol=0, atol=0)
        assert widen(narrow(torch.tensor([[1e6, -1e6]]), kind)[0]).tolist() == [[448.0, -448.0]]


def test_indices_survive_16_bits():
    indices = torch.tensor([0, 1, 32767, 32768, 65535])
    assert torch.equal(load_indices(store_indices(indices), 2**16), indices.int())
    assert torch.equal(load_indices(store_indices(indices[:3]), 2**15), indices[:3].int())


@pytest.mark.parametrize("prompt", [1, 4, 5, 17])
@pytest.mark.parametrize(("window", "block", "granularity"), [(4, 1, 1), (4, 3, 1), (8, 8, 4)])
def test_the_closed_form_counts_what_leaves_the_window(prompt, window, block, granularity):
    exact = prompt - overflow(prompt, 2, window, block, granularity)
    far = prompt - exact
    for step in range(30):
        assert far == stored_tokens(step, prompt, window, block, granularity)
        assert int(stored_tokens(torch.tensor(step), prompt, window, block, granularity)) == far
        leaving = overflow(exact + 1, 1, window, block, granularity)
        exact, far = exact + 1 - leaving, far + leaving
        assert 0 <= exact <= window


def test_an_attention_function_sees_causal_masks_and_is_taken_back():
    model = tiny_model("qwen2")
    tokens = torch.randint(3, 90, (2, 12))
    seen = []

    def attend(layer, query, keys, values, mask, scaling):
        seen.append((layer, None if mask is None else tuple(mask.shape)))
        return functional.scaled_dot_product_attention(query, keys, values, mask, scale=scaling, enable_gqa=True)

    with torch.inference_mode():
        expected = model(tokens).logits
        with use_attention(model, attend):
            got = model(tokens).logits
        again = model(tokens).logits
    assert seen == [(layer, (2, 1, 12, 12)) for layer in range(3)]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_attention_that_is_not_plain_softmax_is_refused():
    model = tiny_model("llama", attention_dropout=0.5).train()
    with use_attention(model, lambda *arguments: arguments[1]), pytest.raises(InputError, match=r"dropout is 0\.5"):
        model(torch.randint(3, 90, (1, 5)))
