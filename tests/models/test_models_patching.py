"""Patches with written-down weights: exact in rationals, close in floats, counted, exportable, and refused in words."""

import itertools
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline
from torch import nn

from superpose.errors import InputError
from superpose.models import (
    Patched,
    PatchNotExact,
    certify_patch,
    evaluate_line,
    fewest_line_patch,
    fit_patch,
    hidden_neurons,
    line_patch,
)
from superpose.theory import min_knots, neurons_needed, worst_knots

DEPTHS = (2, 3)
SIZES = [(1, 1), (1, 4), (2, 2), (3, 3), (4, 16), (5, 7), (16, 16), (30, 200)]


def data(n, k, outputs=1, seed=0):
    generator = np.random.default_rng([seed, n, k])
    t = np.sort(generator.normal(size=k))
    v = np.zeros((k, outputs))
    v[generator.choice(k, n, replace=False)] = generator.normal(size=(n, outputs))
    return t, v


def problem(n=12, k=60, dim=5, outputs=None, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, outputs or 1), *([] if outputs else [nn.Flatten(0)]))
    x = torch.randn(k, dim, generator=generator).to(dtype)
    chosen = torch.randperm(k, generator=generator)[:n]
    labels = torch.randn(n, *([outputs] if outputs else []), generator=generator, dtype=torch.float64)
    return f.to(dtype), x, labels, chosen


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_in_rationals_the_network_goes_through_every_point(n, k, depth):
    if n * k > 1000:
        n, k = 8, 60
    assert certify_patch(*data(n, k, outputs=2), depth) == 0


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_in_floats_it_is_close_and_as_small_as_promised(n, k, depth):
    t, v = data(n, k)
    layers = line_patch(t, v, depth)
    assert np.abs(evaluate_line(layers, t) - v).max() <= 1e-7 * np.abs(v).max()
    bound = neurons_needed(n, k, depth).upper
    assert hidden_neurons(layers) == bound if depth == 3 else hidden_neurons(layers) <= bound


def test_two_layers_are_the_piecewise_linear_interpolant_everywhere_between_the_data():
    t, v = data(10, 40)
    x = np.linspace(t[0], t[-1], 1001)
    expected = make_interp_spline(t, v[:, 0], k=1)(x)
    assert evaluate_line(line_patch(t, v, 2), x)[:, 0] == pytest.approx(expected, abs=1e-10)
    assert np.ptp(evaluate_line(line_patch(t, v, 2), np.array([t[0] - 5, t[0]]))) == 0


def test_three_layers_are_zero_on_samples_however_close_they_lie_to_a_tuned_one():
    t = np.array([0.0, 1.0, 1.0 + 1e-6, 1.0 + 2e-6, 2.0])
    v = np.array([0.0, 0.0, 1.0, 0.0, 0.0])[:, None]
    assert np.abs(evaluate_line(line_patch(t, v, 3), t) - v).max() < 1e-8


def test_outputs_share_the_first_layer():
    t, v = data(9, 50, outputs=3)
    p = neurons_needed(9, 50, 3).upper - 4 * 2  # groups of two: eight second-layer neurons per output
    assert hidden_neurons(line_patch(t, v, 3)) == p + 3 * 8
    assert hidden_neurons(line_patch(t, v, 2)) <= 27
    v[:, 1] = 0  # an output that stays as it is costs nothing
    assert hidden_neurons(line_patch(t, v, 3)) == p + 2 * 8


@pytest.mark.parametrize("points", range(1, 7))
def test_the_fewest_neurons_of_two_layers_are_exactly_the_worst_case(points):
    t = np.array([Fraction(i) + Fraction(i * i, 50) for i in range(points)] + [None], dtype=object)[:-1]
    worst = [0] * (points + 1)
    for row in itertools.product((-1, 0, 1), repeat=points):
        v = np.array([*map(Fraction, row), None], dtype=object)[:-1]
        layers = fewest_line_patch(t, v)
        assert np.abs(evaluate_line(layers, t)[:, 0] - v).max() == 0
        knots = min_knots(t.astype(float), np.array(row, dtype=float))
        assert knots <= hidden_neurons(layers) <= knots + 1
        n = sum(map(bool, row))
        worst[n] = max(worst[n], hidden_neurons(layers))
    if points >= 5:
        assert worst == [worst_knots(n, points) for n in range(points + 1)]


def test_k_minus_two_neurons_memorise_any_zigzag_in_floats_too():
    generator = np.random.default_rng(0)
    for _ in range(100):
        points = int(generator.integers(5, 12))
        t = np.sort(generator.uniform(size=points)) + np.arange(points)
        v = (-1.0) ** np.arange(points) * generator.uniform(0.5, 2, points)
        layers = fewest_line_patch(t, v)
        assert hidden_neurons(layers) == points - 2
        assert evaluate_line(layers, t)[:, 0] == pytest.approx(v, abs=1e-9)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("outputs", (None, 3))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
def test_a_patched_model_answers_as_told_and_keeps_the_rest(depth, outputs, dtype):
    f, x, labels, chosen = problem(outputs=outputs, dtype=dtype)
    g = fit_patch(f, x, labels, chosen, depth)
    before, after = f(x), Patched(f, g)(x)
    assert after.dtype == before.dtype
    assert after.shape == before.shape
    digits = 1e-9 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(after[chosen], labels.to(dtype), atol=digits, rtol=0)
    kept = torch.ones(len(x), dtype=torch.bool)
    kept[chosen] = False
    torch.testing.assert_close(after[kept], before[kept], atol=digits, rtol=0)
    assert g.report.neurons == sum(m.out_features for m in g if isinstance(m, nn.Linear)) - (outputs or 1)
    assert max(g.report.neurons_per_output) <= neurons_needed(12, 60, depth).upper
    assert g.report.error < 1e-9
    assert len(g.report.neurons_per_output) == (outputs or 1)


def test_nothing_to_change_gives_a_network_without_neurons():
    f, x, *_ = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for depth in DEPTHS:
            g = fit_patch(f, x, torch.zeros(0), [], depth)
            assert g.report.neurons == 0
            assert torch.equal(Patched(f, g)(x), f(x))
            # f of three samples and f of all of them differ in the last digit.
            same = fit_patch(f, x, f(x[:3]), [0, 1, 2], depth)
            assert same.report.neurons == 0


def test_one_sample_alone_is_a_constant_in_two_layers():
    f, x, labels, _ = problem(n=1, k=1)
    assert fit_patch(f, x, labels, [0]).report.neurons == 0
    torch.testing.assert_close(Patched(f, fit_patch(f, x, labels, [0], 3))(x), labels, atol=1e-9, rtol=0)


def test_all_samples_is_memorising_with_k_minus_one_neurons():
    f, x, labels, chosen = problem(n=40, k=40)
    assert fit_patch(f, x, labels, chosen, 2).report.neurons == 39
    assert fit_patch(f, x, labels, chosen, 3).report.neurons == neurons_needed(40, 40, 3).upper


def test_inputs_of_any_shape_are_flattened():
    f = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4, 3)).double()
    x = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = fit_patch(f, x, torch.eye(3, dtype=torch.float64), [3, 1, 2])
    torch.testing.assert_close(Patched(f, g)(x)[[3, 1, 2]], torch.eye(3).double(), atol=1e-9, rtol=0)


def test_dropout_is_off_while_the_wanted_changes_are_computed_and_the_mode_is_put_back():
    f, x, labels, chosen = problem()
    model = nn.Sequential(f, nn.Dropout(0.5)).train()
    g = fit_patch(model, x, labels, chosen)
    assert model.training
    torch.testing.assert_close(Patched(model, g).eval()(x)[chosen], labels, atol=1e-9, rtol=0)


def test_it_is_plain_layers_that_export_and_reload():
    f, x, labels, chosen = problem()
    for depth in DEPTHS:
        g = fit_patch(f, x, labels, chosen, depth)
        plain = g.plain()
        assert type(plain) is nn.Sequential
        assert [type(m) for m in plain] == [nn.Linear, nn.ReLU] * (depth - 1) + [nn.Linear]
        empty = nn.Sequential(
            *(nn.Linear(m.in_features, m.out_features).double() if isinstance(m, nn.Linear) else nn.ReLU() for m in g)
        )
        empty.load_state_dict(g.state_dict())
        assert torch.equal(empty(x), g(x))
        exported = torch.export.export(plain, (x,)).module()
        torch.testing.assert_close(exported(x), g(x), atol=0, rtol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.script(plain)
        assert torch.equal(scripted(x), g(x))


def test_equal_samples_count_once_and_contradictions_are_named():
    f, x, labels, chosen = problem()
    double = torch.cat([x, x[chosen[:1]]])
    with pytest.raises(InputError, match=rf"X\[{int(chosen[0])}\] and X\[60\] are equal but would need different"):
        fit_patch(f, double, labels, chosen)
    g = fit_patch(f, double, torch.cat([labels, labels[:1]]), torch.cat([chosen, torch.tensor([60])]))
    torch.testing.assert_close(Patched(f, g)(double)[60], labels[0], atol=1e-9, rtol=0)
    kept = next(i for i in range(60) if i not in chosen.tolist())
    fit_patch(f, torch.cat([x, x[kept : kept + 1]]), labels, chosen)  # two equal samples that stay as they are


def test_samples_too_close_are_tried_in_more_directions_then_named():
    f, x, labels, chosen = problem()
    close = x.clone()
    kept = next(i for i in range(60) if i not in chosen.tolist())
    close[kept] = close[chosen[0]] + 1e-15
    with (
        pytest.warns(UserWarning, match="trying 256 more"),
        pytest.raises(InputError, match=r"cannot be told apart: their projections differ by"),
    ):
        fit_patch(f, close, labels, chosen)
    on_a_line = nn.Linear(1, 1).double()
    with pytest.raises(InputError, match=r"X\[\d\] and X\[\d\] cannot be told apart"):
        fit_patch(on_a_line, torch.tensor([[0.0], [1e-14], [1.0]]).double(), torch.ones(1, 1), [0])


def test_verification_names_the_worst_sample():
    f, x, labels, chosen = problem(n=100, k=2000)
    with pytest.raises(PatchNotExact, match=r"the patch misses sample \d+ by") as caught:
        fit_patch(f, x, labels, chosen, 3, dtype=torch.float32)
    assert caught.value.error > 1e-4
    loaded = pickle.loads(pickle.dumps(caught.value))
    assert (loaded.index, str(loaded)) == (caught.value.index, str(caught.value))
    g = fit_patch(f, x, labels, chosen, 3, dtype=torch.float32, verify=False)
    assert np.isnan(g.report.error)
    change = Patched(f, g)(x) - f(x)
    change[chosen] -= labels - f(x)[chosen]
    assert int(change.abs().argmax()) == caught.value.index


def test_more_tries_never_bring_samples_closer():
    f, x, labels, chosen = problem(n=20, k=400)
    gaps = [fit_patch(f, x, labels, chosen, tries=tries, seed=3).report.gap for tries in (1, 8, 64)]
    assert gaps == sorted(gaps)
    assert gaps[0] < gaps[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 4}, "depth is 4; allowed: 2, 3"),
        ({"dtype": torch.float16}, "dtype is torch.float16"),
        ({"tries": 0}, "tries is 0"),
        ({"X": torch.zeros(3, dtype=torch.float64)}, r"X has shape \(3,\)"),
        ({"tuned_idx": [60, *list(range(11))]}, "tuned_idx holds 60; allowed: 0 to 59"),
        ({"tuned_idx": [-1, *list(range(11))]}, "tuned_idx holds -1"),
        ({"tuned_idx": [1, 1, *list(range(2, 12))]}, "tuned_idx holds 1 twice"),
        ({"tuned_idx": torch.full((12,), 0.5)}, "allowed: one axis of integers"),
        ({"y_new": torch.zeros(5)}, r"y_new has shape \(5,\); 12 tuned samples of f need \(12,\)"),
        ({"y_new": torch.full((12,), torch.nan)}, "y_new holds values that are not finite"),
        ({"X": torch.full((60, 5), torch.inf, dtype=torch.float64)}, "X holds values that are not finite"),
        ({"f": lambda x: x.sum()[None]}, "f returns 1 rows for 60 samples"),
        ({"f": lambda x: x[:, 0] / 0}, "f of sample 0 is not finite"),
    ],
)
def test_wrong_input_is_refused_in_words(change, message):
    f, x, labels, chosen = problem()
    arguments = {"f": f, "X": x, "y_new": labels, "tuned_idx": chosen} | change
    with pytest.raises(InputError, match=message):
        fit_patch(**arguments)


def test_wide_patches_are_verified_a_few_rows_at_a_time(monkeypatch):
    f, x, labels, chosen = problem()
    whole = fit_patch(f, x, labels, chosen)
    sizes = []

    def noted(g, part):
        sizes.append(len(part))
        return g(part.double())

    monkeypatch.setattr("superpose.models.constructed.patching.patch_change", noted)
    monkeypatch.setattr("superpose.models.constructed.patching.HIDDEN_AT_ONCE", 7 * whole.report.neurons)
    assert fit_patch(f, x, labels, chosen).report.error == pytest.approx(whole.report.error, abs=1e-10)
    assert max(sizes) == 7 and sum(sizes) == len(x)


def test_every_part_of_the_model_is_left_in_its_mode():
    f = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout()).double()
    f[1].eval()
    fit_patch(f, torch.randn(9, 3, dtype=torch.float64), torch.zeros(1, 2), [4])
    assert [part.training for part in f.modules()] == [True, True, False, True]


def test_lines_are_checked():
    for build in (line_patch, fewest_line_patch):
        with pytest.raises(InputError, match="t has dtype int64; allowed: floats, or objects"):
            build(np.arange(5), np.ones((5, 1)))
        with pytest.raises(InputError, match="v has dtype int64"):
            build(np.arange(5.0), np.ones((5, 1), dtype=np.int64))
    with pytest.raises(InputError, match=r"v has shape \(2, 3\); allowed: \[3\] or \[3, outputs\]"):
        certify_patch([0.0, 1.0, 2.0], np.ones((2, 3)))
    with pytest.raises(InputError, match="not finite"):
        certify_patch([0.0, 1.0], [1.0, np.nan])
    with pytest.raises(InputError, match="depth is 1"):
        line_patch(np.arange(3.0), np.zeros((3, 1)), 1)
    with pytest.raises(InputError, match="t has shape"):
        line_patch(np.arange(3.0), np.zeros((2, 1)))
    with pytest.raises(InputError, match="strictly increase"):
        certify_patch([0.0, 0.0], [1.0, 2.0])
    with pytest.raises(InputError, match=r"allowed: \[points\] for both"):
        fewest_line_patch(np.arange(3.0), np.zeros((3, 1)))
