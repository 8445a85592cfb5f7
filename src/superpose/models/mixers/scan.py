"""The selective scan ``h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t``, ``y_t = C_t h_t`` with hand-written gradients.

Autograd through a Python loop over time slices the whole sequence at every step, so its backward is quadratic in the
length. Here the states are stored once and the adjoint runs the same recurrence backwards. Time is cut into blocks
that fit the processor's cache; inside a block the recurrence is a loop (CPU) or a doubling scan (GPU, where a loop
would be bound by kernel launches).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Elements per block: the 1 MB that a CPU core keeps in its second-level cache (measured: 64K-256K are alike).
CPU_BLOCK = 196_608
# Steps per block on a GPU: six doublings, then one sequential hand-over.
GPU_STEPS = 64


def selective_scan(
    u: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    a: Float[Tensor, "channel state"],
    b: Float[Tensor, "batch pos state"],
    c: Float[Tensor, "batch pos state"],
    initial: Float[Tensor, "batch channel state"] | None = None,
    doubling: bool | None = None,
) -> tuple[Float[Tensor, "batch pos channel"], Float[Tensor, "batch channel state"]]:
    """Run Mamba's selective state-space recurrence (arXiv 2312.00752) and return outputs and last state.

    Differentiable once in every tensor, also through ``initial`` and the last state; works under ``torch.vmap``.

    Args:
        u: input of every channel.
        dt: step sizes, positive; 0 leaves the state alone.
        a: decay rates, negative.
        b, c: input and output directions, shared by the channels.
        initial: state before the first position (default 0).
        doubling: how a block is solved: by doubling (default on a GPU) or step by step (default on a CPU).
    """
    if initial is None:
        initial = torch.zeros(1, 1, 1, device=u.device, dtype=u.dtype).expand(u.shape[0], *a.shape)
    if doubling is None:
        doubling = u.device.type != "cpu"
    # Time first, so that a step is one contiguous piece; channels last, so that it is vectorised over them. The third
    # axis holds independent models: one here, several under vmap.
    y, last, _ = _scan(
        dt.transpose(0, 1)[:, :, None],
        (dt * u).transpose(0, 1)[:, :, None],
        a.mT[None],
        b.transpose(0, 1)[:, :, None],
        c.transpose(0, 1)[:, :, None],
        initial.mT[:, None],
        doubling,
    )
    return y[:, :, 0].transpose(0, 1), last[:, 0].mT


# A compiler would unroll the loop over time and lose the buffers: 2-3 times slower than leaving it alone.
@torch.compiler.disable()
def _scan(*arguments: Any) -> Any:
    return _Scan.apply(*arguments)


class _Scan(torch.autograd.Function):
    """Forward of the scan: dt, du ``[L B G D]``, a ``[G N D]``, b, c ``[L B G N]``, h0 ``[B G N D]``."""

    @staticmethod
    def forward(dt: Tensor, du: Tensor, a: Tensor, b: Tensor, c: Tensor, h0: Tensor, doubling: bool) -> Any:
        dt, du, a, b, c = (t.contiguous() for t in (dt, du, a, b, c))
        states = dt.new_empty(*dt.shape[:3], *a.shape[1:])
        y = torch.empty_like(dt)
        h = h0
        with torch.autocast(dt.device.type, enabled=False):
            parts = _blocks(dt, a, doubling)
            # One buffer for all blocks: fresh memory costs more than the arithmetic.
            buffer = torch.empty_like(states[parts[0]])
            for part in parts:
                decay = _decay(dt[part], a, buffer)
                x = torch.mul(b[part, ..., None], du[part, :, :, None], out=states[part])
                if doubling:
                    _double(decay, x, h)
                else:
                    for step in range(len(x)):
                        h = x[step].addcmul_(decay[step], h)
                h = x[-1]
                torch.matmul(c[part, :, :, None], x, out=y[part].unsqueeze(3))
        return y, h.clone(), states

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.doubling = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dt, du, a, b, c, h0, states = ctx.saved_tensors
        gy = torch.zeros_like(dt) if grads[0] is None else grads[0]
        glast = torch.zeros_like(h0) if grads[1] is None else grads[1]
        return *_ScanGradient.apply(gy, glast, dt, du, a, b, c, h0, states, ctx.doubling), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        folded = _fold(info.batch_size, args[:-1], in_dims, (2, 2, 0, 2, 2, 1))
        return _unfold(info.batch_size, _Scan.apply(*folded, args[-1]), (2, 1, 2))


class _ScanGradient(torch.autograd.Function):
    """Adjoint of the scan. A function of its own, so that vmap can also stand outside the differentiation."""

    @staticmethod
    def forward(
        gy: Tensor,
        glast: Tensor,
        dt: Tensor,
        du: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        h0: Tensor,
        states: Tensor,
        doubling: bool,
    ) -> Any:
        dt, du, a, b, c, gy = (t.contiguous() for t in (dt, du, a, b, c, gy))
        gdt, gdu, gb, gc = (torch.empty_like(t) for t in (dt, du, b, c))
        ga = torch.zeros_like(a)
        carry = glast
        with torch.autocast(dt.device.type, enabled=False):
            parts = _blocks(dt, a, doubling)
            buffers = [torch.empty_like(states[parts[0]]) for _ in range(3)]
            for part in reversed(parts):
                decay = _decay(dt[part], a, buffers[0])
                g = buffers[1][: len(decay)]
                torch.mul(c[part, ..., None], gy[part, :, :, None], out=g)
                # Afterwards g is the gradient of every state, and decay that of the state before, through this step.
                if doubling:
                    later = torch.cat((decay[1:], torch.ones_like(decay[:1]))).flip(0)
                    adjoint = g.flip(0)
                    _double(later, adjoint, carry)
                    g.copy_(adjoint.flip(0))
                    decay.mul_(g)
                else:
                    for step in reversed(range(len(g))):
                        g[step].add_(carry)
                        carry = decay[step].mul_(g[step])
                # A copy, for the next lines turn decay into the gradient of dt * a.
                carry = decay[0].clone()
                torch.matmul(b[part, :, :, None], g, out=gdu[part].unsqueeze(3))
                # Many small matrix-vector products: a quarter of bmm's time this way.
                product = buffers[2][: len(decay)]
                torch.sum(torch.mul(g, du[part, :, :, None], out=product), 4, out=gb[part])
                torch.sum(torch.mul(states[part], gy[part, :, :, None], out=product), 4, out=gc[part])
                decay[0].mul_(states[part.start - 1] if part.start else h0)
                decay[1:].mul_(states[part.start : part.stop - 1])
                ga += torch.mul(decay, dt[part, :, :, None], out=product).sum((0, 1))
                torch.sum(decay.mul_(a), 3, out=gdt[part])
        return gdt, gdu, ga, gb, gc, carry

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("the selective scan is differentiable once, not twice")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        folded = _fold(info.batch_size, args[:-1], in_dims, (2, 1, 2, 2, 0, 2, 2, 1, 2))
        return _unfold(info.batch_size, _ScanGradient.apply(*folded, args[-1]), (2, 2, 0, 2, 2, 1))


def _blocks(dt: Tensor, a: Tensor, doubling: bool) -> list[slice]:
    length, batch = dt.shape[:2]
    steps = GPU_STEPS if doubling else max(1, CPU_BLOCK // max(1, batch * a.numel()))
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


def _decay(dt: Tensor, a: Tensor, buffer: Tensor) -> Tensor:
    out = buffer[: len(dt)]
    return torch.exp_(torch.mul(dt[:, :, :, None], a, out=out))


def _double(decay: Tensor, x: Tensor, h: Tensor) -> None:
    """Replace ``x`` by the states of ``h_t = decay_t h_{t-1} + x_t`` in a logarithmic number of passes."""
    x[0].addcmul_(decay[0], h)
    # The products of decays, each of which may underflow to 0 but never overflows.
    product = decay.clone()
    span = 1
    while span < len(x):
        # The right-hand sides overlap what is written.
        x[span:] += product[span:] * x[:-span]
        product[span:] = product[span:] * product[:-span]
        span *= 2


def _fold(size: int, args: Sequence[Tensor], in_dims: Sequence[int | None], axes: Sequence[int]) -> list[Tensor]:
    """Merge vmap's axis into the axis of models."""
    folded = []
    for arg, dim, axis in zip(args, in_dims, axes, strict=False):
        spread = arg.unsqueeze(axis).expand(*arg.shape[:axis], size, *arg.shape[axis:])
        folded.append((spread if dim is None else arg.movedim(dim, axis)).flatten(axis, axis + 1))
    return folded


def _unfold(size: int, outputs: Sequence[Tensor], axes: tuple[int, ...]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    unfolded = (out.unflatten(axis, (size, -1)) for out, axis in zip(outputs, axes, strict=True))
    return tuple(unfolded), axes
