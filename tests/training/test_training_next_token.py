"""Gradient descent on one attention layer against a loop written out in NumPy."""

import numpy as np
import pytest
import torch

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.training import train_next_token

IDS = torch.tensor([[1, 2, 0], [2, 1, 0], [0, 2, 1], [1, 1, 2]])
LABELS = torch.tensor([1, 2, 0, 1])


def rows(*shape, seed=0):
    normal = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(normal, dim=-1)


def by_hand(embeddings, weight, steps, lr, normalised=False, mask=None):
    """d/dW of -log P(y) is sum over positions of (attention - attention given y) e_x e_k^T."""
    e, w = embeddings.numpy(), weight.numpy().copy()
    for _ in range(steps):
        gradient = np.zeros_like(w)
        for at, (row, label) in enumerate(zip(IDS.tolist(), LABELS.tolist(), strict=True)):
            row = row if mask is None else [x for x, keep in zip(row, mask[at], strict=True) if keep]
            scores = np.array([e[x] @ w @ e[row[-1]] for x in row])
            chance = np.exp(scores - scores.max())
            chance /= chance.sum()
            own = chance * (np.array(row) == label)
            change = chance - own / own.sum()
            gradient += np.outer(change @ e[row], e[row[-1]]) / len(IDS)
        w -= lr * (gradient / np.linalg.norm(gradient) if normalised else gradient)
    return w


@pytest.mark.parametrize("normalised", [False, True])
def test_it_is_gradient_descent(normalised):
    embeddings = rows(3, 5)
    model = OneLayerAttention(embeddings, seed=1)
    start = model.weight.detach().clone()
    found = train_next_token(model, IDS, LABELS, steps=30, lr=0.2, normalised=normalised, at=[0, 10, 30])
    assert torch.equal(found[0], start)
    for weight, steps in zip(found[1:], (10, 30), strict=True):
        np.testing.assert_allclose(weight, by_hand(embeddings, start, steps, 0.2, normalised), rtol=0, atol=1e-12)
    assert torch.equal(model.weight.detach(), found[-1])


def test_padding_changes_nothing():
    embeddings = rows(3, 5)
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    model = OneLayerAttention(embeddings, seed=1)
    start = model.weight.detach().clone()
    found = train_next_token(model, IDS, LABELS, mask, steps=5, lr=0.5, at=[5])[0]
    np.testing.assert_allclose(found, by_hand(embeddings, start, 5, 0.5, mask=mask.tolist()), rtol=0, atol=1e-12)


def test_sets_side_by_side_are_trained_as_if_apart():
    embeddings = rows(2, 3, 5)
    ids, labels = torch.stack([IDS, IDS.flip(0)]), torch.stack([LABELS, LABELS.flip(0)])
    both = OneLayerAttention(embeddings, seed=4)
    starts = both.weight.detach().clone()
    together = train_next_token(both, ids, labels, steps=20, lr=0.1, normalised=True, at=[20])[0]
    for at in range(2):
        model = OneLayerAttention(embeddings[at])
        with torch.no_grad():
            model.get_parameter("matrix").copy_(starts[at])
        alone = train_next_token(model, ids[at], labels[at], steps=20, lr=0.1, normalised=True, at=[20])[0]
        torch.testing.assert_close(together[at], alone, rtol=0, atol=1e-12)


def test_a_normalised_step_has_the_length_of_the_rate():
    model = OneLayerAttention(rows(2, 3, 5), seed=0)
    ids, labels = IDS.expand(2, -1, -1), LABELS.expand(2, -1)
    path = train_next_token(model, ids, labels, steps=3, lr=0.05, normalised=True, at=[0, 1, 2, 3])
    np.testing.assert_allclose(path.diff(dim=0).norm(dim=(-2, -1)), 0.05, rtol=1e-12)
    assert not model.get_parameter("matrix")._backward_hooks


@pytest.mark.parametrize("loss", ["log", "linear", "squared"])
@pytest.mark.parametrize("classifier", ["identity", "embeddings"])
def test_the_first_step_follows_each_loss(loss, classifier):
    embeddings = rows(3, 5)
    model = OneLayerAttention(embeddings, seed=2)
    point = model.weight.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(IDS, LABELS, strict=True):
        attended = embeddings[row].T @ (embeddings[row] @ point @ embeddings[row[-1]]).softmax(0)
        table = torch.linalg.pinv(embeddings).T if classifier == "identity" else embeddings
        chance = table @ attended if classifier == "identity" else (table @ attended).softmax(0)
        u = chance[label]
        total = total + {"log": -u.log(), "linear": -u, "squared": (1 - u) ** 2}[loss] / len(IDS)
    (gradient,) = torch.autograd.grad(total, point)
    found = train_next_token(model, IDS, LABELS, steps=1, lr=1.0, loss=loss, classifier=classifier, at=[1])[0]
    torch.testing.assert_close(found, point.detach() - gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classifier", ["identity", "embeddings"])
def test_positions_of_zero_change_nothing_and_others_do(classifier):
    settings = {"steps": 25, "lr": 0.3, "at": [25], "classifier": classifier}
    plain = train_next_token(OneLayerAttention(rows(3, 5), seed=0), IDS, LABELS, **settings)
    zero = OneLayerAttention(rows(3, 5), positions=torch.zeros(3, 5, dtype=torch.float64), seed=0)
    torch.testing.assert_close(train_next_token(zero, IDS, LABELS, **settings), plain, rtol=0, atol=1e-12)
    other = OneLayerAttention(rows(3, 5), positions=rows(3, 5, seed=9), seed=0)
    assert (train_next_token(other, IDS, LABELS, **settings) - plain).abs().max() > 1e-3


def test_factors_are_trained_too():
    model = OneLayerAttention(rows(3, 5), rank=2, seed=0)
    before = model.weight.detach().clone()
    found = train_next_token(model, IDS, LABELS, steps=50, lr=0.1, at=[50])[0]
    assert torch.equal(found, model.weight.detach()) and not torch.equal(found, before)
    assert torch.linalg.matrix_rank(found) <= 2


def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path):
    class Killed(RuntimeError):
        pass

    def kill(done, _):
        if done == 15:
            raise Killed

    points = [0, 4, 12, 18, 20]
    settings = {"steps": 20, "lr": 0.1, "normalised": True, "at": points}
    whole = train_next_token(OneLayerAttention(rows(3, 5), seed=0), IDS, LABELS, **settings)
    with pytest.raises(Killed):
        train_next_token(
            OneLayerAttention(rows(3, 5), seed=0), IDS, LABELS, **settings, checkpoint=tmp_path, progress=kill
        )
    resumed = train_next_token(OneLayerAttention(rows(3, 5), seed=0), IDS, LABELS, **settings, checkpoint=tmp_path)
    assert torch.equal(whole, resumed)


def test_bad_input_is_refused():
    model = OneLayerAttention(rows(3, 5), seed=0)
    with pytest.raises(InputError, match="loss is 'hinge'; allowed: log, linear, squared"):
        train_next_token(model, IDS, LABELS, steps=1, lr=1.0, loss="hinge")
    with pytest.raises(InputError, match="classifier is 'none'"):
        train_next_token(model, IDS, LABELS, steps=1, lr=1.0, classifier="none")
    with pytest.raises(InputError, match=r"at is \[0, 5\]; allowed: increasing numbers of steps from 0 to 2"):
        train_next_token(model, IDS, LABELS, steps=2, lr=1.0, at=[0, 5])
    with pytest.raises(InputError, match="ids has the token 7"):
        train_next_token(model, torch.tensor([[7, 1]]), torch.tensor([1]), steps=1, lr=1.0)
    with pytest.raises(InputError, match="labels has shape"):
        train_next_token(model, IDS, LABELS[:2], steps=1, lr=1.0)
    with pytest.raises(InputError, match=r"labels\[2\] is not in its prompt"):
        train_next_token(model, torch.tensor([[0, 1], [1, 1], [1, 0]]), torch.tensor([1, 1, 2]), steps=1, lr=1.0)
