"""Backbones against GPT-2, against loops written out, and against the papers' parameter counts."""

import copy
import dataclasses

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from superpose.errors import InputError
from superpose.models import (
    BACKBONES,
    Architecture,
    BackboneSpec,
    Context,
    ContinuousLearner,
    backbone_spec,
    build_backbone,
    count_parameters,
)


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_transformer_equals_gpt2_on_the_same_weights():
    theirs = GPT2Model(
        GPT2Config(
            n_embd=32, n_layer=3, n_head=4, n_positions=24, vocab_size=5, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
        )
    ).eval()
    ours = build_backbone(backbone_spec("transformer", width=32, depth=3, heads=4, max_positions=24))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        ours.positions.weight.copy_(theirs.wpe.weight)
        ours.norm.load_state_dict(theirs.ln_f.state_dict())
        for block, mixing, mlp in zip(theirs.h, ours.blocks[::2], ours.blocks[1::2], strict=True):
            mixing.norm.load_state_dict(block.ln_1.state_dict())
            mlp.norm.load_state_dict(block.ln_2.state_dict())
            for linear, conv in (
                (mixing.inner.qkv, block.attn.c_attn),
                (mixing.inner.out, block.attn.c_proj),
                (mlp.inner.up, block.mlp.c_fc),
                (mlp.inner.down, block.mlp.c_proj),
            ):
                linear.weight.copy_(conv.weight.T)
                linear.bias.copy_(conv.bias)
    x = torch.randn(2, 24, 32)
    torch.testing.assert_close(ours(x), theirs(inputs_embeds=x).last_hidden_state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "heads", "depth", "dim", "parameters"),
    [
        ("looped", 256, 8, 1, 20, 795_905),
        ("transformer", 256, 8, 12, 20, 9_483_265),
        ("looped", 32, 4, 1, 3, 12_929),
        ("transformer", 32, 4, 12, 3, 152_673),
    ],
)
def test_parameters_are_the_papers(name, width, heads, depth, dim, parameters):
    spec = backbone_spec(name, width=width, heads=heads, depth=depth, max_positions=203)
    learner = ContinuousLearner(spec, dim, 1)
    assert count_parameters(learner, positions=False) == parameters
    assert count_parameters(learner) == parameters + 203 * width


def test_equal_depth_is_nearly_equal_size():
    sizes = {
        name: count_parameters(build_backbone(backbone_spec(name, width=64, depth=4)), positions=False)
        for name in ("transformer", "linear-transformer", "mamba", "mambaformer", "h3")
    }
    assert max(sizes.values()) < 1.35 * min(sizes.values()), sizes


def test_layouts_are_the_mambaformer_cards():
    layouts = {name: backbone_spec(name, depth=2).layout for name in BACKBONES}
    assert layouts["mamba"] == ("mamba",) * 4
    assert layouts["standard-hybrid"] == ("attention", "mamba") * 2
    assert layouts["mambaformer"] == ("mamba", *("attention", "mamba") * 2)
    assert layouts["mamba-transformer"] == ("mamba", *("attention", "mlp") * 2)
    placed = {name for name in BACKBONES if backbone_spec(name).positions == "learned"}
    assert {"transformer", "standard-hybrid", "looped"} <= placed and not {"mamba", "mambaformer", "h3"} & placed


def noisy(spec: BackboneSpec):
    made = build_backbone(spec)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("injection", ["add", "mul", None])
def test_loop_equals_the_papers_iteration(injection):
    spec = backbone_spec("looped", width=16, heads=2, injection=injection, max_positions=9)
    looped = noisy(spec)
    once = copy.deepcopy(looped)
    once.spec = dataclasses.replace(spec, loops=1, injection=None)
    prompt = torch.randn(2, 9, 16)
    state = {"add": torch.zeros_like(prompt), "mul": torch.ones_like(prompt), None: prompt}[injection]
    iterates = looped(prompt, loops=5, return_all=True)
    for iterate in iterates:
        given = {"add": state + prompt, "mul": state * prompt, None: state}[injection]
        # The body re-adds positions and ends in the final norm on every pass.
        state = looped.norm(run_blocks(looped, given + looped.positions.weight))
        torch.testing.assert_close(iterate, state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(looped(prompt, loops=1), once(prompt))


def run_blocks(made, x):
    for block in made.blocks:
        x, _ = block(x, Context())
    return x


def test_norm_outside_the_loop_is_applied_to_what_is_read_only():
    made = noisy(backbone_spec("looped", width=16, heads=2, norm_in_loop=False, positions="none"))
    prompt = torch.randn(2, 5, 16)
    state = run_blocks(made, run_blocks(made, prompt) + prompt)
    torch.testing.assert_close(made(prompt, loops=2, return_all=True)[1], made.norm(state))
    _, cached = made.extend(prompt[:, :3], loops=2)
    rest, _ = made.extend(prompt[:, 3:], cached, loops=2)
    torch.testing.assert_close(rest, made.norm(state)[:, 3:], rtol=1e-5, atol=1e-5)


def test_gradient_window_is_truncated_back_propagation():
    made = noisy(backbone_spec("looped", width=16, heads=2, positions="none"))
    prompt = torch.randn(2, 5, 16)
    windowed = made(prompt, loops=6, grad_loops=2, return_all=True).square().mean()
    with torch.no_grad():
        state = made(prompt, loops=4)
    expected = []
    for _ in range(2):
        state = made.norm(run_blocks(made, state + prompt))
        expected.append(state)
    reference = torch.stack(expected).square().mean()
    parameters = list(made.parameters())
    for mine, other in zip(
        torch.autograd.grad(windowed, parameters), torch.autograd.grad(reference, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    whole = torch.autograd.grad(made(prompt, loops=6).square().mean(), parameters)
    last = torch.autograd.grad(made(prompt, loops=6, grad_loops=1).square().mean(), parameters)
    assert max((a - b).abs().max() for a, b in zip(whole, last, strict=True)) > 1e-5


def test_first_loops_leave_no_graph():
    made = noisy(backbone_spec("looped", width=16, heads=2))
    assert nodes(made(torch.randn(1, 4, 16), loops=50, grad_loops=1)) < 1.2 * nodes(
        made(torch.randn(1, 4, 16), loops=1)
    )


def nodes(tensor: torch.Tensor) -> int:
    seen, queue = set(), [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [after for after, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("positions", ["none", "learned", "rope"])
def test_prefix_reading_equals_one_bidirectional_pass_per_prefix(positions):
    causal = noisy(backbone_spec("transformer", width=16, heads=2, positions=positions, max_positions=8))
    encoder = build_backbone(dataclasses.replace(causal.spec, read="prefix"))
    encoder.load_state_dict(causal.state_dict())
    x = torch.randn(2, 8, 16)
    expected = torch.stack([causal(x[:, : t + 1], Context(causal=False))[:, t] for t in range(8)], 1)
    torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-5)
    assert (encoder(x) - causal(x))[:, 2:].abs().max() > 1e-3
    # The first token sees itself in both modes.
    torch.testing.assert_close(encoder(x)[:, 0], causal(x)[:, 0], rtol=1e-4, atol=1e-5)


def test_weights_start_as_gpt2s_or_as_pytorchs():
    made = build_backbone(backbone_spec("transformer", width=128, heads=4, depth=4))
    attention, mlp = made.blocks[0].inner, made.blocks[1].inner
    for weight in (attention.qkv.weight, mlp.up.weight, made.positions.weight):
        assert abs(weight.detach().std().item() - 0.02) < 0.001
    for weight in (attention.out.weight, mlp.down.weight):
        assert abs(weight.detach().std().item() - 0.02 / 8**0.5) < 0.0005
    hybrid = build_backbone(backbone_spec("mambaformer", width=128, heads=4, depth=4))
    mamba, attention = hybrid.blocks[0].inner, hybrid.blocks[1].inner
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)), and the Mamba output over sqrt(9 blocks).
    assert 0.95 < attention.out.weight.abs().max() * 128**0.5 <= 1.0
    assert 0.95 / 3 < mamba.out_proj.weight.abs().max() * 256**0.5 <= 1 / 3
    assert not attention.qkv.bias.any() and mamba.dt_proj.bias.max() < -2.0


def test_a_new_architecture_is_one_line(monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", Architecture("H3 between attention", ("attention", "h3"), first=("mlp",)))
    made = build_backbone(backbone_spec("mine", width=16, depth=1))
    assert made(torch.randn(1, 4, 16)).shape == (1, 4, 16)


def test_knobs_reach_their_mixers():
    spec = backbone_spec("mambaformer", width=16, heads=4, knobs={"mamba": {"state": 8}, "attention": {"kv_heads": 2}})
    made = build_backbone(spec)
    assert made.blocks[0].inner.state == 8 and made.blocks[1].inner.kv_heads == 2


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("rnn", {}, "backbone is 'rnn'; allowed: transformer, "),
        ("transformer", {"deepness": 3}, "backbone field is 'deepness'"),
        ("transformer", {"depth": 0}, "depth is 0"),
        ("transformer", {"width": 30, "heads": 4}, "heads is 4; allowed: a positive divisor of 30"),
        ("transformer", {"layout": ("attention", "ssm")}, "layout block is 'ssm'; allowed: attention, h3, .*mlp"),
        ("transformer", {"layout": ()}, "layout is empty"),
        ("looped", {"loops": 0}, "loops is 0"),
        ("looped", {"injection": "concat"}, "injection is 'concat'; allowed: None, add, mul"),
        ("mamba", {"read": "prefix"}, "read is 'prefix' with mixer 'mamba'.*allowed: attention, linear-attention"),
        ("mamba", {"positions": "rope"}, "positions is 'rope' with layout"),
        ("mamba", {"knobs": {"mamba": {"states": 8}}}, "knob of mixer 'mamba' is 'states'; allowed: state, conv"),
        ("transformer", {"positions": "alibi"}, "positions is 'alibi'"),
        ("transformer", {"init": "zeros"}, "init is 'zeros'"),
        ("transformer", {"norm": "batch"}, "norm is 'batch'"),
    ],
)
def test_wrong_specifications_are_refused(name, overrides, message):
    with pytest.raises(InputError, match=message):
        backbone_spec(name, **{"width": 16, **overrides})


def test_specification_data_with_missing_or_unknown_fields_is_refused():
    data = backbone_spec("transformer").to_dict()
    with pytest.raises(InputError, match="backbone field is 'colour'"):
        BackboneSpec.from_dict(data | {"colour": 1})
    with pytest.raises(InputError, match="allowed: also width"):
        BackboneSpec.from_dict({"name": "a", "layout": ["mlp"]})


def test_wrong_contexts_and_states_are_refused():
    made = build_backbone(backbone_spec("looped", width=16, max_positions=6))
    x = torch.randn(2, 4, 16)
    with pytest.raises(InputError, match=r"padding has shape \[2, 3\]; allowed: \[2, 4\]"):
        made(x, Context(padding=torch.ones(2, 3, dtype=torch.bool)))
    with pytest.raises(InputError, match="the prompt has 10 positions; allowed: 6"):
        made(x, Context(positions=torch.arange(4).expand(2, -1) + 6))
    _, state = made.extend(x, loops=3)
    with pytest.raises(InputError, match="loops is 2; allowed: 3"):
        made.extend(x, state, loops=2)
    with pytest.raises(InputError, match="the prompt has 8 positions; allowed: 6"):
        made.extend(x, state, loops=3)
