"""The study from end to end in seconds, its exact parts at every scale, and its steps against each other."""

import numpy as np
import pytest
from pydantic import ValidationError

from study_checks import complete_claims
from superpose.experiment import Options, StepCache, Store, plan, run_study
from superpose.experiment.steps import StepCall
from superpose.studies import get_study
from superpose.studies.linear_icl_landscape import steps
from superpose.studies.linear_icl_landscape.config import Config

STUDY = get_study("linear-icl-landscape")
RECIPE = {"steps": 3, "batch": 8, "lr": 1e-2, "prompts": 400}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape")
    return run_study(plan(STUDY, scale="smoke"), Options(Store(folder / "store"), cache=StepCache(folder / "cache")))


def call(tmp_path, step, **arguments):
    return StepCall(step, arguments, "cpu", 1, tmp_path).execute()


def test_smoke_measures_every_claim_and_draws_every_figure(stored):
    complete_claims(stored)


def test_the_order_of_the_approximations_holds_at_smoke_scale(stored):
    verdicts = {claim.id: claim.judgement.verdict for claim in stored.record.claims}
    assert verdicts["I4"] == verdicts["I5"] == "holds"


def test_every_claim_can_be_measured_alone(options):
    for claim in ("I2", "I6"):
        record = run_study(plan(STUDY, scale="smoke", claims=[claim]), options).record
        assert any(found.id == claim and found.measurements for found in record.claims)


def test_sampled_risks_are_near_the_closed_forms(tmp_path):
    for design in (
        {"name": "rag-linear", "dim": 4, "points": 6, "alpha": 0.4, "noise": 0.3},
        {"name": "drift-linear", "dim": 3, "points": 4, "correlation": 0.6},
    ):
        found = call(tmp_path, steps.sampled, design=design, ranks=[None], prompts=20_000, seed=0)
        ratio = found["errors"][0] / found["exact"][0]
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    found = call(tmp_path, steps.updated, dim=3, n=5, prompts=20_000, seed=0)
    ratio = found["errors"] / np.array(found["exact"])[:, None]
    assert (np.abs(ratio.mean(1) - 1) < 5 * ratio.std(1) / 10).all()
    assert found["exact"] == sorted(found["exact"], reverse=True)


def test_a_training_is_compared_with_the_optimum_of_its_own_class(tmp_path):
    design = {"name": "drift-linear", "dim": 2, "points": 3, "correlation": 0.7}
    found = {
        m: call(tmp_path, steps.trained, model=m, design=design, rank=None, seed=0, **RECIPE)
        for m in ("h3", "attention")
    }
    assert found["h3"]["exact"] < found["attention"]["exact"]
    for one in found.values():
        difference = (one["errors"] - one["optimal_errors"]).mean()
        assert one["risk"] == pytest.approx(one["exact"] + difference) and one["risk"] > one["exact"]
        assert one["maps"].shape == (3, 2, 2)


def test_restarts_choose_among_different_initial_weights(tmp_path):
    design = {"name": "iid-linear", "dim": 2, "points": 3}
    common = {"model": "attention", "design": design, "rank": 1, "seed": 1, **RECIPE}
    plain = call(tmp_path, steps.trained, **common)
    chosen = call(tmp_path, steps.trained, **common, restarts=4, restart_steps=5)
    assert not np.array_equal(plain["maps"], chosen["maps"])
    again = call(tmp_path, steps.trained, **common, restarts=4, restart_steps=5)
    assert np.array_equal(again["maps"], chosen["maps"]) and again["risk"] == chosen["risk"]


def test_wider_classes_fit_no_worse_and_means_make_them_better(tmp_path):
    common = {"dim": 2, "n": 3, "prompts": 20_000, "seed": 0}
    found = call(tmp_path, steps.classes, mean=[1.0, 0.0], **common)
    assert found["attention"].mean() < 0.95 * found["gradient-step"].mean()
    assert abs(found["gradient-step"].mean() / found["exact"] - 1) < 0.06


def test_configs_that_do_not_fit_together_are_refused():
    with pytest.raises(ValidationError, match="spectrum has 5 entries; allowed: dim = 4"):
        Config(dim=4)
    with pytest.raises(ValidationError, match="ranks has 9; allowed: dim = 5 or less"):
        Config(ranks=(9,))
