import numpy as np
import pytest
import torch

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.tasks import continue_prompts, draw_next, trajectory_counts, uniform_prompts
from superpose.theory import ContextConditionedMarkovChain, attention_weight, prompt_counts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_chain(tokens, seed=0):
    p = torch.rand(tokens, tokens, generator=generator(seed), dtype=torch.float64)
    return p / p.sum(1, keepdim=True)


def test_running_counts_draw_the_tokens_that_attention_draws():
    p, e = random_chain(4), torch.randn(4, 6, generator=generator(1), dtype=torch.float64)
    layer = OneLayerAttention(e)
    with torch.no_grad():
        layer.weight.copy_(attention_weight(p, e))
    prompts = uniform_prompts(30, 5, 4, generator(2))
    written = continue_prompts(p, prompts, 40, generator(3))
    ids, g = prompts, generator(3)
    for _ in range(40):
        edges = layer(ids).detach().cumsum(1)
        draw = torch.rand(30, generator=g, dtype=torch.float64)[:, None] * edges[:, -1:]
        ids = torch.cat([ids, (edges <= draw).sum(1, keepdim=True)], 1)
    assert torch.equal(ids[:, 5:], written)


def test_next_tokens_have_the_chains_frequencies():
    chain = ContextConditionedMarkovChain(random_chain(3))
    counts, last = prompt_counts([[0, 0, 1, 2]] * 20_000, 3)
    drawn = torch.bincount(draw_next(chain.transitions_, counts, last, generator()), minlength=3) / 20_000
    wanted = chain.next_token_probs([[0, 0, 1, 2]])[0]
    assert ((drawn - wanted).abs() < 5 * (wanted * (1 - wanted) / 20_000).sqrt()).all()


def test_absent_tokens_are_never_drawn():
    prompts = torch.tensor([[0, 2], [2, 2]]).repeat(200, 1)
    written = continue_prompts(random_chain(4), prompts, 50, generator())
    assert set(written[::2].unique().tolist()) == {0, 2} and set(written[1::2].unique().tolist()) == {2}


def test_counts_are_those_of_the_written_tokens_and_chains_may_differ():
    chains = torch.stack([random_chain(3, seed) for seed in range(7)])
    prompts = uniform_prompts(7, 4, 3, generator())
    written = continue_prompts(chains, prompts, 30, generator(5))
    counts = trajectory_counts(chains, prompts, (10, 30), generator(5))
    for column, end in enumerate((10, 30)):
        expected, _ = prompt_counts(torch.cat([prompts, written[:, :end]], 1), 3)
        assert torch.equal(counts[:, column], expected.double())
    alone = continue_prompts(chains[0], prompts, 30, generator(5))
    assert torch.equal(alone[0], written[0]) and not torch.equal(alone, written)


def test_prompts_may_be_ragged_and_the_generator_numpys():
    first = continue_prompts(random_chain(3), [[0], [1, 2, 2]], 20, np.random.default_rng(0))
    again = continue_prompts(random_chain(3), [[0], [1, 2, 2]], 20, np.random.default_rng(0))
    assert torch.equal(first, again) and first.shape == (2, 20) and (first[0] == 0).all()


def test_uniform_prompts_are_uniform():
    counts = torch.bincount(uniform_prompts(1000, 60, 5, generator()).flatten(), minlength=5) / 60_000
    assert (counts - 0.2).abs().max() < 5 * (0.16 / 60_000) ** 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: continue_prompts(random_chain(3), [[0]], 0, generator()), "steps is 0"),
        (lambda: continue_prompts(random_chain(3), [[3]], 1, generator()), "from 3 to 3"),
        (lambda: continue_prompts(torch.ones(2, 2), [[0]], 1, generator()), "sums to 2"),
        (lambda: continue_prompts(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), [[0]], 1, generator()), "no reachable"),
        (lambda: continue_prompts(random_chain(3).expand(2, 3, 3), [[0]], 1, generator()), "2 chains; allowed: one"),
        (lambda: trajectory_counts(random_chain(3), [[0]], (5, 5), generator()), "increasing"),
        (lambda: trajectory_counts(random_chain(3), [[0]], (), generator()), "increasing"),
        (lambda: uniform_prompts(1, 1, 1, generator()), "vocabulary is 1"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
