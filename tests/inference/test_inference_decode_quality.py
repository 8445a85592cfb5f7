"""One-pass scores against real token-by-token decoding."""

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from superpose.errors import InputError
from superpose.inference.decode_quality import DecodeQuality, LexicoMethod, decode_quality, stepped_quality
from superpose.inference.dictionaries import Dictionaries
from superpose.inference.kv_baselines import HeavyHitters, KiviCache, KiviSettings, SinksAndRecent
from superpose.inference.lexico import LexicoCache
from superpose.inference.lexico_store import LexicoSettings
from superpose.models.kv_cache import stored_tokens, use_attention
from tiny import tiny_model

TOKENS = torch.randint(3, 90, (2, 34), generator=torch.Generator().manual_seed(0))
WINDOW = {"buffer": 6, "keep_first": 1}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def assert_same(a: DecodeQuality, b: DecodeQuality) -> None:
    torch.testing.assert_close(a.nll, b.nll, rtol=0, atol=1e-4)
    assert torch.equal(a.choices, b.choices)


@pytest.mark.parametrize("prefill", [0, 11])
@pytest.mark.parametrize(
    "settings",
    [
        LexicoSettings(3, 4, block=1, **WINDOW),
        LexicoSettings(3, 4, block=4, skip_layers=(0,), **WINDOW),
        LexicoSettings(4, 4, block=2, tol=0.3, **WINDOW),
        LexicoSettings(2, 2, block=3, adaptive=6, adaptive_error=0.4, **WINDOW),
        LexicoSettings(2, 2, buffer=0, block=1),
    ],
    ids=["single", "blocks", "threshold", "adaptive", "no buffer"],
)
def test_lexico_equals_stepping(model, settings, prefill):
    if settings.block == 4:
        model = tiny_model("gpt_neox")
    dictionaries = Dictionaries.random(model, 24)
    stepped = stepped_quality(model, TOKENS, LexicoCache(model, dictionaries, settings), prefill=prefill)
    once = decode_quality(model, TOKENS, LexicoMethod(dictionaries, settings), prefill=prefill)
    assert_same(once, stepped)
    assert (once.nll - decode_quality(model, TOKENS).nll).abs().max() > 0.01


@pytest.mark.parametrize("prefill", [0, 19])
def test_kivi_equals_stepping(model, prefill):
    # Float rounding may tip a number into the next of 4 levels; with 256 levels that moves little.
    settings = KiviSettings(8, group=4, buffer=8, block=8)
    once = decode_quality(model, TOKENS, settings, prefill=prefill)
    stepped = stepped_quality(model, TOKENS, KiviCache(model, settings), prefill=prefill)
    torch.testing.assert_close(once.nll, stepped.nll, rtol=0, atol=2e-3)
    coarse = decode_quality(model, TOKENS, KiviSettings(2, group=4, buffer=8, block=8), prefill=prefill)
    full = decode_quality(model, TOKENS)
    assert (coarse.nll - full.nll).abs().max() > 10 * (once.nll - full.nll).abs().max()


class Stepper:
    """Eviction done for real: one query at a time, each layer with its own list of survivors."""

    def __init__(self, rule):
        self.rule, self.kept, self.received = rule, {}, {}

    def __call__(self, layer, query, keys, values, mask, scaling):
        batch, heads, now, _ = keys.shape
        far = stored_tokens(now - 1, 0, self.rule.buffer, self.rule.block, keep_first=self.rule.keep_first)
        kept = self.kept.get(layer, torch.ones(batch, heads, 0, dtype=torch.bool))
        kept = functional.pad(kept, (0, now - kept.shape[-1]), value=True)
        past = self.received.setdefault(layer, [])
        old = slice(self.rule.keep_first, self.rule.keep_first + far)
        if far and far != stored_tokens(now - 2, 0, self.rule.buffer, self.rule.block, keep_first=self.rule.keep_first):
            seen = torch.stack([functional.pad(row, (0, now - row.shape[-1])) for row in past], dim=2)
            kept[..., old] = self.rule.keep(far, kept[..., old], seen[..., old])
        scores = query.view(batch, heads, -1, query.shape[-1]) @ keys.transpose(-1, -2) * scaling
        weights = scores.masked_fill(~kept[:, :, None], float("-inf")).softmax(-1)
        past.append(weights.sum(2))
        self.kept[layer] = kept
        return (weights @ values).view(query.shape)


@pytest.mark.parametrize(
    "rule",
    [
        SinksAndRecent(0.3, sinks=2, block=1, **WINDOW),
        HeavyHitters(0.3, block=1, **WINDOW),
        HeavyHitters(0.4, observe=5, pool=3, block=3, **WINDOW),
    ],
    ids=["sinks", "h2o", "snapkv"],
)
def test_eviction_equals_stepping(model, rule):
    if rule.block == 3:
        model = tiny_model("qwen3")
    once = decode_quality(model, TOKENS, rule)
    stepper = Stepper(rule)
    with use_attention(model, stepper):
        stepped = stepped_quality(model, TOKENS, DynamicCache(config=model.config))
    assert_same(once, stepped)
    far = stored_tokens(32, 0, rule.buffer, rule.block, keep_first=rule.keep_first)
    alive = stepper.kept[0][..., rule.keep_first : rule.keep_first + far].sum(-1)
    assert alive.unique().tolist() == [int(rule.fraction * far)]


def test_keeping_everything_equals_the_full_cache(model):
    full = decode_quality(model, TOKENS)
    stepped = stepped_quality(model, TOKENS, DynamicCache(config=model.config), prefill=5)
    assert_same(full, stepped)
    for rule in (SinksAndRecent(1.0, block=2, **WINDOW), HeavyHitters(1.0, block=2, **WINDOW)):
        assert_same(decode_quality(model, TOKENS, rule), full)
    dictionaries = Dictionaries.random(model, 24)
    assert_same(decode_quality(model, TOKENS, LexicoMethod(dictionaries, LexicoSettings(1, 1))), full)


def test_scores_are_perplexity_and_agreement(model):
    quality = decode_quality(model, TOKENS, start=10)
    assert quality.nll.shape == (2, 24)
    with torch.inference_mode():
        logits = model(TOKENS).logits[:, 9:-1]
    nll = functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 10:].flatten())
    assert quality.perplexity == pytest.approx(float(nll.exp()), rel=1e-4)
    assert quality.window_perplexity().log().mean().item() == pytest.approx(float(nll), rel=1e-4)
    assert quality.agreement(quality) == 1.0
    half = DecodeQuality(quality.nll, torch.where(torch.arange(24) < 12, quality.choices, -1))
    assert quality.agreement(half) == 0.5
    with pytest.raises(InputError, match="other has choices"):
        quality.agreement(decode_quality(model, TOKENS))


def test_bad_input_is_refused(model):
    for start in (0, 34):
        with pytest.raises(InputError, match=f"start is {start}; allowed: 1 to 33"):
            decode_quality(model, TOKENS, start=start)
    with pytest.raises(InputError, match="prefill is 40"):
        decode_quality(model, TOKENS, prefill=40)
    with pytest.raises(InputError, match="sliding_attention"):
        decode_quality(tiny_model("gemma3"), TOKENS)
    other = Dictionaries.random(tiny_model("llama", seed=5), 24)
    with pytest.raises(InputError, match="dictionaries are for a model"):
        decode_quality(model, TOKENS, LexicoMethod(other, LexicoSettings(1, 1)))
