"""Written-down weights take the step of the formula; the laboratory's layers, H3 and peft agree; probes read it off."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from superpose.errors import InputError
from superpose.models import (
    H3ICL,
    PGD,
    Context,
    LinearAttentionICL,
    PromptLearner,
    WeightedPGD,
    mixer,
    recover_preconditioner,
)
from superpose.tasks import DriftDesign, IIDDesign
from superpose.theory import sample_weights
from superpose.training import StackedModels, train_in_context

DIM, N = 3, 6


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def prompts(generator):
    return IIDDesign(DIM, N, noise=0.3).sample(32, generator).inputs


@pytest.fixture
def matrix(generator):
    return torch.randn(DIM, DIM, generator=generator)


def by_hand(prompts, matrix, weights=None):
    """The step, one prompt at a time."""
    rows = []
    for prompt in prompts:
        x, y, query = prompt[:-1, :-1], prompt[:-1, -1], prompt[-1, :-1]
        rows.append(query @ matrix @ x.T @ (y if weights is None else weights * y))
    return torch.stack(rows)


def test_pgd_is_the_formula(prompts, matrix):
    torch.testing.assert_close(PGD(DIM, matrix)(prompts), by_hand(prompts, matrix))


@pytest.mark.parametrize("normalise", ["none", "positions"])
def test_attention_with_written_weights_takes_the_step(prompts, matrix, normalise):
    layer = LinearAttentionICL(DIM, normalise=normalise)
    layer.set_preconditioner(matrix, n=N)
    torch.testing.assert_close(layer(prompts), by_hand(prompts, matrix), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalise", ["none", "positions"])
def test_h3_with_written_weights_takes_the_weighted_step(prompts, matrix, generator, normalise):
    weights = torch.rand(N, generator=generator)
    layer = H3ICL(DIM, N, normalise=normalise)
    layer.set_preconditioner(matrix, weights)
    torch.testing.assert_close(layer(prompts), by_hand(prompts, matrix, weights), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(WeightedPGD(DIM, N, matrix, weights)(prompts), by_hand(prompts, matrix, weights))


def test_shorter_prompts_have_the_weights_of_the_newest_examples(prompts, matrix, generator):
    weights = torch.rand(N, generator=generator)
    h3, step = H3ICL(DIM, N), WeightedPGD(DIM, N, matrix, weights)
    h3.set_preconditioner(matrix, weights)
    short = prompts[:, 2:]
    wanted = by_hand(short, matrix, weights[2:])
    torch.testing.assert_close(h3(short), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step(short), wanted)


def test_attention_is_the_papers_formula_with_the_query_masked(prompts):
    layer = LinearAttentionICL(DIM, seed=3)
    q, k, v = layer.mixer.qkv.weight.detach().chunk(3)
    rows, last = prompts[:, :-1], prompts[:, -1]
    value = (layer.read.weight.detach() @ v)[0]
    wanted = torch.einsum("bi,ji,jk,bnk,bnl,l->b", last, q, k, rows, rows, value)
    torch.testing.assert_close(layer(prompts), wanted, rtol=1e-4, atol=1e-5)


def test_h3_with_one_filter_is_the_laboratorys_h3(prompts):
    lab = mixer("h3", DIM + 1, taps=1)
    ours = H3ICL(DIM, N)
    with torch.no_grad():
        for name, tensor in lab.named_parameters():
            if name.endswith("bias"):
                tensor.zero_()
            elif name.split(".")[0] in ("log_dt", "log_decay", "frequency", "read_real", "read_imag", "skip"):
                tensor.copy_(tensor[:1].expand_as(tensor).clone())
        lab.shift.weight.fill_(1.0)
        ours.qkv.weight.copy_(lab.qkv.weight)
        ours.read.weight.copy_(lab.out.weight[:1])
        # The filter of the laboratory's state-space model is its answer to an impulse.
        impulse = torch.zeros(1, DIM + 1, 1, 1, N + 1)
        impulse[..., 0] = 1
        response, _ = lab._diagonal(impulse, lab.initial_state(1)["ssm"], keep=False)
        ours.filter.copy_(response[0, 0, 0, 0])
        wanted = lab(prompts, Context())[0][:, -1, 0]
    torch.testing.assert_close(ours(prompts), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalise", ["none", "positions"])
def test_probing_reads_off_what_was_written(matrix, generator, normalise):
    weights = torch.rand(N, generator=generator)
    attention, h3 = LinearAttentionICL(DIM, normalise=normalise), H3ICL(DIM, N, normalise=normalise)
    attention.set_preconditioner(matrix, n=N)
    h3.set_preconditioner(matrix, weights)
    torch.testing.assert_close(recover_preconditioner(attention, N), matrix.expand(N, -1, -1), rtol=1e-4, atol=1e-5)
    maps = recover_preconditioner(h3, N)
    torch.testing.assert_close(maps, weights[:, None, None] * matrix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sample_weights(maps)[1], weights / weights.mean(), rtol=1e-4, atol=1e-5)


def test_probing_a_random_layer_finds_the_part_odd_in_the_labels(prompts):
    layer = H3ICL(DIM, N, seed=1)
    flipped = prompts.clone()
    flipped[:, :, -1] *= -1
    odd = (layer(prompts) - layer(flipped)) / 2
    maps = recover_preconditioner(layer, N)
    wanted = torch.einsum("bq,nqe,bne,bn->b", prompts[:, -1, :-1], maps, prompts[:, :-1, :-1], prompts[:, :-1, -1])
    torch.testing.assert_close(odd, wanted, rtol=1e-3, atol=1e-4)


def test_probing_a_piece_at_a_time_changes_nothing(monkeypatch):
    layer = LinearAttentionICL(DIM, seed=0)
    whole = recover_preconditioner(layer, N)
    monkeypatch.setattr("superpose.models.constructed.linear_icl.PROBED", 1)
    largest = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    layer.register_forward_pre_hook(count)
    torch.testing.assert_close(recover_preconditioner(layer, N), whole)
    assert largest == 2 * DIM


def test_a_rank_bounds_the_map_of_random_and_of_trained_weights():
    layer = LinearAttentionICL(DIM, rank=1, seed=0)
    design = IIDDesign(DIM, N)
    for _ in range(2):
        values = torch.linalg.svdvals(recover_preconditioner(layer, N)[0])
        assert values[1] < 1e-5 * values[0]
        train_in_context(PromptLearner(layer), design, seed=0, steps=3, batch=8, lr=1e-2)
    copy = LinearAttentionICL(DIM, rank=1)
    copy.load_state_dict(layer.state_dict())
    drawn = design.sample(4, torch.Generator().manual_seed(0)).inputs
    torch.testing.assert_close(copy(drawn), layer(drawn))
    layer.set_preconditioner(torch.ones(DIM, DIM))
    torch.testing.assert_close(layer(drawn), by_hand(drawn, torch.ones(DIM, DIM)), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="preconditioner has rank 3; allowed: 1 or less"):
        layer.set_preconditioner(torch.eye(DIM))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(prompts, matrix, dtype):
    for layer in (LinearAttentionICL(DIM), H3ICL(DIM, N)):
        layer.set_preconditioner(matrix, *([torch.ones(N)] if isinstance(layer, H3ICL) else []))
        found = layer.to(dtype)(prompts.to(dtype))
        assert found.dtype == dtype
        scale = float(by_hand(prompts, matrix).abs().max())
        tolerance = 1e-5 if dtype == torch.float64 else 0.05
        torch.testing.assert_close(found.float(), by_hand(prompts, matrix), rtol=tolerance, atol=tolerance * scale)


def test_seeds_give_equal_weights_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (H3ICL(DIM, N, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.qkv.weight, same.qkv.weight) and not torch.equal(one.qkv.weight, other.qkv.weight)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("build", [lambda s: LinearAttentionICL(DIM, 2, seed=s), lambda s: H3ICL(DIM, N, seed=s)])
def test_learners_are_read_at_the_query_and_stack(prompts, build):
    layers = [build(s) for s in (0, 1)]
    reads = torch.tensor([N])
    stacked = StackedModels([PromptLearner(layer) for layer in layers])(prompts.expand(2, -1, -1, -1), reads=reads)
    for found, layer in zip(stacked, layers, strict=True):
        assert found.shape == (32, 1, 1)
        torch.testing.assert_close(found[:, 0, 0], layer(prompts), rtol=1e-4, atol=1e-5)


def test_training_moves_h3_towards_its_optimum(generator):
    design = DriftDesign(2, 6, correlation=0.95)
    layer = H3ICL(2, 6, normalise="positions", seed=0)
    train_in_context(PromptLearner(layer), design, seed=0, steps=250, batch=128, lr=2e-2, clip=5.0)
    drawn = design.sample(4000, generator)
    error = (layer(drawn.inputs) - drawn.targets[:, 0, 0]).square().mean().detach()
    assert float(error) < 1.15 * design.optimal_risk() < 1.5
    weights = sample_weights(recover_preconditioner(layer, 6))[1]
    assert weights[-1] > weights[0]


def test_peft_adapts_the_step_and_only_its_adapter(prompts, matrix):
    layer = PGD(DIM, matrix)
    adapted = get_peft_model(layer, LoraConfig(r=1, lora_alpha=1, target_modules=["w"]))
    torch.testing.assert_close(adapted(prompts), by_hand(prompts, matrix))
    trainable = [name for name, p in layer.named_parameters() if p.requires_grad]
    assert trainable == ["w.lora_A.default.weight", "w.lora_B.default.weight"]
    with torch.no_grad():
        layer.w.lora_A["default"].weight.copy_(torch.ones(1, DIM))
        layer.w.lora_B["default"].weight.copy_(torch.ones(DIM, 1))
    torch.testing.assert_close(adapted(prompts), by_hand(prompts, matrix + 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, m: PGD(0), r"dim is 0"),
        (lambda p, m: PGD(DIM, torch.eye(2)), r"preconditioner has shape \[2, 2\]; allowed: \[3, 3\]"),
        (lambda p, m: PGD(DIM)(p[..., 1:]), r"prompts has shape \[32, 7, 3\]; allowed: \[batch, n \+ 1, 4\]"),
        (lambda p, m: PGD(DIM)(p[:, :1]), r"allowed: .* with n >= 1"),
        (lambda p, m: PGD(DIM)(p + 1), r"prompts has 32 with a label in the query's row; allowed: 0 there"),
        (lambda p, m: WeightedPGD(DIM, 2)(p), r"prompts has 6 examples; allowed: 2 or fewer, the module's n"),
        (lambda p, m: WeightedPGD(DIM, 2, weights=torch.ones(3)), r"weights has shape \[3\]; allowed: \[2\]"),
        (lambda p, m: WeightedPGD(DIM, 0), r"n is 0"),
        (lambda p, m: H3ICL(DIM, 0), r"n_max is 0"),
        (lambda p, m: H3ICL(DIM, 2)(p), r"prompts has 6 examples; allowed: 2 or fewer, the module's n_max"),
        (lambda p, m: H3ICL(DIM, 2).set_preconditioner(m, torch.ones(3)), r"prompts has 3 examples"),
        (lambda p, m: H3ICL(DIM, 2).set_preconditioner(m[:2], torch.ones(2)), r"preconditioner has shape \[2, 3\]"),
        (lambda p, m: H3ICL(DIM, 2, normalise="softmax"), r"normalise is 'softmax'; allowed: none, positions"),
        (lambda p, m: LinearAttentionICL(DIM, rank=4), r"rank is 4; allowed: 1 to 3"),
        (lambda p, m: LinearAttentionICL(DIM).set_preconditioner(m[:2]), r"preconditioner has shape \[2, 3\]"),
        (lambda p, m: LinearAttentionICL(DIM, normalise="positions").set_preconditioner(m), r"n is None; allowed"),
        (lambda p, m: recover_preconditioner(PGD(DIM), 0), r"n is 0"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, message, prompts, matrix):
    with pytest.raises(InputError, match=message):
        call(prompts, matrix)
