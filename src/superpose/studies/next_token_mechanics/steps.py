"""Training one attention layer on many data sets at once, and the two paths of regularisation, as memoised steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.experiment import current, step, tracked
from superpose.models import OneLayerAttention
from superpose.studies.next_token_mechanics.samples import DataSet, random_set, stack, text_set, unseen_prompts
from superpose.theory import (
    TokenPriorityGraph,
    graph_svm,
    norm_path,
    project,
    regularisation_path,
    token_scores,
)
from superpose.theory.next_token_data import padded
from superpose.training import train_next_token

INITIAL_WEIGHTS = 0  # seed; every set takes its own part of one stream
PROBABILITIES_SHOWN = 400  # points of the scatter


@step(version="2", label="normalised gradient descent")
def normalised_descent(
    seeds: Sequence[int], shape: Sequence[int], cyclic: bool, judged: int, lr: float, at: Sequence[int], unseen: int
) -> dict[str, Any]:
    """Train by gradients of norm 1; compare W with theory on the way, and the trained layer with the automaton.

    Args:
        seeds, shape, cyclic: the data sets.
        judged: the number of updates after which pairs and probabilities are compared; one of ``at``.
        lr: the length of every update.
        at: updates at which W is looked at; the training ends with the last.
        unseen: prompts per set beside those of the training.

    Returns:
        ``[points, sets]``: ``corr``, ``proj_corr``, ``finite`` (distance to the soft component), ``norm``; ``mass``
        on the label's component, ``[points, sets, prompts]``. At ``judged``: score gaps of comparable pairs over C(t)
        (``gap``), those of the Graph-SVM (``wanted``), whether they are equal, and their set; total variation on
        training and unseen prompts with their sets, and pairs of probabilities.
    """
    sets = [random_set(seed, shape, cyclic) for seed in seeds]
    model, weights = _descend(sets, steps=at[-1], lr=lr, at=at, normalised=True)
    _, ids, _ = stack(sets)
    tops = torch.stack([_in_component(one) for one in sets])
    mass = []
    for at_point in weights:
        _put(model, at_point)
        mass.append((model.attention(ids.to(at_point.device)).cpu() * tops).sum(-1))
    final = weights[list(at).index(judged)].cpu()
    return {
        **_compared(sets, weights.cpu()),
        "mass": torch.stack(mass).detach().numpy(),
        **_pair_gaps(sets, final),
        **_distances(sets, final, unseen, shape[3]),
    }


@step(version="2", label="plain gradient descent")
def plain_descent(
    seeds: Sequence[int], shape: Sequence[int], steps: int, lr: float, at: Sequence[int]
) -> dict[str, np.ndarray]:
    """Train cyclic sets by plain gradient descent; compare W with theory on the way, as ``[points, sets]``.

    Returns:
        As of :func:`normalised_descent`, and ``multiple`` (C(t)), ``rest`` (norm of W - C W_svm - W_fin), ``soft``
        (norm of W_fin) and ``hard`` (norm of W_svm) ``[sets]``.
    """
    sets = [random_set(seed, shape, cyclic=True) for seed in seeds]
    _, weights = _descend(sets, steps=steps, lr=lr, at=at, normalised=False)
    return _compared(sets, weights.cpu())


@step(version="2", label="regularisation path")
def penalised(seed: int, shape: Sequence[int], penalties: Sequence[float]) -> dict[str, np.ndarray]:
    """Minimise the penalised loss of a cyclic set, and compare W with theory, as ``[penalties]``."""
    one = random_set(seed, shape, cyclic=True)
    path = regularisation_path(one.embeddings, one.data, penalties)
    return {name: values.squeeze(-1) for name, values in _compared([one], path[:, None]).items()}


@step(version="1", label="three losses under a norm")
def on_spheres(seed: int, shape: Sequence[int], losses: Sequence[str], radii: Sequence[float]) -> np.ndarray:
    """Minimise each loss of an acyclic set over weights of each norm; correlations with W_svm ``[losses, radii]``."""
    one = random_set(seed, shape, cyclic=False)
    hard = one.automaton.hard_
    paths = [norm_path(one.embeddings, one.data, radii, loss, seed=seed) for loss in losses]
    return np.array([[_corr(weight, hard) for weight in path] for path in paths])


@step(version="2", label="local convergence")
def local_descent(seeds: Sequence[int], shape: Sequence[int], steps: int, lr: float) -> dict[str, np.ndarray]:
    """Train by the squared loss with the embeddings as classifier; W against both graphs' directions, ``[sets]``.

    Returns:
        ``local`` and ``global``: correlations with the Graph-SVM of the tokens that W selects and of the labels;
        ``same``: whether both graphs are one; ``norm``.
    """
    sets = [random_set(seed, shape, cyclic=True) for seed in seeds]
    model, weights = _descend(
        sets, steps=steps, lr=lr, at=[steps], normalised=True, loss="squared", classifier="embeddings"
    )
    _, ids, _ = stack(sets)
    with torch.inference_mode():
        attention = model(ids.to(weights.device)).cpu()
    found: dict[str, list[float]] = {"local": [], "global": [], "same": [], "norm": []}
    for one, prompts, mass, weight in zip(sets, ids, attention, weights[-1].cpu(), strict=True):
        graph = TokenPriorityGraph.from_attention(prompts, mass)
        found["local"].append(_corr(weight, graph_svm(one.embeddings, graph)))
        found["global"].append(_corr(weight, one.automaton.hard_))
        found["same"].append(float(graph == one.graph))
        found["norm"].append(float(weight.norm()))
    return {name: np.array(values) for name, values in found.items()}


@step(version="2", label="characters of a text")
def text_descent(window: int, steps: int, lr: float) -> dict[str, Any]:
    """Train on windows of a text by plain gradient descent; mass and total variation per training prompt."""
    one, alphabet = text_set(window)
    model, weights = _descend([one], steps=steps, lr=lr, at=[steps], normalised=False)
    _, ids, _ = stack([one])
    with torch.inference_mode():
        mass = (model.attention(ids.to(weights.device))[0].cpu() * _in_component(one)).sum(-1)
        trained = model(ids.to(weights.device))[0].cpu()
    predicted = one.automaton.predict_proba(one.data.sequences)
    sizes = [len(members) for k in one.graph.queries for members in one.graph.components(k)]
    return {
        "mass": mass.numpy(),
        "distance": ((trained - predicted).abs().sum(1) / 2).numpy(),
        "alphabet": alphabet,
        "prompts": len(one.data),
        "largest_component": max(sizes),
        "components": sum(size > 1 for size in sizes),
    }


def _descend(
    sets: Sequence[DataSet], *, steps: int, lr: float, at: Sequence[int], **settings: Any
) -> tuple[OneLayerAttention, Tensor]:
    """The trained layer, and W ``[points, sets, width, width]``."""
    device = current().device
    embeddings, ids, labels = (tensor.to(device) for tensor in stack(sets))
    model = OneLayerAttention(embeddings, seed=INITIAL_WEIGHTS)
    with tracked(steps, "updates") as progress:
        weights = train_next_token(
            model,
            ids,
            labels,
            steps=steps,
            lr=lr,
            at=at,
            checkpoint=current().folder / "training",
            progress=progress,
            **settings,
        )
    return model, weights


def _put(model: OneLayerAttention, weight: Tensor) -> None:
    """Give the layer these weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(weight)


def _corr(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


def _compared(sets: Sequence[DataSet], weights: Tensor) -> dict[str, np.ndarray]:
    """W at each point against both components of each set."""
    found: dict[str, list[list[float]]] = {}
    for at_point in weights:
        row: dict[str, list[float]] = {}
        for one, weight in zip(sets, at_point, strict=True):
            hard, soft = one.automaton.hard_, one.automaton.soft_
            inside = project(weight, one.basis)
            multiple = float((weight * hard).sum() / hard.square().sum())
            values = {
                "corr": _corr(weight, hard),
                "proj_corr": _corr(weight - inside, hard),
                "finite": float((inside - soft).norm()),
                "norm": float(weight.norm()),
                "multiple": multiple,
                "rest": float((weight - multiple * hard - soft).norm()),
                "soft": float(soft.norm()),
                "hard": float(hard.norm()),
            }
            for name, value in values.items():
                row.setdefault(name, []).append(value)
        for name, values in row.items():
            found.setdefault(name, []).append(values)
    return {name: np.array(values) for name, values in found.items()}


def _in_component(one: DataSet) -> Tensor:
    """Which positions of each training prompt hold a token of the label's component."""
    rows = []
    for prompt, label in zip(one.data.sequences, one.data.labels, strict=True):
        index = one.graph.component_index(prompt[-1])
        rows.append(index[list(prompt)] == index[label])
    return torch.stack(rows)


def _pair_gaps(sets: Sequence[DataSet], weights: Tensor) -> dict[str, np.ndarray]:
    """Score gaps of every comparable pair of tokens and query, higher minus lower, over C(t)."""
    gaps, wanted, equal, of_set = [], [], [], []
    for at, (one, weight) in enumerate(zip(sets, weights, strict=True)):
        hard = one.automaton.hard_
        multiple = (weight * hard).sum() / hard.square().sum()
        scores = token_scores(weight, one.embeddings) / multiple
        margins = token_scores(hard, one.embeddings)
        for k in one.graph.queries:
            index, higher = one.graph.component_index(k), one.graph.higher(k)
            ties = (index[:, None] == index).triu(1)
            for pairs, tied in ((ties, True), (higher, False)):
                i, j = pairs.nonzero().T
                gaps.append(scores[i, k] - scores[j, k])
                wanted.append(margins[i, k] - margins[j, k])
                equal += [tied] * len(i)
                of_set += [at] * len(i)
    return {
        "gap": torch.cat(gaps).numpy(),
        "wanted": torch.cat(wanted).numpy(),
        "equal": np.array(equal),
        "pair_set": np.array(of_set),
    }


def _distances(sets: Sequence[DataSet], weights: Tensor, unseen: int, length: int) -> dict[str, np.ndarray]:
    """Total variation between the trained layer and the automaton, and some of the probabilities compared."""
    found: dict[str, list[Tensor]] = {"training": [], "unseen": []}
    owner: dict[str, list[int]] = {"training": [], "unseen": []}
    shown: list[Tensor] = []
    for at, (one, weight) in enumerate(zip(sets, weights, strict=True)):
        layer = OneLayerAttention(one.embeddings)
        _put(layer, weight)
        prompts = {
            "training": [list(row) for row in one.data.sequences],
            "unseen": unseen_prompts(one, unseen, length, at),
        }
        for kind, rows in prompts.items():
            if not rows:
                continue
            ids, mask = padded(rows)
            with torch.inference_mode():
                trained = layer(ids, mask)
            predicted = one.automaton.predict_proba(rows)
            found[kind].append((trained - predicted).abs().sum(1) / 2)
            owner[kind] += [at] * len(rows)
            # All probabilities that are not plainly 0 in both.
            pairs = torch.stack([predicted, trained], -1)[(predicted > 0) | (trained > 1e-3)]
            shown.append(torch.cat([torch.full((len(pairs), 1), float(kind == "unseen")).double(), pairs], 1))
    points = torch.cat(shown)
    chosen = torch.linspace(0, len(points) - 1, min(len(points), PROBABILITIES_SHOWN)).long()
    empty = torch.zeros(0, dtype=torch.float64)
    return {
        **{f"distance_{kind}": torch.cat(rows or [empty]).numpy() for kind, rows in found.items()},
        **{f"owner_{kind}": np.array(rows, dtype=int) for kind, rows in owner.items()},
        "probabilities": points[chosen].numpy(),
    }
