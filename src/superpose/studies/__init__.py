"""Studies: one package per paper, found by its name. A study module imports no torch; its steps do."""

import functools
import importlib
import pkgutil

from superpose.errors import InputError
from superpose.experiment.study import Study


@functools.cache
def all_studies() -> dict[str, Study]:
    """Every study of this package by slug, in the order of their slugs."""
    found: dict[str, Study] = {}
    for package in sorted(pkgutil.iter_modules(__path__), key=lambda p: p.name):
        if package.ispkg:
            study = importlib.import_module(f"{__name__}.{package.name}.study").study
            found[study.slug] = study
    return found


def get_study(slug: str) -> Study:
    """The study of that slug.

    Raises:
        InputError: there is none; the message lists those that exist.
    """
    studies = all_studies()
    if slug not in studies:
        raise InputError(f"study is {slug!r}; allowed: {', '.join(studies)}")
    return studies[slug]
