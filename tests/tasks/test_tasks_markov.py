import itertools

import pytest
import torch

from superpose.errors import InputError
from superpose.tasks import MarkovChain, task


def draw(each, episodes, seed=0, **size):
    return each.sample(episodes, torch.Generator().manual_seed(seed), **size)


def test_walks_follow_their_own_transition_matrix():
    each = MarkovChain(symbols=3, points=4000, concentration=1.0)
    batch = draw(each, 8)
    transitions = batch.info["transitions"]
    torch.testing.assert_close(transitions.sum(-1), torch.ones(8, 3))
    for walk, target, rows in zip(batch.inputs, batch.targets, transitions, strict=True):
        pairs = torch.bincount(3 * walk + target, minlength=9).view(3, 3)
        visits = pairs.sum(1, keepdim=True)
        # Six standard errors of a share.
        room = 6 * (rows * (1 - rows) / visits.clamp_min(1)).sqrt() + 1e-3
        assert ((pairs / visits.clamp_min(1) - rows).abs() <= room)[visits.squeeze(1) > 0].all()


def test_rows_have_the_dirichlets_moments():
    for concentration in (0.1, 1.0, 5.0):
        each = MarkovChain(symbols=4, points=1, concentration=concentration)
        rows = draw(each, 20_000).info["transitions"].flatten(0, 1)
        variance = (1 / 4) * (3 / 4) / (4 * concentration + 1)
        torch.testing.assert_close(rows.mean(0), torch.full((4,), 0.25), atol=0.01, rtol=0)
        torch.testing.assert_close(rows.var(0), torch.full((4,), variance), atol=0, rtol=0.05)


def test_posterior_is_counting_by_hand():
    each = MarkovChain(symbols=3, points=12, concentration=0.5)
    batch = draw(each, 4)
    posterior = each.posterior(batch)
    for episode in range(4):
        walk = [*batch.inputs[episode].tolist(), int(batch.targets[episode, -1])]
        for t in range(12):
            counts = [0.5] * 3
            for before, after in itertools.pairwise(walk[: t + 1]):
                if before == walk[t]:
                    counts[after] += 1
            expected = torch.tensor(counts, dtype=torch.float64) / sum(counts)
            torch.testing.assert_close(posterior[episode, t], expected)


def test_posterior_is_calibrated_and_no_predictor_beats_the_optimum():
    each = task("markov-chain")
    batch = draw(each, 4000)
    posterior = each.posterior(batch)
    said = posterior.amax(-1)
    hit = 1 - each.optimum(batch)
    for low in (0.3, 0.5, 0.7, 0.9):
        kept = (said >= low) & (said < low + 0.1)
        assert abs(float(said[kept].mean() - hit[kept].double().mean())) < 0.02
    now = torch.nn.functional.one_hot(batch.inputs, each.symbols).float()
    knowing = torch.einsum("bti,bij->btj", now, batch.info["transitions"])
    optimum = each.mean(each.optimum(batch), batch)
    assert each.mean(each.error(knowing, batch), batch) < optimum
    for rival in (now, now.cumsum(1), torch.rand(now.shape)):
        assert each.mean(each.error(rival, batch), batch) > optimum + 0.02


def test_equal_candidates_share_the_hit():
    each = MarkovChain(symbols=4, points=5)
    batch = draw(each, 50)
    torch.testing.assert_close(each.optimum(batch)[:, 0], torch.full((50,), 0.75))


@pytest.mark.parametrize(("field", "value"), [("symbols", 1), ("points", 0), ("concentration", 0.0)])
def test_wrong_fields_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field} is {value}"):
        task("markov-chain", **{field: value})
