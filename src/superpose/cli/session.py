"""What every command that measures prepares, and gives back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from superpose.cli.options import device_of

if TYPE_CHECKING:
    from superpose.experiment import Options


@contextmanager
def prepared(store: Path, *, engine: str, jobs: int, device: str, fresh: bool, quiet: bool) -> Iterator["Options"]:
    """How to run, as the shared options of the command line say it; the engine is closed at the end.

    Raises:
        InputError: an unknown device or engine, no CUDA, fewer than one job, or a store that cannot be written.
    """
    from superpose.experiment import Options, Progress, Store
    from superpose.experiment.engines import engine as make_engine

    options = Options(Store(store), device=device_of(device), progress=Progress(quiet), fresh=fresh)
    options.store.check_writable()  # before Ray is started
    options.engine = make_engine(engine, jobs)
    try:
        yield options
    finally:
        options.engine.close()
