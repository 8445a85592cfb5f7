"""The parts from which the Newton transformers are put together."""

import pytest
import torch

from superpose.errors import InputError
from superpose.models import (
    Head,
    LinearAttentionBlock,
    LinearAttentionNetwork,
    RowLayout,
    Units,
    clear_rows,
    curvature_knots,
    even_knots,
    gate,
    relu_function,
    relu_multiply,
    root_knots,
    triple_product_head,
    triple_products,
)

LAYOUT = RowLayout(flag=1, x=1, y=3, out=3, one=1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(tokens=7, **rows):
    z = torch.zeros(2, LAYOUT.rows, tokens, dtype=torch.float64)
    for name, value in rows.items():
        z[:, LAYOUT[name]] = value
    return z


def naive(z, heads, units):
    """The block as the paper writes it: dense matrices, one head after another, the attention matrix first."""
    out = z.clone()
    for value, key, query in heads:
        out += (value @ z) @ ((key @ z).mT @ (query @ z))
    if units is not None:
        out = out + units.down @ torch.relu(units.up @ out)
    return out


def test_rows_have_names():
    assert list(LAYOUT) == ["flag", "x", "y", "out", "one"] and LAYOUT.rows == 9 and LAYOUT.size("y") == 3
    z = normal(9, 4)
    torch.testing.assert_close(LAYOUT.read(z, "y"), z[2:5])
    torch.testing.assert_close(LAYOUT.combine({"y": 2.0, "x": -1.0}) @ z, 2 * z[2:5] - z[1])


def test_triple_products_are_the_sum_over_heads():
    z, value, key, query = normal(4, 6, 5), normal(2, 3, 6), normal(2, 4, 6, seed=1), normal(2, 4, 6, seed=2)
    expected = sum((value[h] @ z) @ ((key[h] @ z).mT @ (query[h] @ z)) for h in range(2))
    torch.testing.assert_close(triple_products(z, value, key, query), expected)


def test_a_head_multiplies_three_blocks_in_that_order():
    z = normal(2, LAYOUT.rows, 7)
    head = triple_product_head(LAYOUT, {"out": {"y": 2.0}, "one": {"x": -1.0, "flag": 1.0}}, "y", "out")
    after = LinearAttentionBlock(LAYOUT.rows, [head])(z)
    y, out = LAYOUT.read(z, "y"), LAYOUT.read(z, "out")
    torch.testing.assert_close(LAYOUT.read(after, "out"), out + 2 * y @ y.mT @ out)
    row = LAYOUT.read(z, "flag") - LAYOUT.read(z, "x")
    torch.testing.assert_close(LAYOUT.read(after, "one"), LAYOUT.read(z, "one") + row @ y.mT @ out)
    torch.testing.assert_close(LAYOUT.read(after, "y"), y)


def test_a_block_is_its_dense_weights(monkeypatch):
    heads = [
        triple_product_head(LAYOUT, {"out": {"y": 1.5}}, "y", "out"),
        triple_product_head(LAYOUT, {"x": {"flag": 1.0}}, "x", "one"),
    ]
    units = [gate(LAYOUT, "x", "y", "out", "flag"), clear_rows(LAYOUT, "one")]
    block = LinearAttentionBlock(LAYOUT.rows, heads, units)
    z = normal(2, LAYOUT.rows, 7)
    dense_heads, dense_units = block.dense()
    torch.testing.assert_close(block(z), naive(z, dense_heads, dense_units))
    assert torch.equal(dense_heads[0].value, heads[0].value) and dense_heads[0].key.shape == (3, LAYOUT.rows)
    assert dense_units is not None and torch.equal(dense_units.up, torch.cat([u.up for u in units]))
    assert (block.num_heads, block.relu_width) == (2, 5)
    whole = block(z)
    monkeypatch.setattr("superpose.models.constructed.linear_attention_block.AT_ONCE", 1)
    torch.testing.assert_close(block(z), whole)  # column by column


def test_weights_are_parameters_that_can_be_saved_and_trained():
    block = LinearAttentionBlock(LAYOUT.rows, [triple_product_head(LAYOUT, {"out": {"y": 1.0}}, "x", "x")])
    other = LinearAttentionBlock(LAYOUT.rows, [triple_product_head(LAYOUT, {"out": {"y": 5.0}}, "x", "x")])
    other.load_state_dict(block.state_dict())
    z = normal(LAYOUT.rows, 3)
    torch.testing.assert_close(other(z), block(z))
    block(z).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in block.parameters())


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize(("lo", "hi"), [(-2.0, 3.0), (0.0, 2.0), (-3.0, 0.0), (1.0, 4.0)])
def test_a_function_is_interpolated_and_clamped(lo, hi, clamp):
    knots = even_knots(lo, hi, 9)
    unit = relu_function(LAYOUT, {"x": 1.0}, "one", torch.sin, knots, "flag", scale=2.0, clamp=clamp)
    x = torch.linspace(lo - 1, hi + 1, 41, dtype=torch.float64)
    after = LinearAttentionBlock(LAYOUT.rows, units=[unit])(stream(41, flag=1.0, x=x))
    inside = x.clamp(lo, hi) if clamp else x
    at = torch.searchsorted(knots, inside.contiguous()).clamp(1, 9)
    share = (inside - knots[at - 1]) / (knots[at] - knots[at - 1])
    expected = 2 * (knots[at - 1].sin() + share * (knots[at].sin() - knots[at - 1].sin()))
    torch.testing.assert_close(after[0, LAYOUT["one"]][0], expected)


def test_columns_without_flag_stay_as_they_are():
    unit = relu_function(LAYOUT, {"x": 1.0}, "one", torch.cos, even_knots(-2, 2, 7), "flag")
    product = relu_multiply(LAYOUT, "x", "y", "out", 6, "flag")
    z = stream(flag=0.0, x=0.0)
    assert torch.equal(LinearAttentionBlock(LAYOUT.rows, units=[unit, product])(z), z)


def test_products_get_exact_with_more_pieces():
    x, y = normal(2, 1, 7).tanh() / 4, normal(2, 3, 7, seed=1).tanh()
    errors = []
    for pieces in (20, 80, 320):
        unit = relu_multiply(LAYOUT, "x", "y", "out", pieces, "flag", scale_x=4.0)
        after = LinearAttentionBlock(LAYOUT.rows, units=[unit])(stream(flag=1.0, x=x, y=y))
        errors.append(float((LAYOUT.read(after.detach(), "out") - x * y).abs().max()))
        assert errors[-1] <= (4 / pieces) ** 2 / 64  # two squares, each h^2 / 4 too large, over 4 and over the scale
    assert errors[0] > 8 * errors[1] > 64 * errors[2]


def test_curvature_knots_err_less_than_even_ones():
    f = torch.sigmoid
    x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    errors = []
    for knots in (even_knots(-30, 30, 60), curvature_knots(f, -30, 30, 60)):
        assert len(knots) == 61 and knots[0] == -30 and knots[-1] == 30 and bool((knots.diff() > 0).all())
        unit = relu_function(LAYOUT, {"x": 1.0}, "one", f, knots, "flag")
        after = LinearAttentionBlock(LAYOUT.rows, units=[unit])(stream(len(x), flag=1.0, x=x))
        errors.append(float((after[0, LAYOUT["one"]][0] - f(x)).abs().max()))
    assert errors[1] < errors[0] / 20
    torch.testing.assert_close(root_knots(4.0, 4), torch.tensor([0, 0.25, 1, 2.25, 4], dtype=torch.float64))


def test_gates_and_clearing_are_exact():
    mask = torch.tensor([[1.0, 0, 1, 0, 0, 1, 1]]).double().expand(3, -1)
    x = normal(7).sigmoid()
    after = LinearAttentionBlock(LAYOUT.rows, units=[gate(LAYOUT, "x", "y", "out", "flag")])(
        stream(flag=1.0, x=x, y=mask)
    )
    # Adding and taking away 1 rounds in the last digit.
    torch.testing.assert_close(LAYOUT.read(after, "out")[0], mask * x, rtol=0, atol=3e-16)
    z = 1e3 * normal(2, LAYOUT.rows, 7)
    cleared = LinearAttentionBlock(LAYOUT.rows, units=[clear_rows(LAYOUT, "y", "x")])(z)
    assert torch.equal(cleared[:, LAYOUT["y"]], torch.zeros(2, 3, 7).double())
    assert torch.equal(cleared[:, LAYOUT["out"]], z[:, LAYOUT["out"]])


def test_a_program_repeats_blocks_and_tells_of_itself():
    double = LinearAttentionBlock(LAYOUT.rows, [triple_product_head(LAYOUT, {"y": {"y": 1.0}}, "out", "out")])
    wipe = LinearAttentionBlock(LAYOUT.rows, units=[clear_rows(LAYOUT, "x")])
    # "update" and "pop" are methods of a ModuleDict.
    network = LinearAttentionNetwork(LAYOUT, {"update": double, "pop": wipe}, ("update", "update", "pop"), 2)
    eye = torch.eye(3, 7, dtype=torch.float64)
    z = stream(out=eye, x=5.0, y=eye)
    assert torch.equal(network(z)[:, LAYOUT["y"]], 4 * eye.expand(2, -1, -1))
    told = list(network.trace(z, "y", "x"))
    assert [name for name, _ in told] == ["update", "update", "pop"]
    assert torch.equal(told[0][1]["y"][0], 2 * eye) and float(told[2][1]["x"].abs().max()) == 0
    assert set(next(network.trace(z))[1]) == set(LAYOUT)
    ledger = network.ledger()
    assert (ledger.blocks, ledger.distinct_blocks, ledger.relu_width, ledger.heads) == (3, 2, 2, 1)
    assert ledger.parameters == 81 + 2 * 27 + 2 * 2 * 9
    assert ledger.stored_parameters == sum(p.numel() for p in network.parameters()) < ledger.parameters


BLOCK = LinearAttentionBlock(LAYOUT.rows, units=[clear_rows(LAYOUT, "x")])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: RowLayout(), r"sizes is empty"),
        (lambda: RowLayout(x=0), r"x has 0 rows; allowed: 1 or more"),
        (lambda: LAYOUT["z"], r"row block is 'z'; allowed: flag, x, y, out, one"),
        (lambda: LAYOUT.read(normal(3, 2), "x"), r"z has 3 rows; allowed: 9"),
        (lambda: LAYOUT.combine({}), r"parts is empty"),
        (lambda: RowLayout(a=2, b=3).combine({"a": 1.0, "b": 1.0}), r"block 'a' has 2 rows; allowed: 1 or 3"),
        (lambda: triple_product_head(LAYOUT, {"y": {"x": 1.0}}, "x", "x"), r"\['x'\] have 1 rows for 'y'; allowed: 3"),
        (lambda: triple_product_head(LAYOUT, {"x": {"x": 1.0}}, "x", "y"), r"key 'x' has 1 rows and query 'y' 3"),
        (lambda: LinearAttentionBlock(9), r"heads and units are empty"),
        (lambda: LinearAttentionBlock(4, [Head(normal(4, 4), normal(1, 3), normal(1, 3))]), r"heads\[0\] has shapes"),
        (lambda: LinearAttentionBlock(4, units=[Units(normal(2, 4), normal(2, 4))]), r"units\[0\] has shapes"),
        (lambda: BLOCK(normal(3, 2)), r"z has 3 rows; allowed: 9"),
        (lambda: LinearAttentionNetwork(LAYOUT, {}, (), 1), r"program is empty"),
        (lambda: LinearAttentionNetwork(LAYOUT, {"a": BLOCK}, ("b",), 1), r"block of the program is 'b'; allowed: a"),
        (lambda: LinearAttentionNetwork(LAYOUT, {"a": BLOCK}, ("a",), 1).block("c"), r"block is 'c'; allowed: a"),
        (lambda: even_knots(1, 1, 3), r"lo is 1 and hi 1; allowed: lo below hi"),
        (lambda: root_knots(1.0, 0), r"pieces is 0; allowed: 1 or more"),
        (lambda: relu_function(LAYOUT, {"x": 1.0}, "y", torch.sin, even_knots(0, 1, 2), "flag"), r"1 rows for 'y'"),
        (
            lambda: relu_function(LAYOUT, {"x": 1.0}, "one", torch.sin, torch.ones(2), "flag"),
            r"two or more that increase",
        ),
        (lambda: relu_function(LAYOUT, {"x": 1.0}, "one", torch.sin, even_knots(0, 1, 2), "y"), r"flag 'y' has 3 rows"),
        (lambda: relu_multiply(LAYOUT, "x", "y", "out", 3, "flag"), r"pieces is 3; allowed: an even number"),
        (lambda: relu_multiply(LAYOUT, "x", "y", "out", 4, "flag", scale_x=0.0), r"scale_x is 0"),
        (lambda: gate(LAYOUT, "x", "x", "out", "flag"), r"have 1 rows for 'out'"),
        (lambda: clear_rows(LAYOUT), r"names is empty"),
    ],
)
def test_wrong_input_is_named(call, match):
    with pytest.raises(InputError, match=match):
        call()
