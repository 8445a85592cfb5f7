"""Options that several commands share, so that they read and behave the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STORE = Path("superpose-runs")

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="SUPERPOSE_STORE", help="Folder of runs.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
JobsOption = Annotated[int, typer.Option("--jobs", help="Steps at once, one thread each.")]
EngineOption = Annotated[str, typer.Option("--engine", help="local, ray, or ray://HOST:PORT.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Compute every step again.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def device_of(name: str) -> str:
    """The device type that a ``--device`` value means on this machine.

    Raises:
        InputError: an unknown device, or cuda where there is none.
    """
    from superpose.errors import InputError, choose

    choose("--device", name, ["auto", "cpu", "cuda"])
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise InputError("--device is 'cuda', but torch sees no CUDA device here; allowed: auto, cpu")
    return "cpu"
