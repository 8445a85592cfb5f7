import pytest
import torch

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.training import Optimiser, optimise


def random_layer(*sets, vocabulary=5, width=7, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(*sets, vocabulary, width, generator=generator, dtype=torch.float64)
    return OneLayerAttention(embeddings, seed=seed, **options)


def ids(*shape, vocabulary=5, seed=1):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def by_hand(layer, row, positions=None):
    """One sequence in plain loops: attention probabilities by position and by token."""
    e, w = layer.embeddings, layer.weight.detach()
    query = e[row[-1]]
    scores = [float((e[j] + (0 if positions is None else positions[i])) @ w @ query) for i, j in enumerate(row)]
    attention = torch.tensor(scores, dtype=torch.float64).softmax(0)
    tokens = torch.zeros(layer.vocabulary, dtype=torch.float64)
    for weight, j in zip(attention, row, strict=True):
        tokens[j] += weight
    return attention, tokens


@pytest.mark.parametrize("placed", [False, True])
def test_attention_and_probabilities_are_those_of_the_definition(placed):
    positions = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) if placed else None
    layer = random_layer(positions=positions)
    batch = ids(6, 9)
    attention, probabilities = layer.attention(batch), layer(batch)
    for i, row in enumerate(batch.tolist()):
        expected, tokens = by_hand(layer, row, positions)
        torch.testing.assert_close(attention[i], expected)
        torch.testing.assert_close(probabilities[i], tokens, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(layer.attended(batch) @ layer.classifier.mT, probabilities)
    torch.testing.assert_close(layer.classifier @ layer.embeddings.mT, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    layer = random_layer(positions=torch.randn(8, 7, dtype=torch.float64))
    short = ids(3, 5)
    pad = torch.full((3, 3), -1)
    padded = torch.cat([pad, short] if side == "left" else [short, pad], dim=1)
    torch.testing.assert_close(layer(padded, padded >= 0), layer(short))
    assert torch.equal(layer.attention(padded, padded >= 0)[padded < 0], torch.zeros(9, dtype=torch.float64))


def test_sets_stand_side_by_side():
    layer = random_layer(2, 3)
    batch = ids(2, 3, 4, 6)
    together = layer(batch)
    for i in range(2):
        for j in range(3):
            single = OneLayerAttention(layer.embeddings[i, j])
            with torch.no_grad():
                single.weight.copy_(layer.weight[i, j])
            torch.testing.assert_close(single(batch[i, j]), together[i, j])


def test_factors_make_the_matrix_and_zero_is_the_default_start():
    layer = random_layer(rank=2)
    assert layer.key.shape == layer.query.shape == (7, 2)
    torch.testing.assert_close(layer.weight, layer.key @ layer.query.mT)
    assert dict(layer.named_parameters()).keys() == {"key", "query"}
    start = OneLayerAttention(torch.eye(3))
    assert torch.equal(start.weight, torch.zeros(3, 3)) and start.weight.requires_grad
    torch.testing.assert_close(start(torch.tensor([[0, 0, 1]])), torch.tensor([[2 / 3, 1 / 3, 0.0]]))


def test_it_trains_and_saves():
    layer = OneLayerAttention(torch.eye(3, dtype=torch.float64))
    batch, targets = torch.tensor([[0, 1, 2], [1, 0, 2]]), torch.tensor([1, 1])

    def loss(_):
        return -layer(batch).gather(1, targets[:, None]).log().mean()

    optimise(loss, layer.parameters(), lambda _: None, steps=50, optimiser=Optimiser("sgd", lr=1.0))
    assert layer(batch)[0, 1] > 0.9
    other = OneLayerAttention(torch.eye(3, dtype=torch.float64))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(batch), layer(batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneLayerAttention(torch.ones(1, 3)), "1 tokens; allowed: at least 2"),
        (lambda: OneLayerAttention(torch.ones(3, 3)), "rank 1; allowed: linearly independent"),
        (lambda: OneLayerAttention(torch.randn(4, 3)), "rank 3"),
        (lambda: OneLayerAttention(torch.eye(3), rank=4, seed=0), "rank is 4"),
        (lambda: OneLayerAttention(torch.eye(3), rank=2), "seed is None"),
        (lambda: OneLayerAttention(torch.eye(3), positions=torch.ones(2, 4)), "positions have width 4"),
    ],
)
def test_wrong_layers_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("batch", "mask", "message"),
    [
        (torch.tensor([[0, 3]]), None, "token 3; allowed: 0 to 2"),
        (torch.tensor([[0, -1]]), None, "token -1"),
        (torch.zeros(1, 0, dtype=torch.long), None, "empty"),
        (torch.tensor([[0, 1]]), torch.tensor([[False, False]]), "mask keeps no token"),
        (torch.tensor([[0, 1, 2]]), None, "length 3; allowed: up to 2"),
        (torch.tensor([[[0, 1]]]), None, "ids has shape"),
    ],
)
def test_wrong_sequences_are_refused(batch, mask, message):
    layer = OneLayerAttention(torch.eye(3), positions=torch.ones(2, 3))
    with pytest.raises(InputError, match=message):
        layer(batch, mask)
