"""What the report knows about a study, whether its code is here or only its runs are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from superpose.experiment import Figure, Study

Studies = Sequence[Study] | Mapping[str, Study]
"""The studies of today's code: their criteria, sentences and figures."""


def by_slug(studies: Studies) -> dict[str, Study]:
    """The studies by slug, in the order given."""
    return dict(studies) if isinstance(studies, Mapping) else {study.slug: study for study in studies}


@dataclass(frozen=True)
class StudyInfo:
    """A study as a page shows it.

    Attributes:
        slug: the study's name.
        title: the paper's title, or the slug where the study's code is not here.
        paper: authors, venue, number.
        room: the room where its method lives.
        summary: two sentences for a newcomer.
        card: where method and setting are described.
        figures: what to draw; for an unknown study, decided from each run's curves.
        claims: number of claims that today's code declares.
        known: whether the study's code is here.
    """

    slug: str
    title: str
    paper: str = ""
    room: str = ""
    summary: str = ""
    card: str = ""
    figures: tuple[Figure, ...] = ()
    claims: int = 0
    known: bool = False

    @classmethod
    def from_study(cls, study: Study) -> "StudyInfo":
        """The page's view of a study."""
        return cls(
            slug=study.slug,
            title=study.title,
            paper=study.paper,
            room=study.room,
            summary=study.summary,
            card=study.card,
            figures=study.figures,
            claims=len(study.claims),
            known=True,
        )

    @classmethod
    def unknown(cls, slug: str) -> "StudyInfo":
        """For runs whose study is not part of this code, such as measurements of a user's own model."""
        return cls(slug=slug, title=slug, summary="These runs belong to no study of this version of the package.")

    def figures_of(self, tables: pa.Table) -> tuple[Figure, ...]:
        """The figures for one run: those declared whose curves it holds, or one for each of its curves."""
        present = set(tables.column("curve").to_pylist())
        if self.known:
            return tuple(figure for figure in self.figures if present & set(figure.curves))
        return default_figures(tables)


def default_figures(tables: pa.Table) -> tuple[Figure, ...]:
    """One figure per curve: lines along numbers, bars over categories, points where there are only samples."""
    figures = []
    rows = tables.select(["table", "curve", "x"]).to_pylist()
    for number, curve in enumerate(dict.fromkeys(row["curve"] for row in rows)):
        own = [row for row in rows if row["curve"] == curve]
        drawn = [row for row in own if row["table"] == "curve"]
        numeric = _all_numbers(row["x"] for row in drawn)
        figures.append(
            Figure(
                id=f"curve-{number}",
                title=curve,
                kind="scatter" if not drawn else "lines" if numeric else "bars",
                curves=(curve,),
                x_label="x" if _all_numbers(row["x"] for row in own) else "",
                y_label="value",
            )
        )
    return tuple(figures)


def _all_numbers(values: Iterable[float | None]) -> bool:
    return all(value is not None for value in values)
