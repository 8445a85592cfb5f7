"""Running a study: choose the measuring functions, let them measure, judge, and save one immutable run."""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from superpose.errors import InputError, choose
from superpose.experiment.cache import StepCache
from superpose.experiment.claim import Judgement, Scale, judge
from superpose.experiment.engines import Engine, LocalEngine
from superpose.experiment.environment import environment, provenance
from superpose.experiment.measurement import MIN_SEEDS
from superpose.experiment.progress import Progress
from superpose.experiment.record import NOT_ASKED, TABLE, ClaimRecord, RunRecord, utc
from superpose.experiment.run import Run
from superpose.experiment.steps import progress as step_progress
from superpose.experiment.store import Store, StoredRun
from superpose.experiment.study import Study, StudyConfig


@dataclass(frozen=True)
class Plan:
    """A checked request: everything that could be wrong with it has been refused already."""

    study: Study
    scale: Scale
    config: StudyConfig
    changed: tuple[str, ...]
    claims: tuple[str, ...]


def plan(
    study: Study,
    *,
    scale: str = "laptop",
    claims: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Plan:
    """Check a request before any work starts.

    Args:
        study: what to run.
        scale: ``smoke``, ``laptop`` or ``gpu``.
        claims: claim ids; none means all.
        overrides: config fields to change.
        options: field to the name it has for whoever asked; default ``--set FIELD``.

    Raises:
        InputError: an unknown claim, scale or field, a value that is not allowed, fewer than 3 seeds where the preset
            has more, or a claim with a criterion that no function of the study measures.
    """
    config, changed = study.configure(scale, overrides or {}, options)
    every = [claim.id for claim in study.claims]
    for name in claims:
        choose(f"--claims (of {study.slug})", name, every)
    chosen = tuple(name for name in every if not claims or name in claims)
    if scale != "smoke" and "seeds" in changed and config.seeds < MIN_SEEDS:
        raise InputError(
            f"{(options or {}).get('seeds', 'seeds')} is {config.seeds}; allowed at scale {scale}: {MIN_SEEDS} or more"
        )
    measured = {name for measure in study.measures for name in measure.claims}
    for name in chosen:
        if study.claim(name).criteria.get(scale) and name not in measured:  # type: ignore[call-overload]
            raise InputError(f"claim {name} of {study.slug} has a criterion at scale {scale}, but nothing measures it")
    return Plan(study, scale, config, changed, chosen)  # type: ignore[arg-type]  # configure has narrowed scale


@dataclass
class Options:
    """How to run: none of this changes a result.

    Attributes:
        store: where the run is saved.
        cache: finished steps; default the user's cache.
        engine: maps the steps.
        device: device type for the steps.
        progress: shows bars.
        fresh: compute every step again.
    """

    store: Store
    cache: StepCache = field(default_factory=StepCache)
    engine: Engine = field(default_factory=LocalEngine)
    device: str = "cpu"
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    fresh: bool = False


def run_study(request: Plan, options: Options) -> StoredRun:
    """Measure, judge and save.

    Killed at any instant, it loses no finished step; called again, it goes on from there.

    Raises:
        InputError: the store is not writable, or a method refused its input.
        StepFailed: a step raised; nothing is saved, finished steps are kept.
    """
    study, store, progress = request.study, options.store, options.progress
    store.check_writable()
    # Taken before the work, so that an edit during a long run cannot pass for the code that made it.
    origin = provenance()
    started, clock = datetime.now(UTC), time.monotonic()
    run = Run(
        study,
        request.config,
        request.scale,
        frozenset(request.claims),
        cache=options.cache,
        engine=options.engine,
        device=options.device,
        progress=progress,
        fresh=options.fresh,
    )
    wanted = [m for m in study.measures if set(m.claims) & set(request.claims)]
    with progress:
        token = step_progress.set(progress)
        try:
            for measure in sorted(wanted, key=lambda m: m.exclusive):
                names = ", ".join(c for c in measure.claims if c in request.claims)
                progress.say(names, title=study.slug)
                measure.fn(run)
        finally:
            step_progress.reset(token)
    record = RunRecord(
        id=f"{study.slug}--{utc(started)}--{uuid.uuid4().hex[:8]}",
        study=study.slug,
        scale=request.scale,
        preset=not request.changed,
        changed=request.changed,
        config=request.config.model_dump(mode="json"),
        device=options.device,
        started=started,
        seconds=round(time.monotonic() - clock, 1),
        steps_run=run.steps_run,
        steps_cached=run.steps_cached,
        environment=environment(options.device),
        provenance=origin,
        claims=tuple(_claims(request, run)),
        notes=tuple(run.notes),
        tables_sha256="",
    )
    return store.read(store.save(record, pa.Table.from_pylist(run.rows, schema=TABLE)))


def _claims(request: Plan, run: Run) -> Iterable[ClaimRecord]:
    for claim in request.study.claims:
        measurements = tuple(run.measurements.get(claim.id, {}).values())
        yield ClaimRecord(
            id=claim.id,
            sentence=claim.sentence,
            paper_figure=claim.paper_figure,
            role=claim.role,
            measurements=measurements,
            judgement=_judge(
                request.study,
                claim.id,
                request.scale,
                measurements,
                request.changed,
                claim.id in request.claims,
            ),
        )


def _judge(study: Study, name: str, scale: Scale, measurements: Any, changed: Sequence[str], asked: bool) -> Judgement:
    claim = study.claim(name)
    if claim.role != "unmeasurable" and not asked:
        return Judgement(verdict="not judged", because=NOT_ASKED)
    if claim.role == "judged" and claim.criteria.get(scale) and not measurements:
        raise InputError(f"claim {name} of {study.slug} was asked for, but its function measured nothing")
    return judge(claim, scale, measurements, f"the config left the preset: {', '.join(changed)}" if changed else "")


def rejudge(record: RunRecord, study: Study) -> RunRecord:
    """The record with its claims judged by the study's criteria and explanations of today.

    Claims that are gone from the study, or whose measurements lack what today's criterion asks for, keep the
    judgement they were saved with.
    """
    today = {claim.id: claim for claim in study.claims}
    claims = []
    for old in record.claims:
        claim = today.get(old.id)
        measured = {m.name for m in old.measurements}
        criterion = claim.criteria.get(record.scale) if claim else None
        if (
            claim is None
            or (claim.role != "unmeasurable" and not old.measurements)
            or (criterion is not None and not {atom.measurement for atom in criterion.atoms()} <= measured)
        ):
            claims.append(old)
            continue
        changed = f"the config left the preset: {', '.join(record.changed)}" if record.changed else ""
        claims.append(
            old.model_copy(
                update={
                    "sentence": claim.sentence,
                    "paper_figure": claim.paper_figure,
                    "role": claim.role,
                    "judgement": judge(claim, record.scale, old.measurements, changed),
                }
            )
        )
    return record.model_copy(update={"claims": tuple(claims)})
