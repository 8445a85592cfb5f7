import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from superpose.errors import InputError
from superpose.training import Optimiser, Schedule, TrainingDiverged, optimise, seeded
from superpose.training import budget as budget_module
from superpose.training.checkpoints import FILE


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Interrupt(Exception):
    pass


def network(width: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 1))


def batches(step: int):
    x = torch.randn(16, 4, generator=seeded(1, "test", step))
    return x, x.sum(1, keepdim=True).sin()


def loss_of(model):
    def loss(batch):
        x, y = batch
        error = ((model(x) - y) ** 2).mean()
        return error, {"root": error.detach().sqrt()}

    return loss


def train(model, steps=30, **settings):
    settings = {"clip": 0.5, "accumulate": 2, "seed": 5, "checkpoint_every": 5} | settings
    return optimise(loss_of(model), model.parameters(), batches, steps=steps, **settings)


def interrupt_at(step):
    def on_step(done):
        if done == step:
            raise Interrupt

    return on_step


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    "optimiser",
    [Optimiser("adamw", weight_decay=0.1), Optimiser("adam"), Optimiser("sgd", momentum=0.9), Optimiser("sgd")],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, optimiser):
    settings = {"optimiser": optimiser, "schedule": Schedule("cosine", warmup=4)}
    whole, halted, resumed = network(), network(), network()
    expected = train(whole, **settings)
    with pytest.raises(Interrupt):
        train(halted, checkpoint=tmp_path, on_step=interrupt_at(17), **settings)
    seen = []
    history = train(resumed, checkpoint=tmp_path, on_step=seen.append, **settings)
    assert seen[0] == 16  # from the checkpoint of step 15, in a fresh process's state
    assert same(whole, resumed)
    assert not same(whole, halted)
    np.testing.assert_array_equal(history.losses, expected.losses)
    np.testing.assert_array_equal(history.lr, expected.lr)
    np.testing.assert_array_equal(history.logged["root"], expected.logged["root"])
    assert (np.diff(history.seconds) >= 0).all()


def test_seventeen_steps_and_then_thirteen_are_thirty(tmp_path):
    whole, parts = network(), network()
    train(whole, 30)
    assert len(train(parts, 17, checkpoint=tmp_path).losses) == 17
    history = train(network(), 30, checkpoint=tmp_path)
    assert history.steps.tolist() == list(range(30))
    final = network()
    train(final, 30, checkpoint=tmp_path, on_step=interrupt_at(0))
    assert same(whole, final)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(network(), 10, checkpoint=tmp_path)
    again = train(network(), 10, checkpoint=tmp_path, on_step=interrupt_at(11))
    np.testing.assert_array_equal(first.losses, again.losses)


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    train(network(), 5, checkpoint=tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        train(network(), 10, checkpoint=tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_it_equals_a_plain_loop():
    ours, plain = network().eval(), network().eval()
    settings = Optimiser("adam", lr=0.01, betas=(0.9, 0.98))
    history = train(ours, 20, accumulate=1, optimiser=settings, schedule=Schedule("linear"))
    optimiser = torch.optim.Adam(plain.parameters(), lr=0.01, betas=(0.9, 0.98))
    losses = []
    for step in range(20):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / 20)
        loss, _ = loss_of(plain)(batches(step))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimiser.step()
        losses.append(loss.item())
    np.testing.assert_allclose(history.losses, losses, rtol=1e-6)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_equal_one_large_batch():
    def double(step):
        return tuple(torch.cat(pair) for pair in zip(batches(2 * step), batches(2 * step + 1), strict=True))

    small, large = network().eval(), network().eval()
    train(small, 5, optimiser=Optimiser("sgd", lr=0.1))
    optimise(loss_of(large), large.parameters(), double, steps=5, clip=0.5, optimiser=Optimiser("sgd", lr=0.1))
    for p, q in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_groups_keep_their_learning_rate_and_may_be_clipped_apart():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    groups = [{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}]
    settings = {"steps": 1, "optimiser": Optimiser("sgd"), "clip": 1.0}
    optimise(lambda _: 30 * a.sum() + 40 * b.sum(), groups, lambda _: None, **settings)
    assert (a.item(), b.item()) == pytest.approx((-0.6, -0.08), rel=1e-5)
    optimise(lambda _: 30 * a.sum() + 40 * b.sum(), groups, lambda _: None, clip_each_group=True, **settings)
    assert (a.item(), b.item()) == pytest.approx((-1.6, -0.18), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    model = network()

    def loss(batch):
        value, logged = loss_of(model)(batch)
        return (value * float("nan") if loss.calls == 12 else value), logged

    loss.calls = -1

    def counted(batch):
        loss.calls += 1
        return loss(batch)

    with pytest.raises(TrainingDiverged, match=r"step 12 \(seed 9\): the loss is nan; the last good") as caught:
        optimise(counted, model.parameters(), batches, steps=30, seed=9, checkpoint=tmp_path, checkpoint_every=5)
    assert (caught.value.step, caught.value.seed, caught.value.checkpoint) == (12, 9, tmp_path / FILE)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes back from a worker process
    assert (str(again), again.step) == (str(caught.value), 12)
    other = network()
    assert optimise(
        loss_of(other), other.parameters(), batches, steps=12, seed=9, checkpoint=tmp_path, checkpoint_every=5
    ).steps.tolist() == list(range(12))


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingDiverged, match=r"step 0 .*a parameter is not finite after it; there is no checkpoint"):
        optimise(lambda _: p.sqrt().sum(), [p], lambda _: None, steps=1, checkpoint=tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_budget_in_seconds_counts_training_only(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(budget_module.time, "process_time", lambda: now[0])
    p = torch.ones(1, requires_grad=True)

    def loss(_):
        now[0] += 1.0
        return (p**2).sum()

    def on_step(_):
        now[0] += 100.0

    shown = []
    history = optimise(
        loss,
        [p],
        lambda _: None,
        seconds=4,
        on_step=on_step,
        schedule=Schedule("linear"),
        progress=lambda *x: shown.append(x),
    )
    assert history.seconds.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert history.lr == pytest.approx(1e-3 * np.array([1, 0.75, 0.5, 0.25]))
    assert shown == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_global_generator_is_seeded_within_and_left_as_it_was():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, second, other = network(), network(), network()
    train(first, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    train(second, 5)
    train(other, 5, seed=6)
    assert same(first, second)
    assert not same(first, other)


def test_precision_and_compile():
    plain, half, compiled = network().eval(), network().eval(), network().eval()
    expected = train(plain, 5)
    low = train(half, 5, precision="bfloat16")
    np.testing.assert_allclose(low.losses, expected.losses, rtol=0.03)
    assert not np.array_equal(low.losses, expected.losses)
    assert all(p.dtype == torch.float32 for p in half.parameters())
    np.testing.assert_allclose(train(compiled, 5, compile="eager").losses, expected.losses, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": None}, "steps is None and seconds is None"),
        ({"seconds": 1.0}, "steps is 3 and seconds is 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": None, "seconds": -1}, "seconds is -1"),
        ({"precision": "float16"}, "precision is 'float16'; allowed: float32, tf32, bfloat16"),
        ({"precision": "tf32"}, "precision is 'tf32' on a cpu"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        train(network(), **{"steps": 3} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lion"}, "name is 'lion'; allowed: adamw, adam, sgd"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
    ],
)
def test_wrong_optimisers(settings, message):
    with pytest.raises(InputError, match=message):
        Optimiser(**settings)


def test_wrong_parameters_and_losses():
    p = torch.ones(2, requires_grad=True)
    for params, message in (([], "params is empty"), ([torch.ones(1)], "does not require a gradient")):
        with pytest.raises(InputError, match=message):
            optimise(lambda _: p.sum(), params, lambda _: None, steps=1)
    with pytest.raises(InputError, match=r"a loss of shape \(2,\)"):
        optimise(lambda _: p, [p], lambda _: None, steps=1)
    with pytest.raises(InputError, match="loss_fn logged"):
        optimise(lambda step: (p.sum(), {str(step): 1.0}), [p], lambda step: step, steps=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": network(9)}, "parameters"),
        ({"optimiser": Optimiser("sgd")}, "optimiser"),
        ({"seed": 6}, "with seed 5 but this run has 6"),
        ({"identity": {"architecture": "mamba"}}, "architecture None but this run has mamba"),
        ({"schedule": Schedule("cosine")}, "schedule"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    train(network(), 5, checkpoint=tmp_path)
    change = dict(change)
    model = change.pop("model", None) or network()
    before = copy.deepcopy(model)
    with pytest.raises(InputError, match=message):
        train(model, 10, checkpoint=tmp_path, **change)
    assert same(model, before)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(network(), 5, checkpoint=tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"training\.safetensors, which cannot be read"):
        train(network(), 10, checkpoint=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_run_follows_the_cpu_and_resumes(tmp_path):
    def on_gpu(step):
        return tuple(tensor.cuda() for tensor in batches(step))

    expected = train(network().eval(), 30).losses
    model = network().eval().cuda()
    settings = {"clip": 0.5, "accumulate": 2, "seed": 5, "checkpoint_every": 5, "checkpoint": tmp_path}
    with pytest.raises(Interrupt):
        optimise(loss_of(model), model.parameters(), on_gpu, steps=30, on_step=interrupt_at(17), **settings)
    history = optimise(loss_of(model), model.parameters(), on_gpu, steps=30, **settings)
    np.testing.assert_allclose(history.losses, expected, rtol=1e-3)
