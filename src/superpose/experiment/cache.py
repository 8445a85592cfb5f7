"""The step cache: finished outputs under their keys, unfinished work under file locks.

Layout of ``<cache>/steps``::

    done/<key>/       output.json, arrays.safetensors, digests.json: renamed in once, complete
    work/<key>/       checkpoints of an unfinished step
    locks/<key>.lock  held by the process that computes it

Two processes may share one cache: a step that another process computes is waited for, not computed twice.
"""

import contextlib
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from superpose.cachedir import cache_dir
from superpose.errors import InputError
from superpose.experiment import codec


class CorruptStepWarning(UserWarning):
    """A cached step output was damaged; it is named, removed and computed again."""


class StepCache:
    """Finished step outputs by key.

    Args:
        root: folder of the cache; default ``$SUPERPOSE_CACHE/steps`` or the user's cache folder.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_dir() / "steps"
        self._done, self.work, self._locks = (self.root / name for name in ("done", "work", "locks"))
        try:
            for folder in (self._done, self.work, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the cache folder {str(self.root)!r} cannot be written ({error.strerror}); "
                "set SUPERPOSE_CACHE to a folder of yours"
            ) from error
        if not os.access(self._done, os.W_OK):
            raise InputError(
                f"the cache folder {str(self.root)!r} cannot be written; set SUPERPOSE_CACHE to a folder of yours"
            )

    def get(self, key: str) -> tuple[bool, Any]:
        """``(True, output)`` if the step is done and intact, else ``(False, None)``.

        A damaged output is named in a :class:`CorruptStepWarning` and removed.
        """
        folder = self._done / key
        if not folder.is_dir():
            return False, None
        try:
            return True, codec.load(folder)
        except codec.CorruptOutput as error:
            warnings.warn(f"cached step damaged, computing it again: {error}", CorruptStepWarning, stacklevel=2)
            self.drop(key)
            return False, None

    def put(self, key: str, output: Any) -> Any:
        """Store an output and return it as later readers will see it."""
        partial = self.root / f"partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            codec.save(output, partial)
            try:
                partial.rename(self._done / key)
            except OSError:
                # Another process finished the same pure step first; its output is this one.
                if not (self._done / key).is_dir():
                    raise
            codec.flush(self._done)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.work / key, ignore_errors=True)
        found, value = self.get(key)
        if not found:
            raise RuntimeError(f"step output {key} vanished from the cache while it was being written")
        return value

    def drop(self, key: str) -> None:
        """Forget one output and its checkpoints."""
        doomed = self.root / f"partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):  # another process dropped it first
            (self._done / key).rename(doomed)  # readers see all of it or nothing
        shutil.rmtree(doomed, ignore_errors=True)
        shutil.rmtree(self.work / key, ignore_errors=True)

    def lock(self, key: str) -> FileLock:
        """The lock that the process computing this step holds; freed by the system if that process dies."""
        return FileLock(self._locks / f"{key}.lock")

    def try_lock(self, key: str) -> FileLock | None:
        """The acquired lock, or None if another process is computing this step."""
        lock = self.lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def size(self) -> tuple[int, int]:
        """Number of finished outputs, and bytes used by everything in the cache."""
        files = (path for path in self.root.rglob("*") if path.is_file())
        return sum(1 for _ in self._done.iterdir()), sum(_bytes(path) for path in files)

    def clear(self) -> int:
        """Remove every output and checkpoint that no process is working on; returns how many outputs went."""
        count = 0
        for key in list(self._keys()):
            lock = self.try_lock(key)
            if lock is None:
                continue
            try:
                count += (self._done / key).is_dir()
                self.drop(key)
            finally:
                lock.release()
        for partial in self.root.glob("partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        return count

    def _keys(self) -> Iterator[str]:
        yield from {path.name for folder in (self._done, self.work) for path in folder.iterdir()}


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed between listing and looking
        return 0
