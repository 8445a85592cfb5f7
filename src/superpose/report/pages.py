"""What the pages show, as plain data: the templates only lay it out."""

import json
import math
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import pyarrow as pa

from superpose.experiment import ClaimRecord, Figure, Measurement, RunRecord, StoredRun, Study
from superpose.experiment.claim import SCALES, VERDICTS
from superpose.experiment.environment import source_hash
from superpose.experiment.record import NOT_ASKED
from superpose.report.figures import plotly_figure
from superpose.report.heatmap import choices
from superpose.report.info import Studies, StudyInfo, by_slug
from superpose.report.numbers import interval, jsonable, short
from superpose.report.series import drawing
from superpose.report.verdicts import main_measurements, rejudged, shown

_ICONS = {
    "holds": "✓",
    "fails": "✕",
    "inconclusive": "?",
    "reported": "i",
    "unmeasurable": "\N{EN DASH}",
    "not judged": "○",
}
_OVER = {"seeds": "over seeds", "items": "over prompts or episodes", "proportion": "of trials", "exact": ""}


@dataclass(frozen=True)
class Badge:
    """A verdict as it is shown: a word, a sign and a class, so that colour is never alone."""

    word: str
    icon: str
    css: str


def badge(verdict: str) -> Badge:
    """The badge of a verdict."""
    return Badge(verdict, _ICONS[verdict], verdict.replace(" ", "-"))


@dataclass(frozen=True)
class Number:
    """A measurement in print."""

    name: str
    value: str
    interval: str
    n: int
    how: str
    unit: str
    main: bool


@dataclass(frozen=True)
class Drawn:
    """A figure with its data, ready for the page."""

    anchor: str
    title: str
    caption: str
    claims: tuple[str, ...]
    undrawn: int
    data: dict[str, Any]
    detail: "Detail | None" = None


@dataclass(frozen=True)
class Detail:
    """What the cells of a heat map open: labels of the menus, and the data that the page's script chooses from."""

    label: str
    row_label: str
    column_label: str
    rows: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    data: dict[str, Any]


@dataclass(frozen=True)
class ClaimView:
    """A claim on a page; ``shown`` says whether the tables of verdicts take it from this run."""

    id: str
    anchor: str
    sentence: str
    paper: str
    role: str
    badge: Badge
    criterion: str
    because: tuple[str, ...]
    explanation: str
    numbers: tuple[Number, ...]
    shown: bool
    figures: tuple[Drawn, ...]
    elsewhere: tuple[Drawn, ...]

    @property
    def main(self) -> list[Number]:
        """The measurements that decide."""
        return [number for number in self.numbers if number.main]


@dataclass(frozen=True)
class RunView:
    """A run on a study's page."""

    id: str
    tab: str
    label: str
    scale: str
    started: str
    duration: str
    device: str
    command: str
    claims: tuple[ClaimView, ...]
    figures: tuple[Drawn, ...]
    config: tuple[tuple[str, str, bool], ...]
    environment: tuple[tuple[str, str], ...]
    commit: str
    dirty: bool
    code_changed: bool
    notes: tuple[str, ...]
    changed: tuple[str, ...]
    steps: str


@dataclass(frozen=True)
class StudyView:
    """A study's page."""

    info: StudyInfo
    page: str
    runs: tuple[RunView, ...]
    hidden: int
    counts: tuple[tuple[Badge, int], ...] = field(default=())


def study_views(runs: Sequence[StoredRun], studies: Studies) -> list[StudyView]:
    """A view per study that has runs.

    First the runs from which the table of verdicts takes its claims, per scale the one with most of them first. Then
    runs that answer other questions, newest first: of a known study the newest run of each config that left the
    preset, of an unknown one every run.
    """
    known = by_slug(studies)
    claims: dict[str, list[str]] = {}
    for run, name in shown(runs, known):
        claims.setdefault(run.record.id, []).append(name)
    by_id = {run.record.id: run for run in runs}
    best = [by_id[name] for name in claims]
    views = []
    for number, slug in enumerate(dict.fromkeys(run.record.study for run in best)):
        study = known.get(slug)
        every = [run for run in runs if run.record.study == slug]
        main = [run for run in best if run.record.study == slug]
        main.sort(key=lambda run: (-SCALES.index(run.record.scale), -len(claims[run.record.id])))
        chosen = main + _others(every, main, known=study is not None)
        info = StudyInfo.unknown(slug) if study is None else StudyInfo.from_study(study)
        first = {run.record.scale: run for run in reversed(main)}
        run_views = tuple(
            _run(run, info, study, claims.get(run.record.id, ()), first=first.get(run.record.scale) is run)
            for run in chosen
        )
        counts = Counter(claim.badge for view in run_views for claim in view.claims if claim.shown)
        views.append(
            StudyView(
                info,
                _page(slug, number),
                run_views,
                len(every) - len(chosen),
                tuple((badge(verdict), counts[badge(verdict)]) for verdict in VERDICTS if counts[badge(verdict)]),
            )
        )
    return views


def _others(every: list[StoredRun], main: list[StoredRun], *, known: bool) -> list[StoredRun]:
    if not known:
        return [run for run in reversed(every) if run not in main]
    seen = {_question(run) for run in main}
    found = []
    for run in reversed(every):
        if not run.record.preset and _question(run) not in seen:
            seen.add(_question(run))
            found.append(run)
    return found


def _question(run: StoredRun) -> tuple[str, str]:
    return run.record.scale, json.dumps(run.record.config, sort_keys=True)


def _page(slug: str, number: int) -> str:
    # A run's study is free text, and must never become a path.
    plain = "".join(c for c in slug if c.isascii() and (c.isalnum() or c == "-"))
    return f"{plain}.html" if plain == slug and slug else f"study-{number}-{plain}.html"


def _run(run: StoredRun, info: StudyInfo, study: Study | None, shown: Sequence[str], *, first: bool) -> RunView:
    record = run.record if study is None else rejudged(run.record, [study])
    asked = [claim for claim in record.claims if claim.judgement.because != NOT_ASKED]
    tables = run.tables()
    tab = record.scale if first else record.id.rpartition("--")[2]
    started = record.started.astimezone(UTC)
    what = textwrap.shorten(_plain(record.config[record.changed[0]]), 32, placeholder="…") if record.changed else ""
    if shown and not first:
        what = textwrap.shorten(f"{record.scale}: {', '.join(shown)}", 32, placeholder=" …")
    label = record.scale if first and record.preset else " · ".join(filter(None, (what, f"{started:%d %b %Y %H:%M}")))
    ids = {claim.id for claim in asked}
    figures = [_drawn(figure, tables, tab, ids) for figure in info.figures_of(tables)]
    homes = {figure.anchor: next((c for c in figure.claims if c in ids), "") for figure in figures}
    return RunView(
        id=record.id,
        tab=tab,
        label=label,
        scale=record.scale,
        started=f"{started:%d %B %Y, %H:%M} UTC",
        duration=_duration(record.seconds),
        device=record.device,
        command=_command(record, study) if study is not None else "",
        claims=tuple(_claim(claim, tab, figures, homes, shown=claim.id in shown) for claim in asked),
        figures=tuple(figure for figure in figures if not homes[figure.anchor]),
        config=tuple((name, _plain(value), name in record.changed) for name, value in record.config.items()),
        environment=tuple(_environment(record)),
        commit=record.provenance.commit,
        dirty=record.provenance.dirty,
        code_changed=record.provenance.source != source_hash(),
        notes=record.notes,
        changed=record.changed,
        steps=f"{record.steps_run} steps computed, {record.steps_cached} read from the cache",
    )


def _claim(claim: ClaimRecord, tab: str, figures: list[Drawn], homes: dict[str, str], *, shown: bool) -> ClaimView:
    judgement = claim.judgement
    main = {m.name for m in main_measurements(claim)} if judgement.criterion else set()
    return ClaimView(
        id=claim.id,
        anchor=f"{tab}-{claim.id}",
        sentence=claim.sentence,
        paper=claim.paper_figure,
        role=claim.role,
        badge=badge(judgement.verdict),
        criterion=judgement.criterion,
        # A judged claim's findings are joined by semicolons, one per comparison; a reason is one sentence.
        because=tuple(
            judgement.because.split("; ") if judgement.criterion else [judgement.because] if judgement.because else []
        ),
        explanation=judgement.explanation,
        numbers=tuple(number(m, m.name in main) for m in claim.measurements),
        shown=shown,
        figures=tuple(figure for figure in figures if homes[figure.anchor] == claim.id),
        elsewhere=tuple(f for f in figures if claim.id in f.claims and homes[f.anchor] != claim.id),
    )


def number(m: Measurement, main: bool = False) -> Number:
    """A measurement in print."""
    how = ", ".join(part for part in (m.interval, _OVER[m.over]) if part)
    return Number(m.name, short(m.value), interval(m), m.n, how, m.unit, main)


def _drawn(figure: Figure, tables: pa.Table, tab: str, claims: set[str]) -> Drawn:
    drawn = drawing(figure, tables)
    return Drawn(
        anchor=f"{tab}-figure-{figure.id}",
        title=figure.title,
        caption=figure.caption,
        claims=tuple(claim for claim in figure.claims if claim in claims),
        undrawn=drawn.undrawn,
        data=plotly_figure(figure, tables),
        detail=_detail(figure, tables),
    )


def _detail(figure: Figure, tables: pa.Table) -> Detail | None:
    found = choices(figure, tables)
    if found is None:
        return None
    data = {name: found[name] for name in ("rows", "columns", "title", "opens")}
    data["figures"] = [plotly_figure(spec, tables) for spec in found["specs"]]
    label = f"{found['title'].replace('{row}', figure.y_label).replace('{column}', figure.x_label)}"
    return Detail(
        label=label,
        row_label=found["row_label"],
        column_label=found["column_label"],
        rows=tuple(found["rows"]),
        columns=tuple(found["columns"]),
        data=data,
    )


def _command(record: RunRecord, study: Study) -> str:
    words = ["superpose", "run", record.study, "--scale", record.scale]
    asked = [claim.id for claim in record.claims if claim.judgement.because != NOT_ASKED]
    if not record.complete:
        words += ["--claims", ",".join(asked)]
    for name in record.changed:
        for dotted, value in _leaves(name, record.config.get(name)):
            if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
                return ""  # no command line says this value; a reader finds it in the config
            words += ["--set", f"{dotted}={','.join(map(str, value)) if isinstance(value, list) else value}"]
    preset = study.presets.get(record.scale)
    seeds = record.config.get("seeds")
    # More seeds than the preset's do not count as a change, but they are part of what was run.
    if preset is not None and "seeds" not in record.changed and seeds != study.preset(record.scale).seeds:
        words += ["--seeds", str(seeds)]
    return shlex.join(words)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}", item)
    else:
        yield name, value


def _environment(record: RunRecord) -> Iterator[tuple[str, str]]:
    machine = record.environment
    yield "processor", f"{machine.cpu}, {machine.cores} cores"
    if machine.gpu:
        yield "GPU", machine.gpu
    yield "memory", f"{machine.memory_gib} GiB"
    yield "system", machine.system
    yield "Python", machine.python
    yield from machine.packages.items()


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(jsonable(value), ensure_ascii=False)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.floor(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
