"""Learners: an embedder, a backbone and a read-out, which together are trained on a task."""

import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.architectures import BackboneSpec
from superpose.models.backbones import Backbone, BackboneState
from superpose.models.context import Context
from superpose.models.mixers.base import GPT2_STD

FORMAT = "superpose.learner"
VERSION = 1
AnyLearner = TypeVar("AnyLearner", bound="Learner")
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@contextmanager
def seeded(seed: int | None):
    """Draw PyTorch's global numbers from ``seed`` and leave the generator as it was; None: do nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class Learner(nn.Module):
    """What continuous and token learners share: the backbone, and saving and loading."""

    registry: ClassVar[dict[str, type["Learner"]]] = {}

    def __init_subclass__(cls) -> None:
        Learner.registry[cls.__name__] = cls

    def __init__(self, spec: BackboneSpec, arguments: Mapping[str, Any]):
        super().__init__()
        self.spec = spec
        self.arguments = dict(arguments)
        self.backbone = Backbone(spec)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``, each complete or not at all.

        Args:
            folder: made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "learner": type(self).__name__,
            "spec": self.spec.to_dict(),
            "arguments": self.arguments,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        fresh = {name: folder / f".{name}.{os.getpid()}" for name in (WEIGHTS, CONFIG)}
        save_file(weights, fresh[WEIGHTS])
        fresh[CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, path in fresh.items():
            path.replace(folder / name)

    @classmethod
    def load(cls: type[AnyLearner], folder: str | Path, spec: BackboneSpec | None = None) -> AnyLearner:
        """Read a learner that ``save`` wrote, on the CPU.

        Args:
            folder: the folder given to ``save``.
            spec: the backbone it must have (default: any).

        Raises:
            InputError: not a learner, another kind of learner, another architecture, another version, or weights
                that do not fit.
        """
        folder = Path(folder)
        config = _read_config(folder)
        kind = Learner.registry[config["learner"]]
        if not issubclass(kind, cls):
            raise InputError(f"folder {folder} holds a {kind.__name__}; allowed: {cls.__name__}")
        stored = BackboneSpec.from_dict(config["spec"])
        if spec is not None and stored != spec:
            given, wanted = stored.to_dict(), spec.to_dict()
            differ = "; ".join(
                f"{key} {given[key]!r}, allowed: {wanted[key]!r}" for key in given if given[key] != wanted[key]
            )
            raise InputError(f"folder {folder} holds another architecture: {differ}")
        try:
            learner = kind(stored, **config["arguments"])
        except TypeError as error:
            raise InputError(
                f"folder {folder} has arguments {config['arguments']}; allowed: {kind.__name__}'s"
            ) from error
        try:
            learner.load_state_dict(load_file(folder / WEIGHTS))
        except (RuntimeError, SafetensorError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"folder {folder} has weights that do not fit its {CONFIG}: {reason}") from error
        return cast(AnyLearner, learner)


class ContinuousLearner(Learner):
    """Vectors in, vectors out: a linear read-in, a backbone and a linear read-out.

    Args:
        spec: the backbone.
        in_dim: dimension of an input token.
        out_dim: dimension of a prediction.
        seed: initialise from this seed and leave PyTorch's generator alone (default None: use that generator).

    Raises:
        InputError: a dimension below 1.
    """

    def __init__(self, spec: BackboneSpec, in_dim: int, out_dim: int, *, seed: int | None = None):
        for name, value in (("in_dim", in_dim), ("out_dim", out_dim)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more")
        with seeded(seed):
            super().__init__(spec, {"in_dim": in_dim, "out_dim": out_dim})
            self.read_in = nn.Linear(in_dim, spec.width)
            self.read_out = nn.Linear(spec.width, out_dim)

    def forward(
        self,
        inputs: Float[Tensor, "batch pos dim"],
        ctx: Context | None = None,
        loops: int | None = None,
        grad_loops: int | None = None,
        return_all: bool = False,
        reads: Int[Tensor, " reads"] | None = None,
    ) -> Float[Tensor, "*iterate batch read out"]:
        """Return a prediction at every position (or at ``reads``); the rest is passed to ``Backbone.forward``.

        Raises:
            InputError: inputs of another dimension, or what ``Backbone.forward`` refuses.
        """
        hidden = self.backbone(self._embed(inputs), ctx, loops, grad_loops, return_all, reads)
        return self.read_out(hidden)

    def extend(
        self,
        inputs: Float[Tensor, "batch pos dim"],
        state: BackboneState | None = None,
        padding: Bool[Tensor, "batch pos"] | None = None,
        loops: int | None = None,
    ) -> tuple[Float[Tensor, "batch pos out"], BackboneState]:
        """Continue sequences by some tokens; see ``Backbone.extend``."""
        hidden, state = self.backbone.extend(self._embed(inputs), state, padding, loops)
        return self.read_out(hidden), state

    def _embed(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] != self.read_in.in_features:
            raise InputError(f"inputs have dimension {inputs.shape[-1]}; allowed: {self.read_in.in_features} (in_dim)")
        return self.read_in(inputs)


class TokenLearner(Learner):
    """Token ids in, logits out: an embedding, a backbone and a head without bias.

    Args:
        spec: the backbone.
        vocab: number of tokens.
        tied: whether the head is the embedding (default False).
        line_length: tokens per line; gives every token a learned embedding of its slot in the line and one of the
            line's index (default None: neither). What makes small models learn prompts of fixed-length lines.
        lead: tokens before the first line, which have slots of their own (default 0; 1 for a task hint).
        seed: initialise from this seed and leave PyTorch's generator alone (default None: use that generator).

    Raises:
        InputError: a size below its minimum.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        vocab: int,
        tied: bool = False,
        line_length: int | None = None,
        lead: int = 0,
        *,
        seed: int | None = None,
    ):
        for name, value, least in (("vocab", vocab, 1), ("line_length", line_length, 1), ("lead", lead, 0)):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; allowed: {least} or more")
        self.line_length, self.lead = line_length, lead
        arguments = {"vocab": vocab, "tied": tied, "line_length": line_length, "lead": lead}
        with seeded(seed):
            super().__init__(spec, arguments)
            self.embedding = nn.Embedding(vocab, spec.width)
            self.head = None if tied else nn.Linear(spec.width, vocab, bias=False)
            tables = [self.embedding]
            if line_length is not None:
                self.slots = nn.Embedding(lead + line_length, spec.width)
                self.lines = nn.Embedding(1 + spec.max_positions // line_length, spec.width)
                tables += [self.slots, self.lines]
            for table in (*tables, *filter(None, [self.head])):
                nn.init.normal_(table.weight, std=GPT2_STD)

    def forward(
        self,
        inputs: Int[Tensor, "batch pos"],
        ctx: Context | None = None,
        loops: int | None = None,
        grad_loops: int | None = None,
        return_all: bool = False,
        reads: Int[Tensor, " reads"] | None = None,
    ) -> Float[Tensor, "*iterate batch read vocab"]:
        """Return logits at every position (or at ``reads``); the rest is passed to ``Backbone.forward``.

        Raises:
            InputError: a prompt longer than ``spec.max_positions`` with lines, or what ``Backbone.forward`` refuses.
        """
        places = None if ctx is None else ctx.positions
        if places is None and ctx is not None and ctx.padding is not None:
            places = (ctx.padding.cumsum(1) - 1).clamp(min=0)
        hidden = self.backbone(self._embed(inputs, places), ctx, loops, grad_loops, return_all, reads)
        return self._read(hidden)

    def extend(
        self,
        inputs: Int[Tensor, "batch pos"],
        state: BackboneState | None = None,
        padding: Bool[Tensor, "batch pos"] | None = None,
        loops: int | None = None,
    ) -> tuple[Float[Tensor, "batch pos vocab"], BackboneState]:
        """Continue sequences by some tokens; see ``Backbone.extend``."""
        real = torch.ones_like(inputs) if padding is None else padding
        seen = 0 if state is None else state.seen[:, None]
        embedded = self._embed(inputs, (seen + real.cumsum(1) - 1).clamp(min=0))
        hidden, state = self.backbone.extend(embedded, state, padding, loops)
        return self._read(hidden), state

    def _embed(self, ids: Tensor, places: Tensor | None) -> Tensor:
        embedded = self.embedding(ids)
        if self.line_length is None:
            return embedded
        needed = ids.shape[1] if places is None else int(places.max()) + 1
        if needed > self.spec.max_positions:
            raise InputError(f"the prompt has {needed} positions; allowed: {self.spec.max_positions} (max_positions)")
        if places is None:
            places = torch.arange(needed, device=ids.device)
        inside = places - self.lead
        slot = torch.where(inside < 0, places, self.lead + inside % self.line_length)
        line = (inside // self.line_length).clamp(min=0)
        return embedded + self.slots(slot) + self.lines(line)

    def _read(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)


def load_learner(folder: str | Path, spec: BackboneSpec | None = None) -> Learner:
    """Read a learner of whichever kind the folder holds; see ``Learner.load``."""
    return Learner.load(folder, spec)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"folder is {folder}; allowed: a folder that Learner.save wrote ({CONFIG}: {error})"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"folder {folder} has a {CONFIG} that is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"folder {folder} holds no {FORMAT}; allowed: a folder that Learner.save wrote")
    if config.get("version") != VERSION:
        raise InputError(f"folder {folder} has format version {config.get('version')!r}; allowed: {VERSION}")
    choose(f"learner in {folder}", config.get("learner"), Learner.registry)
    for key in ("spec", "arguments"):
        if not isinstance(config.get(key), dict):
            raise InputError(f"folder {folder} has {key} {config.get(key)!r} in its {CONFIG}; allowed: a mapping")
    return config
