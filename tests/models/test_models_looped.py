"""Any module in a loop: against loops written out, on a torch layer and on models of transformers."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from superpose.errors import InputError
from superpose.models import LoopedModel, NotFiniteState, backbone_spec, build_backbone


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def encoder_layer():
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)


def gpt2():
    return GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8, vocab_size=5)).eval()


BODIES = {
    "encoder": lambda: nn.Sequential(encoder_layer(), nn.LayerNorm(16)),
    "linear": lambda: nn.Linear(16, 16),
    "gpt2": gpt2,
}
INJECTIONS = {"add": lambda y, p: y + p, "mul": lambda y, p: y * p, None: lambda y, p: y}
bodies = pytest.mark.parametrize("name", list(BODIES))


def apply(body, x):
    return body(inputs_embeds=x).last_hidden_state if isinstance(body, GPT2Model) else body(x)


@bodies
@pytest.mark.parametrize("injection", list(INJECTIONS))
def test_loop_equals_the_iteration_written_out(name, injection):
    model = LoopedModel(BODIES[name](), injection)
    prompt = torch.randn(2, 6, 16)
    out = model(prompt, 4, return_all=True)
    state = apply(model.body, prompt)
    torch.testing.assert_close(model(prompt, 1).state, state)  # one loop is the body
    for iterate in out.iterates:
        torch.testing.assert_close(iterate, state)
        state = apply(model.body, INJECTIONS[injection](state, prompt))
    assert out.loops == 4
    torch.testing.assert_close(out.state, out.iterates[-1])


@bodies
def test_window_is_truncated_back_propagation(name):
    model = LoopedModel(BODIES[name]())
    prompt = torch.randn(2, 6, 16)
    with torch.no_grad():
        state = model(prompt, 3).state
    expected = []
    for _ in range(2):
        state = apply(model.body, state + prompt)
        expected.append(state)
    out = model(prompt, 5, grad_loops=2, return_all=True)
    assert out.iterates.shape == (2, 2, 6, 16)
    parameters = [p for p in model.parameters() if p.requires_grad and p.shape != (5, 16)]  # not GPT-2's unused ids
    # One channel: the mean square of a normed state is the same whatever the weights.
    found = torch.autograd.grad(out.iterates[..., 0].square().mean(), parameters)
    for mine, other in zip(
        found, torch.autograd.grad(torch.stack(expected)[..., 0].square().mean(), parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    whole = torch.autograd.grad(model(prompt, 5, return_all=True).iterates[3:, ..., 0].square().mean(), parameters)
    assert max((a - b).abs().max() for a, b in zip(whole, found, strict=True)) > 1e-5
    # A window longer than the loop is all of it.
    assert model(prompt, 3, grad_loops=9, return_all=True).iterates.shape[0] == 3


def test_it_is_the_looped_backbone_without_its_loop():
    spec = backbone_spec("looped", width=16, heads=2, loops=5, max_positions=8)
    looped = build_backbone(spec)
    prompt = torch.randn(2, 8, 16)

    class Once(nn.Module):
        def forward(self, x):
            return looped(x, loops=1)

    torch.testing.assert_close(LoopedModel(Once())(prompt, 5).state, looped(prompt))


def test_a_llama_layer_gets_its_rotary_positions_on_every_pass():
    config = LlamaConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=5)
    config._attn_implementation = "eager"
    layer = LlamaDecoderLayer(config, 0).eval()
    prompt = torch.randn(2, 6, 16)
    rotary = LlamaRotaryEmbedding(config)(prompt, torch.arange(6)[None])
    first = layer(prompt, position_embeddings=rotary)
    found = LoopedModel(layer)(prompt, 2, position_embeddings=rotary)
    torch.testing.assert_close(found.state, layer(first + prompt, position_embeddings=rotary))


def test_adapters_on_the_body_are_what_is_trained():
    peft = pytest.importorskip("peft")
    body = peft.get_peft_model(gpt2(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    model = LoopedModel(body)
    model(torch.randn(2, 6, 16), 5, grad_loops=2).state[..., 0].square().sum().backward()
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.grad is not None} == {"lora_A", "lora_B"}


def contraction(rate):
    linear = nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight.copy_(rate * torch.eye(4))
        linear.bias.zero_()
    return linear


def test_stops_at_the_fixed_point_and_says_after_how_many_loops():
    model = LoopedModel(contraction(0.5))
    prompt = torch.randn(3, 2, 4)
    out = model(prompt, 100, stop_when=1e-3)
    # Y_t = (1 - 2^-t) P, so the relative change is 2^-t / (1 - 2^-t), and 2^-10 / (1 - 2^-10) < 1e-3.
    assert out.loops == 10
    torch.testing.assert_close(out.state, (1 - 2.0**-10) * prompt)
    assert model(prompt, 6, stop_when=1e-3).loops == 6
    assert LoopedModel(contraction(1.0))(prompt, 20, stop_when=1).loops == 2


def test_slowest_sequence_decides_when_to_stop():
    class Rates(nn.Module):
        def forward(self, x):
            return x * torch.tensor([0.1, 0.9])[:, None, None]

    alone = LoopedModel(contraction(0.9))(torch.ones(1, 2, 4), 200, stop_when=1e-2).loops
    assert LoopedModel(Rates())(torch.ones(2, 2, 4), 200, stop_when=1e-2).loops == alone


@pytest.mark.parametrize("arguments", [{}, {"stop_when": 1e-3}, {"return_all": True}, {"grad_loops": 1}])
def test_a_diverging_state_is_named_by_its_loop(arguments):
    model = LoopedModel(contraction(1e20), None)
    # 1e20 after the first pass, then infinite.
    with pytest.raises(NotFiniteState, match="not finite after loop 2;") as caught:
        model(torch.ones(1, 1, 4), 9, **arguments)
    assert pickle.loads(pickle.dumps(caught.value)).loop == 2


def test_injection_of_ones_own_may_hold_parameters():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.full((16,), 0.5))

        def forward(self, state, inputs):
            return state + self.gate * inputs

    gate = Gate()
    model = LoopedModel(nn.Linear(16, 16), gate)
    prompt = torch.randn(2, 3, 16)
    model(prompt, 3).state.sum().backward()
    assert gate.gate.grad is not None and gate.gate.grad.abs().max() > 0
    again = LoopedModel(nn.Linear(16, 16), Gate())
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(again(prompt, 3).state, model(prompt, 3).state)


def test_bfloat16_autocast_stays_close():
    model = LoopedModel(BODIES["encoder"]()).eval()
    prompt = torch.randn(2, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(prompt, 4).state
    torch.testing.assert_close(low.float(), model(prompt, 4).state, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_loops": 0}, "loops is 0; allowed: 1 or more"),
        ({"n_loops": 3, "grad_loops": 0}, "grad_loops is 0; allowed: 1 or more"),
        ({"n_loops": 3, "stop_when": 0.0}, "stop_when is 0.0; allowed: a relative change above 0"),
        ({"n_loops": 3, "stop_when": float("nan")}, "stop_when is nan"),
        ({"n_loops": 3, "stop_when": 0.1, "grad_loops": 2}, "stop_when is 0.1 and grad_loops 2; allowed: one of them"),
    ],
)
def test_wrong_calls_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        LoopedModel(nn.Linear(4, 4))(torch.ones(1, 2, 4), **arguments)


def test_wrong_bodies_and_injections_are_refused():
    prompt = torch.ones(1, 2, 4)
    with pytest.raises(InputError, match=r"body returned \[1, 2, 5\]; allowed: a tensor of .* \[1, 2, 4\]"):
        LoopedModel(nn.Linear(4, 5))(prompt, 2)
    with pytest.raises(InputError, match="body returned tuple"):
        LoopedModel(nn.GRU(4, 4))(prompt, 2)
    with pytest.raises(InputError, match=r"injection returned shape \[1, 4, 4\]; allowed: \[1, 2, 4\]"):
        LoopedModel(nn.Linear(4, 4), lambda y, p: torch.cat([y, p], 1))(prompt, 2)
    with pytest.raises(InputError, match="injection is 'concat'; allowed: add, mul, None"):
        LoopedModel(nn.Linear(4, 4), "concat")
