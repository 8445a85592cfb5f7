"""A study: one paper's claims, configs, figures, and the functions that measure them."""

from collections.abc import Callable
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
        slug: the paper's card name; also the CLI's name of the study.
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

    def configure(self, scale: str, overrides: dict[str, Any]) -> tuple[StudyConfig, tuple[str, ...]]:
        """The preset with overrides, and which fields left it.

        Args:
            scale: ``smoke``, ``laptop`` or ``gpu``.
            overrides: field (dotted for nested models) to value, as text or as typed data.

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
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or ", ".join(overrides)
            raise InputError(f"--set {where} is {first['input']!r}: {first['msg']}") from error
        # More seeds than the preset asks for only sharpen the answer, so they do not leave it.
        changed = tuple(
            name
            for name in type(config).model_fields
            if getattr(config, name) != getattr(base, name) and not (name == "seeds" and config.seeds > base.seeds)
        )
        return config, changed


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
