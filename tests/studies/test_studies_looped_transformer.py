"""The study from end to end in seconds, its curricula against the paper's, its clock, its probes, and resuming."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LinearRegression as Fitted

from study_checks import complete_claims
from superpose.experiment import Options, StepCache, Store, plan, run_study
from superpose.experiment.steps import StepCall
from superpose.studies import get_study
from superpose.studies.looped_transformer import arms, probes, steps
from superpose.studies.looped_transformer.config import Config
from superpose.studies.looped_transformer.measures import interpolate, training_time
from superpose.tasks import task
from superpose.training import seeded

STUDY = get_study("looped-transformer")
SMOKE = Config(**STUDY.presets["smoke"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looped")
    options = Options(Store(folder / "store"), cache=StepCache(folder / "cache"))
    return run_study(plan(STUDY, scale="smoke"), options)


def test_smoke_measures_every_claim_and_draws_every_figure(stored):
    assert complete_claims(stored)["L1"].judgement.verdict == "holds"


def test_sizes_of_the_paper_are_counted(stored):
    found = {claim.id: {m.name: m.value for m in claim.measurements} for claim in stored.record.claims}
    assert found["L1"]["looped"] == 795_905
    assert found["L1"]["transformer"] == 9_483_265


def test_models_are_shared_between_claims():
    config = Config()
    linear = [arms.training(config, arms.LOOPED, arms.LINEAR, seed) for seed in (0, 1)]
    assert linear[0]["look_at"] == config.ablation_steps and linear[0]["seed"] != linear[1]["seed"]
    # An ablation differs from the complete recipe by its one part.
    complete = arms.arm(config, arms.LOOPED)
    for name, place, key, value in (
        (arms.NO_INJECTION, "model", "injection", None),
        (arms.LAST_LOOP, "recipe", "window", 1),
        (arms.NO_RAMP, "recipe", "loop_interval", 0),
    ):
        changed = arms.arm(config, name)
        assert changed != complete
        changed[place][key] = complete[place][key]
        assert changed == complete
        assert value != complete[place][key]


def test_ramps_at_the_papers_size_are_the_papers():
    config = Config(
        dim=20, points=41, loops=20, window=15, looped_steps=10_000, ablation_steps=250, width=256, loop_interval=500
    )
    config = config.model_copy(update={"dims_interval": 5000})
    one = arms.arm(config, arms.LOOPED)
    ramps = steps.curriculum(one["model"], task("linear", dim=20, points=41), one["recipe"])
    assert ramps.sample_at(0) == {"dims": 5, "points": 11}
    assert ramps.sample_at(5000) == {"dims": 6, "points": 13}
    assert ramps.sample_at(10**6) == {"dims": 20, "points": 41}
    assert [ramps.loops_at(step) for step in (0, 499, 500, 1000, 10**6)] == [15, 15, 17, 19, 20]
    other = arms.arm(config, arms.TRANSFORMER)
    assert steps.curriculum(other["model"], task("linear", dim=20, points=41), other["recipe"]).loops is None


def test_training_time_adds_up_the_stages():
    clock = {"starts": [0, 10, 30], "seconds": [1.0, 2.0, 4.0]}
    assert training_time(clock, 10) == 10
    assert training_time(clock, 25) == 10 + 30
    assert training_time(clock, 32) == 10 + 40 + 8


def test_curves_are_read_between_two_evaluations():
    rows = np.arange(6.0).reshape(1, 3, 2)
    assert interpolate([0, 10, 30], rows, 20) == pytest.approx(np.array([[3.0, 4.0]]))
    assert interpolate([0, 10, 30], rows, 30) == pytest.approx(rows[:, 2])
    assert interpolate([0, 10, 30], rows, 99) == pytest.approx(rows[:, 2])
    assert interpolate([7], rows[:, :1], 3) == pytest.approx(rows[:, 0])


def test_stages_of_the_clock_cover_the_training():
    names = (arms.LOOPED, arms.TRANSFORMER)
    found = steps_timed(names)
    assert found[arms.TRANSFORMER]["starts"] == [0, SMOKE.dims_interval]
    assert found[arms.LOOPED]["starts"] == [0, 2]
    assert all(second > 0 for name in names for second in found[name]["seconds"])


def steps_timed(names):
    one = {name: arms.arm(SMOKE, name) for name in names}
    arguments = {
        "models": {name: parts["model"] for name, parts in one.items()},
        "recipes": {name: parts["recipe"] for name, parts in one.items()},
        "task": arms.task(SMOKE, arms.LINEAR),
        "train_steps": {arms.LOOPED: 6, arms.TRANSFORMER: 6},
        "timing_steps": 2,
    }
    return call(steps.seconds_per_update, arguments).execute()


def call(fn, arguments, folder=None):
    import tempfile
    from pathlib import Path

    return StepCall(fn, arguments, "cpu", 1, Path(folder or tempfile.mkdtemp()))


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_a_killed_training_keeps_its_evaluations_and_ends_the_same(tmp_path, monkeypatch):
    arguments = arms.training(SMOKE, arms.LOOPED, arms.LINEAR, 0)
    whole = call(steps.trained, arguments, tmp_path / "whole").execute()
    keep = steps.KeptEvaluations.add

    def fatal(self, rows):
        if "errors/6" in rows:
            raise Killed
        keep(self, rows)

    monkeypatch.setattr(steps.KeptEvaluations, "add", fatal)
    again = call(steps.trained, arguments, tmp_path / "killed")
    with pytest.raises(Killed):
        again.execute()
    seen = []

    def counted(self, rows):
        seen.extend(rows)
        keep(self, rows)

    monkeypatch.setattr(steps.KeptEvaluations, "add", counted)
    resumed = again.execute()
    assert seen == ["errors/6", "loops/6"]  # nothing before the kill was done again
    assert resumed["steps"] == whole["steps"] == [2, 4, 6]
    for name in ("errors", "loops", "early_loops"):
        np.testing.assert_array_equal(resumed[name], whole[name])
    np.testing.assert_array_equal(resumed["probes"]["w-ols"], whole["probes"]["w-ols"])


def learner(name, **overrides):
    one = arms.arm(SMOKE, name)["model"] | overrides
    return steps.build(one, LINEAR, 0).eval()


LINEAR = task("linear", dim=2, points=4)


def test_states_are_the_stream_after_every_loop_and_every_layer():
    inputs = LINEAR.sample(3, seeded(0, "test")).inputs
    looped, deep = learner(arms.LOOPED), learner(arms.TRANSFORMER, layers=3)
    with torch.no_grad():
        loops, layers = probes.states(looped, inputs), probes.states(deep, inputs)
        assert loops.shape == (5, 3, 8, 16) and layers.shape == (4, 3, 8, 16)
        for t in range(1, 5):
            torch.testing.assert_close(loops[t], looped.backbone(looped.read_in(inputs), loops=t))
        torch.testing.assert_close(layers[0], deep.read_in(inputs))
        torch.testing.assert_close(deep.backbone.norm(layers[-1]), deep.backbone(deep.read_in(inputs)))


def test_targets_are_least_squares_and_the_mean_of_yx():
    drawn = LINEAR.sample(5, seeded(0, "test"))
    found = probes.targets(drawn)
    x, y = drawn.info["x"].numpy(), drawn.info["y"].numpy()
    for i in range(5):
        np.testing.assert_allclose(found["w-ols"][i], Fitted(fit_intercept=False).fit(x[i], y[i]).coef_, rtol=1e-3)
        np.testing.assert_allclose(found["moment"][i], (x[i] * y[i, :, None]).mean(0), rtol=1e-4, atol=1e-6)


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is(monkeypatch):
    def planted(one, inputs):
        # Pass 0 is noise; pass 1 carries the mean of y x at one position.
        x, y = inputs[:, 0::2], inputs[:, 1::2, :1]
        noise = torch.randn(len(inputs), 8, 2, generator=torch.Generator().manual_seed(len(inputs)))
        carried = noise.clone()
        carried[:, 3] = (x * y).mean(1)
        return torch.stack([noise, carried])

    monkeypatch.setattr(probes, "states", planted)
    found = probes.probe_errors(learner(arms.LOOPED), LINEAR, prompts=512, steps=150, seed=0)["moment"]
    assert found.shape == (2, 2)
    assert found[:, 0].min() > 0.8
    assert found[:, 1].max() < 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads is 3; allowed: a divisor of width 32"),
        ({"window": 12}, "window is 12; allowed: less than loops 12"),
        ({"sparsity": 5}, "sparsity is 5; allowed: at most sparse_dim 4"),
        ({"ablation_steps": 1100}, "ablation_steps is 1100; allowed: a multiple of evaluate_every"),
        ({"loops": 10}, "multiple of 4"),
    ],
)
def test_configs_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Config(**fields)
