"""Mamba's selective state-space mixer, with the weight layout of ``transformers``' MambaMixer."""

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError
from superpose.models.context import Context, State, zero_padding
from superpose.models.mixers.base import Mixer, like, register
from superpose.models.mixers.filters import CausalFilter
from superpose.models.mixers.scan import selective_scan

# Range and floor from which the initial step sizes are drawn (the Mamba paper's code).
DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4


@register("mamba")
class Mamba(Mixer):
    """Mamba-1 (arXiv 2312.00752): gated causal convolution and selective scan.

    Args:
        width: channels of the residual stream.
        state: states N per inner channel (default 16, the paper's).
        conv: taps of the depthwise causal convolution (default 4, the paper's).
        expand: inner channels per channel (default 2, the paper's).
        dt_rank: rank of the step-size projection (default ``ceil(width / 16)``, the paper's).

    Raises:
        InputError: a size below 1.
    """

    residual_outputs = ("out_proj",)

    def __init__(self, width: int, state: int = 16, conv: int = 4, expand: int = 2, dt_rank: int | None = None):
        super().__init__(width)
        rank = math.ceil(width / 16) if dt_rank is None else dt_rank
        for name, value in (("state", state), ("conv", conv), ("expand", expand), ("dt_rank", rank)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more")
        self.inner, self.state, self.dt_rank = expand * width, state, rank
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=False)
        self.conv1d = CausalFilter(self.inner, conv)
        self.x_proj = nn.Linear(self.inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner, state))
        self.D = nn.Parameter(torch.empty(self.inner))
        self.out_proj = nn.Linear(self.inner, width, bias=False)
        self.init_weights("torch", 1)

    @torch.no_grad()
    def init_weights(self, scheme: str, branches: int) -> None:
        """Initialise as Mamba and MambaFormer do (arXiv 2312.00752, 2402.04248), whatever the scheme of the stack.

        A generic initialisation would zero the step-size bias, and with it the range of time scales.
        """
        rates = torch.arange(1, self.state + 1, dtype=torch.float32)
        self.A_log.copy_(rates.log().expand(self.inner, -1))
        self.D.fill_(1.0)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt = torch.exp(low + (high - low) * torch.rand(self.inner)).clamp(min=DT_FLOOR)
        # The inverse of softplus.
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight /= math.sqrt(branches)

    def initial_state(self, batch: int) -> State:
        """Return zeros: the last ``conv - 1`` inputs of the convolution, and the states ``ssm`` of every channel."""
        device, dtype = like(self)
        ssm = torch.zeros(batch, self.inner, self.state, device=device, dtype=torch.promote_types(dtype, torch.float32))
        return {"conv": self.conv1d.initial_state(batch), "ssm": ssm}

    def forward(
        self, x: Float[Tensor, "batch pos width"], ctx: Context, state: State | None = None
    ) -> tuple[Float[Tensor, "batch pos width"], State | None]:
        """Scan ``x``, starting from ``state`` where one is given."""
        self.check_causal(ctx)
        u, gate = self.in_proj(zero_padding(x, ctx.padding)).chunk(2, dim=-1)
        filtered, conv = self.conv1d(u, self.conv1d.initial_state(len(u)) if state is None else state["conv"])
        u = zero_padding(F.silu(filtered), ctx.padding)
        rank, b, c = self.x_proj(u).split((self.dt_rank, self.state, self.state), dim=-1)
        # Decays multiply along the whole sequence: step sizes in float32 at least.
        dt = F.softplus(self.dt_proj(rank).to(torch.promote_types(u.dtype, torch.float32)))
        y, last = self._scan(u, zero_padding(dt, ctx.padding), b, c, state)
        y = (y + u * self.D).to(x.dtype) * F.silu(gate)
        keep: State | None = None
        if state is not None or ctx.want_state:
            keep = {"conv": conv, "ssm": last}
        return self.out_proj(y), keep

    def _scan(self, u: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: State | None) -> tuple[Tensor, Tensor]:
        precise = dt.dtype
        rates = -torch.exp(self.A_log.to(precise))
        u, b, c = (t.to(precise) for t in (u, b, c))
        kernel = scan_kernel() if u.is_cuda and state is None and precise == torch.float32 else None
        if kernel is not None:
            streams = (u.mT.contiguous(), dt.mT.contiguous(), rates, b.mT.contiguous(), c.mT.contiguous())
            y, last = kernel(*streams, return_last_state=True)
            return y.mT, last
        return selective_scan(u, dt, rates, b, c, None if state is None else state["ssm"])


@functools.cache
def scan_kernel() -> Callable[..., Any] | None:
    """Return ``mamba_ssm``'s fused CUDA scan, or None where that package is not installed."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore[reportMissingImports]
        selective_scan_fn,
    )

    return selective_scan_fn


def load_mamba_mixer_state(mamba: Mamba, state: Mapping[str, Tensor]) -> None:
    """Load the ``state_dict`` of a ``transformers`` MambaMixer; ``mamba.state_dict()`` loads there in turn.

    Raises:
        InputError: names or shapes differ from this mixer's (a mixer with biases in its projections, other sizes).
    """
    own = {name: tuple(tensor.shape) for name, tensor in mamba.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        listed = "; ".join(f"{name} {given.get(name, 'missing')}, allowed: {own.get(name, 'none')}" for name in wrong)
        raise InputError(f"state does not fit this Mamba mixer: {listed}")
    mamba.load_state_dict(dict(state))
