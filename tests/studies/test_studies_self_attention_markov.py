"""The study from end to end in seconds, and its steps against what is known."""

import numpy as np
import pytest
import torch

import study_checks
from superpose.studies.self_attention_markov import steps, text_steps, trajectory_steps
from superpose.studies.self_attention_markov.config import CHAINS, SETTLING
from superpose.studies.self_attention_markov.measures import log_slope
from superpose.studies.self_attention_markov.trajectory_measures import lengths
from superpose.theory import self_dominant


@pytest.fixture
def in_step(tmp_path):
    """Inside a step, with a folder of its own."""
    with study_checks.in_step(tmp_path):
        yield


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    found = study_checks.smoke_claims("self-attention-markov", options)
    assert {found[name].judgement.verdict for name in ("M1", "M2", "M3", "M4")} == {"holds"}


def test_a_wrong_layer_would_be_seen(monkeypatch):
    right = steps.identities(4, 6, 10, 8, 0)
    monkeypatch.setattr(steps, "attention_transitions", lambda w, e: (e @ w.mT @ e.mT).softmax(-2).mT)
    wrong = steps.identities(4, 6, 10, 8, 0)
    assert right["weight"] < 1e-10 < 1e-3 < wrong["weight"] and right["chain"] < 1e-10 < 1e-3 < wrong["chain"]


def test_ranks_would_disagree_with_wrong_components(monkeypatch):
    assert steps.ranks(4, 12, 0)["agree"] == 12
    honest = steps.prompt_coverage
    monkeypatch.setattr(steps, "prompt_coverage", lambda present, last: honest(present | (last == 0)[:, None], last))
    assert steps.ranks(4, 12, 0)["agree"] < 12


def test_covered_rows_are_learned_and_the_others_are_not():
    found = steps.covered_learning(6, (2000, 20_000), 3)
    assert found["covered"][1] < found["covered"][0] and found["uncovered"][1] > 10 * found["covered"][1]
    assert found["within"][1] < found["covered"][1]


def test_gradient_descent_comes_down_to_the_fitted_chain(in_step):
    found = steps.gradient_descent(3, 12, 200, 400, 2)
    assert (np.diff(found["losses"], axis=1) < 1e-12).all() and found["losses"].shape == (2, 401)
    assert found["losses"][:, 0].min() > 1e-3 and abs(found["losses"][:, -1]).max() < 1e-6
    assert found["probabilities"].max() < 1e-2


def test_curvature_bounds_the_hessian():
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    prompts = torch.randint(4, (200, 5), generator=generator)
    counts, last = steps.prompt_counts(prompts, 4)
    for scale in (0.0, 0.3, 1.0):
        logits = scale * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        blocks = steps.count_information(logits, counts, last)
        parts = torch.einsum("ja,kb->kjab", e, e).reshape(4, 4, 36)
        hessian = torch.einsum("kix,kij,kjy->xy", parts, blocks, parts)
        assert torch.linalg.eigvalsh(hessian)[-1] <= steps._largest_curvature(e, counts, last)


def test_the_chains_of_the_study_are_what_their_names_say():
    for rows in CHAINS.values():
        assert bool(self_dominant(torch.tensor(rows))[0])
    for rows in SETTLING.values():
        chain = torch.tensor(rows)
        torch.testing.assert_close(chain.sum(1), torch.ones(len(rows)))
        assert not self_dominant(chain).any()


def test_random_chains_dominate_or_do_not():
    generator = torch.Generator().manual_seed(0)
    for dominant in (True, False):
        chain = trajectory_steps._chain(5, dominant, generator)
        torch.testing.assert_close(chain.sum(1), torch.ones(5, dtype=torch.float64))
        assert bool((self_dominant(chain) == dominant).all())


def test_information_is_the_sum_over_steps_by_hand():
    found = trajectory_steps.information("even", 6, (1, 2, 40), 0)
    assert (np.diff(found, axis=1) >= 0).all() and found.shape[1] == 3
    # The prompt (1, 0) has one of each: p = .3 of the loser at the first step, whatever comes.
    np.testing.assert_allclose(found[:, 0], 0.3 * 0.7)


def test_letters_are_text_and_plain_chains_keep_their_entropy():
    ids = text_steps.letters()
    assert len(ids) > 100_000 and ids.max() < len(text_steps.LETTERS)
    found = text_steps.letter_chains(8, (50, 2000), 0, text_steps.digest())
    assert found["counted"][:, -1].mean() < found["plain"][:, -1].mean()


def test_lengths_double_and_slopes_are_exact():
    assert lengths(100) == (12, 25, 50, 100)
    np.testing.assert_allclose(log_slope((1, 10, 100), np.array([[5.0, 0.5, 0.05]])), [-1.0])


@pytest.mark.parametrize("sampled", [False, True])
def test_continuations_are_the_models_own(tiny_folder, in_step, sampled):
    one = text_steps.continuations(str(tiny_folder), "float32", 2, 24, sampled, 0)
    again = text_steps.continuations(str(tiny_folder), "float32", 2, 24, sampled, 0)
    assert one["ids"].shape == (2, 24) and one["slope"].shape == (2, 6)
    np.testing.assert_array_equal(one["ids"], again["ids"])
    np.testing.assert_array_equal(one["slope"], again["slope"])
