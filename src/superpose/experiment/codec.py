"""Step outputs on disk: a JSON tree whose arrays stand in safetensors and whose tables stand in parquet.

Never pickle: a cache that other people's runs can fill must not be able to run code.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

_TREE, _ARRAYS, _DIGESTS = "output.json", "arrays.safetensors", "digests.json"
_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")  # what safetensors and numpy share


class CorruptOutput(RuntimeError):
    """A stored step output that does not match its digests, or cannot be read."""


def canonical(value: Any) -> str:
    """One JSON text per value: sorted keys, no white space, exact floats.

    Raises:
        TypeError: the value is not made of None, bool, int, float, str, lists, tuples and string-keyed dicts.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # repr keeps the value exactly and spells nan and inf, which JSON has no words for.
        return {"$float": repr(value)} if value != value or value in (float("inf"), float("-inf")) else value
    if isinstance(value, np.integer | np.floating | np.bool_):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        wrong = [k for k in value if not isinstance(k, str)]
        if wrong:
            raise TypeError(f"dict key {wrong[0]!r} is not a string")
        return {k: _plain(v) for k, v in value.items()}
    raise TypeError(
        f"{type(value).__name__} is not plain data; a step takes config values, seeds, strings, lists and dicts"
    )


def check(value: Any) -> None:
    """Refuse an output that :func:`save` could not write.

    Raises:
        TypeError: it is not made of plain data, numpy arrays, tensors and arrow tables.
    """
    _split(value, {}, {})


def save(value: Any, folder: Path) -> None:
    """Write a step's output into an existing empty folder and flush it to the disk."""
    arrays: dict[str, np.ndarray] = {}
    tables: dict[str, pa.Table] = {}
    tree = _split(value, arrays, tables)
    (folder / _TREE).write_text(json.dumps(tree))
    if arrays:
        save_file(arrays, folder / _ARRAYS)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    digests = {p.name: _sha256(p) for p in sorted(folder.iterdir())}
    (folder / _DIGESTS).write_text(json.dumps(digests))
    for path in (*folder.iterdir(), folder):
        flush(path)


def load(folder: Path) -> Any:
    """Read what :func:`save` wrote, checking every file against its digest.

    Raises:
        CorruptOutput: a file is missing, changed or unreadable.
    """
    try:
        digests = json.loads((folder / _DIGESTS).read_text())
        if digests.keys() | {_DIGESTS} != {path.name for path in folder.iterdir()} or _TREE not in digests:
            raise CorruptOutput(f"{folder.name} does not hold the files its digests name")
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                raise CorruptOutput(f"{folder.name}/{name} does not match its digest")
        tree = json.loads((folder / _TREE).read_text())
        arrays = load_file(folder / _ARRAYS) if _ARRAYS in digests else {}
        return _join(tree, arrays, folder)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        pa.ArrowException,
    ) as error:
        raise CorruptOutput(f"{folder.name} cannot be read: {error}") from error


def flush(path: Path) -> None:
    """Ask the operating system to put a file or a directory on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(value: Any, arrays: dict[str, np.ndarray], tables: dict[str, pa.Table]) -> Any:
    torch = sys.modules.get("torch")  # a tensor can only arrive if somebody has imported torch
    if torch is not None and isinstance(value, torch.Tensor):
        half = value.dtype == torch.bfloat16  # numpy has no such type: its bits travel as int16
        return _put_array("$tensor", _bits(value) if half else _numpy(value), arrays) | {"bfloat16": half}
    if isinstance(value, np.ndarray):
        return _put_array("$array", value, arrays)
    if isinstance(value, pa.Table):
        name = f"t{len(tables)}"
        tables[name] = value
        return {"$table": name}
    if isinstance(value, list | tuple):
        return [_split(v, arrays, tables) for v in value]
    if isinstance(value, dict):
        wrong = [k for k in value if not isinstance(k, str) or k.startswith("$")]
        if wrong:
            raise TypeError(f"a step returned a dict with key {wrong[0]!r}; allowed: strings not starting with $")
        return {k: _split(v, arrays, tables) for k, v in value.items()}
    try:
        return _plain(value)
    except TypeError as error:
        raise TypeError(
            f"a step returned {type(value).__name__}; allowed: plain data, numpy arrays, tensors, arrow tables"
        ) from error


def _put_array(kind: str, value: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if f"{value.dtype.kind}{value.dtype.itemsize}" not in _DTYPES:
        raise TypeError(f"a step returned an array of {value.dtype}; allowed: booleans, integers, floats to 64 bits")
    name = f"a{len(arrays)}"
    arrays[name] = np.ascontiguousarray(value)  # which turns shape [] into [1], so the shape is kept beside it
    return {kind: name, "shape": list(value.shape)}


def _numpy(tensor: Any) -> np.ndarray:
    try:
        return tensor.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"a step returned a tensor of {tensor.dtype}, {tensor.layout}: {error}") from error


def _bits(tensor: Any) -> np.ndarray:
    import torch

    return tensor.detach().cpu().contiguous().view(torch.int16).numpy()


def _join(tree: Any, arrays: dict[str, np.ndarray], folder: Path) -> Any:
    if isinstance(tree, list):
        return [_join(v, arrays, folder) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$float" in tree:
        return float(tree["$float"])
    if "$array" in tree:
        return arrays[tree["$array"]].reshape(tree["shape"])
    if "$table" in tree:
        return pq.read_table(folder / f"{tree['$table']}.parquet")
    if "$tensor" in tree:
        import torch

        tensor = torch.from_numpy(arrays[tree["$tensor"]].reshape(tree["shape"]).copy())
        return tensor.view(torch.bfloat16) if tree["bfloat16"] else tensor
    return {k: _join(v, arrays, folder) for k, v in tree.items()}
