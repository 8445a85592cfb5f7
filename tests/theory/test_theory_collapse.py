import numpy as np
import pytest
import torch

from superpose.errors import InputError
from superpose.tasks import trajectory_counts
from superpose.theory import (
    collapse_report,
    frozen_chain,
    growth_exponents,
    invasion_exponents,
    loser_exponents,
    self_dominant,
    share_drift,
    share_fixed_point,
    stationary_law,
)

INTERIOR = torch.tensor([[0.4, 0.6], [0.7, 0.3]], dtype=torch.float64)
PAIR = torch.tensor([[0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.2, 0.6], [0.3, 0.1, 0.1, 0.5], [0.7, 0.1, 0.1, 0.1]]).double()
STICKY = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)


def test_the_frozen_chain_weighs_by_shares():
    shares = torch.tensor([0.25, 0.75])
    expected = torch.tensor([[0.1, 0.45], [0.175, 0.225]], dtype=torch.float64)
    torch.testing.assert_close(frozen_chain(INTERIOR, shares), expected / expected.sum(1, keepdim=True))
    drift = stationary_law(frozen_chain(INTERIOR, shares)) - shares
    torch.testing.assert_close(share_drift(INTERIOR, shares), drift)


def test_two_tokens_settle_where_the_equation_by_hand_says():
    # mu(s) = s means .6 (.3 + .4 s) = .7 (.6 - .2 s), so s = 12 / 19.
    torch.testing.assert_close(share_fixed_point(INTERIOR)[0], torch.tensor(12 / 19, dtype=torch.float64))
    torch.testing.assert_close(invasion_exponents(INTERIOR, share_fixed_point(INTERIOR)), torch.ones(2).double())


def test_symmetric_chains_drift_by_the_replicator_equation():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    p = (p + p.T) / 10
    p = p - torch.diag(p.sum(1) - 1)
    s = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    payoff = p @ s
    torch.testing.assert_close(share_drift(p, s), s * (payoff / (s @ payoff) - 1))


def test_the_drift_is_what_shares_do():
    counts = trajectory_counts(
        INTERIOR, torch.tensor([[0] * 900 + [1] * 100]).expand(400, -1), [100], torch.Generator().manual_seed(0)
    )
    moved = (counts[:, 0, 0] / 1100 - 0.9).numpy()
    expected = float(share_drift(INTERIOR, torch.tensor([0.9, 0.1]))[0]) * np.log(1.1)
    assert abs(moved.mean() - expected) < 5 * moved.std() / 20 + 1e-3


def test_only_tokens_that_dominate_their_row_can_win_alone():
    assert self_dominant(STICKY).tolist() == [True, True] and self_dominant(PAIR).tolist() == [False] * 4
    assert self_dominant(torch.tensor([[0.5, 0.5], [0.2, 0.8]])).tolist() == [False, True]
    torch.testing.assert_close(loser_exponents(STICKY, 0), torch.tensor([1.0, 0.25], dtype=torch.float64))
    torch.testing.assert_close(loser_exponents(STICKY, 1), invasion_exponents(STICKY, torch.tensor([0.0, 1.0])))


def test_a_pair_can_win_where_no_token_dominates():
    fixed = share_fixed_point(PAIR)
    torch.testing.assert_close(fixed, torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        invasion_exponents(PAIR, torch.tensor([0.5, 0.0, 0.0, 0.5])), torch.tensor([1, 0.25, 0.25, 1]).double()
    )


def test_losers_grow_with_the_predicted_power():
    at = [2**power for power in range(6, 13)]
    chain = torch.tensor([[0.6, 0.4], [0.9, 0.1]], dtype=torch.float64)
    counts = trajectory_counts(chain, torch.tensor([[0, 1]]).expand(300, 2), at, torch.Generator().manual_seed(1))
    found = growth_exponents(counts, torch.tensor(at))
    assert abs(float(found.nanmedian()) - 2 / 3) < 0.05


def test_growth_exponents_of_pure_powers_and_of_nothing():
    at = torch.tensor([100, 200, 400, 800])
    powers = torch.stack([at.double() * 10, at.double().sqrt()], -1)
    found = growth_exponents(torch.stack([powers, torch.stack([at.double(), at * 0.0], -1)]), at, since=0.1)
    torch.testing.assert_close(found[0], torch.tensor(0.5, dtype=torch.float64))
    assert found[1].isnan()


def test_the_report_counts_what_a_person_counts():
    report = collapse_report([[7, 7, 7, 9, 7, 7, 7, 7], [1, 2, 3, 4, 1, 2, 3, 5]], window=4, ngrams=(1, 2))
    assert report.at.tolist() == [1, 2, 4, 8]
    torch.testing.assert_close(report.top_share[:, -1], torch.tensor([7 / 8, 2 / 8], dtype=torch.float64))
    assert report.distinct[1].tolist() == [[0.5, 0.25], [1.0, 1.0]]
    assert report.distinct[2].tolist() == [[2 / 3, 1 / 3], [1.0, 1.0]]
    assert report.window_top_share.tolist() == [[0.75, 1.0], [0.25, 0.25]]
    assert report.common_tokens[:, -1].tolist() == [2, 5]
    entropy = -(7 / 8 * np.log(7 / 8) + 1 / 8 * np.log(1 / 8))
    assert float(report.effective_tokens[0, -1]) == pytest.approx(np.exp(entropy))


def test_the_report_does_not_care_which_ids_stand_for_what():
    ids = torch.randint(5, (3, 128), generator=torch.Generator().manual_seed(0))
    names = torch.tensor([40_000, 3, 70_000, 12, 999])
    first, second = collapse_report(ids), collapse_report(names[ids])
    for field in ("top_share", "effective_tokens", "window_top_share", "exponents"):
        torch.testing.assert_close(getattr(first, field), getattr(second, field))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frozen_chain(STICKY, torch.tensor([-1.0, 2.0])), "shares is"),
        (lambda: frozen_chain(torch.eye(2), torch.tensor([1.0, 0.0])), "without a successor"),
        (lambda: share_fixed_point(STICKY), "collapse on token"),
        (lambda: share_fixed_point(torch.eye(2)), "is 0"),
        (lambda: loser_exponents(INTERIOR, 0), "winner is 0, after which 1"),
        (lambda: loser_exponents(STICKY, 2), "winner is 2"),
        (lambda: collapse_report([[1, 2], [1]]), "lengths"),
        (lambda: collapse_report([[1, 2]], window=3), "window is 3"),
        (lambda: collapse_report([[1, 2]], window=2, ngrams=(0,)), "ngrams"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
