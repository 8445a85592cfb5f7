"""The study from end to end in seconds, and what its served runs must be so that the wall clock means something."""

import numpy as np
import pytest

from study_checks import smoke_claims
from superpose.experiment import plan, run_study
from superpose.studies import get_study
from superpose.studies.multi_bin_batching.prompts import TEMPLATES, template_prompts


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    assert smoke_claims("multi-bin-batching", options, shortened=["C8"])["C3"].judgement.verdict == "holds"


def test_theory_claims_hold_with_fewer_requests(options):
    study = get_study("multi-bin-batching")
    overrides = {"seeds": 5, "requests": 64_000, "batch_size": 32, "bins": (1, 2, 4), "perturbations": 100}
    stored = run_study(plan(study, claims=["C1", "C2"], overrides=overrides), options)
    measured = {m.name: m for claim in stored.record.claims for m in claim.measurements}
    assert measured["largest-error"].high < 0.01
    assert measured["smallest-step"].low > 0
    assert measured["optimiser-distance"].value < 1e-4
    assert measured["largest-gain"].value <= 0


def test_a_gain_in_steps_is_what_the_batches_say(options):
    overrides = {"layers": 1, "width": 16, "served": 40, "served_bins": (1, 4), "median": 6, "cap": 20}
    study = get_study("multi-bin-batching")
    stored = run_study(plan(study, claims=["C8"], overrides=overrides), options)
    (claim,) = (claim for claim in stored.record.claims if claim.id == "C8")
    measured = {m.name: m.value for m in claim.measurements}
    from superpose.inference import MultiBinBatchSampler, lognormal_lengths

    lengths = lognormal_lengths(40, np.random.default_rng(11), median=6, cap=20)
    one, four = (sum(lengths[batch].max() for batch in MultiBinBatchSampler(lengths, 8, k)) for k in (1, 4))
    assert measured["gain-in-steps.k=4"] == pytest.approx(one / four - 1)
    assert measured["waste.k=1"] == pytest.approx(1 - lengths.sum() / (8 * one))
    assert measured["gain-in-steps.sorted"] >= measured["gain-in-steps.k=4"] - 1e-9


def test_prompts_follow_their_templates():
    texts, lengths = template_prompts(700, 40, 160, np.random.default_rng(0))
    assert len(texts) == len(lengths) == 700
    assert lengths.min() >= 1
    assert lengths.max() <= 160
    starts = {template.split("{")[0] for template, *_ in TEMPLATES}
    assert {next(start for start in starts if text.startswith(start)) for text in texts} == starts
    counted = [(int(text.split()[-1][:-1]), n) for text, n in zip(texts, lengths, strict=True) if "Count" in text]
    assert np.corrcoef(np.array(counted).T)[0, 1] > 0.95


def test_template_prompts_are_distinct_enough_to_hold_some_back():
    first, _ = template_prompts(100, 40, 160, np.random.default_rng(1))
    second, _ = template_prompts(100, 40, 160, np.random.default_rng(1))
    assert first == second
    assert len(set(first)) > 60
