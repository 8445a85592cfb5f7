"""Figures as data: a study declares them, the report draws them with plotly (site) or matplotlib (PNG)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Figure(BaseModel):
    """One figure, drawn from the curves (or samples) of a run.

    Attributes:
        id: file and anchor name, unique in the study.
        title: one line.
        kind: ``lines`` (a band per arm), ``bars`` (grouped, categories from the label or x), ``stack``
            (shares of a whole along x), ``scatter`` (x against value), ``heatmap`` (a row per arm, a column per
            category, the value as colour and number).
        curves: names of the curves to draw; several become panels side by side (of a heatmap, one below the other).
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        caption: what to see, and what the paper shows in its place.
        claims: the claims this figure belongs to.
        y_range: fixed vertical range, or None; of a heatmap, the range of the colours.
        log_y: logarithmic vertical axis.
        arms: arm id -> printed name; arms not listed are printed by their id.
        panels: curve -> title of its panel.
        value_label: of a heatmap, what the colour shows.
        beside: of a heatmap, curve -> a curve of the same arms and categories that is printed with each cell.
        beside_label: what those numbers are.
        detail: of a heatmap, the figure that a chosen cell opens; ``{row}`` and ``{column}`` in its title and curves
            stand for the cell's arm and category.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    kind: Literal["lines", "bars", "stack", "scatter", "heatmap"] = "lines"
    curves: Annotated[tuple[str, ...], Field(min_length=1)]
    x_label: str
    y_label: str
    caption: str = ""
    claims: tuple[str, ...] = ()
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    arms: dict[str, str] = {}
    panels: dict[str, str] = {}
    value_label: str = ""
    beside: dict[str, str] = {}
    beside_label: str = ""
    detail: "Figure | None" = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Figure":
        if self.kind != "heatmap" and (self.beside or self.detail or self.value_label or self.beside_label):
            raise ValueError(
                f"figure {self.id}: value_label, beside, beside_label and detail are for kind 'heatmap', "
                f"not {self.kind!r}"
            )
        if self.kind == "heatmap" and self.log_y:
            raise ValueError(f"figure {self.id}: kind 'heatmap' has no logarithmic axis")
        if self.detail is not None and self.detail.kind == "heatmap":
            raise ValueError(f"figure {self.id}: the detail of a cell is a heatmap; allowed: any other kind")
        if unknown := set(self.beside) - set(self.curves):
            raise ValueError(f"figure {self.id}: beside names {sorted(unknown)}; allowed: {list(self.curves)}")
        return self

    def detail_of(self, row: str, column: str) -> "Figure | None":
        """The figure that this heatmap's cell opens, or None."""
        if self.detail is None:
            return None

        def told(text: str) -> str:
            # Not str.format: names of arms and categories may hold braces.
            return text.replace("{row}", row).replace("{column}", column)

        return self.detail.model_copy(
            update={
                "title": told(self.detail.title),
                "curves": tuple(told(curve) for curve in self.detail.curves),
                "panels": {told(curve): title for curve, title in self.detail.panels.items()},
            }
        )
