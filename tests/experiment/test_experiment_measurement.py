import json
import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from superpose.errors import InputError
from superpose.experiment.measurement import (
    Measurement,
    exact,
    largest_of,
    over_items,
    over_seeds,
    paired_difference,
    paired_ratio,
    proportion,
    smallest_of,
)


def test_exact_has_no_width():
    m = exact("gap", 0.25, n=7, unit="nats")
    assert (m.value, m.low, m.high, m.n, m.unit, m.over, m.interval) == (0.25, 0.25, 0.25, 7, "nats", "exact", "exact")


@pytest.mark.parametrize("n", [5, 6, 30])
def test_seeds_from_five_on_get_students_interval(n):
    x = np.random.default_rng(n).normal(3, 2, n)
    m = over_seeds("loss", x)
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    assert m.value == pytest.approx(x.mean(), rel=1e-12)
    assert (m.low, m.high) == pytest.approx((low, high), rel=1e-9)
    assert m.interval == "t 95 %"


def test_students_interval_by_hand():
    # 1..5: mean 3, s = sqrt(2.5), t(4, 0.975) = 2.776445 from any table
    m = over_seeds("x", [1, 2, 3, 4, 5])
    assert m.high - 3 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)


def test_few_seeds_give_their_range_and_say_so():
    m = over_seeds("loss", [1.0, 4.0, 2.0])
    assert (m.low, m.high, m.interval, m.n) == (1.0, 4.0, "range of 3", 3)


def test_equal_seeds_give_a_valid_measurement():
    m = over_seeds("loss", [0.1, 0.1, 0.1])  # whose mean is 0.10000000000000002
    assert m.low <= m.value <= m.high
    assert over_seeds("loss", [0.1] * 6).high == pytest.approx(0.1)


def test_an_infinite_seed_leaves_the_answer_open():
    m = over_seeds("kl", [1, 1, 1, 1, math.inf])
    assert (m.value, m.low, m.high, m.interval) == (math.inf, 1.0, math.inf, "range of 5")


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_against_published_numbers(k, n, low, high):
    # 81/263 is the worked example of Newcombe (1998), table I
    m = proportion("rate", k, n)
    assert (m.low, m.high) == pytest.approx((low, high), abs=5e-5)
    assert m.value == k / n


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 7), (499, 500), (7, 7)])
def test_wilson_against_scipy(k, n):
    ci = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    m = proportion("rate", k, n)
    assert (m.low, m.high) == pytest.approx((ci.low, ci.high), abs=1e-12)
    assert 0 <= m.low <= m.value <= m.high <= 1


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_proportions_are_refused(k, n):
    with pytest.raises(InputError, match="successes"):
        proportion("rate", k, n)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    x = np.random.default_rng(1).normal(0, 1, 400)
    m = over_items("mean", x)
    half = 1.96 * stats.sem(x)
    assert (m.low, m.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)
    assert m == over_items("mean", x)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = sum(m.low <= 1.0 <= m.high for m in (over_items("m", rng.exponential(1.0, 60)) for _ in range(40)))
    assert 33 <= hits <= 40


def test_bootstrap_keeps_rows_together():
    x = np.random.default_rng(3).normal(size=50)
    m = over_items("r", np.stack([x, 2 * x], 1), statistic=lambda rows: float(np.corrcoef(rows.T)[0, 1]))
    assert (m.low, m.high) == pytest.approx((1.0, 1.0))


def test_bootstrap_with_infinities_and_with_one_item():
    m = over_items("kl", [0.0] * 90 + [math.inf])
    assert (m.value, m.low, m.high) == (math.inf, 0.0, math.inf)
    assert over_items("kl", [2.0]).interval == "one item"


def test_a_statistic_that_is_sometimes_nan_is_refused():
    with pytest.raises(InputError, match="NaN on"):
        over_items("r", [0.0, 1.0], statistic=lambda x: math.nan if x.std() == 0 else float(x.mean()))


@pytest.mark.parametrize("over", ["seeds", "items"])
def test_a_paired_difference_is_tighter_than_the_arms(over):
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 10, 40)
    a, b = shared + 1 + rng.normal(0, 0.1, 40), shared
    paired = paired_difference("d", a, b, over=over)
    arm = over_items("a", a)
    assert paired.low > 0.9
    assert paired.high < 1.1
    assert arm.high - arm.low > 20 * (paired.high - paired.low)
    assert paired.over == over


def test_paired_ratios():
    a, b = np.array([2.0, 4.0, 6.0, 8.0, 10.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    for over in ("seeds", "items"):
        m = paired_ratio("speed", a, b, over=over)
        assert (m.value, m.low, m.high, m.unit) == (2.0, 2.0, 2.0, "x")
    # over items it is the ratio of the means, over seeds the mean of the ratios
    a, b = np.array([1.0, 9.0, 1.0]), np.array([1.0, 3.0, 1.0])
    assert paired_ratio("r", a, b, over="items").value == pytest.approx(11 / 5)
    assert paired_ratio("r", a, b, over="seeds").value == pytest.approx(5 / 3)


def test_unpaired_empty_and_nonpositive_arms_are_refused():
    with pytest.raises(InputError, match="2 and 3 values"):
        paired_difference("d", [1, 2], [1, 2, 3], over="items")
    with pytest.raises(InputError, match="positive"):
        paired_ratio("r", [1, 2], [1, 0], over="items")
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        over_seeds("d", [])
    with pytest.raises(InputError, match="at least one item"):
        over_items("d", [])
    with pytest.raises(InputError, match=r"shape \(2, 1\)"):
        over_seeds("d", [[1.0], [2.0]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: exact("x", math.nan),
        lambda: over_seeds("x", [1, 2, math.nan]),
        lambda: over_seeds("x", [math.inf, -math.inf, 0]),
        lambda: over_items("x", [1, 2, math.nan]),
    ],
)
def test_nan_is_refused(make):
    with pytest.raises(ValueError, match="NaN"):
        make()


def test_a_value_outside_its_interval_or_a_wild_name_is_refused():
    good = {"name": "x", "value": 1, "low": 0, "high": 2, "n": 3, "over": "items", "interval": "by hand"}
    Measurement(**good)
    for wrong in ({"value": 3}, {"low": 1.5}, {"low": 3, "high": 2}, {"n": 0}, {"name": "X y"}, {"over": "luck"}):
        with pytest.raises(ValidationError):
            Measurement(**{**good, **wrong})


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.1 + 0.2, 5e-324, -0.0])
def test_every_float_survives_json(value):
    m = exact("x", value)
    text = m.model_dump_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    again = Measurement.model_validate_json(text)
    assert again == m
    assert math.copysign(1, again.value) == math.copysign(1, value)


def test_numpy_scalars_are_numbers():
    m = exact("x", np.float32(0.5), n=np.int64(3))
    assert (m.value, m.n) == (0.5, 3)


@pytest.mark.parametrize("shape", [(7,), (60, 3), (1500, 4)])
def test_resampling_many_at_a_time_equals_one_at_a_time(shape):
    x = np.random.default_rng(3).normal(size=shape)
    at_once = over_items("m", x)
    one_by_one = over_items("m", x, statistic=lambda rows: float(rows.mean()))
    assert (at_once.low, at_once.high) == pytest.approx((one_by_one.low, one_by_one.high), rel=1e-12)


def test_extremes_of_several_numbers_take_each_end_by_itself():
    wide, narrow = over_seeds("a", [0.0, 2.0, 4.0]), over_seeds("b", [1.0, 1.5, 2.0, 3.0])
    least, most = smallest_of("least", [wide, narrow]), largest_of("most", iter([wide, narrow]))
    assert (least.value, least.low, least.high) == (1.875, 0.0, 3.0)
    assert (most.value, most.low, most.high) == (2.0, 1.0, 4.0)
    assert (least.name, most.name, least.n, most.n) == ("least", "most", 3, 3)
