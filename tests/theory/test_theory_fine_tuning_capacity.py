"""Counts of neurons and breaks: closed forms against exact dynamic programmes, brute force and evaluated networks."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.theory import (
    breakpoints,
    capacity,
    group_split,
    min_knots,
    min_knots_dp,
    most_breaks,
    neurons_lower_bound,
    neurons_needed,
    worst_knots,
)


def brute_force_knots(t, v, most):
    """Smallest set of candidate breaks for which affine pieces through all points exist, by least squares.

    Candidates are the inner points, three places in every gap, and where lines through neighbouring pairs meet.
    """
    candidates = set(t[1:-1].tolist())
    for a, b in itertools.pairwise(t):
        candidates |= {a + (b - a) * share for share in (0.2, 0.5, 0.8)}
    slopes = np.diff(v) / np.diff(t)
    for i, j in itertools.combinations(range(len(slopes)), 2):
        if slopes[i] != slopes[j]:
            x = (v[j] - v[i] + slopes[i] * t[i] - slopes[j] * t[j]) / (slopes[i] - slopes[j])
            if t[0] < x < t[-1]:
                candidates.add(float(x))
    affine = np.stack([np.ones_like(t), t], 1)
    for count in range(most + 1):
        for places in itertools.combinations(sorted(candidates), count):
            design = np.concatenate([affine, np.maximum(t[:, None] - np.array(places), 0)], 1)
            found = design @ np.linalg.lstsq(design, v, rcond=None)[0]
            if np.abs(found - v).max() < 1e-9:
                return count
    return most + 1


@pytest.mark.parametrize("seed", range(12))
def test_fewest_breaks_agree_with_brute_force(seed):
    generator = np.random.default_rng(seed)
    t = np.sort(generator.uniform(0, 4, 5))
    v = generator.integers(-2, 3, 5).astype(float)
    assert brute_force_knots(t, v, 3) == min_knots(t, v)


def test_fewest_breaks_agree_with_the_dynamic_programme_on_all_small_labels():
    for points in range(1, 6):
        for t in (np.arange(points, dtype=float), np.sort(np.random.default_rng(points).normal(size=points))):
            labels = np.array(list(itertools.product((-1.0, 0.0, 2.0), repeat=points)))
            batched = min_knots(t, labels)
            assert [min_knots_dp(t, row) for row in labels] == batched.tolist()


def test_fewest_breaks_of_known_shapes():
    t = np.arange(9.0)
    assert min_knots(t, 3 * t - 1) == 0
    assert min_knots(t, np.abs(t - 4)) == 1
    assert min_knots(t, t**2) == 4  # seven turns to one side, two to a break
    assert min_knots(t, (-1.0) ** t) == 7
    assert min_knots([0.0], [1.0]) == min_knots([0.0, 1.0], [1.0, 5.0]) == 0


def test_signs_of_turns_are_exact_where_floats_cancel():
    # On the line y = t / 10 in the reals; as floats three of these points are not collinear, by one unit in the last.
    t = np.array([0.1, 0.3, 0.7, 1.1])
    v = t / 10
    exact = [Fraction(x) for x in v]
    at = [Fraction(x) for x in t]
    turns = [
        (exact[i + 2] - exact[i + 1]) * (at[i + 1] - at[i]) - (exact[i + 1] - exact[i]) * (at[i + 2] - at[i + 1])
        for i in range(2)
    ]
    assert any(turns)  # what float64 arithmetic would call noise
    assert min_knots(t, v) == min_knots_dp(t, v)
    assert min_knots(2.0**40 + np.arange(3), np.array([0.0, 1.0, 2.0])) == 0


@pytest.mark.parametrize("samples", range(1, 9))
def test_the_worst_case_is_the_formula_over_all_sets_and_labels(samples):
    labels = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=samples)))
    t = np.sort(np.random.default_rng(samples).uniform(size=samples))
    knots, tuned = min_knots(t, labels), np.count_nonzero(labels, axis=1)
    assert [int(knots[tuned == n].max()) for n in range(samples + 1)] == [
        worst_knots(n, samples) for n in range(samples + 1)
    ]


def test_isolated_points_of_alternating_sign_need_three_breaks_each():
    v = np.zeros(402)
    v[2::3][:100] = (-1.0) ** np.arange(100)  # two zeros between neighbours are enough
    assert min_knots(np.arange(402.0), v) == 300 == worst_knots(100) == neurons_needed(100).lower


def random_net(generator, first, second):
    shapes = (first, first, (second, first), second, second)
    return [generator.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("seed", range(8))
def test_breakpoints_leave_straight_lines_between_them_and_none_out(seed):
    generator = np.random.default_rng(seed)
    w1, b1, w2, b2, w3 = random_net(generator, int(generator.integers(1, 7)), int(generator.integers(1, 7)))

    def network(x):
        return np.maximum(np.maximum(x[..., None] * w1 + b1, 0) @ w2.T + b2, 0) @ w3

    places = breakpoints(w1, b1, w2, b2, w3)
    assert len(places) <= most_breaks((len(w1), len(w2)))
    edges = np.concatenate([places[:1] - 1, places, places[-1:] + 1])
    for a, b in itertools.pairwise(edges):
        y = network(np.array([a, a + (b - a) / 3, a + 2 * (b - a) / 3, b]))
        assert y[1:3] == pytest.approx(y[0] + (y[3] - y[0]) * np.array([1, 2]) / 3, abs=1e-9 * (1 + np.abs(y).max()))
    small = 1e-6
    for place in places:
        before, at, after = network(place + small * np.array([-1.0, 0.0, 1.0]))
        if np.abs(np.diff(np.sort(places))).min(initial=1) > 3 * small:
            assert abs(before - 2 * at + after) > 1e-13


def test_breaks_multiply_from_layer_to_layer():
    assert most_breaks((5,)) == 5
    assert most_breaks((3, 4)) == 3 + 4 * (3 + 1)
    assert most_breaks(()) == 0
    # A tent map in every layer: two units each, 2^layers - 1 breaks, far below 3^layers - 1 but more than the units.
    assert most_breaks((2, 2, 2)) == 26


@pytest.mark.parametrize("depth", (2, 3, 4, 5))
def test_the_lower_bound_is_the_least_m_whose_breaks_reach_the_worst_case(depth):
    for tuned in range(12):
        wanted = worst_knots(tuned)
        least = next(
            m
            for m in itertools.count()
            if any(
                most_breaks(widths) >= wanted
                for widths in itertools.product(range(m + 1), repeat=depth - 1)
                if sum(widths) == m
            )
        )
        assert neurons_lower_bound(tuned, depth=depth) == least


def test_the_lower_bound_of_three_layers_in_closed_form():
    for tuned in (1, 16, 64, 256, 1024):
        assert neurons_lower_bound(tuned, depth=3) >= 2 * (np.sqrt(1 + 3 * tuned) - 1) - 1e-9
        assert neurons_lower_bound(tuned, depth=3) <= 2 * (np.sqrt(1 + 3 * tuned) - 1) + 2


def test_two_layers_need_and_use_three_neurons_per_sample_whatever_k_is():
    for samples in (3002, 10**6, None):
        assert neurons_needed(1000, samples) == (3000, 3000)
    assert neurons_needed(1000, 1000) == (998, 999)


def test_upper_and_lower_numbers_are_ordered_and_grow():
    for depth in (2, 3):
        for samples in (1, 2, 7, 50, None):
            every = [neurons_needed(n, samples, depth) for n in range((samples or 60) + 1)]
            assert all(each.lower <= each.upper for each in every)
            assert every == sorted(every, key=lambda each: each.lower)
            assert every == sorted(every, key=lambda each: each.upper)


@pytest.mark.parametrize("depth", (2, 3))
@pytest.mark.parametrize("samples", (1, 4, 30, None))
def test_capacity_is_the_inverse_of_the_neurons_needed(depth, samples):
    needed = [neurons_needed(n, samples, depth) for n in range((samples or 80) + 1)]
    for neurons in range(0, 60, 3):
        can = capacity(neurons, samples, depth)
        for n, need in enumerate(needed):
            assert (can.lower >= n) == (neurons >= need.upper)
            assert (can.upper >= n) == (neurons >= need.lower)


def test_groups_hold_all_points_and_are_as_cheap_as_possible():
    for tuned in range(1, 200):
        p, q = group_split(tuned)
        assert p * q >= tuned
        assert 2 * p + 4 * q == min(2 * -(-tuned // size) + 4 * size for size in range(1, tuned + 1))
        assert neurons_needed(tuned, None, 3).upper <= 5.8 * np.sqrt(tuned) + 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: min_knots([], []), "t has shape"),
        (lambda: min_knots([0.0, 1.0], [1.0]), "as long as t, 2"),
        (lambda: min_knots([0.0, 0.0], [1.0, 2.0]), r"t\[0\] is 0.0 and t\[1\] is 0.0; t must strictly increase"),
        (lambda: min_knots([0.0, np.nan], [1.0, 2.0]), "t holds nan"),
        (lambda: min_knots([0.0, 1.0], [1.0, np.inf]), "v holds inf"),
        (lambda: min_knots_dp([0.0, 1.0], [[1.0, 2.0]]), "allowed: one row"),
        (lambda: worst_knots(-1), "tuned is -1"),
        (lambda: worst_knots(5, 4), "tuned is 5 of samples 4; allowed: at most all"),
        (lambda: neurons_needed(5, 4), "tuned is 5 of samples 4"),
        (lambda: neurons_needed(5, 10, 4), "depth is 4; allowed: 2, 3"),
        (lambda: neurons_lower_bound(5, 10, 1), "depth is 1"),
        (lambda: most_breaks((3, -1)), "widths is"),
        (lambda: capacity(-1), "neurons is -1"),
        (lambda: capacity(3, -2), "samples is -2"),
        (lambda: capacity(3, 4, 1), "depth is 1"),
        (lambda: group_split(0), "tuned is 0"),
    ],
)
def test_wrong_input_is_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call()
