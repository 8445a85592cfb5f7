"""Studies: one package per paper, found by its name. A study module imports no torch; its steps do."""

import functools
import importlib
from pathlib import Path

from superpose.errors import InputError
from superpose.experiment.study import Study


def all_studies() -> dict[str, Study]:
    """Every study of this package by slug, in the order of their slugs.

    Raises:
        ImportError: a study cannot be imported.
    """
    return {slug: get_study(slug) for slug in _slugs()}


@functools.cache
def get_study(slug: str) -> Study:
    """The study of that slug; no other one is imported.

    Raises:
        InputError: there is none; the message lists those that exist.
        ImportError: it cannot be imported.
        ValueError: it calls itself otherwise than its package.
    """
    if slug not in _slugs():
        raise InputError(f"study is {slug!r}; allowed: {', '.join(_slugs())}")
    package = slug.replace("-", "_")
    study = importlib.import_module(f"{__name__}.{package}.study").study
    if study.slug != slug:
        raise ValueError(f"the study in the package {package} has the slug {study.slug!r}; allowed: {slug!r}")
    return study


def _slugs() -> list[str]:
    # A package without study.py is one that somebody has only begun.
    return sorted(file.parent.name.replace("_", "-") for root in __path__ for file in Path(root).glob("*/study.py"))
