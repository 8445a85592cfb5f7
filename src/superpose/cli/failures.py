"""Exit codes, and how the command line speaks: results on stdout, everything for people on stderr."""

import sys

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


class Failed(RuntimeError):
    """Something that was asked for did not run; the message lists it."""


def say(text: str) -> None:
    """Print a line for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)
