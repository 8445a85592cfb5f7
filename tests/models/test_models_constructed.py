import math

import pytest
import torch

from superpose.errors import InputError
from superpose.models import SuperpositionTransformer, SymbolTask, mixture_distribution, sample_mixture

torch.set_num_threads(1)


def distinct_tasks(k: int, operands: int, symbols: int, generator: torch.Generator) -> list[SymbolTask]:
    """K different tasks: retrievals first, then random tables (any map, not only permutations)."""
    tasks = [SymbolTask.retrieve(slot, symbols) for slot in range(min(k, operands) - 1)]
    while len(tasks) < k:
        table = torch.randint(symbols, (symbols,), generator=generator).tolist()
        tasks.append(SymbolTask(int(torch.randint(operands, (1,), generator=generator)), tuple(table)))
    return tasks


def uneven_counts(k: int, m: int, generator: torch.Generator) -> list[int]:
    return torch.bincount(torch.randint(k, (m,), generator=generator), minlength=k).tolist()


def by_hand(tasks, operands, labels, query):
    """The mixture distribution in plain Python: an independent reference for one prompt."""
    result = [0.0] * len(tasks[0].table)
    for row, label in zip(operands.tolist(), labels.tolist(), strict=True):
        explaining = [task for task in tasks if task.table[row[task.slot]] == label]
        for task in explaining:
            result[task.table[query.tolist()[task.slot]]] += 1 / len(explaining) / len(labels)
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("m", [8, 24, 64])
@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("d", [6, 12, 32])
def test_output_is_the_mixture_distribution(d, k, m):
    q = {8: 3, 24: 5, 64: 8}[m]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tasks = distinct_tasks(k, q, d, generator)
        sample = sample_mixture(tasks, uneven_counts(k, m, generator), q, generator, batch=2)
        expected = torch.stack(
            [by_hand(tasks, *row) for row in zip(sample.operands, sample.labels, sample.query, strict=True)]
        )
        net = SuperpositionTransformer.build(tasks, m, q, d)
        for model, tolerance in ((net, 1e-6), (net.to(torch.float32), 1e-4)):
            output = model(sample.operands, sample.labels, sample.query)
            assert (output - expected).abs().max() <= tolerance


def test_closed_form_equals_counting_by_hand():
    generator = torch.Generator().manual_seed(0)
    tasks = distinct_tasks(4, 3, 6, generator)
    sample = sample_mixture(tasks, [3, 0, 4, 2], 3, generator, batch=5, ambiguous="keep")
    closed = mixture_distribution(tasks, sample.operands, sample.labels, sample.query)
    for row in range(5):
        expected = by_hand(tasks, sample.operands[row], sample.labels[row], sample.query[row])
        torch.testing.assert_close(closed[row], expected)


@pytest.mark.parametrize(("k", "m"), [(2, 24), (4, 8), (3, 5)])
def test_ambiguous_demonstrations_are_shared(k, m):
    generator = torch.Generator().manual_seed(1)
    tasks = distinct_tasks(k, 4, 5, generator)
    counts = uneven_counts(k, m, generator)
    sample = sample_mixture(tasks, counts, 4, generator, batch=6, ambiguous="keep")
    explained = torch.stack([sample.labels == t.apply(sample.operands) for t in tasks]).sum(0)
    assert (explained > 1).any(), "the draw has no ambiguous demonstration, so it tests nothing"
    net = SuperpositionTransformer.build(tasks, m, 4, 5, ambiguous="share")
    output = net(sample.operands, sample.labels, sample.query)
    expected = mixture_distribution(tasks, sample.operands, sample.labels, sample.query)
    assert (output - expected).abs().max() <= 1e-6
    strict = SuperpositionTransformer.build(tasks, m, 4, 5)
    with pytest.raises(InputError, match=r"explained by [2-9] of the tasks"):
        strict(sample.operands, sample.labels, sample.query)


def test_sizes_are_those_of_the_theorem():
    for d, q, k, m in [(6, 3, 2, 8), (12, 5, 4, 24), (32, 8, 8, 64), (5, 1, 1, 1)]:
        tasks = distinct_tasks(k, q, d, torch.Generator().manual_seed(0))
        net = SuperpositionTransformer.build(tasks, m, q, d)
        assert net.width == 2 * d + 3 * k + math.ceil(math.log2(q + 2)) + math.ceil(math.log2(m + 2)) + 5
        assert net.num_layers == 3
        assert net.heads_per_layer == (k, 1, k)
        sample = sample_mixture(tasks, [m] + [0] * (k - 1), q, torch.Generator().manual_seed(0), batch=2)
        embedded = net.embed(sample.operands, sample.labels, sample.query)
        assert embedded.shape == (2, 1 + m * (q + 2) + q + 1, net.width)


def test_order_of_demonstrations_does_not_matter():
    generator = torch.Generator().manual_seed(3)
    tasks = distinct_tasks(4, 5, 12, generator)
    sample = sample_mixture(tasks, [10, 7, 5, 2], 5, generator, batch=3)
    net = SuperpositionTransformer.build(tasks, 24, 5, 12)
    output = net(sample.operands, sample.labels, sample.query)
    for _ in range(3):
        order = torch.randperm(24, generator=generator)
        permuted = net(sample.operands[:, order], sample.labels[:, order], sample.query)
        assert (permuted - output).abs().max() <= 1e-9


def test_one_task_gives_its_answer():
    generator = torch.Generator().manual_seed(4)
    several = distinct_tasks(4, 3, 6, generator)
    for tasks, counts in (([several[2]], [8]), (several, [0, 8, 0, 0])):
        sample = sample_mixture(tasks, counts, 3, generator, batch=5)
        net = SuperpositionTransformer.build(tasks, 8, 3, 6)
        answer = tasks[counts.index(8)].apply(sample.query)
        expected = torch.nn.functional.one_hot(answer, 6).double()
        assert (net(sample.operands, sample.labels, sample.query) - expected).abs().max() <= 1e-9


def test_attention_is_causal():
    generator = torch.Generator().manual_seed(5)
    tasks = distinct_tasks(2, 3, 6, generator)
    sample = sample_mixture(tasks, [4, 4], 3, generator)
    net = SuperpositionTransformer.build(tasks, 8, 3, 6)
    whole = net.embed(sample.operands, sample.labels, sample.query)
    for block in net.layers:
        torch.testing.assert_close(block(whole)[:, :17], block(whole[:, :17]), atol=1e-12, rtol=0)
        whole = block(whole)


def test_sample_has_the_counts_and_is_explained_by_its_own_tasks_only():
    tasks = distinct_tasks(3, 4, 6, torch.Generator().manual_seed(0))
    sample = sample_mixture(tasks, [5, 0, 3], 4, torch.Generator().manual_seed(6), batch=4)
    for row in range(4):
        assert torch.bincount(sample.assignment[row], minlength=3).tolist() == [5, 0, 3]
    explained = torch.stack([sample.labels == task.apply(sample.operands) for task in tasks], dim=-1)
    assert (explained.sum(-1) == 1).all()
    assert torch.equal(explained.int().argmax(-1), sample.assignment)
    again = sample_mixture(tasks, [5, 0, 3], 4, torch.Generator().manual_seed(6), batch=4)
    assert all(torch.equal(a, b) for a, b in zip(sample, again, strict=True))
    assert not torch.equal(sample.assignment[0], sample.assignment[1])


def test_tasks():
    operands = torch.tensor([[0, 3, 5]])
    assert SymbolTask.retrieve(1, 6).apply(operands).tolist() == [3]
    assert SymbolTask.shift(2, 4, 6).apply(operands).tolist() == [3]
    assert SymbolTask.shift(0, -1, 6).apply(operands).tolist() == [5]
    matrix = torch.zeros(6, 6)
    matrix[[1, 2, 3, 4, 5, 0], range(6)] = 1
    assert SymbolTask.from_matrix(2, matrix) == SymbolTask.shift(2, 1, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymbolTask(-1, (0, 1)), "slot is -1"),
        (lambda: SymbolTask(0, ()), "table is empty"),
        (lambda: SymbolTask(0, (0, 2)), "table has 2"),
        (lambda: SymbolTask.from_matrix(0, torch.zeros(2, 3)), r"shape \(2, 3\)"),
        (lambda: SymbolTask.from_matrix(0, torch.full((2, 2), 0.5)), "one-hot"),
        (lambda: SymbolTask.from_matrix(0, torch.tensor([[1.0, 0], [1, 0]])), "one-hot"),
        (lambda: SuperpositionTransformer.build([], 4, 3, 6), "tasks is empty"),
        (lambda: SuperpositionTransformer.build([SymbolTask.retrieve(3, 6)], 4, 3, 6), "slot 3; there are 3 operands"),
        (lambda: SuperpositionTransformer.build([SymbolTask.retrieve(0, 5)], 4, 3, 6), "5 symbols; symbols is 6"),
        (
            lambda: SuperpositionTransformer.build([SymbolTask.retrieve(0, 5), SymbolTask.retrieve(0, 6)], 4, 3, 5),
            "6 symbols and tasks\\[0\\] of 5",
        ),
        (lambda: SuperpositionTransformer.build([SymbolTask.retrieve(0, 6)], 0, 3, 6), "demonstrations is 0"),
        (lambda: SuperpositionTransformer.build([SymbolTask.retrieve(0, 6)], 4, 0, 6), "operands is 0"),
        (
            lambda: SuperpositionTransformer.build([SymbolTask.retrieve(0, 6)], 4, 3, 6, dtype=torch.float16),
            "dtype is torch.float16",
        ),
        (
            lambda: SuperpositionTransformer.build(
                [SymbolTask.retrieve(slot, 6) for slot in range(8)], 64, 8, 6, ambiguous="share"
            ),
            "430080 hidden units",
        ),
        (
            lambda: sample_mixture([SymbolTask.retrieve(0, 6)], [2, 3], 3, torch.Generator()),
            r"counts is \(2, 3\)",
        ),
        (lambda: sample_mixture([SymbolTask.retrieve(0, 6)], [0], 3, torch.Generator()), "sum >= 1"),
        (
            lambda: sample_mixture([SymbolTask.retrieve(0, 6)] * 2, [1, 1], 3, torch.Generator()),
            "same answers as other tasks",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_wrong_prompts_are_refused():
    net = SuperpositionTransformer.build([SymbolTask.retrieve(0, 6)], 4, 3, 6)
    operands, labels, query = (torch.zeros(shape, dtype=torch.long) for shape in ((2, 4, 3), (2, 4), (2, 3)))
    assert net(operands, labels, query).shape == (2, 6)
    with pytest.raises(InputError, match=r"operands has shape \(2, 3, 3\)"):
        net(operands[:, :3], labels[:, :3], query)
    with pytest.raises(InputError, match="query has symbol 6"):
        net(operands, labels, query + 6)
    with pytest.raises(InputError, match=r"labels\[0, 0\] is explained by 0 of the tasks"):
        net(operands, labels + 1, query)
