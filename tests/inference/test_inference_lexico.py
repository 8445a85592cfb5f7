"""LexicoCache as a `transformers` cache: neutral settings, generation, batches, cropping, refusals, bytes."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from superpose.errors import InputError
from superpose.inference.dictionaries import Dictionaries
from superpose.inference.lexico import LexicoCache, lexico_bytes
from superpose.inference.lexico_attention import use_factored_attention
from superpose.inference.lexico_store import LexicoSettings
from superpose.models.kv_cache import attention_shape
from tiny import TINY_SHAPES, tiny_model

ATOMS = 24
FULL = {"gemma3": {"layer_types": ["full_attention"] * 3}}
SETTINGS = {
    "fixed": LexicoSettings(key_sparsity=3, value_sparsity=4, buffer=6, block=4),
    "threshold": LexicoSettings(key_sparsity=6, value_sparsity=5, tol=0.3, buffer=6, block=4, keep_first=2),
    "adaptive": LexicoSettings(key_sparsity=2, value_sparsity=2, buffer=6, block=6, adaptive=5, adaptive_error=0.4),
    "int8": LexicoSettings(key_sparsity=3, value_sparsity=4, buffer=6, block=1, coefficients="int8", skip_layers=(1,)),
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=TINY_SHAPES)
def any_model(request):
    return tiny_model(request.param, **FULL.get(request.param, {}))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(params=SETTINGS)
def settings(request):
    return SETTINGS[request.param]


# Every setting on one shape and one setting on every shape: the two do not interact.
@pytest.fixture(
    scope="module", params=[*((s, "fixed") for s in TINY_SHAPES), *(("llama", n) for n in list(SETTINGS)[1:])]
)
def pair(request):
    shape, name = request.param
    return tiny_model(shape, **FULL.get(shape, {})), SETTINGS[name]


def ids(batch: int = 2, length: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 90, (batch, length), generator=torch.Generator().manual_seed(seed))


def dictionaries(model, atoms: int = ATOMS) -> Dictionaries:
    return Dictionaries.random(model, atoms)


def complete(model) -> Dictionaries:
    shape = attention_shape(model)
    rotations = torch.linalg.qr(torch.randn(2, shape.layers, shape.head_dim, shape.head_dim))[0]
    return Dictionaries(rotations[0], rotations[1])


def run(model, tokens: torch.Tensor, cache, *chunks: int) -> torch.Tensor:
    """Logits of all passes: the first chunks of given lengths, then single tokens."""
    logits, at = [], 0
    while at < tokens.shape[1]:
        step = chunks[len(logits)] if len(logits) < len(chunks) else 1
        logits.append(model(tokens[:, at : at + step], past_key_values=cache, use_cache=True).logits)
        at += step
    return torch.cat(logits, dim=1)


def test_neutral_settings_equal_the_full_cache(any_model):
    tokens, dim = ids(), attention_shape(any_model).head_dim
    expected = run(any_model, tokens, DynamicCache(config=any_model.config), 9)
    every_atom = LexicoSettings(dim, dim, buffer=2, block=1, coefficients="fp32")
    got = run(any_model, tokens, LexicoCache(any_model, complete(any_model), every_atom), 9)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    long_buffer = LexicoCache(any_model, dictionaries(any_model), LexicoSettings(1, 1, buffer=30, block=8))
    torch.testing.assert_close(run(any_model, tokens, long_buffer, 9), expected, rtol=0, atol=0)


def test_prompts_are_exact_and_later_tokens_are_not(model, settings):
    tokens = ids()
    expected = run(model, tokens, DynamicCache(config=model.config), 25)
    got = run(model, tokens, LexicoCache(model, dictionaries(model), settings), 25)
    torch.testing.assert_close(got[:, :25], expected[:, :25], rtol=0, atol=0)
    assert (got[:, 25:] - expected[:, 25:]).abs().max() > 1e-3


def test_the_factored_path_equals_the_dense_path(pair):
    any_model, settings = pair
    tokens = ids()
    dense = run(any_model, tokens, LexicoCache(any_model, dictionaries(any_model), settings), 12, 5)
    before = any_model.config._attn_implementation
    with use_factored_attention(any_model):
        assert any_model.config._attn_implementation != before
        factored = run(any_model, tokens, LexicoCache(any_model, dictionaries(any_model), settings), 12, 5)
        exact = run(any_model, tokens, DynamicCache(config=any_model.config), 12)
    assert any_model.config._attn_implementation == before
    torch.testing.assert_close(factored, dense, rtol=1e-4, atol=1e-5)
    full = run(any_model, tokens, DynamicCache(config=any_model.config), 12)
    torch.testing.assert_close(exact, full, rtol=1e-4, atol=1e-5)


def test_chunks_are_coded_like_single_tokens_where_no_error_has_fed_back(model):
    # With blocks of one token the store holds the same tokens whichever way they came; layer 0 has no error yet.
    settings = LexicoSettings(3, 4, buffer=6, block=1)
    whole, parts = (LexicoCache(model, dictionaries(model), settings) for _ in range(2))
    run(model, ids(), whole, 30)
    run(model, ids(), parts, 3, 10, 1, 9)
    assert whole.layers[0].far.tokens == parts.layers[0].far.tokens == 24
    torch.testing.assert_close(whole.layers[0].far.read(), parts.layers[0].far.read(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generate_is_the_same_on_both_paths(pair, options):
    any_model, settings = pair

    def generate(prompt):
        torch.manual_seed(0)
        cache = LexicoCache(any_model, dictionaries(any_model), settings)
        mask = torch.ones_like(prompt)
        return any_model.generate(
            prompt, attention_mask=mask, past_key_values=cache, max_new_tokens=12, min_new_tokens=12, **options
        )

    dense = generate(ids(length=14))
    with use_factored_attention(any_model):
        factored = generate(ids(length=14))
    assert dense.shape[1] == 26
    assert torch.equal(dense, factored)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "factored"])
def test_left_padding_changes_nothing(model, attention):
    settings = LexicoSettings(3, 4, buffer=4, block=2)
    prompt = ids(batch=1, length=14)
    padded = torch.cat([torch.zeros(1, 6, dtype=torch.long), prompt], dim=1)
    other = ids(batch=1, length=20, seed=1)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :6] = 0

    def generate(tokens, mask):
        cache = LexicoCache(twin, dictionaries(twin), settings)
        options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
        return twin.generate(
            tokens,
            attention_mask=mask,
            past_key_values=cache,
            output_scores=True,
            return_dict_in_generate=True,
            **options,
        )

    twin = copy.deepcopy(model)
    if attention == "factored":
        with use_factored_attention(twin):
            both, alone = generate(torch.cat([padded, other]), mask), generate(prompt, torch.ones_like(prompt))
    else:
        twin.set_attn_implementation(attention)
        both, alone = generate(torch.cat([padded, other]), mask), generate(prompt, torch.ones_like(prompt))
    # Blocks leave the window at the same distance from the newest token, so padding must not matter.
    assert torch.equal(both.sequences[0, 6:], alone.sequences[0])
    torch.testing.assert_close(torch.stack(both.scores)[:, 0], torch.stack(alone.scores)[:, 0], rtol=1e-3, atol=1e-4)


def test_rows_can_be_reordered_repeated_and_selected(model, settings):
    tokens = ids(batch=3, length=20)
    rows = torch.tensor([2, 0, 0])
    moved = LexicoCache(model, dictionaries(model), settings)
    run(model, tokens, moved, 16)
    moved.reorder_cache(rows)
    fresh = LexicoCache(model, dictionaries(model), settings)
    run(model, tokens[rows], fresh, 16)
    following = ids(batch=3, length=6, seed=2)
    torch.testing.assert_close(run(model, following, moved), run(model, following, fresh), rtol=1e-4, atol=1e-5)
    moved.batch_select_indices(torch.tensor([True, False, False]))
    moved.batch_repeat_interleave(2)
    assert moved.layers[0].far.read()[0].shape[0] == 2
    twice = run(model, following[:1].repeat(2, 1), moved)
    torch.testing.assert_close(twice[0], twice[1], rtol=0, atol=0)


@pytest.mark.parametrize("removed", [3, 11, 20])
def test_cropping_forgets_the_newest_tokens(model, removed):
    settings = LexicoSettings(3, 4, buffer=6, block=1)
    cropped, short = (LexicoCache(model, dictionaries(model), settings) for _ in range(2))
    run(model, ids(length=20), cropped, 20)
    cropped.crop(-removed)
    assert cropped.get_seq_length() == 20 - removed
    assert cropped.get_mask_sizes(3, 0) == (23 - removed, 0)
    if removed == 11:  # into the coded part: the codes that are left are those of the first tokens
        run(model, ids(length=20)[:, :15], short, 15)
        torch.testing.assert_close(cropped.layers[1].far.read(), short.layers[1].far.read(), rtol=1e-4, atol=1e-5)
    run(model, ids(length=9, seed=3), cropped, 4)
    assert cropped.get_seq_length() == 29 - removed
    for bad in (5, -40):
        with pytest.raises(InputError, match="tokens_to_remove"):
            cropped.crop(bad)


def test_cropping_threshold_codes_and_first_tokens(model):
    cache = LexicoCache(model, dictionaries(model), SETTINGS["threshold"])
    run(model, ids(length=20), cache, 20)
    before = [x.clone() for x in cache.layers[0].far.read()]
    cache.crop(-9)
    assert (cache.layers[0].far.tokens, cache.layers[0].exact_tokens()) == (9, 2)
    torch.testing.assert_close(cache.layers[0].far.read()[0], before[0][:, :, :9], rtol=0, atol=0)
    cache.crop(-10)
    assert (cache.layers[0].far.tokens, cache.layers[0].exact_tokens()) == (0, 1)
    assert run(model, ids(length=12, seed=1), cache, 5).isfinite().all()


def test_reset_gives_a_fresh_cache(model, settings):
    cache = LexicoCache(model, dictionaries(model), settings)
    first = run(model, ids(), cache, 20)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.bytes().total == 0
    torch.testing.assert_close(run(model, ids(), cache, 20), first, rtol=0, atol=0)


def test_speculative_decoding_runs_on_it(model):
    settings = LexicoSettings(3, 4, buffer=8, block=1)
    prompt = ids(batch=1, length=20).repeat(1, 2)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "prompt_lookup_num_tokens": 3}
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        past_key_values=LexicoCache(model, dictionaries(model), settings),
        **options,
    )
    assert output.shape == (1, 52)


@pytest.mark.parametrize("convention", ["paper", "layout"])
@pytest.mark.parametrize("sparsity", [1, 2, 8])
@pytest.mark.parametrize("coefficients", ["fp8", "int8", "fp16"])
def test_bytes_equal_the_closed_form(model, convention, sparsity, coefficients):
    shape = attention_shape(model)
    for prompt, generated in ((20, 0), (3, 2), (20, 9), (5, 12)):
        settings = LexicoSettings(
            sparsity, 4, buffer=6, block=4, coefficients=coefficients, skip_layers=(1,), keep_first=1
        )
        cache = LexicoCache(model, dictionaries(model), settings)
        run(model, ids(length=prompt + generated), cache, prompt)
        counted = lexico_bytes(shape, settings, prompt, generated, 2, convention, 4)
        assert cache.bytes(convention).total == counted
        assert cache.bytes(convention).full == 2 * 2 * 3 * 2 * 8 * (prompt + generated) * (
            2 if convention == "paper" else 4
        )
    assert cache.bytes().dictionary == 2 * 3 * 8 * ATOMS * 4


def test_bytes_of_the_papers_setting_are_3_s_plus_2():
    settings = LexicoSettings(8, 8)
    assert settings.vector_bytes(8) == 26
    assert settings.far_fraction(64) == 26 / 128
    assert LexicoSettings(24, 24).far_fraction(128) == pytest.approx(0.289, abs=5e-4)


def test_threshold_bytes_count_the_atoms_that_are_used(model):
    settings = SETTINGS["threshold"]
    cache = LexicoCache(model, dictionaries(model), settings)
    run(model, ids(), cache, 30)
    sides = [side for layer in cache.layers for side in (layer.far.keys, layer.far.values)]
    used = sum(int(side.codes.counts.long().sum()) for side in sides)
    vectors = sum(side.codes.counts.numel() for side in sides)
    assert 0 < used < vectors * 5
    assert cache.bytes().codes == 3 * used + 2 * vectors
    assert cache.bytes("layout").codes == 3 * used + vectors
    assert cache.bytes().total < lexico_bytes(cache.shape, settings, 30, batch=2)


def test_adaptive_atoms_lower_the_error_are_counted_and_stay_with_their_row(model):
    tokens = ids(length=40)
    plain = LexicoSettings(2, 2, buffer=2, block=2, coefficients="fp32")
    adaptive = LexicoSettings(2, 2, buffer=2, block=2, coefficients="fp32", adaptive=8, adaptive_error=0.5)
    exact = DynamicCache(config=model.config)
    caches = [LexicoCache(model, dictionaries(model), s) for s in (plain, adaptive)]
    alone = LexicoCache(model, dictionaries(model), adaptive)
    run(model, tokens[1:], alone, 40)
    for cache in (exact, *caches):
        run(model, tokens, cache, 40)
    errors = [(c.layers[0].far.read()[0] - exact.layers[0].keys[:, :, :38]).norm() for c in caches]
    assert errors[1] < errors[0]
    used = [n for layer in caches[1].layers for side in (layer.far.keys, layer.far.values) for n in side.used]
    assert max(used) == 8
    assert caches[1].bytes().adaptive == 2 * 8 * sum(used)
    both = caches[1].layers[2].far.read()[1]
    torch.testing.assert_close(both[1:], alone.layers[2].far.read()[1], rtol=1e-3, atol=1e-4)


def test_large_and_zero_vectors_are_clamped_and_kept(model):
    cache = LexicoCache(model, dictionaries(model), LexicoSettings(2, 2, buffer=0, block=1))
    states = torch.zeros(1, 2, 2, 8)
    states[..., 1, :] = 5000.0
    cache.update(states, states, 0)
    keys, _ = cache.layers[0].far.read()
    assert keys[..., 0, :].abs().max() == 0
    assert keys.isfinite().all()
    assert cache.layers[0].far.keys.codes.stored.float().abs().max() == 448


def test_16_bit_indices_name_65536_atoms(model):
    atoms = functional.normalize(torch.randn(3, 8, 2**16, generator=torch.Generator().manual_seed(0)), dim=1)
    wide = Dictionaries(atoms, atoms)
    cache = LexicoCache(model, wide, LexicoSettings(1, 1, buffer=0, block=1, coefficients="fp32"))
    chosen = torch.tensor([0, 32767, 32768, 65535])
    states = 3 * atoms[0].T[chosen].expand(1, 2, 4, 8)
    cache.update(states, states, 0)
    assert cache.layers[0].far.keys.codes.indices.dtype == torch.int16
    torch.testing.assert_close(cache.layers[0].far.read()[0], states, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="65536"):
        LexicoCache(model, wide, LexicoSettings(1, 1, adaptive=1))


def test_bfloat16(model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    for path in (False, True):
        cache = LexicoCache(half.config, dictionaries(half.config), SETTINGS["fixed"])
        if path:
            with use_factored_attention(half):
                logits = run(half, ids(), cache, 12)
        else:
            logits = run(half, ids(), cache, 12)
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()


def test_models_with_other_layers_are_refused():
    sliding = tiny_model("gemma3")
    with pytest.raises(InputError, match=r"layer 0 .* 'sliding_attention'"):
        LexicoCache(sliding, Dictionaries.random(sliding, ATOMS))
    with pytest.raises(InputError, match="sliding_attention"), use_factored_attention(sliding):
        pass


def test_dictionaries_of_another_model_are_refused(model):
    with pytest.raises(InputError, match="head dimension 8"):
        LexicoCache(model, Dictionaries.random(tiny_model("llama", head_dim=16), ATOMS))
    with pytest.raises(InputError, match="weights"):
        LexicoCache(model, Dictionaries.random(tiny_model("llama", seed=1), ATOMS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_sparsity": 0}, "key_sparsity is 0"),
        ({"value_sparsity": 300}, "value_sparsity is 300"),
        ({"buffer": 8, "block": 9}, "block is 9; allowed: a whole number, 1 to 8"),
        ({"buffer": -1}, "buffer is -1"),
        ({"coefficients": "fp4"}, "coefficients is 'fp4'"),
        ({"tol": 1.0}, "tol is 1.0"),
        ({"adaptive": -1}, "adaptive is -1"),
        ({"keep_first": -2}, "keep_first is -2"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        LexicoSettings(**changes)


def test_bad_input_is_refused(model):
    known = dictionaries(model)
    with pytest.raises(InputError, match="key_sparsity is 9; allowed: 1 to 8"):
        LexicoCache(model, known, LexicoSettings(9, 1))
    with pytest.raises(InputError, match="skip_layers has 3"):
        LexicoCache(model, known, LexicoSettings(1, 1, skip_layers=(3,)))
    cache = LexicoCache(model, known, LexicoSettings(1, 1, buffer=0, block=1))
    with pytest.raises(InputError, match="0 tokens"):
        cache.update(torch.zeros(1, 2, 0, 8), torch.zeros(1, 2, 0, 8), 0)
    with pytest.raises(InputError, match="NaN"):
        cache.update(torch.full((1, 2, 3, 8), torch.nan), torch.zeros(1, 2, 3, 8), 0)
    with pytest.raises(InputError, match="convention is 'disk'"):
        cache.bytes("disk")
