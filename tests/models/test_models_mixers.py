"""Each mixer against an independent reference: transformers' code, PyTorch's kernels, or the formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad
from transformers import MambaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.mamba.modeling_mamba import MambaMixer

from superpose.errors import InputError
from superpose.models import Context, load_mamba_mixer_state, mixer, selective_scan
from superpose.models.mixers import base, scan
from superpose.models.mixers.attention import Attention, attend, visible
from superpose.models.mixers.h3 import H3
from superpose.models.mixers.linear_attention import LinearAttention
from superpose.models.mixers.mamba import Mamba


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_unknown_mixer_lists_what_exists():
    with pytest.raises(InputError, match="mixer is 'hyena'; allowed: attention, h3, linear-attention, mamba"):
        mixer("hyena", 16)


def test_a_taken_name_cannot_be_registered_again():
    with pytest.raises(InputError, match="mixer name 'mamba' is taken by Mamba"):
        base.register("mamba")(Mamba)


# --- attention


@pytest.mark.parametrize("length", [1, 20, 48, 49, 90])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_attend_equals_the_softmax_written_out(length, causal, padded):
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for _ in range(3))
    real = torch.rand(2, length) < 0.7 if padded else None
    triangle = causal and real is None
    mask = None if triangle else visible(length, length, causal, real, q.device)
    out = attend(q, k, v, mask, causal=triangle)
    for row in range(2):
        for t in range(length):
            seen = [s for s in range(length) if (s <= t or not causal) and (real is None or real[row, s] or s == t)]
            weights = torch.softmax(torch.stack([(q[row, :, t] * k[row, :, s]).sum(-1) for s in seen], -1) / 8**0.5, -1)
            torch.testing.assert_close(out[row, :, t], torch.einsum("hs,hsd->hd", weights, v[row][:, seen]))


def test_grouped_queries_equal_repeated_key_heads():
    grouped = Attention(24, heads=6, kv_heads=2)
    full = Attention(24, heads=6)
    q, k, v = grouped.qkv.weight.split((24, 8, 8))
    kb, vb = grouped.qkv.bias[24:].split((8, 8))
    spread = [t.unflatten(0, (2, 4)).repeat_interleave(3, 0).flatten(0, 1) for t in (k, v, kb, vb)]
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat((q, *spread[:2])))
        full.qkv.bias.copy_(torch.cat((grouped.qkv.bias[:24], *spread[2:])))
    full.out = grouped.out
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(grouped(x, Context())[0], full(x, Context())[0], rtol=1e-5, atol=1e-6)


def test_rotation_equals_llamas_and_only_distances_count():
    made = Attention(32, heads=4, positions="rope")
    x, places = torch.randn(2, 7, 32), torch.arange(7).expand(2, -1) + 3
    q, k = torch.randn(2, 7, 4, 8), torch.randn(2, 7, 4, 8)
    angle = places[..., None] / 10_000 ** (torch.arange(0, 8, 2) / 8)
    both = torch.cat((angle, angle), -1)
    expected = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), both.cos(), both.sin())
    for got, want in zip(made._turn(q, k, Context(positions=places), None), expected, strict=True):
        torch.testing.assert_close(got.transpose(1, 2), want, rtol=1e-5, atol=1e-5)
    near, _ = made(x, Context())
    far, _ = made(x, Context(positions=places + 50))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-5)
    stretched, _ = made(x, Context(positions=2 * places))
    assert (near - stretched).abs().max() > 1e-3


def test_attention_without_positions_forgets_the_order_of_what_it_sees():
    made, x = Attention(16, heads=2), torch.randn(1, 6, 16)
    shuffled = torch.cat((x[:, [3, 0, 4, 1, 2]], x[:, 5:]), 1)
    torch.testing.assert_close(made(x, Context())[0][:, -1], made(shuffled, Context())[0][:, -1])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"heads": 3}, "heads is 3; allowed: a positive divisor of 16"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads is 3; allowed: a positive divisor of 4"),
        ({"heads": 16, "positions": "rope"}, "1 channels per head; allowed: an even number"),
        ({"positions": "alibi"}, "positions is 'alibi'"),
    ],
)
def test_attention_refuses(knobs, message):
    with pytest.raises(InputError, match=message):
        Attention(16, **knobs)


# --- linear attention


@pytest.mark.parametrize("length", [5, 64, 150])
@pytest.mark.parametrize(
    ("feature", "normalise"), [("identity", "none"), ("identity", "positions"), ("elu", "weights"), ("elu", "none")]
)
@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_equals_its_double_sum(length, feature, normalise, causal):
    made = LinearAttention(12, heads=3, feature=feature, normalise=normalise).double()
    x = torch.randn(2, length, 12, dtype=torch.float64)
    q, k, v = made.qkv(x).unflatten(-1, (3, 3, 4)).unbind(2)
    if feature == "elu":
        q, k = F.elu(q) + 1, F.elu(k) + 1
    weights = torch.einsum("bthd,bshd->bhts", q, k)
    if causal:
        weights = weights.tril()
    if normalise == "weights":
        weights = weights / weights.sum(-1, keepdim=True)
    if normalise == "positions":
        weights = weights / (torch.arange(1, length + 1)[:, None] if causal else length)
    expected = made.out(torch.einsum("bhts,bshd->bthd", weights, v).flatten(2))
    torch.testing.assert_close(made(x, Context(causal=causal))[0], expected)


def test_linear_attention_refuses_to_divide_by_weights_of_both_signs():
    with pytest.raises(InputError, match="normalise is 'weights' with feature 'identity'"):
        LinearAttention(16, normalise="weights")
    with pytest.raises(InputError, match="feature is 'relu'"):
        LinearAttention(16, feature="relu")


# --- selective scan and Mamba


def scan_inputs(batch: int = 2, length: int = 11, channel: int = 3, state: int = 4):
    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    dt = F.softplus(draw(batch, length, channel))
    a = -torch.exp(draw(channel, state))
    return [draw(batch, length, channel), dt, a, draw(batch, length, state), draw(batch, length, state)], draw(
        batch, channel, state
    )


def scan_by_the_formula(u, dt, a, b, c, h):
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * a) * h + (dt[:, t] * u[:, t])[..., None] * b[:, t, None]
        outputs.append((h * c[:, t, None]).sum(-1))
    return torch.stack(outputs, 1), h


@pytest.mark.parametrize("doubling", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 11, 64])
def test_scan_and_its_gradients_equal_the_recurrence(monkeypatch, doubling, steps):
    inputs, initial = scan_inputs()
    monkeypatch.setattr(scan, "CPU_BLOCK", steps * 2 * 3 * 4)
    monkeypatch.setattr(scan, "GPU_STEPS", steps)
    leaves = [t.requires_grad_() for t in (*inputs, initial)]
    got, want = selective_scan(*leaves, doubling=doubling), scan_by_the_formula(*leaves)
    outer = [torch.randn_like(t) for t in want]
    for mine, reference in zip(got, want, strict=True):
        torch.testing.assert_close(mine, reference)
    # The last state is part of the loss: chunks of a sequence can be trained through.
    gradients = (torch.autograd.grad(outputs, leaves, outer) for outputs in (got, want))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference)
    # A gradient may arrive at one output only.
    for index, read in ((0, leaves), (1, leaves[:4])):
        alone = (torch.autograd.grad(run(*leaves)[index].sum(), read) for run in (selective_scan, scan_by_the_formula))
        for mine, reference in zip(*alone, strict=True):
            torch.testing.assert_close(mine, reference)


def test_scan_gradients_equal_finite_differences():
    inputs, initial = scan_inputs(1, 4, 2, 2)
    for doubling in (False, True):
        leaves = [t.clone().requires_grad_() for t in (*inputs, initial)]
        assert torch.autograd.gradcheck(lambda *t, d=doubling: selective_scan(*t, doubling=d), leaves)


def test_doubling_survives_decays_that_underflow():
    (u, dt, a, b, c), _ = scan_inputs(length=150)
    leaves = [t.float().requires_grad_() for t in (u, 40 * dt, a, b, c)]
    step, double = (selective_scan(*leaves, doubling=d)[0] for d in (False, True))
    torch.testing.assert_close(step, double, rtol=1e-4, atol=1e-4)
    gradients = (torch.autograd.grad(y.sum(), leaves) for y in (step, double))
    for mine, other in zip(*gradients, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_scan_gradients_inside_vmap_equal_one_by_one():
    many = [torch.stack(parts) for parts in zip(*(scan_inputs()[0] for _ in range(3)), strict=True)]

    def loss(*inputs):
        return selective_scan(*inputs)[0].square().sum()

    together = torch.vmap(grad(loss, argnums=(0, 1, 2, 3, 4)))(*many)
    shared = torch.vmap(grad(loss, argnums=2), in_dims=(0, 0, None, 0, 0))(*many[:2], many[2][0], *many[3:])
    for index in range(3):
        alone = grad(loss, argnums=(0, 1, 2, 3, 4))(*(t[index] for t in many))
        for got, want in zip(together, alone, strict=True):
            torch.testing.assert_close(got[index], want)
        rows = [t[index] for t in many]
        rows[2] = many[2][0]
        torch.testing.assert_close(shared[index], grad(loss, argnums=2)(*rows))


def test_scan_says_that_second_derivatives_do_not_exist():
    inputs, _ = scan_inputs()
    u = inputs[0].requires_grad_()
    (first,) = torch.autograd.grad(selective_scan(*inputs)[0].square().sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        first.sum().backward()


@pytest.mark.parametrize(("width", "length", "state"), [(32, 24, 16), (24, 60, 8)])
def test_mamba_equals_transformers_mixer_on_the_same_weights(width, length, state):
    theirs = MambaMixer(MambaConfig(hidden_size=width, state_size=state, time_step_rank=math.ceil(width / 16)), 0)
    ours = Mamba(width, state=state)
    load_mamba_mixer_state(ours, theirs.state_dict())
    x = torch.randn(4, length, width)
    results = []
    for run in (lambda x: ours(x, Context())[0], theirs):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    for (key, mine), (_, other) in zip(
        [("x", results[0][1]), *((k, p.grad) for k, p in sorted(ours.named_parameters()))],
        [("x", results[1][1]), *((k, p.grad) for k, p in sorted(theirs.named_parameters()))],
        strict=True,
    ):
        assert (mine - other).abs().max() < 1e-5 * (1 + other.abs().max()), key
    theirs.load_state_dict(ours.state_dict())


def test_mamba_mixer_state_of_other_sizes_is_refused():
    biased = MambaMixer(MambaConfig(hidden_size=32, use_bias=True), 0)
    with pytest.raises(InputError, match=r"in_proj.bias \(128,\), allowed: none"):
        load_mamba_mixer_state(Mamba(32), biased.state_dict())
    with pytest.raises(InputError, match=r"A_log \(64, 8\), allowed: \(64, 16\)"):
        load_mamba_mixer_state(Mamba(32), Mamba(32, state=8).state_dict())


def test_mamba_starts_as_the_paper_says():
    made = Mamba(64)
    made.init_weights("gpt2", 9)
    torch.testing.assert_close(made.A_log.exp()[5], torch.arange(1.0, 17.0))
    assert (made.D == 1).all()
    dt = F.softplus(made.dt_proj.bias)
    # Log-uniform between 1e-3 and 1e-1.
    assert dt.min() >= 0.99e-3 and dt.max() <= 1.01e-1 and 0.005 < dt.median() < 0.02
    assert made.dt_proj.weight.abs().max() <= 4**-0.5
    # kaiming_uniform(a=sqrt 5) is U(-1/sqrt(fan_in), ..), here over sqrt(9 branches).
    assert 0.9 / 3 < made.out_proj.weight.abs().max() * 128**0.5 <= 1 / 3


def test_mamba_refuses_sizes_below_one():
    with pytest.raises(InputError, match="state is 0"):
        Mamba(16, state=0)


# --- H3


@pytest.mark.parametrize("head_dim", [1, 4])
def test_h3_equals_its_two_recurrences(head_dim):
    made = H3(8, head_dim=head_dim, state=3, taps=3).double()
    x = torch.randn(2, 10, 8, dtype=torch.float64)
    heads = 8 // head_dim
    q, k, v = made.qkv(x).chunk(3, -1)
    shifted = torch.zeros_like(k)
    for t in range(10):
        for tap in range(3):
            if t - tap >= 0:
                shifted[:, t] += made.shift.weight[:, 0, 2 - tap] * k[:, t - tap]
    shifted = shifted + made.shift.bias
    q, k, v = (t.unflatten(-1, (heads, head_dim)) for t in (q, shifted, v))
    rate = torch.complex(-made.log_decay.exp(), made.frequency)
    decay = torch.exp(rate * made.log_dt.exp()[:, None])
    gain = (decay - 1) / rate * torch.complex(made.read_real, made.read_imag)
    state = torch.zeros(2, heads, head_dim, head_dim, 3, dtype=torch.complex128)
    outputs = []
    for t in range(10):
        pair = k[:, t, :, :, None] * v[:, t, :, None]
        state = decay[:, None, None] * state + pair[..., None]
        filtered = 2 * (gain[:, None, None] * state).sum(-1).real + made.skip[:, None, None] * pair
        outputs.append((q[:, t, :, :, None] * filtered).sum(2).flatten(1))
    torch.testing.assert_close(made(x, Context())[0], made.out(torch.stack(outputs, 1)))


def test_h3_refuses_heads_that_do_not_divide():
    with pytest.raises(InputError, match="head_dim is 3; allowed: a positive divisor of 16"):
        H3(16, head_dim=3)
