"""What every registered task must keep; a new task is tested by being registered."""

import dataclasses

import pytest
import torch

from superpose.errors import InputError
from superpose.tasks import TASKS, task

EPISODES = 256


@pytest.fixture(params=sorted(TASKS))
def each(request):
    return task(request.param)


def draw(each, seed=0, episodes=EPISODES, **size):
    return each.sample(episodes, torch.Generator().manual_seed(seed), **size)


def right_outputs(each, batch):
    """Outputs without error, and outputs that know nothing, by objective."""
    if each.objective == "squared":
        return batch.targets.clone(), torch.zeros_like(batch.targets)
    if each.objective == "binary":
        return 20 * batch.targets, torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(9))
    best = 50 * torch.nn.functional.one_hot(batch.targets, each.vocab).float()
    return best, torch.rand(best.shape, generator=torch.Generator().manual_seed(9))


def test_shapes_are_as_declared(each):
    batch = draw(each)
    reads = batch.reads.shape[0]
    if each.kind == "continuous":
        assert batch.inputs.shape == (EPISODES, each.length, each.in_dim) and batch.inputs.dtype == torch.float32
        assert batch.targets.shape == (EPISODES, reads, each.out_dim) and batch.targets.dtype == torch.float32
    else:
        assert batch.inputs.shape == (EPISODES, each.length) and batch.targets.shape == (EPISODES, reads)
        for ids in (batch.inputs, batch.targets):
            assert ids.dtype == torch.int64 and ids.min() >= 0 and ids.max() < each.vocab
    assert batch.weight.shape == (EPISODES, reads) and batch.weight.min() >= 0 and batch.weight.sum() > 0
    assert batch.reads.min() >= 0 and batch.reads.max() < each.length and len(batch.reads.unique()) == reads
    assert all(len(value) == EPISODES for value in batch.info.values())


def test_a_seed_gives_one_batch_and_another_seed_another(each):
    state = torch.random.get_rng_state()
    first, again, other = draw(each), draw(each), draw(each, seed=1)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)
    assert torch.equal(state, torch.random.get_rng_state())


def test_episodes_differ_and_stay_when_points_of_the_prompt_are_dropped(each):
    batch = draw(each)
    assert not torch.equal(batch.inputs[0], batch.inputs[1])
    short = draw(each, points=max(1, each.points // 2))
    assert short.inputs.shape[1] < batch.inputs.shape[1]
    assert short.reads.max() < short.inputs.shape[1]


def test_error_and_loss_of_the_right_answer_and_of_knowing_nothing(each):
    batch = draw(each)
    right, blind = right_outputs(each, batch)
    assert each.mean(each.error(right, batch), batch) == pytest.approx(0, abs=1e-6)
    assert each.loss(right, batch) < 1e-6 < each.loss(blind, batch)
    blind_error = each.error(blind, batch)
    assert blind_error.shape == batch.weight.shape
    assert each.chance > 0
    spread = float((blind_error * batch.weight).mean(1).std()) / EPISODES**0.5
    assert float(each.mean(blind_error, batch)) > each.chance - 6 * spread


def test_loss_has_a_gradient_at_scored_reads_only(each):
    batch = draw(each, episodes=8)
    outputs = right_outputs(each, batch)[1].requires_grad_()
    loss = each.loss(outputs, batch)
    loss.backward()
    assert loss.shape == () and torch.isfinite(loss)
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all() and outputs.grad.abs().sum() > 0
    assert outputs.grad[batch.weight == 0].abs().sum() == 0


def test_half_precision_outputs_are_scored_in_single_precision(each):
    batch = draw(each, episodes=8)
    outputs = right_outputs(each, batch)[1].bfloat16()
    assert each.loss(outputs, batch).dtype == torch.float32 and each.error(outputs, batch).dtype == torch.float32


def test_optimum_is_between_nothing_and_chance_and_improves_with_context(each):
    batch = draw(each)
    optimum = each.optimum(batch)
    if optimum is None:
        return
    assert optimum.shape == batch.weight.shape
    assert -1e-6 <= float(each.mean(optimum, batch)) <= each.chance * 1.1
    quarter = 1 + optimum.shape[1] // 4
    scored = optimum * batch.weight
    first = scored[:, :quarter].sum() / batch.weight[:, :quarter].sum()
    last = scored[:, -quarter:].sum() / batch.weight[:, -quarter:].sum()
    assert last <= first + 1e-6


def test_fewer_dimensions_are_zero_in_the_inputs_or_refused(each):
    if each.kind == "token":
        with pytest.raises(InputError, match="dims"):
            draw(each, episodes=2, dims=1)
        return
    batch = draw(each, episodes=4, dims=each.dim - 1)
    assert batch.inputs.shape[2] == each.in_dim
    if hasattr(each, "prompt"):
        assert (batch.info["x"][..., each.dim - 1] == 0).all()
    for wrong in (0, each.dim + 1):
        with pytest.raises(InputError, match="dims"):
            draw(each, episodes=2, dims=wrong)


def test_wrong_sizes_are_refused(each):
    for wrong in (0, -1):
        with pytest.raises(InputError, match="points"):
            draw(each, episodes=2, points=wrong)
        with pytest.raises(InputError, match="points"):
            dataclasses.replace(each, points=wrong)


def test_the_papers_configuration_is_valid(each):
    paper = task(each.name, preset="paper")
    assert isinstance(paper, TASKS[each.name]) and paper.length >= each.length
    batch = draw(paper, episodes=2)
    assert batch.inputs.shape[:2] == (2, paper.length)


def test_batch_moves_and_reads():
    batch = draw(task("linear"), episodes=3)
    outputs = torch.arange(3 * 20 * 2).view(3, 20, 2).float()
    assert torch.equal(batch.at_reads(outputs), outputs[:, ::2])
    moved = batch.to("cpu")
    assert torch.equal(moved.inputs, batch.inputs) and set(moved.info) == set(batch.info)


def test_registry_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match=r"'cubic'.*sparse-parity"):
        task("cubic")
    with pytest.raises(InputError, match=r"'dimension'.*dim, points, noise"):
        task("linear", dimension=3)
    with pytest.raises(InputError, match="preset"):
        task("linear", preset="huge")
    assert task("sparse-linear", preset="paper", points=11) == dataclasses.replace(
        task("sparse-linear", preset="paper"), points=11
    )
