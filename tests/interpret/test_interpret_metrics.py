import math

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.interpret import TopStrings, kl_to_mixture, other_mass, r_completed, task_completed


def logs(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, dtype=np.float64))


def top(*probabilities: float, exceeded: bool = False, bound: float = 0.0, pending: tuple[float, ...] = ()):
    return TopStrings(
        strings=tuple(f"s{i}" for i in range(len(probabilities))),
        logprobs=tuple(map(math.log, probabilities)),
        tokens=tuple((i,) for i in range(len(probabilities))),
        budget_exceeded=exceeded,
        expansions=1,
        bound=math.log(bound) if bound else -math.inf,
        pending=tuple(map(math.log, pending)),
    )


def test_kl_closed_forms():
    mixture = np.array([0.75, 0.25])
    assert kl_to_mixture(logs(0.75, 0.25), mixture) == pytest.approx(0, abs=1e-12)
    # Half of the mass on other outputs costs log 2; among the tasks the mixture is still met.
    assert kl_to_mixture(logs(0.375, 0.125), mixture) == pytest.approx(math.log(2))
    assert kl_to_mixture(logs(0.375, 0.125), mixture, conditional=True) == pytest.approx(0, abs=1e-12)
    assert kl_to_mixture(logs(0.25, 0.25), mixture) == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1))


def test_kl_is_plain_kl_plus_the_missing_mass():
    rng = np.random.default_rng(0)
    mixture = rng.dirichlet(np.ones(4), size=6)
    answers = rng.dirichlet(np.ones(5), size=6)[:, :4]
    plain, conditional = kl_to_mixture(np.log(answers), mixture), kl_to_mixture(np.log(answers), mixture, True)
    np.testing.assert_allclose(plain, conditional - np.log(answers.sum(1)))
    assert plain.shape == (6,)
    assert (conditional >= 0).all()
    np.testing.assert_allclose(kl_to_mixture(np.log(answers), mixture[0])[0], plain[0])


def test_kl_at_the_edges():
    assert kl_to_mixture(logs(0.5, 0.0), np.array([1.0, 0.0])) == pytest.approx(math.log(2))
    assert kl_to_mixture(logs(0.5, 0.0), np.array([0.5, 0.5])) == math.inf
    assert kl_to_mixture(logs(0.0, 0.0), np.array([0.5, 0.5]), conditional=True) == math.inf
    assert kl_to_mixture(logs(0.5, 0.0), np.array([1.0, 0.0]), conditional=True) == pytest.approx(0, abs=1e-12)
    # Far below what a float can hold as a probability, and still finite.
    assert kl_to_mixture(np.array([-2000.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(1000 - math.log(2))


def test_kl_refuses_what_does_not_match():
    with pytest.raises(InputError, match="tasks must match"):
        kl_to_mixture(logs(0.5, 0.5), np.array([0.5, 0.25, 0.25]))
    with pytest.raises(InputError, match=r"share -0\.5"):
        kl_to_mixture(logs(0.5, 0.5), np.array([1.5, -0.5]))


def test_other_mass_is_the_rest():
    np.testing.assert_allclose(other_mass(np.stack([logs(0.5, 0.2), logs(0.9, 0.3)])), [0.3, -0.2])


def test_task_completed_compares_with_the_kth_string():
    assert task_completed(logs(0.5, 0.1), top(0.5, 0.3)).tolist() == [True, False]
    assert task_completed(logs(0.5, 0.3), top(0.5, 0.3)).tolist() == [True, True]
    assert task_completed(logs(0.3 - 9e-6, 0.3 - 2e-5), top(0.5, 0.3)).tolist() == [True, False]
    assert task_completed(logs(0.5, 0.1), math.log(0.2)).tolist() == [True, False]


def test_fewer_strings_than_tasks_means_all_are_completed():
    assert task_completed(logs(0.5, 0.0), top(0.5)).tolist() == [True, True]


def test_a_cut_off_search_decides_only_what_is_certain():
    # The second string lies somewhere between 0.1 (found) and 0.2 (the bound of what was not looked at).
    cut = top(0.5, exceeded=True, bound=0.2, pending=(0.1,))
    assert task_completed(logs(0.5, 0.05), cut).tolist() == [True, False]
    assert task_completed(logs(0.5, 0.2), cut).tolist() == [True, True]
    assert task_completed(logs(0.5, 0.15), cut) is None


def test_r_is_the_mean_over_decided_prompts():
    scores = np.stack([logs(0.5, 0.3), logs(0.5, 0.1), logs(0.5, 0.15)])
    result = r_completed(scores, [top(0.5, 0.3), top(0.5, 0.3), top(0.5, exceeded=True, bound=0.2, pending=(0.1,))])
    assert result.r == 1.5
    np.testing.assert_array_equal(result.per_prompt, [2, 1, np.nan])
    assert result.completed.tolist() == [[True, True], [True, False], [False, False]]
    assert result.undecided == 1
    assert r_completed(scores, logs(0.3, 0.3, 0.1)).per_prompt.tolist() == [2, 1, 2]


def test_r_without_decided_prompts():
    result = r_completed(logs(0.5, 0.1)[None], [top(exceeded=True, bound=0.9)])
    assert math.isnan(result.r)
    assert result.undecided == 1
    with pytest.raises(InputError, match="logprobs has 1 prompts and top 2"):
        r_completed(logs(0.5, 0.1)[None], [top(0.5, 0.3)] * 2)
