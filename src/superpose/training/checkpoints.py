"""Training checkpoints: one safetensors file that is either the old one or the new one, never half of each."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from superpose.errors import InputError

FORMAT = 1
FILE = "training.safetensors"


def save(folder: Path, identity: dict[str, Any], state: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint under a temporary name, flush it to the disk and rename it into place.

    Args:
        folder: made if it does not exist; holds one checkpoint, the newest.
        identity: what must agree when the checkpoint is read, as plain data.
        state: the step and other plain data that change while training.
        tensors: parameters, optimiser state, random-number state and the history so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": str(FORMAT), "identity": json.dumps(identity), "state": json.dumps(state)}
    write_tensors(folder / FILE, tensors, header)
    return folder / FILE


def write_tensors(final: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is either the old one or the new one, on disk when this returns."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    whole = {name: _whole(tensor) for name, tensor in tensors.items()}
    try:
        save_file(whole, temporary, metadata=metadata)
        _flush(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(final.parent)


def load(folder: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read the checkpoint of a folder; None if there is none yet.

    Returns:
        The state and the tensors, on the CPU.

    Raises:
        InputError: the file is not readable, or was written by another format, model or setting.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _agree(path, header, identity)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"checkpoint is {path}, which cannot be read ({error}); delete it to start anew") from error
    return json.loads(header["state"]), tensors


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous()
    # safetensors refuses views of a larger buffer, such as parameters that share one.
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _agree(path: Path, header: dict[str, str], identity: dict[str, Any]) -> None:
    if header.get("format") != str(FORMAT):
        raise InputError(
            f"checkpoint is {path}, of format {header.get('format')}; allowed: {FORMAT}. Delete it to start anew"
        )
    stored, wanted = json.loads(header["identity"]), json.loads(json.dumps(identity))
    for key in sorted(stored.keys() | wanted.keys()):
        if stored.get(key) != wanted.get(key):
            raise InputError(
                f"checkpoint is {path}, written with {key} {_short(stored.get(key))} but this run has"
                f" {_short(wanted.get(key))}; give the same settings or another folder"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors; the settings are not in it, they are the run's own."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser/{index}/{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put :func:`optimiser_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
