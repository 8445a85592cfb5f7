"""Edges: equal masses, the best partition, duplicates that are merged and said; and the bins that requests get."""

import itertools
import math

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.inference import (
    MergedBinsWarning,
    SlidingEdges,
    answer_lengths,
    assign_bins,
    load_lengths,
    lognormal_lengths,
    neighbour_errors,
    optimal_edges,
    quantile_edges,
    uniform_edges,
)
from superpose.theory import empirical_batch_time


def test_bins_are_half_open_and_nothing_is_lost():
    assert assign_bins([0, 5, 7.5, 10, 19.9, 20, 99], [5, 10, 20]).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert assign_bins([3, 1e12], [0, math.inf]).tolist() == [0, 0]


def test_uniform_edges_are_equal_bins():
    np.testing.assert_allclose(uniform_edges(4, 1, 21), [1, 6, 11, 16, 21])


@pytest.mark.parametrize("bins", [1, 2, 3, 8])
def test_quantile_edges_hold_equal_masses_and_the_extremes(bins):
    lengths = np.random.default_rng(0).lognormal(4, 0.5, 960)
    edges = quantile_edges(lengths, bins)
    assert len(edges) == bins + 1
    assert (edges[0], edges[-1]) == (lengths.min(), lengths.max())
    assert np.bincount(assign_bins(lengths, edges)).tolist() == [960 // bins] * bins


def test_two_values_make_two_bins():
    edges = quantile_edges([1, 1, 1, 10], 2)
    assert assign_bins([1, 10], edges).tolist() == [0, 1]


def test_duplicate_edges_are_merged_with_a_warning():
    lengths = [5] * 90 + list(range(10))
    with pytest.warns(MergedBinsWarning, match="bins is 4"):
        edges = quantile_edges(lengths, 4)
    assert (np.diff(edges) > 0).all()
    assert len(edges) - 1 < 4
    with pytest.warns(MergedBinsWarning, match="there are 1 bins"):
        assert assign_bins([7, 7], quantile_edges([7, 7], 3)).tolist() == [0, 0]


@pytest.mark.parametrize("edges_of", [quantile_edges, lambda lengths, bins: optimal_edges(lengths, bins, 8)])
def test_more_bins_than_distinct_lengths_are_merged_with_a_warning(edges_of):
    with pytest.warns(MergedBinsWarning, match="3 distinct"):
        edges = edges_of([1, 2, 3, 3], 5)
    assert len(edges) - 1 == 3
    assert assign_bins([1, 2, 3], edges).tolist() == [0, 1, 2]


def test_optimal_edges_equal_exhaustive_search():
    lengths = np.round(np.random.default_rng(1).lognormal(2, 1, 14), 1)
    values = np.unique(lengths)
    for bins, size in ((2, 3), (3, 8), (4, 128)):
        cuts = itertools.combinations((values[1:] + values[:-1]) / 2, bins - 1)
        best = min(empirical_batch_time(lengths, [values[0], *inner, values[-1]], size) for inner in cuts)
        assert empirical_batch_time(lengths, optimal_edges(lengths, bins, size), size) == pytest.approx(best, rel=1e-12)


def test_optimal_edges_of_a_uniform_law_are_equal_bins_and_of_a_heavy_tail_are_better():
    edges = optimal_edges(np.linspace(1, 20, 1501), 4, 128)
    np.testing.assert_allclose(edges, uniform_edges(4, 1, 20), atol=0.03)
    tail = np.random.default_rng(2).exponential(10, 5000)
    times = [empirical_batch_time(tail, e, 200) for e in (optimal_edges(tail, 4, 200), quantile_edges(tail, 4))]
    assert times[0] < 0.8 * times[1]


def test_one_bin_is_no_bins():
    for edges in (uniform_edges(1, 2, 3), quantile_edges([2, 3], 1), optimal_edges([2, 3], 1, 8)):
        assert edges.tolist() == [2, 3]


def test_neighbour_errors_have_the_stated_shares():
    generator = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 40_000)
    moved = neighbour_errors(true, 3, 0.2, generator)
    shares = [np.bincount(moved[true == i], minlength=3) / 40_000 for i in range(3)]
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0.2, 0.6, 0.2], [0, 0.2, 0.8]], atol=0.01)
    assert (neighbour_errors(true, 3, 0.0, generator) == true).all()
    assert set(neighbour_errors(np.zeros(9, dtype=int), 1, 0.5, generator)) == {0}


def test_sliding_edges_follow_the_answers():
    sliding = SlidingEdges(2, window=4, every=2)
    found = [sliding.observe(length) for length in (1, 3, 3, 1, 10, 30, 10, 30)]
    assert [edges is None for edges in found] == [True, False] * 4
    assert found[1].tolist() == [1, 2, 3]
    assert found[-1].tolist() == [10, 20, 30]


def test_real_answer_lengths_are_those_of_the_table():
    mixtral, gpt4 = answer_lengths(), answer_lengths("gpt4_1106")
    assert len(mixtral) == len(gpt4) == 1319
    assert (np.median(mixtral), np.median(gpt4)) == (68.25, 94.25)
    np.testing.assert_allclose(np.quantile(mixtral, [0.05, 0.95]), [27, 147], atol=1)


def test_lognormal_lengths_are_whole_and_capped():
    lengths = lognormal_lengths(20_000, np.random.default_rng(0), median=40, cap=160)
    assert (lengths == lengths.round()).all()
    assert lengths.min() >= 1
    assert lengths.max() == 160
    assert np.median(lengths) == pytest.approx(40, abs=1)
    assert np.log(lengths).std() == pytest.approx(0.5, abs=0.02)


def test_lengths_are_read_from_a_table(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("tokens\n3\n4.5\n")
    two.write_text("id, tokens\na,3\nb,7\n")
    assert load_lengths(one).tolist() == [3, 4.5]
    assert load_lengths(two, "tokens").tolist() == [3, 7]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a,b\n1,2\n", None, "columns a, b; say which"),
        ("a,b\n1,2\n", "c", "column is 'c'; allowed: a, b"),
        ("a\n", None, "at least one request"),
        ("a\n1\nmany\n", None, "line 3: 'many' is no number"),
        ("a,b\n1\n", "b", "line 2: None is no number"),
        ("a\n-4\n", None, r"\[0\] is -4"),
        ("a\nnan\n", None, r"\[0\] is nan"),
        ("", None, "columns none"),
    ],
)
def test_wrong_tables_are_named(tmp_path, text, column, message):
    file = tmp_path / "lengths.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_lengths(file, column)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assign_bins([1], [0, 2, 1]), "edges is"),
        (lambda: assign_bins([math.nan], [0, 1]), r"lengths\[0\] is nan"),
        (lambda: assign_bins([], [0, 1]), "at least one request"),
        (lambda: uniform_edges(0, 1, 2), "bins is 0"),
        (lambda: uniform_edges(1, 2, 2), "low and high are 2 and 2"),
        (lambda: quantile_edges([1, 2], 0), "bins is 0"),
        (lambda: quantile_edges([], 2), "at least one request"),
        (lambda: quantile_edges([[1.0]], 2), "one axis"),
        (lambda: optimal_edges([1, 2], 2, 0), "batch_size is 0"),
        (lambda: neighbour_errors(np.zeros(3, dtype=int), 2, 0.6, np.random.default_rng()), "probability is 0.6"),
        (lambda: SlidingEdges(0), "bins is 0"),
        (lambda: SlidingEdges(2, window=0), "window is 0"),
        (lambda: SlidingEdges(2).observe(-1.0), "is -1"),
        (lambda: answer_lengths("llama"), "model is 'llama'"),
        (lambda: lognormal_lengths(0, np.random.default_rng()), "requests is 0"),
        (lambda: lognormal_lengths(1, np.random.default_rng(), median=-1), "median, sigma and cap"),
        (lambda: load_lengths("nowhere.csv"), "which is no file"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
