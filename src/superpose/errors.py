"""The one exception for wrong input, and the check for optional dependencies."""

import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """Wrong input, found before long work starts: the message names the argument, its value and what is allowed.

    The command line turns it into one sentence on stderr and exit code 2.
    """


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which pip command installs it.

    Args:
        module: name of the module to import, for example ``"duckdb"``.
        extra: the extra of this package that brings it, for example ``"report"``.

    Raises:
        InputError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise InputError(
            f"this needs the package {error.name!r}, which is not installed: pip install 'superpose[{extra}]'"
        ) from error


def choose(argument: str, value: object, allowed: Iterable[object]) -> None:
    """Refuse a value that is not one of the allowed ones, naming all three.

    Raises:
        InputError: ``value`` is not in ``allowed``.
    """
    options = list(allowed)
    if value not in options:
        listed = ", ".join(map(str, options)) or "none"
        raise InputError(f"{argument} is {value!r}; allowed: {listed}")
