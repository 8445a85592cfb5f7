"""The mixer contract, and the registry through which specifications, tests and the atlas find every mixer."""

import inspect
import math
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.context import Context, State

# GPT-2's and nanoGPT's standard deviation of every weight matrix and embedding.
GPT2_STD = 0.02


class Mixer(nn.Module):
    """A layer that mixes information along the sequence, without norm and without residual connection.

    A subclass implements ``forward`` and ``initial_state``, and names in ``residual_outputs`` the linear layers whose
    output is added to the residual stream. Feeding a sequence piece by piece through the state equals the parallel
    path.

    Attributes:
        bidirectional: whether ``Context(causal=False)`` is understood; if not, it is an error.
        reads_apart: whether ``forward`` takes ``reads``, the positions whose output is wanted, and saves the work
            of the others.
    """

    bidirectional: ClassVar[bool] = False
    reads_apart: ClassVar[bool] = False
    residual_outputs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int):
        super().__init__()
        if width < 1:
            raise InputError(f"width is {width}; allowed: 1 or more")
        self.width = width

    def forward(
        self, x: Float[Tensor, "batch pos width"], ctx: Context, state: State | None = None
    ) -> tuple[Float[Tensor, "batch pos width"], State | None]:
        """Mix ``x`` along its positions; continue ``state`` where one is given."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        """Return the state before the first token of ``batch`` sequences."""
        raise NotImplementedError

    def init_weights(self, scheme: str, branches: int) -> None:
        """Initialise the weights.

        Args:
            scheme: ``"gpt2"``: weights N(0, 0.02), residual outputs N(0, 0.02 / sqrt(branches)), biases 0;
                ``"torch"``: PyTorch's weights as they were drawn, biases 0 (the MambaFormer code's rule).
            branches: number of residual branches in the stack.
        """
        init_linears(self, scheme, branches, self.residual_outputs)

    def check_causal(self, ctx: Context) -> None:
        """Refuse a bidirectional context where the mixer only runs forward.

        Raises:
            InputError: ``ctx.causal`` is False and the mixer is not bidirectional.
        """
        if not ctx.causal and not self.bidirectional:
            raise InputError(f"causal is False, but {type(self).__name__} only runs forward; allowed: True")


def init_linears(module: nn.Module, scheme: str, branches: int, residual_outputs: tuple[str, ...]) -> None:
    """Initialise every linear layer of a module; see ``Mixer.init_weights``."""
    choose("init", scheme, ("gpt2", "torch"))
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if scheme == "gpt2":
            scale = math.sqrt(branches) if name in residual_outputs else 1.0
            nn.init.normal_(layer.weight, std=GPT2_STD / scale)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


MIXERS: dict[str, type[Mixer]] = {}
M = TypeVar("M", bound=Mixer)


def register(name: str) -> Callable[[type[M]], type[M]]:
    """Class decorator: enter a mixer under the name by which layouts call it."""

    def enter(cls: type[M]) -> type[M]:
        if name in MIXERS:
            raise InputError(f"mixer name {name!r} is taken by {MIXERS[name].__name__}; allowed: a new name")
        MIXERS[name] = cls
        return cls

    return enter


def mixer_knobs(name: str) -> dict[str, inspect.Parameter]:
    """Return the constructor's knobs (all arguments but the width) of a registered mixer.

    Raises:
        InputError: no mixer of that name exists.
    """
    choose("mixer", name, MIXERS)
    parameters = inspect.signature(MIXERS[name]).parameters
    return {knob: parameter for knob, parameter in parameters.items() if knob != "width"}


def mixer(name: str, width: int, **knobs: object) -> Mixer:
    """Build a registered mixer.

    Args:
        name: one of ``MIXERS``.
        width: channels of the residual stream.
        knobs: the mixer's own arguments.

    Raises:
        InputError: unknown name or knob (the message lists what exists), or a value the mixer refuses.
    """
    allowed = mixer_knobs(name)
    for knob in knobs:
        choose(f"knob of mixer {name!r}", knob, allowed)
    return MIXERS[name](width, **knobs)  # type: ignore[arg-type]


def divide(argument: str, width: int, parts: int) -> int:
    """Return ``width / parts``.

    Raises:
        InputError: ``parts`` is not positive or does not divide ``width``.
    """
    if parts < 1 or width % parts:
        raise InputError(f"{argument} is {parts}; allowed: a positive divisor of {width}")
    return width // parts


def like(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a module's parameters, where states belong."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype
