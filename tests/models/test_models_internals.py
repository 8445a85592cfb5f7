"""The contract of models/internals.py, on every supported model shape."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, StaticCache, T5Config, T5ForConditionalGeneration

from superpose.errors import InputError
from superpose.models import (
    capture_residuals,
    context_length,
    decoder_layers,
    extend,
    num_layers,
    patch_residual,
    prefill,
    repeat_cache,
    select_rows,
    width,
)
from tiny import CONTEXT, GEMMA_WINDOW, LAYERS, TINY_SHAPES, WIDTH, tiny_model

LENGTH = 2 * GEMMA_WINDOW + 5


@pytest.fixture(scope="module", params=TINY_SHAPES)
def model(request):
    torch.set_num_threads(1)
    return tiny_model(request.param)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


def ids(batch: int = 2, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 100, (batch, length), generator=torch.Generator().manual_seed(seed))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_sizes(model):
    assert (num_layers(model), width(model), context_length(model)) == (LAYERS, WIDTH, CONTEXT)
    assert len(decoder_layers(model)) == LAYERS


@pytest.mark.parametrize("position", [-1, 0, 7])
def test_captured_residuals_are_the_hidden_states(model, position):
    with capture_residuals(model, positions=position) as capture:
        output = model(ids(), output_hidden_states=True)
    assert capture.residuals.shape == (2, LAYERS, WIDTH)
    for layer in range(LAYERS - 1):
        expected = output.hidden_states[layer + 1][:, position]
        torch.testing.assert_close(capture.residuals[:, layer], expected, rtol=0, atol=0)
    # transformers gives the last state after the final norm; ours is before it, so the norm and head make logits.
    logits = model.get_output_embeddings()(final_norm(model)(capture.residuals[:, -1]))
    torch.testing.assert_close(logits, output.logits[:, position], rtol=1e-5, atol=1e-5)


def final_norm(model):
    decoder = model.get_decoder()
    for name in ("norm", "ln_f", "final_layer_norm"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    raise AssertionError("no final norm found")


def test_positions_per_row_and_chosen_layers(model):
    positions = torch.tensor([3, LENGTH - 2])
    with capture_residuals(model, layers=[2, 0], positions=positions) as capture:
        model(ids())
    for row, position in enumerate(positions.tolist()):
        with capture_residuals(model, positions=position) as single:
            model(ids())
        assert torch.equal(capture.residuals[row], single.residuals[row][[2, 0]])


def test_captured_copies_do_not_keep_the_whole_stream(model):
    with capture_residuals(model, layers=[0]) as capture:
        model(ids())
    assert capture._by_layer[0].untyped_storage().nbytes() == 2 * WIDTH * 4


@pytest.mark.parametrize("layer", range(LAYERS))
def test_patching_the_models_own_residual_changes_nothing(model, layer):
    with capture_residuals(model) as capture:
        before = model(ids()).logits
    with patch_residual(model, layer, capture.residuals[:, layer]):
        after = model(ids()).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_patching_changes_the_patched_position_and_later_ones_only(model, layer):
    position = LENGTH - 3
    before = model(ids()).logits
    with patch_residual(model, layer, torch.ones(WIDTH), position):
        after = model(ids()).logits
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position] - after[:, position]).abs().amax() > 1e-3
    later = (before[:, position + 1 :] - after[:, position + 1 :]).abs().amax()
    # After the last block no attention carries the patch onward.
    assert later == 0 if layer == LAYERS - 1 else later > 1e-3


def test_patch_replaces_the_residual_row_by_row(model):
    vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([4, LENGTH - 1])
    with patch_residual(model, 1, vectors, positions), capture_residuals(model, [1], positions) as capture:
        model(ids())
    # The reader runs after the patch: hooks run in the order in which they were registered.
    assert torch.equal(capture.residuals[:, 0], vectors)


@pytest.mark.parametrize("position", [-1, 3])
def test_patch_acts_on_the_prompt_pass_only(model, position):
    """The continuation is longer than the prompt, so its own positions -1 and 3 must be left alone."""
    prompt, answer = ids(length=4), ids(length=9, seed=1)
    vector = torch.ones(WIDTH)
    with patch_residual(model, 1, vector, 3):
        expected = model(torch.cat([prompt, answer], dim=1)).logits
    with patch_residual(model, 1, vector, position):
        last, cache = prefill(model, prompt)
        logits = extend(model, repeat_cache(cache, 3), answer.repeat_interleave(3, dim=0))
    torch.testing.assert_close(last, expected[:, 3], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, expected[:, 4:].repeat_interleave(3, dim=0), rtol=0, atol=1e-5)


def test_patch_reaches_a_position_in_a_later_chunk(model):
    tokens = ids(length=12)
    with patch_residual(model, 0, torch.ones(WIDTH), 9):
        expected = model(tokens).logits[:, 8:]
    with patch_residual(model, 0, torch.ones(WIDTH), 9):
        _, cache = prefill(model, tokens[:, :8])
        logits = extend(model, cache, tokens[:, 8:])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_hooks_are_removed_also_after_an_exception(model):
    # transformers leaves hooks of its own in a model once asked for hidden states.
    foreign = hooks(model)
    with capture_residuals(model), patch_residual(model, 0, torch.zeros(WIDTH)):
        model(ids())
        assert hooks(model) == foreign + LAYERS + 2
    assert hooks(model) == foreign
    with pytest.raises(ZeroDivisionError), capture_residuals(model), patch_residual(model, 0, torch.zeros(WIDTH)):
        model(ids())
        raise ZeroDivisionError
    assert hooks(model) == foreign
    with pytest.raises(InputError, match="positions"), capture_residuals(model, positions=LENGTH):
        model(ids())
    assert hooks(model) == foreign


@pytest.mark.parametrize("length", [1, GEMMA_WINDOW - 1, GEMMA_WINDOW, GEMMA_WINDOW + 1, LENGTH - 3])
def test_cached_continuation_equals_the_full_forward(model, length):
    tokens = ids()
    full = model(tokens).logits
    last, cache = prefill(model, tokens[:, :length])
    assert last.shape == full[:, 0].shape
    torch.testing.assert_close(last, full[:, length - 1], rtol=0, atol=1e-5)
    repeated = repeat_cache(cache, 2)
    logits = extend(model, repeated, tokens[:, length:].repeat_interleave(2, dim=0))
    torch.testing.assert_close(logits, full[:, length:].repeat_interleave(2, dim=0), rtol=0, atol=1e-5)
    # The original was neither grown nor changed: it continues once more, one row only, in pieces.
    assert cache.get_seq_length() == length
    chosen = select_rows(cache, torch.tensor([1]))
    pieces = [extend(model, chosen, part) for part in tokens[1:, length:].split(2, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), full[1:, length:], rtol=0, atol=1e-5)


def test_repeating_one_row_shares_memory_and_rows_stay_independent(model):
    tokens = ids(1, 10)
    _, cache = prefill(model, tokens)
    repeated = repeat_cache(cache, 3)
    assert repeated.layers[1].keys.data_ptr() == cache.layers[1].keys.data_ptr()
    answers = ids(3, 6, seed=2)
    expected = model(torch.cat([tokens.expand(3, -1), answers], dim=1)).logits[:, 10:]
    torch.testing.assert_close(extend(model, repeated, answers), expected, rtol=0, atol=1e-5)


def test_prefill_with_left_padding_equals_each_row_alone(model):
    short, long = ids(1, 6), ids(1, 11, seed=1)
    padded = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], dim=1), long])
    mask = torch.ones_like(padded)
    mask[0, :5] = 0
    last, _ = prefill(model, padded, mask)
    for row, alone in enumerate((short, long)):
        torch.testing.assert_close(last[row], prefill(model, alone)[0][0], rtol=0, atol=1e-5)


def test_prefill_never_makes_all_logits(model):
    head = model.get_output_embeddings()
    seen = []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    prefill(model, ids())
    handle.remove()
    assert seen == [1]


def test_bad_input():
    model = tiny_model("llama")
    for layer in (-1, LAYERS, True):
        with (
            pytest.raises(InputError, match=r"layer is .*; this model has layers 0 to 2"),
            patch_residual(model, layer, torch.zeros(WIDTH)),
        ):
            pass
    with pytest.raises(InputError, match="layer is 7"), capture_residuals(model, layers=[0, 7]):
        pass
    with (
        pytest.raises(InputError, match=r"vector has width 5; .* has 32"),
        patch_residual(model, 0, torch.zeros(5)),
    ):
        pass
    with (
        pytest.raises(InputError, match="vector has 3 rows; the forward pass has 2"),
        patch_residual(model, 0, torch.zeros(3, WIDTH)),
    ):
        model(ids())
    with (
        pytest.raises(InputError, match="position is 99; no forward pass in the context contained it"),
        patch_residual(model, 0, torch.zeros(WIDTH), 99),
    ):
        model(ids())
    with pytest.raises(RuntimeError, match="run the model"), capture_residuals(model) as capture:
        _ = capture.residuals
    with pytest.raises(InputError, match="k is 0"):
        repeat_cache(prefill(model, ids())[1], 0)
    with pytest.raises(InputError, match="StaticCache"):
        repeat_cache(StaticCache(model.config, max_cache_len=8), 2)


def test_other_shapes_are_refused_by_name():
    small = {"vocab_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 8}
    bert = BertForMaskedLM(BertConfig(**small, intermediate_size=8))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=16, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2))
    for other in (bert, t5):
        with pytest.raises(InputError, match=f"{type(other).__name__}.*Llama.*GPT-2"):
            decoder_layers(other)
