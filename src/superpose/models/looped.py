"""Looping any module that maps a sequence to itself, with the input injected before every pass.

Yang et al. (2024), "Looped Transformers are Better at Learning Learning Algorithms", arXiv 2311.12424.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose

Injection = Callable[[Tensor, Tensor], Tensor]

INJECTIONS: dict[str, Injection] = {"add": torch.add, "mul": torch.mul}


def run_loops(
    body: Callable[[Tensor], Tensor],
    inputs: Tensor,
    loops: int,
    *,
    inject: Injection | None = None,
    grad_loops: int | None = None,
    keep: int = 1,
    after: Callable[[int, Tensor, Tensor], bool] | None = None,
) -> list[Tensor]:
    """Apply a body again and again: ``Y_1 = M(P)``, ``Y_t = M(inject(Y_{t-1}, P))``.

    Args:
        body: M.
        inputs: P.
        loops: passes.
        inject: makes the input of a pass from the state before it and P; default: the state alone.
        grad_loops: the last passes that get gradients (default: all).
        keep: how many of the last iterates are returned.
        after: told the number of the pass (from 1), the state before it and the state after it; True ends the loop.

    Returns:
        The last ``keep`` iterates, the last one last.

    Raises:
        InputError: ``loops`` or ``grad_loops`` below 1.
    """
    for argument, value in (("loops", loops), ("grad_loops", grad_loops)):
        if value is not None and value < 1:
            raise InputError(f"{argument} is {value}; allowed: 1 or more")
    without = 0 if grad_loops is None else max(0, loops - grad_loops)
    kept: list[Tensor] = []
    state = inputs
    for index in range(loops):
        before = state
        with torch.no_grad() if index < without else nullcontext():
            state = body(state if inject is None or index == 0 else inject(state, inputs))
        kept.append(state)
        # What falls out of the window must be freed at once, or memory grows with all loops.
        del kept[:-keep]
        if after is not None and after(index + 1, before, state):
            break
    return kept


class NotFiniteState(ArithmeticError):
    """The state of a looped model stopped being finite.

    Attributes:
        loop: the first loop (from 1) whose state was not finite.
    """

    def __init__(self, loop: int):
        super().__init__(f"the state is not finite after loop {loop}; the loop diverges at these weights and inputs")
        self.loop = loop

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their message alone otherwise, and this one may leave a worker process.
        return type(self), (self.loop,)


class LoopedOutput(NamedTuple):
    """What a looped model returns.

    Attributes:
        state: the last iterate, ``[batch, pos, width]``.
        loops: passes that were made; fewer than asked for where ``stop_when`` ended the loop.
        iterates: the last ``grad_loops`` iterates, ``[iterate, batch, pos, width]``; None unless asked for.
    """

    state: Tensor
    loops: int
    iterates: Tensor | None


class LoopedModel(nn.Module):
    """A body of one's own as a looped model: shared weights, and the input injected before every pass.

    Three lines: ``model = LoopedModel(nn.TransformerEncoderLayer(64, 4, batch_first=True, norm_first=True))``, then
    in training ``model(x, n_loops=20, grad_loops=15, return_all=True).iterates`` under a loss on every iterate
    (``superpose.training.loop_window``), and ``model(x, n_loops=500, stop_when=1e-3)`` later. One loop is the body.

    A fixed point needs a body that ends in a norm and sees positions, if any, on every pass; GPT-2's ``GPT2Model``
    does both. ``superpose.models.BACKBONES["looped"]`` is such a model ready to train.

    Args:
        body: maps ``[batch, pos, width]`` to the same shape: a torch layer, a decoder layer of ``transformers``, or
            one of its models without a head, which is then fed ``inputs_embeds``. Compile it, or put adapters into
            it, before it is wrapped.
        injection: ``"add"`` (default, the paper's): ``Y_t = M(Y_{t-1} + P)``; ``"mul"``: ``Y_t = M(Y_{t-1} * P)``;
            a function of (state, inputs), which may hold parameters if it is a module; None: the state alone (the
            paper's baseline of tied weights). The first pass sees P.

    Raises:
        InputError: an unknown injection.
    """

    def __init__(self, body: nn.Module, injection: str | Injection | None = "add"):
        super().__init__()
        if injection is not None and not callable(injection):
            choose("injection", injection, (*INJECTIONS, None, "a function of (state, inputs)"))
        self.body = body
        self.injection = INJECTIONS[injection] if isinstance(injection, str) else injection
        # Models of transformers take ids first; embeddings go in by name.
        self._embeds = hasattr(body, "get_input_embeddings")

    def forward(
        self,
        inputs: Float[Tensor, "batch pos width"],
        n_loops: int,
        grad_loops: int | None = None,
        return_all: bool = False,
        stop_when: int | float | None = None,
        **body_arguments: Any,
    ) -> LoopedOutput:
        """Loop over the inputs.

        Args:
            inputs: P, the embedded prompt.
            n_loops: passes; with ``stop_when`` the most passes.
            grad_loops: the last passes that get gradients (T of the paper; more than ``n_loops`` means all). Those
                before run without, so that memory is that of the window. Default: all.
            return_all: return the last ``grad_loops`` iterates too.
            stop_when: end as soon as ``|Y_t - Y_{t-1}| <= stop_when |Y_t|`` in every sequence of the batch (from
                t = 2). Default: never. Reads one number from the device per pass.
            body_arguments: given to every pass, for example ``attention_mask`` or ``position_embeddings``.

        Raises:
            InputError: ``n_loops`` or ``grad_loops`` below 1, ``stop_when`` not above 0 or beside ``grad_loops``
                (where the window begins must be known), an injection or a body that changes the shape.
            NotFiniteState: infinities or NaN, with the loop that made them.
        """
        if stop_when is not None:
            if not stop_when > 0:
                raise InputError(f"stop_when is {stop_when}; allowed: a relative change above 0, or None")
            if grad_loops is not None:
                raise InputError(f"stop_when is {stop_when} and grad_loops {grad_loops}; allowed: one of them")
        finite: list[Tensor] = []

        def settled(loop: int, before: Tensor, state: Tensor) -> bool:
            finite.append(state.detach().isfinite().all())
            if stop_when is None:
                return False
            if not finite[-1]:
                raise NotFiniteState(loop)
            return loop > 1 and bool((_norm(state - before) <= stop_when * _norm(state)).all())

        iterates = run_loops(
            lambda x: self._pass(x, inputs, body_arguments),
            inputs,
            n_loops,
            inject=None if self.injection is None else self._inject,
            grad_loops=grad_loops,
            keep=min(n_loops, grad_loops or n_loops) if return_all else 1,
            after=settled,
        )
        good = torch.stack(finite)
        if not good.all():
            raise NotFiniteState(1 + int(good.logical_not().nonzero()[0]))
        return LoopedOutput(iterates[-1], len(finite), torch.stack(iterates) if return_all else None)

    def _inject(self, state: Tensor, inputs: Tensor) -> Tensor:
        injected = self.injection(state, inputs)  # type: ignore[misc]  # only called where there is one
        if injected.shape != inputs.shape:
            raise InputError(f"injection returned shape {list(injected.shape)}; allowed: {list(inputs.shape)}")
        return injected

    def _pass(self, x: Tensor, inputs: Tensor, arguments: dict[str, Any]) -> Tensor:
        out = self.body(inputs_embeds=x, **arguments) if self._embeds else self.body(x, **arguments)
        state = getattr(out, "last_hidden_state", out)
        if not isinstance(state, Tensor) or state.shape != inputs.shape:
            got = list(state.shape) if isinstance(state, Tensor) else type(out).__name__
            raise InputError(f"body returned {got}; allowed: a tensor of its input's shape {list(inputs.shape)}")
        return state


def _norm(x: Tensor) -> Float[Tensor, " batch"]:
    return x.detach().float().flatten(1).norm(dim=1)
