"""The study from end to end in seconds, and that its pieces are what its claims say they are."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from study_checks import smoke_claims
from superpose.studies import get_study
from superpose.studies.fine_tuning_capacity import steps, trained_steps
from superpose.theory import breakpoints, most_breaks, neurons_needed, worst_knots


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    found = smoke_claims("fine-tuning-capacity", options, ("trained-two", "trained-three"))
    judged = {claim.id for claim in get_study("fine-tuning-capacity").claims if claim.role == "judged"}
    assert {found[name].judgement.verdict for name in judged} == {"holds"}


def test_every_criterion_is_one_that_a_worse_network_would_miss(options):
    # A patch in which one neuron is moved: its error must be seen by what F1 measures.
    f = steps.frozen_network(3, 0)
    x = steps.inputs(40, 3, torch.Generator().manual_seed(0))
    from superpose.models import Patched, fit_patch

    g = fit_patch(f, x, torch.ones(4, 1, dtype=torch.float64), [0, 1, 2, 3])
    first = g[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.bias[0] += 1e-3
    wanted = f(x).clone()
    wanted[:4] = 1
    assert float((Patched(f, g)(x) - wanted).abs().max()) > 1e-4


def test_built_counts_what_the_planner_promises():
    found = steps.built(seed=1, depth=3, dim=4, tuned=(2, 9), multiples=(1, 3), tries=4)
    assert found["neurons"].tolist() == [[neurons_needed(n, None, 3).upper] * 2 for n in (2, 9)]
    assert found["error"].max() < 1e-9


def test_points_on_a_line_keep_their_distance():
    x = steps.inputs(500, 1, torch.Generator().manual_seed(0))[:, 0]
    assert not torch.equal(x, x.sort().values)
    assert float(x.sort().values.diff().min()) >= 0.5 / 500 - 1e-12


@pytest.mark.parametrize("samples", (2, 3, 5, 6))
def test_the_exhaustive_search_agrees_with_counting_by_hand(samples):
    found = steps.exhausted(0, samples)
    assert found["worst"] == [worst_knots(n, samples) for n in range(samples + 1)]
    assert found["instances"] == 3**samples
    assert found["disagrees"] == found["formula_violations"] == found["duality_violations"] == 0
    for m, most in enumerate(found["capacity"]):
        assert most == max(n for n, need in enumerate(found["worst"]) if need <= m)


@pytest.mark.parametrize(("first", "second"), list(itertools.product((3, 4, 7), (2, 5))))
def test_zigzags_reach_the_bound_on_breaks(first, second):
    weights = steps._sharp(first, second, np.random.default_rng(first))
    assert len(breakpoints(*weights)) == most_breaks((first, second))


def test_a_break_that_is_left_out_shows_as_a_bend():
    weights = steps._sharp(4, 3, np.random.default_rng(0))
    places = breakpoints(*weights)
    assert steps._bend(weights, places) < 1e-9
    assert steps._bend(weights, np.delete(places, 5)) > 1e-3


def test_fewest_needs_the_formula_and_no_more():
    found = steps.fewest(0, 5)
    assert found["error"] == 0
    assert found["worst"] == [worst_knots(n, 5) for n in range(6)]


def test_side_networks_have_the_width_asked_for_and_data_of_their_own():
    generator = torch.Generator().manual_seed(0)
    for depth, width in ((2, 7), (3, 9)):
        network = trained_steps._side_network(depth, width, generator)
        assert sum(m.out_features for m in network if isinstance(m, nn.Linear)) - 1 == width
    x, y = trained_steps._task(5, generator)
    assert x.shape == (10, trained_steps.DIM)
    assert set(y[:5].abs().tolist()) == {1.0}
    assert not y[5:].any()


def test_widths_climb_to_the_largest():
    assert trained_steps.widths(2, 8, 3.0) == [4, 6, 8, 11, 16, 23]
    three = trained_steps.widths(3, 128, 3.0)
    assert three == sorted(set(three))
    assert three[0] >= 2 * 128**0.5
    assert three[-1] <= 12 * 128**0.5
