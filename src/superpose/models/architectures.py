"""Declarative backbones: a specification of every choice, and named architectures that are a line each."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from superpose.errors import InputError, choose
from superpose.models.blocks import MLP_NAME
from superpose.models.mixers import MIXERS
from superpose.models.mixers.base import divide, mixer_knobs


@dataclass(frozen=True)
class BackboneSpec:
    """Everything that defines a backbone, as data that can be hashed, stored and compared.

    Args:
        name: what tables call it.
        layout: mixer names and ``"mlp"``, in order; the body of the loop.
        width: channels of the residual stream.
        heads: attention heads (default 4); must divide the width if a mixer of the layout has heads.
        loops: times the body is applied with shared weights (default 1).
        injection: how the input enters every pass after the first: ``"add"``, ``"mul"`` (arXiv 2311.12424), or not.
        positions: ``"learned"`` table added at the start of every pass (default), ``"rope"`` inside attention, or
            ``"none"``.
        max_positions: length of the learned table; a longer prompt is an error (default 512).
        mlp_ratio: hidden units of the MLP per channel (default 4).
        norm: ``"layer"`` (default), ``"rms"``, or ``"none"`` (the theory of linear attention).
        final_norm: whether a norm ends the stack (default True).
        norm_in_loop: whether that norm is part of every pass (default True; without it looped states grow) or only
            applied to what is read.
        read: ``"causal"``, or ``"prefix"``: the output at a position is that of the bidirectional stack applied to
            the tokens up to it (encoder-only next-token prediction, arXiv 2410.01600; cubic cost).
        init: ``"gpt2"`` (default) or ``"torch"``; see ``Mixer.init_weights``.
        knobs: further arguments per mixer name, for example ``{"mamba": {"state": 8}}``.

    Raises:
        InputError: a value out of range, an unknown mixer (the message lists what exists) or knob, heads that do not
            divide the width, a forward-only mixer under ``read="prefix"``.
    """

    name: str
    layout: tuple[str, ...]
    width: int
    heads: int = 4
    loops: int = 1
    injection: str | None = None
    positions: str = "learned"
    max_positions: int = 512
    mlp_ratio: int = 4
    norm: str = "layer"
    final_norm: bool = True
    norm_in_loop: bool = True
    read: str = "causal"
    init: str = "gpt2"
    knobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "layout", tuple(self.layout))
        for name in ("width", "heads", "loops", "max_positions", "mlp_ratio"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more")
        choose("injection", self.injection, (None, "add", "mul"))
        choose("positions", self.positions, ("none", "learned", "rope"))
        choose("norm", self.norm, ("layer", "rms", "none"))
        choose("read", self.read, ("causal", "prefix"))
        choose("init", self.init, ("gpt2", "torch"))
        if not self.layout:
            raise InputError("layout is empty; allowed: at least one block")
        for block in self.layout:
            choose("layout block", block, (*MIXERS, MLP_NAME))
        mixers = {block for block in self.layout if block != MLP_NAME}
        for block in sorted(mixers):
            self._check_mixer(block)
        if self.positions == "rope" and not any("positions" in mixer_knobs(block) for block in mixers):
            raise InputError(f"positions is 'rope' with layout {self.layout}; allowed: a layout that has attention")
        for block, knobs in self.knobs.items():
            choose("knobs of mixer", block, MIXERS)
            for knob in knobs:
                choose(f"knob of mixer {block!r}", knob, mixer_knobs(block))

    def _check_mixer(self, block: str) -> None:
        if "heads" in mixer_knobs(block):
            divide("heads", self.width, self.mixer_arguments(block)["heads"])
        if self.read == "prefix" and not MIXERS[block].bidirectional:
            two_way = ", ".join(name for name, cls in MIXERS.items() if cls.bidirectional)
            raise InputError(f"read is 'prefix' with mixer {block!r}, which only runs forward; allowed: {two_way}")

    def mixer_arguments(self, block: str) -> dict[str, Any]:
        """Return the arguments with which this backbone builds a mixer of its layout."""
        known = mixer_knobs(block)
        shared: dict[str, Any] = {"heads": self.heads, "positions": "rope" if self.positions == "rope" else "none"}
        return {name: value for name, value in shared.items() if name in known} | dict(self.knobs.get(block, {}))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        knobs = {name: dict(values) for name, values in self.knobs.items()}
        return plain | {"layout": list(self.layout), "knobs": knobs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BackboneSpec":
        """Rebuild a specification from ``to_dict``.

        Raises:
            InputError: an unknown or missing field.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for name in data:
            choose("backbone field", name, known)
        missing = [name for name in ("name", "layout", "width") if name not in data]
        if missing:
            raise InputError(f"backbone fields are {', '.join(data) or 'none'}; allowed: also {', '.join(missing)}")
        return cls(**{**data, "layout": tuple(data["layout"])})


@dataclass(frozen=True)
class Architecture:
    """A named family of backbones: ``first``, then ``depth`` times ``repeat``.

    One repeat has about ``12 width^2`` parameters wherever possible, so that equal depth is nearly equal size.

    Args:
        summary: one sentence for tables.
        repeat: the blocks that are repeated.
        first: blocks before them.
        depth: repeats where none are asked for (default 2).
        options: fields of ``BackboneSpec`` that differ from its defaults.
    """

    summary: str
    repeat: tuple[str, ...]
    first: tuple[str, ...] = ()
    depth: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)


# MambaFormer's code leaves PyTorch's weights alone wherever there are Mamba blocks.
_UNPLACED = {"positions": "none", "init": "torch"}

BACKBONES: dict[str, Architecture] = {
    "transformer": Architecture("GPT-2: learned positions", ("attention", "mlp")),
    "transformer-rope": Architecture("rotary positions", ("attention", "mlp"), options={"positions": "rope"}),
    "transformer-nope": Architecture("no positions", ("attention", "mlp"), options={"positions": "none"}),
    "linear-transformer": Architecture("attention without softmax", ("linear-attention", "mlp")),
    "encoder": Architecture("every prefix by itself (ENTP)", ("attention", "mlp"), options={"read": "prefix"}),
    "looped": Architecture(
        "one block in a loop", ("attention", "mlp"), depth=1, options={"loops": 12, "injection": "add"}
    ),
    "mamba": Architecture("selective state space", ("mamba", "mamba"), options=_UNPLACED),
    "standard-hybrid": Architecture("attention, Mamba, ...", ("attention", "mamba"), options={"init": "torch"}),
    "mambaformer": Architecture("Mamba first", ("attention", "mamba"), first=("mamba",), options=_UNPLACED),
    "mamba-transformer": Architecture(
        "a transformer behind one Mamba block", ("attention", "mlp"), first=("mamba",), options=_UNPLACED
    ),
    "h3": Architecture("state space with gates", ("h3", "mlp"), options={"positions": "none"}),
}


def backbone_spec(
    name: str, *, width: int = 64, heads: int = 4, depth: int | None = None, **overrides: Any
) -> BackboneSpec:
    """Return the specification of a registered architecture at a size.

    Args:
        name: one of ``BACKBONES``.
        width: channels (default 64).
        heads: attention heads (default 4).
        depth: repeats of the architecture's blocks (default: its own).
        overrides: further fields of ``BackboneSpec``, for example ``max_positions=48`` or ``loops=20``.

    Raises:
        InputError: unknown architecture or field (the message lists what exists), or a value the field refuses.
    """
    choose("backbone", name, BACKBONES)
    chosen = BACKBONES[name]
    for option in overrides:
        choose("backbone field", option, [item.name for item in dataclasses.fields(BackboneSpec)])
    repeats = chosen.depth if depth is None else depth
    if repeats < 1:
        raise InputError(f"depth is {repeats}; allowed: 1 or more")
    layout = (*chosen.first, *chosen.repeat * repeats)
    fields: dict[str, Any] = {"name": name, "layout": layout, "width": width, "heads": heads}
    return BackboneSpec(**(fields | dict(chosen.options) | overrides))
