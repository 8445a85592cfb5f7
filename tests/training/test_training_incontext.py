from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from superpose.errors import InputError
from superpose.models import ContinuousLearner, TokenLearner, backbone_spec
from superpose.tasks import Batch, task
from superpose.training import (
    Curriculum,
    Optimiser,
    Ramp,
    StackedModels,
    TrainingDiverged,
    evaluate,
    evaluate_loops,
    seeded,
    squared_error,
    train_in_context,
    train_many,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LINEAR = task("linear", dim=2, points=4)
LOOPS = {"curriculum": Curriculum(loops=Ramp(2, 4, 1, 2)), "window": 2}


def learner(name="transformer", seed=0, on=LINEAR, **overrides):
    spec = backbone_spec(name, **{"width": 16, "heads": 2, "depth": 1, "max_positions": 16} | overrides)
    return ContinuousLearner(spec, on.in_dim, on.out_dim, seed=seed)


class Spy(nn.Module):
    """Records how it is called; predicts one learned number everywhere."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, inputs, reads, **arguments):
        self.calls.append((tuple(inputs.shape), self.training, arguments))
        outputs = self.value.expand(inputs.shape[0], len(reads), 1)
        return outputs.expand(arguments.get("grad_loops", 1), *outputs.shape) if "return_all" in arguments else outputs


@dataclass(frozen=True)
class Sum:
    """Needs no context, so that a few steps learn it; the last read never counts."""

    name: str = "sum"

    def sample(self, batch, generator):
        x = torch.randn(batch, 3, LINEAR.in_dim, generator=generator)
        weight = torch.tensor([1.0, 1.0, 0.0]).expand(batch, 3)
        return Batch(x, torch.arange(3), x.sum(-1, keepdim=True), weight)

    def loss(self, outputs, batch):
        return squared_error(outputs, batch)

    def error(self, outputs, batch):
        return ((outputs - batch.targets) ** 2)[..., 0] / LINEAR.in_dim


def test_training_lowers_the_error_on_fresh_episodes():
    model = learner()
    before = evaluate(model, Sum(), batches=2)
    history = train_in_context(model, Sum(), seed=0, steps=60, batch=32, lr=1e-2)
    after = evaluate(model, Sum(), batches=2)
    assert before.shape == after.shape == (256, 3)
    assert len(history.losses) == 60
    assert after[:, 1].mean() < 0.3 * before[:, 1].mean()
    # The loss is per read and the error per dimension, on the same two reads.
    assert history.losses[-5:].mean() == pytest.approx(LINEAR.in_dim * after[:, :2].mean().item(), rel=0.7)


def test_a_token_task_trains_by_its_cross_entropy():
    copying = task("copying")
    spec = backbone_spec("transformer", width=16, heads=2, depth=1, max_positions=copying.length)
    history = train_in_context(TokenLearner(spec, copying.vocab, seed=0), copying, seed=0, steps=20, batch=16, lr=1e-2)
    assert history.losses[0] == pytest.approx(np.log(copying.vocab), rel=0.15)
    assert history.losses[-3:].mean() < history.losses[0]


def test_the_first_loss_is_the_tasks_loss_on_the_seeded_episodes():
    model = learner()
    episodes = LINEAR.sample(8, seeded(3, "train", 0))
    expected = LINEAR.loss(model(episodes.inputs)[:, episodes.reads], episodes).item()
    assert train_in_context(model, LINEAR, seed=3, steps=1, batch=8).losses[0] == pytest.approx(expected, rel=1e-6)


def test_an_objective_replaces_the_tasks_loss():
    model, other = learner(), learner()
    tripled = train_in_context(model, LINEAR, seed=3, steps=1, objective=lambda o, b: 3 * squared_error(o, b))
    assert tripled.losses[0] == pytest.approx(3 * train_in_context(other, LINEAR, seed=3, steps=1).losses[0], rel=1e-5)


def test_the_curriculum_reaches_the_task_and_the_loops():
    spy = Spy()
    plan = Curriculum({"points": Ramp(1, 4, 1, 2), "dims": Ramp(1, 2, 1, 3)}, loops=Ramp(2, 6, 2, 3))
    train_in_context(spy, LINEAR, seed=0, steps=8, batch=5, curriculum=plan, window=3, accumulate=2)
    micro = spy.calls
    assert len(micro) == 16
    # An example takes two positions.
    assert [call[0] for call in micro[::2]] == [(5, 2 * points, LINEAR.in_dim) for points in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert [call[2]["loops"] for call in micro[::2]] == [2, 2, 2, 4, 4, 4, 6, 6]
    assert all(call[2]["grad_loops"] == 3 and call[2]["return_all"] for call in micro)
    assert all(call[1] for call in micro)


def test_the_window_loss_is_the_mean_over_the_last_loops():
    model = learner("looped", loops=5)
    episodes = LINEAR.sample(8, seeded(3, "train", 0))
    iterates = [model(episodes.inputs, loops=loops)[:, episodes.reads] for loops in (3, 4, 5)]
    expected = np.mean([LINEAR.loss(iterate, episodes).item() for iterate in iterates])
    history = train_in_context(model, LINEAR, seed=3, steps=1, batch=8, window=3)
    assert history.losses[0] == pytest.approx(expected, rel=1e-5)


def test_evaluation_by_loop_holds_each_number_of_loops():
    model = learner("looped")
    by_loop = evaluate_loops(model, LINEAR, loops=6, batches=2, batch=8, seed=4)
    assert by_loop.shape == (6, 16, 4)
    for loops in (1, 3, 6):
        torch.testing.assert_close(by_loop[loops - 1], evaluate(model, LINEAR, loops=loops, batches=2, batch=8, seed=4))


def test_evaluation_is_apart_from_training_and_without_gradient():
    spy = Spy()
    spy.train(False)
    train_in_context(spy, LINEAR, seed=0, steps=1)
    assert not spy.training
    spy.train(True)
    errors = evaluate(spy, LINEAR, batches=1, sample={"points": 3})
    assert spy.training
    assert [call[1] for call in spy.calls] == [True, False]
    assert errors.shape == (128, 3)
    assert not errors.requires_grad
    assert not torch.equal(LINEAR.sample(2, seeded(0, "train")).inputs, LINEAR.sample(2, seeded(0, "evaluate")).inputs)


def test_reads_that_do_not_count_are_nan():
    errors = evaluate(learner(), Sum(), batches=1, batch=8)
    assert errors.isnan().tolist() == [[False, False, True]] * 8


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path):
    def stop(step):
        if step == 7:
            raise KeyboardInterrupt

    settings = {"seed": 1, "steps": 12, "batch": 8, "checkpoint_every": 3} | LOOPS
    whole, parts = learner("looped"), learner("looped")
    expected = train_in_context(whole, LINEAR, **settings)
    with pytest.raises(KeyboardInterrupt):
        train_in_context(parts, LINEAR, checkpoint=tmp_path, on_step=stop, **settings)
    history = train_in_context(parts, LINEAR, checkpoint=tmp_path, **settings)
    np.testing.assert_array_equal(history.losses, expected.losses)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_checkpoint_of_another_architecture_or_task_is_refused(tmp_path):
    settings = {"seed": 1, "steps": 2, "batch": 8, "checkpoint": tmp_path}
    train_in_context(learner(heads=2), LINEAR, **settings)
    with pytest.raises(InputError, match=r"with learner ContinuousLearner .*heads=2"):
        train_in_context(learner(heads=4), LINEAR, **settings)  # equal shapes, another model
    with pytest.raises(InputError, match="with task linear"):
        train_in_context(learner(heads=2), task("linear", dim=2, points=5), **settings)
    with pytest.raises(InputError, match="with batch 8 but this run has 9"):
        train_in_context(learner(heads=2), LINEAR, **settings | {"batch": 9})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train_in_context(learner(), LINEAR, seed=0, steps=1, batch=0), "batch is 0"),
        (lambda: train_in_context(learner(), LINEAR, seed=-1, steps=1), "seed is -1"),
        (lambda: train_in_context(learner(), LINEAR, seed=0, steps=1, window=0), "window is 0"),
        (lambda: train_in_context(nn.Identity(), LINEAR, seed=0, steps=1), "Identity without parameters"),
        (lambda: evaluate(learner(), LINEAR, batches=0), "batches is 0"),
        (lambda: evaluate_loops(learner("looped"), LINEAR, loops=0), "loops is 0"),
        (lambda: train_many([], LINEAR, seeds=[], steps=1), "learners is 0"),
        (
            lambda: train_many([learner()], LINEAR, seeds=[0, 1], steps=1),
            "seeds has 2 and lrs 1 entries for 1",
        ),
        (lambda: StackedModels([learner(), learner(width=8)]), r"models\[1\] has other parameters"),
        (lambda: StackedModels([]), "models is empty"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("transformer", {}), ("mambaformer", {}), ("linear-transformer", {}), ("h3", {}), ("looped", LOOPS)],
)
def test_many_together_are_each_one_alone(name, settings):
    seeds, lrs = [0, 1, 1], [1e-3, 1e-3, 5e-3]
    apart, joint = ([learner(name, seed) for seed in seeds] for _ in range(2))
    # The clip is small enough to act, and must act on each model by itself.
    shared = {"seeds": seeds, "lrs": lrs, "steps": 6, "batch": 8, "clip": 0.5, "optimiser": Optimiser("sgd")} | settings
    expected = train_many(apart, LINEAR, together=False, **shared)
    histories = train_many(joint, LINEAR, together=True, **shared)
    for one, alone, history, reference in zip(joint, apart, histories, expected, strict=True):
        np.testing.assert_allclose(history.losses, reference.losses, rtol=1e-4)
        np.testing.assert_allclose(history.lr, reference.lr)
        for p, q in zip(one.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert not np.allclose(histories[1].losses, histories[2].losses)


def test_stacked_models_reach_every_models_own_parameters():
    models = [learner(seed=seed) for seed in range(3)]
    inputs = torch.randn(3, 5, 8, LINEAR.in_dim)
    outputs = StackedModels(models)(inputs)
    (outputs * torch.tensor([1.0, 10.0, 0.0])[:, None, None, None]).sum().backward()
    for index, factor in enumerate((1.0, 10.0, 0.0)):
        weight = models[index].read_out.weight
        stacked, weight.grad = weight.grad, None
        alone = models[index](inputs[index])
        torch.testing.assert_close(outputs[index], alone, rtol=1e-4, atol=1e-5)
        (factor * alone).sum().backward()
        torch.testing.assert_close(stacked, weight.grad, rtol=1e-4, atol=1e-4)


def test_many_resume_and_divergence_names_the_seed(tmp_path):
    settings = {"seeds": [3, 8], "steps": 4, "batch": 8, "together": True}
    models = [learner(seed=seed) for seed in (3, 8)]
    first = train_many(models, LINEAR, checkpoint=tmp_path, **settings)
    again = train_many([learner(seed=seed) for seed in (3, 8)], LINEAR, checkpoint=tmp_path, **settings)
    np.testing.assert_array_equal(first[1].losses, again[1].losses)
    with pytest.raises(InputError, match="seeds"):
        train_many(models, LINEAR, checkpoint=tmp_path, **settings | {"seeds": [3, 9]})
    with torch.no_grad():
        models[1].read_out.bias.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"step 0 \(seed 8\)"):
        train_many(models, LINEAR, **settings)
