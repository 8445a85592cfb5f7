import pytest
import torch
from scipy.optimize import minimize

from superpose.errors import InputError
from superpose.theory import (
    count_information,
    count_log_likelihood,
    count_log_probabilities,
    fit_count_logits,
)


def samples(vocabulary=4, n=400, length=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (n, length), generator=generator)
    logits = torch.randn(vocabulary, vocabulary, generator=generator, dtype=torch.float64) / 2
    counts = torch.stack([torch.bincount(row, minlength=vocabulary) for row in ids])
    p = count_log_probabilities(logits, counts, ids[:, -1]).exp()
    return logits, counts, ids[:, -1], torch.multinomial(p, 1, generator=generator).squeeze(1)


def test_probabilities_are_the_formula_word_by_word():
    logits, counts, last, _ = samples(n=20)
    found = count_log_probabilities(logits, counts, last).exp()
    for row in range(20):
        k = int(last[row])
        mass = [int(counts[row, j]) * float(logits[j, k].exp()) for j in range(4)]
        torch.testing.assert_close(found[row], torch.tensor(mass, dtype=torch.float64) / sum(mass))


def test_likelihood_is_the_weighted_sum_and_its_mean_without_weights():
    logits, counts, last, targets = samples(n=30)
    each = count_log_probabilities(logits, counts, last)[torch.arange(30), targets]
    torch.testing.assert_close(count_log_likelihood(logits, counts, last, targets), each.mean())
    weights = torch.rand(30, dtype=torch.float64)
    torch.testing.assert_close(count_log_likelihood(logits, counts, last, targets, weights), (weights * each).sum())


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_fit_is_what_a_general_optimiser_finds(l2):
    _, counts, last, targets = samples()

    def loss(flat):
        theta = torch.tensor(flat, dtype=torch.float64).view(4, 4).requires_grad_()
        value = -count_log_likelihood(theta, counts, last, targets) + l2 / 2 * theta.square().sum()
        value.backward()
        return value.item(), theta.grad.flatten().numpy()

    reference = minimize(loss, torch.zeros(16).numpy(), jac=True, method="BFGS", options={"gtol": 1e-10})
    expected = torch.tensor(reference.x).view(4, 4)
    found = fit_count_logits(counts, last, targets, 4, l2=l2)
    torch.testing.assert_close(found - found.mean(0), expected - expected.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


def test_information_is_minus_the_hessian_of_the_likelihood():
    logits, counts, last, targets = samples(n=60)
    hessian = torch.autograd.functional.hessian(lambda t: -count_log_likelihood(t, counts, last, targets), logits)
    for k in range(4):
        torch.testing.assert_close(count_information(logits, counts, last)[k], hessian[:, k, :, k])


def test_a_basis_restricts_the_logits_and_the_penalty_is_on_its_coefficients():
    _, counts, last, targets = samples()
    full = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(
        fit_count_logits(counts, last, targets, 4, basis=full), fit_count_logits(counts, last, targets, 4)
    )
    generator = torch.Generator().manual_seed(3)
    basis = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    found = fit_count_logits(counts, last, targets, 4, basis=basis, l2=0.1)
    coefficients = torch.linalg.lstsq(basis, found.reshape(-1, 1)).solution
    torch.testing.assert_close(basis @ coefficients, found.reshape(-1, 1))
    at = coefficients.squeeze(1).requires_grad_()
    objective = count_log_likelihood((basis @ at).view(4, 4), counts, last, targets) - 0.05 * at.square().sum()
    (gradient,) = torch.autograd.grad(objective, at)
    assert gradient.abs().max() < 1e-8
    again = fit_count_logits(counts, last, targets, 4, basis=basis, l2=0.1, start=at.detach() + 1)
    torch.testing.assert_close(again, found)


def test_what_the_data_do_not_say_stays_zero():
    # Last token 0 contrasts {0, 1} and never 2; last tokens 1 and 2 never occur.
    counts = torch.tensor([[1, 1, 0], [2, 1, 0], [1, 1, 0]])
    found = fit_count_logits(counts, torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0]), 3)
    assert torch.equal(found[:, 1:], torch.zeros(3, 2, dtype=torch.float64)) and found[2, 0] == 0
    torch.testing.assert_close(found[0, 0], -found[1, 0])


def test_separable_data_end_at_large_finite_logits_and_weak_penalties_at_their_own():
    counts, last, targets = torch.ones(5, 2), torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long)
    found = fit_count_logits(counts, last, targets, 2)
    assert torch.isfinite(found).all() and 10 < found[0, 0] - found[1, 0] < 60
    for l2 in (1e-3, 1e-8, 1e-12):
        found = fit_count_logits(counts, last, targets, 2, l2=l2, tolerance=1e-20)
        # Stationarity by hand: with d the difference of the two logits, 1 / (1 + e^d) = l2 d / 2.
        d = found[0, 0] - found[1, 0]
        torch.testing.assert_close(1 / (1 + d.exp()), l2 * d / 2, rtol=1e-5, atol=0)


def test_weights_stand_for_repeated_samples():
    _, counts, last, targets = samples(n=50)
    repeats = torch.arange(50) % 3 + 1
    twice = fit_count_logits(*(x.repeat_interleave(repeats, 0) for x in (counts, last, targets)), 4, l2=0.1 / 99)
    weighted = fit_count_logits(counts, last, targets, 4, weights=repeats / repeats.sum(), l2=0.1 / 99)
    torch.testing.assert_close(twice, weighted, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 1}, "vocabulary is 1"),
        ({"l2": -1.0}, "l2 is -1.0"),
        ({"basis": torch.eye(3)}, "basis has 3 rows"),
        ({"start": torch.zeros(2)}, "start has 2"),
        ({"targets": torch.tensor([0, 2])}, r"targets\[1\] is 2, which does not occur"),
        ({"targets": torch.tensor([0, 3])}, "targets has tokens from 0 to 3"),
        ({"last": torch.tensor([0])}, "last has 1 entries"),
        ({"counts": torch.tensor([[1, 1, 0], [1, -1, 1]])}, "negative"),
        ({"counts": torch.ones(2, 4)}, "counts has 4 columns"),
        ({"counts": torch.ones(0, 3)}, "no sample"),
        ({"weights": torch.tensor([1.0, -1.0])}, "weights"),
    ],
)
def test_wrong_input_is_refused(change, message):
    given = {
        "counts": torch.tensor([[1, 1, 0], [1, 1, 0]]),
        "last": torch.tensor([0, 0]),
        "targets": torch.tensor([0, 1]),
        "vocabulary": 3,
    } | change
    with pytest.raises(InputError, match=message):
        fit_count_logits(**given)


@pytest.mark.parametrize("length", [3, 12])
@pytest.mark.parametrize("vocabulary", [3, 8, 32])
def test_scarce_and_one_sided_data_end_too(vocabulary, length):
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocabulary, (150, length), generator=generator)
        counts = torch.nn.functional.one_hot(ids, vocabulary).sum(1)
        logits = 4 * torch.randn(vocabulary, vocabulary, generator=generator, dtype=torch.float64)
        p = count_log_probabilities(logits, counts, ids[:, -1]).exp()
        targets = torch.multinomial(p, 1, generator=generator).squeeze(1)
        found = fit_count_logits(counts, ids[:, -1], targets, vocabulary)
        reached = count_log_likelihood(found, counts, ids[:, -1], targets)
        assert torch.isfinite(found).all() and reached >= count_log_likelihood(logits, counts, ids[:, -1], targets)
        penalised = fit_count_logits(counts, ids[:, -1], targets, vocabulary, l2=1e-9)
        further = count_log_likelihood(penalised, counts, ids[:, -1], targets)
        assert reached >= further - 1e-7
