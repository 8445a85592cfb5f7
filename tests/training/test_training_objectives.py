import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from superpose.errors import InputError
from superpose.training import cross_entropy, loop_window, squared_error, total
from superpose.training.objectives import name_of


@dataclass(frozen=True)
class Answers:
    targets: Tensor
    weight: Tensor


ANSWERS = Answers(targets=torch.tensor([[[1.0], [2.0]], [[0.0], [5.0]]]), weight=torch.tensor([[1.0, 1.0], [2.0, 0.0]]))


def test_squared_error_is_the_weighted_mean_over_reads():
    outputs = torch.tensor([[[3.0], [2.0]], [[1.0], [-100.0]]])
    # Errors 4, 0, 1 with weights 1, 1, 2; the fourth read does not count.
    assert squared_error(outputs, ANSWERS).item() == pytest.approx((4 + 0 + 2) / 4)


def test_cross_entropy_is_in_nats_and_weighted():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]))
    answers = Answers(targets=torch.tensor([[1, 1]]), weight=torch.tensor([[3.0, 1.0]]))
    assert cross_entropy(logits, answers).item() == pytest.approx((3 * math.log(4) - math.log(0.8)) / 4)


def test_total_adds_with_factors():
    outputs = torch.zeros(2, 2, 1)
    objective = total(squared_error, (0.5, lambda o, _: (o + 4).mean()))
    assert objective(outputs, ANSWERS).item() == pytest.approx(squared_error(outputs, ANSWERS).item() + 2)
    assert "squared_error" in name_of(objective)
    with pytest.raises(InputError, match="terms is empty"):
        total()


def test_loop_window_averages_over_iterates():
    iterates = torch.randn(5, 2, 2, 1)
    expected = torch.stack([squared_error(iterate, ANSWERS) for iterate in iterates]).mean()
    assert loop_window(squared_error)(iterates, ANSWERS).item() == pytest.approx(expected.item(), rel=1e-6)
