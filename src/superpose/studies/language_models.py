"""Which pretrained models a study can measure here, and how it names them."""

from collections.abc import Iterable

from superpose.experiment import Run
from superpose.models.pretrained.fetch import get, is_cached
from superpose.models.pretrained.registry import find_registered


def available(run: Run, model: str, others: Iterable[str] = ()) -> list[str]:
    """The main model, fetched now if it has to be, where a person can see it, and those others that are here.

    Others that would have to be fetched are left out, and the run notes which.

    Raises:
        InputError: the main model's licence is still to be accepted.
        FetchError: the download failed.
    """
    if find_registered(model) is not None and not is_cached(model):
        get(model, progress=run.say)
    found = [model]
    for name in others:
        if find_registered(name) is None or is_cached(name):
            found.append(name)
            continue
        note = f"{name} is not in the cache and was left out; fetch it with: superpose models get {name}"
        if note not in run.notes:
            run.note(note)
    return found


def short(model: str) -> str:
    """A model's name as it stands in measurement names and legends."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower().split("-instruct")[0].split("-q4")[0]
    return "".join(ch if ch.isascii() and (ch.isalnum() or ch in "_.-") else "-" for ch in name)
