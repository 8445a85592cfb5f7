"""H3: two state-space models around multiplicative gates, the ancestor of Mamba built for associative recall."""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from superpose.errors import InputError
from superpose.models.context import Context, State, zero_padding
from superpose.models.mixers.base import Mixer, divide, like, register
from superpose.models.mixers.filters import CausalFilter

# Range of the initial step sizes, as in S4D (arXiv 2206.11893).
DT_RANGE = (1e-3, 1e-1)


@register("h3")
class H3(Mixer):
    """Hungry hungry hippos (arXiv 2212.14052): ``q * SSM_diag(SSM_shift(k) v^T)``.

    The shift SSM is a causal filter over the last ``taps`` keys, the diagonal SSM an S4D-Lin filter per head.

    Args:
        width: channels of the residual stream.
        head_dim: channels per head; keys and values meet in an outer product (default 1, elementwise).
        state: complex states of the diagonal SSM per head (default 16; the paper's language models have 64).
        taps: length of the shift filter (default 4; the paper's state size plays this role).

    Raises:
        InputError: ``head_dim`` does not divide the width, or a size is below 1.
    """

    residual_outputs = ("out",)

    def __init__(self, width: int, head_dim: int = 1, state: int = 16, taps: int = 4):
        super().__init__(width)
        for name, value in (("state", state), ("taps", taps)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more")
        self.heads, self.head_dim = divide("head_dim", width, head_dim), head_dim
        self.state = state
        self.qkv = nn.Linear(width, 3 * width)
        self.shift = CausalFilter(width, taps)
        self.log_dt = nn.Parameter(torch.empty(self.heads))
        self.log_decay = nn.Parameter(torch.empty(self.heads, state))
        self.frequency = nn.Parameter(torch.empty(self.heads, state))
        self.read_real = nn.Parameter(torch.empty(self.heads, state))
        self.read_imag = nn.Parameter(torch.empty(self.heads, state))
        self.skip = nn.Parameter(torch.empty(self.heads))
        self.out = nn.Linear(width, width)
        self.init_weights("torch", 1)

    @torch.no_grad()
    def init_weights(self, scheme: str, branches: int) -> None:
        """Initialise the projections by the scheme and the filters as S4D-Lin."""
        super().init_weights(scheme, branches)
        low, high = (math.log(bound) for bound in DT_RANGE)
        self.log_dt.uniform_(low, high)
        self.log_decay.fill_(math.log(0.5))
        self.frequency.copy_((math.pi * torch.arange(self.state)).expand(self.heads, -1))
        for read in (self.read_real, self.read_imag):
            read.normal_(std=0.5**0.5)
        self.skip.normal_()

    def initial_state(self, batch: int) -> State:
        """Return zeros: the last ``taps - 1`` keys, and the diagonal SSM's complex states of every key-value pair."""
        device, dtype = like(self)
        shape = (batch, self.heads, self.head_dim, self.head_dim, self.state)
        precise = torch.promote_types(dtype, torch.float32).to_complex()
        return {"keys": self.shift.initial_state(batch), "ssm": torch.zeros(shape, device=device, dtype=precise)}

    def forward(
        self, x: Float[Tensor, "batch pos width"], ctx: Context, state: State | None = None
    ) -> tuple[Float[Tensor, "batch pos width"], State | None]:
        """Filter the gated keys and values of ``x``, continuing ``state`` where one is given."""
        self.check_causal(ctx)
        batch, length, width = x.shape
        precise = torch.promote_types(x.dtype, torch.float32)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        k, v = zero_padding(k, ctx.padding), zero_padding(v, ctx.padding)
        before = self.initial_state(batch) if state is None else state
        k, keys = self.shift(k, before["keys"])
        k = zero_padding(k, ctx.padding)
        q, k, v = (t.unflatten(-1, (self.heads, self.head_dim)).movedim(1, -1).to(precise) for t in (q, k, v))
        pairs = k[:, :, :, None] * v[:, :, None]
        mixed, ssm = self._diagonal(pairs, before["ssm"], keep=state is not None or ctx.want_state)
        y = (q[:, :, :, None] * mixed).sum(2)
        keep = None if ssm is None else {"keys": keys, "ssm": ssm}
        return self.out(y.movedim(-1, 1).reshape(batch, length, width).to(x.dtype)), keep

    def _diagonal(
        self,
        pairs: Float[Tensor, "batch heads key value pos"],
        before: Complex[Tensor, "batch heads key value state"],
        keep: bool,
    ) -> tuple[Float[Tensor, "batch heads key value pos"], Complex[Tensor, "batch heads key value state"] | None]:
        """Convolve along time with the filter of the discretised SSM (zero-order hold), by FFT."""
        length, precise = pairs.shape[-1], pairs.dtype
        rate = torch.complex(-torch.exp(self.log_decay.to(precise)), self.frequency.to(precise))
        step = rate * torch.exp(self.log_dt.to(precise))[:, None]
        read = torch.complex(self.read_real.to(precise), self.read_imag.to(precise)) * torch.expm1(step) / rate
        # powers[h, t, n] = exp(step_n t)
        times = torch.arange(length, device=pairs.device, dtype=precise)
        powers = torch.exp(step[:, None] * times[:, None])
        kernel = 2 * (powers * read[:, None]).sum(-1).real
        spectrum = torch.fft.rfft(pairs, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)[:, None, None]
        mixed = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + pairs * self.skip[:, None, None, None]
        if not keep:
            return mixed, None
        next_powers = powers * torch.exp(step)[:, None]
        carried = torch.einsum("bhijn,hn,htn->bhijt", before, read, next_powers)
        fresh = torch.einsum("bhijt,htn->bhijn", pairs.to(powers.dtype), powers.flip(1))
        return mixed + 2 * carried.real, before * next_powers[:, -1][:, None, None] + fresh
