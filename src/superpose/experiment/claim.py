"""Claims and criteria: what a paper asserts, and what must be measured for it to hold. Data, not code."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, SupportsFloat

from pydantic import BaseModel, ConfigDict, Field, model_validator

from superpose.errors import InputError
from superpose.experiment.measurement import NAME, Measurement

Scale = Literal["smoke", "laptop", "gpu"]
SCALES: tuple[Scale, ...] = ("smoke", "laptop", "gpu")
Role = Literal["judged", "reported", "unmeasurable"]
Outcome = Literal["holds", "fails", "inconclusive"]
Verdict = Literal["holds", "fails", "inconclusive", "reported", "unmeasurable", "not judged"]
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "inconclusive", "reported", "unmeasurable", "not judged")

_SYMBOL = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Compare(_Frozen):
    """One comparison of a measurement's whole interval with a constant."""

    measurement: Annotated[str, Field(pattern=NAME)]
    op: Literal["<", "<=", ">", ">="]
    bound: float

    @model_validator(mode="after")
    def _comparable(self) -> "Compare":
        if math.isnan(self.bound):
            raise ValueError(f"the bound on {self.measurement} is NaN")
        return self

    def __str__(self) -> str:
        return f"{self.measurement} {_SYMBOL[self.op]} {self.bound:g}"

    def judge(self, measured: Mapping[str, Measurement]) -> Outcome:
        """Holds if true on the whole interval, fails if false on all of it, else inconclusive."""
        m = measured[self.measurement]
        ends = [self._true(m.low), self._true(m.high)]
        return "holds" if all(ends) else "inconclusive" if any(ends) else "fails"

    def _true(self, x: float) -> bool:
        return {"<": x < self.bound, "<=": x <= self.bound, ">": x > self.bound, ">=": x >= self.bound}[self.op]

    def atoms(self) -> Iterator["Compare"]:
        """The comparisons this criterion is made of."""
        yield self


class AllOf(_Frozen):
    """Every part must hold: one that fails decides, else one that is inconclusive does."""

    all_of: Annotated[tuple["Criterion", ...], Field(min_length=1)]

    def __str__(self) -> str:
        return " and ".join(_bracketed(part) for part in self.all_of)

    def judge(self, measured: Mapping[str, Measurement]) -> Outcome:
        """The worst outcome among the parts."""
        return _extreme(self.all_of, measured, ("fails", "inconclusive"), "holds")

    def atoms(self) -> Iterator[Compare]:
        """The comparisons this criterion is made of."""
        for part in self.all_of:
            yield from part.atoms()


class AnyOf(_Frozen):
    """One part that holds is enough."""

    any_of: Annotated[tuple["Criterion", ...], Field(min_length=1)]

    def __str__(self) -> str:
        return " or ".join(_bracketed(part) for part in self.any_of)

    def judge(self, measured: Mapping[str, Measurement]) -> Outcome:
        """The best outcome among the parts."""
        return _extreme(self.any_of, measured, ("holds", "inconclusive"), "fails")

    def atoms(self) -> Iterator[Compare]:
        """The comparisons this criterion is made of."""
        for part in self.any_of:
            yield from part.atoms()


Criterion = Compare | AllOf | AnyOf
AllOf.model_rebuild()
AnyOf.model_rebuild()


def at_least(measurement: str, bound: SupportsFloat) -> Compare:
    """``measurement >= bound``."""
    return Compare(measurement=measurement, op=">=", bound=float(bound))


def at_most(measurement: str, bound: SupportsFloat) -> Compare:
    """``measurement <= bound``."""
    return Compare(measurement=measurement, op="<=", bound=float(bound))


def above(measurement: str, bound: SupportsFloat) -> Compare:
    """``measurement > bound``."""
    return Compare(measurement=measurement, op=">", bound=float(bound))


def below(measurement: str, bound: SupportsFloat) -> Compare:
    """``measurement < bound``."""
    return Compare(measurement=measurement, op="<", bound=float(bound))


def all_of(*parts: Criterion) -> AllOf:
    """Every part must hold."""
    return AllOf(all_of=parts)


def any_of(*parts: Criterion) -> AnyOf:
    """At least one part must hold."""
    return AnyOf(any_of=parts)


class Claim(_Frozen):
    """One sentence that a paper asserts.

    Attributes:
        id: short identifier, unique in its study, for example ``"TS1"``.
        sentence: the assertion, in our words.
        paper_figure: the paper's own number, figure or theorem; ``"none"`` where it gives none.
        role: ``judged`` (a criterion decides), ``reported`` (the figure is information), or ``unmeasurable``.
        criteria: for judged claims, the criterion per scale; a scale without one is *not judged*.
        reason: for the other roles, why it is not judged, or what measuring it would need.
        explanations: why a verdict came out *fails* or *inconclusive*, keyed ``"<scale>:<verdict>"``.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    sentence: str
    paper_figure: str
    role: Role = "judged"
    criteria: dict[Scale, Criterion] = {}
    reason: str = ""
    explanations: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Claim":
        if self.role == "judged" and not self.criteria:
            raise ValueError(f"claim {self.id}: role is 'judged' but there is no criterion at any scale")
        if self.role != "judged" and (self.criteria or not self.reason):
            raise ValueError(f"claim {self.id}: role {self.role!r} needs a reason and allows no criterion")
        for key in self.explanations:
            scale, _, verdict = key.partition(":")
            if scale not in SCALES or verdict not in ("fails", "inconclusive"):
                raise ValueError(f"claim {self.id}: explanation key {key!r} is not '<scale>:fails|inconclusive'")
        return self


class Judgement(_Frozen):
    """What was decided about one claim, and on which comparisons it rested."""

    verdict: Verdict
    criterion: str = ""
    because: str = ""
    explanation: str = ""


def judge(claim: Claim, scale: Scale, measurements: Sequence[Measurement], unjudged: str = "") -> Judgement:
    """Judge a claim from its measurements.

    Args:
        claim: the claim with its criteria.
        scale: the scale at which the measurements were made.
        measurements: what was measured for this claim.
        unjudged: if not empty, the reason why nothing may be judged (for example a changed config).

    Raises:
        InputError: the criterion names a measurement that was not made.
    """
    if claim.role != "judged":
        return Judgement(verdict=claim.role, because=claim.reason)
    criterion = claim.criteria.get(scale)
    if criterion is None:
        return Judgement(verdict="not judged", because=f"no criterion at scale {scale}")
    if unjudged:
        return Judgement(verdict="not judged", criterion=str(criterion), because=unjudged)
    measured = {m.name: m for m in measurements}
    for atom in criterion.atoms():
        if atom.measurement not in measured:
            made = ", ".join(sorted(measured)) or "none"
            raise InputError(f"claim {claim.id} needs the measurement {atom.measurement!r}; made: {made}")
    verdict = criterion.judge(measured)
    because = "; ".join(_finding(atom, measured[atom.measurement]) for atom in criterion.atoms())
    return Judgement(
        verdict=verdict,
        criterion=str(criterion),
        because=because,
        explanation=claim.explanations.get(f"{scale}:{verdict}", ""),
    )


def _finding(atom: Compare, m: Measurement) -> str:
    outcome = atom.judge({m.name: m})
    interval = "" if m.over == "exact" else f" [{m.low:.3g}, {m.high:.3g}]"
    return f"{m.name} = {m.value:.3g}{interval}, asked {_SYMBOL[atom.op]} {atom.bound:g}: {outcome}"


def _bracketed(part: Any) -> str:
    return str(part) if isinstance(part, Compare) else f"({part})"


def _extreme(
    parts: Sequence[Criterion], measured: Mapping[str, Measurement], order: tuple[Outcome, ...], rest: Outcome
) -> Outcome:
    outcomes = [part.judge(measured) for part in parts]
    for outcome in order:
        if outcome in outcomes:
            return outcome
    return rest
