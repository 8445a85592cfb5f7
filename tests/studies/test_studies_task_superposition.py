"""The study from end to end in seconds: every measure on a tiny random model, and one claim on the real one."""

import pytest

from superpose.experiment import plan, run_study
from superpose.studies import get_study


def claims(stored):
    return {claim.id: claim for claim in stored.record.claims}


def test_smoke_measures_every_claim_on_a_tiny_model(options):
    study = get_study("task-superposition")
    stored = run_study(plan(study, scale="smoke"), options)
    found = claims(stored)
    for claim in study.claims:
        assert bool(found[claim.id].measurements) == (claim.role != "unmeasurable"), claim.id
    # Random weights answer nothing: only the theorem, which needs no model, is judged.
    judged = {name for name, c in found.items() if c.judgement.verdict in ("holds", "fails", "inconclusive")}
    assert judged == {"TS3"}
    drawn = {row["curve"] for row in stored.tables().to_pylist()}
    for figure in study.figures:
        assert set(figure.curves) <= drawn, figure.id


def test_another_model_than_the_presets_is_measured_and_not_judged(tiny_folder, options):
    study = get_study("task-superposition")
    stored = run_study(plan(study, scale="smoke", claims=["TS3"], overrides={"model": str(tiny_folder)}), options)
    assert claims(stored)["TS3"].judgement.verdict == "not judged"
    assert claims(stored)["TS3"].measurements


def test_probabilities_of_a_mixture_and_other_sum_to_one(tiny_folder, options):
    study = get_study("superposition-measure")
    overrides = {"model": str(tiny_folder), "tasks": ("copy", "upper", "first"), "mixtures": ((0.5, 0.25, 0.25),)}
    overrides |= {"demonstrations": 4, "prompts": 3, "search_budget": 50}
    measured = {
        m.name: m.value for m in claims(run_study(plan(study, overrides=overrides), options))["mix"].measurements
    }
    shares = "0.5,0.25,0.25"
    total = sum(measured[f"p.{name}@{shares}"] for name in ("copy", "upper", "first", "other"))
    assert total == pytest.approx(1, abs=1e-6)
    assert measured[f"kl@{shares}"] > 0


def test_the_expressivity_theorem_holds_at_smoke_scale(options):
    stored = run_study(plan(get_study("task-superposition"), scale="smoke", claims=["TS3"]), options)
    found = claims(stored)["TS3"]
    assert found.judgement.verdict == "holds"
    assert {m.name: m.value for m in found.measurements}["layers"] == 3


@pytest.mark.real_model
def test_the_real_model_superposes_copy_and_capitalise(options):
    study = get_study("superposition-measure")
    overrides = {"mixtures": ((1, 0), (0.6, 0.4), (0, 1)), "prompts": 6, "demonstrations": 16}
    measured = {
        m.name: m.value for m in claims(run_study(plan(study, overrides=overrides), options))["mix"].measurements
    }
    # Pure prompts do their own task and hardly the other; the mixture does both.
    assert measured["p.copy@1,0"] > 0.7
    assert measured["p.capitalise@0,1"] > 0.6
    assert min(measured["p.copy@0.6,0.4"], measured["p.capitalise@0.6,0.4"]) > 5 * measured["p.copy@0,1"]
