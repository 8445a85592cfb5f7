"""The study from end to end in seconds, and its steps against independent computations."""

import numpy as np
import pytest
import torch

from study_checks import in_step, smoke_claims
from superpose.errors import InputError
from superpose.experiment import plan, run_study
from superpose.studies import get_study
from superpose.studies.distillation_high_dim import digit_steps, measures, steps
from superpose.studies.distillation_high_dim.spectra import SPECTRA, spectrum
from superpose.theory import optimal_surrogate, power_law, target_risk


@pytest.fixture
def inside(tmp_path):
    with in_step(tmp_path):
        yield


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    found = smoke_claims("distillation-high-dim", options)
    assert {found[c].judgement.verdict for c in ("K3", "K4")} == {"holds"}


def test_a_claim_can_be_measured_alone(options):
    stored = run_study(plan(get_study("distillation-high-dim"), scale="smoke", claims=["K4"]), options)
    (k4,) = [claim for claim in stored.record.claims if claim.id == "K4"]
    assert {"gap-in-standard-errors", "coordinates-unlike-the-best-mask"} <= {m.name for m in k4.measurements}


def test_simulated_risks_are_those_of_pseudo_inverses_and_share_inputs_and_noise(inside):
    lam, truth = power_law(12, 2.0, 1.5)
    surrogates = np.stack([truth, 2 * truth])
    found = steps.simulate(lam, truth, surrogates, 5, [0.0, 0.3], 3, torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    x = torch.randn(3, 5, 12, generator=g, dtype=torch.float64).numpy() * np.sqrt(lam)
    z = torch.randn(3, 5, generator=g, dtype=torch.float64).numpy()
    assert found.shape == (2, 2, 3)
    for i, noise in enumerate((0.0, 0.3)):
        for j, surrogate in enumerate(surrogates):
            for k in range(3):
                fit = np.linalg.pinv(x[k]) @ (x[k] @ surrogate + noise**0.5 * z[k])
                assert found[i, j, k] == pytest.approx((lam * (fit - truth) ** 2).sum(), rel=1e-8)


def test_the_numerical_minimum_would_show_a_wrong_formula(monkeypatch):
    right = steps.minimised("geometric", 30, 12)
    assert right["difference"] < 1e-6 and right["agree"] == right["checked"] > 0
    monkeypatch.setattr(steps, "optimal_surrogate", lambda *a: 1.001 * optimal_surrogate(*a))
    assert steps.minimised("geometric", 30, 12)["difference"] > 9e-4


def test_masks_would_show_a_wrong_criterion(monkeypatch):
    assert steps.masks("log-normal", 10, 4)["differs"] == 0
    assert steps.mask_changes("log-normal", 40, 15)["smallest"] >= 0
    monkeypatch.setattr(steps, "kept_features", lambda lam, n: np.ones(len(lam), dtype=bool))
    assert steps.masks("log-normal", 10, 4)["differs"] > 0
    assert steps.mask_changes("log-normal", 40, 15)["smallest"] < 0


def test_excess_is_one_at_the_edge_of_what_is_allowed():
    values = np.array([0.9, 1.1] * 50)
    error = values.std(ddof=1) / 10
    assert measures.excess(values, 1 + 4 * error, 0.0) == pytest.approx(1)
    assert measures.excess(values, 2.0, 0.5) == pytest.approx(1)


def test_every_spectrum_is_one():
    for name in SPECTRA:
        lam, truth = spectrum(name, 20)
        assert (lam > 0).all() and len(truth) == 20 and target_risk(lam, truth, truth, 5) > 0
    with pytest.raises(ValueError, match="no spectrum"):
        spectrum("flat", 20)


def test_networks_see_disjoint_images_and_equal_seeds_give_equal_accuracies(inside, monkeypatch):
    seen = []
    fit = digit_steps.fit
    monkeypatch.setattr(digit_steps, "fit", lambda net, x, y, *rest: (seen.append(x), fit(net, x, y, *rest)))
    settings = {"widths": [2], "target_width": 4, "surrogate_images": 60, "target_images": 90, "train_steps": 3}
    one, two = (digit_steps.networks(**settings, seed=1) for _ in range(2))
    assert one == two
    large, small = seen[:2]
    assert len(large) == 90 and len(small) == 60
    images = torch.cat([large, small]).flatten(1)
    # A few digits are in the data set twice.
    assert len(images.unique(dim=0)) > 145


def test_settings_that_do_not_fit_are_refused_before_any_work():
    for setting, value in (
        ("figure_samples", "7"),
        ("samples", "20,700"),
        ("classical_samples", "11"),
        ("surrogate_images", "1600"),
        ("runs", "2"),
    ):
        with pytest.raises(InputError, match=setting):
            plan(get_study("distillation-high-dim"), scale="smoke", overrides={setting: value})
