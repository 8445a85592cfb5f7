"""Reading few positions: the same outputs and gradients as computing all of them and picking."""

import pytest
import torch

from superpose.errors import InputError
from superpose.models import BACKBONES, Context, backbone_spec, build_backbone, mixer

WIDTH, BATCH, LENGTH = 16, 3, 9
READS = torch.tensor([1, 4, 8])


def results(backbone: torch.nn.Module, x: torch.Tensor, ctx: Context, apart: bool) -> list[torch.Tensor]:
    backbone.zero_grad()
    y = backbone(x, ctx, reads=READS) if apart else backbone(x, ctx)[:, READS]
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = (torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in backbone.parameters())
    return [y.detach(), *grads]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_reading_few_positions_changes_no_output_and_no_gradient(name: str, padded: bool) -> None:
    torch.manual_seed(0)
    spec = backbone_spec(name, width=WIDTH, heads=4, max_positions=LENGTH)
    backbone = build_backbone(spec)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(BATCH, LENGTH, WIDTH)
    padding = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    padding[1, :3] = False
    ctx = Context(padding=padding) if padded else Context()
    for apart, whole in zip(results(backbone, x, ctx, True), results(backbone, x, ctx, False), strict=True):
        torch.testing.assert_close(apart, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", ["attention", "mamba", "mlp"])
def test_a_stack_of_one_block_reads_too(last: str) -> None:
    torch.manual_seed(0)
    spec = backbone_spec("transformer-nope", width=WIDTH, heads=4, layout=(last,))
    backbone = build_backbone(spec)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    torch.testing.assert_close(backbone(x, reads=READS), backbone(x)[:, READS])


@pytest.mark.parametrize("knobs", [{}, {"kv_heads": 2}, {"positions": "rope"}, {"bias": False}])
@pytest.mark.parametrize("length", [LENGTH, 60])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_at_reads_is_attention_there(knobs: dict[str, object], length: int, causal: bool) -> None:
    torch.manual_seed(0)
    layer = mixer("attention", WIDTH, heads=4, **knobs)
    x = torch.randn(BATCH, length, WIDTH)
    ctx = Context(causal=causal)
    torch.testing.assert_close(layer(x, ctx, reads=READS)[0], layer(x, ctx)[0][:, READS])


def test_positions_before_the_last_layer_still_count() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(backbone_spec("transformer", width=WIDTH, heads=4, max_positions=LENGTH))
    x = torch.randn(BATCH, LENGTH, WIDTH)
    changed = x.clone()
    changed[:, 0, 0] += 1
    assert (backbone(changed, reads=READS) - backbone(x, reads=READS)).abs().amax(-1).min() > 0


def test_reads_and_a_state_exclude_each_other() -> None:
    layer = mixer("attention", WIDTH, heads=4)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    with pytest.raises(InputError, match="reads is given together with a state"):
        layer(x, Context(want_state=True), reads=READS)
