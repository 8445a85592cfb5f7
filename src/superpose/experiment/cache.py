"""The step cache: finished outputs under their keys, unfinished work under file locks.

Layout of ``<cache>/steps``::

    done/<key>/       output.json, arrays.safetensors, digests.json: renamed in once, complete
    work/<key>/       checkpoints of an unfinished step
    partial/<key>--*  outputs being written or removed
    locks/<key>.lock  held by the process that computes it

Two processes may share one cache: a step that another process computes is waited for, not computed twice.
"""

import contextlib
import os
import shutil
import uuid
import warnings
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
        # Absolute, because a worker's current folder may be another one.
        self.root = (root or cache_dir() / "steps").absolute()
        self._done, self.work, self._partial, self._locks = (
            self.root / name for name in ("done", "work", "partial", "locks")
        )
        try:
            for folder in (self._done, self.work, self._partial, self._locks):
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
        while (seen := _inode(folder)) is not None:
            try:
                return True, codec.load(folder)
            except codec.CorruptOutput as error:
                if _inode(folder) != seen:
                    continue  # not damaged: another process removed or replaced it under our hands
                warnings.warn(f"cached step damaged, computing it again: {error}", CorruptStepWarning, stacklevel=2)
                self.drop(key)
        return False, None

    def put(self, key: str, output: Any) -> Any:
        """Store an output and return it as later readers will see it. The caller holds the key's lock."""
        for left in self._partial.glob(f"{key}--*"):  # by a process that was killed here
            shutil.rmtree(left, ignore_errors=True)
        partial = self._new_partial(key)
        partial.mkdir()
        try:
            codec.save(output, partial)
            value = codec.load(partial)
            self._retire(key)
            partial.rename(self._done / key)
            codec.flush(self._done)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.restart(key)
        return value

    def drop(self, key: str) -> None:
        """Forget one output and its checkpoints."""
        self._retire(key)
        self.restart(key)

    def restart(self, key: str) -> None:
        """Forget the checkpoints of an unfinished step."""
        shutil.rmtree(self.work / key, ignore_errors=True)

    def _retire(self, key: str) -> None:
        doomed = self._new_partial(key)
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process removed it first
            (self._done / key).rename(doomed)  # readers see all of it or nothing
        if doomed.is_dir():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink(missing_ok=True)

    def _new_partial(self, key: str) -> Path:
        return self._partial / f"{key}--{uuid.uuid4().hex[:8]}"

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
        # os.walk passes over folders that another process removes meanwhile.
        files = (Path(folder, name) for folder, _, names in os.walk(self.root) for name in names)
        return sum(1 for _ in self._done.iterdir()), sum(_bytes(path) for path in files)

    def clear(self) -> int:
        """Remove every output and checkpoint that no process is working on; returns how many outputs went."""
        count = 0
        for key in self._keys():
            lock = self.try_lock(key)
            if lock is None:
                continue
            try:
                count += (self._done / key).is_dir()
                self.drop(key)
                for left in self._partial.glob(f"{key}--*"):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                lock.release()
        return count

    def _keys(self) -> set[str]:
        folders = (self._done, self.work, self._partial)
        return {path.name.partition("--")[0] for folder in folders for path in folder.iterdir()}


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed between listing and looking
        return 0
