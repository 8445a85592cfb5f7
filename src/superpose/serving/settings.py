"""What the HTTP application is told about the world around it."""

from dataclasses import dataclass
from pathlib import Path

from superpose.errors import InputError


@dataclass(frozen=True)
class ServerSettings:
    """Limits and names of one server.

    Attributes:
        names: what clients may call the model, the first of them its own name.
        api_keys: requests must carry one of them; none: everybody may ask.
        timeout: seconds from a request's arrival to its complete answer.
        max_tokens: most tokens that a request may ask for.
        max_body: most bytes of a request's body.
        drain: seconds that running requests are given at shutdown.

    Raises:
        InputError: no name, an empty key, or a limit that is not positive.
    """

    names: tuple[str, ...]
    api_keys: tuple[str, ...] = ()
    timeout: float = 300.0
    max_tokens: int = 4096
    max_body: int = 2**20
    drain: float = 30.0

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise InputError(f"names is {self.names}; allowed: one or more names, none of them empty")
        if not all(self.api_keys):
            raise InputError("api_keys holds an empty key; allowed: keys of one character or more")
        for name in ("timeout", "max_tokens", "max_body", "drain"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; allowed: above 0, finite")


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in a file, one per line; empty lines and lines that begin with ``#`` do not count.

    Raises:
        InputError: the file cannot be read, or holds no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file is {str(path)!r}, which cannot be read: {error}") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not keys:
        raise InputError(f"--api-key-file is {str(path)!r}, which holds no key; allowed: one key per line")
    return keys
