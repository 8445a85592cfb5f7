"""KIVI-like quantisation against a plain reference, and the eviction rules."""

import pytest
import torch
from transformers import DynamicCache

from superpose.errors import InputError
from superpose.inference.kv_baselines import HeavyHitters, KiviCache, KiviSettings, KiviStore, SinksAndRecent
from superpose.models.kv_cache import AttentionShape
from tiny import tiny_model


def reference(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Quantise all of a group, `x`, with its own float16 minimum and step."""
    low = x.min().half().float()
    step = ((x.max() - low) / (2**bits - 1)).half().float()
    return ((x - low) / step).round().clamp(0, 2**bits - 1) * step + low


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_keys_are_quantised_per_channel_and_values_per_token(bits):
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 2, 1, 8, 16, generator=generator)
    store = KiviStore(KiviSettings(bits, group=4, buffer=8, block=4))
    store.append(keys[:, :, :4], values[:, :, :4])
    store.append(keys[:, :, 4:], values[:, :, 4:])
    got_keys, got_values = store.read()
    for at in (0, 4):
        for channel in range(16):
            group = keys[1, 0, at : at + 4, channel]
            torch.testing.assert_close(got_keys[1, 0, at : at + 4, channel], reference(group, bits))
    for token in range(8):
        for at in range(0, 16, 4):
            group = values[0, 0, token, at : at + 4]
            torch.testing.assert_close(got_values[0, 0, token, at : at + 4], reference(group, bits))


@pytest.mark.parametrize(("bits", "fraction"), [(2, 3 / 16), (4, 5 / 16)])
def test_bytes_count_the_scales(bits, fraction):
    settings = KiviSettings(bits)
    assert settings.far_fraction(64) == fraction
    store = KiviStore(settings)
    states = torch.randn(1, 3, 64, 64)
    store.append(states, states)
    assert store.nbytes() == 2 * 2 * states.numel() * fraction


def test_the_cache_keeps_its_window_exact_and_counts_its_bytes():
    model = tiny_model("llama")
    cache = KiviCache(model, KiviSettings(4, group=4, buffer=8, block=8))
    tokens = torch.randint(3, 90, (2, 30))
    with torch.inference_mode():
        full = DynamicCache(config=model.config)
        expected = model(tokens, past_key_values=full).logits
        got = model(tokens[:, :21], past_key_values=cache).logits
        torch.testing.assert_close(got, expected[:, :21], rtol=1e-5, atol=1e-5)
        layer = cache.layers[0]
        assert (layer.far.tokens, layer.exact_tokens()) == (16, 5)
        torch.testing.assert_close(layer.keys, full.layers[0].keys[:, :, 16:21], rtol=0, atol=1e-6)
        for at in range(21, 30):
            got = model(tokens[:, at : at + 1], past_key_values=cache).logits
        assert (layer.far.tokens, layer.exact_tokens()) == (24, 6)
    assert (got[:, -1] - expected[:, -1]).abs().max() > 1e-4
    sizes = cache.bytes()
    vectors = 2 * 3 * 2 * 2
    assert sizes.buffer == vectors * 6 * 8 * 2
    assert sizes.codes == vectors * 24 * 8 * 2 * (4 + 32 / 4) / 16
    assert sizes.full == vectors * 30 * 8 * 2
    cache.crop(-6)
    with pytest.raises(InputError, match="quantised part"):
        cache.crop(-1)


def test_generation_reorders_the_quantised_part():
    model = tiny_model("llama")
    prompt = torch.randint(3, 90, (2, 14))
    cache = KiviCache(model, KiviSettings(4, group=4, buffer=4, block=4))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 3, "do_sample": False}
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, **options)
    assert output.shape == (2, 22)


def test_sinks_and_recent_tokens_stay_within_the_budget():
    rule = SinksAndRecent(0.5, sinks=2)
    kept = rule.keep(12, torch.ones(1, 2, 12, dtype=torch.bool), torch.zeros(1, 2, 0, 12))
    assert kept[0, 1].nonzero()[:, 0].tolist() == [0, 1, 8, 9, 10, 11]
    assert SinksAndRecent(0.1).keep(12, kept, torch.zeros(1, 2, 0, 12)).sum(-1).tolist() == [[1, 1]]


def test_heavy_hitters_keep_what_was_attended_to_and_never_bring_back():
    attention = torch.zeros(1, 1, 3, 8)
    attention[0, 0, 0, 5], attention[0, 0, 1, 2], attention[0, 0, 2, 7] = 3.0, 2.0, 1.0
    everyone = torch.ones(1, 1, 8, dtype=torch.bool)

    def choose(rule, kept=everyone):
        return rule.keep(8, kept, attention)[0, 0].nonzero()[:, 0].tolist()

    assert choose(HeavyHitters(0.25)) == [2, 5]
    assert choose(HeavyHitters(0.25, observe=2)) == [2, 7]
    assert set(choose(HeavyHitters(0.375, pool=3))) == {4, 5, 6}
    gone = everyone.clone()
    gone[..., 5] = False
    assert choose(HeavyHitters(0.25), gone) == [2, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KiviSettings(3), "bits is 3; allowed: 2, 4, 8"),
        (lambda: KiviSettings(2, group=6), "group is 6"),
        (lambda: KiviSettings(2, block=16), "block is 16; allowed: multiples of group"),
        (lambda: KiviSettings(2, buffer=16), "block is 32; allowed: 1 to 16"),
        (lambda: KiviSettings(2).stores(AttentionShape(1, 1, 1, 80)), "head dimension 80"),
        (lambda: KiviStore(KiviSettings()).append(torch.zeros(1, 1, 3, 32), torch.zeros(1, 1, 3, 32)), "3 tokens"),
        (lambda: SinksAndRecent(1.5), "fraction is 1.5"),
        (lambda: SinksAndRecent(0.5, buffer=-1), "buffer is -1"),
        (lambda: HeavyHitters(0.5, observe=0), "observe is 0"),
        (lambda: HeavyHitters(0.5, pool=2), "pool is 2"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
