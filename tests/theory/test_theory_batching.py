"""The closed forms against enumeration, sampling, numeric integration and one another."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from superpose.errors import InputError
from superpose.theory import (
    batch_throughput,
    batching_latency,
    bins_for_throughput,
    empirical_batch_time,
    expected_max,
    exponential_batch_time,
    exponential_batch_time_bound,
    exponential_edges,
    exponential_throughput_bound,
    harmonic,
    padding_waste,
    uniform_batch_time,
    uniform_partition_time,
)


def test_expected_max_equals_enumeration():
    lengths = [3, 1, 4, 1, 5]
    draws = list(itertools.product(lengths, repeat=3))
    assert expected_max(lengths, 3) == pytest.approx(sum(map(max, draws)) / len(draws), rel=1e-12)
    assert expected_max(lengths, 1) == pytest.approx(2.8)
    assert expected_max([7], 128) == 7


def test_one_bin_over_all_is_the_expected_max_and_a_bin_per_value_wastes_nothing():
    lengths = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    assert empirical_batch_time(lengths, [0, 10], 4) == pytest.approx(expected_max(lengths, 4))
    edges = [0, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 10]
    assert empirical_batch_time(lengths, edges, 4) == pytest.approx(lengths.mean())
    assert padding_waste(lengths.mean(), lengths.mean()) == 0


def test_lengths_outside_the_edges_count_in_the_nearest_bin():
    assert empirical_batch_time([1, 20], [5, 8, 10], 2) == pytest.approx(0.5 * 1 + 0.5 * 20)


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_uniform_time_equals_the_empirical_one_of_a_fine_grid(bins):
    grid = np.linspace(1, 20, 200_001)
    edges = np.linspace(1, 20, bins + 1)
    assert uniform_batch_time(bins, 8, 1, 20) == pytest.approx(uniform_partition_time(edges, 8), rel=1e-12)
    assert uniform_batch_time(bins, 8, 1, 20) == pytest.approx(empirical_batch_time(grid, edges, 8), rel=1e-4)


def test_uniform_throughput_has_the_published_limit():
    rates = [batch_throughput(128, uniform_batch_time(k, 128, 1, 20)) for k in (1, 2, 4, 8, 10**6)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(12.19, abs=0.005)
    assert batch_throughput(128, 10.5, servers=3) == pytest.approx(3 * 128 / 10.5)


@pytest.mark.parametrize("epsilon", [5.0, 1.0, 0.3, 0.01])
def test_number_of_bins_is_the_smallest_that_suffices(epsilon):
    k = bins_for_throughput(epsilon, 128, 1, 20)
    wanted = 128 / 10.5 - epsilon
    assert batch_throughput(128, uniform_batch_time(k, 128, 1, 20)) >= wanted - 1e-12
    if k > 1:
        assert batch_throughput(128, uniform_batch_time(k - 1, 128, 1, 20)) < wanted


def test_any_throughput_needs_one_bin_at_least():
    assert bins_for_throughput(100.0, 128, 1, 20) == 1
    assert bins_for_throughput(0.01, 1, 1, 20) == 1  # batches of one waste nothing


def test_latency_is_batch_time_and_half_the_filling():
    assert batching_latency(10.0, 4, 9, 2.0) == pytest.approx(10 + 8 * 4 / 4)
    assert batching_latency(10.0, 4, 1, 2.0) == 10


def test_exponential_time_equals_numeric_integration():
    edges, size, rate = np.array([0.0, 3, 8, 25, math.inf]), 20, 0.1

    def longest(low, high):
        start, mass = math.exp(-rate * low), math.exp(-rate * low) - math.exp(-rate * high)
        missing = lambda t: 1 - ((start - math.exp(-rate * t)) / mass) ** size  # noqa: E731
        return low + quad(missing, low, min(high, 400), limit=200)[0], mass

    expected = sum(time * mass for time, mass in itertools.starmap(longest, itertools.pairwise(edges)))
    assert exponential_batch_time(edges, size, rate) == pytest.approx(expected, rel=1e-6)
    assert exponential_batch_time(edges, size, rate) < exponential_batch_time_bound(edges, size, rate)


def test_without_bins_the_exponential_bound_is_exact():
    edges = exponential_edges(1, 200, 0.1)
    assert exponential_batch_time(edges, 200, 0.1) == pytest.approx(10 * harmonic(200))
    assert exponential_batch_time_bound(edges, 200, 0.1) == pytest.approx(10 * harmonic(200))
    assert harmonic(3) == pytest.approx(1 + 1 / 2 + 1 / 3)


@pytest.mark.parametrize("bins", [2, 3, 5])
def test_exponential_edges_minimise_the_bound(bins):
    edges = exponential_edges(bins, 50, 0.1)

    def bound(widths):
        return exponential_batch_time_bound([0, *np.exp(widths).cumsum(), math.inf], 50, 0.1)

    found = minimize(bound, np.log(np.diff(edges[:-1])) + 0.3, method="Nelder-Mead", options={"fatol": 1e-12})
    assert found.fun == pytest.approx(exponential_batch_time_bound(edges, 50, 0.1), rel=1e-6)
    np.testing.assert_allclose(np.exp(found.x).cumsum(), edges[1:-1], rtol=1e-2)
    assert exponential_throughput_bound(bins, 50, 0.1) == pytest.approx(50 / found.fun, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_max([], 2), "lengths has shape"),
        (lambda: expected_max([1, math.nan], 2), r"lengths\[1\] is nan"),
        (lambda: expected_max([1, math.inf], 2), r"lengths\[1\] is inf"),
        (lambda: expected_max([-1.0], 2), r"lengths\[0\] is -1"),
        (lambda: expected_max([1], 0), "batch_size is 0"),
        (lambda: empirical_batch_time([1], [2, 1], 2), "edges is"),
        (lambda: uniform_batch_time(0, 8, 1, 20), "bins is 0"),
        (lambda: uniform_batch_time(1, 8, 20, 1), "low and high are 20 and 1"),
        (lambda: bins_for_throughput(0.0, 8, 1, 20), "epsilon is 0"),
        (lambda: batching_latency(1.0, 1, 8, 0.0), "rate is 0"),
        (lambda: batch_throughput(8, 1.0, servers=0), "servers is 0"),
        (lambda: exponential_edges(2, 1, 0.1), "batch_size is 1"),
        (lambda: exponential_edges(2, 8, -1.0), "rate is -1"),
        (lambda: exponential_batch_time([0, 1, 2], 8, 0.1), "from 0 to infinity"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
