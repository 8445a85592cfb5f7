import itertools
import math

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

from superpose.errors import InputError
from superpose.experiment.claim import (
    AllOf,
    AnyOf,
    Claim,
    Compare,
    Criterion,
    above,
    all_of,
    any_of,
    at_least,
    at_most,
    below,
    judge,
)
from superpose.experiment.measurement import Measurement, exact

HOLDS, OPEN, FAILS = "holds", "inconclusive", "fails"
# three measurements of which "x > 0" holds, is open, and fails
BY_OUTCOME = {HOLDS: (1.0, 2.0), OPEN: (-1.0, 1.0), FAILS: (-2.0, -1.0)}


def interval(name, low, high):
    return Measurement(
        name=name, value=(low + high) / 2, low=low, high=high, n=9, over="items", interval="bootstrap 95 %"
    )


@pytest.mark.parametrize(
    ("criterion", "low", "high", "outcome"),
    [
        (above("x", 1), 1.1, 2, HOLDS),
        (above("x", 1), 1, 2, OPEN),
        (above("x", 1), 0, 1, FAILS),
        (at_least("x", 1), 1, 2, HOLDS),
        (at_least("x", 1), 0, 1, OPEN),
        (at_least("x", 1), 0, 0.9, FAILS),
        (below("x", 1), 0, 0.9, HOLDS),
        (below("x", 1), 0, 1, OPEN),
        (below("x", 1), 1, 2, FAILS),
        (at_most("x", 1), 0, 1, HOLDS),
        (at_most("x", 1), 1, 2, OPEN),
        (at_most("x", 1), 1.1, math.inf, FAILS),
        (at_least("x", 1), -math.inf, math.inf, OPEN),
    ],
)
def test_a_comparison_looks_at_the_whole_interval(criterion, low, high, outcome):
    value = min(max(0.5 * (low + high), low), high) if math.isfinite(low + high) else low
    m = Measurement(name="x", value=value, low=low, high=high, n=2, over="items", interval="")
    assert criterion.judge({"x": m}) == outcome


@pytest.mark.parametrize(("a", "b"), list(itertools.product(BY_OUTCOME, repeat=2)))
def test_kleene_tables(a, b):
    measured = {"a": interval("a", *BY_OUTCOME[a]), "b": interval("b", *BY_OUTCOME[b])}
    order = [FAILS, OPEN, HOLDS]  # Kleene: conjunction is the minimum, disjunction the maximum
    conjunction, disjunction = all_of(above("a", 0), above("b", 0)), any_of(above("a", 0), above("b", 0))
    assert conjunction.judge(measured) == min(a, b, key=order.index)
    assert disjunction.judge(measured) == max(a, b, key=order.index)


def test_criteria_read_as_sentences():
    criterion = any_of(all_of(at_least("r", 0.9), below("kl", 1e-3)), at_most("gap", 2))
    assert str(criterion) == "(r ≥ 0.9 and kl < 0.001) or gap ≤ 2"
    assert [atom.measurement for atom in criterion.atoms()] == ["r", "kl", "gap"]


@pytest.mark.parametrize(
    "criterion",
    [
        above("x", 0.1),
        all_of(above("x", 0.1)),
        any_of(above("x", 0.1), all_of(at_most("y", math.inf), any_of(below("z", -1), at_least("z", 1)))),
    ],
)
def test_criteria_survive_json_with_their_classes(criterion):
    adapter = TypeAdapter(Criterion, config=ConfigDict(ser_json_inf_nan="strings"))
    again = adapter.validate_json(adapter.dump_json(criterion))
    assert type(again) is type(criterion)
    assert again == criterion
    in_claim = Claim(id="C1", sentence="s", paper_figure="f", criteria={"laptop": criterion})
    assert Claim.model_validate_json(in_claim.model_dump_json()) == in_claim


@pytest.mark.parametrize("data", [{}, {"all_of": []}, {"any_of": []}, {"all_of": [], "measurement": "x"}])
def test_shapeless_criteria_are_refused(data):
    with pytest.raises(ValidationError):
        TypeAdapter(Criterion).validate_python(data)


def test_bounds_and_names_that_can_never_be_met_are_refused():
    with pytest.raises(ValidationError, match="NaN"):
        above("x", math.nan)
    with pytest.raises(ValidationError, match="pattern"):
        above("No Such Name", 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no criterion"),
        ({"role": "reported"}, "needs a reason"),
        ({"role": "unmeasurable", "reason": "r", "criteria": {"laptop": above("x", 0)}}, "allows no criterion"),
        ({"criteria": {"laptop": above("x", 0)}, "explanations": {"laptop:holds": "e"}}, "explanation key"),
        ({"criteria": {"laptop": above("x", 0)}, "explanations": {"moon:fails": "e"}}, "explanation key"),
        ({"criteria": {"moon": above("x", 0)}}, "smoke"),
        ({"id": "C-1", "criteria": {"laptop": above("x", 0)}}, "pattern"),
        ({"criterion": above("x", 0)}, "Extra inputs"),
    ],
)
def test_inconsistent_claims_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Claim(**{"id": "C1", "sentence": "s", "paper_figure": "f", **fields})


CLAIM = Claim(
    id="C1",
    sentence="s",
    paper_figure="f",
    criteria={"laptop": all_of(above("a", 0), above("b", 0))},
    explanations={"laptop:fails": "because b is small"},
)


def test_a_judgement_says_what_it_rested_on():
    found = judge(CLAIM, "laptop", [interval("a", 1, 2), exact("b", -1), exact("unused", 0)])
    assert found.verdict == "fails"
    assert found.criterion == "a > 0 and b > 0"
    assert found.because == "a = 1.5 [1, 2], asked > 0: holds; b = -1, asked > 0: fails"
    assert found.explanation == "because b is small"
    assert judge(CLAIM, "laptop", [exact("a", 1), interval("b", -1, 1)]).explanation == ""


def test_what_may_not_be_judged_is_not():
    assert judge(CLAIM, "smoke", []).verdict == "not judged"
    assert judge(CLAIM, "laptop", [], unjudged="changed").because == "changed"
    for role in ("reported", "unmeasurable"):
        claim = Claim(id="C", sentence="s", paper_figure="f", role=role, reason="why")
        assert (judge(claim, "laptop", []).verdict, judge(claim, "laptop", []).because) == (role, "why")


def test_a_missing_measurement_is_named():
    with pytest.raises(InputError, match="needs the measurement 'b'; made: a"):
        judge(CLAIM, "laptop", [exact("a", 1)])


def test_the_three_kinds_of_criteria_are_distinct():
    assert isinstance(all_of(above("x", 0)), AllOf)
    assert isinstance(any_of(above("x", 0)), AnyOf)
    assert isinstance(above("x", 0), Compare)
