import itertools

import pytest
import torch

from superpose.errors import InputError
from superpose.theory import parity_bayes_accuracy, parity_bayes_path, parity_prior_accuracy, parity_subsets


def cube(dim):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)))


def signs(shape, seed=0):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


@pytest.mark.parametrize(("dim", "k"), [(4, 2), (5, 2), (6, 3), (3, 3), (4, 1)])
def test_prior_accuracy_equals_enumeration(dim, k):
    values = cube(dim)[:, parity_subsets(dim, k)].prod(-1)
    best = values.sum(1, keepdim=True).sign()
    assert parity_prior_accuracy(dim, k) == pytest.approx(float((0.5 + best * values / 2).mean()))


def test_prior_accuracy_equals_the_published_figures():
    published = {(4, 2): 0.625, (5, 2): 0.625, (6, 2): 0.594, (10, 2): 0.555, (10, 3): 0.529}
    for (dim, k), accuracy in published.items():
        assert parity_prior_accuracy(dim, k) == pytest.approx(accuracy, abs=5e-4)


def test_bayes_path_is_the_mean_label_of_the_parities_that_agree():
    x = signs((20, 7, 5))
    y = x[..., [1, 3]].prod(-1)
    path = parity_bayes_path(x, y, 2)
    for prompt in range(20):
        for t in range(7):
            fits = [
                s
                for s in itertools.combinations(range(5), 2)
                if (x[prompt, :t][:, list(s)].prod(-1) == y[prompt, :t]).all()
            ]
            expected = sum(float(x[prompt, t, list(s)].prod()) for s in fits) / len(fits)
            assert float(path[prompt, t]) == pytest.approx(expected, abs=1e-6)


def test_bayes_curve_starts_at_the_prior_and_is_what_the_predictor_reaches():
    x = signs((3000, 10, 4))
    curve = parity_bayes_accuracy(x, 2).mean(0)
    assert float(parity_bayes_accuracy(cube(4).unsqueeze(1), 2).mean()) == pytest.approx(parity_prior_accuracy(4, 2))
    published = torch.tensor([0.64, 0.71, 0.77, 0.87, 0.93, 0.96, 0.98, 0.99, 1.0])
    torch.testing.assert_close(curve[:9], published, atol=0.025, rtol=0)
    assert (curve[1:] >= curve[:-1] - 0.01).all()
    chosen = torch.rand(3000, 4, generator=torch.Generator().manual_seed(1)).topk(2).indices
    y = x.gather(2, chosen.unsqueeze(1).expand(-1, 10, -1)).prod(-1)
    hit = (1 + parity_bayes_path(x, y, 2).sign() * y).mean(0) / 2
    torch.testing.assert_close(hit, curve, atol=0.03, rtol=0)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="k is 5"):
        parity_prior_accuracy(4, 5)
    with pytest.raises(InputError, match="k is 0"):
        parity_subsets(4, 0)
    with pytest.raises(InputError, match="other than -1 and 1"):
        parity_bayes_path(torch.zeros(2, 3, 4), torch.ones(2, 3), 2)
