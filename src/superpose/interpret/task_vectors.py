"""Task vectors: the residual stream at the last token of prompts, averaged, mixed, injected and stored."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from superpose.errors import InputError
from superpose.interpret.scoring import encode
from superpose.models.internals import capture_residuals, context_length, num_layers, patch_residual, prefill

FORMAT = "superpose-task-vector-1"
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TaskVector:
    """A task as a direction in a model: mean residual stream at the last prompt token (arXiv 2410.05603, section 6).

    Attributes:
        mean: ``[layers, width]``, float32 on the CPU; row i belongs to block ``layers[i]``.
        layers: the blocks (0-based) after which it was read.
        prompts: how many prompts the mean is over; 0 for combinations of vectors.
        task, family, model: names, for the reader.
        per_prompt: ``[prompts, layers, width]``, the residuals themselves, if they were kept.

    Raises:
        InputError: not one row per layer.
    """

    mean: Float[Tensor, "layers width"]
    layers: tuple[int, ...]
    prompts: int
    task: str = ""
    family: str = ""
    model: str = ""
    per_prompt: Float[Tensor, "prompts layers width"] | None = None

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.mean):
            raise InputError(f"layers has {len(self.layers)} entries; mean has {len(self.mean)} rows, one per layer")

    @classmethod
    def extract(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        layers: Sequence[int] | None = None,
        *,
        task: str = "",
        family: str = "",
        model_name: str | None = None,
        keep_prompts: bool = False,
    ) -> "TaskVector":
        """Average the residual stream after decoder blocks at each prompt's last token.

        Args:
            model: a causal language model in eval mode.
            tokenizer: its tokenizer.
            prompts: demonstrations of one task (or mixture) and a query that ends in the separator; the paper takes
                100 prompts of 15 to 60 demonstrations.
            layers: blocks to read, 0-based; default: all.
            task: name of the task, kept with the vector.
            family: name of its family.
            model_name: default: the name in the model's configuration.
            keep_prompts: keep the residual of each prompt too.

        Raises:
            InputError: no prompts, one longer than the model's context, or a layer out of range.
        """
        wanted = tuple(range(num_layers(model))) if layers is None else tuple(layers)
        residuals = residuals_at_separator(model, tokenizer, prompts, wanted)
        return cls(
            mean=residuals.mean(0),
            layers=wanted,
            prompts=len(prompts),
            task=task,
            family=family,
            model=str(model.config.name_or_path) if model_name is None else model_name,
            per_prompt=residuals if keep_prompts else None,
        )

    def at(self, layer: int) -> Float[Tensor, " width"]:
        """Return the vector after one block.

        Raises:
            InputError: the vector was not read there.
        """
        if layer not in self.layers:
            raise InputError(f"layer is {layer}; this vector was read after layers {', '.join(map(str, self.layers))}")
        return self.mean[self.layers.index(layer)]

    def patch(
        self, model: PreTrainedModel, layer: int, position: int | Int[Tensor, " batch"] = -1
    ) -> AbstractContextManager[None]:
        """Inject the vector while the context lasts: see `superpose.models.patch_residual`.

        Args:
            model: the model it was read from.
            layer: the block after which the residual is replaced.
            position: where in the prompt; default: its last token.

        Raises:
            InputError: the vector was not read at that layer; on entering, a layer or width the model does not have.
        """
        return patch_residual(model, layer, self.at(layer), position)

    @classmethod
    def mix(cls, vectors: Sequence["TaskVector"], weights: Sequence[float]) -> "TaskVector":
        """Return the convex combination of vectors.

        Raises:
            InputError: not one weight per vector, weights negative or not with sum 1, or vectors that differ in
                layers or width.
        """
        shares = [float(weight) for weight in weights]
        if not vectors or len(shares) != len(vectors):
            raise InputError(f"weights has {len(shares)} numbers for {len(vectors)} vectors; give one for each")
        if min(shares) < 0 or not abs(sum(shares) - 1) <= SUM_TOLERANCE:
            raise InputError(
                f"weights is {shares}, with sum {sum(shares):g}; none may be negative and the sum must be 1"
            )
        check_same_model(vectors)
        means = torch.stack([vector.mean for vector in vectors])
        return cls(
            mean=torch.einsum("v,vlw->lw", torch.tensor(shares, dtype=means.dtype), means),
            layers=vectors[0].layers,
            prompts=0,
            task=" + ".join(f"{share:g} {v.task}" for share, v in zip(shares, vectors, strict=True)),
            family=vectors[0].family,
            model=vectors[0].model,
        )

    def save(self, path: str | Path) -> None:
        """Write the vector as one safetensors file, its names and layers in the file's metadata."""
        tensors = {"mean": self.mean.contiguous()}
        if self.per_prompt is not None:
            tensors["per_prompt"] = self.per_prompt.contiguous()
        metadata = {
            "format": FORMAT,
            "layers": json.dumps(self.layers),
            "prompts": str(self.prompts),
            "task": self.task,
            "family": self.family,
            "model": self.model,
        }
        save_file(tensors, Path(path), metadata)

    @classmethod
    def load(cls, path: str | Path) -> "TaskVector":
        """Read a vector written by `save`.

        Raises:
            InputError: no such file, or not a task vector.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"path is {str(path)!r}, but there is no such file")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise InputError(f"path is {str(path)!r}, which is not a safetensors file: {error}") from error
        if metadata.get("format") != FORMAT:
            raise InputError(f"path is {str(path)!r}, a safetensors file that holds no task vector")
        return cls(
            mean=tensors["mean"],
            layers=tuple(json.loads(metadata["layers"])),
            prompts=int(metadata["prompts"]),
            task=metadata["task"],
            family=metadata["family"],
            model=metadata["model"],
            per_prompt=tensors.get("per_prompt"),
        )


def interpolate(vectors: Sequence[TaskVector], path: Sequence[Sequence[float]]) -> list[TaskVector]:
    """Return the convex combinations along a path: one set of weights per point, one weight per vector.

    Raises:
        InputError: as in `TaskVector.mix`, for any of the points.
    """
    return [TaskVector.mix(vectors, weights) for weights in path]


def residuals_at_separator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    layers: Sequence[int] | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "prompts layers width"]:
    """Return the residual stream after decoder blocks at each prompt's last token: float32 on the CPU.

    Prompts of one token length share a forward pass, so nothing is padded.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        prompts: texts that end in the separator.
        layers: blocks to read, 0-based; default: all.
        batch_size: most prompts in one pass; default 8.

    Raises:
        InputError: no prompts, an empty one, one longer than the model's context, or a layer out of range.
    """
    if not prompts:
        raise InputError("prompts is empty; give at least one")
    if layers is not None and not len(layers):
        raise InputError("layers is empty; give at least one, or None for all")
    encoded = [encode(tokenizer, prompt) for prompt in prompts]
    check_prompt_lengths(model, encoded, [0] * len(encoded))
    rows: dict[int, Tensor] = {}
    for group in group_by_length(encoded).values():
        for start in range(0, len(group), batch_size):
            chunk = group[start : start + batch_size]
            ids = torch.tensor([encoded[index] for index in chunk], device=model.device)
            with torch.inference_mode(), capture_residuals(model, layers) as capture:
                prefill(model, ids)
            # A clone made outside: inference tensors could not be saved for a backward pass later.
            rows.update(zip(chunk, capture.residuals.float().cpu().clone(), strict=True))
    return torch.stack([rows[index] for index in range(len(encoded))])


def group_by_length(encoded: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Return token count -> the indices of the prompts that have it, in their order."""
    groups: dict[int, list[int]] = {}
    for index, ids in enumerate(encoded):
        groups.setdefault(len(ids), []).append(index)
    return groups


def check_prompt_lengths(model: PreTrainedModel, encoded: Sequence[Sequence[int]], following: Sequence[int]) -> None:
    """Refuse prompts without tokens, and those that are too long with the tokens that follow them.

    Raises:
        InputError: there is one; the message gives its index.
    """
    limit = context_length(model)
    for index, (ids, more) in enumerate(zip(encoded, following, strict=True)):
        if not len(ids):
            raise InputError(f"prompts[{index}] has no tokens, so there is no position to read or patch")
        if limit is not None and len(ids) + more > limit:
            raise InputError(
                f"prompts[{index}] has {len(ids)} tokens and up to {more} follow; the model's context is {limit}"
            )


def check_same_model(vectors: Sequence[TaskVector]) -> None:
    """Refuse vectors that differ in layers or width.

    Raises:
        InputError: there is one; the message gives its index.
    """
    for index, vector in enumerate(vectors):
        if vector.layers != vectors[0].layers or vector.mean.shape != vectors[0].mean.shape:
            raise InputError(
                f"vectors[{index}] has layers {vector.layers} and width {vector.mean.shape[1]}; vectors[0] has layers "
                f"{vectors[0].layers} and width {vectors[0].mean.shape[1]}: they must be from the same model and layers"
            )
