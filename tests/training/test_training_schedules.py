import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from superpose.errors import InputError
from superpose.training import Curriculum, Ramp, Schedule, seeded
from superpose.training.budget import Budget


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_decay_after_the_warmup_equals_transformers(kind, reference):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    expected = reference(optimiser, num_warmup_steps=20, num_training_steps=100)
    schedule = Schedule(kind, warmup=20)
    for step in range(100):
        ours = schedule.at(step, 100)
        if step >= 20:
            assert ours == pytest.approx(expected.get_last_lr()[0], abs=1e-12)
        else:
            assert ours == pytest.approx((step + 1) / 20)
        optimiser.step()
        expected.step()


def test_wsd_is_stable_then_falls_in_the_last_tenth():
    schedule = Schedule("wsd", warmup=500, decay=0.1)
    factors = [schedule.at(step, 5000) for step in (0, 499, 500, 4499, 4500, 4750, 4999)]
    assert factors == pytest.approx([1 / 500, 1, 1, 1, 1, 0.5, 1 / 500])


def test_floor_is_where_the_decay_ends():
    for kind in ("linear", "cosine", "wsd"):
        assert Schedule(kind, floor=0.2).factor(7, done=1.0) == pytest.approx(0.2)
    assert Schedule("constant").factor(10**6, done=1.0) == 1.0


def test_a_budget_in_seconds_decays_by_seconds():
    budget = Budget(None, 10.0, Schedule("linear", warmup=2))
    assert [budget.factor(s, t) for s, t in ((0, 0.0), (1, 1.0))] == [0.5, 1.0]
    # The warm-up took the first second, so half of the decay lies in the middle of the other nine.
    assert budget.factor(2, 1.0) == pytest.approx(1.0)
    assert budget.factor(50, 5.5) == pytest.approx(0.5)
    assert budget.factor(99, 12.0) == 0.0
    assert budget.spent(99, 10.0)
    assert not budget.spent(99, 9.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sine"}, "kind is 'sine'; allowed: constant, linear, cosine, wsd"),
        ({"warmup": -1}, "warmup is -1"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"floor": 1.5}, "floor is 1.5"),
    ],
)
def test_wrong_schedules(settings, message):
    with pytest.raises(InputError, match=message):
        Schedule(**settings)


def test_a_warmup_longer_than_the_budget_is_refused():
    with pytest.raises(InputError, match="warmup is 95; with steps 100 and a wsd schedule at most 90"):
        Budget(100, None, Schedule("wsd", warmup=95))


def test_ramps_follow_the_counter_of_the_published_curriculum():
    dims, points, loops = 5, 11, 15
    curriculum = Curriculum({"dims": Ramp(5, 20, 1, 50), "points": Ramp(11, 41, 2, 50)}, loops=Ramp(15, 30, 2, 5))
    for step in range(1000):
        assert curriculum.sample_at(step) == {"dims": dims, "points": points}
        assert curriculum.loops_at(step) == loops
        count = step + 1
        if count % 50 == 0:
            dims, points = min(dims + 1, 20), min(points + 2, 41)
        if count % 5 == 0:
            loops = min(loops + 2, 30)
    assert (dims, points, loops) == (20, 41, 30)


def test_ramps_may_fall_and_may_stand_still():
    assert [Ramp(0.5, 0.15, -0.35, 10).at(step) for step in (0, 9, 10, 99)] == pytest.approx([0.5, 0.5, 0.15, 0.15])
    assert Ramp(3, 3, 0, 1).at(1000) == 3
    assert Curriculum().loops_at(5) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(5, 20, -1, 10), "inc is -1; it must lead from start 5 to end 20"),
        (lambda: Ramp(5, 20, 1, 0), "interval is 0"),
        (lambda: Curriculum(loops=Ramp(0, 4, 1, 10)), "loops is"),
        (lambda: Curriculum(loops=Ramp(1, 4, 0.5, 10)), "loops is"),
    ],
)
def test_wrong_ramps(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_seeded_generators_depend_on_seed_purpose_and_step_only():
    def draw(*key):
        return torch.randn(4, generator=seeded(*key))

    assert torch.equal(draw(3, "train", 7), draw(3, "train", 7))
    others = [(4, "train", 7), (3, "evaluate", 7), (3, "train", 8), (7, "train", 3)]
    assert all(not torch.equal(draw(3, "train", 7), draw(*key)) for key in others)
    with pytest.raises(InputError, match="step is -1"):
        seeded(0, "train", -1)
