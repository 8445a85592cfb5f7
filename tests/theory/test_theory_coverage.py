import networkx as nx
import pytest
import torch

from superpose.errors import InputError
from superpose.theory import count_information, prompt_counts, prompt_coverage


def random_support(seed, tokens=6):
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(3, 60, (1,), generator=generator))
    rows = [
        torch.randint(tokens, (int(torch.randint(1, 5, (1,), generator=generator)),), generator=generator).tolist()
        for _ in range(count)
    ]
    queries = torch.randint(tokens, (count,), generator=generator) if seed % 2 else None
    return prompt_counts(rows, tokens, queries)


@pytest.mark.parametrize("seed", range(20))
def test_components_are_networkxs_and_ranks_those_of_the_hessian(seed):
    counts, last = random_support(seed)
    report = prompt_coverage(counts > 0, last)
    blocks = count_information(torch.randn(6, 6, dtype=torch.float64), counts, last)
    for k in range(6):
        graph = nx.Graph()
        graph.add_nodes_from(range(6))
        for row in counts[last == k]:
            held = row.nonzero().flatten().tolist()
            graph.add_edges_from((i, j) for i in held for j in held if i < j)
        assert {frozenset(c) for c in nx.connected_components(graph)} == {frozenset(c) for c in report.components[k]}
        assert int((torch.linalg.eigvalsh(blocks[k]) > 1e-10).sum()) == report.ranks[k]


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_where_the_query_is_counted_sharing_a_prompt_with_it_is_enough(seed):
    counts, last = random_support(seed)
    report = prompt_coverage(counts > 0, last)
    for k in range(6):
        met = (counts[last == k] > 0).any(0)
        assert (len(report.components[k]) == 1) == bool(met.all())


def test_chains_of_prompts_connect_where_the_query_comes_from_elsewhere():
    present = torch.tensor([[True, True, False], [False, True, True]])
    report = prompt_coverage(present, torch.tensor([0, 0]))
    assert report.components[0] == ((0, 1, 2),) and report.unidentified == (1, 2) and not report.identified
    with pytest.raises(InputError, match=r"after 1: \{1\} \| \{0\} \| \{2\}"):
        report.require()


def test_a_covered_report_demands_nothing():
    report = prompt_coverage(torch.ones(2, 2, dtype=torch.bool), torch.tensor([0, 1]))
    report.require()
    assert report.prompts_to_add() == [] and report.ranks == (1, 1) and report.vocabulary == 2
