"""The study from end to end in seconds, its data sets, and its comparisons on weights that are known."""

import numpy as np
import pytest
import torch

from study_checks import smoke_claims
from superpose.errors import InputError
from superpose.experiment import plan
from superpose.studies import get_study
from superpose.studies.next_token_mechanics import samples, steps
from superpose.studies.next_token_mechanics.samples import random_set, stack, text_set, unseen_prompts

SHAPE = (6, 8, 6, 4)


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    smoke_claims("next-token-mechanics", options)


@pytest.mark.parametrize("cyclic", [True, False])
def test_data_sets_are_of_their_kind(cyclic):
    sets = [random_set(seed, SHAPE, cyclic) for seed in range(4)]
    embeddings, ids, labels = stack(sets)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4, 6, dtype=torch.float64))
    assert ids.shape == (4, 6, 4)
    for one, prompts, nexts in zip(sets, ids, labels, strict=True):
        assert one.graph.is_acyclic != cyclic
        assert one.automaton.hard_.any()
        for row, label in zip(prompts.tolist(), nexts.tolist(), strict=True):
            assert len(set(row)) == 4 and label in row
    again = random_set(0, SHAPE, cyclic)
    assert again.data.sequences == sets[0].data.sequences != sets[1].data.sequences


def test_unseen_prompts_are_ordered_and_were_not_trained_on():
    for seed in range(4):
        one = random_set(seed, SHAPE, cyclic=True)
        prompts = unseen_prompts(one, 20, 4, seed)
        assert prompts and bool(one.automaton.is_ordered(prompts).all())
        seen = {(frozenset(row), row[-1]) for row in one.data.sequences}
        assert not seen & {(frozenset(row), row[-1]) for row in prompts}
        for row in prompts:
            for i in row:
                assert all(one.graph.relation(i, j, row[-1]) != "incomparable" for j in row)


def test_the_text_gives_prompts_that_hold_their_label():
    one, alphabet = text_set(8)
    assert alphabet[0] == " " and alphabet[1:].isalpha() and alphabet == "".join(sorted(alphabet))
    assert len(one.data) > 100 and not one.graph.is_acyclic
    assert all(label in row and len(row) == 8 for row, label in zip(one.data.sequences, one.data.labels, strict=True))


def test_comparisons_on_weights_made_of_both_components():
    one = random_set(3, SHAPE, cyclic=True)
    hard, soft = one.automaton.hard_, one.automaton.soft_
    weights = (30 * hard + soft)[None]
    found = steps._compared([one], weights[None])
    assert found["multiple"][0, 0] == pytest.approx(30 + float((soft * hard).sum() / hard.square().sum()))
    assert found["finite"][0, 0] < 1e-8 and found["rest"][0, 0] < 1e-6
    assert found["proj_corr"][0, 0] == pytest.approx(1)
    gaps = steps._pair_gaps([one], weights)
    assert np.abs(gaps["gap"] - gaps["wanted"]).max() < float(soft.norm()) / 5 + 1e-9
    distances = steps._distances([one], weights, 10, 4)
    assert distances["distance_training"].max() < 1e-9
    assert distances["distance_unseen"].max() < 1e-9
    # Other weights are told apart.
    assert steps._distances([one], 0 * weights, 10, 4)["distance_training"].max() > 0.1
    assert np.abs(steps._pair_gaps([one], weights)["wanted"][gaps["equal"].astype(bool)]).max() < 1e-8


def test_bad_settings_are_refused_before_any_work(monkeypatch):
    for setting, value in (
        ("shape", "9,8,6,4"),
        ("trained_shape", "6,8,6,7"),
        ("penalties", "1e-6,1e-2"),
        ("radii", "20,10"),
        ("steps", "0"),
    ):
        with pytest.raises(InputError, match=setting):
            plan(get_study("next-token-mechanics"), scale="smoke", overrides={setting: value})
    monkeypatch.setattr(samples, "MOST_DRAWS", 50)
    with pytest.raises(InputError, match="no acyclic data set in 50 draws"):
        random_set(0, (3, 4, 60, 3), cyclic=False)
