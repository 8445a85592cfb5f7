"""The store: a folder of immutable runs, each renamed in once."""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from superpose.errors import InputError
from superpose.experiment.codec import flush
from superpose.experiment.record import NOT_ASKED, TABLE, RunRecord

LIMIT = 1_000_000  # bytes a run may take, so that results can be committed
_STALE = 24 * 3600  # seconds after which a dead writer's partial folder is swept


@dataclass(frozen=True)
class StoredRun:
    """A run and its table, as read from a store."""

    record: RunRecord
    folder: Path

    def tables(self) -> pa.Table:
        """Curves and samples, schema :data:`superpose.experiment.record.TABLE`."""
        return pq.read_table(self.folder / "tables.parquet", schema=TABLE)


class Store:
    """A folder of runs.

    Args:
        root: the folder; it is created by the first run that is saved.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Refuse early, before long work, if a run could not be saved here; leaves nothing behind.

        Raises:
            InputError: the folder cannot be created or written.
        """
        existing = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        try:
            probe = existing / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise InputError(
                f"--store {str(self.root)!r} is not writable ({error.strerror}); allowed: a folder you can write"
            ) from error

    def save(self, record: RunRecord, tables: pa.Table) -> Path:
        """Write a run under a temporary name, flush it, and rename it in.

        Raises:
            InputError: the store is not writable, or the run is larger than 1 MB.
        """
        self.check_writable()
        self.root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        partial = self.root / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            pq.write_table(tables, partial / "tables.parquet", compression="zstd")
            digest = _sha256(partial / "tables.parquet")
            final = record.model_copy(update={"tables_sha256": digest})
            (partial / "run.json").write_text(final.model_dump_json(indent=1) + "\n", encoding="utf-8")
            size = sum(path.stat().st_size for path in partial.iterdir())
            if size > LIMIT:
                raise InputError(f"the run takes {size} bytes; allowed: {LIMIT}; keep fewer samples or curve points")
            for path in (*partial.iterdir(), partial):
                flush(path)
            target = self.root / record.id
            partial.rename(target)
            flush(self.root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def runs(self) -> tuple[list[StoredRun], list[str]]:
        """Every valid run, oldest first, and one sentence for each folder that is not one."""
        found: list[StoredRun] = []
        problems: list[str] = []
        for folder in self._folders():
            try:
                found.append(self.read(folder))
            except (OSError, ValueError) as error:
                problems.append(f"skipped {folder.name}: {_first_line(error)}")
        return sorted(found, key=lambda run: (run.record.started, run.record.id)), problems

    def read(self, folder: Path) -> StoredRun:
        """One run.

        Raises:
            OSError: a file is missing or cannot be read.
            ValueError: it is not an intact run.
        """
        return StoredRun(_read(folder), folder)

    def _folders(self) -> Iterator[Path]:
        if not self.root.exists():
            return
        try:
            entries = sorted(self.root.iterdir())
        except OSError as error:
            raise InputError(f"--store {str(self.root)!r} cannot be read ({error.strerror})") from error
        for path in entries:
            if path.name.startswith(".") or not path.is_dir():
                continue
            if "--" in path.name or (path / "run.json").exists():  # anything that looks like a run
                yield path

    def _sweep(self) -> None:
        for partial in self.root.glob(".partial-*"):
            try:
                if time.time() - partial.stat().st_mtime > _STALE:
                    shutil.rmtree(partial, ignore_errors=True)
            except FileNotFoundError:
                continue  # its writer finished meanwhile


def newest(runs: Iterable[StoredRun]) -> dict[tuple[str, str, str], StoredRun]:
    """The run to show per (study, scale, claim): of those that were asked for the claim, the newest.

    A preset run goes before one that left the preset. A claim that was never asked for is not in the answer, nor is
    one that the study had lost by its newest run. Claims stand in that run's order.
    """
    latest: dict[tuple[str, str], StoredRun] = {}
    best: dict[tuple[str, str, str], StoredRun] = {}
    for run in sorted(runs, key=_rank):
        key = (run.record.study, run.record.scale)
        latest[key] = run
        best.update({(*key, claim.id): run for claim in run.record.claims if claim.judgement.because != NOT_ASKED})
    return {
        (*key, claim.id): best[(*key, claim.id)]
        for key, run in latest.items()
        for claim in run.record.claims
        if (*key, claim.id) in best
    }


def _rank(run: StoredRun) -> tuple[bool, datetime, str]:
    return run.record.preset, run.record.started, run.record.id


def _read(folder: Path) -> RunRecord:
    try:
        record = RunRecord.model_validate_json((folder / "run.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "run.json"
        raise ValueError(f"{where}: {first['msg']}") from error
    if record.id != folder.name:
        raise ValueError(f"run.json says it is {record.id}")
    if _sha256(folder / "tables.parquet") != record.tables_sha256:
        raise ValueError("tables.parquet does not match its digest")
    if not pq.read_schema(folder / "tables.parquet").equals(TABLE):
        raise ValueError("tables.parquet has other columns than a run's")
    return record


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
