"""The study from end to end in seconds, its counts against plain loops, and its criteria."""

import math

import numpy as np
import pytest
import torch

from study_checks import in_step, smoke_claims
from superpose.experiment import exact, judge
from superpose.studies import get_study
from superpose.studies.icl_newton import steps, trained_steps
from superpose.studies.icl_newton.figures import GAPS, NARROW
from superpose.studies.icl_newton.prompts import classification, spread, with_singular_values
from superpose.theory import (
    damped_newton_path,
    logistic_descent_path,
    logistic_loss,
    logistic_optimum,
    logistic_rows,
)


def train(folder, **changes):
    folder.mkdir(exist_ok=True)
    settings = {"kind": "linear", "depth": 1, "norm": "none", "width": 8, "heads": 2, "train_steps": 300, "batch": 32}
    with in_step(folder):
        return trained_steps.trained_linear_attention(
            **{**settings, "rate": 1e-2, "prompts": 500, "seed": 0, **changes}
        )


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    verdicts = {
        name: claim.judgement.verdict
        for name, claim in smoke_claims("icl-newton", options, ("regression-1000",)).items()
    }
    assert {verdicts[name] for name in ("N1", "N2", "N5", "N6")} == {"holds"}
    assert {verdicts[name] for name in ("N3", "N4", "D1", "D2", "D3")} == {"not judged"}


def test_prompts_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    a = with_singular_values(generator, 3, 9, spread(50.0, 4))
    torch.testing.assert_close(torch.linalg.svdvals(a), spread(50.0, 4).expand(3, -1))
    rows, labels = classification(generator, 4, 500, 5, narrow=0.1)
    assert torch.linalg.vector_norm(rows, dim=-1).amax(-1).tolist() == pytest.approx([1] * 4)
    spreads = rows.std(1) / rows.std(1)[:, :1]
    torch.testing.assert_close(spreads, spread(10.0, 5).expand(4, -1), rtol=0.2, atol=0)
    assert torch.equal(logistic_rows(rows, labels).abs(), rows.abs())
    # Signs of a hyperplane can be told apart without error, labels from the logistic model cannot.
    losses = []
    for noisy in (False, True):
        b = logistic_rows(*classification(generator, 4, 500, 5, noisy=noisy))
        losses.append(logistic_loss(b, logistic_optimum(b, 1e-4), 1e-4))
    assert float(losses[0].max()) < 0.5 * float(losses[1].min())


def test_blocks_are_the_fewest_over_all_counts():
    found = steps.blocks_needed(0.05, 2, 300, False, 7)
    a, y = classification(torch.Generator().manual_seed(7), 2, 200, 8, narrow=NARROW)
    for prompt, (rows, labels) in enumerate(zip(a, y, strict=True)):
        b = labels[:, None] * rows
        least = logistic_loss(b, logistic_optimum(b, 0.05), 0.05)
        descent = logistic_descent_path(b, 0.05, 300)
        for at, gap in enumerate(GAPS):
            best = math.inf
            for inner in range(1, 9):
                for t, w in enumerate(damped_newton_path(b, 0.05, 30, inner)[0]):
                    if float(logistic_loss(b, w, 0.05) - least) <= gap:
                        best = min(best, t * (7 + 2 * inner))
                        break
            assert found["blocks"][prompt, at] == best
            first = next(t for t, w in enumerate(descent) if float(logistic_loss(b, w, 0.05) - least) <= gap)
            assert found["descent"][prompt, at] == first


def test_a_network_of_the_counted_depth_reaches_the_counted_gap():
    counted = steps.blocks_needed(0.1, 2, 10, False, 4)
    gap = steps.network_gap(0.1, int(counted["steps"][-1]), int(counted["inner"][-1]), 800, 2, 4)
    assert -1e-15 < gap < 2 * GAPS[-1]


def test_the_rate_of_gradient_descent_is_no_worse_than_the_textbooks():
    kappa, depths = 30.0, (5,)
    found = steps.regression_errors(kappa, 20, depths, 0)
    assert np.isfinite(found["newton"]).all() and np.isfinite(found["newton2"]).all()
    worst = (kappa - 1) / (kappa + 1)
    # With the rate for the worst case errors shrink by this much per step; queries and weights are of order 1.
    assert math.sqrt(found["descent"].mean()) < 3 * worst**5
    even = steps.regression_errors(kappa, 20, (4, 5), 0)["newton2"]
    assert np.isnan(even[:, 0]).all() and np.isfinite(even[:, 1]).all()


def test_trained_models_learn_and_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    assert whole["score"] < 0.7 and whole["parameters"] == 8 * 7 + 3 * 64 + 64 + 9

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained_steps, "test_prompts", dies)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    assert train(tmp_path / "killed") == whole


def test_references_are_ordered_as_theory_orders_them():
    linear = trained_steps.iterates("linear", 6, 400)
    linear = {name: path["mean"] for name, path in linear.items()}
    assert (np.diff(linear["Newton, best start"]) < 0).all() and (np.diff(linear["gradient descent"]) < 0).all()
    # t Newton iterates from a multiple of the identity are 2^t gradient steps of the same rate.
    np.testing.assert_allclose(linear["Newton, best start"][:3], linear["gradient descent"][[1, 2, 4]], rtol=1e-6)
    assert (linear["Newton, general start"] > linear["Newton, best start"]).all()
    logistic = {name: path["mean"] for name, path in trained_steps.iterates("logistic", 6, 400).items()}
    assert (logistic["damped Newton"][1:] > logistic["regularised optimum"][1:] - 0.02).all()
    assert logistic["damped Newton"][0] == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("claim", "changes", "verdict"),
    [
        ("N1", {}, "holds"),
        ("N1", {"relu-units": 4}, "fails"),
        ("N1", {"layers": 1}, "fails"),
        ("N3", {}, "holds"),
        ("N3", {"smallest-fall": 7.0}, "fails"),
        ("N4", {}, "holds"),
        ("N4", {"largest-growth": 2.6}, "fails"),
        ("N4", {"descent-growth.mu-0.001": 3.0}, "fails"),
        ("N5", {}, "holds"),
        ("N5", {"blocks-above-bound": 1}, "fails"),
        ("N5", {"largest-slope": 0.7}, "fails"),
    ],
)
def test_criteria_can_fail(claim, changes, verdict):
    good = {
        "N1": {"largest-relative-error": 1e-15, "layers": 2, "relu-units": 0},
        "N3": {"largest-distance": 1e-5, "largest-step-difference": 1e-5, "smallest-fall": 16.0},
        "N4": {
            "largest-growth": 2.0,
            "growth.mu-0.001": 1.3,
            "descent-growth.mu-0.001": 5.0,
            "descent-growth.mu-0.0001": 5.0,
        },
        "N5": {"blocks-above-bound": -4, "smallest-slope": 0.49, "largest-slope": 0.51},
    }
    numbers = good[claim] | changes
    measured = [exact(name, value) for name, value in numbers.items()]
    assert judge(get_study("icl-newton").claim(claim), "laptop", measured).verdict == verdict
