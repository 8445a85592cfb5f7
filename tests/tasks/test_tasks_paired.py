import pytest
import torch

from superpose.errors import InputError
from superpose.tasks import LinearRegression, LogisticRegression, PairedPrompts


def drawn(task, batch=2000, seed=0, **settings):
    return task.sample(batch, torch.Generator().manual_seed(seed), **settings)


def test_tokens_hold_inputs_with_labels_and_the_last_label_is_asked_for():
    task = PairedPrompts(LinearRegression(dim=3, points=5))
    batch = drawn(task, 4)
    assert batch.inputs.shape == (4, task.length, task.in_dim) == (4, 6, 4)
    x, y, w = batch.info["x"], batch.info["y"], batch.info["w"]
    torch.testing.assert_close(y, torch.einsum("bpd,bd->bp", x, w))
    torch.testing.assert_close(batch.inputs[:, :, :3], x)
    torch.testing.assert_close(batch.inputs[:, :5, 3], y[:, :5])
    assert not bool(batch.inputs[:, 5, 3].any()), "the prompt holds the label that is asked for"
    torch.testing.assert_close(batch.targets[:, 0, 0], y[:, 5])
    assert batch.reads.tolist() == [5] and torch.equal(batch.weight, torch.ones(4, 1))


def test_scales_are_those_of_the_inputs_before_labels_are_drawn():
    task = PairedPrompts(LinearRegression(dim=2, points=3), (2.0, 0.5))
    batch = drawn(task, 20_000)
    torch.testing.assert_close(batch.info["x"].std((0, 1)), torch.tensor([2.0, 0.5]), rtol=0.02, atol=0)
    assert float(batch.targets.var()) == pytest.approx(4.25, rel=0.1)


@pytest.mark.parametrize("base", [LinearRegression(dim=3, points=4), LogisticRegression(dim=3, points=4)])
def test_loss_and_error_are_the_base_tasks(base):
    task = PairedPrompts(base)
    batch = drawn(task, 50)
    outputs = torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(task.loss(outputs, batch), base.mean(base.read_loss(outputs, batch), batch))
    torch.testing.assert_close(task.error(outputs, batch), base.error(outputs, batch))
    assert (task.objective, task.metric, task.chance) == (base.objective, base.metric, base.chance)
    assert task.name == f"paired-{base.name}"


def test_equal_seeds_draw_equal_prompts_and_curricula_are_kept():
    task = PairedPrompts(LinearRegression(dim=3, points=4))
    assert torch.equal(drawn(task, 5).inputs, drawn(task, 5).inputs)
    shorter = drawn(task, 5, points=2, dims=1)
    assert shorter.inputs.shape == (5, 3, 4) and not bool(shorter.inputs[:, :, 1:3].any())


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0)])
def test_wrong_scales_are_named(scales):
    with pytest.raises(InputError, match=r"scales is .*allowed: \(\) or 3 values above 0"):
        PairedPrompts(LinearRegression(dim=3, points=4), scales)
