from collections import Counter

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.interpret import MixturePrompt, Task, TaskFamily, family, mixture_counts


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("proportions", "m", "counts"),
    [
        ([0.5, 0.5], 20, (10, 10)),
        ([0.1, 0.9], 30, (3, 27)),  # 0.1 * 30 is not 3 in floats
        ([0.29, 0.71], 100, (29, 71)),  # nor is 0.29 * 100 29
        ([1 / 3, 1 / 3, 1 / 3], 7, (3, 2, 2)),  # 2.33 each; the one left over goes to the first
        ([0.5, 0.25, 0.25], 7, (4, 2, 1)),  # 3.5, 1.75, 1.75: two left over, in task order
        ([0.5, 0.5, 0.0], 3, (2, 1, 0)),  # nothing for the task whose share is whole
        ([0.4, 0.3, 0.3], 5, (2, 2, 1)),
        ([1.0, 0.0], 8, (8, 0)),
        ([1.0], 5, (5,)),
        ([0.333333, 0.333333, 0.333334], 60, (20, 20, 20)),
    ],
)
def test_counts_by_the_papers_rule(proportions: list[float], m: int, counts: tuple[int, ...]):
    assert mixture_counts(proportions, m) == counts


def test_counts_are_within_one_of_the_shares():
    draw = rng(1)
    for _ in range(500):
        tasks, m = int(draw.integers(1, 7)), int(draw.integers(1, 200))
        shares = draw.dirichlet(np.ones(tasks))
        counts = mixture_counts(shares.tolist(), m)
        assert sum(counts) == m
        assert np.all(np.abs(np.array(counts) - shares * m) < 1 + 1e-6)


def test_prompt_holds_what_it_says():
    built = family("word")
    prompt = MixturePrompt.build(built, ["copy", "upper", "first"], [0.5, 0.25, 0.25], 12, rng())
    *demonstrations, query = prompt.text.split("\n")
    assert query == f"{prompt.query}->"
    assert prompt.answers == (prompt.query, prompt.query.upper(), prompt.query[0])
    assert (prompt.counts, prompt.proportions) == ((6, 3, 3), (0.5, 0.25, 0.25))
    assert Counter(prompt.assignment) == {0: 6, 1: 3, 2: 3}
    for line, task in zip(demonstrations, prompt.assignment, strict=True):
        word, answer = line.split("->")
        assert answer == built.answers(word, prompt.tasks)[task]
        assert word != prompt.query
    for task, position in enumerate(prompt.last_position):
        assert position == max(i for i, t in enumerate(prompt.assignment) if t == task)


def test_one_task_is_the_plain_few_shot_prompt():
    built = family("country")
    prompt = MixturePrompt.build(built, ["capital"], [1.0], 5, rng(3))
    lines = prompt.text.split("\n")
    plain = [f"{name}->{built.answers(name, ['capital'])[0]}" for name in (line.split("->")[0] for line in lines[:-1])]
    assert prompt.text == "\n".join([*plain, f"{prompt.query}->"])
    assert prompt.assignment == (0,) * 5
    hot = MixturePrompt.build(built, ["capital", "continent"], [1.0, 0.0], 5, rng(3))
    assert hot.text == prompt.text
    assert hot.last_position == (4, None)
    assert len(hot.answers) == 2


def test_mixtures_of_one_state_share_query_and_inputs():
    prompts = [
        MixturePrompt.build(family("ab"), ["copy_a", "copy_b"], [share, 1 - share], 10, rng(5)) for share in (0, 0.3, 1)
    ]
    assert len({prompt.query for prompt in prompts}) == 1
    assert len({tuple(line.split("=")[0] for line in prompt.text.split("\n")) for prompt in prompts}) == 1
    assert len({prompt.text for prompt in prompts}) == 3


def test_same_state_same_prompt():
    arguments = (family("word"), ["copy", "upper"], [0.5, 0.5], 6)
    assert MixturePrompt.build(*arguments, rng(1)) == MixturePrompt.build(*arguments, rng(1))
    assert MixturePrompt.build(*arguments, rng(1)) != MixturePrompt.build(*arguments, rng(2))


def test_orders_are_uniform():
    seen = Counter(
        MixturePrompt.build(family("digit"), ["self", "square"], [0.5, 0.5], 4, rng(seed)).assignment
        for seed in range(1200)
    )
    assert len(seen) == 6
    assert max(seen.values()) < 1.35 * min(seen.values())


def test_iid_order_draws_every_line():
    counts = [
        MixturePrompt.build(family("digit"), ["self", "square"], [0.25, 0.75], 8, rng(seed), order="iid").counts
        for seed in range(400)
    ]
    first = np.array(counts)[:, 0]
    assert all(sum(pair) == 8 for pair in counts)
    assert first.mean() == pytest.approx(2, abs=0.25)  # binomial: mean 2, variance 1.5
    assert first.var() == pytest.approx(1.5, abs=0.4)


def test_inputs_are_unique_where_the_family_says_so():
    for seed in range(20):
        prompt = MixturePrompt.build(family("country"), ["copy", "upper"], [0.5, 0.5], 60, rng(seed))
        names = [line.split("->")[0] for line in prompt.text.split("\n")]
        assert len(set(names)) == 61
    lines = MixturePrompt.build(family("digit"), ["self", "double"], [0.5, 0.5], 40, rng()).text.split("\n")
    assert len({line.split("->")[0] for line in lines[:-1]}) < 40
    assert lines[-1] not in {line.split("->")[0] + "->" for line in lines[:-1]}


def test_distinct_answers():
    def build(seed: int, distinct: bool) -> MixturePrompt:
        return MixturePrompt.build(
            family("digit"), ["self", "square"], [0.5, 0.5], 2, rng(seed), distinct_answers=distinct
        )

    assert all(len(set(build(seed, True).answers)) == 2 for seed in range(50))
    assert any(len(set(build(seed, False).answers)) == 1 for seed in range(50))


def test_unique_inputs_without_a_list():
    built = TaskFamily("f", lambda draw: int(draw.integers(5)), str, (Task("a", str),), unique_inputs=True)
    prompt = MixturePrompt.build(built, ["a"], [1.0], 4, rng())
    assert len({line.split("->")[0] for line in prompt.text.split("\n")}) == 5
    with pytest.raises(InputError, match="too few inputs for 5 demonstrations"):
        MixturePrompt.build(built, ["a"], [1.0], 5, rng())


def test_leading_newline():
    arguments = (family("word"), ["copy"], [1.0], 3)
    assert (
        MixturePrompt.build(*arguments, rng(), leading_newline=True).text
        == "\n" + MixturePrompt.build(*arguments, rng()).text
    )


@pytest.mark.parametrize(
    ("proportions", "message"),
    [
        ([0.5, 0.4], r"\(0.5, 0.4\), with sum 0.9"),
        ([0.5, 0.50002], "with sum 1.00002"),
        ([1.5, -0.5], "not negative"),
        ([float("nan"), 1.0], "not negative"),
        ([1.0], "1 numbers for 2 tasks"),
        ([0.5, 0.25, 0.25], "3 numbers for 2 tasks"),
        ([], "0 numbers for 2 tasks"),
    ],
)
def test_bad_proportions(proportions: list[float], message: str):
    with pytest.raises(InputError, match=message):
        MixturePrompt.build(family("word"), ["copy", "upper"], proportions, 4, rng())


def test_other_bad_input():
    with pytest.raises(InputError, match="m is 0"):
        MixturePrompt.build(family("word"), ["copy"], [1.0], 0, rng())
    with pytest.raises(InputError, match="order is 'sorted'; allowed: random, iid"):
        MixturePrompt.build(family("word"), ["copy"], [1.0], 2, rng(), order="sorted")
    twins = TaskFamily("twins", lambda draw: int(draw.integers(9)), str, (Task("a", str), Task("b", str)))
    with pytest.raises(InputError, match="no input of family 'twins' has different answers under a, b"):
        MixturePrompt.build(twins, ["a", "b"], [0.5, 0.5], 2, rng())
