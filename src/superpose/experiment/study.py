"""A study: one paper's claims, configs, figures, and the functions that measure them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from superpose.errors import InputError, choose
from superpose.experiment.claim import SCALES, Claim, Scale
from superpose.experiment.figure import Figure


class StudyConfig(BaseModel):
    """Base of every study's config: strict, closed, immutable.

    Attributes:
        seeds: number of independent seeds, numbered from 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: Annotated[int, Field(ge=1)] = 3


F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True)
class Measure:
    """A function that measures some claims; it imports its steps when it runs, so that a study stays light."""

    fn: Callable[..., None]
    claims: tuple[str, ...]
    exclusive: bool


@dataclass
class Study:
    """One paper as a study.

    Attributes:
        slug: the study's name, on the command line and in results.
        title: the paper's title.
        room: the room where its method lives.
        paper: authors, venue, arXiv number.
        card: where its method, setting and pitfalls are described.
        summary: two sentences for a newcomer.
        config: the config class.
        presets: per scale, the fields that differ from the config's defaults.
        claims: every claim of the paper.
        figures: what the report draws.
    """

    slug: str
    title: str
    room: str
    paper: str
    card: str
    summary: str
    config: type[StudyConfig]
    presets: dict[Scale, dict[str, Any]]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...] = ()
    measures: list[Measure] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) != len(ids):
            raise ValueError(f"study {self.slug}: claim ids repeat: {ids}")
        for figure in self.figures:
            if not set(figure.claims) <= set(ids):
                raise ValueError(f"study {self.slug}: figure {figure.id} names claims {figure.claims}; allowed: {ids}")

    def measured_by(self, *claims: str, exclusive: bool = False) -> Callable[[F], F]:
        """Register the decorated function as the one that measures these claims.

        Args:
            claims: ids of judged or reported claims of this study.
            exclusive: it times things: it runs after all others.
        """
        for claim in claims:
            self.claim(claim)

        def register(fn: F) -> F:
            self.measures.append(Measure(fn, claims, exclusive))
            return fn

        return register

    def claim(self, name: str) -> Claim:
        """The claim of that id.

        Raises:
            InputError: there is none.
        """
        choose(f"claim of {self.slug}", name, [claim.id for claim in self.claims])
        return next(claim for claim in self.claims if claim.id == name)

    def preset(self, scale: str) -> StudyConfig:
        """The config of a scale.

        Raises:
            InputError: the study has no such scale.
        """
        choose("--scale", scale, [s for s in SCALES if s in self.presets])
        return self.config(**self.presets[scale])  # type: ignore[index]  # choose has narrowed it

    def configure(
        self, scale: str, overrides: dict[str, Any], options: Mapping[str, str] | None = None
    ) -> tuple[StudyConfig, tuple[str, ...]]:
        """The preset with overrides, and which fields left it.

        Args:
            scale: ``smoke``, ``laptop`` or ``gpu``.
            overrides: field (dotted for nested models) to value, as text or as typed data.
            options: field to the name it has for whoever asked, in messages; default ``--set FIELD``.

        Raises:
            InputError: unknown scale or field, a wrong type, or a value out of range.
        """
        base = self.preset(scale)
        tree = base.model_dump()
        for dotted, value in overrides.items():
            _assign(self.config, tree, dotted, value)
        try:
            config = self.config.model_validate(tree)
        except ValidationError as error:
            raise InputError(_sentence(error, overrides, options or {})) from error
        # More seeds than the preset asks for only sharpen the answer, so they do not leave it.
        changed = tuple(
            name
            for name in type(config).model_fields
            if getattr(config, name) != getattr(base, name) and not (name == "seeds" and config.seeds > base.seeds)
        )
        return config, changed


_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "values with commas between them",
    "list_type": "values with commas between them",
}
_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}


def _sentence(error: ValidationError, overrides: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The first thing that is wrong, in the words of this package rather than pydantic's."""
    first = error.errors()[0]
    if not first["loc"]:  # a rule over several fields
        named = ", ".join(options.get(name, f"--set {name}") for name in overrides)
        return f"{named}: {_reason(first)}"
    where = ".".join(str(part) for part in first["loc"])
    head, _, rest = where.partition(".")
    option = options.get(head, f"--set {head}") + (f".{rest}" if rest else "")
    allowed = _allowed(first["type"], first.get("ctx", {}))
    return f"{option} is {first['input']!r}" + (f"; allowed: {allowed}" if allowed else f": {_reason(first)}")


def _allowed(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _WANTED:
        return _WANTED[kind]
    if kind == "literal_error":
        return str(context["expected"]).replace(" or ", ", ").replace("'", "")
    if kind == "string_pattern_mismatch":
        words = re.fullmatch(r"\^\(([\w.|-]+)\)\$", str(context["pattern"]))
        return words[1].replace("|", ", ") if words else f"text that matches {context['pattern']}"
    if kind == "too_short":
        return f"{context['min_length']} or more values"
    if kind == "too_long":
        return f"{context['max_length']} or fewer values"
    return " and ".join(text.format(context[name]) for name, text in _BOUNDS.items() if name in context)


def _reason(error: Any) -> str:
    raised = error.get("ctx", {}).get("error")
    return str(raised) if isinstance(raised, ValueError) else error["msg"]


def _assign(model: type[BaseModel], tree: dict[str, Any], dotted: str, value: Any) -> None:
    name, _, rest = dotted.partition(".")
    if name not in model.model_fields:
        raise InputError(f"--set {dotted} names no config field; allowed: {', '.join(model.model_fields)}")
    annotation = model.model_fields[name].annotation
    if rest:
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise InputError(f"--set {dotted}: {name} has no fields of its own")
        _assign(annotation, tree[name], rest, value)
        return
    if isinstance(value, str) and isinstance(tree[name], list | tuple | dict):
        # "a,b,c" is how a person writes a list on a command line.
        tree[name] = [part.strip() for part in value.split(",") if part.strip()]
    else:
        tree[name] = value
