import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from superpose.errors import InputError
from superpose.interpret import (
    TaskVector,
    answer_logprobs,
    best_layer,
    injection_table,
    interpolate,
    patched_answer_logprobs,
    patched_answer_logprobs_batch,
    residuals_at_separator,
)
from superpose.models import capture_residuals
from tiny import CONTEXT, LAYERS, TINY_SHAPES, WIDTH, tiny_model, tiny_tokenizer

torch.set_num_threads(1)

PROMPTS = ["ab->AB\ncd->", "xy->XY\nzz->", "hello->HELLO\nword->"]
QUERIES = [
    ("\nab->", ("ab", "AB")),
    ("\nhi->", ("hi", "HI")),
    ("\nlonger->", ("longer", "LONG")),
    ("\nno->", ("n", "N")),
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def vector_of(seed: int, layers: int = LAYERS, width: int = WIDTH) -> TaskVector:
    mean = torch.randn(layers, width, generator=torch.Generator().manual_seed(seed))
    return TaskVector(mean, tuple(range(layers)), prompts=1, task=f"t{seed}", family="f", model="m")


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def patched_by_hand(model, tokenizer, prompt, answer, vector, layer):
    """One whole forward pass over prompt + answer, the block's output overwritten by a hook of its own."""
    prompt_ids, answer_ids = (tokenizer(text)["input_ids"] for text in (prompt, answer))
    decoder = model.get_decoder()
    blocks = decoder.h if hasattr(decoder, "h") else decoder.layers

    def overwrite(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, len(prompt_ids) - 1] = vector

    handle = blocks[layer].register_forward_hook(overwrite)
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt_ids + answer_ids])).logits[0].log_softmax(-1)
    handle.remove()
    return sum(float(logprobs[len(prompt_ids) - 1 + i, token]) for i, token in enumerate(answer_ids))


@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_extraction_equals_hidden_states(shape, tokenizer):
    model = tiny_model(shape)
    residuals = residuals_at_separator(model, tokenizer, PROMPTS)
    assert residuals.shape == (3, LAYERS, WIDTH)
    assert hooks(model) == 0
    for prompt, row in zip(PROMPTS, residuals, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([tokenizer(prompt)["input_ids"]]), output_hidden_states=True).hidden_states
        # The last entry of hidden_states has the final norm applied, so it is not the residual stream.
        for layer in range(LAYERS - 1):
            torch.testing.assert_close(row[layer], states[layer + 1][0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_patched_scores_equal_one_whole_forward_pass(shape, tokenizer):
    model = tiny_model(shape)
    vectors = torch.randn(len(QUERIES), WIDTH, generator=torch.Generator().manual_seed(0))
    for layer in range(LAYERS):
        got = patched_answer_logprobs_batch(model, tokenizer, QUERIES, vectors, layer, terminator="\n")
        for (prompt, answers), vector, scores in zip(QUERIES, vectors, got, strict=True):
            expected = [patched_by_hand(model, tokenizer, prompt, a + "\n", vector, layer) for a in answers]
            np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)
    assert hooks(model) == 0


@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_patching_a_models_own_residual_changes_nothing(shape, tokenizer):
    model = tiny_model(shape)
    prompt, answers = QUERIES[2]
    plain = answer_logprobs(model, tokenizer, prompt, answers)
    own = TaskVector.extract(model, tokenizer, [prompt])
    for layer in range(LAYERS):
        patched = patched_answer_logprobs(model, tokenizer, prompt, answers, own.at(layer), layer)
        torch.testing.assert_close(patched, plain, atol=1e-5, rtol=0)
    other = patched_answer_logprobs(model, tokenizer, prompt, answers, vector_of(0).at(1), 1)
    assert (other - plain).abs().max() > 1e-3


def test_a_query_of_one_token_can_be_patched(llama, tokenizer):
    vector = vector_of(1).at(1)
    got = patched_answer_logprobs(llama, tokenizer, "=", ("x", "yz"), vector, 1)
    expected = [patched_by_hand(llama, tokenizer, "=", answer, vector, 1) for answer in ("x", "yz")]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_patch_context_and_its_clean_up(llama, tokenizer):
    ids = torch.tensor([tokenizer("\nab->")["input_ids"]])
    vector = vector_of(2)
    with torch.no_grad(), vector.patch(llama, 1), capture_residuals(llama, [1]) as capture:
        llama(ids)
    torch.testing.assert_close(capture.residuals[0, 0], vector.at(1))
    with pytest.raises(RuntimeError, match="stop"), vector.patch(llama, 1):
        raise RuntimeError("stop")
    assert hooks(llama) == 0


def test_extract_averages_and_names(llama, tokenizer):
    vector = TaskVector.extract(
        llama, tokenizer, PROMPTS, layers=[2, 0], task="upper", family="word", model_name="tiny", keep_prompts=True
    )
    every = residuals_at_separator(llama, tokenizer, PROMPTS, batch_size=1)
    assert vector.per_prompt is not None
    torch.testing.assert_close(vector.per_prompt, every[:, [2, 0]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vector.mean, every[:, [2, 0]].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vector.at(2), vector.mean[0])
    assert (vector.layers, vector.prompts, vector.task, vector.model) == ((2, 0), 3, "upper", "tiny")
    assert TaskVector.extract(llama, tokenizer, PROMPTS).per_prompt is None


def test_prompts_do_not_influence_each_other(llama, tokenizer):
    together = residuals_at_separator(llama, tokenizer, PROMPTS)
    alone = torch.cat([residuals_at_separator(llama, tokenizer, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_mix_and_interpolate():
    a, b, c = (vector_of(seed) for seed in (0, 1, 2))
    mixed = TaskVector.mix([a, b, c], [0.5, 0.25, 0.25])
    torch.testing.assert_close(mixed.mean, 0.5 * a.mean + 0.25 * b.mean + 0.25 * c.mean)
    assert mixed.task == "0.5 t0 + 0.25 t1 + 0.25 t2"
    ends = interpolate([a, b], [(1, 0), (0.5, 0.5), (0, 1)])
    torch.testing.assert_close(ends[0].mean, a.mean)
    torch.testing.assert_close(ends[1].mean, (a.mean + b.mean) / 2)
    torch.testing.assert_close(ends[2].mean, b.mean)


def test_injection_table_equals_single_calls(llama, tokenizer):
    vectors = [vector_of(0), vector_of(1)]
    table = injection_table(llama, tokenizer, vectors, QUERIES, [2, 0], terminator="\n", batch_size=3)
    assert table.shape == (2, 2, len(QUERIES), 2)
    for i, layer in enumerate((2, 0)):
        for j, vector in enumerate(vectors):
            for q, (prompt, answers) in enumerate(QUERIES):
                single = patched_answer_logprobs(llama, tokenizer, prompt, answers, vector.at(layer), layer, "\n")
                torch.testing.assert_close(table[i, j, q], single, atol=1e-5, rtol=0)


def test_best_layer_is_chosen_on_the_first_queries_and_reported_on_the_others(llama, tokenizer):
    vectors = [vector_of(0), vector_of(1)]
    best = best_layer(llama, tokenizer, vectors, QUERIES, split=0.5)
    table = injection_table(llama, tokenizer, vectors, QUERIES).exp()
    own = torch.stack([table[:, 0, :, 0], table[:, 1, :, 1]], dim=-1)
    torch.testing.assert_close(best.choosing, own[:, :2].mean(1), atol=1e-6, rtol=1e-4)
    assert best.layer == int(own[:, :2].mean((1, 2)).argmax())
    assert best.per_task == tuple(own[:, :2].mean(1).argmax(0).tolist())
    torch.testing.assert_close(best.held_out, own[best.layer, 2:], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("keep", [True, False])
def test_save_and_load(tmp_path, keep, llama, tokenizer):
    vector = TaskVector.extract(
        llama, tokenizer, PROMPTS, [0, 2], task="é", family="w", model_name="n", keep_prompts=keep
    )
    vector.save(tmp_path / "v.safetensors")
    back = TaskVector.load(tmp_path / "v.safetensors")
    assert torch.equal(back.mean, vector.mean)
    assert (back.layers, back.prompts, back.task, back.family, back.model) == ((0, 2), 3, "é", "w", "n")
    assert (back.per_prompt is not None) == keep
    if vector.per_prompt is not None and back.per_prompt is not None:
        assert torch.equal(back.per_prompt, vector.per_prompt)


def test_load_refuses_other_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        TaskVector.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is no tensor")
    with pytest.raises(InputError, match="not a safetensors file"):
        TaskVector.load(tmp_path / "text")
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="no task vector"):
        TaskVector.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: TaskVector.extract(m, t, []), "prompts is empty"),
        (lambda m, t: TaskVector.extract(m, t, ["a", ""]), r"prompts\[1\] has no tokens"),
        (lambda m, t: TaskVector.extract(m, t, ["a" * (CONTEXT + 1)]), f"has {CONTEXT + 1} tokens"),
        (lambda m, t: TaskVector.extract(m, t, ["a"], layers=[3]), "layer is 3; this model has layers 0 to 2"),
        (lambda m, t: TaskVector.extract(m, t, ["a"], layers=[]), "layers is empty"),
        (lambda m, t: TaskVector(torch.zeros(2, 4), (0,), 1), "layers has 1 entries; mean has 2 rows"),
        (lambda m, t: vector_of(0).at(7), "layer is 7; this vector was read after layers 0, 1, 2"),
        (lambda m, t: vector_of(0).patch(m, 5), "layer is 5"),
        (
            lambda m, t: patched_answer_logprobs(m, t, "a=", ("b",), torch.zeros(WIDTH + 1), 1),
            f"vector has width {WIDTH + 1}",
        ),
        (lambda m, t: patched_answer_logprobs(m, t, "a=", ("b",), torch.zeros(WIDTH), LAYERS), "layer is 3"),
        (lambda m, t: patched_answer_logprobs(m, t, "a=", (), torch.zeros(WIDTH), 1), "answers is empty"),
        (lambda m, t: patched_answer_logprobs(m, t, "a=", ("b", "b"), torch.zeros(WIDTH), 1), "answers must differ"),
        (
            lambda m, t: patched_answer_logprobs(m, t, "a" * CONTEXT, ("b",), torch.zeros(WIDTH), 1),
            "up to 1 follow",
        ),
        (
            lambda m, t: patched_answer_logprobs_batch(m, t, QUERIES, torch.zeros(3, WIDTH), 1),
            "vectors has 3 rows for 4 queries",
        ),
        (lambda m, t: injection_table(m, t, [], QUERIES), "vectors has 0 entries"),
        (lambda m, t: injection_table(m, t, [vector_of(0)], QUERIES, []), "layers is empty"),
        (lambda m, t: injection_table(m, t, [vector_of(0)], [("a=", ("b",)), *QUERIES]), "different numbers"),
        (lambda m, t: injection_table(m, t, [vector_of(0)], QUERIES, batch_size=0), "batch_size is 0"),
        (lambda m, t: best_layer(m, t, [vector_of(0), vector_of(1)], QUERIES, split=1), "split is 1 of 4 queries"),
        (lambda m, t: best_layer(m, t, [vector_of(0)], QUERIES), "2 answers for 1 vectors"),
        (lambda m, t: TaskVector.mix([], []), "weights has 0 numbers"),
        (lambda m, t: TaskVector.mix([vector_of(0), vector_of(1)], [1]), "weights has 1 numbers for 2 vectors"),
        (lambda m, t: TaskVector.mix([vector_of(0), vector_of(1)], [0.5, 0.6]), "with sum 1.1"),
        (lambda m, t: TaskVector.mix([vector_of(0), vector_of(1)], [1.5, -0.5]), "none may be negative"),
        (lambda m, t: TaskVector.mix([vector_of(0), vector_of(1, width=8)], [0.5, 0.5]), "width 8"),
        (lambda m, t: TaskVector.mix([vector_of(0), vector_of(1, layers=2)], [0.5, 0.5]), "same model and layers"),
    ],
)
def test_bad_input_is_refused(call, message, llama, tokenizer):
    with pytest.raises(InputError, match=message):
        call(llama, tokenizer)
    assert hooks(llama) == 0
