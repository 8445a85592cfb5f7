"""A run as it is stored: config, environment, measurements, verdicts, and the long table of curves."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from superpose.experiment.claim import Judgement, Role, Scale
from superpose.experiment.environment import Environment, Provenance
from superpose.experiment.measurement import Measurement

SCHEMA = 1
NOT_ASKED = "not asked for in this run"

TABLE = pa.schema(
    [
        ("table", pa.string()),  # "curve", or "sample" for single units behind a curve
        ("curve", pa.string()),
        ("arm", pa.string()),
        ("x", pa.float64()),  # null where the axis has categories
        ("label", pa.string()),  # the category, or the unit's name
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)


class ClaimRecord(BaseModel):
    """One claim in a run: the sentence as it stood, what was measured, what was decided."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    id: str
    sentence: str
    paper_figure: str
    role: Role
    measurements: tuple[Measurement, ...] = ()
    judgement: Judgement


class RunRecord(BaseModel):
    """One immutable run of a study.

    Attributes:
        schema_version: of this file.
        id: ``<slug>--<UTC>--<id>``, also the folder's name.
        study: the study's slug.
        scale: the preset it started from.
        preset: whether the config is the preset's (else the claims are not judged).
        changed: the fields that left the preset.
        config: the whole config.
        device: device type.
        started: UTC, ISO 8601.
        seconds: wall time, of which cached steps took none.
        steps_run: steps computed in this run.
        steps_cached: steps read from the cache.
        environment: the machine and versions.
        provenance: the code.
        claims: every claim of the study; those not asked for are *not judged*.
        notes: what the measuring functions had to say, in words.
        tables_sha256: digest of ``tables.parquet``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: Literal[1] = SCHEMA
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+--\d{8}T\d{6}Z--[0-9a-f]{8}$")]
    study: str
    scale: Scale
    preset: bool
    changed: tuple[str, ...] = ()
    config: dict[str, Any]
    device: str
    started: datetime
    seconds: float
    steps_run: int
    steps_cached: int
    environment: Environment
    provenance: Provenance
    claims: tuple[ClaimRecord, ...]
    notes: tuple[str, ...] = ()
    tables_sha256: str

    @property
    def complete(self) -> bool:
        """Whether every claim was asked for in this run."""
        return all(claim.judgement.because != NOT_ASKED for claim in self.claims)


def utc(moment: datetime) -> str:
    """A moment as it stands in a run's id."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
