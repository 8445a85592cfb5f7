"""The study from end to end in seconds, its long prompts against short ones written out, and its data."""

import numpy as np
import pytest
import torch

from study_checks import in_step, smoke_claims
from superpose.errors import InputError
from superpose.experiment import plan, run_study
from superpose.models import load
from superpose.studies import get_study
from superpose.studies.dual_operating_modes import label_steps, steps
from superpose.studies.dual_operating_modes.label_measures import bins_of
from superpose.studies.dual_operating_modes.prompts import nested_statistics, posterior_path
from superpose.studies.dual_operating_modes.sentiments import NEGATIVE, POSITIVE, reviews
from superpose.theory import early_ascent_prior


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    smoke_claims("dual-operating-modes", options)


def test_the_closed_form_and_the_bound_hold_at_smoke_scale(options):
    stored = run_study(plan(get_study("dual-operating-modes"), scale="smoke", claims=["DM1", "DM4"]), options)
    verdicts = {claim.id: claim.judgement.verdict for claim in stored.record.claims}
    assert {verdicts["DM1"], verdicts["DM4"]} == {"holds"}


def test_the_standard_error_of_the_sampled_reference_is_the_size_of_its_errors():
    found = [steps.posterior_check(seed, 5000, 4, 2, 3) for seed in range(40)]
    assert 0.7 < np.sqrt(np.mean([one["in_errors"] ** 2 for one in found])) < 1.4
    assert max(one["conditioning"] for one in found) < 1e-12
    # The largest of three differences against the largest of their standard errors.
    assert 0.5 < np.median([one["weights"] / one["weight_error"] for one in found]) < 1.2


def test_sums_of_many_inputs_have_the_moments_of_inputs_drawn_one_by_one():
    mu, tau, k, batch = np.array([0.5, -1.0]), 0.7, 9, 40_000
    grams, totals = nested_statistics(mu, tau, (0, 2, k), batch, np.random.default_rng(0))
    x = mu + tau * np.random.default_rng(1).standard_normal((batch, k, 2))
    wanted, sums = np.einsum("bki,bkj->bij", x, x), x.sum(1)
    assert not grams[:, 0].any() and not totals[:, 0].any()
    for got, reference in (
        (grams[:, 2].reshape(batch, -1), wanted.reshape(batch, -1)),
        (totals[:, 2], sums),
        (grams[:, 2, 0] * totals[:, 2], wanted[:, 0] * sums),
        (np.linalg.inv(grams[:, 2]).reshape(batch, -1), np.linalg.inv(wanted).reshape(batch, -1)),
    ):
        error = np.sqrt((got.var(0) + reference.var(0)) / batch)
        assert (np.abs(got.mean(0) - reference.mean(0)) < 5 * error).all()
        np.testing.assert_allclose(got.std(0), reference.std(0), rtol=0.06)
    # Nested: what is added between two lengths is again a sum of squares.
    assert (np.linalg.eigvalsh(grams[:, 2] - grams[:, 1]) > 0).all()


def test_risks_of_summed_prompts_equal_those_of_prompts_written_out():
    prior, n = early_ascent_prior(3, sigma_mu=0.3, sigma_w=0.3), 20_000
    star = prior.mu[0]
    summed = torch.cat(
        [(p.prediction - x @ star).square() for p, x, _ in posterior_path(prior, star, star, (0, 4, 16), n, [0])]
    )
    normal = torch.randn(n, 17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, query = star + normal[:, 1:], star + normal[:, 0]
    path = prior.predict_path(x, x @ star, query).prediction[:, [0, 4, 16]]
    written = (path - (query @ star)[:, None]).square()
    error = ((summed.var(0) + written.var(0)) / n).sqrt()
    assert ((summed.mean(0) - written.mean(0)).abs() < 4 * error).all()


def test_the_bounds_are_counted_as_violated_when_they_are(monkeypatch):
    monkeypatch.setattr(steps, "ROUNDING", -0.9999999)
    found = steps.regular_risks(1.0, (0, 4), 200, 0)
    assert found["violations"][0] > 0 and found["violations"][1] > 0


def test_reviews_are_balanced_and_repeat_no_word():
    assert len(set(POSITIVE) | set(NEGATIVE)) == len(POSITIVE) + len(NEGATIVE) == 80
    drawn = [reviews(33, seed) for seed in range(40)]
    assert drawn[0] == reviews(33, 0) != drawn[1]
    positive = np.mean([[review.positive for review in some] for some in drawn])
    assert 0.4 < positive < 0.6
    for some in drawn:
        words = [w for r in some for w in POSITIVE + NEGATIVE if w in r.text.replace(".", "").split()]
        assert len(set(words)) == len(words) >= len(some)


def test_log_odds_are_those_of_whole_prompts_and_labels_matter(tiny_folder, options):
    from superpose.interpret import answer_logprobs

    call = {"model": str(tiny_folder), "dtype": "float32", "labels": ["p", "n"], "demonstrations": 2, "prompts": 1}
    odds = {}
    with in_step(options.store.root):
        for kind in ("true", "flipped"):
            odds[kind] = label_steps.label_log_odds(kind=kind, seed=3, **call)
    loaded = load(str(tiny_folder))
    drawn = reviews(3, 3)
    text = ""
    for i, review in enumerate(drawn):
        text += f"Review: {review.text}\nSentiment:"
        log = answer_logprobs(loaded.model, loaded.tokenizer, text, ["p", "n"])
        wanted = float(log[0] - log[1]) * (1 if review.positive else -1)
        assert odds["true"][0, i] == pytest.approx(wanted, abs=1e-4)
        text += ("p" if review.positive else "n") + "\n\n"
    assert odds["true"][0, 0] == pytest.approx(odds["flipped"][0, 0], abs=1e-5)
    assert abs(odds["true"][0, 2] - odds["flipped"][0, 2]) > 1e-6


def test_labels_with_one_first_token_are_refused(tiny_folder, options):
    call = {"model": str(tiny_folder), "dtype": "float32", "kind": "true", "demonstrations": 1, "prompts": 1, "seed": 0}
    with in_step(options.store.root), pytest.raises(InputError, match="first tokens differ"):
        label_steps.label_log_odds(labels=[" positive", " negative"], **call)


def test_bins_cover_every_number_of_demonstrations_once():
    assert bins_of(32)[:4] == [[0], [1], [2], [3, 4]]
    for most in (1, 2, 3, 7, 32, 33):
        assert [k for one in bins_of(most) for k in one] == list(range(most + 1))


def test_bad_settings_are_refused_before_any_work():
    for setting, value in (("prompts", "250"), ("trained_deltas", "1"), ("labels", "a,b,c"), ("width", "20")):
        with pytest.raises(InputError, match=setting):
            plan(get_study("dual-operating-modes"), scale="smoke", overrides={setting: value})
