"""The command line. Thin: it parses, calls, prints."""

import sys

from superpose.cli.app import app
from superpose.cli.failures import BAD_USAGE, FAILED, INTERRUPTED, Failed, say
from superpose.errors import InputError


def main() -> None:
    """Run the command line and exit: 0 all ran, 1 something failed, 2 bad usage, 130 interrupted."""
    sys.exit(_run())


def _run() -> int:
    import click

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
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: every finished step is kept; the same command goes on from there")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is left to say.
        sys.stderr.close()
        return 0
    return int(code or 0)
