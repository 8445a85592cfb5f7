"""Dictionaries of key and value atoms for a model: what Lexico's codes are written in, as data."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from superpose.errors import InputError
from superpose.inference.omp import UNIT_TOLERANCE, omp_stack
from superpose.models.kv_states import kv_sizes, kv_states, text_config

FORMAT = 1
TENSORS, HEADER = "dictionaries.safetensors", "dictionaries.json"
TokenBatch = Tensor | Mapping[str, Tensor]
"""Token ids ``[batch, pos]``, or a mapping with ``input_ids`` and ``attention_mask`` as tokenizers return it."""


@dataclass(frozen=True)
class Dictionaries:
    """One key and one value dictionary per layer of a model, shared by the layer's heads (Lexico, arXiv 2412.08890).

    Attributes:
        keys: unit-norm atoms for keys as the cache holds them, after rotary positions.
        values: unit-norm atoms for values.
        fingerprint: which model they belong to, from `fingerprint`; further entries are information.

    Raises:
        InputError: shapes that differ, or atoms that are not of unit norm.
    """

    keys: Float[Tensor, "layers dim atoms"]
    values: Float[Tensor, "value_layers value_dim value_atoms"]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keys.ndim != 3 or self.keys.shape != self.values.shape:
            raise InputError(
                f"keys has shape {tuple(self.keys.shape)} and values {tuple(self.values.shape)};"
                " allowed: [layers, dim, atoms] for both"
            )
        for name, atoms in (("keys", self.keys), ("values", self.values)):
            off = (torch.linalg.vector_norm(atoms, dim=1, dtype=torch.float32) - 1).abs().max()
            if not bool(off <= UNIT_TOLERANCE):
                raise InputError(f"{name} has an atom whose norm is {float(off):.3g} off 1; allowed: unit-norm atoms")

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return self.keys.shape[0]

    @property
    def dim(self) -> int:
        """Numbers per head."""
        return self.keys.shape[1]

    @property
    def atoms(self) -> int:
        """Atoms per dictionary."""
        return self.keys.shape[2]

    def nbytes(self, bytes_per_number: int = 2) -> int:
        """Bytes of all dictionaries, shared by all sessions of the model (default: held in 16 bits)."""
        return 2 * self.keys.numel() * bytes_per_number

    def stack(self) -> Float[Tensor, "dictionaries dim atoms"]:
        """All dictionaries: the keys' of every layer, then the values'."""
        return torch.cat([self.keys, self.values])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dictionaries":
        """The same dictionaries on another device or in another dtype."""
        return type(self)(self.keys.to(device, dtype), self.values.to(device, dtype), self.fingerprint)

    def check(self, model: PreTrainedModel | PreTrainedConfig) -> None:
        """Make sure that these dictionaries belong to a model.

        Give ``model.config`` instead of the model to use them for a fine-tuned copy: then the weights are not looked
        at. Weights loaded in float16 are not compared either.

        Raises:
            InputError: other layers, heads, head dimension, positions or weights than they were trained for.
        """
        sizes = kv_sizes(model)
        if (self.layers, self.dim) != (sizes.layers, sizes.head_dim):
            raise InputError(
                f"dictionaries are for {self.layers} layers with head dimension {self.dim}; this model has"
                f" {sizes.layers} layers with head dimension {sizes.head_dim}"
            )
        mine = fingerprint(model)
        for name in mine.keys() & self.fingerprint.keys():
            if self.fingerprint[name] != mine[name]:
                raise InputError(
                    f"dictionaries are for a model with {name} {self.fingerprint[name]!r};"
                    f" this model has {mine[name]!r}"
                )

    def save(self, folder: str | Path) -> Path:
        """Write a folder with the atoms (safetensors) and the fingerprint (JSON); an existing one is replaced.

        Raises:
            InputError: the folder holds something else.
        """
        folder = Path(folder)
        self.check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"keys": self.keys.detach().cpu().contiguous(), "values": self.values.detach().cpu().contiguous()}
        # The header, written last, holds the digest of the atoms: half of a save never loads.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            save_file(tensors, Path(scratch) / TENSORS)
            header = {"format": FORMAT, "sha256": _digest(Path(scratch) / TENSORS), "fingerprint": self.fingerprint}
            (Path(scratch) / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
            for name in (TENSORS, HEADER):
                (Path(scratch) / name).replace(folder / name)
        return folder

    @staticmethod
    def check_folder(folder: str | Path) -> None:
        """Make sure, before long work, that `save` may write there.

        Raises:
            InputError: it is a file, or a folder that holds something else.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"folder is {str(folder)!r}, which is a file")
        held = [path.name for path in folder.iterdir()] if folder.exists() else []
        strangers = sorted(name for name in held if name not in (TENSORS, HEADER))
        if strangers:
            raise InputError(f"folder is {str(folder)!r}, which holds {strangers[0]!r}; allowed: a new or empty folder")

    @classmethod
    def load(cls, folder: str | Path) -> "Dictionaries":
        """Read what `save` wrote.

        Raises:
            InputError: not such a folder, or damaged.
        """
        folder = Path(folder)
        for name in (TENSORS, HEADER):
            if not (folder / name).is_file():
                raise InputError(
                    f"dictionary is {str(folder)!r}, which has no {name}; allowed: a folder that was saved"
                )
        try:
            header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
            tensors = load_file(folder / TENSORS)
        except (SafetensorError, ValueError) as error:
            raise InputError(f"dictionary is {str(folder)!r}, which cannot be read: {error}") from error
        if header.get("format") != FORMAT or header.get("sha256") != _digest(folder / TENSORS):
            raise InputError(f"dictionary is {str(folder)!r}, whose {HEADER} and {TENSORS} do not belong together")
        return cls(tensors["keys"], tensors["values"], header["fingerprint"])

    @classmethod
    def random(cls, model: PreTrainedModel | PreTrainedConfig, atoms: int, seed: int = 0) -> "Dictionaries":
        """Gaussian directions for a model: the control that trained atoms must beat.

        Args:
            model: or its configuration.
            atoms: per dictionary.
            seed: of the draw.
        """
        sizes = kv_sizes(model)
        check_atoms(atoms)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(2, sizes.layers, sizes.head_dim, atoms, generator=generator)
        keys, values = functional.normalize(drawn, dim=2)
        return cls(keys, values, {**fingerprint(model), "training": {"init": "random", "steps": 0, "seed": seed}})


def fingerprint(model: PreTrainedModel | PreTrainedConfig) -> dict[str, Any]:
    """Return what must agree between a dictionary and a model: sizes, positions and, of a model, a hash of weights.

    The hash reads the head of every parameter in bfloat16, so that float32 and bfloat16 copies agree.
    """
    config, sizes = text_config(model), kv_sizes(model)
    found: dict[str, Any] = {
        "model_type": config.model_type,
        "layers": sizes.layers,
        "kv_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "rope": _plain(getattr(config, "rope_parameters", None)),
    }
    if isinstance(model, PreTrainedModel) and model.dtype != torch.float16:
        digest = hashlib.sha256()
        for name, parameter in sorted(model.named_parameters()):
            head = parameter.detach().flatten()[:64].to(torch.bfloat16).cpu().view(torch.uint8)
            digest.update(name.encode() + bytes(head.tolist()))
        found["weights"] = digest.hexdigest()[:32]
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_atoms(atoms: int) -> None:
    """Refuse a number of atoms that no 16-bit index can name."""
    if isinstance(atoms, bool) or not 1 <= atoms <= 65536:
        raise InputError(f"atoms is {atoms!r}; allowed: 1 to 65536, what a 16-bit index can name")


def collect_kv(
    model: PreTrainedModel, token_batches: Iterable[TokenBatch], vectors: int | None = None, seed: int = 0
) -> tuple[Float[Tensor, "layers vectors dim"], Float[Tensor, "layers vectors dim"]]:
    """Return keys and values of a model on some text, all heads pooled, padding left out, in float32.

    Args:
        model: a causal language model, in eval mode.
        token_batches: token ids, or mappings with ``input_ids`` and ``attention_mask``.
        vectors: keep at most so many per layer, drawn evenly from the batches; default: all, in the order batch,
            row, token, head.
        seed: of that draw.

    Raises:
        InputError: no batches, an empty batch, or a model whose layers differ in size.
    """
    batches = list(token_batches)
    if not batches:
        raise InputError("token_batches is empty; give at least one batch of token ids")
    if vectors is not None and vectors < 1:
        raise InputError(f"vectors is {vectors}; it must be >= 1, or None for all")
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    found = 0
    for done, batch in enumerate(batches):
        ids, mask = ids_and_mask(batch)
        states = torch.stack(kv_states(model, ids, mask)).float()  # [2, layers, batch, heads, pos, dim]
        tokens = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        flat = states.movedim(3, 4)[:, :, tokens.to(states.device)].flatten(2, 3)
        if vectors is not None:
            quota = -(-(vectors - found) // (len(batches) - done))
            chosen = torch.randperm(flat.shape[2], generator=generator)[:quota]
            flat = flat[:, :, chosen.to(flat.device)]
        found += flat.shape[2]
        parts.append(flat)
    keys, values = torch.cat(parts, dim=2)
    return keys, values


def ids_and_mask(batch: TokenBatch) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
    """The ids of a token batch, and its mask if it has one.

    Raises:
        InputError: not a non-empty matrix of ids, or a mask of another shape.
    """
    ids = batch if isinstance(batch, Tensor) else batch["input_ids"]
    mask = None if isinstance(batch, Tensor) else batch.get("attention_mask")
    if ids.ndim != 2 or not ids.numel() or ids.is_floating_point():
        raise InputError(
            f"a token batch has shape {tuple(ids.shape)} of {ids.dtype}; allowed: non-empty ids [batch, pos]"
        )
    if mask is not None and mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}; the ids have {tuple(ids.shape)}")
    return ids, mask


@dataclass(frozen=True)
class CodingError:
    """Mean relative error of coded vectors, ``||x - x_hat|| / ||x||``, per layer.

    Attributes:
        sparsity: atoms per vector.
        keys: per layer.
        values: per layer.
    """

    sparsity: int
    keys: Float[Tensor, " layers"]
    values: Float[Tensor, " layers"]

    @property
    def key(self) -> float:
        """Mean over layers."""
        return float(self.keys.mean())

    @property
    def value(self) -> float:
        """Mean over layers."""
        return float(self.values.mean())


def evaluate(
    dictionaries: Dictionaries, model: PreTrainedModel, token_batches: Iterable[TokenBatch], sparsities: Sequence[int]
) -> list[CodingError]:
    """Return how well dictionaries code a model's keys and values on some text, one row per sparsity.

    Args:
        dictionaries: of this model.
        model: a causal language model, in eval mode.
        token_batches: as for `collect_kv`, better not the text that the dictionaries were trained on.
        sparsities: atoms per vector.

    Raises:
        InputError: dictionaries of another model, a sparsity out of range, no text.
    """
    dictionaries.check(model)
    states = torch.cat(collect_kv(model, token_batches))
    rows = []
    for sparsity in sparsities:
        errors = relative_errors(dictionaries.stack().to(states.device), states, sparsity).mean(-1).cpu()
        rows.append(CodingError(sparsity, *errors.chunk(2)))
    return rows


def relative_errors(
    stack: Float[Tensor, "dictionaries dim atoms"], states: Float[Tensor, "dictionaries vectors dim"], sparsity: int
) -> Float[Tensor, "dictionaries vectors"]:
    """Return the relative error of each coded vector, 0 for a vector of zeros; coefficients stay float32."""
    codes = omp_stack(states, stack, sparsity)
    rest = torch.linalg.vector_norm(states - codes.decode(stack.float()), dim=-1)
    return rest / torch.linalg.vector_norm(states, dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
