"""Provenance: what a run was measured on. No host names, no paths."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PACKAGES = ("superpose", "torch", "transformers", "numpy", "scipy", "scikit-learn")


class Environment(BaseModel):
    """The machine and the versions of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory_gib: int
    gpu: str = ""
    system: str
    python: str
    packages: dict[str, str]


class Provenance(BaseModel):
    """Which code made a run: shown beside it, never part of its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str = ""
    dirty: bool = False
    source: str


def environment(device: str) -> Environment:
    """Describe this machine and the libraries that decide a result."""
    gpu = ""
    if device.startswith("cuda"):
        import torch

        gpu = torch.cuda.get_device_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Environment(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(memory / 2**30),
        gpu=gpu,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
    )


def provenance() -> Provenance:
    """The commit of the checkout this package runs from (empty when installed), and a hash of its source."""
    root = Path(__file__).resolve().parents[1]
    commit, dirty = "", False
    head = _git(root, "rev-parse", "HEAD")
    if head is not None and _git(root, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = head
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", "."))
    return Provenance(commit=commit, dirty=dirty, source=source_hash())


@functools.cache
def source_hash() -> str:
    """A hash of this package's Python source: tells whether code changed since a run."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
