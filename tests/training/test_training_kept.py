"""Evaluations that outlive a kill, and the cost of an update."""

import pytest
import torch

from superpose.errors import InputError
from superpose.models import ContinuousLearner, backbone_spec
from superpose.tasks import task
from superpose.training import KeptEvaluations, seconds_per_update


def test_what_was_added_is_found_again_bitwise(tmp_path):
    path = tmp_path / "kept.safetensors"
    kept = KeptEvaluations(path)
    error = torch.tensor(1 / 3, dtype=torch.float64)
    table = torch.rand(4, 6)
    kept.add({"0": error})
    kept.add({"curve": table[:, ::2]})  # a view: its neighbours are not kept
    again = KeptEvaluations(path)
    assert torch.equal(again.rows["0"], error)
    assert torch.equal(again.rows["curve"], table[:, ::2])
    assert [file.name for file in tmp_path.iterdir()] == ["kept.safetensors"]


def test_a_write_that_fails_leaves_what_was_kept(tmp_path, monkeypatch):
    kept = KeptEvaluations(tmp_path / "kept.safetensors")
    kept.add({"0": torch.ones(2)})

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("superpose.training.checkpoints.save_file", full)
    with pytest.raises(OSError, match="no space"):
        kept.add({"1": torch.zeros(2)})
    assert set(KeptEvaluations(tmp_path / "kept.safetensors").rows) == {"0"}
    assert [file.name for file in tmp_path.iterdir()] == ["kept.safetensors"]


def test_an_update_takes_longer_on_a_wider_batch():
    linear = task("linear", dim=4, points=10)
    learner = ContinuousLearner(backbone_spec("transformer", width=16), linear.in_dim, 1, seed=0)
    small = seconds_per_update(learner, linear, updates=3, batch=2)
    large = seconds_per_update(learner, linear, updates=3, batch=1024)
    assert 0 < small < large
    with pytest.raises(InputError, match="updates is 0"):
        seconds_per_update(learner, linear, updates=0)
