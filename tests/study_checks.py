"""What every study's tests ask of it, in one place."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superpose.experiment import Options, StoredRun, plan, run_study
from superpose.experiment.steps import StepContext, _current
from superpose.studies import get_study


def smoke_claims(
    slug: str, options: Options, undrawn: Collection[str] = (), shortened: Collection[str] = ()
) -> dict[str, Any]:
    """Run a study at smoke scale, check that nothing is missing, and return its claims by their id."""
    return complete_claims(run_study(plan(get_study(slug), scale="smoke"), options), undrawn, shortened)


def complete_claims(
    stored: StoredRun, undrawn: Collection[str] = (), shortened: Collection[str] = ()
) -> dict[str, Any]:
    """Check that a run of a whole study lacks nothing, and return its claims by their id.

    Args:
        stored: the run.
        undrawn: curves that its scale is too small for.
        shortened: claims of which its scale measures only a part of what larger ones are judged on.
    """
    study = get_study(stored.record.study)
    found = {claim.id: claim for claim in stored.record.claims}
    for claim in study.claims:
        measured = {m.name for m in found[claim.id].measurements}
        assert bool(measured) == (claim.role != "unmeasurable"), claim.id
        # What the laptop and the GPU will be judged on is measured at every scale.
        for criterion in () if claim.id in shortened else claim.criteria.values():
            assert {atom.measurement for atom in criterion.atoms()} <= measured, claim.id
    drawn = {row["curve"] for row in stored.tables().to_pylist()}
    for figure in study.figures:
        assert set(figure.curves) - set(undrawn) <= drawn, figure.id
    return found


@contextmanager
def in_step(folder: Path) -> Iterator[None]:
    """A context in which steps can be called as ordinary functions."""
    token = _current.set(StepContext("cpu", 1, folder))
    try:
        yield
    finally:
        _current.reset(token)
