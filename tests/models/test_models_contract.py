"""What every registered mixer and every registered backbone must do; a new one is tested here by being registered."""

import copy

import pytest
import torch
from torch.func import functional_call, stack_module_state

from superpose.errors import InputError
from superpose.models import BACKBONES, MIXERS, BackboneSpec, Context, Mixer, backbone_spec, build_backbone, mixer

WIDTH, BATCH, LENGTH = 16, 3, 13

every_mixer = pytest.mark.parametrize("name", list(MIXERS))
every_backbone = pytest.mark.parametrize("name", list(BACKBONES))


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(name: str) -> Mixer:
    made = mixer(name, WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def sequence(batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    return torch.randn(batch, length, WIDTH)


def test_the_mixers_and_backbones_of_the_laboratory_are_registered():
    assert {"attention", "linear-attention", "mamba", "h3"} <= MIXERS.keys()
    assert {"transformer", "mamba", "standard-hybrid", "mambaformer", "looped", "h3"} <= BACKBONES.keys()


@every_mixer
def test_shape_is_kept_and_a_state_comes_only_when_wanted(name):
    made, x = make(name), sequence()
    y, state = made(x, Context())
    assert y.shape == x.shape and y.dtype == x.dtype and state is None
    _, state = made(x, Context(want_state=True))
    assert state is not None
    before = made.initial_state(BATCH)
    assert before.keys() == state.keys()
    assert all(len(tensor) == BATCH for tensor in (*before.values(), *state.values()))


@every_mixer
@pytest.mark.parametrize("pieces", [[1] * LENGTH, [5, 1, 7], [LENGTH]])
def test_a_sequence_in_pieces_equals_the_parallel_path(name, pieces):
    made, x = make(name), sequence()
    whole, _ = made(x, Context())
    state, outputs = made.initial_state(BATCH), []
    for piece in x.split(pieces, dim=1):
        y, state = made(piece, Context(), state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-5)


@every_mixer
def test_the_state_of_the_parallel_path_continues_the_sequence(name):
    made, x = make(name), sequence()
    whole, _ = made(x, Context())
    _, state = made(x[:, :6], Context(want_state=True))
    rest, _ = made(x[:, 6:], Context(), state)
    torch.testing.assert_close(rest, whole[:, 6:], rtol=0, atol=1e-5)


@every_mixer
def test_states_can_be_reordered_as_beams_are(name):
    made, x = make(name), sequence()
    order = torch.tensor([2, 0])
    _, state = made(x[:, :6], Context(want_state=True))
    picked, _ = made(x[order, 6:], Context(), {key: value[order] for key, value in state.items()})
    torch.testing.assert_close(picked, made(x[order], Context())[0][:, 6:], rtol=0, atol=1e-5)


@every_mixer
@pytest.mark.parametrize("length", [LENGTH, 70])
def test_causal_outputs_depend_on_nothing_later_and_on_something_earlier(name, length):
    made, x = make(name), sequence(length=length)
    changed = x.clone()
    changed[:, 7] += 1.0
    change = (made(changed, Context())[0] - made(x, Context())[0]).abs().amax((0, 2))
    assert change[:7].max() < 1e-5
    assert (change[7:] > 1e-5).all()


@every_mixer
def test_padding_changes_nothing_at_real_tokens(name):
    made, x = make(name), sequence(batch=1)
    alone, _ = made(x, Context())
    junk = 5 * torch.randn(1, 4, WIDTH)
    for left in (True, False):
        padded = torch.cat((junk, x) if left else (x, junk), 1)
        real = torch.ones(1, LENGTH + 4, dtype=torch.bool)
        real[:, slice(0, 4) if left else slice(LENGTH, None)] = False
        y, _ = made(padded, Context(padding=real))
        assert y.isfinite().all()
        torch.testing.assert_close(y[real], alone[0], rtol=0, atol=1e-5)


@every_mixer
def test_bidirectional_mixers_look_forward_and_the_others_refuse(name):
    made, x = make(name), sequence()
    if not made.bidirectional:
        with pytest.raises(InputError, match="causal is False"):
            made(x, Context(causal=False))
        return
    changed = x.clone()
    changed[:, -1] += 1.0
    assert ((made(changed, Context(causal=False))[0] - made(x, Context(causal=False))[0])[:, 0].abs() > 1e-6).any()


@every_mixer
def test_bfloat16_follows_float32(name):
    made, x = make(name), sequence()
    exact, _ = made(x, Context())
    half = copy.deepcopy(made).bfloat16()
    y, state = half(x.bfloat16(), Context(want_state=True))
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert half(x[:, :1].bfloat16(), Context(), state)[0].dtype == torch.bfloat16


@every_mixer
def test_autocast_runs_and_gives_gradients(name):
    made, x = make(name), sequence().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = made(x, Context())
    y.float().square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@every_mixer
@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("length", [LENGTH, 70])
def test_several_models_under_vmap_equal_one_by_one(name, length):
    models = [make(name) for _ in range(3)]
    x = torch.randn(3, 2, length, WIDTH)
    stacked, buffers = stack_module_state(models)
    body = copy.deepcopy(models[0]).to("meta")

    def run(parameters, own_buffers, inputs):
        return functional_call(body, (parameters, own_buffers), (inputs, Context()))[0]

    together = torch.vmap(run)(stacked, buffers, x)
    gradients = torch.autograd.grad(together.square().sum(), list(stacked.values()))
    for index, made in enumerate(models):
        alone, _ = made(x[index], Context())
        torch.testing.assert_close(together[index], alone, rtol=1e-4, atol=1e-5)
        expected = torch.autograd.grad(alone.square().sum(), [made.get_parameter(key) for key in stacked])
        for got, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got[index], want, rtol=1e-3, atol=1e-4 * (1 + float(want.abs().max())))


@every_mixer
def test_every_parameter_and_the_input_get_a_gradient(name):
    made, x = make(name), sequence().requires_grad_()
    made(x, Context())[0].square().sum().backward()
    for key, parameter in (("x", x), *made.named_parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


@every_mixer
def test_a_wrong_width_or_knob_is_refused(name):
    with pytest.raises(InputError, match="width is 0"):
        mixer(name, 0)
    with pytest.raises(InputError, match=f"knob of mixer '{name}' is 'colour'"):
        mixer(name, WIDTH, colour=1)


def build(name: str, **overrides):
    spec = backbone_spec(name, width=WIDTH, heads=2, **{"max_positions": 20, **overrides})
    made = build_backbone(spec)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


@every_backbone
def test_backbone_is_causal_and_differentiable(name):
    made, x = build(name), sequence().requires_grad_()
    y = made(x)
    assert y.shape == x.shape and y.isfinite().all()
    (gradient,) = torch.autograd.grad(y[:, 5].square().sum(), x)
    assert gradient[:, 6:].abs().max() < 1e-4 * gradient.abs().max()
    assert (gradient[:, :6].abs().amax((0, 2)) > 0).all()


@every_backbone
@pytest.mark.parametrize("pieces", [[1] * LENGTH, [6, 7]])
def test_backbone_in_pieces_equals_at_once(name, pieces):
    made, x = build(name), sequence()
    if made.spec.read == "prefix":
        with pytest.raises(InputError, match="read is 'prefix'"):
            made.extend(x)
        return
    state, outputs = None, []
    for piece in x.split(pieces, dim=1):
        y, state = made.extend(piece, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), made(x), rtol=0, atol=2e-5)


@every_backbone
def test_backbone_ignores_left_padding(name):
    made, x = build(name), sequence()
    real = torch.ones(BATCH, LENGTH + 3, dtype=torch.bool)
    real[:, :3] = False
    padded = torch.cat((torch.randn(BATCH, 3, WIDTH), x), 1)
    torch.testing.assert_close(made(padded, Context(padding=real))[:, 3:], made(x), rtol=0, atol=2e-5)
    if made.spec.read == "causal":
        _, state = made.extend(padded[:, :7], None, real[:, :7])
        rest, _ = made.extend(padded[:, 7:], state)
        torch.testing.assert_close(rest, made(x)[:, 4:], rtol=0, atol=2e-5)


@every_backbone
def test_backbone_reads_only_what_is_asked(name):
    made, x = build(name), sequence()
    reads = torch.tensor([2, 9, 12])
    torch.testing.assert_close(made(x, reads=reads), made(x)[:, reads], rtol=0, atol=1e-6)


@every_backbone
def test_backbone_returns_its_last_iterates(name):
    made, x = build(name), sequence()
    every = made(x, loops=4, return_all=True)
    assert every.shape == (4, *x.shape)
    torch.testing.assert_close(made(x, loops=4, grad_loops=2, return_all=True), every[2:], rtol=0, atol=1e-6)
    torch.testing.assert_close(made(x, loops=2), every[1], rtol=0, atol=1e-6)
    assert made(x, loops=2, grad_loops=9, return_all=True).shape[0] == 2


@every_backbone
def test_backbone_refuses_wrong_loops_and_long_prompts(name):
    made, x = build(name, max_positions=LENGTH - 1, positions="learned"), sequence()
    for argument in ("loops", "grad_loops"):
        with pytest.raises(InputError, match=f"{argument} is 0; allowed: 1 or more"):
            made(x, **{argument: 0})
    with pytest.raises(InputError, match="the prompt has 13 positions; allowed: 12"):
        made(x)


@every_backbone
def test_specification_survives_the_round_trip_to_json_data(name):
    spec = backbone_spec(name, width=WIDTH, heads=2, depth=3)
    assert BackboneSpec.from_dict(spec.to_dict()) == spec
    repeats = BACKBONES[name]
    assert spec.layout == repeats.first + repeats.repeat * 3
