"""Where everything that can be recomputed or fetched again is kept."""

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the root of the user's cache: ``$SUPERPOSE_CACHE``, or the platform's own place for caches.

    The folder is not created here.
    """
    override = os.environ.get("SUPERPOSE_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("superpose"))


def dictionaries_dir() -> Path:
    """Return where trained key-value dictionaries are kept, one folder each; it may not exist yet."""
    return cache_dir() / "dictionaries"
