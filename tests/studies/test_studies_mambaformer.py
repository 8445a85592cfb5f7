"""The study from end to end in seconds, its training step against plain training, and its criteria."""

import numpy as np
import pytest
import torch

from study_checks import in_step, smoke_claims
from superpose.errors import InputError
from superpose.experiment import exact, judge, plan
from superpose.studies import get_study
from superpose.studies.mambaformer import exact_steps, measures, steps
from superpose.studies.mambaformer.config import Config
from superpose.tasks import LinearRegression, ManyOutliers, SparseParity, VectorMQAR
from superpose.theory import parity_prior_accuracy
from superpose.training import evaluate, train_in_context

SMALL = {"architecture": "mambaformer", "depth": 1, "width": 8, "heads": 2, "state": 2, "batch": 4}
PARITY = {"task": "sparse-parity", "task_options": {"dim": 4, "points": 6, "k": 2}}
TRAINING = {"train_steps": 5, "lr": 3e-3, "every": 2, "solved": None, "look_prompts": 8, "final_prompts": 150}


def train(folder, **changes):
    folder.mkdir(exist_ok=True)
    with in_step(folder):
        return steps.trained(**{**SMALL, **PARITY, **TRAINING, "seed": 3, **changes})


def test_smoke_measures_every_claim_and_draws_every_figure(options):
    verdicts = {name: claim.judgement.verdict for name, claim in smoke_claims("mambaformer", options).items()}
    assert verdicts.pop("EX") == "holds"
    assert set(verdicts.values()) == {"not judged"}


def test_training_in_pieces_is_plain_training(tmp_path):
    found = train(tmp_path / "step")
    assert found["looks"].tolist() == [2, 4, 5] and found["steps"] == 5
    task = SparseParity(**PARITY["task_options"])
    learner = steps.build("mambaformer", 1, 8, 2, 2, task, seed=3)
    train_in_context(learner, task, seed=3, steps=5, batch=4, lr=3e-3)
    errors = evaluate(learner, task, batches=1, batch=8, seed=3)
    assert found["errors"][-1] == pytest.approx(float(errors[:, -5:].double().mean()), abs=1e-12)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    calls = []

    def dies_once(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(steps, "evaluate", dies_once)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    again = train(tmp_path / "killed")
    assert len(calls) == 4  # the first look was not repeated
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name], err_msg=name)
    # Killed after the last look, before the final prompts.
    np.testing.assert_array_equal(train(tmp_path / "killed")["by_read"], whole["by_read"])


def test_training_stops_at_the_first_look_that_solves_the_task(tmp_path):
    errors = train(tmp_path / "all")["errors"]
    assert train(tmp_path / "easy", solved=1.0)["steps"] == 2
    assert train(tmp_path / "hard", solved=float(errors.min()) - 1e-9)["steps"] == 5


@pytest.mark.parametrize(
    ("task", "count"),
    [
        (SparseParity(points=12), 5),
        (LinearRegression(points=8), 1),
        (ManyOutliers(points=40), 10),
        (VectorMQAR(points=8, queries=6), 6),
    ],
)
def test_tasks_are_judged_where_most_of_the_prompt_was_seen(task, count):
    errors = torch.arange(6 if task.name == "vector-mqar" else task.points).float().expand(3, -1)
    kept = steps.last(task, errors)
    assert kept.shape == (3, count) and kept[0, -1] == errors[0, -1]


def test_references_are_the_best_that_can_be_done(tmp_path):
    parity = train(tmp_path / "parity")["reference_by_read"]
    assert parity[0] == pytest.approx(1 - parity_prior_accuracy(4, 2), abs=0.03)
    assert (np.diff(parity) < 0.01).all() and parity[-1] < 0.15
    linear = train(tmp_path / "linear", task="linear", task_options={"dim": 2, "points": 4})
    assert linear["reference_by_read"][0] == pytest.approx(1, abs=0.5)
    assert linear["reference"] < 1e-6 < linear["final"]
    options = {"dim": 3, "points": 20, "probability": 0.2}
    clean = train(tmp_path / "outliers", task="many-outlier", task_options=options)
    assert clean["reference"] < 1e-3 < clean["final"]


def test_retrieval_counts_matches(tmp_path):
    found = train(tmp_path, task="vector-mqar", task_options={"dim": 4, "points": 4, "queries": 4})
    assert 0.1 < found["match"] < 0.6  # untrained: one in four
    assert found["reference"] == 0


def test_layouts_are_the_papers():
    task = SparseParity()
    built = {name: steps.build(name, 1, 8, 2, 4, task, 0).spec for name in exact_steps.ARCHITECTURES}
    assert built["mambaformer"].layout == ("mamba", "attention", "mamba")
    assert built["mambaformer"].positions == built["mamba"].positions == "none"
    assert built["standard-hybrid"].layout == ("attention", "mamba")
    assert built["standard-hybrid"].positions == "learned"
    assert built["standard-hybrid"].max_positions == 2 * task.points
    assert built["mamba-transformer"].layout == ("mamba", "attention", "mlp")
    assert steps.build("mamba", 3, 8, 2, 4, task, 0).spec.layout == ("mamba",) * 3
    assert built["mamba"].mixer_arguments("mamba") == {"state": 4}


def test_a_curriculum_reaches_the_whole_task_in_a_third():
    task = ManyOutliers(dim=20, points=512)
    ramps = steps._curriculum(task, 3000)
    assert ramps.sample_at(0) == {"dims": 5, "points": 128}
    assert ramps.sample_at(1000) == {"dims": 20, "points": 512}
    assert steps._curriculum(LinearRegression(dim=3, points=8), 2).sample_at(2)["points"] <= 8


def test_exact_checks_find_what_is_not_equal(monkeypatch):
    call = {"width": 8, "heads": 2, "state": 2, "prompts": 400, "seed": 0}
    found = exact_steps.exact_checks(**call)
    assert max(value for name, value in found.items() if name != "bayes") < 1e-5
    monkeypatch.setattr(exact_steps, "parity_prior_accuracy", lambda d, k: 0.5)
    monkeypatch.setattr(exact_steps, "parity_bayes_accuracy", lambda x, k: torch.full(x.shape[:2], 0.7))
    monkeypatch.setattr(VectorMQAR, "error", lambda self, outputs, drawn: (outputs - drawn.targets.flip(1)).abs())
    wrong = exact_steps.exact_checks(**call)
    assert wrong["prior"] > 0.02 and wrong["bayes"] > 4 and wrong["retrieval"] > 0.1


def curve(*errors):
    return {"looks": np.arange(1, len(errors) + 1) * 100, "errors": np.array(errors)}


def test_curves_are_read_at_a_look_that_the_time_allows():
    model = curve(0.5, 0.3, 0.1)
    assert [measures.error_at(model, at) for at in (50, 100, 299, 300, 1e9)] == [0.5, 0.5, 0.3, 0.1, 0.1]
    found = measures.crossings([model, curve(0.5, 0.4), curve(0.05, 0.5)])
    assert found.tolist() == [300, np.inf, 100]


@pytest.mark.parametrize(
    ("ratio", "mambaformer", "hybrid", "verdict"),
    [
        (0.5, 0.99, 0.99, "holds"),
        (0.5, 0.99, 0.7, "holds"),
        (0.7, 0.99, 0.7, "holds"),
        (0.7, 0.99, 0.99, "fails"),
        (np.inf, 0.7, 0.7, "fails"),
    ],
)
def test_the_first_block_is_judged_by_crossings_or_by_a_hybrid_that_never_crosses(ratio, mambaformer, hybrid, verdict):
    values = {"crossing-over-hybrid": ratio, "mambaformer.best": mambaformer, "standard-hybrid.best": hybrid}
    claim = get_study("mambaformer").claim("C5")
    assert judge(claim, "laptop", [exact(name, value) for name, value in values.items()]).verdict == verdict


def test_every_step_of_the_transformer_is_longer_than_mambas():
    for scale in ("laptop", "gpu"):
        config = get_study("mambaformer").preset(scale)
        assert isinstance(config, Config)
        assert config.parity_transformer_steps >= 1.5 * config.parity_steps


def test_bad_settings_are_refused_before_any_work():
    for setting, value in (("heads", "5"), ("retrieval_queries", "9"), ("outlier_tasks", "few"), ("width", "20")):
        with pytest.raises(InputError, match=setting):
            plan(get_study("mambaformer"), scale="laptop", overrides={setting: value})
