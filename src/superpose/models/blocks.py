"""Residual blocks: a norm, then a mixer or an MLP, added to the stream."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.context import Context, State
from superpose.models.mixers import Mixer
from superpose.models.mixers.base import init_linears

NORM_EPS = 1e-5
GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SLOPE
# The name by which layouts call the MLP; every other name is a mixer's.
MLP_NAME = "mlp"


def gelu(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """GELU in GPT-2's form, ``x (1 + tanh(sqrt(2/pi) (x + .044715 x^3))) / 2``."""
    if torch.compiler.is_compiling():
        # (1 + tanh u) / 2 is the logistic function of 2u, which compiled code evaluates in a third of the time.
        return x * torch.sigmoid(x * (GELU_SLOPE + GELU_CUBIC * x * x))
    return F.gelu(x, approximate="tanh")


def build_norm(kind: str, width: int) -> nn.Module:
    """Return a LayerNorm (default everywhere, as GPT-2) or RMSNorm, eps 1e-5, or nothing for ``"none"``."""
    choose("norm", kind, ("layer", "rms", "none"))
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(width, eps=NORM_EPS) if kind == "layer" else nn.RMSNorm(width, eps=NORM_EPS)


class MLP(nn.Module):
    """GPT-2's two-layer perceptron with the tanh approximation of GELU.

    Args:
        width: channels of the residual stream.
        ratio: hidden units per channel (default 4, GPT-2's).
    """

    residual_outputs = ("down",)

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        if ratio < 1:
            raise InputError(f"mlp_ratio is {ratio}; allowed: 1 or more")
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform every position by itself."""
        return self.down(gelu(self.up(x)))

    def init_weights(self, scheme: str, branches: int) -> None:
        """Initialise as ``Mixer.init_weights`` does."""
        init_linears(self, scheme, branches, self.residual_outputs)


class Block(nn.Module):
    """Pre-norm residual block ``x + inner(norm(x))``.

    Args:
        width: channels of the residual stream.
        inner: the mixer or MLP.
        norm: kind of norm (default LayerNorm).
    """

    def __init__(self, width: int, inner: Mixer | MLP, norm: str = "layer"):
        super().__init__()
        self.norm = build_norm(norm, width)
        self.inner = inner

    def forward(
        self,
        x: Float[Tensor, "batch pos width"],
        ctx: Context,
        state: State | None = None,
        reads: Int[Tensor, " reads"] | None = None,
    ) -> tuple[Float[Tensor, "batch read width"], State | None]:
        """Return the stream after the block (where ``reads`` is given, only there), and the mixer's state if kept."""
        if isinstance(self.inner, MLP):
            x = x if reads is None else x[:, reads]
            return x + self.inner(self.norm(x)), None
        if reads is None:
            mixed, state = self.inner(self.norm(x), ctx, state)
            return x + mixed, state
        if self.inner.reads_apart:
            mixed, _ = self.inner(self.norm(x), ctx, reads=reads)
            return x[:, reads] + mixed, None
        mixed, _ = self.inner(self.norm(x), ctx)
        return (x + mixed)[:, reads], None

    def initial_state(self, batch: int) -> State:
        """Return the mixer's state before the first token; an MLP has none."""
        return {} if isinstance(self.inner, MLP) else self.inner.initial_state(batch)
