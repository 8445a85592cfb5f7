"""Evaluations made along a training, kept on disk beside its checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from .checkpoints import write_tensors


class KeptEvaluations:
    """Named tensors that a killed training finds again: it goes on from its checkpoint and passes no point twice.

    Args:
        path: a safetensors file; what it holds is in ``rows``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, Tensor] = load_file(path) if path.exists() else {}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Keep some more; they are on disk when this returns."""
        self.rows |= rows
        write_tensors(self._path, self.rows)
