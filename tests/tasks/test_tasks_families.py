"""What each family promises beyond the contract."""

import dataclasses
import math

import pytest
import torch

from superpose.errors import InputError
from superpose.tasks import TASKS, clean_least_squares, task
from superpose.theory import least_squares, parity_prior_accuracy


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def near(value, expected, tol):
    assert float(value) == pytest.approx(expected, abs=tol)


@pytest.mark.parametrize("name", ["linear", "sparse-linear", "quadratic", "relu-2nn", "decision-tree", "cot-io"])
def test_labels_have_the_variance_the_error_is_divided_by(name):
    each = task(name, points=4)
    y = each.sample(20_000, gen()).info["y"]
    near(y.mean(), 0, 0.05 * each.scale**0.5)
    near(y.square().mean() / each.scale, 1, 0.08)


@pytest.mark.parametrize("name", ["linear", "relu-2nn", "decision-tree", "sparse-parity", "logistic"])
def test_prompts_interleave_inputs_and_padded_labels(name):
    batch = task(name).sample(5, gen())
    assert torch.equal(batch.inputs[:, ::2], batch.info["x"])
    assert torch.equal(batch.inputs[:, 1::2, 0], batch.info["y"]) and (batch.inputs[:, 1::2, 1:] == 0).all()
    assert torch.equal(batch.targets[..., 0], batch.info["y"]) and (batch.reads % 2 == 0).all()


def test_linear_is_linear_and_keeps_its_weights_under_a_curriculum():
    batch = task("linear", dim=6).sample(50, gen(), dims=2)
    torch.testing.assert_close(torch.einsum("bpd,bd->bp", batch.info["x"], batch.info["w"]), batch.info["y"])
    assert (batch.info["w"] != 0).all() and (batch.info["x"][..., 2:] == 0).all()
    torch.testing.assert_close(least_squares(batch.info["x"], batch.info["y"])[:, :2], batch.info["w"][:, :2])


def test_noise_is_where_it_should_be():
    batch = task("noisy-linear", noise=0.5).sample(2000, gen())
    rest = batch.info["y"] - torch.einsum("bpd,bd->bp", batch.info["x"], batch.info["w"])
    near(rest.std(), 0.5, 0.01)
    optimum = task("noisy-linear", noise=0.5).optimum(batch)
    assert optimum[:, -1].mean() > 0.25 / 4


def test_sparse_support_follows_the_switch():
    for support, highest in (("active", 2), ("all", 5)):
        each = task("sparse-linear", dim=6, sparsity=2, support=support)
        w = each.sample(400, gen(), dims=3).info["w"]
        assert ((w != 0).sum(1) == 2).all() and int((w != 0).nonzero()[:, 1].max()) == highest
    with pytest.raises(InputError, match="sparsity is 5"):
        task("sparse-linear", dim=4, sparsity=5)
    with pytest.raises(InputError, match="dims is 1"):
        task("sparse-linear", sparsity=2).sample(2, gen(), dims=1)
    with pytest.raises(InputError, match="support"):
        task("sparse-linear", support="some")
    assert task("sparse-linear", dim=40, sparsity=3).optimum(task("sparse-linear", dim=40).sample(2, gen())) is None


def test_decision_tree_follows_its_nodes():
    each = task("decision-tree", depth=3, dim=5)
    batch = each.sample(20, gen())
    for prompt in range(20):
        for x, y in zip(batch.info["x"][prompt], batch.info["y"][prompt], strict=True):
            at = 0
            for _ in range(3):
                at = 2 * at + 1 + int(x[batch.info["nodes"][prompt, at]] > 0)
            assert y == batch.info["leaves"][prompt, at - 7]
    assert (dataclasses.replace(each, truncate=False).sample(4, gen(), dims=1).info["x"][..., 1:] != 0).all()


def test_logistic_labels_follow_their_probabilities():
    batch = task("logistic", dim=2, points=50).sample(2000, gen())
    margin = torch.einsum("bpd,bd->bp", batch.info["x"], batch.info["w"])
    near(((batch.info["y"] + 1) / 2 - margin.sigmoid()).mean(), 0, 0.005)
    near(((batch.info["y"] + 1) / 2)[(margin > 1) & (margin < 1.2)].mean(), 0.75, 0.02)
    batch = task("logistic", labels_from="sign").sample(50, gen())
    margin = torch.einsum("bpd,bd->bp", batch.info["x"], batch.info["w"])
    assert torch.equal(margin.sign(), batch.info["y"])


def test_parity_is_a_product_and_its_chance_is_the_prior():
    each = task("sparse-parity", dim=6, k=3)
    batch = each.sample(300, gen())
    for prompt in range(20):
        product = batch.info["x"][prompt][:, batch.info["subset"][prompt]].prod(-1)
        assert torch.equal(product, batch.info["y"][prompt])
    assert batch.info["subset"].sort(1).values.unique(dim=0).shape[0] == math.comb(6, 3)
    shared = dataclasses.replace(each, shared_per_batch=True).sample(300, gen())
    assert shared.info["subset"].unique(dim=0).shape[0] == 1
    assert each.chance == 1 - parity_prior_accuracy(6, 3)
    small = task("sparse-parity")
    curve = small.optimum(small.sample(4000, gen())).mean(0)
    assert small.chance == 0.375
    near(curve[0], 0.375, 0.03)
    near(curve[8], 0.0, 0.02)
    with pytest.raises(InputError, match="k is 5"):
        task("sparse-parity", k=5)


def test_outliers_are_marked_replaced_and_not_scored():
    each = task("many-outlier", probability=0.9)
    batch = each.sample(500, gen())
    outlier = batch.info["outlier"]
    near(outlier.float().mean(), 0.9, 0.01)
    assert torch.equal(batch.weight == 0, outlier)
    assert (batch.inputs[:, ::2][outlier] == 1).all() and (batch.inputs[:, 1::2][outlier] == 1).all()
    clean = torch.einsum("bpd,bd->bp", batch.inputs[:, ::2], batch.info["w"])
    torch.testing.assert_close(clean[~outlier], batch.targets[..., 0][~outlier])
    torch.testing.assert_close(batch.inputs[:, 1::2, 0][~outlier], batch.targets[..., 0][~outlier])
    torch.testing.assert_close(each.excess(clean_least_squares(batch), batch), each.optimum(batch))
    ones = task("many-outlier", probability=1.0)
    batch = ones.sample(2, gen())
    assert float(ones.loss(torch.ones_like(batch.targets), batch)) == 0


def test_orthogonal_outliers_are_orthogonal_long_and_informative():
    each = task("orthogonal-outlier", dim=8)
    batch = each.sample(500, gen(), dims=6)
    outlier, w = batch.info["outlier"], batch.info["w"]
    for tokens in (batch.inputs[:, ::2], batch.inputs[:, 1::2]):
        dot = torch.einsum("bpd,bd->bp", tokens, w)[outlier]
        near(dot.abs().max(), 0, 1e-4)
        torch.testing.assert_close(tokens[outlier].norm(dim=1), torch.full_like(dot, 6**0.5))
        assert (tokens[..., 6:] == 0).all()
        stacked = torch.linalg.matrix_rank(tokens[0][outlier[0]].double(), rtol=1e-5)
        assert stacked == 2
    batch = each.sample(500, gen())
    told = each.excess(clean_least_squares(batch), batch)
    assert each.mean(each.optimum(batch), batch) < 0.95 * each.mean(told, batch)
    official = dataclasses.replace(each, official=True)
    batch = official.sample(500, gen())
    outlier = batch.info["outlier"]
    dot = torch.einsum("bpd,bd->bp", batch.inputs[:, ::2], batch.info["w"])[outlier]
    assert dot.abs().mean() > 0.5 and official.optimum(batch) is None
    assert batch.inputs[0, ::2][outlier[0]].unique(dim=0).shape[0] == 1
    with pytest.raises(InputError, match="dim is 2"):
        task("orthogonal-outlier", dim=2)


def test_retrieval_is_solved_by_the_nearest_key():
    for each in (task("vector-retrieval"), task("vector-mqar"), task("vector-mqar", queries=3)):
        batch = each.sample(64, gen())
        keys, values = batch.inputs[:, : 2 * each.points : 2], batch.inputs[:, 1 : 2 * each.points : 2]
        torch.testing.assert_close(batch.inputs.norm(dim=-1), torch.full(batch.inputs.shape[:2], 4.0))
        found = torch.cdist(batch.inputs[:, 2 * each.points :], keys)
        assert (found.min(-1).values < 1e-2).all()
        answer = values.gather(1, found.argmin(-1, keepdim=True).expand(-1, -1, each.dim))
        assert torch.equal(answer, batch.targets)
        assert (each.match_accuracy(answer + 0.1, batch) == 1).all()
        assert all(len(row.unique()) == len(row) for row in batch.info["slot"])
    blind = torch.randn(64, 3, 16, generator=gen(1))
    near(each.match_accuracy(blind, batch).mean(), 1 / 8, 0.08)


def test_official_retrieval_sometimes_asks_for_a_key_that_is_not_there():
    each = task("vector-retrieval", official=True, points=4)
    batch = each.sample(4000, gen())
    missing = torch.cdist(batch.inputs[:, -1:], batch.inputs[:, :-1:2]).min(-1).values > 1e-2
    near(missing.float().mean(), 1 / 5, 0.03)
    with pytest.raises(InputError, match="queries is 2"):
        task("vector-retrieval", queries=2)
    with pytest.raises(InputError, match="queries is 9"):
        task("vector-mqar", queries=9)


def test_chain_shows_steps_and_asks_for_them():
    each = task("cot-io", dim=3, hidden=5, layers=3)
    batch = each.sample(4000, gen())
    assert each.length == 40 and batch.reads[:6].tolist() == [0, 1, 2, 4, 5, 6]
    for read in (0, 1):
        assert torch.equal(batch.targets[:, read], batch.inputs[:, read + 1])
        near(batch.targets[:, read].square().sum(-1).mean() / 3, 1, 0.1)
    assert torch.equal(batch.targets[:, 2, :1], batch.inputs[:, 3, :1]) and (batch.targets[:, 2, 1:] == 0).all()
    spoiled = batch.targets.clone()
    spoiled[:, 2, 1:] = 7
    assert (each.error(spoiled, batch) == 0).all()
    lengths = batch.inputs.norm(dim=-1, keepdim=True)[:, :2]
    best = lengths * math.sqrt(2 / 5) / math.sqrt(2 * math.pi)
    near(
        each.error(torch.cat([best.expand(-1, -1, 5), batch.targets[:, 2:]], dim=1), batch)[:, :2].mean(),
        1 - 1 / math.pi,
        0.03,
    )
    for form, length in (("icl", 20), ("cot-i", 40)):
        other = task("cot-io", dim=3, hidden=5, layers=3, form=form)
        drawn = other.sample(6, gen())
        assert other.length == length and drawn.targets.shape == (6, 10, 1)
        assert torch.equal(drawn.targets[..., 0], drawn.info["y"])
        assert torch.equal(drawn.inputs[:, drawn.reads, :3], drawn.info["x"])


def test_copying_and_recall_are_what_they_say():
    batch = task("copying", points=5).sample(9, gen())
    assert torch.equal(batch.inputs[:, :5], batch.targets) and (batch.inputs[:, 5] == 16).all()
    assert torch.equal(batch.inputs[:, 6:], batch.targets[:, :-1]) and batch.reads.tolist() == [5, 6, 7, 8, 9]
    for config in ({}, {"hops": 3}, {"query": "fixed", "queries": 1, "hops": 2}):
        each = task("associative-recall", **config)
        batch = each.sample(40, gen())
        for row, answers in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            look = dict(zip(row[:16:2], row[1:16:2], strict=True))
            assert len(look) == 8
            for query, answer in zip(row[16:], answers, strict=True):
                for _ in range(each.hops):
                    query = look[query]
                assert query == answer
            assert len(set(row[16:])) == len(row[16:]) and (each.query == "random" or row[16:] == [0])
    with pytest.raises(InputError, match="queries is 2"):
        task("associative-recall", query="fixed", queries=2)
    with pytest.raises(InputError, match="points is 33"):
        task("associative-recall", points=33)


def test_task_groups_draw_from_their_prior_and_know_their_optimum():
    each = task("task-groups", sigma_mu=0.5, sigma_w=0.3, sigma_x=2.0)
    batch = each.sample(20_000, gen())
    group, prior = batch.info["group"], each.mixture
    near(((batch.info["mu"] - prior.mu[group].float()).std()), 0.5, 0.01)
    near(((batch.info["w"] - prior.w[group].float()).std()), 0.3, 0.01)
    near((batch.info["x"] - batch.info["mu"].unsqueeze(1)).std(), 2.0, 0.01)
    rest = batch.info["y"] - torch.einsum("bpd,bd->bp", batch.info["x"], batch.info["w"])
    near(rest.std(), 1.0, 0.01)
    optimum = each.optimum(batch).mean(0)
    assert optimum[0] > optimum[4] > optimum[15] > 1
    near(optimum[0], each.chance, 0.1)
    star = prior.mu[:1].float().expand(50, -1)
    clean = each.sample_at(star, star, gen(), points=40)
    torch.testing.assert_close(torch.einsum("bpd,bd->bp", clean.info["x"], star), clean.targets[..., 0])
    with pytest.raises(InputError, match="dim is 4"):
        task("task-groups", dim=4)
    assert task("task-groups", prior="axis", dim=4).sample(3, gen()).inputs.shape == (3, 32, 4)
    assert task("task-groups", prior="early-ascent", dim=2).mixture.groups == 3


@pytest.mark.parametrize("name", ["retrieve-letters", "plus-constant"])
def test_lines_hold_one_task_and_hints_tell_it(name):
    each = task(name, hint=0.5, points=6)
    batch = each.sample(400, gen())
    near(batch.info["hinted"].float().mean(), 0.5, 0.1)
    assert (batch.info["tasks"] == batch.info["tasks"][:, :1]).all()
    told = torch.where(batch.info["hinted"], each.null + 1 + batch.info["tasks"][:, 0], each.null)
    assert torch.equal(batch.inputs[:, 0], told)
    right = batch.info["answers"].gather(2, batch.info["tasks"].unsqueeze(-1)).squeeze(-1)
    assert torch.equal(batch.targets[:, ::2], right) and (batch.targets[:, 1::2] == each.newline).all()
    assert torch.equal(batch.inputs[:, batch.reads + 1], batch.targets)
    assert (batch.inputs[:, batch.reads[::2]] == each.separator).all()
    assert all(len(row.unique()) == each.tasks for row in batch.info["answers"].flatten(0, 1)[:50])
    quiet, bare = dataclasses.replace(each, hint=0.0), dataclasses.replace(each, hint=None)
    assert quiet.vocab == each.vocab and (quiet.sample(20, gen()).inputs[:, 0] == each.null).all()
    assert (each.lead, bare.lead) == (1, 0)
    assert bare.length == each.length - 1 and bare.vocab == each.vocab - 1 - each.tasks


def test_lines_as_text():
    each = task("retrieve-letters", points=3, hint=1.0)
    batch = each.sample(20, gen())
    for ids, tasks in zip(batch.inputs, batch.info["tasks"][:, 0].tolist(), strict=True):
        text = each.text(ids)
        assert text.startswith(f"[{tasks}]") and text.endswith("\n")
        for line in text[3:].splitlines():
            operand, answer = line.split(">")
            assert answer == operand[tasks] and len(set(operand)) == 4
    each = task("plus-constant", points=3, hint=None)
    batch = each.sample(20, gen())
    for ids, c in zip(batch.inputs, batch.info["tasks"][:, 0].tolist(), strict=True):
        assert all((int(x) + c) % 10 == int(y) for x, y in (row.split(">") for row in each.text(ids).splitlines()))


def test_frequencies_and_mixtures():
    each = task("retrieve-letters", points=21, frequencies=(0.7, 0.1, 0.1, 0.1))
    drawn = each.sample(4000, gen()).info["tasks"][:, 0]
    near((drawn == 0).float().mean(), 0.7, 0.03)
    assert each.chance == pytest.approx(0.15)
    batch = each.mixture(2000, gen(), (0.25, 0.0, 0.75, 0.0))
    near((batch.info["tasks"] == 0).float().mean(), 0.25, 0.01)
    assert (batch.info["tasks"] == 0).sum(1).unique().numel() > 5
    assert (batch.inputs[:, 0] == each.null).all() and each.optimum(batch) is None
    exact = each.mixture(50, gen(), (0.33, 0.0, 0.67, 0.0), exact=True).info["tasks"][:, :-1]
    assert ((exact == 0).sum(1) == 7).all() and ((exact == 2).sum(1) == 13).all()
    assert exact.unique(dim=0).shape[0] > 40
    for wrong in ((0.5, 0.5), (0.5, 0.4, 0.0, 0.0), (1.5, -0.5, 0.0, 0.0)):
        with pytest.raises(InputError, match="proportions"):
            each.mixture(2, gen(), wrong)
    with pytest.raises(InputError, match="frequencies"):
        task("plus-constant", frequencies=(1.0,))
    with pytest.raises(InputError, match="hint is 2"):
        task("plus-constant", hint=2)
    with pytest.raises(InputError, match="letters is 30"):
        task("retrieve-letters", letters=30)


def test_a_registered_name_cannot_be_taken():
    from superpose.tasks import LinearRegression, register_task

    @dataclasses.dataclass(frozen=True)
    class Other(LinearRegression):
        pass

    with pytest.raises(InputError, match="linear"):
        register_task(Other)
    assert TASKS["linear"] is LinearRegression
