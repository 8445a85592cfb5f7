"""Backbones: a stack of blocks, applied once or in a loop, that owns positions and the final norm."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from superpose.errors import InputError
from superpose.models.architectures import BackboneSpec
from superpose.models.blocks import MLP, MLP_NAME, Block, build_norm
from superpose.models.context import Context, State
from superpose.models.looped import INJECTIONS, run_loops
from superpose.models.mixers import mixer
from superpose.models.mixers.base import GPT2_STD


@dataclass(frozen=True)
class BackboneState:
    """What continues a batch of sequences: one state per block and loop, and the number of real tokens so far."""

    blocks: tuple[State, ...]
    seen: Int[Tensor, " batch"]


class Backbone(nn.Module):
    """A stack of pre-norm residual blocks, looped ``spec.loops`` times.

    One pass adds the learned positions, runs the blocks, and ends in the final norm. With loops, the input is
    injected before every pass after the first: ``Y_1 = M(P)``, ``Y_t = M(Y_{t-1} + P)`` (arXiv 2311.12424, where
    ``Y_0 = 0``; for ``"mul"`` ``Y_0 = 1`` and ``Y_t = M(Y_{t-1} * P)``).

    Args:
        spec: every choice; see ``BackboneSpec``.
    """

    def __init__(self, spec: BackboneSpec):
        super().__init__()
        self.spec = spec
        inners = (
            MLP(spec.width, spec.mlp_ratio)
            if name == MLP_NAME
            else mixer(name, spec.width, **spec.mixer_arguments(name))
            for name in spec.layout
        )
        self.blocks = nn.ModuleList(Block(spec.width, inner, spec.norm) for inner in inners)
        self._last_mixer = max((i for i, name in enumerate(spec.layout) if name != MLP_NAME), default=0)
        self.positions = nn.Embedding(spec.max_positions, spec.width) if spec.positions == "learned" else None
        self.norm = build_norm(spec.norm, spec.width) if spec.final_norm else nn.Identity()
        for block in self.blocks:
            block.inner.init_weights(spec.init, len(spec.layout))  # type: ignore[union-attr, operator]
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=GPT2_STD)

    def forward(
        self,
        x: Float[Tensor, "batch pos width"],
        ctx: Context | None = None,
        loops: int | None = None,
        grad_loops: int | None = None,
        return_all: bool = False,
        reads: Int[Tensor, " reads"] | None = None,
    ) -> Float[Tensor, "*iterate batch read width"]:
        """Return the normed stream after the last loop.

        Args:
            x: embedded tokens, without positions.
            ctx: positions, padding, causality (default: none, none, causal).
            loops: passes (default the specification's).
            grad_loops: the last passes that get gradients; those before run without, so memory is that of the
                window (default: all; more than ``loops`` means all).
            return_all: return the last ``grad_loops`` iterates, ``[iterate, batch, pos, width]``.
            reads: positions whose output is returned (default all); reading few of them saves the last block's work
                at the others, and makes ``read="prefix"`` much cheaper.

        Raises:
            InputError: fewer than one loop, a prompt longer than the position table, padding of another shape.
        """
        ctx = Context() if ctx is None else ctx
        ctx.check(x.shape[0], x.shape[1])
        if self.spec.read == "prefix":
            return self._prefixes(x, ctx, loops, grad_loops, return_all, reads)
        total = self.spec.loops if loops is None else loops
        plain = total == 1 and grad_loops is None and not return_all and not ctx.want_state
        if reads is not None and plain and len(reads) < x.shape[1]:
            return self._read(x, ctx, reads)
        y = self._iterate(x, ctx, loops, grad_loops, return_all)
        return y if reads is None else y[..., reads, :]

    def extend(
        self,
        x: Float[Tensor, "batch pos width"],
        state: BackboneState | None = None,
        padding: Tensor | None = None,
        loops: int | None = None,
    ) -> tuple[Float[Tensor, "batch pos width"], BackboneState]:
        """Continue sequences by some tokens; piece by piece gives what ``forward`` gives at once.

        Args:
            x: the next tokens, embedded.
            state: what the previous call returned; None starts new sequences.
            padding: True at real tokens; padding may only stand left of a sequence's first token.
            loops: passes (default the specification's); the same in every call of a sequence.

        Raises:
            InputError: a prefix-reading backbone, another number of loops, more tokens than the position table.
        """
        if self.spec.read == "prefix":
            raise InputError("read is 'prefix', where every token re-reads all before it; allowed: 'causal'")
        batch, length = x.shape[:2]
        total = self._check_loops("loops", self.spec.loops if loops is None else loops)
        if state is None:
            fresh = tuple(block.initial_state(batch) for _ in range(total) for block in self.blocks)  # type: ignore[operator]
            state = BackboneState(fresh, torch.zeros(batch, dtype=torch.long, device=x.device))
        if len(state.blocks) != total * len(self.blocks):
            raise InputError(f"loops is {total}; allowed: {len(state.blocks) // len(self.blocks)}, as the state's")
        real = torch.ones(batch, length, dtype=torch.bool, device=x.device) if padding is None else padding
        places = (state.seen[:, None] + real.cumsum(1) - 1).clamp(min=0)
        ctx = Context(positions=places, padding=padding, want_state=True)
        ctx.check(batch, length)
        before = iter(state.blocks)
        after: list[State] = []
        y = x
        for step in range(total):
            y = self._place(self._inject(y, x) if step else x, ctx)
            for block in self.blocks:
                y, kept = block(y, ctx, next(before))
                after.append(kept or {})
            y = self.norm(y) if self.spec.norm_in_loop else y
        y = y if self.spec.norm_in_loop else self.norm(y)
        return y, BackboneState(tuple(after), state.seen + real.sum(1))

    def _read(self, x: Tensor, ctx: Context, reads: Tensor) -> Tensor:
        """Run one pass that computes, from the last mixer on, only the positions that are read."""
        ctx = _placed(ctx)
        y = self._place(x, ctx)
        for index, block in enumerate(self.blocks):
            y, _ = block(y, ctx, reads=reads if index == self._last_mixer else None)
        return self.norm(y)

    def _iterate(self, x: Tensor, ctx: Context, loops: int | None, grad_loops: int | None, return_all: bool) -> Tensor:
        total = self.spec.loops if loops is None else loops
        ctx = _placed(ctx)

        def body(y: Tensor) -> Tensor:
            y = self._place(y, ctx)
            for block in self.blocks:
                y, _ = block(y, ctx)
            return self.norm(y) if self.spec.norm_in_loop else y

        window = min(total, grad_loops or total)
        keep = window if return_all else 1
        iterates = run_loops(body, x, total, inject=self._inject, grad_loops=grad_loops, keep=keep)
        y = torch.stack(iterates) if return_all else iterates[-1]
        return y if self.spec.norm_in_loop else self.norm(y)

    def _prefixes(
        self,
        x: Tensor,
        ctx: Context,
        loops: int | None,
        grad_loops: int | None,
        return_all: bool,
        reads: Tensor | None,
    ) -> Tensor:
        """Run the bidirectional stack on every wanted prefix, all in one batch with the rest as padding."""
        batch, length, width = x.shape
        if reads is None:
            reads = torch.arange(length, device=x.device)
        inside = torch.arange(length, device=x.device) <= reads[:, None]
        real = inside.expand(batch, -1, -1) if ctx.padding is None else inside & ctx.padding[:, None]
        positions = None if ctx.positions is None else _per_prefix(ctx.positions, len(reads))
        y = self._iterate(
            _per_prefix(x, len(reads)),
            Context(positions=positions, padding=real.flatten(0, 1), causal=False),
            loops,
            grad_loops,
            return_all,
        )
        y = y.unflatten(-3, (batch, len(reads)))
        own = reads[:, None, None].expand(*y.shape[:-2], 1, width)
        return y.gather(-2, own)[..., 0, :]

    def _inject(self, y: Tensor, x: Tensor) -> Tensor:
        return y if self.spec.injection is None else INJECTIONS[self.spec.injection](y, x)

    def _place(self, x: Tensor, ctx: Context) -> Tensor:
        if self.positions is None:
            return x
        needed = x.shape[1] if ctx.positions is None else int(ctx.positions.max()) + 1
        if needed > self.spec.max_positions:
            raise InputError(f"the prompt has {needed} positions; allowed: {self.spec.max_positions} (max_positions)")
        if ctx.positions is None:
            return x + self.positions.weight[:needed]
        return x + self.positions(ctx.positions)

    def _check_loops(self, argument: str, value: int) -> int:
        if value < 1:
            raise InputError(f"{argument} is {value}; allowed: 1 or more")
        return value


def _placed(ctx: Context) -> Context:
    if ctx.positions is not None or ctx.padding is None:
        return ctx
    # Only once, for learned and rotary positions alike.
    return dataclasses.replace(ctx, positions=(ctx.padding.cumsum(1) - 1).clamp(min=0))


def _per_prefix(x: Tensor, prefixes: int) -> Tensor:
    return x[:, None].expand(-1, prefixes, *x.shape[1:]).flatten(0, 1)


def build_backbone(spec: BackboneSpec) -> Backbone:
    """Build the backbone that a specification describes."""
    return Backbone(spec)


def count_parameters(module: nn.Module, positions: bool = True) -> int:
    """Return the number of parameters, with or without learned tables of positions.

    Args:
        module: a backbone or learner.
        positions: whether learned position embeddings count (default True; the looped-transformer paper's figures
            leave them out).
    """
    tables = {id(m.positions.weight) for m in module.modules() if isinstance(m, Backbone) and m.positions is not None}
    return sum(p.numel() for p in module.parameters() if positions or id(p) not in tables)
