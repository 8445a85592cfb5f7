"""The atlas: what it reads off the curves, and that whatever is registered appears on it."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.experiment import LocalEngine, Options, Run, StepCache, Store, plan, run_study
from superpose.experiment.progress import Progress
from superpose.models import BACKBONES, Architecture, BackboneSpec, backbone_spec
from superpose.studies.atlas import cells, steps
from superpose.studies.atlas.cells import Atlas, Cell, measure_cells, named
from superpose.studies.atlas.measures import measure_everybody, measure_hybrid, measure_no_winner, measure_table
from superpose.studies.atlas.study import Config, study
from superpose.tasks import TASKS, LinearRegression, task
from superpose.training import TrainingDiverged, evaluate, seeded

QUICK = {"steps": 4, "batch": 4, "warmup": 1, "points": 2, "prompts": 8, "width": 8, "heads": 2, "depth": 1}


def run_of(tmp_path, *claims, **fields):
    config = Config(**{"seeds": 1, "timing": 1, **QUICK, **fields})
    return Run(
        study,
        config,
        "smoke",
        frozenset(claims),
        cache=StepCache(tmp_path),
        engine=LocalEngine(),
        device="cpu",
        progress=Progress(quiet=True),
    )


def options(tmp_path):
    return Options(Store(tmp_path / "store"), cache=StepCache(tmp_path / "cache"), progress=Progress(quiet=True))


def invented(skills):
    """An atlas with a chance of 1 and a floor of 0, whose skills fall in a straight line from 0 to the given ones.

    Args:
        skills: task -> model -> one figure per seed.
    """
    models = tuple(next(iter(skills.values())))
    made = {
        (t, m): Cell((0, 10), np.stack([np.ones(len(end)), 1 - np.array(end)], 1), 1.0, 0.0, 7)
        for t, row in skills.items()
        for m, end in row.items()
    }
    return Atlas(models, tuple(skills), made, dict.fromkeys(skills, True))


def test_a_cell_is_one_at_the_optimum_zero_at_chance_and_read_between_its_points():
    cell = Cell((0, 10, 30), np.array([[0.9, 0.5, 0.1]]), chance=0.9, floor=0.1, parameters=1)
    assert cell.skill(cell.error_at(30)) == pytest.approx([1.0])
    assert cell.skill(cell.error_at(0)) == pytest.approx([0.0])
    assert cell.skill(cell.error_at(20)) == pytest.approx([0.75])


def test_equal_compute_stops_everybody_when_the_cheapest_has_made_all_its_updates():
    atlas = invented({"t": {"cheap": [0.6, 0.6], "dear": [0.8, 1.0]}})
    cost = {("t", "cheap"): 1.0, ("t", "dear"): 4.0}
    assert atlas.at_equal_steps("t", "dear") == pytest.approx([0.2, 0.0])
    assert atlas.at_equal_compute("t", "cheap", cost) == pytest.approx([0.4, 0.4])
    assert atlas.at_equal_compute("t", "dear", cost) == pytest.approx([0.8, 0.75])  # after a quarter of its updates


def test_claims_on_an_invented_atlas(tmp_path, monkeypatch):
    atlas = invented(
        {
            "linear": {"mambaformer": [0.5], "transformer": [0.4], "mamba": [0.7]},
            "copying": {"mambaformer": [0.9], "transformer": [1.0], "mamba": [0.2]},
        }
    )
    cost = {(t, m): {"transformer": 1.0, "mamba": 2.0, "mambaformer": 2.0}[m] for t, m in atlas.cells}
    module = "superpose.studies.atlas.measures"

    def chosen(run, models=None, tasks=None):
        return dataclasses.replace(atlas, tasks=tuple(t for t in atlas.tasks if tasks is None or t in tasks))

    monkeypatch.setattr(f"{module}.measure_cells", chosen)
    monkeypatch.setattr(f"{module}.measure_costs", lambda run, atlas: cost)
    run = run_of(tmp_path, "A0", "A3", "A4", "A5")
    for measure in (measure_everybody, measure_hybrid, measure_no_winner, measure_table):
        measure(run)
    found = {c: {name: m.value for name, m in made.items()} for c, made in run.measurements.items()}
    assert found["A3"]["weakest"] == pytest.approx(0.4)
    assert found["A4"]["most-behind"] == pytest.approx(0.2)
    # At equal compute: linear .25/.4/.35, copying .45/1/.1, so nobody is ahead of the transformer.
    assert found["A5"]["least-behind"] == pytest.approx(0.0)
    assert found["A0"]["skill-compute.linear.mamba"] == pytest.approx(0.35)
    assert found["A0"]["error-steps.copying.mamba"] == pytest.approx(0.8)
    # Mamba leads the transformer by .3 on linear at equal steps and lags by .05 only: no turn.
    assert found["A0"]["order-turns"] == 0


def test_a_backbone_and_a_task_appear_by_being_registered(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Doubled(LinearRegression):
        dim: int = 1
        points: int = 2
        name = "doubled"

    monkeypatch.setitem(TASKS, "doubled", Doubled)
    monkeypatch.setitem(BACKBONES, "toy", Architecture("a toy", ("mlp", "linear-attention")))
    everything = Config()
    assert named(everything) == (tuple(BACKBONES), tuple(TASKS))
    assert "toy" in named(everything)[0]
    monkeypatch.setattr(cells, "BACKBONES", {name: BACKBONES[name] for name in ("mamba", "toy")})
    monkeypatch.setattr(cells, "TASKS", {name: TASKS[name] for name in ("copying", "doubled")})
    run = run_of(tmp_path, "A0")
    measure_table(run)
    assert {
        f"skill-{r}.{t}.{m}" for r in ("steps", "compute") for t in ("copying", "doubled") for m in ("mamba", "toy")
    } <= set(run.measurements["A0"])
    drawn = {(row["arm"], row["label"]) for row in run.rows if row["curve"] == "skill-compute"}
    assert drawn == {(m, t) for m in ("mamba", "toy") for t in ("copying", "doubled")}
    assert {row["arm"] for row in run.rows if row["curve"] == "learning-seconds-doubled"} >= {
        "toy",
        "chance",
        "optimum",
    }


def test_every_registered_pair_is_trainable(tmp_path):
    """One update of every cell: read-in, loss, window and reference fit whatever is registered."""
    for name in TASKS:
        drawn = TASKS[name](points=2, **({"queries": 1} if name == "associative-recall" else {}))
        told = steps.reference(name, dataclasses.asdict(drawn), 4)
        assert told["optimum"] is None or told["optimum"] >= 0
        for backbone in BACKBONES:
            spec = backbone_spec(backbone, width=8, heads=2, depth=1, max_positions=drawn.length)
            learner = steps.learner_for(spec, drawn, 0)
            assert np.isfinite(float(evaluate(learner, drawn, batches=1, batch=2).nanmean()))


def test_what_theory_does_not_know_is_bounded_by_zero_and_said(tmp_path):
    run = run_of(tmp_path, "A0", models=("transformer",), tasks=("decision-tree", "linear"))
    measure_table(run)
    made = run.measurements["A0"]
    assert made["bound.decision-tree"].value == 0
    assert 0 < made["optimum.linear"].value < made["chance.linear"].value
    assert any("no optimum is known on decision-tree:" in note for note in run.notes)


def test_lists_narrow_the_map_and_then_nothing_is_judged(tmp_path):
    asked = plan(study, scale="smoke", overrides={"models": "transformer, linear-transformer", "tasks": "copying"})
    assert isinstance(asked.config, Config)
    assert asked.config.models == ("transformer", "linear-transformer")
    assert asked.changed == ("models", "tasks")
    record = run_study(asked, options(tmp_path)).record
    made = {claim.id: {m.name: m for m in claim.measurements} for claim in record.claims}
    table = {name for name in made["A0"] if name.startswith("skill-steps")}
    assert table == {"skill-steps.copying.transformer", "skill-steps.copying.linear-transformer"}
    assert {c: made[c]["cells"].value for c in ("A1", "A2", "A3", "A4")} == {"A1": 0, "A2": 0, "A3": 0, "A4": 1}
    assert {claim.judgement.verdict for claim in record.claims if claim.role == "judged"} == {"not judged"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"models": "transformer,mmaba"}, "'mmaba'.*mambaformer"),
        ({"tasks": "lineer"}, "'lineer'.*sparse-linear"),
        ({"models": "transformer", "tasks": "linear", "heads": "3"}, "heads"),
    ],
)
def test_unknown_names_are_refused_before_any_training(tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr(steps, "learner_for", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match=message):
        run_study(plan(study, scale="smoke", overrides=overrides), options(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"models": "all,mamba"}, "'all' alone"),
        ({"tasks": "linear,linear"}, "each name once"),
        ({"models": ""}, "1 or more values"),
        ({"steps": "1"}, "the fewest updates of a task"),
        ({"task_preset": "huge"}, "laptop, paper"),
    ],
)
def test_configs_that_make_no_sense_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        plan(study, scale="smoke", overrides=overrides)


def test_a_task_with_nothing_to_learn_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "learner_for", lambda *_: pytest.fail("trained"))
    # One parity only: the prior alone is right.
    recipes = {"sparse-parity": {"sizes": {"dim": 2, "k": 2}}}
    with pytest.raises(InputError, match="leave something to learn"):
        measure_cells(run_of(tmp_path, "A0", models=("mamba",), tasks=("sparse-parity",), recipes=recipes))


def test_training_is_deterministic_and_goes_on_after_a_kill_with_the_same_curve(tmp_path, monkeypatch):
    def one(run):
        return measure_cells(run).cells["linear", "mamba"].errors

    fields = {"models": ("mamba",), "tasks": ("linear",)}
    whole = one(run_of(tmp_path / "a", **fields))
    error, calls = steps._error, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return error(*arguments)

    monkeypatch.setattr(steps, "_error", killed)
    # A checkpoint after every update: what comes after the kill starts beyond the second evaluation.
    monkeypatch.setattr(steps, "train_in_context", partial(steps.train_in_context, checkpoint_every=1))
    with pytest.raises(KeyboardInterrupt):
        one(run_of(tmp_path / "b", **fields))
    assert len(calls) == 3
    again = []
    monkeypatch.setattr(steps, "_error", lambda *arguments: again.append(1) or error(*arguments))
    assert np.array_equal(one(run_of(tmp_path / "b", **fields)), whole)
    assert len(again) == 1


def test_a_cell_that_diverges_is_left_empty_and_said(tmp_path, monkeypatch):
    train = steps.train_in_context

    def sometimes(learner, drawn, **arguments):
        if learner.spec.name == "mamba":
            raise TrainingDiverged(1, arguments["seed"], "the loss is nan", None)
        return train(learner, drawn, **arguments)

    monkeypatch.setattr(steps, "train_in_context", sometimes)
    monkeypatch.setattr(
        "superpose.studies.atlas.measures.measure_costs", lambda run, atlas: dict.fromkeys(atlas.cells, 1.0)
    )
    run = run_of(tmp_path, "A0", models=("mamba", "transformer"), tasks=("linear",))
    measure_table(run)
    assert "skill-steps.linear.mamba" not in run.measurements["A0"]
    assert "skill-steps.linear.transformer" in run.measurements["A0"]
    assert any("mamba on linear, seed 0: the loss is nan" in note for note in run.notes)


def test_the_reference_is_measured_on_the_evaluation_episodes():
    drawn = task("linear", dim=2, points=4)
    told = steps.reference("linear", dataclasses.asdict(drawn), 300)
    errors = []
    for index, size in enumerate((256, 44)):
        batch = drawn.sample(size, seeded(steps.EVALUATION_SEED + index, "evaluate", 0))
        errors.append(drawn.optimum(batch))
    assert told["optimum"] == pytest.approx(float(np.concatenate([e.numpy() for e in errors]).mean()), rel=1e-5)


def test_a_looped_backbone_is_trained_on_the_later_half_of_its_loops():
    assert steps.window_of(backbone_spec("looped")) == 6
    assert steps.window_of(backbone_spec("transformer")) is None
    assert steps.window_of(BackboneSpec(name="odd", layout=("mlp",), width=4, loops=3)) == 2


def test_every_claim_is_about_cells_of_the_laptop_map():
    from superpose.studies.atlas.contests import FAMILY, LINEAR, PARITY, RETRIEVAL

    for scale in ("laptop", "gpu"):
        models, tasks = named(Config(**study.presets[scale]))
        assert {RETRIEVAL.task, PARITY.task, LINEAR} <= set(tasks)
        assert {*FAMILY, *RETRIEVAL.able, *RETRIEVAL.unable, *PARITY.able, *PARITY.unable} <= set(models)
        assert len(models) >= 6
        assert len(tasks) >= 8
