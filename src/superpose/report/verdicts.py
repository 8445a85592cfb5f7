"""Verdict rows: what the command line prints, what scripts read, what the README shows."""

import html
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superpose.errors import InputError
from superpose.experiment import ClaimRecord, Measurement, RunRecord, StoredRun, newest, rejudge
from superpose.experiment.claim import SCALES
from superpose.report.info import Studies, by_slug
from superpose.report.numbers import interval, jsonable, short

BEGIN, END = "<!-- verdicts:begin -->", "<!-- verdicts:end -->"
_SENTENCE = 120  # characters of a sentence in the README's table
_SHOWN = 4  # measurements of a claim in a table's cell


def claims_rows(runs: Sequence[StoredRun], studies: Studies = ()) -> list[dict[str, Any]]:
    """One row per study, scale and claim, from the newest run that was asked for it, judged by today's criteria.

    A run of the preset goes before one that left it. A claim that no run was asked for has no row.

    Rows hold ``study, claim, sentence, paper_figure, role, criterion, measurements, scale, verdict, because,
    explanation, run``; a measurement holds ``name, value, low, high, n, unit, over, interval``. They are valid JSON: an
    infinite number is the string ``"Infinity"`` or ``"-Infinity"``, as in ``run.json``.

    Args:
        runs: as :meth:`superpose.experiment.Store.runs` gives them.
        studies: the studies of today's code; runs of other studies keep the verdicts they were saved with.
    """
    known = by_slug(studies)
    records = {run.record.id: rejudged(run.record, known) for run in runs}
    rows = []
    for run, name in shown(runs, known):
        record = records[run.record.id]
        rows.append(_row(record, next(claim for claim in record.claims if claim.id == name)))
    return rows


def shown(runs: Sequence[StoredRun], studies: Studies = ()) -> list[tuple[StoredRun, str]]:
    """What every table of verdicts shows: a run and the id of one of its claims per row.

    Studies come in the order given, then unknown ones; larger scales first; claims in their study's order.
    """
    order = {slug: at for at, slug in enumerate(by_slug(studies))}
    best = newest(runs)
    keys = sorted(best, key=lambda key: (order.get(key[0], len(order)), key[0], -SCALES.index(key[1])))  # type: ignore[arg-type]
    return [(best[key], key[2]) for key in keys]


def rejudged(record: RunRecord, studies: Studies) -> RunRecord:
    """The record with today's verdicts where its study is known, else as it was saved."""
    study = by_slug(studies).get(record.study)
    return record if study is None else rejudge(record, study)


def main_measurements(claim: ClaimRecord) -> list[Measurement]:
    """The measurements that the criterion names, in its order; without a criterion, all of them."""
    return _main(claim.judgement.criterion, claim.measurements)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table: study, claim, sentence, paper, measured, verdict."""
    lines = ["| study | claim | | paper | measured | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [
            row["study"],
            f"**{_cell(row['claim'])}**",
            _cell(textwrap.shorten(row["sentence"], _SENTENCE, placeholder=" …")),
            _cell(textwrap.shorten(row["paper_figure"], _SENTENCE, placeholder=" …")),
            _measured(row),
            f"**{row['verdict']}**" if row["verdict"] in ("holds", "fails", "inconclusive") else row["verdict"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def update_readme(path: Path, rows: Sequence[dict[str, Any]], check: bool = False) -> bool:
    """Put the verdict table between the README's markers.

    Args:
        path: the Markdown file, with one ``<!-- verdicts:begin -->`` before one ``<!-- verdicts:end -->``.
        rows: from :func:`claims_rows`.
        check: only look, write nothing.

    Returns:
        Whether the table in the file was stale.

    Raises:
        InputError: the file cannot be read, or the markers are missing, repeated or in the wrong order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"README {str(path)!r} cannot be read ({error.strerror})") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"README {str(path)!r} needs one {BEGIN} and, after it, one {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}\n{markdown_table(rows)}\n{END}{tail}"
    stale = fresh != text
    if stale and not check:
        path.write_text(fresh, encoding="utf-8")
    return stale


def _row(record: RunRecord, claim: ClaimRecord) -> dict[str, Any]:
    judgement = claim.judgement
    row = {
        "study": record.study,
        "claim": claim.id,
        "sentence": claim.sentence,
        "paper_figure": claim.paper_figure,
        "role": claim.role,
        "criterion": judgement.criterion,
        "measurements": [m.model_dump() for m in claim.measurements],
        "scale": record.scale,
        "verdict": judgement.verdict,
        "because": judgement.because,
        "explanation": judgement.explanation,
        "run": record.id,
    }
    return jsonable(row)


def _main(criterion: str, measurements: Sequence[Measurement]) -> list[Measurement]:
    made = {m.name: m for m in measurements}
    # Brackets and spaces never occur in a measurement's name, so they part the criterion's words.
    words = re.split(r"[\s()]+", criterion)
    return [made[word] for word in dict.fromkeys(words) if word in made] or list(measurements)


def _measured(row: dict[str, Any]) -> str:
    every = [Measurement.model_validate(m) for m in row["measurements"]]
    named = _main(row["criterion"], every)
    parts = [f"{_cell(m.name)} {short(m.value)} {interval(m)}".rstrip() for m in named[:_SHOWN]]
    if len(named) > _SHOWN:
        parts.append(f"{len(named) - _SHOWN} more")
    return "<br>".join(parts)


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return html.escape(flat, quote=False).replace("|", "\\|")
