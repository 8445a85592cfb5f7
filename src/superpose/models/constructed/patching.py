"""Exact patches of a frozen model: change the outputs on N chosen samples, leave those on the others as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose

from .patch_directions import choose_direction, distinct_rows
from .patch_networks import LineLayer, hidden_neurons, line_patch

ROWS_AT_ONCE = 2048
HIDDEN_AT_ONCE = 1 << 24  # activations of a patch under verification: a wide one sees fewer rows at once
DTYPES = (torch.float64, torch.float32)
_LAST_DIGITS = 8  # units in the last place of f's largest output that count as no change


class PatchNotExact(ArithmeticError):
    """A built patch that misses a sample by more than the tolerance.

    Attributes:
        index: the sample that it misses most.
        error: by how much, relative to the largest change.
    """

    def __init__(self, index: int, error: float, tolerance: float, gap: float) -> None:
        super().__init__(
            f"the patch misses sample {index} by {error:.2g} of the largest change; tolerance is {tolerance:g}. The"
            f" smallest gap between projections is {gap:.2g} of their range: try dtype float64, more tries, or depth 2"
        )
        self.index, self.error, self.tolerance, self.gap = index, error, tolerance, gap

    def __reduce__(self) -> tuple[type["PatchNotExact"], tuple[int, float, float, float]]:
        return type(self), (self.index, self.error, self.tolerance, self.gap)


@dataclass(frozen=True)
class PatchReport:
    """What a patch is made of, and how exact it is.

    Attributes:
        depth: layers, 2 or 3.
        tuned: samples whose outputs change, N.
        samples: samples in all, K.
        neurons: hidden neurons of the network, all outputs together.
        neurons_per_output: hidden neurons that each output has a weight on (of the last layer's, and all below them).
        gap: smallest distance of a changed sample to its neighbours on the chosen line, over the range of the line.
        largest_change: largest change of an output, in the model's unit.
        error: largest deviation on the K samples over ``largest_change``; NaN where it was not verified.
        worst: the sample with this deviation, or -1.
    """

    depth: int
    tuned: int
    samples: int
    neurons: int
    neurons_per_output: tuple[int, ...]
    gap: float
    largest_change: float
    error: float
    worst: int


class PatchNetwork(nn.Sequential):
    """The network g, ``Linear, ReLU, Linear[, ReLU, Linear]``, with a report of how it came about.

    Attributes:
        report: a `PatchReport`.
    """

    report: PatchReport

    def plain(self) -> nn.Sequential:
        """The same layers as an ``nn.Sequential`` and nothing else, for export."""
        return nn.Sequential(*self)


class Patched(nn.Module):
    """A model plus a patch: ``f(x) + g(x)``, in the dtype of f. The patch fits f as it is: do not train f further.

    ::

        g = fit_patch(model, X, y_new, tuned_idx)
        patched = Patched(model, g)

    Args:
        f: the model, a module or any function from a batch of inputs to a batch of outputs.
        g: from :func:`fit_patch`.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the patched model's outputs."""
        base = self.f(x)
        return base + patch_change(self.g, x).reshape(base.shape).to(base)


def fit_patch(
    f: Callable[[Tensor], Tensor],
    X: Float[Tensor, "samples ..."],
    y_new: Tensor,
    tuned_idx: Tensor | Sequence[int],
    depth: int = 2,
    *,
    tries: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-4,
    smallest_gap: float = 1e-12,
    verify: bool = True,
) -> PatchNetwork:
    """Build a ReLU network g with ``f(x) + g(x) = y_new`` on the tuned samples and ``g(x) = 0`` on all others of X.

    Nothing is trained: samples are projected on a line, and the weights are written down
    (:func:`superpose.models.line_patch`). Depth 2 needs at most ``min(3 N, K - 1)`` hidden neurons, depth 3 about
    ``5.7 sqrt(N)`` for one output (:func:`superpose.theory.neurons_needed`). **Nothing is promised between the
    samples**: g has slopes up to the change over the distance of neighbours; it memorises and does not learn. Put into
    X whatever must stay as it is. arXiv 2408.00359.

    Args:
        f: the model; a module is evaluated in eval mode, and left as it was.
        X: all K samples, those to change and those to keep.
        y_new: wanted outputs of the tuned samples, ``[N]`` or ``[N, *outputs]``, in the order of ``tuned_idx``. One
            that is the present output up to the rounding of f is no change.
        tuned_idx: indices into X of the N samples to change, each once.
        depth: layers of g, 2 or 3.
        tries: random directions from which the one that keeps samples farthest apart is taken.
        seed: of the directions.
        dtype: of g; float32 is seldom exact enough, as slopes are large.
        tolerance: largest deviation on X, relative to the largest change.
        smallest_gap: distance on the line, relative to its range, below which samples count as not apart; more
            directions are tried then.
        verify: evaluate g on all of X and refuse a patch that is not exact.

    Returns:
        g on flattened inputs of ``dtype``, on the device of X. Its ``report`` counts neurons and states the error.

    Raises:
        InputError: wrong shapes, indices or values; two equal samples that would need different changes (names them);
            no direction that keeps the samples apart.
        PatchNotExact: ``verify`` found a deviation above the tolerance.
    """
    choose("depth", depth, (2, 3))
    choose("dtype", dtype, DTYPES)
    if tries < 1:
        raise InputError(f"tries is {tries}; allowed: 1 direction or more")
    if X.ndim < 2 or not X.numel():
        raise InputError(f"X has shape {tuple(X.shape)}; allowed: [samples, features], not empty")
    tuned = _checked_indices(tuned_idx, len(X))
    for name, value in (("X", X), ("y_new", y_new)):
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} holds values that are not finite")
    changes, rounding = _wanted_changes(f, X, y_new, tuned)
    rows = X.detach().flatten(1).double().cpu().numpy()
    first = distinct_rows(rows, changes, rounding)
    largest = float(np.abs(changes).max(initial=0.0))
    kept_rows, kept_changes = rows[first], changes[first]
    direction, gap = choose_direction(kept_rows, (kept_changes != 0).any(1), tries, seed, smallest_gap, first)
    line = kept_rows @ direction
    # Equal projections are harmless among samples that stay as they are.
    t, at = np.unique(line, return_index=True)
    if not largest:
        at = at[:1]
        t = t[:1]
    layers = line_patch(t, kept_changes[at], depth)
    network = _assemble(layers, direction, dtype, X.device)
    per_output = _neurons_per_output(layers)
    error, worst = float("nan"), -1
    if verify:
        at_once = max(1, min(ROWS_AT_ONCE, HIDDEN_AT_ONCE // max(1, hidden_neurons(layers))))
        found = torch.cat([patch_change(network, part) for part in X.split(at_once)])
        misses = np.abs(found.detach().double().cpu().numpy() - changes).max(1)
        worst = int(np.nan_to_num(misses, nan=np.inf).argmax())
        error = float(misses[worst] / largest) if largest else float(misses[worst])
        if not error <= tolerance:
            raise PatchNotExact(worst, error, tolerance, gap)
    network.report = PatchReport(
        depth, len(tuned), len(X), hidden_neurons(layers), per_output, gap, largest, error, worst
    )
    return network


def patch_change(g: nn.Module, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
    """Return g on inputs of any shape and dtype: they are flattened and brought to g's dtype."""
    return g(x.flatten(1).to(next(g.parameters()).dtype))


def _wanted_changes(
    f: Callable[[Tensor], Tensor], X: Tensor, y_new: Tensor, tuned: np.ndarray
) -> tuple[np.ndarray, float]:
    """What g must be on every sample, ``[samples, outputs]``: 0 where nothing changes; and the rounding of f."""
    # Of every part by itself: a model in training may hold some that were frozen in eval mode.
    modes = {part: part.training for part in f.modules()} if isinstance(f, nn.Module) else {}
    if isinstance(f, nn.Module):
        f.eval()
    try:
        with torch.no_grad():
            answers = torch.cat([f(part) for part in X.split(ROWS_AT_ONCE)]).detach()
    finally:
        for part, training in modes.items():
            part.training = training
    before = answers.double().cpu()
    if len(before) != len(X):
        raise InputError(f"f returns {len(before)} rows for {len(X)} samples; allowed: one row per sample")
    infinite = ~torch.isfinite(before).reshape(len(before), -1).all(1)
    if bool(infinite.any()):
        raise InputError(f"f of sample {int(infinite.int().argmax())} is not finite; allowed: a finite model")
    wanted = y_new.detach().double().cpu()
    shape = (len(tuned), *before.shape[1:])
    if wanted.shape != shape and not (wanted.numel() == len(tuned) == before[tuned].numel()):
        raise InputError(f"y_new has shape {tuple(y_new.shape)}; {len(tuned)} tuned samples of f need {shape}")
    changes = torch.zeros(len(X), max(1, before[0].numel()), dtype=torch.float64)
    changes[tuned] = (wanted.reshape(before[tuned].shape) - before[tuned]).reshape(len(tuned), changes.shape[1])
    # The same sample in another batch, or in another place of it, gets another last digit.
    precision = torch.finfo(answers.dtype).eps if answers.is_floating_point() else 0.0
    rounding = _LAST_DIGITS * precision * float(before.abs().max())
    changes[changes.abs() <= rounding] = 0
    return changes.numpy(), rounding


def _checked_indices(tuned_idx: Tensor | Sequence[int], samples: int) -> np.ndarray:
    indices = np.asarray(tuned_idx.detach().cpu() if isinstance(tuned_idx, Tensor) else tuned_idx)
    if not indices.size:
        return np.zeros(0, dtype=np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(
            f"tuned_idx has shape {indices.shape} and dtype {indices.dtype}; allowed: one axis of integers"
        )
    outside = (indices < 0) | (indices >= samples)
    if outside.any():
        raise InputError(f"tuned_idx holds {indices[outside][0]}; allowed: 0 to {samples - 1}")
    values, counts = np.unique(indices, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"tuned_idx holds {values[counts > 1][0]} twice; allowed: each sample once")
    return indices.astype(np.int64)


def _assemble(
    layers: Sequence[LineLayer], direction: np.ndarray, dtype: torch.dtype, device: torch.device
) -> PatchNetwork:
    modules: list[nn.Module] = []
    for place, layer in enumerate(layers):
        weight = layer.weight * direction if place == 0 else layer.weight
        modules += [nn.ReLU()] * (place > 0) + [_linear(weight, layer.bias, dtype, device)]
    return PatchNetwork(*modules)


def _linear(weight: np.ndarray, bias: np.ndarray, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    # Built small and given its weights: torch warns where there is no neuron to initialise.
    layer = nn.Linear(1, 1, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)).to(device, dtype), requires_grad=False)
    layer.bias = nn.Parameter(torch.from_numpy(np.ascontiguousarray(bias)).to(device, dtype), requires_grad=False)
    return layer


def _neurons_per_output(layers: Sequence[LineLayer]) -> tuple[int, ...]:
    """What each output would need alone: its own neurons in the last hidden layer, and the layer below them."""
    counts = []
    for weights in layers[-1].weight:
        used = np.flatnonzero(weights)
        below = len(layers[0].bias) if len(layers) == 3 and len(used) else 0
        counts.append(len(used) + below)
    return tuple(counts)
