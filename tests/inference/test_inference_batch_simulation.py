"""The simulation against hand-made cases, the closed forms, the live scheduler and a naive event loop; and plans."""

import math

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.inference import (
    MultiBinScheduler,
    UnstableWarning,
    plan_bins,
    poisson_arrivals,
    quantile_edges,
    recommended_plan,
    simulate_batching,
    uniform_edges,
)
from superpose.theory import batching_latency, uniform_batch_time


def test_a_case_by_hand():
    #       bin 0: requests 0, 2, 4; bin 1: 1, 3
    done = simulate_batching([0, 1, 2, 3, 4], [2, 12, 4, 11, 3], [0, 10, 20], batch_size=2)
    assert done.order.tolist() == [0, 2, 1, 3, 4]
    assert done.formed.tolist() == [2, 3, 4]  # the last one is flushed at the last arrival
    assert done.start.tolist() == [2, 6, 18]
    assert done.end.tolist() == [6, 18, 21]
    assert done.latency.tolist() == [6, 17, 4, 15, 17]
    assert done.throughput == pytest.approx(5 / 21)
    assert done.utilisation == pytest.approx(19 / 21)
    assert done.padding_waste == pytest.approx(1 - 32 / (2 * 19))
    assert [(b.bin, b.members.tolist()) for b in done.batches()] == [(0, [0, 2]), (1, [1, 3]), (0, [4])]


def test_what_is_left_over_may_be_dropped():
    done = simulate_batching([0, 0, 0], [1, 2, 3], batch_size=2, leftover="drop")
    assert done.order.tolist() == [0, 1]
    assert math.isnan(done.latency[2])
    assert done.mean_latency == 2


def test_two_servers_and_unlimited_ones():
    one, two, many = (simulate_batching([0] * 4, [4, 3, 2, 1], None, 1, servers) for servers in (1, 2, None))
    assert one.end.tolist() == [4, 7, 9, 10]
    assert two.end.tolist() == [4, 3, 5, 5]
    assert many.end.tolist() == [4, 3, 2, 1]
    assert math.isnan(many.utilisation)


def test_the_shortest_waiting_batch_may_go_first():
    arrivals, service = [0, 1, 2, 3], [10, 8, 1, 4]
    assert simulate_batching(arrivals, service, batch_size=1, policy="shortest").end.tolist() == [10, 23, 11, 15]
    predicted = [10, 1, 4, 8]  # it goes by the prediction, not by the truth
    by_guess = simulate_batching(arrivals, service, batch_size=1, policy="shortest", predicted=predicted)
    assert by_guess.end.tolist() == [10, 18, 19, 23]


def test_nobody_waits_longer_than_allowed():
    done = simulate_batching([0, 1, 5, 5.5, 9], [1] * 5, batch_size=3, max_wait=1.0)
    assert done.formed.tolist() == [1, 6, 10]
    assert [b.members.tolist() for b in done.batches()] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("max_wait", [None, 1.5])
def test_it_forms_the_batches_that_the_scheduler_forms(max_wait):
    generator = np.random.default_rng(3)
    arrivals, lengths = poisson_arrivals(400, 3.0, generator), generator.uniform(1, 20, 400)
    edges = uniform_edges(4, 1, 20)
    now = 0.0
    scheduler = MultiBinScheduler(edges, 5, max_wait, clock=lambda: now)
    formed = []
    for i, arrival in enumerate(arrivals):
        while (due := scheduler.next_deadline()) is not None and due < arrival:
            now = due
            formed += scheduler.poll()
        now = float(arrival)
        scheduler.submit(i, lengths[i])
        formed += scheduler.poll()
    while max_wait is not None and (due := scheduler.next_deadline()) is not None:
        now = due
        formed += scheduler.poll()
    formed += scheduler.flush()
    done = simulate_batching(arrivals, lengths, edges, 5, servers=None, max_wait=max_wait)
    full = [batch.members.tolist() for batch in done.batches()]
    expected = [list(batch.requests) for batch in formed]
    if max_wait is None:  # leftovers are flushed at one moment, in no particular order
        full, expected = sorted(full), sorted(expected)
    assert full == expected


def test_it_equals_a_naive_event_loop():
    generator = np.random.default_rng(4)
    arrivals, service = poisson_arrivals(300, 0.8, generator), generator.uniform(1, 20, 300)
    bins, queue, free = [[], [], []], [], [0.0, 0.0]
    for i in range(300):
        each = bins[min(int((service[i] - 1) // (19 / 3)), 2)]
        each.append(i)
        if len(each) == 4:
            queue.append((arrivals[i], list(each)))
            each.clear()
    queue += [(arrivals[-1], each) for each in bins if each]
    ends = {}
    for ready, members in queue[: 300 // 4 - 3]:
        at = free.index(min(free))
        free[at] = max(free[at], ready) + max(service[members])
        ends |= dict.fromkeys(members, free[at])
    done = simulate_batching(arrivals, service, uniform_edges(3, 1, 20), 4, servers=2)
    served = list(ends)
    np.testing.assert_allclose((done.latency + arrivals)[served], [ends[i] for i in served])


@pytest.mark.parametrize("bins", [1, 2, 4])
def test_saturated_throughput_and_free_latency_equal_the_closed_forms(bins):
    generator = np.random.default_rng(bins)
    service = generator.uniform(1, 20, 64_000)
    time, edges = uniform_batch_time(bins, 64, 1, 20), uniform_edges(bins, 1, 20)
    saturated = simulate_batching(np.zeros(64_000), service, edges, 64)
    assert saturated.throughput == pytest.approx(64 / time, rel=0.01)
    assert saturated.padding_waste == pytest.approx(1 - 10.5 / time, abs=0.01)
    free = simulate_batching(poisson_arrivals(64_000, 6.0, generator), service, edges, 64, servers=None)
    assert free.mean_latency == pytest.approx(batching_latency(time, bins, 64, 6.0), rel=0.01)


def test_without_bins_and_with_one_bin_it_is_the_same():
    generator = np.random.default_rng(0)
    arrivals, service = poisson_arrivals(99, 1.0, generator), generator.uniform(1, 20, 99)
    plain, one = (simulate_batching(arrivals, service, edges) for edges in (None, [0, 30]))
    assert (plain.latency == one.latency).all()
    assert plain.throughput == one.throughput


def test_wrong_units_are_said():
    with pytest.warns(UserWarning, match="unit of the predictions"):
        simulate_batching([0, 0, 0], [0.1, 0.2, 0.3], [0, 100, 200])


def test_every_plan_has_the_throughput_of_its_simulation():
    lengths = np.random.default_rng(0).lognormal(4, 0.5, 40_000)
    for edges in ("quantile", "optimal"):
        for plan in plan_bins(lengths, 8, (1, 4), edges=edges):
            simulated = simulate_batching(np.zeros(40_000), lengths, plan.edges, 8)
            assert plan.throughput == pytest.approx(simulated.throughput, rel=0.01)
            assert plan.waste == pytest.approx(simulated.padding_waste, abs=0.01)


def test_the_recommended_plan_has_the_fewest_bins_that_suffice():
    lengths = np.linspace(1, 20, 3001)
    plans = plan_bins(lengths, 128, (1, 2, 4, 8, 16))
    assert [plan.throughput >= 0.9 * plan.limit for plan in plans] == [False, False, False, False, True]
    assert recommended_plan(plans, within=0.1).bins == 16
    assert recommended_plan(plans, within=0.5).bins == 1
    assert recommended_plan(plans, within=0.0) is None


def test_a_load_over_the_capacity_is_said_and_not_recommended():
    lengths = np.linspace(1, 20, 3001)
    with pytest.warns(UnstableWarning, match="8 requests arrive per unit of time, but 1 bins serve 6.4"):
        plans = plan_bins(lengths, 128, (1, 2), rate=8.0)
    assert plans[0].latency == math.inf
    assert plans[1].latency == pytest.approx(plans[1].batch_time + 127 * 2 / 16)
    assert recommended_plan(plans, within=1.0).bins == 2
    assert plan_bins(lengths, 128, (1,), rate=8.0, servers=2)[0].latency < math.inf


def test_shipped_plans_work_on_few_lengths():
    assert quantile_edges([3.0, 9.0], 2).tolist() == [3, 6, 9]
    assert plan_bins([3.0, 9.0], 8, (2,))[0].waste == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrivals": [], "service": []}, "arrivals has shape"),
        ({"arrivals": [1, 0]}, r"arrivals\[1\] is before"),
        ({"arrivals": [0]}, "have 1, 2 and 2 entries"),
        ({"service": [1, math.nan]}, r"service\[1\] is nan"),
        ({"service": [1, -1]}, r"service\[1\] is -1"),
        ({"predicted": [1, math.nan]}, r"predicted\[1\] is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"servers": 0}, "servers is 0"),
        ({"edges": [1, 1]}, "edges is"),
        ({"policy": "longest"}, "policy is 'longest'"),
        ({"leftover": "keep"}, "leftover is 'keep'"),
        ({"leftover": "drop"}, "no bin has 8"),
        ({"max_wait": -1}, "max_wait is -1"),
    ],
)
def test_wrong_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        simulate_batching(**({"arrivals": [0, 1], "service": [1, 2]} | change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisson_arrivals(0, 1.0, np.random.default_rng()), "requests is 0"),
        (lambda: poisson_arrivals(1, 0.0, np.random.default_rng()), "rate is 0"),
        (lambda: plan_bins([0, 0], 8), "all 0"),
        (lambda: plan_bins([1, 2], 8, ()), "bins is empty"),
        (lambda: plan_bins([1, 2], 8, (0,)), "bins is 0"),
        (lambda: plan_bins([1, 2], 8, (1,), edges="best"), "edges is 'best'"),
        (lambda: plan_bins([1, 2], 8, (1,), rate=-1.0), "rate is -1"),
        (lambda: recommended_plan([]), "plans is empty"),
        (lambda: recommended_plan(plan_bins([1, 2], 8, (1,)), within=2.0), "within is 2"),
    ],
)
def test_wrong_plans_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
