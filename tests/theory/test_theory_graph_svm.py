"""The Graph-SVM against cvxpy and closed forms, the soft component and both paths against their definitions."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from test_theory_token_priority import random_data

from superpose.errors import InputError
from superpose.theory import (
    NextTokenData,
    TokenPriorityGraph,
    component_counts,
    cyclic_basis,
    graph_svm,
    norm_path,
    project,
    regularisation_path,
    soft_component,
    token_scores,
)


def rows(seed, vocabulary=6, width=8, kind="random"):
    draw = torch.Generator().manual_seed(seed + 1000)
    if kind == "orthonormal":
        return torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))[0][:vocabulary]
    normal = torch.randn(vocabulary, width, generator=draw, dtype=torch.float64)
    return torch.nn.functional.normalize(normal, dim=-1) if kind == "unit" else normal


def corr(one, other):
    return float((one * other).sum() / (one.norm() * other.norm()))


def log_loss(weight, embeddings, data):
    """Mean log-loss written out prompt by prompt."""
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(data.sequences, data.labels, strict=True):
        scores = torch.stack([embeddings[token] @ weight @ embeddings[row[-1]] for token in row])
        chance = scores.softmax(0)
        total = total - torch.stack([c for c, token in zip(chance, row, strict=True) if token == label]).sum().log()
    return total / len(data)


@pytest.mark.parametrize("kind", ["random", "unit", "orthonormal"])
@pytest.mark.parametrize(("seed", "prompts"), [(0, 6), (1, 6), (2, 12), (3, 24), (4, 40)])
def test_nnls_equals_cvxpy(kind, seed, prompts):
    data = random_data(seed, prompts=prompts)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(seed, kind=kind)
    ours, theirs = graph_svm(embeddings, graph), graph_svm(embeddings, graph, solver="cvxpy")
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("seed", range(8))
def test_every_order_has_its_margin_and_every_tie_is_kept(seed):
    data = random_data(seed, prompts=10)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(seed)
    weight = graph_svm(embeddings, graph)
    scores = token_scores(weight, embeddings)
    for k in graph.queries:
        for i in range(6):
            for j in range(6):
                gap = float(scores[i, k] - scores[j, k])
                relation = graph.relation(i, j, k)
                # Orders that follow only through a third token are asked for too.
                assert relation != "higher" or gap >= 1 - 1e-7
                assert relation != "equal" or abs(gap) < 1e-9
    basis = cyclic_basis(embeddings, graph)
    assert project(weight, basis).norm() < 1e-9 * weight.norm()


@pytest.mark.parametrize("factor", [1e-6, 1e-2, 1e2, 1e6])
def test_both_components_are_in_units_of_the_embeddings(factor):
    data = random_data(7, prompts=24)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(7)
    for weight in (
        lambda scaled: graph_svm(scaled, graph),
        lambda scaled: soft_component(scaled, graph, data),
        lambda scaled: graph_svm(scaled, graph, solver="cvxpy"),
    ):
        wanted = weight(embeddings)
        assert wanted.any()
        torch.testing.assert_close(factor**2 * weight(factor * embeddings), wanted, rtol=1e-7, atol=1e-9)


def test_one_pair_has_a_closed_form():
    embeddings = rows(0)
    graph = TokenPriorityGraph(6, {4: [(1, 2)]})
    gap, query = embeddings[1] - embeddings[2], embeddings[4]
    wanted = torch.outer(gap, query) / (gap @ gap) / (query @ query)
    torch.testing.assert_close(graph_svm(embeddings, graph), wanted, rtol=1e-10, atol=1e-12)


def test_queries_with_orthogonal_embeddings_are_solved_apart_and_together_alike():
    data = random_data(3, prompts=20)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(0, kind="orthonormal")
    apart = sum(graph_svm(embeddings, TokenPriorityGraph(6, {k: graph.edges[k]})) for k in graph.queries)
    torch.testing.assert_close(graph_svm(embeddings, graph), apart, rtol=1e-9, atol=1e-10)
    # Turning all embeddings turns the solution.
    turn = rows(5, 8, 8, "orthonormal")
    turned = graph_svm(embeddings @ turn, graph)
    torch.testing.assert_close(turned, turn.T @ apart @ turn, rtol=1e-8, atol=1e-9)


def test_it_is_zero_where_nothing_is_ordered():
    graph = TokenPriorityGraph(3, {0: [(0, 1), (1, 0)], 1: []})
    embeddings = rows(0, 3, 5)
    for solver in ("nnls", "cvxpy"):
        assert not graph_svm(embeddings, graph, solver).any()
    assert cyclic_basis(embeddings, graph).shape == (1, 5, 5)
    assert cyclic_basis(embeddings, TokenPriorityGraph(3, {0: [(0, 1)]})).shape == (0, 5, 5)


@pytest.mark.parametrize("seed", range(5))
def test_the_cyclic_basis_is_orthonormal_and_spans_the_ties(seed):
    data = random_data(seed, prompts=24)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(seed)
    basis = cyclic_basis(embeddings, graph)
    size = sum(6 - len(graph.components(k)) for k in graph.queries)
    flat = basis.flatten(1)
    assert len(basis) == size > 0
    torch.testing.assert_close(flat @ flat.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    for k in graph.queries:
        for members in graph.components(k):
            for i in members:
                for j in members:
                    pair = torch.outer(embeddings[i] - embeddings[j], embeddings[k])
                    torch.testing.assert_close(project(pair, basis), pair, rtol=0, atol=1e-11)


def test_an_unsolved_problem_is_an_error(monkeypatch):
    import sys

    module = sys.modules["superpose.theory.graph_svm"]
    graph = TokenPriorityGraph.from_data(random_data(0))
    monkeypatch.setattr(module, "nnls", lambda system, wanted: (np.full(system.shape[1], 1e-3), 0.0))
    with pytest.raises(ArithmeticError, match="was not solved: a constraint is missed"):
        graph_svm(rows(0), graph)


def test_two_tied_tokens_have_the_log_odds_of_their_counts():
    # Token 1 follows 3 times, 2 once; where 2 stands twice its odds count double.
    data = NextTokenData.from_sequences([[1, 2, 0]] * 4, [1, 1, 1, 2], 3)
    embeddings = rows(0, 3, 4)
    graph = TokenPriorityGraph.from_data(data)
    weight = soft_component(embeddings, graph, data)
    assert (embeddings[1] - embeddings[2]) @ weight @ embeddings[0] == pytest.approx(np.log(3), abs=1e-9)
    doubled = NextTokenData.from_sequences([[1, 2, 2, 0]] * 4, [1, 1, 1, 2], 3)
    weight = soft_component(embeddings, graph, doubled)
    assert (embeddings[1] - embeddings[2]) @ weight @ embeddings[0] == pytest.approx(np.log(6), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_soft_component_minimises_the_reduced_loss_on_its_subspace(seed):
    data = random_data(seed, prompts=30)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(seed, kind="unit")
    found = soft_component(embeddings, graph, data)
    basis = cyclic_basis(embeddings, graph)
    torch.testing.assert_close(project(found, basis), found, rtol=1e-8, atol=1e-9)
    reduced = []
    for row, label in zip(data.sequences, data.labels, strict=True):
        index = graph.component_index(row[-1])
        reduced.append((row[-1], [token for token in row if index[token] == index[label]], label))

    def loss(x):
        coordinates = torch.from_numpy(x).requires_grad_()
        weight = torch.einsum("b,bij->ij", coordinates, basis)
        total = torch.zeros((), dtype=torch.float64)
        for k, tokens, label in reduced:
            scores = embeddings[tokens] @ weight @ embeddings[k]
            total = total - scores.log_softmax(0)[tokens.index(label)]
        (gradient,) = torch.autograd.grad(total, coordinates)
        return float(total.detach()), gradient.numpy()

    best = minimize(loss, np.zeros(len(basis)), jac=True, method="BFGS", options={"gtol": 1e-10})
    wanted = torch.einsum("b,bij->ij", torch.from_numpy(best.x), basis)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    kept = component_counts(graph, data)
    assert kept.sum(1).tolist() == [len(tokens) for _, tokens, _ in reduced]


def test_the_soft_component_of_acyclic_data_is_zero():
    data = NextTokenData.from_sequences([[1, 2, 0], [1, 3, 0]], [1, 3], 4)
    graph = TokenPriorityGraph.from_data(data)
    assert graph.is_acyclic
    assert not soft_component(rows(0, 4, 6), graph, data).any()


def test_the_regularisation_path_is_stationary_and_tends_to_theory():
    data = random_data(11, prompts=12)
    graph, embeddings = TokenPriorityGraph.from_data(data), rows(11, kind="unit")
    assert len(graph.ties())
    penalties = [1e-1, 1e-3, 1e-6, 1e-9, 1e-12]
    path = regularisation_path(embeddings, data, penalties)
    for penalty, weight in zip(penalties[:3], path, strict=False):
        point = weight.clone().requires_grad_()
        value = log_loss(point, embeddings, data) + penalty / 2 * point.square().sum()
        (gradient,) = torch.autograd.grad(value, point)
        assert gradient.abs().max() < 1e-8
    hard, basis = graph_svm(embeddings, graph), cyclic_basis(embeddings, graph)
    angles = [corr(weight - project(weight, basis), hard) for weight in path]
    assert angles == sorted(angles) and angles[-1] > 0.99
    assert path.norm(dim=(1, 2)).diff().min() > 0
    soft = soft_component(embeddings, graph, data)
    assert (project(path[-1], basis) - soft).norm() < 1e-6 < soft.norm()


@pytest.mark.parametrize("loss", ["log", "linear", "squared"])
def test_the_norm_path_is_stationary_on_its_sphere_and_tends_to_the_graph_svm(loss):
    data = next(d for d in map(random_data, range(40, 80)) if TokenPriorityGraph.from_data(d).is_acyclic)
    embeddings = rows(2, kind="unit")
    radii = [2.0, 5.0, 15.0, 40.0]
    path = norm_path(embeddings, data, radii, loss)
    torch.testing.assert_close(path.norm(dim=(1, 2)), torch.tensor(radii).double(), rtol=1e-10, atol=0)
    rate = {"log": lambda u: -u.log(), "linear": lambda u: -u, "squared": lambda u: (1 - u) ** 2}[loss]
    for weight in path[:2]:
        point = weight.clone().requires_grad_()
        scores = embeddings @ point @ embeddings.T
        chance = (scores.T[data.last] + data.counts.double().log()).softmax(1)
        value = rate(chance.gather(1, data.targets[:, None])).mean()
        (gradient,) = torch.autograd.grad(value, point)
        assert corr(gradient, weight) < -1 + 1e-6
    hard = graph_svm(embeddings, TokenPriorityGraph.from_data(data))
    angles = [corr(weight, hard) for weight in path]
    assert angles == sorted(angles) and angles[-1] > 0.98


def test_both_paths_agree_on_the_log_loss():
    data = next(d for d in map(random_data, range(40, 80)) if TokenPriorityGraph.from_data(d).is_acyclic)
    embeddings = rows(2, kind="unit")
    penalised = regularisation_path(embeddings, data, [1e-3])[0]
    bounded = norm_path(embeddings, data, [float(penalised.norm())], "log")[0]
    torch.testing.assert_close(bounded, penalised, rtol=0, atol=1e-4)


def test_bad_input_is_refused():
    data = NextTokenData.from_sequences([[1, 2, 0], [2, 1, 0], [1, 3, 0]], [1, 2, 1], 4)
    graph, good = TokenPriorityGraph.from_data(data), rows(0, 4, 6)
    with pytest.raises(InputError, match="embeddings has 5 rows; allowed: 4"):
        graph_svm(rows(0, 5, 6), graph)
    with pytest.raises(InputError, match="4 rows of width 3 and rank 3; allowed: linearly independent"):
        graph_svm(rows(0, 4, 3), graph)
    with pytest.raises(InputError, match="rank 3"):
        cyclic_basis(torch.cat([good[:3], good[:1]]), graph)
    with pytest.raises(InputError, match="not finite"):
        graph_svm(torch.full((4, 6), torch.nan), graph)
    with pytest.raises(InputError, match="solver is 'scs'; allowed: nnls, cvxpy"):
        graph_svm(good, graph, solver="scs")
    with pytest.raises(InputError, match=r"lacks the edges .* of query 0"):
        soft_component(good, TokenPriorityGraph(4, {0: [(1, 2)]}), data)
    with pytest.raises(InputError, match="data has vocab_size 4; allowed: 5"):
        component_counts(TokenPriorityGraph(5, graph.edges), data)
    with pytest.raises(InputError, match="penalties is"):
        regularisation_path(good, data, [1e-2, 0.0])
    with pytest.raises(InputError, match="cycle in the graph of query 0"):
        norm_path(good, data, [1.0])
    plain = NextTokenData.from_sequences([[1, 2, 0]], [1], 4)
    with pytest.raises(InputError, match="radii is"):
        norm_path(good, plain, [])
    with pytest.raises(InputError, match="starts is 0"):
        norm_path(good, plain, [1.0], starts=0)
    with pytest.raises(InputError, match="loss is 'hinge'"):
        norm_path(good, plain, [1.0], "hinge")
    with pytest.raises(InputError, match="no edge in any graph"):
        norm_path(good, NextTokenData.from_sequences([[1]], [1], 4), [1.0])
