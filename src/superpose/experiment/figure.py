"""Figures as data: a study declares them, the report draws them with plotly (site) or matplotlib (PNG)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Figure(BaseModel):
    """One figure, drawn from the curves (or samples) of a run.

    Attributes:
        id: file and anchor name, unique in the study.
        title: one line.
        kind: ``lines`` (a band per arm), ``bars`` (grouped, categories from the label or x), ``stack``
            (shares of a whole along x), ``scatter`` (x against value).
        curves: names of the curves to draw; several become panels side by side.
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        caption: what to see, and what the paper shows in its place.
        claims: the claims this figure belongs to.
        y_range: fixed vertical range, or None.
        log_y: logarithmic vertical axis.
        arms: arm id -> printed name; arms not listed are printed by their id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    kind: Literal["lines", "bars", "stack", "scatter"] = "lines"
    curves: Annotated[tuple[str, ...], Field(min_length=1)]
    x_label: str
    y_label: str
    caption: str = ""
    claims: tuple[str, ...] = ()
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    arms: dict[str, str] = {}
    panels: dict[str, str] = {}
