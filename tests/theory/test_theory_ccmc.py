import warnings

import numpy as np
import pytest
import torch

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.tasks import draw_next, uniform_prompts
from superpose.theory import (
    ContextConditionedMarkovChain,
    UnidentifiedWarning,
    attention_transitions,
    attention_weight,
    expected_excess_loss,
    position_weights,
    project_weight,
    prompt_counts,
    trajectory_samples,
    uniform_prompt_excess_loss,
)
from superpose.theory.ccmc_risk import uniform_prompt_counts


def setting(tokens=5, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    p = torch.rand(tokens, tokens, generator=generator, dtype=torch.float64) + 0.05
    return embeddings, p / p.sum(1, keepdim=True), generator


def layer_of(embeddings, weight, positions=None):
    layer = OneLayerAttention(embeddings, positions=positions)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def test_attention_is_the_chain_on_prompts_of_every_length():
    embeddings, p, generator = setting()
    chain = ContextConditionedMarkovChain(p)
    weight, classifier = chain.to_attention(embeddings)
    layer = layer_of(embeddings, weight)
    torch.testing.assert_close(layer.classifier, classifier)
    for length in (1, 2, 7, 64):
        ids = uniform_prompts(50, length, 5, generator)
        torch.testing.assert_close(layer(ids).detach(), chain.next_token_probs(ids), atol=1e-12, rtol=0)


def test_probabilities_are_counts_times_transitions_by_hand():
    chain = ContextConditionedMarkovChain([[0.5, 0.3, 0.2], [0.0, 0.9, 0.1], [0.2, 0.2, 0.6]])
    found = chain.next_token_probs([[0, 0, 2, 1], [2]])
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.9, 0.1], dtype=torch.float64))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    asked = chain.next_token_probs([[0, 0, 2]], queries=[0])
    torch.testing.assert_close(asked[0], torch.tensor([1.0, 0.0, 0.2], dtype=torch.float64) / 1.2)


def test_weights_and_chains_map_to_one_another():
    embeddings, p, generator = setting()
    weight = attention_weight(p, embeddings)
    torch.testing.assert_close(attention_transitions(weight, embeddings), p, atol=1e-12, rtol=0)
    torch.testing.assert_close(project_weight(weight, embeddings), weight, atol=1e-12, rtol=0)
    free = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    projected = project_weight(free, embeddings)
    back = attention_weight(attention_transitions(free, embeddings), embeddings)
    torch.testing.assert_close(back, projected, atol=1e-11, rtol=0)
    chain = ContextConditionedMarkovChain.from_attention(free, embeddings)
    torch.testing.assert_close(chain.transitions_, attention_transitions(projected, embeddings))


def test_the_projection_is_onto_the_span_of_differences_times_embeddings():
    embeddings, _, generator = setting(tokens=3, width=4)
    span = torch.stack(
        [
            torch.outer(embeddings[i] - embeddings[j], embeddings[k]).flatten()
            for i in range(3)
            for j in range(3)
            for k in range(3)
        ]
    )
    assert int(torch.linalg.matrix_rank(span)) == 3 * 2
    onto = torch.linalg.pinv(span) @ span
    free = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(project_weight(free, embeddings).flatten(), onto @ free.flatten())


def test_the_centring_is_the_plain_column_mean_only_for_orthogonal_embeddings():
    _, p, _ = setting(tokens=4)
    logs = p.log().mT
    weight = attention_weight(p, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(weight, logs - logs.mean(0))


def test_positions_turn_counts_into_weights():
    embeddings, p, generator = setting()
    places = torch.randn(9, 8, generator=generator, dtype=torch.float64)
    weight = attention_weight(p, embeddings)
    ids = uniform_prompts(40, 9, 5, generator)
    scaled = position_weights(ids, weight, embeddings, places) * p[ids[:, -1]]
    expected = layer_of(embeddings, weight, places)(ids).detach()
    torch.testing.assert_close(scaled / scaled.sum(1, keepdim=True), expected, atol=1e-12, rtol=0)
    none = position_weights(ids, weight, embeddings, torch.zeros(9, 8))
    torch.testing.assert_close(none, prompt_counts(ids, 5)[0].double())


def test_fit_finds_the_chain_and_says_what_it_saw():
    _, p, generator = setting(tokens=4)
    prompts = uniform_prompts(40_000, 8, 4, generator)
    counts, last = prompt_counts(prompts, 4)
    targets = draw_next(p, counts, last, generator)
    chain = ContextConditionedMarkovChain(vocabulary=4).fit(prompts, targets)
    assert (chain.transitions_ - p).abs().max() < 0.03
    assert chain.coverage_.identified and chain.log_likelihood_ >= ContextConditionedMarkovChain(p).log_likelihood(
        prompts, targets
    )
    torch.testing.assert_close(chain.logits_.softmax(0).mT, chain.transitions_)
    same = ContextConditionedMarkovChain(vocabulary=4).fit(prompts.tolist(), targets.numpy())
    torch.testing.assert_close(same.transitions_, chain.transitions_)


def test_fit_warns_of_what_prompts_leave_open_and_chooses_minimum_norm():
    # After 0 the tokens 0 and 1 are contrasted; 2 never; what follows 1 and 2 is never asked.
    prompts, targets = [[1, 0], [1, 1, 0], [0, 1, 0]], [0, 1, 1]
    with pytest.warns(UnidentifiedWarning, match="do not identify what follows 0, 1, 2"):
        chain = ContextConditionedMarkovChain(vocabulary=3).fit(prompts, targets)
    assert chain.coverage_.components[0] == ((0, 1), (2,))
    torch.testing.assert_close(chain.logits_[:2, 0].sum(), torch.zeros((), dtype=torch.float64))
    assert chain.logits_[2, 0] == 0 and chain.logits_[:, 1:].abs().max() == 0
    with pytest.raises(InputError, match=r"3 of 3 .*after 0: \{0, 1\} \| \{2\}.*with the prompt \[2, 0\]"):
        ContextConditionedMarkovChain(vocabulary=3).fit(prompts, targets, require_coverage=True)


def test_the_prompts_to_add_identify_everything():
    _, p, generator = setting(tokens=5)
    prompts = [[1, 0], [3, 4, 0], [2], [2, 1], [0, 4]]
    chain = ContextConditionedMarkovChain(vocabulary=5)
    more = prompts + chain.coverage(prompts).prompts_to_add()
    assert chain.coverage(more).identified
    counts, last = prompt_counts(more * 50, 5)
    targets = draw_next(p, counts, last, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain.fit(more * 50, targets, require_coverage=True)


def test_single_token_prompts_teach_nothing():
    with pytest.warns(UnidentifiedWarning):
        chain = ContextConditionedMarkovChain(vocabulary=3).fit([[0], [1, 1], [2]] * 41, [0, 1, 2] * 41)
    assert chain.logits_.abs().max() < 1e-9


def test_a_trajectory_is_as_many_samples_as_tokens_written():
    counts, last, targets = trajectory_samples(torch.tensor([[0, 1, 1, 0]]), 2, start=2)
    assert counts.tolist() == [[1, 1], [1, 2]] and last.tolist() == [1, 1] and targets.tolist() == [1, 0]
    with pytest.raises(InputError, match="start is 4; allowed: 1 to 3"):
        trajectory_samples(torch.tensor([[0, 1, 1, 0]]), 2, start=4)


def test_excess_loss_is_that_of_sampling_and_zero_for_the_truth():
    _, p, generator = setting(tokens=3)
    truth = p.log().mT.contiguous()
    other = truth + torch.randn(3, 3, generator=generator, dtype=torch.float64) / 3
    assert abs(uniform_prompt_excess_loss(truth, truth + torch.tensor([1.0, -2.0, 3.0]), 6)) < 1e-15
    prompts = uniform_prompts(200_000, 6, 3, generator)
    right = ContextConditionedMarkovChain(p).next_token_probs(prompts)
    wrong = ContextConditionedMarkovChain(other.softmax(0).mT).next_token_probs(prompts)
    gaps = torch.where(right > 0, right * (right / wrong).log(), 0.0).sum(1)
    error = float(gaps.std()) / len(gaps) ** 0.5
    assert abs(uniform_prompt_excess_loss(truth, other, 6) - float(gaps.mean())) < 5 * error


def test_counts_of_uniform_prompts_are_all_and_multinomial():
    counts, weights = uniform_prompt_counts(3, 5)
    assert len(counts) == 15 and len({tuple(row) for row in counts.tolist()}) == 15 and (counts.sum(1) == 4).all()
    draws = np.random.default_rng(0).multinomial(4, [1 / 3] * 3, 100_000)
    for row, weight in zip(counts.tolist(), weights.tolist(), strict=True):
        assert abs((draws == row).all(1).mean() - weight) < 0.006


def test_the_mean_excess_loss_is_wilks_at_many_samples():
    found = []
    for seed in range(40):
        _, p, generator = setting(tokens=3, seed=seed)
        prompts = uniform_prompts(4000, 6, 3, generator)
        counts, last = prompt_counts(prompts, 3)
        targets = draw_next(p, counts, last, generator)
        chain = ContextConditionedMarkovChain(vocabulary=3).fit(prompts, targets)
        found.append(
            uniform_prompt_excess_loss(p.log().mT.contiguous(), chain.logits_, 6) / expected_excess_loss(3, 4000)
        )
    # 40 chi-squared variables with 6 degrees of freedom.
    assert abs(np.mean(found) - 1) < 4 * (2 / 6 / 40) ** 0.5


CHAIN = ContextConditionedMarkovChain([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ContextConditionedMarkovChain(), "exactly one"),
        (lambda: ContextConditionedMarkovChain(vocabulary=1), "vocabulary is 1"),
        (lambda: ContextConditionedMarkovChain(vocabulary=2, l2=-1.0), "l2 is -1.0"),
        (lambda: ContextConditionedMarkovChain([[0.5, 0.4], [0.5, 0.5]]), "sums to 0.9"),
        (lambda: CHAIN.next_token_probs([[1, 1], [0, 0]]), r"prompts\[1\] has no reachable token"),
        (lambda: CHAIN.next_token_probs([]), "prompts is empty"),
        (lambda: CHAIN.next_token_probs([[0], []]), "empty prompt"),
        (lambda: CHAIN.next_token_probs([[0, 3]]), "from 0 to 3; allowed: 0 to 2"),
        (lambda: CHAIN.next_token_probs([[0, 1]], queries=[0, 1]), "queries has 2"),
        (lambda: CHAIN.log_likelihood([[0, 1], [0, 1]], [0, 2]), r"targets\[1\] is 2, which does not occur"),
        (lambda: ContextConditionedMarkovChain(vocabulary=3).fit([[0, 1]], [2]), r"targets\[0\] is 2"),
        (lambda: ContextConditionedMarkovChain(vocabulary=3).fit([[0, 1]], [1, 1]), "targets has 2 entries"),
        (lambda: CHAIN.to_attention(torch.eye(3)), r"transitions\[0, 0\] is 0"),
        (lambda: attention_weight(torch.full((2, 2), 0.5), torch.ones(2, 3)), "rank 1"),
        (lambda: attention_weight(torch.full((2, 2), 0.5), torch.eye(3)), "transitions has 2 tokens; allowed: 3"),
        (lambda: project_weight(torch.eye(1), torch.eye(1)), "embeddings has 1 tokens"),
        (lambda: project_weight(torch.eye(2), torch.ones(2, 2)), "rank 1"),
        (lambda: position_weights(torch.zeros(1, 3).long(), torch.eye(2), torch.eye(2), torch.eye(2)), "length 3"),
        (lambda: expected_excess_loss(1, 10), "vocabulary is 1"),
        (lambda: uniform_prompt_counts(20, 30), "allowed: 2 million"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
