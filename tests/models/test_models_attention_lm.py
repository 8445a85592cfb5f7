import pytest
import torch
from transformers import LogitsProcessorList, set_seed

from superpose.errors import InputError
from superpose.inference import CountReweightLogitsProcessor
from superpose.models import OneLayerAttention, SelfAttentionConfig, SelfAttentionLM
from superpose.tasks import uniform_prompts
from superpose.theory import ContextConditionedMarkovChain


def random_chain(tokens=5, seed=0):
    p = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    return ContextConditionedMarkovChain(p / p.sum(1, keepdim=True))


def prompts(count=8, length=10, tokens=5):
    return uniform_prompts(count, length, tokens, torch.Generator().manual_seed(1))


def embeddings():
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_every_position_is_the_chain_on_its_prefix():
    chain = random_chain()
    model = SelfAttentionLM.from_chain(chain, embeddings())
    logits = model(prompts()).logits.detach()
    for end in range(1, 11):
        expected = chain.next_token_probs(prompts()[:, :end])
        torch.testing.assert_close(logits[:, end - 1].exp(), expected, atol=1e-12, rtol=0)
        assert (logits[:, end - 1].isinf() == (expected == 0)).all()
    torch.testing.assert_close(model.chain().transitions_, chain.transitions_)


def test_logits_to_keep_and_padding_change_nothing():
    model = SelfAttentionLM.from_chain(random_chain(), embeddings())
    ids = prompts()
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([2, 5])).logits, full[:, [2, 5]])
    padded = torch.cat([torch.zeros(8, 4, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(8, 4), torch.ones(8, 10)], 1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 4:], full)


def test_positions_are_those_of_the_layer():
    layer = OneLayerAttention(embeddings(), positions=torch.randn(12, 7, dtype=torch.float64), seed=0)
    model = SelfAttentionLM.from_attention(layer)
    torch.testing.assert_close(model(prompts()).logits[:, -1].exp(), layer(prompts()), atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="position vectors"):
        model.chain()


def test_generate_writes_from_the_chain():
    chain = random_chain()
    model = SelfAttentionLM.from_chain(chain, embeddings())
    greedy = model.generate(prompts(), max_new_tokens=12, do_sample=False)
    for end in range(10, 22):
        best = chain.next_token_probs(greedy[:, :end]).argmax(1)
        assert torch.equal(greedy[:, end], best)
    set_seed(0)
    one = model.generate(prompts(1).expand(4000, -1), max_new_tokens=1, do_sample=True, top_k=0)[:, -1]
    wanted = chain.next_token_probs(prompts(1))[0]
    room = 5 * (wanted * (1 - wanted) / 4000).sqrt() + 1e-9
    assert ((torch.bincount(one, minlength=5) / 4000 - wanted).abs() < room).all()


def test_counts_on_a_base_chain_are_the_attention_model():
    """Reweighting by counts, strictly, on top of scores that depend on the last token only."""
    chain = random_chain()
    processor = CountReweightLogitsProcessor(1.0, strict=True)
    ids = prompts()
    base = chain.transitions_[ids[:, -1]].log()
    torch.testing.assert_close(processor(ids, base).softmax(-1), chain.next_token_probs(ids), atol=1e-6, rtol=0)
    # A second factor of the counts on top of the model's own.
    model = SelfAttentionLM.from_chain(chain)
    twice = model.generate(ids, max_new_tokens=1, do_sample=False, logits_processor=LogitsProcessorList([processor]))
    counts = torch.nn.functional.one_hot(ids, 5).sum(1)
    assert torch.equal(twice[:, -1], (chain.transitions_[ids[:, -1]] * counts**2).argmax(1))


def test_loss_is_the_chains_and_it_has_gradients():
    chain = random_chain()
    model = SelfAttentionLM.from_chain(chain)
    ids = torch.tensor([[0, 1, 1, 0, 1]])
    labels = torch.tensor([[-100, -100, 1, 0, 1]])
    out = model(ids, labels=labels)
    by_hand = chain.log_likelihood([[0, 1], [0, 1, 1], [0, 1, 1, 0]], [1, 0, 1])
    assert out.loss.item() == pytest.approx(-by_hand)
    out.loss.backward()
    gradient = model.layer.matrix.grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_saving_and_loading(tmp_path):
    model = SelfAttentionLM.from_chain(random_chain(), embeddings())
    model.save_pretrained(tmp_path)
    again = SelfAttentionLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(again(prompts()).logits, model(prompts()).logits)
    written = again.generate(prompts(), max_new_tokens=5, do_sample=False)
    assert torch.equal(written, model.generate(prompts(), max_new_tokens=5, do_sample=False))


def test_single_precision():
    chain = random_chain()
    model = SelfAttentionLM.from_chain(chain, embeddings(), dtype=torch.float32)
    found = model(prompts()).logits[:, -1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().double(), chain.next_token_probs(prompts()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: SelfAttentionConfig(vocab_size=1), "vocab_size is 1"),
        (lambda m: SelfAttentionConfig(vocab_size=4, width=3), "width is 3"),
        (lambda m: SelfAttentionConfig(vocab_size=4, width=4, places=-1), "places is -1"),
        (lambda m: m(torch.tensor([[0, 5]])), "token 5"),
        (lambda m: m(torch.tensor([[0, 1]]), labels=torch.tensor([[0, 2]])), r"labels\[0, 1\] is 2"),
        (lambda m: SelfAttentionLM.from_attention(OneLayerAttention(torch.eye(3).expand(2, 3, 3))), "axes of sets"),
        (lambda m: SelfAttentionLM.from_chain(ContextConditionedMarkovChain([[1.0, 0.0], [0.5, 0.5]])), "is 0"),
    ],
)
def test_wrong_input_is_refused(call, message):
    model = SelfAttentionLM.from_chain(random_chain())
    with pytest.raises(InputError, match=message):
        call(model)
