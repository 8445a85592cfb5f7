"""The command line. Thin: it parses, calls, prints."""

import os
import sys
from typing import Any

from superpose.cli.app import app
from superpose.cli.failures import BAD_USAGE, FAILED, INTERRUPTED, Failed, say
from superpose.errors import InputError


def main() -> None:
    """Run the command line and exit: 0 all ran, 1 something failed, 2 bad usage, 130 interrupted."""
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is left to say, also not when Python flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        code = 0
    sys.exit(code)


def _run() -> int:
    import warnings

    import click

    # joblib replaces a worker whose memory has grown, as it does when a step loads a model; no step is lost by it.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    warnings.showwarning = _warn_once()
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return BAD_USAGE
    except InputError as error:
        say(f"error: {error}")
        return BAD_USAGE
    except Failed as error:
        say(f"failed: {error}")
        return FAILED
    except _expected() as error:
        say(f"failed: {' '.join(str(error).split())}")
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: every finished step is kept; the same command goes on from there")
        return INTERRUPTED
    except SystemExit as stop:
        # So click and rich say that they wrote into a closed pipe.
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise
    return int(code or 0)


def _expected() -> tuple[type[Exception], ...]:
    """What may go wrong in correct code: a step or a download. Where its module was not loaded, nothing raised it."""
    places = (("superpose.experiment.run", "StepFailed"), ("superpose.models.pretrained.fetch", "FetchError"))
    return tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)


def _warn_once() -> Any:
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in said:
            said.add(text)
            say(f"warning: {text}")

    return show
